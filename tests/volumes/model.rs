//! A cluster and the disks of one node, small enough to play a million histories: a store with versions and preconditions,
//! the binder of the controller manager, and the file system as the agent sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use latebind::crd::{
    Disposal, EXISTING_DIRECTORY, FINALIZER, KeptDirectory, LocalVolume, LocalVolumeStatus, OnDelete, Origin, READY,
    Reclaim, SeenVolume, set_condition,
};
use latebind::model::{Claim, ClaimReference, Volume, plain_path};

/// The only node, its only pool path, and the class.
pub const NODE: &str = "n";
pub const BASE: &str = "/b";

/// What the API server holds.
#[derive(Clone, Default)]
pub struct Store {
    pub version: u64,
    pub claims: BTreeMap<String, Claim>,
    pub volumes: BTreeMap<String, Volume>,
    pub locals: BTreeMap<String, LocalVolume>,
}

impl Store {
    pub fn next(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub fn claim_by_uid(&self, uid: &str) -> Option<&Claim> {
        self.claims.values().find(|claim| claim.metadata.uid.as_deref() == Some(uid))
    }

    /// Changes a volume if it is still the one that was read.
    pub fn change_volume(
        &mut self,
        name: &str,
        uid: &str,
        version: Option<&str>,
        change: impl FnOnce(&mut Volume),
    ) -> bool {
        let next = self.next();
        let Some(volume) = self.volumes.get_mut(name) else { return false };
        let metadata = &volume.metadata;
        if metadata.uid.as_deref() != Some(uid)
            || version.is_some_and(|it| metadata.resource_version.as_deref() != Some(it))
        {
            return false;
        }
        change(volume);
        volume.metadata.resource_version = Some(next.into());
        self.collect();
        true
    }

    /// The same of a LocalVolume.
    pub fn change_local(
        &mut self,
        name: &str,
        uid: &str,
        version: Option<&str>,
        change: impl FnOnce(&mut LocalVolume),
    ) -> bool {
        let next = self.next();
        let Some(local) = self.locals.get_mut(name) else { return false };
        if local.uid() != uid || version.is_some_and(|it| local.metadata.resource_version.as_deref() != Some(it)) {
            return false;
        }
        change(local);
        local.metadata.resource_version = Some(next);
        self.collect();
        true
    }

    /// What is being deleted and held by nobody is gone.
    fn collect(&mut self) {
        self.locals
            .retain(|_, local| !local.is_deleting() || local.metadata.finalizers.iter().flatten().next().is_some());
        self.volumes.retain(|_, volume| {
            let held = volume.metadata.finalizers.iter().flatten().next().is_some() || volume.status.phase == "Bound";
            volume.metadata.deletion_timestamp.is_none() || held
        });
    }

    /// What the controller manager does.
    pub fn bind(&mut self) {
        let claims: Vec<Claim> = self.claims.values().cloned().collect();
        for claim in claims.iter().filter(|claim| claim.volume_name().is_none()) {
            let fits =
                |volume: &&mut Volume| volume.is_claimed_by(claim) && volume.metadata.deletion_timestamp.is_none();
            if let Some(volume) = self.volumes.values_mut().find(fits) {
                let name = volume.name().to_owned();
                let version = (self.version + 1).to_string();
                self.version += 1;
                volume.spec.claim_ref = Some(ClaimReference {
                    namespace: Some("s".into()),
                    name: Some(claim.name().into()),
                    uid: claim.metadata.uid.clone(),
                });
                volume.status.phase = "Bound".into();
                volume.metadata.resource_version = Some(version.into());
                if let Some(stored) = self.claims.get_mut(claim.name()) {
                    stored.spec.volume_name = Some(name.into());
                }
            }
        }
        let names: Vec<String> = self.volumes.keys().cloned().collect();
        for name in names {
            let volume = &self.volumes[&name];
            let phase = match (volume.spec.claim_ref.is_some(), volume.claim_uid()) {
                (false, _) | (true, None) => "Available",
                (true, Some(uid)) => match self.claim_by_uid(uid) {
                    Some(claim) if claim.volume_name() == Some(name.as_str()) => "Bound",
                    Some(_) => "Available",
                    None => "Released",
                },
            };
            if volume.status.phase != phase {
                let uid = volume.metadata.uid.clone().unwrap_or_default();
                self.change_volume(&name, &uid, None, |volume| volume.status.phase = phase.into());
            }
        }
    }

    /// True when the API server says at this moment that the data at a path may go.
    pub fn permits(&self, path: &str) -> bool {
        let inside = |other: &str| {
            let (ours, theirs) = (format!("{path}/"), format!("{}/", plain_path(other)));
            ours.starts_with(&theirs) || theirs.starts_with(&ours)
        };
        let mut naming = self.volumes.values().filter(|volume| volume.path().is_some_and(inside));
        let (Some(volume), None) = (naming.next(), naming.next()) else { return false };
        let is_gone = volume.claim_uid().is_some_and(|uid| self.claim_by_uid(uid).is_none());
        volume.status.phase == "Released" && volume.is_deleted_on_release() && is_gone
    }
}

/// A directory on a disk.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Files that somebody wrote.
    pub files: u32,
}

/// Who owns a directory, and what is known of its volume.
#[derive(Clone, Debug)]
pub struct Marker {
    pub path: String,
    pub seen: Option<SeenVolume>,
    pub reclaim: Reclaim,
    /// Name of the claim, where its directory stays in its place.
    pub owner: Option<String>,
    /// It stays there, and its volume is gone.
    pub kept: bool,
}

/// What may be mounted at the base.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub id: Option<String>,
    pub directories: BTreeMap<String, Directory>,
    /// By the UID of the claim.
    pub markers: BTreeMap<String, Marker>,
    /// LocalVolumes whose directories were moved away from here.
    pub gone: BTreeSet<String>,
    /// Directories that were taken back: how often.
    pub taken_back: u64,
}

/// What was removed: path, how many files were in it, and what its marker said.
#[derive(Clone, Debug)]
pub struct Removed {
    pub path: String,
    pub files: u32,
    pub marker: Option<Marker>,
}

/// The version of a volume that was seen.
pub fn version(seen: Option<&SeenVolume>) -> u64 {
    seen.and_then(|seen| seen.resource_version.parse().ok()).unwrap_or(0)
}

impl Disk {
    fn expect_id(&self, local: &LocalVolume) -> Result<(), &'static str> {
        let expected = local.status.as_ref().and_then(|status| status.base_id.as_ref());
        if expected.is_none_or(|expected| self.id.as_ref() == Some(expected)) { Ok(()) } else { Err("BaseChanged") }
    }

    /// What the agent's report lists.
    pub fn kept(&self) -> Vec<KeptDirectory> {
        let kept = self.markers.iter().filter(|(_, marker)| marker.kept);
        let directory = |(claim, marker): (&String, &Marker)| {
            Some(KeptDirectory {
                namespace: "s".to_owned(),
                name: marker.owner.clone()?,
                claim: claim.clone(),
                cluster: String::new(),
                base: BASE.to_owned(),
                path: marker.path.strip_prefix(BASE)?.trim_start_matches('/').to_owned(),
            })
        };
        kept.filter_map(directory).collect()
    }

    /// Takes a directory back, as an order says; an order that names none gets none where there is one.
    fn take_back(&mut self, local: &LocalVolume) -> Result<(), &'static str> {
        let Some(same) = &local.spec.same_claim else { return Ok(()) };
        let (claim, path) = (&local.spec.claim.uid, local.directory());
        let earlier: Vec<(String, Marker)> = self
            .markers
            .iter()
            .filter(|(uid, marker)| *uid != claim && marker.owner.as_ref() == Some(&local.spec.claim.name))
            .map(|(uid, marker)| (uid.clone(), marker.clone()))
            .collect();
        let Some(wanted) = &same.take_back else {
            return match earlier.first() {
                None => Ok(()),
                Some((_, marker)) if marker.kept => Err(EXISTING_DIRECTORY),
                Some(_) => Err("NotTakenBack"),
            };
        };
        let [(uid, marker)] = earlier.as_slice() else { return Err("NotTakenBack") };
        if *uid != wanted.claim || marker.path != path || !marker.kept {
            return Err("NotTakenBack");
        }
        if !self.directories.contains_key(&path) {
            return Err("DirectoryGone");
        }
        let next = Marker { seen: None, reclaim: local.spec.reclaim, kept: false, ..marker.clone() };
        self.markers.insert(claim.clone(), next);
        self.markers.remove(uid);
        self.taken_back += 1;
        Ok(())
    }

    /// Makes a directory, or finds it.
    pub fn make(&mut self, local: &LocalVolume, served: bool, fresh: &str) -> Result<String, &'static str> {
        self.expect_id(local)?;
        let (claim, path) = (&local.spec.claim.uid, local.directory());
        if !served && !self.markers.contains_key(claim) {
            self.take_back(local)?;
        }
        let ours = self.markers.get(claim).is_some_and(|marker| marker.path == path);
        match (self.directories.contains_key(&path), ours) {
            (true, true) => {}
            (true, false) => return Err("NotOurs"),
            (false, _) if served => return Err("DirectoryGone"),
            (false, _) => drop(self.directories.insert(path.clone(), Directory::default())),
        }
        let before = self.markers.get(claim).and_then(|marker| marker.seen.clone());
        let newer = version(before.as_ref()) > version(local.spec.persistent_volume.as_ref());
        if !(ours && newer) {
            let seen = local.spec.persistent_volume.clone();
            let owner = (local.spec.on_delete == OnDelete::KeepPath).then(|| local.spec.claim.name.clone());
            let marker = Marker { path, seen, reclaim: local.spec.reclaim, owner, kept: false };
            self.markers.insert(claim.clone(), marker);
        } else if let Some(marker) = self.markers.get_mut(claim) {
            marker.kept = false;
        }
        Ok(self.id.get_or_insert_with(|| fresh.to_owned()).clone())
    }

    /// Takes a directory away.
    pub fn dispose(&mut self, local: &LocalVolume, served: bool) -> Result<Option<Removed>, &'static str> {
        self.expect_id(local)?;
        let (claim, path) = (&local.spec.claim.uid, local.directory());
        let there = self.directories.get(&path);
        let Some(marker) = self.markers.get(claim).filter(|marker| marker.path == path) else {
            return match there {
                Some(_) if local.takes_back().is_some() && !served => Ok(None),
                Some(_) => Err("NotOurs"),
                None if self.gone.contains(local.uid()) || !served => Ok(None),
                None => Err("DirectoryMissing"),
            };
        };
        if marker.reclaim == Reclaim::Retain
            && version(marker.seen.as_ref()) >= version(local.spec.persistent_volume.as_ref())
        {
            return Err("Retained");
        }
        let stays = local.spec.disposal == Some(Disposal::Delete) || local.takes_back().is_some();
        if local.spec.on_delete == OnDelete::KeepPath && stays && there.is_some() {
            if let Some(marker) = self.markers.get_mut(claim) {
                let handed_on =
                    marker.seen.as_ref().is_some_and(|seen| !seen.claim_uid.is_empty() && seen.claim_uid != *claim);
                marker.owner = marker.owner.take().filter(|_| !handed_on);
                marker.kept = true;
            }
            return Ok(None);
        }
        let files = there.map_or(0, |directory| directory.files);
        if local.spec.disposal == Some(Disposal::DeleteIfEmpty) && files > 0 {
            return Err("Retained");
        }
        let removed = there.map(|_| Removed { path: path.clone(), files, marker: Some(marker.clone()) });
        self.directories.remove(&path);
        self.markers.remove(claim);
        self.gone.insert(local.uid().to_owned());
        Ok(removed)
    }
}

/// Sets `Ready` as the agent does; true when that is a change.
pub fn ready(status: &mut LocalVolumeStatus, reason: &str) -> bool {
    let is_ready = reason == "DirectoryReady";
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    set_condition(&mut status.conditions, (READY, is_ready, reason, reason), None, now)
}

/// True when it was ready at some time, or must have been.
pub fn was_served(local: &LocalVolume) -> bool {
    local.spec.origin != Origin::Made || local.status.as_ref().is_some_and(|status| status.base_id.is_some())
}

/// A finalizer is lifted.
pub fn lift(local: &mut LocalVolume) {
    if let Some(finalizers) = &mut local.metadata.finalizers {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
}

/// When the data of a path was last permitted to go.
pub type Permitted = BTreeMap<String, Instant>;
