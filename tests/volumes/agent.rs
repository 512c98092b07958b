//! The agent: makes and removes directories of the disk that is mounted, as LocalVolumes say.

use k8s_openapi::jiff::Timestamp;
use latebind::agent::{ATTEMPT_LASTS, Next};
use latebind::crd::{DISPOSED, Disposal, LocalVolume, LocalVolumeStatus, Origin, set_condition};

use super::model::{lift, ready, was_served};
use super::world::{Counts, Doing, World};

impl World {
    /// The agent looks at something that its cache shows.
    pub fn follow(&mut self) {
        let Some(local) = self.random.of(self.agent.values().cloned().collect::<Vec<_>>()) else { return };
        self.follow_one(local);
    }

    pub fn follow_one(&mut self, local: LocalVolume) {
        if !local.has_finalizer() || local.is_disposed() {
            return;
        }
        let mut status = local.status.clone().unwrap_or_default();
        if local.spec.disposal.is_none() {
            self.attempts.forget(local.uid());
            if matches!(local.spec.origin, Origin::Adopted | Origin::Orphan) {
                return;
            }
            let fresh = format!("b{}", self.number());
            let served = was_served(&local);
            let reason = match self.disks[self.mounted].make(&local, served, &fresh) {
                Ok(id) => {
                    status.base_id = Some(id);
                    "DirectoryReady"
                }
                Err(reason) => reason,
            };
            ready(&mut status, reason);
            self.write_status(&local, status);
            return;
        }
        let was_recorded = local.spec.persistent_volume.is_some() || local.spec.origin == Origin::Recovered;
        if local.spec.disposal == Some(Disposal::DeleteIfEmpty) && was_recorded {
            ready(&mut status, "Retained");
            self.write_status(&local, status);
            return;
        }
        match self.attempts.next(local.uid(), local.spec.confirmed_attempt.as_deref(), self.now) {
            Next::Wait(_) => {}
            Next::Ask(name) => {
                status.disposal_attempt = Some(name);
                self.write_status(&local, status);
            }
            Next::Act(begun) => self.doings.push(Doing::Dispose { local: Box::new(local), begun }),
        }
    }

    pub fn write_status(&mut self, local: &LocalVolume, status: LocalVolumeStatus) {
        if local.status.as_ref() != Some(&status) {
            self.store.change_local(local.name(), local.uid(), None, |stored| stored.status = Some(status));
        }
    }

    /// The agent does what it has decided.
    pub fn act(&mut self, counts: &mut Counts) -> Result<(), String> {
        if self.doings.is_empty() {
            return Ok(());
        }
        let place = usize::try_from(self.random.below(self.doings.len() as u64)).unwrap();
        match self.doings.swap_remove(place) {
            Doing::Dispose { local, begun } => {
                if self.now - begun >= ATTEMPT_LASTS {
                    return Ok(());
                }
                match self.disks[self.mounted].dispose(&local, was_served(&local)) {
                    Ok(removed) => {
                        self.note(format!("{}: {removed:?}", local.name()));
                        if let Some(removed) = removed {
                            self.expect_permitted(&removed, begun, &local)?;
                            counts.removed += u64::from(removed.files > 0);
                        }
                        self.doings.push(Doing::Lift {
                            name: local.name().to_owned(),
                            uid: local.uid().to_owned(),
                            version: local.metadata.resource_version.clone().unwrap_or_default(),
                            deleting: local.is_deleting(),
                        });
                    }
                    Err(reason) => {
                        counts.refused += 1;
                        let mut status = local.status.clone().unwrap_or_default();
                        ready(&mut status, reason);
                        self.write_status(&local, status);
                    }
                }
            }
            Doing::Lift { name, uid, version, deleting } => {
                // Both only for the very object that was acted on: an order that was taken back meanwhile is no more carried out.
                if deleting {
                    self.store.change_local(&name, &uid, Some(&version), |local| {
                        let status = local.status.get_or_insert_default();
                        set_condition(
                            &mut status.conditions,
                            (DISPOSED, true, "Removed", ""),
                            None,
                            Timestamp::UNIX_EPOCH,
                        );
                    });
                } else {
                    self.store.change_local(&name, &uid, Some(&version), lift);
                }
            }
        }
        Ok(())
    }
}
