//! What must hold after each step, and at the end.

use std::collections::BTreeSet;
use std::time::Instant;

use latebind::binding::Lookup;
use latebind::crd::{LocalVolume, OnDelete, Reclaim};
use latebind::model::LOCAL_VOLUME;
use latebind::volumes::{DirectoryStep, PROVISIONED_BY, VolumeStep, complaint, plan_volume, removal};

use super::model::{Marker, Removed};
use super::world::World;

impl World {
    /// What the API server permits is noted after each step: an attempt may rely on any moment since it was begun.
    pub fn observe(&mut self) {
        if self.observed == (self.store.version, self.now) {
            return;
        }
        self.observed = (self.store.version, self.now);
        let paths: BTreeSet<String> = self.disks.iter().flat_map(|disk| disk.directories.keys().cloned()).collect();
        for path in paths {
            if self.store.permits(&path) {
                self.permitted.insert(path, self.now);
            }
        }
    }

    /// What is forgotten must lie on no disk, mounted or not, unless a person gave it up, or a marker says that it stays there, or
    /// another claim has taken it back.
    pub fn expect_gone(&self, (path, claim): (Option<&str>, &str), what: &str) -> Result<(), String> {
        let Some(path) = path.filter(|path| !self.given_up.contains(*path)) else { return Ok(()) };
        let there = self.disks.iter().any(|disk| {
            let is_accounted_for = |(uid, marker): (&String, &Marker)| {
                marker.path == path && (marker.kept || (marker.owner.is_some() && uid != claim))
            };
            let has_data = disk.directories.get(path).is_some_and(|directory| directory.files > 0);
            has_data && !disk.markers.iter().any(is_accounted_for)
        });
        if there { Err(format!("{path} has data, and {what}")) } else { Ok(()) }
    }

    /// The property: at some moment since the attempt was begun, the volume was Released under Delete, and no other one
    /// named the path.
    pub fn expect_permitted(&self, removed: &Removed, begun: Instant, local: &LocalVolume) -> Result<(), String> {
        if let Some(Marker { seen: Some(seen), reclaim: Reclaim::Retain, .. }) = &removed.marker {
            let ordered = super::model::version(local.spec.persistent_volume.as_ref());
            if ordered <= super::model::version(Some(seen)) {
                return Err(format!("{} was retained, and is gone", removed.path));
            }
        }
        if removed.files > 0 && local.spec.on_delete == OnDelete::KeepPath {
            return Err(format!("{} was to stay in its place, and is gone", removed.path));
        }
        if removed.files == 0 || self.permitted.get(&removed.path).is_some_and(|at| *at >= begun) {
            return Ok(());
        }
        Err(format!("{} had {} files and is gone without leave", removed.path, removed.files))
    }

    /// What has come to rest: everything but the names of attempts, which are new each time.
    pub fn fingerprint(&self) -> String {
        let locals = self.store.locals.values().map(|local| {
            let spec = &local.spec;
            let conditions = local.status.iter().flat_map(|status| &status.conditions);
            let said: Vec<&str> = conditions.map(|condition| condition.reason.as_str()).collect();
            let seen = spec.persistent_volume.as_ref().map(|seen| (seen.uid.as_str(), seen.reclaim_policy));
            let order = (spec.disposal, spec.disposal_of.as_deref());
            format!("{} {order:?} {seen:?} {said:?} {}", local.uid(), local.has_finalizer())
        });
        let volumes = self.store.volumes.values().map(|volume| {
            let finalizers = volume.metadata.finalizers.as_ref().map_or(0, Vec::len);
            format!("{} {:?} {} {finalizers}", volume.name(), volume.metadata.uid, volume.status.phase)
        });
        locals.chain(volumes).collect::<Vec<_>>().join("\n")
    }

    /// What was released under Delete is gone, or somebody says why it is not.
    pub fn explained(&self) -> Result<(), String> {
        for volume in self.store.volumes.values() {
            let ours = volume.metadata.annotation(PROVISIONED_BY).is_some();
            if !ours || volume.status.phase != "Released" || !volume.is_deleted_on_release() {
                continue;
            }
            let name = volume.metadata.annotation(LOCAL_VOLUME).unwrap_or_default();
            let local = self.store.locals.get(name);
            let told = match local {
                None => matches!(plan_volume(volume, &Lookup::Absent), VolumeStep::Tell(_)),
                Some(local) if local.is_disposed() => removal(volume, local).is_err(),
                Some(local) => {
                    let step = self.directory_step(local);
                    let kept = matches!(&step, DirectoryStep::Keep(kept) if kept.tell);
                    kept || complaint(local, &Lookup::Found(())).is_some()
                }
            };
            if !told {
                return Err(format!("volume {} stays without a word: {local:?}", volume.name()));
            }
        }
        Ok(())
    }
}
