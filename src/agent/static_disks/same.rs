//! Whether the disk at a path is the one that was recorded.

use super::fault::{DiskFault, named};
use super::sysfs::Marks;
use crate::crd::{DiskIdentity, SameDisk};

/// How it is known that a disk is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A mark of it.
    ByMarks,
    /// Nothing: it had no mark, and has none. Such disks are told apart by their path alone.
    ByPath,
}

/// Refuses another disk, and one of which it cannot be told.
pub(super) fn same_disk(path: &str, recorded: &DiskIdentity, found: &Marks) -> Result<Told, DiskFault> {
    let (seen, expected) = (named(&found.identity), named(recorded));
    match recorded.compare(&found.identity) {
        SameDisk::Same => Ok(Told::ByMarks),
        SameDisk::Another => Err(DiskFault::Another { path: path.to_owned(), found: seen, expected }),
        SameDisk::Unknown if recorded.is_empty() && found.identity.is_empty() && found.unread.is_empty() => {
            Ok(Told::ByPath)
        }
        SameDisk::Unknown => {
            let why = found.unread.first().map_or("no mark in common", String::as_str).to_owned();
            Err(DiskFault::IdentityUnknown { path: path.to_owned(), why, found: seen, expected })
        }
    }
}
