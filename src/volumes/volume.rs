//! What is to be done about a PersistentVolume: its LocalVolume is made again if it was lost, its policy is followed, and
//! it goes when its directory is gone.

use super::VOLUME_FINALIZER;
use super::disposal::records;
use super::persistent_volume::{local_volume_from, reclaim, seen};
use crate::binding::Lookup;
use crate::crd::{LocalVolume, Reclaim, SeenVolume};
use crate::model::Volume;

/// What is to be done about a volume whose annotation names a LocalVolume, or that one was made for.
#[derive(Debug, PartialEq)]
pub enum VolumeStep {
    /// Nothing.
    Nothing,
    /// The LocalVolume is missing and is made again.
    Recover(Box<LocalVolume>),
    /// What the LocalVolume records of the volume, and the agent in the marker, is brought up to date.
    Record {
        /// What is recorded, once the API server has said it again.
        seen: SeenVolume,
        /// The policy has changed: not a moment later. Otherwise it may wait for a time in which nothing else is written.
        at_once: bool,
    },
    /// The finalizer is set: the volume must not vanish without its directory.
    Hold,
    /// The finalizer is lifted: the data stays, and the volume may go.
    Release,
    /// The directory is gone: the volume goes as well, if [`removal`] of what the API server says now agrees.
    Remove,
    /// It stays, and a person should hear why.
    Tell(String),
}

/// Decides about a volume.
#[must_use]
pub fn plan(volume: &Volume, local: &Lookup<&LocalVolume>) -> VolumeStep {
    let local = match local {
        Lookup::Found(local) => local,
        Lookup::Unknown => return VolumeStep::Nothing,
        Lookup::Absent => {
            let unclear = "the annotations of this volume do not say where its directory is: it is left alone";
            let lost = local_volume_from(volume).map(|lost| VolumeStep::Recover(Box::new(lost)));
            return lost.unwrap_or_else(|| VolumeStep::Tell(unclear.to_owned()));
        }
    };
    if local.is_disposed() {
        return VolumeStep::Remove;
    }
    let held = is_held(volume);
    let leaving = volume.metadata.deletion_timestamp.is_some();
    let record = |at_once| VolumeStep::Record { seen: seen(volume), at_once };
    let changed = local.spec.reclaim != reclaim(volume)
        || local
            .spec
            .persistent_volume
            .as_ref()
            .is_some_and(|seen| Some(seen.uid.as_str()) != volume.metadata.uid.as_deref());
    match reclaim(volume) {
        // First it is written down that the data stays, then the volume may vanish without us.
        Reclaim::Retain if !records(local, volume) => record(changed || held),
        Reclaim::Retain if held => VolumeStep::Release,
        Reclaim::Delete if !held && !leaving => VolumeStep::Hold,
        Reclaim::Delete if !records(local, volume) && (held || !leaving) => record(changed),
        Reclaim::Delete if leaving && volume.status.phase != "Released" && volume.status.phase != "Bound" => {
            VolumeStep::Tell(format!(
                "this volume is to be deleted and is {}, not Released: its data is kept; set its reclaim policy to Retain to let \
                 it go without its data",
                if volume.status.phase.is_empty() { "in no phase" } else { &volume.status.phase }
            ))
        }
        Reclaim::Retain | Reclaim::Delete => VolumeStep::Nothing,
    }
}

/// True for a volume that is being deleted and that we do not hold: what is left to do is the work of others.
#[must_use]
pub fn is_let_go(volume: &Volume) -> bool {
    volume.metadata.deletion_timestamp.is_some() && !is_held(volume)
}

fn is_held(volume: &Volume) -> bool {
    volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == VOLUME_FINALIZER)
}

/// Leave to let a volume go, as it was at one moment. It is made from live facts only, and spent by the write that it
/// permits, which is about this version of the volume and no other.
#[derive(Debug, PartialEq, Eq)]
pub struct Removal {
    seen: SeenVolume,
    held: bool,
}

impl Removal {
    /// The volume.
    #[must_use]
    pub fn seen(&self) -> &SeenVolume {
        &self.seen
    }

    /// Our finalizer is still on it.
    #[must_use]
    pub fn held(&self) -> bool {
        self.held
    }
}

/// Whether a volume may go, from what the API server says of it and of its LocalVolume at this moment.
///
/// # Errors
/// Why it stays.
pub fn removal(volume: &Volume, local: &LocalVolume) -> Result<Removal, String> {
    if !local.is_disposed() {
        return Err("its directory is still there".to_owned());
    }
    let of_this_volume = local.spec.disposal_of.as_deref() == volume.metadata.uid.as_deref();
    if !of_this_volume || local.spec.disposal_of.is_none() {
        return Err(format!(
            "the directory of this volume was removed before the volume was made: delete LocalVolume {} and restore the data, or \
             delete the volume",
            local.name()
        ));
    }
    if volume.status.phase != "Released" || !volume.is_deleted_on_release() {
        return Err(
            "the directory of this volume has been removed since it was Released under Delete: it is empty now"
                .to_owned(),
        );
    }
    Ok(Removal { seen: seen(volume), held: is_held(volume) })
}
