//! Whether two looks have found the same disk.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What tells a disk from all others, by the kind of the mark: `lv` (UUID of a logical volume), `wwn`, `serial`, `part`
/// (UUID of a partition), `dm` (UUID of another mapped device), `loop` (the file behind a loop device), `fs` (UUID of a file
/// system), `fsid` (what `statfs` says of it). Which marks can be read depends on the node; not all of them have to be there each
/// time. A mark of a directory of a file system that is mounted ends in `:` and the path of that directory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct DiskIdentity(#[schemars(length(max = 16))] pub BTreeMap<String, String>);

/// The kinds of marks, the one that says most first.
const KINDS: [&str; 8] = ["fs", "fsid", "lv", "part", "wwn", "serial", "dm", "loop"];

/// The answer to the question whether two disks are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameDisk {
    /// They agree in at least one mark, and differ in none.
    Same,
    /// They differ in a mark that both have.
    Another,
    /// They have no mark in common.
    Unknown,
}

impl DiskIdentity {
    /// Compares the marks that both have.
    #[must_use]
    pub fn compare(&self, other: &Self) -> SameDisk {
        let common = self.0.iter().filter_map(|(kind, value)| Some((value, other.0.get(kind)?)));
        let mut answer = SameDisk::Unknown;
        for (one, two) in common {
            if one != two {
                return SameDisk::Another;
            }
            answer = SameDisk::Same;
        }
        answer
    }

    /// The same of a disk on another node: the path of a file behind a loop device says nothing there.
    #[must_use]
    pub fn compare_elsewhere(&self, other: &Self) -> SameDisk {
        let without = |identity: &Self| {
            Self(
                identity
                    .0
                    .iter()
                    .filter(|(kind, _)| *kind != "loop")
                    .map(|(kind, value)| (kind.clone(), value.clone()))
                    .collect(),
            )
        };
        without(self).compare(&without(other))
    }

    /// The mark that says most, with its kind.
    #[must_use]
    pub fn strongest(&self) -> Option<(&str, &str)> {
        let known = KINDS.iter().find_map(|kind| self.0.get_key_value(*kind));
        known.or_else(|| self.0.first_key_value()).map(|(kind, value)| (kind.as_str(), value.as_str()))
    }

    /// True when nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each mark as one word, for an index.
    pub fn marks(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(kind, value)| format!("{kind}={value}"))
    }
}

impl std::fmt::Display for DiskIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.strongest() {
            Some((kind, value)) => write!(formatter, "{kind} {value}"),
            None => formatter.write_str("nothing that tells it from others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(marks: &[(&str, &str)]) -> DiskIdentity {
        DiskIdentity(marks.iter().map(|(kind, value)| ((*kind).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_not_read_makes_no_other_disk_and_no_same_one() {
        let known = identity(&[("fs", "1"), ("wwn", "a")]);
        assert_eq!(known.compare(&identity(&[("fs", "1")])), SameDisk::Same);
        assert_eq!(known.compare(&identity(&[("wwn", "a"), ("serial", "s")])), SameDisk::Same);
        assert_eq!(known.compare(&identity(&[("serial", "s")])), SameDisk::Unknown);
        assert_eq!(known.compare(&identity(&[])), SameDisk::Unknown);
        assert_eq!(identity(&[]).compare(&identity(&[])), SameDisk::Unknown);
        // A new file system on the same device is not what the volume was made on.
        assert_eq!(known.compare(&identity(&[("fs", "2"), ("wwn", "a")])), SameDisk::Another);
        assert_eq!(known.strongest(), Some(("fs", "1")));
        assert_eq!(identity(&[("own", "x")]).to_string(), "own x");
    }
}
