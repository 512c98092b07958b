//! The controller: looks at what its cache shows, decides by `latebind::volumes`, and writes some time later.

use std::sync::Arc;

use latebind::binding::Lookup;
use latebind::crd::{ClaimIdentity, Disposal, LocalVolume, LocalVolumeSpec, OnDelete, Reclaim, SameClaim, TakeBack};
use latebind::model::{Claim, ClaimReference, LOCAL_VOLUME, PathSource, Relation, Volume, plain_path};
use latebind::volumes::{
    DirectoryFacts, DirectoryStep, Earlier, Existing, Order, PROVISIONED_BY, PROVISIONER, VOLUME_FINALIZER, VolumeSet,
    VolumeStep, existing, local_volume, may_forget, plan_directory, plan_volume, removal, seen, volume_name,
};

use super::model::{BASE, NODE};
use super::people::delete_volume;
use super::world::{Change, Counts, World, Write};

impl World {
    /// The controller looks at something that its cache shows, asks the API server, and decides.
    pub fn decide(&mut self, counts: &mut Counts) {
        // A worker has one write under way, and there are a few workers.
        if self.writes.len() >= 3 {
            return;
        }
        match self.random.below(3) {
            0 => {
                if let Some(claim) = self.random.of(self.controller.claims.values().cloned().collect::<Vec<_>>()) {
                    self.decide_claim(&claim);
                }
            }
            1 => {
                if let Some(local) = self.random.of(self.controller.locals.values().cloned().collect::<Vec<_>>()) {
                    self.decide_directory(&local, counts);
                }
            }
            _ => {
                if let Some(volume) = self.random.of(self.controller.volumes.values().cloned().collect::<Vec<_>>()) {
                    self.decide_volume(&volume);
                }
            }
        }
    }

    /// As [`latebind::volumes::plan_claim`] does for a node that was selected; what it decides has cases of its own.
    pub fn decide_claim(&mut self, claim: &Claim) {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let name = volume_name(&uid);
        if claim.volume_name().is_some() || self.controller.volumes.contains_key(&name) {
            return;
        }
        match self.controller.locals.get(&LocalVolume::name_for(&uid, NODE)) {
            None => self.order(claim, &uid),
            Some(local) if local.spec.disposal.is_none() && !local.is_deleting() && local.is_ready() => {
                let live = self.store.claims.get(claim.name());
                if live.is_some_and(|live| live.metadata.uid == claim.metadata.uid && live.volume_name().is_none()) {
                    let volume = published(claim, local);
                    let name = local.name().to_owned();
                    self.writes.push(Write::Publish(Box::new(volume), name));
                }
            }
            Some(_) => {}
        }
    }

    /// The claim `c0` is of a class that leaves directories in their place and takes them back.
    fn order(&mut self, claim: &Claim, uid: &str) {
        let reclaim = if uid.ends_with('3') { Reclaim::Retain } else { Reclaim::Delete };
        let mut spec = LocalVolumeSpec {
            node_name: NODE.to_owned(),
            node_uid: "node".to_owned(),
            base: BASE.to_owned(),
            path: format!("p-{uid}"),
            claim: ClaimIdentity { namespace: "s".into(), name: claim.name().into(), uid: uid.to_owned() },
            reclaim,
            ..LocalVolumeSpec::default()
        };
        if claim.name() == "c0" {
            spec.on_delete = OnDelete::KeepPath;
            spec.same_claim = Some(SameClaim::default());
            let same = |local: &&LocalVolume| {
                local.spec.on_delete == OnDelete::KeepPath && local.spec.claim.name == claim.name()
            };
            let locals = self.controller.locals.values().filter(same).map(|local| Arc::new(local.clone().into()));
            let listed = self.report.iter().filter(|kept| kept.name == claim.name());
            let kept = listed.map(|kept| (NODE.to_owned(), kept.clone())).collect();
            match existing(uid, &[], &Earlier { locals: locals.collect(), kept }) {
                Existing::Nothing => {}
                Existing::Wait | Existing::Refuse(_) => return,
                Existing::TakeBack(_, kept) => {
                    let path = kept.directory();
                    let names =
                        |volume: &Volume| volume.path().is_some_and(|named| Relation::of(&path, named).overlaps());
                    if self.controller.volumes.values().any(names) {
                        return;
                    }
                    self.note(format!("claim {} ({uid}) is to take {} back", claim.name(), kept.directory()));
                    spec.path = kept.path;
                    let take_back = Some(TakeBack { claim: kept.claim, cluster: kept.cluster });
                    spec.same_claim = Some(SameClaim { take_back, ..SameClaim::default() });
                }
            }
        }
        self.writes.push(Write::Create(Box::new(local_volume(spec))));
    }

    pub fn lookup(&self, uid: Option<&str>) -> Lookup<Claim> {
        let Some(uid) = uid else { return Lookup::Unknown };
        Lookup::found_or(self.store.claim_by_uid(uid).cloned(), Lookup::Absent)
    }

    pub fn directory_step(&self, local: &LocalVolume) -> DirectoryStep {
        let volumes: VolumeSet = self.store.volumes.values().cloned().collect();
        let owner = match volumes.of(local).as_slice() {
            [volume] => self.lookup(volume.claim_uid()),
            _ => Lookup::Unknown,
        };
        let maker = self.lookup(Some(&local.spec.claim.uid));
        let node = Some(&self.node);
        plan_directory(local, &DirectoryFacts { volumes: &volumes, owner: &owner, maker: &maker, class: None, node })
    }

    pub fn decide_directory(&mut self, local: &LocalVolume, counts: &mut Counts) {
        let (name, uid) = (local.name().to_owned(), local.uid().to_owned());
        if local.is_disposed() {
            let recorded = local.spec.persistent_volume.as_ref().map(|seen| seen.name.clone()).unwrap_or_default();
            let volume = Lookup::found_or(self.store.volumes.get(&recorded).cloned(), Lookup::Absent);
            if may_forget(local, &volume) {
                self.writes.push(Write::ForgetLocal { name, uid });
            }
            return;
        }
        let change: Change = match self.directory_step(local) {
            DirectoryStep::Keep(_) => return,
            DirectoryStep::Withdraw(kept) => {
                counts.withdrawn += 1;
                self.note(format!("{name}: the order is taken back: {}", kept.why));
                Box::new(|local| {
                    local.spec.disposal = None;
                    local.spec.disposal_of = None;
                    local.spec.confirmed_attempt = None;
                })
            }
            DirectoryStep::Order(Order::Retained) => Box::new(|local| {
                local.spec.disposal = Some(Disposal::DeleteIfEmpty);
                local.spec.disposal_of = None;
                local.spec.confirmed_attempt = None;
            }),
            DirectoryStep::Order(Order::Permitted(permit)) => {
                self.note(format!("{name}: ordered {:?}", permit.disposal()));
                Box::new(move |local| {
                    local.spec.disposal = Some(permit.disposal());
                    local.spec.disposal_of = permit.volume().map(|seen| seen.uid.clone());
                    local.spec.confirmed_attempt = None;
                    if let Some(seen) = permit.volume() {
                        local.spec.reclaim = seen.reclaim_policy;
                        local.spec.persistent_volume = Some(seen.clone());
                    }
                })
            }
            DirectoryStep::Confirm { attempt, permit } => {
                self.note(format!("{name}: confirmed"));
                Box::new(move |local| {
                    local.spec.confirmed_attempt = Some(attempt);
                    if let Some(seen) = permit.volume() {
                        local.spec.persistent_volume = Some(seen.clone());
                    }
                })
            }
        };
        let version = local.metadata.resource_version.clone().unwrap_or_default();
        self.writes.push(Write::Local { name, uid, version, change });
    }

    pub fn decide_volume(&mut self, volume: &Volume) {
        let Some(local) =
            volume.metadata.annotation(LOCAL_VOLUME).filter(|_| volume.metadata.annotation(PROVISIONED_BY).is_some())
        else {
            return;
        };
        let name = volume.name().to_owned();
        let (uid, version) = (text(volume.metadata.uid.as_ref()), text(volume.metadata.resource_version.as_ref()));
        let known = self.controller.locals.get(local).cloned();
        let found = Lookup::found_or(known.as_ref(), Lookup::Absent);
        match plan_volume(volume, &found) {
            VolumeStep::Nothing | VolumeStep::Tell(_) => {}
            VolumeStep::Recover(local) => self.writes.push(Write::Create(local)),
            VolumeStep::Hold => self.writes.push(Write::Finalizer { name, uid, version, held: true }),
            VolumeStep::Release => self.writes.push(Write::Finalizer { name, uid, version, held: false }),
            VolumeStep::Record { .. } => {
                let live = self.store.volumes.get(&name).filter(|live| live.metadata.uid == volume.metadata.uid);
                if let (Some(live), Some(known)) = (live, known) {
                    let seen = seen(live);
                    let change: Change = Box::new(move |local| {
                        local.spec.reclaim = seen.reclaim_policy;
                        local.spec.persistent_volume = Some(seen);
                    });
                    let version = known.metadata.resource_version.clone().unwrap_or_default();
                    self.writes.push(Write::Local {
                        name: known.name().into(),
                        uid: known.uid().into(),
                        version,
                        change,
                    });
                }
            }
            VolumeStep::Remove => {
                let (Some(live), Some(local)) = (self.store.volumes.get(&name), self.store.locals.get(local)) else {
                    return;
                };
                if let Ok(removal) = removal(live, local) {
                    let (uid, version) = (removal.seen().uid.clone(), removal.seen().resource_version.clone());
                    if removal.held() {
                        self.writes.push(Write::Finalizer { name, uid, version, held: false });
                    } else {
                        self.writes.push(Write::DeleteVolume { name, uid, version });
                    }
                }
            }
        }
    }

    /// One of the controller's writes reaches the API server.
    pub fn write(&mut self, counts: &mut Counts) -> Result<(), String> {
        if self.writes.is_empty() {
            return Ok(());
        }
        let place = usize::try_from(self.random.below(self.writes.len() as u64)).unwrap();
        match self.writes.swap_remove(place) {
            Write::Create(mut local) => {
                if !self.store.locals.contains_key(local.name()) {
                    self.note(format!("LocalVolume {} ({:?})", local.name(), local.spec.origin));
                    local.metadata.uid = Some(format!("l{}", self.number()));
                    local.metadata.resource_version = Some(self.store.next());
                    self.store.locals.insert(local.name().to_owned(), *local);
                }
            }
            Write::Publish(mut volume, local) => {
                // One worker has a directory in hand: its removal is not ordered, or confirmed, while its volume is made.
                let ordered = self.store.locals.get(&local).is_none_or(|local| local.spec.disposal.is_some());
                if !ordered && !self.store.volumes.contains_key(volume.name()) {
                    self.note(format!("volume {} made", volume.name()));
                    volume.metadata.uid = Some(format!("v{}", self.number()).into());
                    volume.metadata.resource_version = Some(self.store.next().into());
                    self.store.volumes.insert(volume.name().to_owned(), *volume);
                }
            }
            Write::Local { name, uid, version, change } => {
                self.store.change_local(&name, &uid, Some(&version), change);
            }
            Write::Finalizer { name, uid, version, held } => {
                let of = (!held).then(|| self.disposed_with(&uid)).flatten();
                let path = self.store.volumes.get(&name).and_then(|volume| volume.path()).map(plain_path);
                self.store.change_volume(&name, &uid, Some(&version), |volume| {
                    volume.metadata.finalizers = held.then(|| vec![VOLUME_FINALIZER.into()]);
                });
                if let Some(claim) = of {
                    self.expect_gone((path.as_deref(), &claim), "the finalizer of its volume is lifted")?;
                }
            }
            Write::DeleteVolume { name, uid, version } => {
                let path = self.store.volumes.get(&name).and_then(|volume| volume.path()).map(plain_path);
                let claim = self.disposed_with(&uid).unwrap_or_default();
                if self.store.change_volume(&name, &uid, Some(&version), delete_volume) {
                    counts.reclaimed += 1;
                    self.note(format!("volume {name} reclaimed"));
                    self.expect_gone((path.as_deref(), &claim), "its volume is deleted")?;
                }
            }
            Write::ForgetLocal { name, uid } => {
                if let Some(local) = self.store.locals.get(&name).filter(|local| local.uid() == uid) {
                    let (path, claim) = (local.directory(), local.spec.claim.uid.clone());
                    self.store.locals.remove(&name);
                    self.store.next();
                    self.note(format!("LocalVolume {name} forgotten"));
                    self.expect_gone((Some(&path), &claim), "its LocalVolume is forgotten")?;
                }
            }
        }
        Ok(())
    }
}

impl World {
    /// The claim of the LocalVolume whose directory went with this volume.
    fn disposed_with(&self, uid: &str) -> Option<String> {
        let of = |local: &&LocalVolume| local.is_disposed() && local.spec.disposal_of.as_deref() == Some(uid);
        self.store.locals.values().find(of).map(|local| local.spec.claim.uid.clone())
    }
}

fn text(text: Option<&latebind::model::Text>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// The volume as the controller makes it.
fn published(claim: &Claim, local: &LocalVolume) -> Volume {
    let mut volume = Volume::default();
    volume.metadata.name = Some(volume_name(&local.spec.claim.uid).into());
    volume.metadata.finalizers = (local.spec.reclaim == Reclaim::Delete).then(|| vec![VOLUME_FINALIZER.into()]);
    let on_delete = (local.spec.on_delete == OnDelete::KeepPath).then_some(("latebind.dev/on-delete", "keep-path"));
    volume.metadata.annotations = Some(
        [
            (PROVISIONED_BY, PROVISIONER),
            (LOCAL_VOLUME, local.name()),
            ("latebind.dev/node", NODE),
            ("latebind.dev/node-uid", "node"),
            ("latebind.dev/base", BASE),
        ]
        .into_iter()
        .chain(on_delete)
        .map(|(key, value)| (key, latebind::model::Text::from(value)))
        .collect(),
    );
    volume.spec.local = Some(PathSource { path: local.directory().into() });
    volume.spec.claim_ref = Some(ClaimReference {
        namespace: Some("s".into()),
        name: Some(claim.name().into()),
        uid: claim.metadata.uid.clone(),
    });
    let policy = if local.spec.reclaim == Reclaim::Delete { "Delete" } else { "Retain" };
    volume.spec.persistent_volume_reclaim_policy = Some(policy.into());
    volume
}
