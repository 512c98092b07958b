//! People and machines: what they do to a cluster, in whatever order.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use latebind::agent::Attempts;
use latebind::model::{ClaimReference, PathSource, Volume, plain_path};
use serde_json::json;

use super::model::{BASE, NODE};
use super::world::World;

impl World {
    /// A user: claims, and what Pods write.
    pub fn person(&mut self) {
        let name = format!("c{}", self.random.below(2));
        match self.random.below(6) {
            0..3 if !self.store.claims.contains_key(&name) => self.create_claim(&name),
            3 | 4 if self.store.claims.remove(&name).is_some() => {
                self.store.next();
                self.note(format!("claim {name} deleted"));
            }
            _ => self.write_files(),
        }
    }

    pub fn create_claim(&mut self, name: &str) {
        let uid = format!("u{}", self.number());
        self.note(format!("claim {name} ({uid})"));
        let claim = json!({ "metadata": { "name": name, "namespace": "s", "uid": uid,
            "annotations": { "volume.kubernetes.io/selected-node": NODE } }, "spec": {} });
        self.store.next();
        self.store.claims.insert(name.to_owned(), serde_json::from_value(claim).unwrap());
    }

    /// Pods write into every volume that is bound and mounted.
    pub fn write_files(&mut self) {
        let bound = self.store.volumes.values().filter(|volume| volume.status.phase == "Bound");
        let paths: Vec<String> = bound.filter_map(|volume| volume.path().map(plain_path)).collect();
        for path in paths {
            if let Some(directory) = self.disks[self.mounted].directories.get_mut(&path) {
                directory.files += 1;
                self.log.push(format!("a file in {path}"));
            }
        }
    }

    /// An administrator: policies, deletions, finalizers.
    pub fn administrator(&mut self) {
        let what = self.random.below(7);
        if let Some(name) = self.random.of(self.store.volumes.keys().cloned()) {
            let uid = self.store.volumes[&name].metadata.uid.clone().unwrap_or_default();
            match what {
                0 | 1 => {
                    let policy = if self.random.below(2) == 0 { "Retain" } else { "Delete" };
                    self.note(format!("volume {name} set to {policy}"));
                    let change =
                        |volume: &mut Volume| volume.spec.persistent_volume_reclaim_policy = Some(policy.into());
                    self.store.change_volume(&name, &uid, None, change);
                }
                2 => {
                    self.note(format!("volume {name} deleted"));
                    self.store.change_volume(&name, &uid, None, delete_volume);
                }
                3 => {
                    self.note(format!("finalizers of volume {name} torn off"));
                    self.store.change_volume(&name, &uid, None, |volume| volume.metadata.finalizers = None);
                }
                _ => {}
            }
        }
        if let Some(name) = self.random.of(self.store.locals.keys().cloned()) {
            let (uid, path) = (self.store.locals[&name].uid().to_owned(), self.store.locals[&name].directory());
            match what {
                4 => {
                    self.note(format!("LocalVolume {name} deleted"));
                    self.store.change_local(&name, &uid, None, |local| {
                        local.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
                    });
                }
                5 => {
                    // The documented way to give a directory up.
                    self.note(format!("finalizer of LocalVolume {name} torn off"));
                    self.given_up.insert(path);
                    self.store.change_local(&name, &uid, None, |local| local.metadata.finalizers = None);
                }
                _ => {}
            }
        }
    }

    /// What few do: saved YAML, volumes by hand, claims moved to other volumes, a store from a backup.
    pub fn unusual(&mut self) {
        match self.random.below(6) {
            0 => self.saved.extend(self.store.volumes.values().cloned()),
            1 => {
                if let Some(mut volume) = self.random.of(self.saved.clone())
                    && !self.store.volumes.contains_key(volume.name())
                {
                    self.note(format!("volume {} back from YAML", volume.name()));
                    volume.metadata.uid = Some(format!("v{}", self.number()).into());
                    volume.metadata.resource_version = Some(self.store.next().into());
                    volume.metadata.deletion_timestamp = None;
                    volume.status.phase = "".into();
                    if self.random.below(2) == 0 {
                        volume.spec.claim_ref.iter_mut().for_each(|reference| reference.uid = None);
                    }
                    self.store.volumes.insert(volume.name().to_owned(), volume);
                }
            }
            2 => self.volume_by_hand(),
            3 | 4 => {
                let released = self.store.volumes.values().filter(|volume| volume.status.phase == "Released");
                if let Some(volume) = self.random.of(released.cloned().collect::<Vec<_>>()) {
                    let claim = format!("c{}", self.random.below(2));
                    self.note(format!("volume {} handed on to claim {claim}", volume.name()));
                    let reference =
                        ClaimReference { namespace: Some("s".into()), name: Some(claim.as_str().into()), uid: None };
                    let uid = volume.metadata.uid.clone().unwrap_or_default();
                    self.store.change_volume(volume.name(), &uid, None, |it| it.spec.claim_ref = Some(reference));
                }
            }
            _ => {
                if self.random.below(3) > 0 {
                    self.backups.push(self.store.clone());
                } else if let Some(backup) = self.random.of(self.backups.clone()) {
                    self.note("the store is restored from a backup");
                    self.store = backup;
                    self.observed = (0, self.now);
                }
            }
        }
    }

    pub fn volume_by_hand(&mut self) {
        let paths: Vec<String> = self.disks.iter().flat_map(|disk| disk.directories.keys().cloned()).collect();
        let Some(path) = self.random.of(paths) else { return };
        let number = self.number();
        let path = match self.random.below(3) {
            0 => path,
            1 => path.replace(BASE, &format!("/{BASE}/.")),
            _ => format!("{path}/sub"),
        };
        let policy = if self.random.below(2) == 0 { "Retain" } else { "Delete" };
        self.note(format!("volume h{number} by hand for {path} ({policy})"));
        let mut volume = Volume::default();
        volume.metadata.name = Some(format!("h{number}").into());
        volume.metadata.uid = Some(format!("v{number}").into());
        volume.metadata.resource_version = Some(self.store.next().into());
        volume.spec.local = Some(PathSource { path: path.into() });
        volume.spec.persistent_volume_reclaim_policy = Some(policy.into());
        let claim = format!("c{}", self.random.below(2));
        volume.spec.claim_ref =
            Some(ClaimReference { namespace: Some("s".into()), name: Some(claim.into()), uid: None });
        self.store.volumes.insert(format!("h{number}"), volume);
    }

    /// Machines: crashes, disks, stale caches.
    pub fn machine(&mut self) {
        match self.random.below(5) {
            0 => {
                self.note("the controller crashes");
                self.writes.clear();
                self.controller = self.store.clone();
            }
            1 => {
                self.note("the agent crashes");
                self.doings.clear();
                self.attempts = Attempts::default();
                self.agent = self.store.locals.clone();
            }
            2 => {
                self.mounted = usize::try_from(self.random.below(3)).unwrap();
                self.note(format!("disk {} is mounted", self.mounted));
            }
            _ => {
                self.mounted = 1;
            }
        }
    }

    pub fn listen(&mut self) {
        if self.random.below(2) == 0 {
            self.controller = self.store.clone();
            // Of a disk that is away the report says what it said before.
            if self.mounted == 1 {
                self.report = self.disks[1].kept();
            }
        } else {
            self.agent = self.store.locals.clone();
        }
    }
}

pub fn delete_volume(volume: &mut Volume) {
    volume.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
}
