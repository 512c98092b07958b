//! What is to be done about a disk next, from what the caches say.

use super::persistent_volume::{VolumeChange, volume_change};
use super::{DISK_PROVISIONER, LOCAL_DISK, STATIC_PROVISIONER};
use crate::binding::Lookup;
use crate::crd::{
    CLEANING, ClaimIdentity, CleanOrder, CleanReason, DISK_FINALIZER, DiskRelease, LocalDisk, Presence, READY,
    SeenVolume, condition,
};
use crate::model::{Class, Node, PROVISIONED_BY, Volume, plain_path};
use crate::volumes::seen;

/// What the caches say.
#[derive(Clone, Copy, Debug)]
pub struct DiskFacts<'a> {
    /// The volume of the disk's name.
    pub volume: &'a Lookup<Volume>,
    /// Its class.
    pub class: &'a Lookup<Class>,
    /// Its Node.
    pub node: &'a Lookup<Node>,
    /// Whether its pool has a rule that finds it there.
    pub rule: &'a Lookup<()>,
    /// A claim that has, or had, the volume of another disk at the same path: what it has written may be on this one, since the kubelet
    /// mounts what is there.
    pub neighbour: Option<&'a ClaimIdentity>,
    /// Another disk at the same path has a volume, or may have: a claim of it that nobody has written down yet may have got this one.
    pub beside_volume: bool,
}

/// What is written down about the volume of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    /// The volume.
    pub volume: SeenVolume,
    /// The claim that it is bound to, or was.
    pub claim: Option<ClaimIdentity>,
    /// A claim has had it since the disk was cleaned.
    pub unclean: bool,
}

/// What is to be done next. Each is one write, and what the write changes brings the disk here again.
#[derive(Clone, Debug, PartialEq)]
pub enum DiskStep {
    /// Nothing.
    Nothing,
    /// Nothing, and a person should hear why: at the volume, or at the disk where it has none.
    Tell(String),
    /// A volume is made, if it may be.
    Publish,
    /// What is seen of the volume is written down.
    Record(DiskRecord),
    /// It is written down that the claim of another disk at the same path may have written onto it.
    Doubt(ClaimIdentity),
    /// The finalizer is put onto the volume.
    Hold,
    /// A volume that nobody has claimed is changed.
    Change(VolumeChange),
    /// A volume that nobody has claimed is taken back, since its disk is not at its place.
    Withdraw,
    /// A released volume begins to go, after which no claim can get it any more.
    Release,
    /// The disk is to be cleaned.
    Order(CleanOrder),
    /// The order to clean it is taken back.
    TakeBack(&'static str),
    /// What a person has said is forgotten: it was about an earlier volume.
    Unsay,
    /// The attempt that the agent asks about is confirmed, if it may be.
    Confirm(String),
    /// The volume may go: the disk is clean, was never used, or is kept back.
    Let,
    /// The disk is free again.
    Settle,
    /// Nothing is there any more that the object stands for: it is deleted.
    Forget,
    /// It was deleted, and nothing holds it.
    LetGo,
}

/// Decides about one disk.
#[must_use]
pub fn plan(disk: &LocalDisk, facts: &DiskFacts<'_>) -> DiskStep {
    // Wherever it is now, it may have been there when the claim wrote.
    let is_trusted =
        !disk.spec.unclean || disk.spec.clean.as_ref().is_some_and(|order| order.why == CleanReason::FirstUse);
    if let Some(claim) = facts.neighbour.filter(|_| is_trusted && !disk.is_deleting()) {
        return DiskStep::Doubt(claim.clone());
    }
    match facts.volume {
        Lookup::Unknown => DiskStep::Nothing,
        Lookup::Found(volume) if !is_of(volume, disk) => DiskStep::Tell(format!(
            "volume {} is not of this disk, and no other can have its name: delete it if nobody uses it",
            volume.name()
        )),
        Lookup::Found(volume) => with_volume(disk, volume, facts),
        Lookup::Absent => without_volume(disk, facts),
    }
}

/// True for the volume that was made for a disk.
#[must_use]
pub fn is_of(volume: &Volume, disk: &LocalDisk) -> bool {
    if disk.spec.adopted_volume.is_some() {
        return volume.name() == disk.volume_name()
            && adoptable(volume, &disk.spec.path, &disk.spec.storage_class_name);
    }
    volume.name() == disk.name()
        && volume.metadata.annotation(PROVISIONED_BY) == Some(DISK_PROVISIONER)
        && volume.metadata.annotation(LOCAL_DISK) == Some(disk.name())
}

/// True for a volume that sig-storage-local-static-provisioner has made for the disk at a path.
/// Source: sig-storage-local-static-provisioner, `pkg/controller/controller.go`: the provisioner's name has that of its node in it.
#[must_use]
pub fn adoptable(volume: &Volume, path: &str, class: &str) -> bool {
    let by = volume.metadata.annotation(PROVISIONED_BY).unwrap_or_default();
    let local = volume.spec.local.as_ref().map(|local| plain_path(&local.path));
    by.starts_with(STATIC_PROVISIONER) && local == Some(plain_path(path)) && volume.class_name() == class
}

/// The other disks at the path of a disk.
pub fn at_its_place<'a>(
    disk: &LocalDisk,
    here: impl IntoIterator<Item = &'a LocalDisk>,
) -> impl Iterator<Item = &'a LocalDisk> {
    let (name, place) = (disk.name().to_owned(), plain_path(&disk.spec.path));
    here.into_iter().filter(move |other| other.name() != name && plain_path(&other.spec.path) == place)
}

/// The claim that has, or had, the volume of another disk at the path of a disk. One that is itself in doubt has had no volume since.
#[must_use]
pub fn neighbour<'a>(disk: &LocalDisk, here: impl IntoIterator<Item = &'a LocalDisk>) -> Option<&'a ClaimIdentity> {
    at_its_place(disk, here).find_map(|other| {
        let has_volume = other.spec.persistent_volume.as_ref().is_some_and(|seen| !seen.claim_uid.is_empty());
        // A person has spoken of it already.
        let is_new = |claim: &&ClaimIdentity| disk.spec.cleared_of.as_ref() != Some(&claim.uid);
        other.spec.claim.as_ref().filter(|_| has_volume).filter(is_new)
    })
}

/// What is to be written down about a volume.
#[must_use]
pub fn record_of(disk: &LocalDisk, volume: &Volume) -> DiskRecord {
    let reference = volume.spec.claim_ref.as_ref().filter(|_| volume.claim_uid().is_some());
    let claim = reference.map(|reference| ClaimIdentity {
        namespace: reference.namespace.as_deref().unwrap_or_default().to_owned(),
        name: reference.name.as_deref().unwrap_or_default().to_owned(),
        uid: reference.uid.as_deref().unwrap_or_default().to_owned(),
    });
    DiskRecord { volume: seen(volume), unclean: disk.spec.unclean || claim.is_some(), claim }
}

/// True when what is written down is as it should be. The version changes with every write, and is not among it.
fn is_recorded(disk: &LocalDisk, record: &DiskRecord) -> bool {
    let spec = &disk.spec;
    spec.unclean == record.unclean
        && (record.claim.is_none() || spec.claim == record.claim)
        && spec.persistent_volume.as_ref().is_some_and(|known| {
            known.uid == record.volume.uid
                && known.claim_uid == record.volume.claim_uid
                && known.reclaim_policy == record.volume.reclaim_policy
        })
}

fn with_volume(disk: &LocalDisk, volume: &Volume, facts: &DiskFacts<'_>) -> DiskStep {
    let record = record_of(disk, volume);
    if !is_recorded(disk, &record) {
        return DiskStep::Record(record);
    }
    if volume.metadata.deletion_timestamp.is_some() {
        return going(disk, volume, facts);
    }
    if !is_held(volume) {
        return DiskStep::Hold;
    }
    // What was said of the disk was about what was on it then.
    if disk.spec.release.is_some() {
        return DiskStep::Unsay;
    }
    if disk.spec.clean.is_some() {
        return DiskStep::TakeBack("its volume is there, and does not go");
    }
    match volume.status.phase.as_str() {
        "Available" if volume.spec.claim_ref.is_none() => available(disk, volume, facts),
        "Bound" => bound(disk),
        "Released" if volume.is_deleted_on_release() && volume.claim_uid().is_some() => DiskStep::Release,
        "Released" => DiskStep::Tell(format!(
            "its reclaim policy keeps the data: `latebind release pv/{0} --wipe` cleans the disk and offers it again, \
             `latebind release pv/{0} --keep` offers it with the data",
            volume.name()
        )),
        _ => DiskStep::Nothing,
    }
}

/// Our finalizer is on it.
fn is_held(volume: &Volume) -> bool {
    volume.metadata.finalizers.iter().flatten().any(|finalizer| *finalizer == *DISK_FINALIZER)
}

/// Nobody has claimed it.
fn available(disk: &LocalDisk, volume: &Volume, facts: &DiskFacts<'_>) -> DiskStep {
    if disk.is_deleting() || *facts.rule == Lookup::Absent {
        return DiskStep::Withdraw;
    }
    match disk.presence() {
        Presence::Absent | Presence::Another => return DiskStep::Withdraw,
        Presence::Unknown => return DiskStep::Nothing,
        Presence::Present => {}
    }
    // What another has made is left as it is while it lasts.
    let (Lookup::Found(node), None) = (facts.node, &disk.spec.adopted_volume) else { return DiskStep::Nothing };
    volume_change(disk, volume, node).map_or(DiskStep::Nothing, DiskStep::Change)
}

/// A claim has it.
fn bound(disk: &LocalDisk) -> DiskStep {
    match disk.presence() {
        Presence::Another => DiskStep::Tell(format!("another disk is at its place: {}", said(disk))),
        Presence::Absent => DiskStep::Tell(format!("its disk is not at its place: {}", said(disk))),
        Presence::Present | Presence::Unknown => DiskStep::Nothing,
    }
}

/// The agent's words.
fn said(disk: &LocalDisk) -> String {
    let conditions = disk.status.iter().flat_map(|status| &status.conditions).cloned().collect::<Vec<_>>();
    condition(&conditions, READY)
        .map_or_else(|| "its agent says nothing of it".to_owned(), |ready| ready.message.clone())
}

/// The volume is being deleted, and our finalizer alone decides when.
fn going(disk: &LocalDisk, volume: &Volume, facts: &DiskFacts<'_>) -> DiskStep {
    if !is_held(volume) || volume.status.phase == "Bound" {
        return DiskStep::Nothing;
    }
    if !disk.spec.unclean {
        return DiskStep::Let;
    }
    let uid = volume.metadata.uid.as_deref().unwrap_or_default();
    let is_cleanable =
        volume.status.phase == "Released" && volume.is_deleted_on_release() && volume.claim_uid().is_some();
    match &disk.spec.clean {
        // It was retained, or taken back: the data stays, and the disk is kept back until somebody says what becomes of it.
        None if !is_cleanable && volume.is_deleted_on_release() => DiskStep::Tell(format!(
            "it is being deleted in phase {}, in which nobody knows whether its data may go: set its reclaim policy to Retain, and \
             it goes while the disk is kept back",
            volume.status.phase
        )),
        None if !is_cleanable => DiskStep::Let,
        None => DiskStep::Order(CleanOrder { id: uid.to_owned(), why: CleanReason::Released }),
        Some(order) if order.id == uid && disk.is_cleaned() => DiskStep::Let,
        Some(order) if order.id != uid || !is_cleanable => DiskStep::TakeBack("it is about another volume"),
        Some(_) => attempt(disk, facts),
    }
}

/// An order stands.
fn attempt(disk: &LocalDisk, facts: &DiskFacts<'_>) -> DiskStep {
    if matches!(facts.node, Lookup::Absent) {
        return DiskStep::Tell(format!(
            "the disk is not cleaned: node {} is gone, and only its agent could; `latebind release {}/{} --forget` gives the disk up",
            disk.spec.node_name,
            if matches!(facts.volume, Lookup::Found(_)) { "pv" } else { "disk" },
            if matches!(facts.volume, Lookup::Found(_)) { disk.volume_name() } else { disk.name() }
        ));
    }
    let asked = disk.status.as_ref().and_then(|status| status.attempt.as_ref());
    match asked.filter(|asked| disk.spec.confirmed_attempt.as_ref() != Some(*asked)) {
        Some(asked) => DiskStep::Confirm(asked.clone()),
        None => complaint(disk).map_or(DiskStep::Nothing, DiskStep::Tell),
    }
}

/// Why a disk that is to be cleaned is not clean yet, where a person may have to do something.
fn complaint(disk: &LocalDisk) -> Option<String> {
    let status = disk.status.as_ref()?;
    let ready = condition(&status.conditions, READY)?;
    (ready.status != "True" && ready.reason != CLEANING).then(|| format!("the disk is not cleaned: {}", ready.message))
}

fn without_volume(disk: &LocalDisk, facts: &DiskFacts<'_>) -> DiskStep {
    let spec = &disk.spec;
    if spec.release == Some(DiskRelease::Forget) || (disk.is_deleting() && !spec.unclean) {
        return if disk.is_deleting() { DiskStep::LetGo } else { DiskStep::Forget };
    }
    if let Some(order) = &spec.clean {
        if disk.is_cleaned() {
            return DiskStep::Settle;
        }
        return match order.why {
            CleanReason::FirstUse => attempt(disk, facts),
            CleanReason::Asked if spec.release == Some(DiskRelease::Wipe) => attempt(disk, facts),
            CleanReason::Asked => DiskStep::TakeBack("nobody asks for it any more"),
            CleanReason::Released => DiskStep::TakeBack("its volume is gone, which permitted it"),
        };
    }
    if spec.unclean {
        return match spec.release {
            Some(DiskRelease::Keep) => DiskStep::Settle,
            Some(DiskRelease::Wipe) => {
                let version = disk.metadata.resource_version.as_deref().unwrap_or_default();
                DiskStep::Order(CleanOrder { id: format!("asked-{version}"), why: CleanReason::Asked })
            }
            Some(DiskRelease::Forget) | None => kept_back(disk),
        };
    }
    if spec.persistent_volume.is_some() || spec.release.is_some() || spec.adopted_volume.is_some() {
        return DiskStep::Settle;
    }
    if *facts.rule == Lookup::Absent {
        return if spec.kept { kept_on_purpose(disk) } else { DiskStep::Forget };
    }
    match (disk.presence(), facts.class, facts.node) {
        // What a person has said of its data holds when it comes back; and of one that may be in doubt that is remembered.
        (Presence::Absent | Presence::Another, ..) if spec.kept || facts.beside_volume => DiskStep::Nothing,
        (Presence::Absent | Presence::Another, ..) => DiskStep::Forget,
        (Presence::Present, Lookup::Absent, _) => DiskStep::Tell(format!(
            "there is no class {}: make it, with provisioner kubernetes.io/no-provisioner",
            spec.storage_class_name
        )),
        (Presence::Present, Lookup::Found(_), Lookup::Found(_)) if *facts.rule == Lookup::Found(()) => {
            DiskStep::Publish
        }
        (Presence::Present | Presence::Unknown, ..) => DiskStep::Nothing,
    }
}

/// Forgotten and found again, it could be one that is wiped before its first use.
fn kept_on_purpose(disk: &LocalDisk) -> DiskStep {
    DiskStep::Tell(format!(
        "it was to be offered with the data that is on it, and its pool has no such rule any more: give the rule back as it was, or \
         `latebind release disk/{} --forget`",
        disk.name()
    ))
}

fn kept_back(disk: &LocalDisk) -> DiskStep {
    let owner = disk
        .spec
        .claim
        .as_ref()
        .map_or_else(String::new, |claim| format!(" of claim {}/{}", claim.namespace, claim.name));
    DiskStep::Tell(format!(
        "it may hold data{owner}, whose volume is gone: `latebind release disk/{0} --wipe` cleans it and offers it again, \
         `latebind release disk/{0} --keep` offers it with the data, `--forget` says that the disk will not come back",
        disk.name()
    ))
}
