//! What the API server, asked at that moment, permits: the decisions that destroy or take something.

use std::fmt;

use super::plan::is_of;
use crate::binding::Lookup;
use crate::crd::{CleanReason, DiskRelease, LocalDisk, Presence, SameDisk, SeenVolume};
use crate::model::{Claim, Node, Volume};
use crate::volumes::{VolumeSet, seen};

/// What the API server says at this moment.
#[derive(Clone, Copy, Debug)]
pub struct LiveFacts<'a> {
    /// All volumes.
    pub volumes: &'a VolumeSet,
    /// The claim that the disk's volume names, by its UID.
    pub owner: &'a Lookup<Claim>,
    /// The Node. Where it is not known, any volume may be on it.
    pub node: Option<&'a Node>,
    /// LocalDisks of any node that have a mark in common with the disk.
    pub alike: &'a [&'a LocalDisk],
}

/// Why something is not done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stays(pub String);

impl fmt::Display for Stays {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Leave to clean a disk. It is made from live facts only, and spent by the write that it permits.
#[derive(Debug, PartialEq, Eq)]
pub struct CleanPermit(Option<SeenVolume>);

impl CleanPermit {
    /// The volume whose release permits it; nothing where there is none.
    #[must_use]
    pub fn volume(&self) -> Option<&SeenVolume> {
        self.0.as_ref()
    }
}

fn stays<T>(why: impl Into<String>) -> Result<T, Stays> {
    Err(Stays(why.into()))
}

/// Whether a volume may be made for a disk.
///
/// # Errors
/// When another volume names the path, one above it or one below it, or the disk is not free.
pub fn permits_publication(disk: &LocalDisk, facts: &LiveFacts<'_>) -> Result<(), Stays> {
    let spec = &disk.spec;
    if spec.unclean || spec.clean.is_some() || spec.persistent_volume.is_some() {
        return stays("it is not free");
    }
    if disk.presence() != Presence::Present {
        return stays("it is not known to be at its place");
    }
    let Some(node) = facts.node else { return stays(format!("node {} is not known", spec.node_name)) };
    // Without a mark it is the same disk only as long as the Node is the same object.
    if spec.identity.is_empty() && node.metadata.uid.as_deref() != Some(spec.node_uid.as_str()) {
        return stays(format!(
            "node {} was made anew, and nothing tells the disk at {} from another: delete LocalDisk {} if it is to be offered",
            spec.node_name,
            spec.path,
            disk.name()
        ));
    }
    no_twin(disk, facts)?;
    no_rival(disk, facts)
}

/// Without a mark a disk is told by its path alone; before its first use that is enough on the same Node.
fn is_told_by_path(disk: &LocalDisk, facts: &LiveFacts<'_>) -> bool {
    let is_first = disk.spec.clean.as_ref().is_some_and(|order| order.why == CleanReason::FirstUse);
    let same_node = facts.node.and_then(|node| node.metadata.uid.as_deref()) == Some(disk.spec.node_uid.as_str());
    disk.spec.identity.is_empty() && !(is_first && same_node)
}

/// No other LocalDisk stands for the same disk, found by another path or from another node, that holds something or came first.
fn no_twin(disk: &LocalDisk, facts: &LiveFacts<'_>) -> Result<(), Stays> {
    let is_twin = |other: &&LocalDisk| {
        let same = if other.spec.node_name == disk.spec.node_name {
            other.spec.identity.compare(&disk.spec.identity)
        } else {
            other.spec.identity.compare_elsewhere(&disk.spec.identity)
        };
        let first = other.spec.persistent_volume.is_some() || other.spec.unclean || other.name() < disk.name();
        other.name() != disk.name() && same == SameDisk::Same && first
    };
    match facts.alike.iter().copied().find(is_twin) {
        Some(other) => stays(format!(
            "it is the same disk as {} of node {} (LocalDisk {}), by {}: take one of the two away; where they are two disks, give \
             them serial numbers or file systems of their own",
            other.spec.path,
            other.spec.node_name,
            other.name(),
            disk.spec.identity
        )),
        None => Ok(()),
    }
}

/// No other volume names the path.
fn no_rival(disk: &LocalDisk, facts: &LiveFacts<'_>) -> Result<(), Stays> {
    let rivals = facts.volumes.naming(&disk.spec.path, facts.node);
    match rivals.map(|volume| volume.name()).filter(|name| *name != disk.volume_name()).min() {
        Some(other) => stays(format!("volume {other} names {}, or a path above or below it", disk.spec.path)),
        None => Ok(()),
    }
}

/// Whether a released volume may begin to go: it alone says that its data may be deleted.
///
/// # Errors
/// When its claim may be there, it is not released, or its policy is another.
pub fn permits_release(disk: &LocalDisk, volume: &Volume, owner: &Lookup<Claim>) -> Result<SeenVolume, Stays> {
    released(disk, volume, owner)?;
    Ok(seen(volume))
}

fn released(disk: &LocalDisk, volume: &Volume, owner: &Lookup<Claim>) -> Result<(), Stays> {
    if !is_of(volume, disk) {
        return stays("the volume is not of this disk");
    }
    if volume.status.phase != "Released" {
        return stays("its volume is not released");
    }
    if !volume.is_deleted_on_release() {
        return stays("its volume is retained");
    }
    if volume.claim_uid().is_none() {
        return stays("its volume is reserved for a claim that may still come");
    }
    match owner {
        Lookup::Absent => Ok(()),
        Lookup::Found(claim) => {
            stays(format!("claim {}/{} of its volume is still there", claim.namespace(), claim.name()))
        }
        Lookup::Unknown => stays("nobody knows whether the claim of its volume is gone"),
    }
}

/// Whether an attempt to clean a disk may begin.
///
/// # Errors
/// When anything may still use it, or nobody has ordered it.
pub fn permits_cleaning(disk: &LocalDisk, facts: &LiveFacts<'_>) -> Result<CleanPermit, Stays> {
    let Some(order) = &disk.spec.clean else { return stays("nobody has ordered it") };
    if !disk.spec.unclean {
        return stays("it is clean");
    }
    if facts.node.is_none() {
        return stays(format!("node {} is not known", disk.spec.node_name));
    }
    if is_told_by_path(disk, facts) && order.why != CleanReason::Asked {
        return stays(format!(
            "nothing tells the disk at {} from another, so that it is cleaned only where a person says so: set the reclaim policy of its \
             volume to Retain, look what is there, and then `latebind release disk/{} --wipe`",
            disk.spec.path,
            disk.name()
        ));
    }
    no_rival(disk, facts)?;
    no_twin(disk, facts)?;
    match (order.why, facts.volumes.get(disk.volume_name())) {
        (CleanReason::Released, Some(volume)) => {
            released(disk, volume, facts.owner)?;
            if volume.metadata.uid.as_deref() != Some(order.id.as_str()) {
                return stays("the order is about another volume");
            }
            // One that stays could be given to a claim while it is cleaned.
            if volume.metadata.deletion_timestamp.is_none() {
                return stays("its volume does not go yet");
            }
            Ok(CleanPermit(Some(seen(volume))))
        }
        (CleanReason::Released, None) => stays("its volume is gone, which permitted it"),
        (CleanReason::FirstUse | CleanReason::Asked, Some(volume)) => {
            stays(format!("volume {} is there", volume.name()))
        }
        (CleanReason::FirstUse, None) if disk.spec.persistent_volume.is_none() => Ok(CleanPermit(None)),
        (CleanReason::FirstUse, None) => stays("it was in use before"),
        (CleanReason::Asked, None) if disk.spec.release == Some(DiskRelease::Wipe) => Ok(CleanPermit(None)),
        (CleanReason::Asked, None) => stays("nobody asks for it any more"),
    }
}

/// Whether a volume that nobody has claimed may be taken back. It holds no data, and its disk is known to be elsewhere, or is not to be
/// offered any more (`unwanted`).
///
/// # Errors
/// When somebody may have claimed it, or the disk may be there.
pub fn permits_withdrawal(disk: &LocalDisk, volume: &Volume, unwanted: bool) -> Result<SeenVolume, Stays> {
    if !is_of(volume, disk) {
        return stays("the volume is not of this disk");
    }
    if volume.status.phase != "Available" || volume.spec.claim_ref.is_some() {
        return stays("somebody has claimed it");
    }
    match disk.presence() {
        _ if unwanted => Ok(seen(volume)),
        Presence::Absent | Presence::Another => Ok(seen(volume)),
        Presence::Present | Presence::Unknown => stays("its disk may be there"),
    }
}
