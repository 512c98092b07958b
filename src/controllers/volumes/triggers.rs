//! From what the watches bring to which keys are to be looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kube::ResourceExt;

use super::context::{Key, Stores};
use super::disks::keys_of;
use super::reconciler::Volumes;
use crate::crd::{Kept, LocalDisk, LocalNode, LocalPool, LocalVolume, SpecAndStatus};
use crate::facts::live::{CacheEvent, Change, Changed, Observer, disk_of_node};
use crate::model::{Claim, Node, Volume};
use crate::volumes::{LOCAL_VOLUME, volume_name};

/// Puts what changes into the queue, and has what is remembered follow.
pub(super) struct Triggers(pub Arc<Volumes>);

impl Triggers {
    fn is_open(&self) -> bool {
        // What the first lists bring is looked at as a whole.
        self.0.synced.load(Ordering::Acquire)
    }

    /// A LocalVolume, as its watch tells.
    pub fn local(&self, news: CacheEvent<Kept<LocalVolume>>) {
        let Volumes { context, memory, .. } = &*self.0;
        let change = match news {
            CacheEvent::Changed(change) => change,
            // Reservations stay: an order that is under way may be younger than the list.
            CacheEvent::Listed => return context.queue.now(Key::Everything),
        };
        let as_local = |object: &Option<Arc<Kept<LocalVolume>>>| object.as_ref().map(|kept| (***kept).clone());
        let (before, after) = (as_local(&change.before), as_local(&change.after));
        memory.placement.lock().local_changed(before.as_ref(), after.as_ref());
        let Some(local) = after.or(before).filter(|_| self.is_open()) else { return };
        let claim = &local.spec.claim;
        context.queue.now(Key::Claim(claim.namespace.clone(), claim.name.clone()));
        context.queue.now(Key::Local(local.name().to_owned()));
        context.queue.now(Key::Volume(volume_of(&local)));
    }

    /// A LocalDisk. One that is gone may have stood in the way of what its node reports.
    pub fn disk(&self, news: CacheEvent<Kept<LocalDisk>>) {
        let context = &self.0.context;
        let CacheEvent::Changed(change) = news else { return context.queue.now(Key::Everything) };
        if !self.is_open() || !is_new(&change) {
            return;
        }
        let Some(disk) = change.after.as_ref().or(change.before.as_ref()) else { return };
        context.queue.now(Key::Disk(disk.name().to_owned()));
        if change.after.is_none() {
            context.queue.now(Key::Report(disk.spec.node_name.clone()));
        }
    }

    /// A pool.
    pub fn pool(&self, news: CacheEvent<Kept<LocalPool>>) {
        match news {
            CacheEvent::Changed(change) if is_new(&change) => {
                self.0.requeue_waiting_claims_now();
                let name = change.after.as_ref().or(change.before.as_ref()).map(|pool| pool.name_any());
                self.disks_of_pool(&name.unwrap_or_default());
            }
            CacheEvent::Changed(_) => {}
            CacheEvent::Listed => self.0.pools_refilled.notify_one(),
        }
    }

    /// The rules of a pool may be others, or gone. A person does that now and then, so that all disks are gone through.
    fn disks_of_pool(&self, pool: &str) {
        let context = &self.0.context;
        for disk in context.stores.disks.all().iter().filter(|disk| self.is_open() && disk.spec.pool == pool) {
            context.queue.now(Key::Disk(disk.name().to_owned()));
        }
    }

    /// The report of a node.
    pub fn report(&self, news: CacheEvent<Kept<LocalNode>>) {
        let CacheEvent::Changed(change) = news else { return };
        if !is_new(&change) {
            return;
        }
        let Some(report) = change.after.as_ref().or(change.before.as_ref()) else { return };
        self.0.memory.placement.lock().changed(&report.name_any());
        if !self.is_open() {
            return;
        }
        if change.after.is_some() {
            self.0.context.queue.now(Key::Report(report.name_any()));
        }
        self.0.requeue_waiting_claims();
    }

    fn claim(&self, change: Changed<Claim>) {
        let Volumes { context, memory, .. } = &*self.0;
        let gone = change.after.is_none();
        let Some(claim) = change.after.or(change.before) else { return };
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        if gone || claim.volume_name().is_some() {
            memory.bound(&uid);
        }
        if gone {
            memory.forget(&uid);
        }
        context.queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
        // A bound claim says nothing new about its directory before it goes.
        if claim.volume_name().is_none() || gone {
            for local in context.stores.locals.find(&uid) {
                context.queue.now(Key::Local(local.name().to_owned()));
            }
        }
    }

    fn volume(&self, change: Changed<Volume>) {
        let Volumes { context, memory, .. } = &*self.0;
        let gone = change.after.is_none();
        let Some(volume) = change.after.or(change.before) else { return };
        memory.volume_seen(volume.name());
        context.queue.now(Key::Volume(volume.name().to_owned()));
        for disk in keys_of(context, &volume) {
            context.queue.now(disk);
        }
        let stores = &context.stores;
        let locals = locals_of(stores, &volume);
        let is_ordered = |it: &String| stores.locals.get(it).is_some_and(|it| it.spec.disposal.is_some());
        // What was released and is not any more has its order taken back.
        if volume.status.phase == "Released" || gone || locals.iter().any(is_ordered) {
            for local in locals {
                context.queue.now(Key::Local(local));
            }
        }
    }

    /// A class may be one that claims have waited for that were never looked at.
    fn class(&self) {
        self.0.memory.begin_anew();
        for disk in self.0.context.stores.disks.all() {
            self.0.context.queue.now(Key::Disk(disk.name().to_owned()));
        }
        let waiting = self.0.context.all_claims().into_iter().filter(|claim| claim.volume_name().is_none());
        for claim in waiting {
            self.0.context.queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
        }
    }

    fn node(&self, change: &Changed<Node>) {
        let Volumes { context, memory, .. } = &*self.0;
        if is_heartbeat(change) {
            return;
        }
        memory.placement.lock().node_changed(change.before.as_deref(), change.after.as_deref());
        if !self.is_open() {
            return;
        }
        for disk in change
            .after
            .iter()
            .chain(&change.before)
            .flat_map(|node| context.stores.disks.find(&disk_of_node(node.name())))
        {
            context.queue.now(Key::Disk(disk.name().to_owned()));
        }
        if let (Some(node), None) = (&change.before, &change.after) {
            for local in context.stores.locals.all().iter().filter(|local| local.spec.node_name == node.name()) {
                context.queue.now(Key::Local(local.name().to_owned()));
            }
        }
        self.0.requeue_waiting_claims();
    }
}

impl Observer for Triggers {
    fn changed(&self, change: Change) {
        match change {
            Change::Node(change) => self.node(&change),
            _ if !self.is_open() => {}
            Change::Claim(change) => self.claim(change),
            Change::Volume(change) => self.volume(change),
            Change::Class(_) => self.class(),
            // A claim that waits to know its Pods waits for one that cannot be read, of which nothing is told.
            Change::Pod(_) | Change::Policy(_) | Change::Driver(_) | Change::DriverNode(_) | Change::PodOnNode(_) => {}
        }
    }
}

/// Kubelets write their Nodes all the time: nothing has changed that decides where a volume may be.
fn is_heartbeat(change: &Changed<Node>) -> bool {
    let (Some(before), Some(after)) = (&change.before, &change.after) else { return false };
    before.metadata.uid == after.metadata.uid
        && before.metadata.labels == after.metadata.labels
        && before.spec.taints == after.spec.taints
        && before.spec.unschedulable == after.spec.unschedulable
        && before.is_ready() == after.is_ready()
}

/// False for an object that a new list brought as it was.
fn is_new<K: SpecAndStatus>(change: &Changed<Kept<K>>) -> bool {
    let version = |object: &Option<Arc<Kept<K>>>| object.as_ref().and_then(|it| it.resource_version());
    version(&change.before) != version(&change.after)
}

/// The name of the volume that a directory is, or may become.
fn volume_of(local: &LocalVolume) -> String {
    local.spec.persistent_volume.as_ref().map_or_else(|| volume_name(&local.spec.claim.uid), |seen| seen.name.clone())
}

/// The LocalVolumes that may be a volume's: by its annotation, by what they record, and by its claim.
fn locals_of(stores: &Stores, volume: &Volume) -> BTreeSet<String> {
    let uid = volume.claim_uid().unwrap_or_default();
    let found = [stores.locals.find(&uid.into()), stores.locals.find(&volume.name().into())];
    let known = found.iter().flatten().map(|local| local.name().to_owned());
    known.chain(volume.metadata.annotation(LOCAL_VOLUME).map(str::to_owned)).collect()
}
