//! Claims that come and go at a steady pace, each with a file that must be there until it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::local::path_of;
use latebind_test_support::numbers::Numbers;
use latebind_test_support::objects::{self, SELECTED_NODE};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

use super::times::FaultTimes;

/// One claim is made and one is deleted each time: twenty in a second.
const TURN: Duration = Duration::from_millis(100);
/// So many live while all goes well: a part of what there may be at most.
const USUALLY: usize = 4;
/// One claim of so many is deleted whether it is served or not.
const ANY_OF: u64 = 10;
/// How long a call to the API server may take.
const CALL: Duration = Duration::from_secs(10);
/// Time before what failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Where claims are made.
pub struct Place {
    /// Serves volumes that go with their claims.
    pub class: String,
    /// Serves volumes that stay.
    pub retaining: String,
    /// Where all are.
    pub node: String,
}

/// What is known of a claim that lives.
struct Claim {
    asked: Instant,
    /// How many faults there had been, if none was felt when it was made.
    calm: Option<u64>,
    retained: bool,
    step: Step,
    /// Its UID is in this file.
    file: Option<PathBuf>,
    uid: String,
}

/// How far a claim has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Waits,
    /// Its node was given back, and is about to be selected again.
    Selecting,
    Bound,
    Going,
}

impl Claim {
    fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Waits | Step::Selecting)
    }
}

/// What was counted.
#[derive(Default)]
pub struct Counts {
    /// Claims that the API server has taken.
    pub created: AtomicU64,
    /// Claims that it was told to delete.
    pub deleted: AtomicU64,
    /// Of these, such as were not served yet.
    pub unserved: AtomicU64,
    /// Claims that were seen Bound.
    pub bound: AtomicU64,
    /// Files that were there, with the right UID, before their claim was deleted.
    pub checked: AtomicU64,
    /// Nodes that were given back, and selected again.
    pub given_back: AtomicU64,
    /// Requests of the load itself that failed, and were sent again.
    pub failed: AtomicU64,
    /// Turns without a create, since there was as much as may be.
    pub held: AtomicU64,
}

/// The load.
pub struct Load {
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    place: Place,
    times: Arc<FaultTimes>,
    /// What was counted.
    pub counts: Counts,
    living: Mutex<BTreeMap<String, Claim>>,
    /// Of deleted claims whose volumes are retained: UID and file.
    kept: Mutex<Vec<(String, PathBuf)>>,
    /// What took how long to be Bound, and whether no fault was felt.
    took: Mutex<Vec<(Duration, bool)>>,
    /// What must not happen.
    lost: Mutex<Vec<String>>,
    retain_next: AtomicBool,
    /// Volumes of deleted claims that are not removed yet.
    released: Mutex<BTreeSet<String>>,
    /// How many of those and of living claims there may be: then no claim is made until others are gone.
    at_most: usize,
    requests: TaskTracker,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Nothing happens before it is started.
    pub fn new(scope: &Scope, place: Place, at_most: usize, times: Arc<FaultTimes>) -> Arc<Self> {
        Arc::new(Self {
            claims: scope.api(),
            volumes: scope.all(),
            place,
            times,
            counts: Counts::default(),
            living: Mutex::default(),
            kept: Mutex::default(),
            took: Mutex::default(),
            lost: Mutex::default(),
            retain_next: AtomicBool::new(false),
            released: Mutex::default(),
            at_most,
            requests: TaskTracker::new(),
        })
    }

    /// Makes and deletes claims, until it is told to end or dropped.
    pub fn start(self: &Arc<Self>, seed: u64) -> Running {
        let watches = [tokio::spawn(Arc::clone(self).watch()), tokio::spawn(Arc::clone(self).watch_volumes())];
        Running { turns: tokio::spawn(Arc::clone(self).turns(Numbers(seed))), watches }
    }

    /// The next claim that is made has a volume that stays.
    pub fn retain_one(&self) {
        self.retain_next.store(true, Relaxed);
    }

    /// An error if anything was lost.
    pub fn nothing_lost(&self) -> Result<()> {
        let lost = locked(&self.lost);
        ensure!(lost.is_empty(), "{} lost: {}", lost.len(), lost.join("; "));
        Ok(())
    }

    /// How long claims took to be Bound, in order: all, and those that felt no fault.
    pub fn took(&self) -> (Vec<Duration>, Vec<Duration>) {
        let mut all = locked(&self.took).clone();
        all.sort_unstable();
        let calm = all.iter().filter(|(_, calm)| *calm).map(|(took, _)| *took).collect();
        (all.into_iter().map(|(took, _)| took).collect(), calm)
    }

    /// What is retained: UID of the claim, and its file.
    pub fn kept(&self) -> Vec<(String, PathBuf)> {
        locked(&self.kept).clone()
    }

    /// How many claims live.
    pub fn living(&self) -> usize {
        locked(&self.living).len()
    }

    /// How many volumes are not removed yet whose claims are gone.
    pub fn released(&self) -> usize {
        locked(&self.released).len()
    }

    async fn turns(self: Arc<Self>, mut numbers: Numbers) {
        let mut turn = tokio::time::interval(TURN);
        // What an API server that was away has cost is not made up for.
        turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for number in 0_u64.. {
            turn.tick().await;
            if self.living() + self.released() < self.at_most {
                let retained = self.retain_next.swap(false, Relaxed);
                self.requests.spawn(Arc::clone(&self).create(format!("claim{number}"), retained));
            } else {
                self.counts.held.fetch_add(1, Relaxed);
            }
            if let Some(name) = self.next_to_go(&mut numbers) {
                self.requests.spawn(Arc::clone(&self).delete(name));
            }
        }
    }

    /// Which claim is to go, if enough live: the one that has its file for longest, or any that may be in the midst of being
    /// served.
    fn next_to_go(&self, numbers: &mut Numbers) -> Option<String> {
        let mut living = locked(&self.living);
        if living.len() < self.at_most / USUALLY {
            return None;
        }
        let any = numbers.below(ANY_OF) == 0;
        let may_go = |claim: &Claim| {
            let unserved = any && claim.is_waiting() && !claim.uid.is_empty() && !claim.retained;
            claim.step != Step::Going && (claim.file.is_some() || unserved)
        };
        let unserved = |claim: &Claim| claim.file.is_none();
        let chosen = living.iter_mut().filter(|(_, claim)| may_go(claim));
        // Those that are not served come first where one may go, or none would ever.
        let (name, claim) = chosen.min_by_key(|(_, claim)| (!(any && unserved(claim)), claim.asked))?;
        claim.step = Step::Going;
        Some(name.clone())
    }

    async fn create(self: Arc<Self>, name: String, retained: bool) {
        let class = if retained { &self.place.retaining } else { &self.place.class };
        let object = objects::selected(objects::claim(&name, class, "1Mi"), &self.place.node);
        let object: PersistentVolumeClaim = serde_json::from_value(object).unwrap();
        let claim = Claim {
            asked: Instant::now(),
            calm: self.times.calm(),
            retained,
            step: Step::Waits,
            file: None,
            uid: String::new(),
        };
        locked(&self.living).insert(name.clone(), claim);
        let uid = self.until_done(|| async {
            match self.claims.create(&PostParams::default(), &object).await {
                // The answer to an earlier request was lost.
                Err(kube::Error::Api(status)) if status.is_already_exists() => self.claims.get(&name).await,
                other => other,
            }
        });
        let uid = uid.await.uid().unwrap_or_default();
        self.counts.created.fetch_add(1, Relaxed);
        if let Some(claim) = locked(&self.living).get_mut(&name) {
            claim.uid = uid;
        }
    }

    /// Sends a request until it is answered well.
    async fn until_done<T, F: Future<Output = kube::Result<T>>>(&self, request: impl Fn() -> F) -> T {
        loop {
            if let Ok(Ok(answer)) = tokio::time::timeout(CALL, request()).await {
                return answer;
            }
            self.counts.failed.fetch_add(1, Relaxed);
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn delete(self: Arc<Self>, name: String) {
        let of = locked(&self.living).get(&name).map(|it| (it.uid.clone(), it.file.clone(), it.retained));
        let Some((uid, file, retained)) = of else { return };
        match file {
            Some(file) => {
                self.check(&name, &uid, &file).await;
                if retained {
                    locked(&self.kept).push((uid, file));
                }
            }
            None => {
                self.counts.unserved.fetch_add(1, Relaxed);
            }
        }
        self.until_done(|| async {
            match self.claims.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
        self.counts.deleted.fetch_add(1, Relaxed);
        locked(&self.living).remove(&name);
    }

    async fn check(&self, name: &str, uid: &str, file: &Path) {
        let path = file.to_owned();
        let found = tokio::task::spawn_blocking(move || fs::read_to_string(path)).await.unwrap();
        match found {
            Ok(found) if found == uid => {
                self.counts.checked.fetch_add(1, Relaxed);
            }
            found => locked(&self.lost).push(format!("{} of {name}, {uid}: {found:?}", file.display())),
        }
    }

    async fn watch(self: Arc<Self>) {
        let mut events = watcher(self.claims.clone(), watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            if let Ok(watcher::Event::Apply(claim) | watcher::Event::InitApply(claim)) = event {
                self.see(&claim);
            }
        }
    }

    async fn watch_volumes(self: Arc<Self>) {
        let mut events = watcher(self.volumes.clone(), watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = events.next().await {
            let mut released = locked(&self.released);
            match event {
                Ok(watcher::Event::Init) => released.clear(),
                Ok(watcher::Event::Apply(volume) | watcher::Event::InitApply(volume)) => {
                    let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
                    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                    if class == Some(&self.place.class) && phase == Some("Released") {
                        released.insert(volume.name_any());
                    }
                }
                Ok(watcher::Event::Delete(volume)) => {
                    released.remove(&volume.name_any());
                }
                _ => {}
            }
        }
    }

    fn see(self: &Arc<Self>, seen: &PersistentVolumeClaim) {
        let name = seen.name_any();
        let is_bound = seen.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let mut living = locked(&self.living);
        let Some(claim) = living.get_mut(&name).filter(|claim| claim.is_waiting()) else { return };
        let uid = seen.uid().unwrap_or_default();
        if is_bound {
            (claim.step, claim.uid) = (Step::Bound, uid.clone());
            let calm = claim.calm.is_some() && claim.calm == self.times.calm();
            locked(&self.took).push((claim.asked.elapsed(), calm));
            self.counts.bound.fetch_add(1, Relaxed);
            let volume = seen.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            self.requests.spawn(Arc::clone(self).fill(name, uid, volume));
        } else if !seen.annotations().contains_key(SELECTED_NODE) && claim.step == Step::Waits {
            claim.step = Step::Selecting;
            self.requests.spawn(Arc::clone(self).select_again(name));
        }
    }

    /// What a scheduler does with a claim whose node was given back, after a while.
    async fn select_again(self: Arc<Self>, name: String) {
        tokio::time::sleep(AGAIN).await;
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { SELECTED_NODE: self.place.node } } }));
        self.until_done(|| async {
            match self.claims.patch(&name, &PatchParams::default(), &patch).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
        self.counts.given_back.fetch_add(1, Relaxed);
        if let Some(claim) = locked(&self.living).get_mut(&name).filter(|claim| claim.step == Step::Selecting) {
            claim.step = Step::Waits;
        }
    }

    /// What a Pod does: it writes where its volume is.
    async fn fill(self: Arc<Self>, name: String, uid: String, volume: String) {
        let volume = self.until_done(|| self.volumes.get(&volume)).await;
        let file = path_of(&volume).join("uid");
        loop {
            let (path, text) = (file.clone(), uid.clone());
            match tokio::task::spawn_blocking(move || fs::write(path, text)).await.unwrap() {
                Ok(()) => break,
                // The disk is full for a while.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => tokio::time::sleep(AGAIN).await,
                Err(error) => {
                    return locked(&self.lost).push(format!("{} of the bound {name}: {error}", file.display()));
                }
            }
        }
        if let Some(claim) = locked(&self.living).get_mut(&name) {
            claim.file = Some(file);
        }
    }

    /// Waits until every claim that lives is served, and deletes them all.
    pub async fn drain(self: &Arc<Self>, patience: Duration) -> Result<()> {
        let served = |claim: &Claim| claim.file.is_some() || claim.step == Step::Going;
        eventually("every claim to be served", patience, async || {
            self.nothing_lost()?;
            let waiting: Vec<String> =
                locked(&self.living).iter().filter(|(_, claim)| !served(claim)).map(|(name, _)| name.clone()).collect();
            ensure!(waiting.is_empty(), "{waiting:?} are not");
            Ok(Some(()))
        })
        .await?;
        let mut all = Vec::new();
        for (name, claim) in locked(&self.living).iter_mut().filter(|(_, claim)| claim.step != Step::Going) {
            claim.step = Step::Going;
            all.push(name.clone());
        }
        for name in all {
            self.requests.spawn(Arc::clone(self).delete(name));
        }
        self.requests.close();
        eventually("every request to be answered", patience, async || {
            Ok((self.requests.is_empty() && self.living() == 0).then_some(()))
        })
        .await?;
        self.nothing_lost()
    }
}

/// Claims that come and go. What is seen of them is noted until this is dropped.
pub struct Running {
    turns: JoinHandle<()>,
    watches: [JoinHandle<()>; 2],
}

impl Running {
    /// No claim is made or deleted any more.
    pub fn end(&self) {
        self.turns.abort();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.turns.abort();
        self.watches.iter().for_each(JoinHandle::abort);
    }
}
