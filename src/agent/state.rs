//! What the parts of the agent share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use parking_lot::{Mutex, MutexGuard};

use super::attempts::Attempts;
use super::caches::Caches;
use super::calls::DiskCalls;
use super::disk::base::AllowedBases;
use super::facts::BaseLook;
use super::metrics::AgentMetrics;
use super::orphans::{Moment, Orphans};
use super::restored::DiskSays;
use super::static_disks::DiskScope;
use crate::crd::{DiskReport, Kept, KeptDirectory, LocalVolume, Origin, PathReport};
use crate::runtime::queue::Queue;

/// How the agent works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node object.
    pub node_name: String,
    /// What it may work beneath.
    pub bases: AllowedBases,
    /// Where it looks for whole disks, and what tells of them; nowhere where absent.
    pub disks: Option<DiskScope>,
    /// How fast the trash of each base is emptied, in files and directories a second.
    pub unlinks_per_second: usize,
    /// Directories of ours that no volume names are removed when they have been known for so long; never where absent.
    pub remove_orphans: Option<Duration>,
    /// How long a call to a disk may take before the disk counts as hung.
    pub disk_timeout: Duration,
}

/// What is done about a base, by its path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum DiskTask {
    /// Finds out what is there.
    Look(String),
    /// Empties its trash.
    Sweep(String),
}

/// What is looked at of whole disks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum StaticDiskTask {
    /// A directory in which pools look for disks.
    Directory(String),
    /// A LocalDisk.
    Disk(String),
}

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Names of LocalVolumes.
    pub orders: Arc<Queue<String>>,
    pub disks: Arc<Queue<DiskTask>>,
    pub static_disks: Arc<Queue<StaticDiskTask>>,
    /// The report has one key.
    pub report: Arc<Queue<()>>,
}

pub(super) struct Agent {
    pub client: Client,
    pub options: Options,
    /// UID of the namespace `kube-system`: what tells clusters apart.
    pub cluster: String,
    pub caches: Arc<Caches>,
    pub queues: Queues,
    pub calls: DiskCalls,
    pub metrics: AgentMetrics,
    orphans: Mutex<Orphans>,
    attempts: Mutex<Attempts>,
    /// UID of the Node whose disks were confirmed last; empty at first.
    confirmed: Mutex<String>,
    /// What each base was like when it was looked at last.
    looks: Mutex<BTreeMap<String, BaseLook>>,
    /// What was found in each directory in which pools look for disks.
    found_disks: Mutex<BTreeMap<String, Vec<DiskReport>>>,
    /// What the last report before this process says of each base.
    reported: Mutex<BTreeMap<String, PathReport>>,
    /// The directories that the last report before this process lists as kept.
    reported_kept: Mutex<Vec<KeptDirectory>>,
    started: Instant,
    /// Bases that may hold trash although no pool and no volume names them any more.
    trashed: Mutex<BTreeSet<String>>,
}

impl Agent {
    pub(super) fn new(
        client: Client,
        options: Options,
        cluster: String,
        caches: Arc<Caches>,
        metrics: AgentMetrics,
    ) -> Self {
        Self {
            client,
            cluster,
            caches,
            queues: Queues::default(),
            calls: DiskCalls::new(options.disk_timeout, metrics.clone()),
            options,
            metrics,
            orphans: Mutex::default(),
            attempts: Mutex::default(),
            confirmed: Mutex::default(),
            looks: Mutex::default(),
            found_disks: Mutex::default(),
            reported: Mutex::default(),
            reported_kept: Mutex::default(),
            started: Instant::now(),
            trashed: Mutex::default(),
        }
    }

    pub(super) fn node_uid(&self) -> String {
        let node = self.caches.nodes.get(&self.options.node_name);
        node.and_then(|node| node.metadata.uid.as_ref().map(String::from)).unwrap_or_default()
    }

    /// True while the Node is another object than the one whose disks were confirmed.
    pub(super) fn is_replaced(&self) -> bool {
        let confirmed = self.confirmed().clone();
        !confirmed.is_empty() && confirmed != self.node_uid()
    }

    /// The claims whose directories are in use on this node, and those whose orphaned directories were ordered to be
    /// removed.
    pub(super) fn claims(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let locals = self.caches.locals.all();
        let (ordered, used): (Vec<_>, Vec<_>) = locals.iter().partition(|local| local.spec.origin == Origin::Orphan);
        let uids =
            |locals: Vec<&Arc<Kept<LocalVolume>>>| locals.iter().map(|local| local.spec.claim.uid.clone()).collect();
        (uids(used), uids(ordered))
    }

    /// Every base that there may be anything in. `None` before the Node is known.
    pub(super) fn known_bases(&self) -> Option<BTreeSet<String>> {
        let mut bases: BTreeSet<String> = self.trashed().clone();
        bases.extend(self.caches.offered(&self.options.node_name)?.into_keys());
        bases.extend(self.caches.locals.all().iter().map(|local| local.spec.base.clone()));
        Some(bases)
    }

    pub(super) fn report_soon(&self) {
        self.queues.report.now(());
    }

    /// What is known of this base may have changed.
    pub(super) fn look_soon(&self, base: &str) {
        self.queues.disks.now(DiskTask::Look(base.to_owned()));
    }

    /// The same of all of them.
    pub(super) fn look_everywhere(&self) {
        for base in self.known_bases().into_iter().flatten() {
            self.queues.disks.now(DiskTask::Look(base.clone()));
            self.queues.disks.now(DiskTask::Sweep(base));
        }
    }

    /// Everything about whole disks may have changed: what is mounted, which entries there are, or what is wanted.
    pub(super) fn look_at_disks(&self) {
        if self.options.disks.is_none() {
            return;
        }
        for directory in self.caches.disk_rules(&self.options.node_name).into_iter().flatten() {
            self.queues.static_disks.now(StaticDiskTask::Directory(directory.0));
        }
        for disk in self.caches.disks.all() {
            self.queues.static_disks.now(StaticDiskTask::Disk(disk.name().to_owned()));
        }
    }

    /// Something was moved to the trash of this base.
    pub(super) fn sweep_soon(&self, base: &str) {
        self.trashed().insert(base.to_owned());
        self.queues.disks.now(DiskTask::Sweep(base.to_owned()));
        self.look_soon(base);
    }

    pub(super) fn trashed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.trashed.lock()
    }

    pub(super) fn looks(&self) -> MutexGuard<'_, BTreeMap<String, BaseLook>> {
        self.looks.lock()
    }

    pub(super) fn found_disks(&self) -> MutexGuard<'_, BTreeMap<String, Vec<DiskReport>>> {
        self.found_disks.lock()
    }

    pub(super) fn reported(&self) -> MutexGuard<'_, BTreeMap<String, PathReport>> {
        self.reported.lock()
    }

    pub(super) fn reported_kept(&self) -> MutexGuard<'_, Vec<KeptDirectory>> {
        self.reported_kept.lock()
    }

    /// The directories that stay for claims of the same name, in every base that was looked at. What could not be looked at has
    /// those that were reported of it before.
    pub(super) fn kept(&self) -> Vec<KeptDirectory> {
        let reported = self.reported_kept().clone();
        let looks = self.looks();
        let of = |(path, look): (&String, &BaseLook)| match &look.kept {
            Some(kept) => kept.clone(),
            None => reported.iter().filter(|directory| directory.base == *path).cloned().collect(),
        };
        let all: BTreeSet<KeptDirectory> = looks.iter().flat_map(of).collect();
        all.into_iter().collect()
    }

    /// What the disks say of the store, as they were looked at last: by path, with the identity of the base.
    pub(super) fn marks(&self) -> BTreeMap<String, (String, DiskSays)> {
        let looks = self.looks();
        let known = looks.iter().filter_map(|(path, look)| Some((path.clone(), look.mark.clone()?)));
        known.collect()
    }

    /// How long this process has run.
    pub(super) fn now(&self) -> Moment {
        self.started.elapsed()
    }

    pub(super) fn orphans(&self) -> MutexGuard<'_, Orphans> {
        self.orphans.lock()
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock()
    }

    pub(super) fn confirmed(&self) -> MutexGuard<'_, String> {
        self.confirmed.lock()
    }
}
