//! What is done with each kind of key, for the one loop of all controllers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::context::{Context, Key};
use super::memory::Memory;
use super::refusals::{Refusal, is_refusal};
use super::warnings::{refuse, volume_stays};
use super::{claims, directories, disks, found_disks, orphans, persistent_volumes};
use crate::kubernetes::api::ApiError;
use crate::kubernetes::controller::{Reconciler, Turn};
use crate::volumes::volume_name;

/// For how long changes of nodes and their reports are gathered. The shortest pause of a claim that waits is a second.
const GATHERED: Duration = Duration::from_millis(200);

/// Claims, volumes, directories and reports of nodes.
pub(super) struct Volumes {
    pub context: Context,
    pub memory: Memory,
    /// All facts have been read once.
    pub synced: AtomicBool,
    /// A node or its report has changed, and claims that wait have not heard of it.
    changed: AtomicBool,
    /// The pools were read anew.
    pub pools_refilled: Notify,
}

impl Volumes {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            memory: Memory::default(),
            synced: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            pools_refilled: Notify::new(),
        }
    }

    /// Whether anything has been made for a claim. `None` while the facts have not been read.
    pub fn started(&self, uid: &str) -> Option<bool> {
        if !self.synced.load(Ordering::Acquire) {
            return None;
        }
        let ordered = !self.memory.placement.lock().reserved_of(uid).is_empty();
        let made = || !self.context.stores.locals.find(&uid.into()).is_empty();
        Some(ordered || made() || self.context.volume(&volume_name(uid)).is_some())
    }

    /// Has those claims looked at that wait for something a change of a node, or of its report, may bring. The changes of a
    /// moment count as one: with thousands of nodes there is always one that reports.
    pub fn requeue_waiting_claims(&self) {
        self.changed.store(true, Ordering::Release);
        self.context.queue.at(Key::Waiting, Instant::now() + GATHERED);
    }

    /// Each not before its pause is over: comes here again when the next one's is.
    fn enqueue_waiting(&self) {
        if self.changed.swap(false, Ordering::AcqRel) {
            self.memory.take_up_change();
        }
        let (due, next) = self.memory.take_due();
        for (namespace, name) in due {
            self.context.queue.now(Key::Claim(namespace, name));
        }
        if let Some(next) = next {
            self.context.queue.at(Key::Waiting, next);
        }
    }

    /// Has all of them looked at now, since a person has changed something.
    pub fn requeue_waiting_claims_now(&self) {
        for (namespace, name) in self.memory.begin_anew() {
            self.context.queue.now(Key::Claim(namespace, name));
        }
    }

    async fn look(&self, key: &Key) -> Result<Option<Duration>, ApiError> {
        let Self { context, memory, .. } = self;
        match key {
            Key::Everything => {
                self.enqueue_all();
                return Ok(None);
            }
            Key::Waiting => {
                self.enqueue_waiting();
                return Ok(None);
            }
            Key::Claim(namespace, name) => {
                if let Some(claim) = context.claim(namespace, name) {
                    return claims::reconcile(context, memory, claim).await;
                }
            }
            Key::Local(name) => {
                if let Some(local) = context.local(name) {
                    return directories::reconcile(context, memory, local).await;
                }
            }
            Key::Disk(name) => {
                if let Some(disk) = context.stores.disks.get(name) {
                    return disks::reconcile(context, memory, disk).await;
                }
            }
            Key::Volume(name) => {
                if let Some(volume) = context.volume(name) {
                    return persistent_volumes::reconcile(context, memory, volume).await;
                }
            }
            Key::Report(name) => {
                if let Some(report) = context.stores.reports.get(name) {
                    found_disks::reconcile_report(context, memory, &report).await?;
                    return orphans::reconcile(context, memory, report).await;
                }
            }
        }
        memory.refusals.forget(key);
        Ok(None)
    }

    /// Says on the object that the API server would not write what it needs.
    fn tell_refusal(&self, key: &Key, Refusal { code, why, .. }: &Refusal) {
        let Self { context, memory, .. } = self;
        let note = format!("the API server refuses what is to be written, and is asked again ever more rarely: {why}");
        // What it says may hold figures that change each time.
        if !memory.is_news(&format!("{key:?}"), &format!("refused with {code:?}")) {
            return;
        }
        match key {
            Key::Claim(namespace, name) => {
                if let Some(claim) = context.claim(namespace, name) {
                    refuse(context, memory, &claim, &note);
                }
            }
            Key::Volume(name) => {
                if let Some(volume) = context.volume(name) {
                    volume_stays(context, memory, &volume, &note);
                }
            }
            Key::Local(name) => {
                let local = context.local(name);
                let seen = local.as_ref().and_then(|local| local.spec.persistent_volume.as_ref());
                if let Some(volume) = seen.and_then(|seen| context.volume(&seen.name)) {
                    volume_stays(context, memory, &volume, &note);
                }
            }
            // The loop logs it.
            Key::Disk(name) => {
                if let Some(disk) = context.stores.disks.get(name) {
                    disks::tell_refusal(context, &disk, &note);
                }
            }
            Key::Everything | Key::Waiting | Key::Report(_) => {}
        }
    }
}

impl Reconciler for Volumes {
    type Key = Key;
    type Error = ApiError;

    async fn reconcile(&self, key: &Key, _: Turn) -> Result<Option<Duration>, ApiError> {
        let refusals = &self.memory.refusals;
        if let Some(left) = refusals.must_wait(key) {
            return Ok(Some(left));
        }
        let looked = self.look(key).await;
        match &looked {
            Ok(_) => {
                for other in refusals.settled(key) {
                    self.context.queue.now(other);
                }
            }
            Err(error) if is_refusal(error) => {
                for (key, refusal) in refusals.refused(key, error) {
                    self.tell_refusal(&key, &refusal);
                }
            }
            Err(_) => {}
        }
        looked
    }

    /// Also forgets what is kept about things that are not.
    fn enqueue_all(&self) {
        let Context { queue, stores, .. } = &self.context;
        let (claims, volumes) = (self.context.all_claims(), self.context.all_volumes());
        self.memory.tidy(&claims, &volumes);
        for claim in claims {
            queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
        }
        for local in stores.locals.all() {
            queue.now(Key::Local(local.name().to_owned()));
        }
        for disk in stores.disks.all() {
            queue.now(Key::Disk(disk.name().to_owned()));
        }
        for volume in volumes {
            queue.now(Key::Volume(volume.name().to_owned()));
        }
        for report in stores.reports.all() {
            queue.now(Key::Report(report.name_any()));
        }
    }

    fn will_retry(&self) {
        self.context.metrics.retried();
    }
}
