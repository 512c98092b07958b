//! What becomes of a disk that an agent has found.

use std::collections::BTreeMap;

use super::names::disk_name;
use crate::crd::{
    CleanOrder, CleanReason, DISK_FINALIZER, DiskIdentity, DiskReport, DiskRule, LocalDisk, LocalDiskSpec, Presence,
    SameDisk,
};
use crate::model::{Text, plain_path};

/// What is to be done about a find.
#[derive(Debug, PartialEq)]
pub enum Offer {
    /// It is known.
    Known,
    /// It is known, and more tells it from others than before.
    Learn {
        /// The LocalDisk.
        name: String,
        /// What is known of it now.
        identity: DiskIdentity,
    },
    /// A LocalDisk is made.
    Create(Box<LocalDisk>),
    /// The LocalDisk of the place where it was before is in the way, and holds nothing: it goes first.
    Replace(String),
    /// It is not offered.
    Refuse(String),
}

/// Decides about a disk that can be a volume. `here` are the LocalDisks of its node, `alike` those of any node that have a mark in
/// common with it.
#[must_use]
pub fn offer<'a>(
    found: &DiskReport,
    node_name: &str,
    new: impl FnOnce() -> LocalDisk,
    here: impl IntoIterator<Item = &'a LocalDisk>,
    alike: impl IntoIterator<Item = &'a LocalDisk>,
) -> Offer {
    let place = plain_path(&found.path);
    let there: Vec<&LocalDisk> = here.into_iter().filter(|disk| plain_path(&disk.spec.path) == place).collect();
    let with = |answer: SameDisk| there.iter().find(|disk| disk.spec.identity.compare(&found.identity) == answer);
    if let Some(disk) = with(SameDisk::Same) {
        return known(disk, found);
    }
    if let Some(disk) = with(SameDisk::Unknown) {
        if disk.spec.identity.is_empty() && found.identity.is_empty() {
            return Offer::Known;
        }
        return Offer::Refuse(format!(
            "{}: a disk is known there by {}, and of the one that is there now {} can be read, so that nobody can tell whether \
             it is the same: look at the node's agent, or take the disk away",
            found.path, disk.spec.identity, found.identity
        ));
    }
    let same = alike.into_iter().filter(|disk| {
        let compared = if disk.spec.node_name == node_name {
            disk.spec.identity.compare(&found.identity)
        } else {
            disk.spec.identity.compare_elsewhere(&found.identity)
        };
        compared == SameDisk::Same
    });
    // One that holds something speaks before one that holds nothing.
    match same.max_by_key(|disk| holds(disk)) {
        None => Offer::Create(Box::new(new())),
        Some(disk) if holds(disk) => Offer::Refuse(refusal(found, disk)),
        Some(disk) if disk.presence() == Presence::Present => Offer::Refuse(format!(
            "{}: the same disk ({}) is offered as {} of node {} already; where they are two disks, give them serial numbers or file systems of \
             their own",
            found.path, found.identity, disk.spec.path, disk.spec.node_name
        )),
        Some(disk) => Offer::Replace(disk.name().to_owned()),
    }
}

fn known(disk: &LocalDisk, found: &DiskReport) -> Offer {
    let mut marks: BTreeMap<String, String> = found.identity.0.clone();
    marks.extend(disk.spec.identity.0.clone());
    if marks.len() == disk.spec.identity.0.len() {
        return Offer::Known;
    }
    Offer::Learn { name: disk.name().to_owned(), identity: DiskIdentity(marks) }
}

/// It has a volume, or data that somebody may miss.
fn holds(disk: &LocalDisk) -> bool {
    disk.spec.unclean || disk.spec.kept || disk.spec.persistent_volume.is_some()
}

fn refusal(found: &DiskReport, disk: &LocalDisk) -> String {
    let (spec, name) = (&disk.spec, disk.name());
    let owner = spec.claim.as_ref().map_or_else(
        || "a volume of its own".to_owned(),
        |claim| format!("data of claim {}/{}", claim.namespace, claim.name),
    );
    format!(
        "{}: this disk ({}) was {} of node {} and holds {owner}: it is not offered here. Once its volume is gone, `latebind release disk/{name}` \
         says what becomes of it: `--wipe` where it was, `--keep`, or `--forget`, after which it counts as one that nobody has seen",
        found.path, found.identity, spec.path, spec.node_name
    )
}

/// The LocalDisk of a find, before it exists.
#[must_use]
pub fn new_disk(found: &DiskReport, rule: &DiskRule, node: (&str, Option<&Text>)) -> LocalDisk {
    let (node_name, node_uid) = node;
    let name = disk_name(node_name, &found.path, &rule.storage_class_name, &found.identity);
    let first = rule.wipe_before_first_use;
    let spec = LocalDiskSpec {
        node_name: node_name.to_owned(),
        node_uid: Text::or_empty(node_uid),
        pool: found.pool.clone(),
        storage_class_name: rule.storage_class_name.clone(),
        path: found.path.clone(),
        kind: found.kind,
        volume_mode: rule.volume_mode,
        access_mode: rule.access_mode,
        fs_type: rule.fs_type.clone(),
        identity: found.identity.clone(),
        root: found.root,
        selector: rule.selector.clone(),
        labels: rule.labels.clone(),
        node_labels: rule.node_labels.clone(),
        unclean: first,
        clean: first.then(|| CleanOrder { id: "first-use".to_owned(), why: CleanReason::FirstUse }),
        ..LocalDiskSpec::default()
    };
    let mut disk = LocalDisk::new(&name, spec);
    disk.metadata.finalizers = Some(vec![DISK_FINALIZER.to_owned()]);
    disk
}
