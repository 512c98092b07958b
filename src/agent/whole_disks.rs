//! Whole disks: finds them, says whether those that are volumes are at their place, and cleans them when it is ordered to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use super::attempts::{ATTEMPT_LASTS, Next};
use super::disk::error::DirectoryError;
use super::state::{Agent, StaticDiskTask};
use super::static_disks::{
    DiskFault, DiskScope, DiskToClean, Rule, clean_device, clean_files, look, presence, verify_device,
};
use crate::crd::{
    CLEANING, CleanProgress, DiskIdentity, DiskKind, DiskReport, Kept, LocalDisk, LocalDiskStatus, Presence, READY,
    condition, set_condition,
};
use crate::kubernetes::api::{ApiError, in_time};
use crate::kubernetes::controller::{Reconciler, Turn};
use crate::model::plain_path;

/// A disk is looked at again this often, whatever the kernel tells.
const CHECK: Duration = Duration::from_secs(60);
/// A disk that is to be cleaned and is not there is looked for this often.
const AWAY: Duration = Duration::from_secs(10);
/// How long one attempt to clean a disk may go on after it was begun: what permitted it is never older than this.
const CLEANING_LASTS: Duration = Duration::from_secs(60);
/// One call to the disk.
const SLICE: Duration = Duration::from_secs(1);
/// How often it is written how far a cleaning has come.
const PROGRESS: Duration = Duration::from_secs(5);
/// Disks that are cleaned at one time: more would take the node's whole bandwidth.
const CLEANED_AT_ONCE: usize = 4;
/// After so many failures in a row nobody tries again before a person says so.
const MOST_FAILURES: i64 = 5;
/// What is said of a disk that is not at its place.
const ABSENCES: [(Presence, &str); 3] =
    [(Presence::Absent, "NotThere"), (Presence::Another, "AnotherDisk"), (Presence::Unknown, "NotKnown")];
/// Reason that what was told to be zero was read otherwise.
const NOT_ZERO: &str = "NotZero";
/// Reasons that somebody uses the disk still.
const WAITS: [&str; 3] = ["InUse", "StillMounted", "MountInside"];
/// The shortest and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Directories in which pools look for disks, and LocalDisks.
pub(super) struct StaticDisks {
    agent: Arc<Agent>,
    cleaning: Semaphore,
    /// When a disk may be tried again whose cleaning has failed, and how often it has without any progress, by the UID of its
    /// LocalDisk.
    pauses: Mutex<BTreeMap<String, (Instant, u32)>>,
    /// What was written last of each disk, by UID: nobody else writes it, and the cache may not show it yet.
    written: Mutex<BTreeMap<String, LocalDiskStatus>>,
}

impl StaticDisks {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, cleaning: Semaphore::new(CLEANED_AT_ONCE), pauses: Mutex::default(), written: Mutex::default() }
    }
}

impl Reconciler for StaticDisks {
    type Key = StaticDiskTask;
    type Error = ApiError;

    async fn reconcile(&self, key: &StaticDiskTask, _: Turn) -> Result<Option<Duration>, ApiError> {
        let Some(scope) = &self.agent.options.disks else { return Ok(None) };
        match key {
            StaticDiskTask::Directory(directory) => {
                self.look(scope, directory).await;
                Ok(None)
            }
            StaticDiskTask::Disk(name) => match self.agent.caches.disks.get(name) {
                Some(disk) if disk.spec.node_name == self.agent.options.node_name => self.follow(scope, &disk).await,
                _ => Ok(None),
            },
        }
    }

    fn enqueue_all(&self) {
        self.agent.look_at_disks();
    }

    /// A disk that hangs delays no other. There are as many groups as there are directories and disks.
    fn group(&self, key: &StaticDiskTask) -> Option<Arc<str>> {
        let (StaticDiskTask::Directory(name) | StaticDiskTask::Disk(name)) = key;
        Some(name.as_str().into())
    }
}

impl StaticDisks {
    /// Looks at the entries of a directory.
    async fn look(&self, scope: &DiskScope, directory: &str) {
        let agent = &self.agent;
        let Some(mut all) = agent.caches.disk_rules(&agent.options.node_name) else { return };
        agent.found_disks().retain(|known, _| all.contains_key(known));
        let Some(rules) = all.remove(directory) else { return agent.report_soon() };
        let (known, claimed) = known_devices(agent);
        let scope = DiskScope { known, claimed, ..scope.clone() };
        let (looked_at, of_rules) = (directory.to_owned(), rules.clone());
        let found = agent.calls.run(directory, move || {
            let rules: Vec<Rule<'_>> = of_rules.iter().map(|(pool, rule)| Rule { pool, rule }).collect();
            Ok(look(&scope, &looked_at, &rules))
        });
        let found = match found.await {
            Ok(found) => found,
            // What was found before is not known to be there still, and is offered no more than what is not.
            Err(error) => {
                rules.iter().map(|(pool, rule)| unanswered(pool, &rule.storage_class_name, directory, &error)).collect()
            }
        };
        let before = agent.found_disks().insert(directory.to_owned(), found.clone());
        if before.as_ref() != Some(&found) {
            agent.report_soon();
            for disk in agent.caches.disks.all() {
                agent.queues.static_disks.now(StaticDiskTask::Disk(disk.name().to_owned()));
            }
        }
    }

    /// Says whether a disk is at its place, and follows the order to clean it.
    async fn follow(&self, scope: &DiskScope, disk: &Arc<Kept<LocalDisk>>) -> Result<Option<Duration>, ApiError> {
        let seen = self.see(scope, disk).await;
        let mut status = self.status_of(disk);
        let order = disk.spec.clean.as_ref().filter(|order| status.cleaned.as_ref() != Some(&order.id));
        let mut is_settled = order.is_none() && status.progress.is_some();
        // What has failed before was about another order.
        if status.failed_order.is_some() && status.failed_order.as_ref() != order.map(|order| &order.id) {
            (status.failures, status.failed_order, is_settled) = (0, None, true);
        }
        let changed = note_presence(&mut status, &seen, order.is_some());
        if order.is_none() {
            self.agent.attempts().forget(disk.uid());
            self.pauses.lock().remove(disk.uid());
        }
        if changed || is_settled {
            status.progress = status.progress.filter(|_| order.is_some());
            self.write_status(disk, &status).await?;
        }
        self.count_quarantined();
        match order {
            None => Ok(Some(CHECK)),
            Some(_) if seen.presence != Presence::Present => Ok(Some(AWAY)),
            Some(_) if is_quarantined(disk, &status) => Ok(Some(CHECK)),
            Some(order) => self.attempt(scope, disk, status, &order.id).await,
        }
    }

    async fn see(&self, scope: &DiskScope, disk: &Arc<Kept<LocalDisk>>) -> Seen {
        let (scope, of) = (scope.clone(), Arc::clone(disk));
        let looked = self.agent.calls.run(&disk.spec.path, move || {
            let spec = &of.spec;
            Ok(presence(&scope, &spec.path, spec.kind, &spec.identity))
        });
        match looked.await {
            Ok((presence, text, report)) => Seen { presence, text, bytes: report.map(|report| report.capacity_bytes) },
            Err(error) => Seen { presence: Presence::Unknown, text: error.to_string(), bytes: None },
        }
    }

    /// Asks whether the order holds, and cleans the disk once it is told so.
    async fn attempt(
        &self,
        scope: &DiskScope,
        disk: &Arc<Kept<LocalDisk>>,
        mut status: LocalDiskStatus,
        order: &str,
    ) -> Result<Option<Duration>, ApiError> {
        if let Some(left) = self.paused(disk.uid()) {
            return Ok(Some(left));
        }
        let agent = &self.agent;
        if let Some(wait) = agent.attempts().wait(disk.uid(), Instant::now()) {
            return Ok(Some(wait));
        }
        let next = agent.attempts().next(disk.uid(), disk.spec.confirmed_attempt.as_deref(), Instant::now());
        let begun = match next {
            Next::Wait(left) => return Ok(Some(left)),
            Next::Ask(name) => {
                status.attempt = Some(name);
                self.write_status(disk, &status).await?;
                return Ok(Some(ATTEMPT_LASTS));
            }
            Next::Act(begun) => begun,
        };
        // Two that wait here for longer than their attempt lasts ask again.
        let Ok(_turn) = self.cleaning.acquire().await else { return Ok(Some(AWAY)) };
        if begun.elapsed() >= ATTEMPT_LASTS {
            return Ok(Some(Duration::ZERO));
        }
        let cleaned = self.clean(scope, disk, &mut status, order, begun + CLEANING_LASTS).await?;
        agent.metrics.ordered("clean", cleaned.is_ok());
        let again = match cleaned {
            Ok(true) => {
                (status.cleaned, status.progress) = (Some(order.to_owned()), None);
                (status.failures, status.failed_order) = (0, None);
                let text = format!("all that was on {} is gone", disk.spec.path);
                set_ready(&mut status, true, "Clean", &text);
                Some(CHECK)
            }
            Ok(false) => Some(Duration::ZERO),
            Err(fault) => Some(self.failed(disk, &mut status, order, fault)),
        };
        self.write_status(disk, &status).await?;
        Ok(again)
    }

    fn paused(&self, uid: &str) -> Option<Duration> {
        let (until, _) = self.pauses.lock().get(uid).copied()?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Takes note of a failure, and says when to try again.
    fn failed(
        &self,
        disk: &LocalDisk,
        status: &mut LocalDiskStatus,
        order: &str,
        fault: (&'static str, String),
    ) -> Duration {
        let (reason, text) = fault;
        tracing::warn!(disk = disk.name(), reason, text, "a disk is not cleaned");
        let earlier = if status.retries_seen == disk.spec.retries { status.failures } else { 0 };
        // Who uses the disk will be done with it; that is no failure.
        let failed = i64::from(!WAITS.contains(&reason));
        (status.failures, status.retries_seen) = (earlier + failed, disk.spec.retries);
        status.failed_order = Some(order.to_owned());
        let (first, longest) = PAUSES;
        let mut pauses = self.pauses.lock();
        let times = pauses.get(disk.uid()).map_or(0, |(_, times)| *times);
        let pause = first.saturating_mul(2_u32.saturating_pow(times.min(16))).min(longest);
        pauses.insert(disk.uid().to_owned(), (Instant::now() + pause, times + 1));
        drop(pauses);
        let text = if status.failures >= MOST_FAILURES {
            format!(
                "{text}; tried {} times, `latebind disks retry {}` has it tried again",
                status.failures,
                disk.name()
            )
        } else {
            text
        };
        set_ready(status, false, reason, &text);
        pause
    }

    /// Cleans until all is gone, time is over or something fails. True when all is gone, and was seen to be.
    async fn clean(
        &self,
        scope: &DiskScope,
        disk: &Arc<Kept<LocalDisk>>,
        status: &mut LocalDiskStatus,
        order: &str,
        until: Instant,
    ) -> Result<Result<bool, (&'static str, String)>, ApiError> {
        let agent = &self.agent;
        let known = status.progress.take().filter(|progress| progress.order == order);
        let mut progress =
            known.unwrap_or_else(|| CleanProgress { order: order.to_owned(), ..CleanProgress::default() });
        let mut written = Instant::now();
        let budget = (agent.options.unlinks_per_second / 10).max(2);
        while Instant::now() < until && self.is_ordered(disk, order) {
            let (scope, of) = (scope.clone(), Arc::clone(disk));
            let (done, slice) = (progress.done, (Instant::now() + SLICE).min(until));
            let call = agent.calls.run(&disk.spec.path, move || Ok(one_slice(&scope, &of, done, budget, slice)));
            let failed = match call.await {
                Ok(Ok(slice)) => Ok(slice),
                Ok(Err(fault)) => Err((fault.reason(), fault.to_string())),
                Err(error) => Err((error.reason(), error.to_string())),
            };
            let slice = match failed {
                Ok(slice) => slice,
                Err(fault) => {
                    // What was zeroed is zero still, unless it was read otherwise.
                    status.progress = Some(progress).filter(|_| fault.0 != NOT_ZERO);
                    return Ok(Err(fault));
                }
            };
            if slice.done > progress.done {
                (status.failures, status.failed_order) = (0, None);
                self.pauses.lock().remove(disk.uid());
            }
            (progress.done, progress.total) = (slice.done, slice.total);
            if slice.is_clean {
                return Ok(Ok(true));
            }
            if written.elapsed() >= PROGRESS {
                written = Instant::now();
                status.progress = Some(progress.clone());
                set_ready(status, false, CLEANING, &format!("{} is being cleaned", disk.spec.path));
                self.write_status(disk, status).await?;
            }
        }
        status.progress = Some(progress);
        Ok(Ok(false))
    }

    /// True while the order is seen to stand: whoever takes it back may give the disk to somebody else within the time of an attempt.
    fn is_ordered(&self, disk: &LocalDisk, order: &str) -> bool {
        let now = self.agent.caches.disks.get(disk.name());
        now.is_some_and(|now| now.uid() == disk.uid() && now.spec.clean.as_ref().is_some_and(|clean| clean.id == order))
    }

    fn count_quarantined(&self) {
        let all = self.agent.caches.disks.all();
        self.agent.metrics.quarantined(all.iter().filter(|disk| is_quarantined(disk, &self.status_of(disk))).count());
        let known: BTreeSet<&str> = all.iter().map(|disk| disk.uid()).collect();
        self.pauses.lock().retain(|uid, _| known.contains(uid.as_str()));
        self.written.lock().retain(|uid, _| known.contains(uid.as_str()));
    }

    fn status_of(&self, disk: &LocalDisk) -> LocalDiskStatus {
        let written = self.written.lock().get(disk.uid()).cloned();
        written.or_else(|| disk.status.clone()).unwrap_or_default()
    }

    /// A merge patch, which takes away what is not there any more.
    async fn write_status(&self, disk: &LocalDisk, status: &LocalDiskStatus) -> Result<(), ApiError> {
        let mut patch = json!({ "metadata": { "uid": disk.uid() }, "status": status });
        for key in ["progress", "cleaned", "attempt", "failedOrder"] {
            if patch["status"].get(key).is_none() {
                patch["status"][key] = serde_json::Value::Null;
            }
        }
        let disks: Api<LocalDisk> = Api::all(self.agent.client.clone());
        match in_time(disks.patch_status(disk.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
            Err(error) if error.is_not_found() => return Ok(()),
            patched => drop(patched?),
        }
        self.written.lock().insert(disk.uid().to_owned(), status.clone());
        Ok(())
    }
}

/// What a look has told.
struct Seen {
    presence: Presence,
    text: String,
    bytes: Option<i64>,
}

/// How far one call has come.
struct Progress {
    done: i64,
    total: i64,
    is_clean: bool,
}

fn one_slice(
    scope: &DiskScope,
    disk: &LocalDisk,
    done: i64,
    budget: usize,
    until: Instant,
) -> Result<Progress, DiskFault> {
    let spec = &disk.spec;
    let disk = &DiskToClean { path: &spec.path, kind: spec.kind, identity: &spec.identity, root: spec.root };
    let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    match spec.kind {
        DiskKind::Mount => {
            let slice = clean_files(scope, disk, budget, until)?;
            Ok(Progress { done: done.saturating_add(whole(slice.removed)), total: 0, is_clean: !slice.left })
        }
        DiskKind::Device => {
            let slice = clean_device(scope, disk, u64::try_from(done).unwrap_or(0), until)?;
            let is_clean = slice.done >= slice.total;
            if is_clean {
                verify_device(scope, disk)?;
            }
            Ok(Progress { done: whole(slice.done), total: whole(slice.total), is_clean })
        }
    }
}

/// The devices that are volumes and at their place, by path; and those of them that a claim has, or had.
fn known_devices(agent: &Agent) -> (BTreeMap<String, DiskIdentity>, BTreeSet<String>) {
    let disks = agent.caches.disks.all();
    let devices: Vec<_> = disks
        .iter()
        .filter(|disk| disk.spec.kind == DiskKind::Device && disk.presence() == Presence::Present)
        .collect();
    let known = devices.iter().map(|disk| (plain_path(&disk.spec.path), disk.spec.identity.clone())).collect();
    let claimed = devices.iter().filter(|disk| disk.spec.unclean).map(|disk| plain_path(&disk.spec.path)).collect();
    (known, claimed)
}

fn unanswered(pool: &str, class: &str, directory: &str, error: &DirectoryError) -> DiskReport {
    DiskReport {
        pool: pool.to_owned(),
        storage_class_name: class.to_owned(),
        path: directory.to_owned(),
        reason: error.reason().to_owned(),
        message: error.to_string(),
        ..DiskReport::default()
    }
}

fn is_quarantined(disk: &LocalDisk, status: &LocalDiskStatus) -> bool {
    disk.spec.clean.is_some() && status.failures >= MOST_FAILURES && status.retries_seen == disk.spec.retries
}

/// Answers whether anything is new. A failure to clean stays the last word while the disk is there.
fn note_presence(status: &mut LocalDiskStatus, seen: &Seen, is_ordered: bool) -> bool {
    let mut changed = status.presence != seen.presence;
    status.presence = seen.presence;
    if let Some(bytes) = seen.bytes.filter(|bytes| *bytes > 0 && *bytes != status.capacity_bytes) {
        status.capacity_bytes = bytes;
        changed = true;
    }
    let last = condition(&status.conditions, READY).filter(|ready| ready.status != "True");
    let is_cleaning =
        is_ordered && last.is_some_and(|ready| ABSENCES.iter().all(|(_, reason)| ready.reason != *reason));
    if seen.presence == Presence::Present && is_cleaning {
        return changed;
    }
    let reason = ABSENCES.iter().find(|(presence, _)| *presence == seen.presence).map(|(_, reason)| *reason);
    set_ready(status, reason.is_none(), reason.unwrap_or("Present"), &seen.text) || changed
}

fn set_ready(status: &mut LocalDiskStatus, ready: bool, reason: &str, text: &str) -> bool {
    set_condition(&mut status.conditions, (READY, ready, reason, text), None, Timestamp::now())
}
