//! The parameters of a StorageClass of ours.

use super::pattern::{PathPattern, PatternError};
use crate::crd::{OnDelete, Reclaim, VolumeType};
use crate::model::{Class, HOSTNAME_LABEL};

/// What a class asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassParameters {
    /// The pool; the one with the name of the class unless given.
    pub pool: String,
    /// Source of the volumes.
    pub volume_type: VolumeType,
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
    /// Reclaim policy of the volumes.
    pub reclaim: Reclaim,
    /// Mount options of the volumes.
    pub mount_options: Vec<String>,
}

/// Why a class cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// A key that we do not know.
    #[error(
        "class {class}: unknown parameter `{key}`; there are pool, type, pathPattern, nodePath, mode, uid, gid, nodeAffinityKey and onDelete"
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
            pattern: PathPattern::default(),
            node_path: None,
            mode: None,
            uid: None,
            gid: None,
            affinity_key: HOSTNAME_LABEL.to_owned(),
            on_delete: OnDelete::Delete,
            reclaim: if class.reclaim_policy.as_deref() == Some("Retain") { Reclaim::Retain } else { Reclaim::Delete },
            mount_options: class.mount_options.clone(),
        };
        for (key, value) in &class.parameters {
            read.set(class.name(), key, value)?;
        }
        if read.volume_type == VolumeType::HostPath && !read.mount_options.is_empty() {
            return Err(ParameterError::MountOptions(class.name().to_owned()));
        }
        Ok(read)
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
            "onDelete" => return Err(wrong("`delete` or `archive`")),
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
            "gid": "4294967294", "nodeAffinityKey": "k", "onDelete": "archive",
        })))
        .unwrap();
        assert_eq!((read.uid, read.gid, read.mode.as_deref()), (Some(0), Some(4_294_967_294), Some("0750")));
        assert_eq!((read.volume_type, read.on_delete), (VolumeType::HostPath, OnDelete::Archive));
    }

    #[test]
    fn a_typing_error_is_an_error() {
        for (key, value) in [
            ("Pool", "x"),
            ("pool", ""),
            ("type", "nfs"),
            ("pathPattern", "x"),
            ("nodePath", "x"),
            ("mode", "0999"),
            ("mode", "77777"),
            ("uid", "-1"),
            ("gid", "4294967295"),
            ("nodeAffinityKey", ""),
            ("onDelete", "keep"),
        ] {
            let error = ClassParameters::of(&class(&json!({ key: value }))).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("local"), "{error}");
        }
        let mut with_options = class(&json!({ "type": "hostPath" }));
        with_options.mount_options = vec!["ro".to_owned()];
        assert!(ClassParameters::of(&with_options).is_err());
    }
}
