//! The marker of a volume: who owns its directory. It lies outside the directory, where no tenant can reach it.

use std::fmt;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::Dir;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::base::{Base, read_small};
use super::changes::write_whole;
use super::error::{DirectoryError, failed};
use crate::crd::{Reclaim, SeenVolume};

/// Largest marker that is read, in bytes. Ours have a few hundred.
const MAX_BYTES: u64 = 16 * 1024;

/// Who owns a directory.
///
/// Fields that this program does not know are kept: a later version may have written them, and may run again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// Layout of the marker; 1. Another one is for what an earlier version must not touch.
    pub version: u32,
    /// UID of the namespace `kube-system`.
    pub cluster: String,
    /// UID of the LocalVolume that knows of the directory, as it was last.
    pub volume: String,
    /// UID of the claim.
    pub claim: String,
    /// The directory, relative to the base.
    pub path: String,
    /// The PersistentVolume as it was last seen live. Absent when none was seen yet, which does not say that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<Recorded>,
    /// Namespace and name of the claim, where a later claim of the same ones may take the directory back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ClaimName>,
    /// The volume is gone, and the directory stays in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// What else it says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A claim, as people know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A PersistentVolume as a marker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What was seen.
    #[serde(flatten)]
    pub seen: SeenVolume,
    /// What else the marker says of it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Recorded {
    /// True when `next` is to be written in its place. Of two sights the later one counts, and `Retain` wherever the two
    /// cannot be put in order, as after a store was restored.
    fn gives_way_to(&self, next: &SeenVolume) -> bool {
        if self.seen == *next {
            return false;
        }
        let later = match (revision(&self.seen.resource_version), revision(&next.resource_version)) {
            (Some(known), Some(next)) => next > known,
            _ => false,
        };
        later || next.reclaim_policy == Reclaim::Retain
    }
}

/// A resource version as the number that it is. Those of one API server can be put in order.
/// Source: kubernetes.io, "API concepts", Resource versions: "decimal numbers of at most 128 bits".
pub(in crate::agent) fn revision(resource_version: &str) -> Option<u128> {
    resource_version.parse().ok()
}

impl Marker {
    /// Reads a marker.
    ///
    /// # Errors
    /// When it is not one of a version that this program knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let marker: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if marker.version == 1 { Ok(marker) } else { Err(format!("it has the unknown version {}", marker.version)) }
    }

    /// The same directory of the same claim in the same cluster. A LocalVolume that was made again owns it too.
    #[must_use]
    pub fn same_owner(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.claim == other.claim && self.path == other.path
    }

    /// The owner, for a message.
    #[must_use]
    pub fn owner(&self) -> String {
        format!("its marker names claim {} of cluster {}", self.claim, self.cluster)
    }

    /// The marker that is to stand for this one when `order` is followed; nothing when it stands as it is.
    pub(super) fn brought_up_to(&self, order: &Self) -> Option<Self> {
        // Whoever orders it has a volume for it, or is about to.
        let owner = self.owner.clone().or_else(|| order.owner.clone());
        let mut next = Self { volume: order.volume.clone(), owner, kept: false, ..self.clone() };
        if let Some(seen) = order.persistent_volume.as_ref().map(|recorded| &recorded.seen) {
            match &mut next.persistent_volume {
                Some(known) if known.gives_way_to(seen) => known.seen = seen.clone(),
                Some(_) => {}
                none => *none = Some(Recorded { seen: seen.clone(), other: Map::new() }),
            }
        }
        (next != *self).then_some(next)
    }

    /// The marker of a directory that stays in its place when its volume goes. Programs that do not know of it take it for one
    /// that was retained, which is never removed. One whose volume was handed on to another claim is taken back by nobody: whose it
    /// was last has another name.
    pub(super) fn kept(mut self) -> Self {
        self.kept = true;
        if let Some(recorded) = &mut self.persistent_volume {
            if !recorded.seen.claim_uid.is_empty() && recorded.seen.claim_uid != self.claim {
                self.owner = None;
            }
            recorded.seen.reclaim_policy = Reclaim::Retain;
        }
        self
    }
}

/// A marker that says nothing to this program: somebody's directory, but whose?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Name of the marker: the UID of a claim.
    pub name: String,
    /// Why it cannot be read.
    pub problem: String,
    /// The directory that it is about, if at least that is known.
    pub path: Option<String>,
    /// The same of the claim.
    pub owner: Option<ClaimName>,
}

impl Unreadable {
    fn new(name: &str, bytes: &[u8], problem: String) -> Self {
        let fields: Option<Value> = serde_json::from_slice(bytes).ok();
        let path = fields.as_ref().and_then(|fields| Some(fields.get("path")?.as_str()?.to_owned()));
        let owner = fields.and_then(|fields| serde_json::from_value(fields.get("owner")?.clone()).ok());
        Self { name: name.to_owned(), problem, path, owner }
    }
}

/// The markers of a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    /// Those that can be read.
    pub known: Vec<Marker>,
    /// The others. Nothing is done to their directories.
    pub unreadable: Vec<Unreadable>,
}

impl Base {
    /// Every marker of the base.
    ///
    /// # Errors
    /// When they cannot be listed, or the disk does not give one.
    pub fn owned(&self) -> Result<Markers, DirectoryError> {
        let Some(markers) = self.existing(&[".latebind", "volumes"])? else { return Ok(Markers::default()) };
        let path = self.inside(".latebind/volumes");
        let mut found = Markers::default();
        for entry in Dir::read_from(&markers).map_err(failed("read", &path))? {
            let entry = entry.map_err(failed("read", &path))?;
            let name = entry.file_name().to_string_lossy();
            // A dot begins what is being written.
            if name.starts_with('.') {
                continue;
            }
            match self.read_marker(markers.as_fd(), &name) {
                Ok(marker) => found.known.extend(marker),
                Err(ReadError::Unreadable(unreadable)) => found.unreadable.push(unreadable),
                Err(ReadError::Directory(error)) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The marker of this name in a directory of markers, if there is one.
    pub(super) fn marker(&self, directory: BorrowedFd<'_>, name: &str) -> Result<Option<Marker>, DirectoryError> {
        self.read_marker(directory, name).map_err(|error| match error {
            ReadError::Directory(error) => error,
            ReadError::Unreadable(Unreadable { name, problem, .. }) => {
                DirectoryError::Marker { path: self.inside(&format!(".latebind/volumes/{name}")), problem }
            }
        })
    }

    fn read_marker(&self, directory: BorrowedFd<'_>, name: &str) -> Result<Option<Marker>, ReadError> {
        let path = self.inside(&format!(".latebind/volumes/{name}"));
        let read = read_small(directory, name, MAX_BYTES).map_err(failed("read", &path));
        let Some(bytes) = read.map_err(ReadError::Directory)? else { return Ok(None) };
        match Marker::parse(&bytes) {
            Ok(marker) => Ok(Some(marker)),
            Err(problem) => Err(ReadError::Unreadable(Unreadable::new(name, &bytes, problem))),
        }
    }

    /// Writes a marker so that it is on the disk when this returns.
    pub(super) fn write_marker(
        &self,
        directory: BorrowedFd<'_>,
        name: &str,
        marker: &Marker,
    ) -> Result<(), DirectoryError> {
        let path = self.inside(&format!(".latebind/volumes/{name}"));
        let bytes = serde_json::to_vec(marker).map_err(|error| DirectoryError::Order(error.to_string()))?;
        write_whole(directory, name, &bytes, true).map_err(failed("write", &path))
    }
}

enum ReadError {
    Directory(DirectoryError),
    Unreadable(Unreadable),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = Marker::parse(&bytes);
        }

        #[test]
        fn what_is_written_reads_back(cluster in "\\PC{0,40}", claim in "\\PC{0,40}", path in "\\PC{0,40}") {
            let marker = Marker { version: 1, cluster, volume: "v".to_owned(), claim, path, ..Marker::default() };
            prop_assert_eq!(Marker::parse(&serde_json::to_vec(&marker).unwrap()).unwrap(), marker);
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(Marker::parse(br#"{"version":2,"cluster":"c","volume":"v","claim":"u","path":"p"}"#).is_err());
    }

    #[test]
    fn fields_of_a_later_version_are_kept() {
        let text = br#"{"version":1,"cluster":"c","volume":"v","claim":"u","path":"p","quota":{"id":7},
            "persistentVolume":{"name":"pv","uid":"1","resourceVersion":"9","reclaimPolicy":"Delete","claimUID":"u","phase":"Bound"}}"#;
        let marker = Marker::parse(text).unwrap();
        let order = Marker { volume: "second".to_owned(), ..marker.clone() };
        let next: Value = serde_json::to_value(marker.brought_up_to(&order).unwrap()).unwrap();
        assert_eq!(next["quota"]["id"], 7);
        assert_eq!(next["persistentVolume"]["phase"], "Bound");
        assert_eq!(next["persistentVolume"]["reclaimPolicy"], "Delete");
        assert_eq!(next["volume"], "second");
    }

    #[test]
    fn numbers_of_a_later_version_stay_what_they_are_however_often_the_marker_is_written() {
        let text = br#"{"version":1,"cluster":"c","volume":"v","claim":"u","path":"p","most":18446744073709551615,
            "share":0.30000000000000004,"later":1333333333333333333333333333333333}"#;
        let first = Marker::parse(text).unwrap();
        let mut marker = first.clone();
        for _ in 0..3 {
            marker = Marker::parse(&serde_json::to_vec(&marker).unwrap()).unwrap();
        }
        assert_eq!(marker, first);
        assert_eq!(marker.other["most"], u64::MAX);
        assert_eq!(marker.other["share"].to_string(), "0.30000000000000004");
    }

    #[test]
    fn a_kept_marker_is_a_retained_one_to_programs_that_do_not_know_it() {
        let owner = Some(ClaimName { namespace: "n".to_owned(), name: "c".to_owned() });
        let of = |claim_uid: &str| {
            let seen = SeenVolume { claim_uid: claim_uid.to_owned(), ..seen("9", Reclaim::Delete) };
            let persistent_volume = Some(Recorded { seen, other: Map::new() });
            Marker { version: 1, claim: "u".to_owned(), owner: owner.clone(), persistent_volume, ..Marker::default() }
                .kept()
        };
        let text = serde_json::to_value(of("u")).unwrap();
        assert_eq!((&text["kept"], &text["persistentVolume"]["reclaimPolicy"]), (&true.into(), &"Retain".into()));
        assert_eq!((of("u").owner, of("other").owner), (owner.clone(), None));
        let back = of("u").brought_up_to(&of("u")).unwrap();
        assert!(!back.kept, "a volume of it is there again");
    }

    fn seen(resource_version: &str, reclaim_policy: Reclaim) -> SeenVolume {
        SeenVolume { resource_version: resource_version.to_owned(), reclaim_policy, ..SeenVolume::default() }
    }

    #[test]
    fn the_later_sight_counts_and_retain_where_neither_is() {
        let change = |from: SeenVolume, to: SeenVolume| Recorded { seen: from, other: Map::new() }.gives_way_to(&to);
        assert!(change(seen("9", Reclaim::Retain), seen("10", Reclaim::Delete)), "numbers, not words");
        assert!(!change(seen("10", Reclaim::Retain), seen("9", Reclaim::Delete)));
        assert!(change(seen("10", Reclaim::Delete), seen("9", Reclaim::Retain)));
        assert!(!change(seen("x", Reclaim::Retain), seen("10", Reclaim::Delete)));
        assert!(change(seen("10", Reclaim::Delete), seen("", Reclaim::Retain)));
    }
}
