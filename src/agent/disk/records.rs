//! What an agent writes down in a base beside the markers: for how long it has seen what no volume names, and how far the
//! API server's store had come.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::base::{Base, read_small};
use super::changes::write_whole;
use super::error::{DirectoryError, failed};

/// Largest file that is read, in bytes: some ten thousand orphans.
const MAX_BYTES: u64 = 4 << 20;

/// For how long each orphan of a base was seen, by the UID of its claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages(BTreeMap<String, Age>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Age {
    path: String,
    seconds: u64,
}

impl Ages {
    /// Notes one.
    pub(in crate::agent) fn insert(&mut self, claim: &str, path: &str, age: Duration) {
        self.0.insert(claim.to_owned(), Age { path: path.to_owned(), seconds: age.as_secs() });
    }

    /// How long this one was seen; not at all, when nothing tells.
    pub(in crate::agent) fn get(&self, claim: &str, path: &str) -> Duration {
        let known = self.0.get(claim).filter(|age| age.path == path);
        known.map_or(Duration::ZERO, |age| Duration::from_secs(age.seconds))
    }
}

/// How far the store had come when it was last written to. The same number is in the store: where it is smaller there, the
/// store has gone back in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMark {
    /// Counts up with each report that the store took.
    pub epoch: u64,
    /// Why the store was found to know less than this disk. It stands until a person accepts that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// The store was seen to be older than this disk, which a report that is gone does not say. Then nothing at all is removed
    /// here, also no volume that the store says is to go: what was changed since may be what keeps it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub went_back: bool,
    /// The newest version of a volume that was known when a person accepted it: markers up to there tell nothing more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub accepted: String,
    /// What a later version says beside it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Base {
    /// What was written down of ages. What cannot be read tells nothing, and they are counted anew.
    pub(in crate::agent) fn ages(&self) -> Result<Ages, DirectoryError> {
        Ok(self.record("ages")?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Writes the ages down.
    pub(in crate::agent) fn keep_ages(&self, ages: &Ages) -> Result<(), DirectoryError> {
        self.keep_record("ages", ages)
    }

    /// How far the store had come. A record that cannot be read may say that the store is behind, and so counts as if it
    /// did. It is not written over before a person accepts that.
    pub(in crate::agent) fn store_mark(&self) -> Result<StoreMark, DirectoryError> {
        let Some(bytes) = self.record("store")? else { return Ok(StoreMark::default()) };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            let path = self.inside(".latebind/store");
            StoreMark { behind: Some(format!("{path} cannot be read ({error})")), ..StoreMark::default() }
        }))
    }

    /// Writes down how far the store has come.
    pub(in crate::agent) fn keep_store_mark(&self, mark: &StoreMark) -> Result<(), DirectoryError> {
        self.keep_record("store", mark)
    }

    fn record(&self, name: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        let Some(own) = self.existing(&[".latebind"])? else { return Ok(None) };
        read_small(own.as_fd(), name, MAX_BYTES).map_err(failed("read", &self.inside(&format!(".latebind/{name}"))))
    }

    fn keep_record(&self, name: &str, record: &impl Serialize) -> Result<(), DirectoryError> {
        let own = self.subdirectory(&[".latebind"])?;
        let bytes = serde_json::to_vec(record).map_err(|error| DirectoryError::Order(error.to_string()))?;
        let path = self.inside(&format!(".latebind/{name}"));
        write_whole(own.as_fd(), name, &bytes, true).map_err(failed("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::base::AllowedBases;
    use super::*;

    #[test]
    fn what_a_later_version_has_written_is_kept_and_what_cannot_be_read_holds_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let base = Base::open(&AllowedBases::new([path]).unwrap(), path, false).unwrap();
        base.id().unwrap();
        let file = directory.path().join(".latebind/store");
        fs::write(&file, r#"{"epoch":7,"snapshots":{"last":3}}"#).unwrap();
        let mark = base.store_mark().unwrap();
        assert_eq!((mark.epoch, mark.behind.as_ref()), (7, None));
        base.keep_store_mark(&StoreMark { epoch: 8, ..mark }).unwrap();
        let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!((&kept["epoch"], &kept["snapshots"]["last"]), (&8.into(), &3.into()));
        fs::write(&file, r#"{"epoch":"a later version writes words"}"#).unwrap();
        assert!(base.store_mark().unwrap().behind.is_some_and(|why| why.contains("cannot be read")));
    }
}
