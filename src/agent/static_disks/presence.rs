//! Whether a disk is where it was found.

use super::entry::Found;
use super::fault::{DiskFault, named};
use super::same::{Told, same_disk};
use super::scope::{Directory, DiskScope};
use crate::crd::{DiskIdentity, DiskKind, DiskReport, Presence};

/// Whether the disk of this identity is at its path; what was seen, in one sentence; and what is there.
#[must_use]
pub fn presence(
    scope: &DiskScope,
    path: &str,
    kind: DiskKind,
    identity: &DiskIdentity,
) -> (Presence, String, Option<DiskReport>) {
    let found = match Directory::of_entry(scope, path) {
        // The directory that the agent was given is there, and what should lie beneath is not.
        Err(fault @ DiskFault::PathMissing { .. }) => return (Presence::Absent, fault.to_string(), None),
        Err(fault) => return (Presence::Unknown, fault.to_string(), None),
        Ok((directory, name)) => Found::look(scope, &directory, name),
    };
    let found = match found {
        Err(fault) if fault.is_absence() => return (Presence::Absent, fault.to_string(), None),
        Err(fault) => return (Presence::Unknown, fault.to_string(), None),
        Ok(found) => found,
    };
    let report = Some(found.report());
    if found.kind != kind {
        let said = format!("{path} is {}, and was {}: another disk", article(found.kind), article(kind));
        return (Presence::Another, said, report);
    }
    match same_disk(path, identity, &found.marks) {
        Ok(Told::ByMarks) => (Presence::Present, format!("{path} is the disk with {}", named(identity)), report),
        Ok(Told::ByPath) => {
            let said =
                format!("{path} is there, and nothing tells it from other disks: it is taken for the same by its path");
            (Presence::Present, said, report)
        }
        Err(fault @ DiskFault::Another { .. }) => (Presence::Another, fault.to_string(), report),
        Err(fault) => (Presence::Unknown, fault.to_string(), report),
    }
}

fn article(kind: DiskKind) -> &'static str {
    match kind {
        DiskKind::Mount => "a mount",
        DiskKind::Device => "a device",
    }
}
