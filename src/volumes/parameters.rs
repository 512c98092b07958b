//! The parameters of a StorageClass of ours.

use super::pattern::{PathPattern, PatternError};
use crate::crd::{OnDelete, Reclaim, VolumeType};
use crate::model::{Class, HOSTNAME_LABEL, SHARED_FILE_SYSTEM, SHARED_ON_NODE};

const ADOPT_EXISTING: &str = "adoptExisting";
const ADOPT_CLUSTERS: &str = "adoptClusters";
/// The most earlier clusters that a class names, as the definition of LocalVolume has it.
const MOST_CLUSTERS: usize = 16;

/// What a class asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassParameters {
    /// The pool; the one with the name of the class unless given.
    pub pool: String,
    /// Source of the volumes.
    pub volume_type: VolumeType,
    /// The `type` of hostPath volumes: what the kubelet checks before it mounts one.
    pub host_path_type: HostPathType,
    /// Where in the base the directories go.
    pub pattern: PathPattern,
    /// Only this path of the pool.
    pub node_path: Option<String>,
    /// Mode of the directories, in octal digits.
    pub mode: Option<String>,
    /// Owner of the directories.
    pub uid: Option<i64>,
    /// Group of the directories.
    pub gid: Option<i64>,
    /// The label that ties a volume to its node.
    pub affinity_key: String,
    /// What becomes of a directory when its volume is deleted.
    pub on_delete: OnDelete,
    /// A claim takes back what an earlier one of its namespace and name has left; these earlier clusters count too.
    pub adopt_existing: Option<Vec<String>>,
    /// Claims that ask for `ReadWriteMany` or `ReadOnlyMany` get them: from Pods of the one node that has the volume.
    pub shared_on_node: bool,
    /// The pool's path is the same directory on every node: its volumes are reached from each, and one node makes them.
    pub shared_file_system: bool,
    /// Reclaim policy of the volumes.
    pub reclaim: Reclaim,
    /// Mount options of the volumes.
    pub mount_options: Vec<String>,
}

/// What the kubelet makes sure of before it mounts a hostPath volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPathType {
    /// The directory is there; should it vanish, an empty one does not take its place unseen.
    #[default]
    Directory,
    /// It is there, or the kubelet makes it. For kubelets with a root of their own, which do not see the directory.
    DirectoryOrCreate,
    /// Nothing.
    Unset,
}

impl HostPathType {
    /// As a volume has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "Directory",
            Self::DirectoryOrCreate => "DirectoryOrCreate",
            Self::Unset => "",
        }
    }
}

/// Why a class cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A key that we do not know.
    #[error(
        "class {class}: unknown parameter `{key}`; there are pool, type, hostPathType, pathPattern, nodePath, mode, uid, gid, nodeAffinityKey, onDelete, adoptExisting, adoptClusters, sharedOnNode and sharedFileSystem"
    )]
    Unknown {
        /// The class.
        class: String,
        /// The key.
        key: String,
    },
    /// A value that does not fit its key.
    #[error("class {class}: parameter `{key}` is `{value}`, and should be {expected}")]
    Value {
        /// The class.
        class: String,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A pattern that cannot be used.
    #[error("class {class}: parameter `pathPattern`: {source}")]
    Pattern {
        /// The class.
        class: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// What is to be taken back must have been left.
    #[error(
        "class {0}: `adoptExisting: same-claim` needs `onDelete: keep-path`, which leaves the directories that it takes back"
    )]
    NothingKept(String),
    /// Clusters of which nothing is taken back.
    #[error("class {0}: `adoptClusters` needs `adoptExisting: same-claim`")]
    NothingAdopted(String),
    /// A volume that every node reaches is tied to none.
    #[error(
        "class {0} has a `sharedFileSystem`: its volumes are hostPath volumes that every node reaches, so remove `type: local` and          `nodeAffinityKey`"
    )]
    TiedToNode(String),
    /// Options that the source ignores or refuses.
    #[error("class {0} has mountOptions, which hostPath volumes cannot have: use `type: local`, or remove them")]
    MountOptions(String),
}

impl ClassParameters {
    /// Reads the parameters of a class.
    ///
    /// # Errors
    /// When a key is unknown or a value does not fit. A typing error must not become a default.
    pub fn of(class: &Class) -> Result<Self, ParameterError> {
        let mut read = Self {
            pool: class.name().to_owned(),
            volume_type: VolumeType::Local,
            host_path_type: HostPathType::default(),
            pattern: PathPattern::default(),
            node_path: None,
            mode: None,
            uid: None,
            gid: None,
            affinity_key: HOSTNAME_LABEL.to_owned(),
            on_delete: OnDelete::Delete,
            adopt_existing: None,
            shared_on_node: false,
            shared_file_system: false,
            reclaim: if class.reclaim_policy.as_deref() == Some("Retain") { Reclaim::Retain } else { Reclaim::Delete },
            mount_options: class.mount_options.clone(),
        };
        for (key, value) in &class.parameters {
            read.set(class.name(), key, value)?;
        }
        read.adopts(class)?;
        read.is_reached_from_everywhere(class)?;
        if read.volume_type == VolumeType::HostPath && !read.mount_options.is_empty() {
            return Err(ParameterError::MountOptions(class.name().to_owned()));
        }
        Ok(read)
    }

    /// What a shared file system asks of the other keys. The API server takes no `local` volume without a node affinity.
    fn is_reached_from_everywhere(&mut self, class: &Class) -> Result<(), ParameterError> {
        if !self.shared_file_system {
            return Ok(());
        }
        let given = |key: &str| class.parameters.get(key).map(String::as_str);
        if given("type") == Some("local") || given("nodeAffinityKey").is_some() {
            return Err(ParameterError::TiedToNode(class.name().to_owned()));
        }
        self.volume_type = VolumeType::HostPath;
        Ok(())
    }

    /// True where claims that ask for access by many get it: from Pods of one node, or of all.
    #[must_use]
    pub const fn serves_many(&self) -> bool {
        self.shared_on_node || self.shared_file_system
    }

    /// Reads what is taken back, which takes several keys.
    fn adopts(&mut self, class: &Class) -> Result<(), ParameterError> {
        let clusters = class.parameters.get(ADOPT_CLUSTERS).map(String::as_str).unwrap_or_default();
        let wrong = |key: &str, value: &str, expected| ParameterError::Value {
            class: class.name().to_owned(),
            key: key.to_owned(),
            value: value.chars().take(64).collect(),
            expected,
        };
        match class.parameters.get(ADOPT_EXISTING).map(String::as_str) {
            Some("same-claim") if self.on_delete != OnDelete::KeepPath => {
                return Err(ParameterError::NothingKept(class.name().to_owned()));
            }
            Some("same-claim") => {}
            None | Some("none") if clusters.is_empty() => return Ok(()),
            None | Some("none") => return Err(ParameterError::NothingAdopted(class.name().to_owned())),
            Some(other) => return Err(wrong(ADOPT_EXISTING, other, "`same-claim` or `none`")),
        }
        let named: Vec<String> =
            clusters.split(',').map(|uid| uid.trim().to_owned()).filter(|uid| !uid.is_empty()).collect();
        let is_uid =
            |uid: &String| uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if named.len() > MOST_CLUSTERS || !named.iter().all(is_uid) {
            return Err(wrong(
                ADOPT_CLUSTERS,
                clusters,
                "at most 16 UIDs of the namespaces kube-system of earlier clusters, with commas between them",
            ));
        }
        self.adopt_existing = Some(named);
        Ok(())
    }

    fn set(&mut self, class: &str, key: &str, value: &str) -> Result<(), ParameterError> {
        let wrong = |expected| ParameterError::Value {
            class: class.to_owned(),
            key: key.to_owned(),
            value: value.chars().take(64).collect(),
            expected,
        };
        match key {
            "pool" if value.is_empty() => return Err(wrong("the name of a LocalPool")),
            "pool" => value.clone_into(&mut self.pool),
            "type" if value.eq_ignore_ascii_case("local") => self.volume_type = VolumeType::Local,
            "type" if value.eq_ignore_ascii_case("hostPath") => self.volume_type = VolumeType::HostPath,
            "type" => return Err(wrong("`local` or `hostPath`")),
            "hostPathType" => {
                let all = [HostPathType::Directory, HostPathType::DirectoryOrCreate, HostPathType::Unset];
                let named = all.into_iter().find(|it| it.as_str() == value);
                self.host_path_type = named.ok_or_else(|| wrong("`Directory`, `DirectoryOrCreate` or empty"))?;
            }
            "pathPattern" => {
                self.pattern = PathPattern::parse(value)
                    .map_err(|source| ParameterError::Pattern { class: class.to_owned(), source })?;
            }
            "nodePath" => {
                crate::crd::checked_base(value).map_err(|_| wrong("a path of the pool"))?;
                self.node_path = Some(value.to_owned());
            }
            "mode" => {
                let octal = (3..=4).contains(&value.len()) && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
                self.mode = Some(octal.then(|| value.to_owned()).ok_or_else(|| wrong("three or four octal digits"))?);
            }
            "uid" => self.uid = Some(number(value).ok_or_else(|| wrong("a number"))?),
            "gid" => self.gid = Some(number(value).ok_or_else(|| wrong("a number"))?),
            "nodeAffinityKey" if value.is_empty() => return Err(wrong("a label key of nodes")),
            "nodeAffinityKey" => value.clone_into(&mut self.affinity_key),
            "onDelete" if value == "delete" => self.on_delete = OnDelete::Delete,
            "onDelete" if value == "archive" => self.on_delete = OnDelete::Archive,
            "onDelete" if value == "keep-path" => self.on_delete = OnDelete::KeepPath,
            "onDelete" => return Err(wrong("`delete`, `archive` or `keep-path`")),
            // Read together, when all others are.
            ADOPT_EXISTING | ADOPT_CLUSTERS => {}
            SHARED_ON_NODE | SHARED_FILE_SYSTEM => {
                let told = value.parse().map_err(|_| wrong("`true` or `false`, in quotes"))?;
                *if key == SHARED_ON_NODE { &mut self.shared_on_node } else { &mut self.shared_file_system } = told;
            }
            _ => return Err(ParameterError::Unknown { class: class.to_owned(), key: key.to_owned() }),
        }
        Ok(())
    }
}

/// A user or group number; the largest one stands for "no change" in system calls.
fn number(text: &str) -> Option<i64> {
    text.parse::<u32>().ok().filter(|number| *number != u32::MAX).map(i64::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(parameters: &serde_json::Value) -> Class {
        serde_json::from_value(json!({ "metadata": { "name": "local" }, "provisioner": "x", "parameters": parameters }))
            .unwrap()
    }

    #[test]
    fn nothing_given_is_a_drop_in() {
        let read = ClassParameters::of(&class(&json!({}))).unwrap();
        assert_eq!((read.pool.as_str(), read.volume_type, read.reclaim), ("local", VolumeType::Local, Reclaim::Delete));
        assert_eq!(read.affinity_key, HOSTNAME_LABEL);
    }

    #[test]
    fn everything_can_be_given() {
        let read = ClassParameters::of(&class(&json!({
            "pool": "p", "type": "hostpath", "pathPattern": "{uid}", "nodePath": "/mnt/a", "mode": "0750", "uid": "0",
            "gid": "4294967294", "nodeAffinityKey": "k", "onDelete": "archive", "sharedOnNode": "true",
        })))
        .unwrap();
        assert_eq!((read.uid, read.gid, read.mode.as_deref()), (Some(0), Some(4_294_967_294), Some("0750")));
        assert_eq!((read.volume_type, read.on_delete), (VolumeType::HostPath, OnDelete::Archive));
        assert!(read.shared_on_node);
    }

    #[test]
    fn what_is_taken_back_must_have_been_left() {
        let read = |parameters| ClassParameters::of(&class(&parameters));
        let all = json!({ "onDelete": "keep-path", "adoptExisting": "same-claim", "adoptClusters": "c-1, c-2" });
        let clusters = vec!["c-1".to_owned(), "c-2".to_owned()];
        assert_eq!(read(all).unwrap().adopt_existing, Some(clusters));
        let own = json!({ "onDelete": "keep-path", "adoptExisting": "same-claim" });
        assert_eq!(read(own).unwrap().adopt_existing, Some(vec![]));
        let kept = read(json!({ "onDelete": "keep-path", "adoptExisting": "none" })).unwrap();
        assert_eq!((kept.on_delete, kept.adopt_existing), (OnDelete::KeepPath, None));
        for wrong in [
            json!({ "adoptExisting": "same-claim" }),
            json!({ "onDelete": "archive", "adoptExisting": "same-claim" }),
            json!({ "onDelete": "keep-path", "adoptClusters": "c-1" }),
            json!({ "onDelete": "keep-path", "adoptExisting": "any" }),
            json!({ "onDelete": "keep-path", "adoptExisting": "same-claim", "adoptClusters": "../x" }),
        ] {
            let error = read(wrong.clone()).unwrap_err().to_string();
            assert!(error.contains("adopt") && error.contains("local"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_typing_error_is_an_error() {
        for (key, value) in [
            ("Pool", "x"),
            ("pool", ""),
            ("type", "nfs"),
            ("hostPathType", "File"),
            ("pathPattern", "x"),
            ("nodePath", "x"),
            ("mode", "0999"),
            ("mode", "77777"),
            ("uid", "-1"),
            ("gid", "4294967295"),
            ("nodeAffinityKey", ""),
            ("onDelete", "keep"),
            ("sharedOnNode", "yes"),
        ] {
            let error = ClassParameters::of(&class(&json!({ key: value }))).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("local"), "{error}");
        }
        let mut with_options = class(&json!({ "type": "hostPath" }));
        with_options.mount_options = vec!["ro".to_owned()];
        assert!(ClassParameters::of(&with_options).is_err());
    }
}
