//! Hours of claims that come and go at twenty creates and deletes a second, while whatever can fail does.
//!
//! `LATEBIND_SOAK_MINUTES` says how long, `LATEBIND_SOAK_SEED` which faults come when.

mod clock;
mod disk;
mod faults;
mod load;
mod memory;
mod page;
mod refusals;
mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use latebind::crd::LocalPool;
use latebind_cluster::suite::long;
use latebind_cluster::{Scope, SimulatedNode, eventually};
use latebind_test_support::local::install;
use latebind_test_support::numbers::Numbers;
use latebind_test_support::objects;
use serde_json::json;

use self::disk::Disk;
use self::faults::{Fault, Faults};
use self::load::{Load, Place};
use self::memory::Lives;
use self::page::Page;
use self::refusals::Refusals;
use self::times::FaultTimes;
use crate::crash::{Victim, are_volumes_of};

/// How long the long form lasts where nothing is said.
const MINUTES: u64 = 480;
/// Time between faults in the long form, in seconds.
const PAUSES: (u64, u64) = (5, 40);
/// Processes are ended in the first third of each such time, and not in the rest, so that there are lives that are long enough
/// to show growth.
const PERIOD: Duration = Duration::from_secs(2 * 60 * 60);
/// Volumes that are retained: few enough for memory not to show them.
const RETAINED: u32 = 40;
/// How many claims and volumes there may be besides, in the long form and in the short one.
const AT_MOST: (usize, usize) = (160, 60);
/// How long everything may take to be served, and to be gone.
const PATIENCE: Duration = Duration::from_secs(600);
/// How much a process may have more at its end than once it was warm.
const GROWTH: f64 = 1.1;

/// What is done.
pub struct Plan {
    /// Nothing in the short form: that ends when every fault was done once.
    time: Option<Duration>,
    seed: u64,
}

impl Plan {
    fn read() -> Result<Self> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) => text.parse::<u64>().map(Some).with_context(|| format!("{name} is to be a number")),
            Err(_) => Ok(None),
        };
        let minutes = number("LATEBIND_SOAK_MINUTES")?.unwrap_or(MINUTES);
        let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
        // The short form does the same each time, as tests do that everybody runs.
        let seed = number("LATEBIND_SOAK_SEED")?.unwrap_or_else(|| if long() { now() } else { 1 });
        Ok(Self { time: long().then_some(Duration::from_secs(60 * minutes)), seed })
    }

    /// Whether processes are ended at this time of the run.
    fn ends_processes(&self, at: Duration) -> bool {
        let Some(time) = self.time else { return true };
        let period = PERIOD.min(time).as_secs().max(1);
        at.as_secs() % period < period / 3
    }
}

/// How long the test may take: what it was told, and the time to come and to go.
pub fn limit() -> Duration {
    let time = Plan::read().ok().and_then(|plan| plan.time).unwrap_or_default();
    time + 3 * PATIENCE
}

pub async fn claims_come_and_go_while_everything_fails(scope: &Scope) -> Result<()> {
    let plan = Plan::read()?;
    eprintln!("LATEBIND_SOAK_SEED={} has the same faults", plan.seed);
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let Some(disk) = Disk::mount(directory.path())? else { return Ok(()) };
    let base = disk.mounted.join("base");
    install(&scope.client(), latebind::crd::definitions()).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let place = place(scope, &node, &base).await?;
    let times = Arc::new(FaultTimes::default());
    let at_most = if plan.time.is_some() { AT_MOST.0 } else { AT_MOST.1 };
    let load = Load::new(scope, place, at_most, Arc::clone(&times));
    let mut faults = Faults {
        scope,
        victims: start(scope, &node, &disk.mounted, plan.time.is_none())?,
        lives: <[Lives; 2]>::default(),
        disk,
        refusals: Refusals::prepare(scope).await?,
        times,
        numbers: Numbers(plan.seed),
        short: plan.time.is_none(),
        done: BTreeMap::new(),
        refused: 0.0,
        killed_meanwhile: 0,
    };
    for (lives, victim) in faults.lives.iter().zip(&faults.victims) {
        lives.begin(victim.pid());
    }
    let watch = memory::Watch::start(faults.lives.clone());
    let running = load.start(plan.seed);
    let began = Instant::now();
    let outcome = rounds(&plan, &mut faults, &load).await;
    let lasted = began.elapsed();
    running.end();
    drop(watch);
    let outcome = match outcome {
        Ok(()) => drained(scope, &base, &load).await,
        Err(error) => Err(error),
    };
    let outcome = outcome.and_then(|()| faults.alive());
    let page = Page { plan: &plan, lasted, faults: &faults, load: &load };
    page.tell(outcome.is_ok());
    outcome?;
    flat(&faults)?;
    ensure!(faults.refused > 0.0, "no request was ever refused");
    page.publish()
}

/// A pool, and two classes of it.
async fn place(scope: &Scope, node: &SimulatedNode, base: &Path) -> Result<Place> {
    let (class, retaining) = (scope.unique("class"), scope.unique("retaining"));
    scope
        .create::<LocalPool>(json!({ "metadata": { "name": class },
            "spec": { "nodes": [{ "names": [node.name()], "paths": [{ "path": base }] }] } }))
        .await?;
    scope.create::<StorageClass>(objects::class(&class, latebind::volumes::PROVISIONER)).await?;
    let stays = json!({ "reclaimPolicy": "Retain", "parameters": { "pool": class } });
    let stays = objects::with(objects::class(&retaining, latebind::volumes::PROVISIONER), &stays);
    scope.create::<StorageClass>(stays).await?;
    Ok(Place { class, retaining, node: node.name().to_owned() })
}

/// The controller and the agent.
fn start(scope: &Scope, node: &SimulatedNode, allowed: &Path, short: bool) -> Result<[Victim; 2]> {
    let (kubeconfig, logs) = (Refusals::kubeconfig(scope)?, scope.cluster()?.directory().join("logs"));
    let lease = format!("--lease-name={}", faults::lease(scope, short));
    Ok([
        Victim::controller(&kubeconfig, &logs.join("soak-controller.log"), &["--agent-patience=60s", &lease])?,
        Victim::agent(&kubeconfig, &logs.join("soak-agent.log"), node.name(), allowed)?,
    ])
}

/// Faults, one after the other, every kind equally often, until it is time.
async fn rounds(plan: &Plan, faults: &mut Faults<'_>, load: &Arc<Load>) -> Result<()> {
    let began = Instant::now();
    let mut retained = 0;
    loop {
        for fault in shuffled(&mut faults.numbers) {
            let may_kill = plan.ends_processes(began.elapsed());
            let cannot = (fault.ends_processes() && !may_kill) || (fault.steps_clocks() && !clock::CAN_BE_SET);
            // To end in peace takes an API server with watches twenty seconds: in the short form it is killed only.
            if cannot || (fault == Fault::RestartApiServer && plan.time.is_none()) {
                continue;
            }
            let pause = match plan.time {
                Some(_) => Duration::from_secs(PAUSES.0 + faults.numbers.below(PAUSES.1 - PAUSES.0)),
                None => Duration::from_millis(300 + faults.numbers.below(400)),
            };
            let until = Instant::now() + pause;
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(100)).await;
                faults.alive()?;
                load.nothing_lost()?;
            }
            // Spread over all of the time.
            let share = plan.time.map_or(1.0, |time| began.elapsed().as_secs_f64() / time.as_secs_f64());
            if f64::from(retained) < (share * f64::from(RETAINED)).max(1.0) && retained < RETAINED {
                load.retain_one();
                retained += 1;
            }
            if plan.time.is_some_and(|time| began.elapsed() >= time) {
                return Ok(());
            }
            faults.fault(fault, may_kill).await?;
            page::progress(began.elapsed(), fault, faults, load);
        }
        if plan.time.is_none() {
            return Ok(());
        }
    }
}

fn shuffled(numbers: &mut Numbers) -> Vec<Fault> {
    let mut all = Fault::ALL.to_vec();
    for index in (1..all.len()).rev() {
        let other = usize::try_from(numbers.below(index as u64 + 1)).unwrap();
        all.swap(index, other);
    }
    all
}

/// All that lives is served, checked and deleted; then nothing is left but what is retained, and that is whole. When that may go
/// too, nothing is left at all.
async fn drained(scope: &Scope, base: &Path, load: &Arc<Load>) -> Result<()> {
    load.drain(PATIENCE).await?;
    let kept = load.kept();
    let uids: BTreeSet<String> = kept.iter().map(|(uid, _)| uid.clone()).collect();
    ensure!(!uids.is_empty(), "nothing was retained");
    eventually("what is not retained to be gone", PATIENCE, async || {
        are_volumes_of(scope, base, &uids).await.map(Some)
    })
    .await?;
    for (uid, file) in &kept {
        let found = fs::read_to_string(file).with_context(|| format!("{} was retained", file.display()))?;
        ensure!(found == *uid, "{} was retained, and holds {found}", file.display());
    }
    let volumes = scope.all::<PersistentVolume>();
    let goes = Patch::Merge(json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } }));
    for uid in &uids {
        let name = format!("pvc-{uid}");
        eventually("a policy to be written", PATIENCE, async || {
            Ok(Some(volumes.patch(&name, &PatchParams::default(), &goes).await?))
        })
        .await?;
    }
    let none = BTreeSet::new();
    eventually("everything to be gone", PATIENCE, async || {
        are_volumes_of(scope, base, &none).await?;
        let left = fs::read_dir(base.join(".latebind/gone"))?.count();
        // The agent forgets them once a minute.
        ensure!(left == 0 || !long(), "{left} notes of what is gone");
        Ok(Some(()))
    })
    .await
}

/// No life that was long enough has grown by more than a tenth.
fn flat(faults: &Faults<'_>) -> Result<()> {
    for (name, lives) in page::PROCESSES.iter().zip(&faults.lives) {
        for growth in lives.growth() {
            let [resident, anonymous] = growth.ratios();
            ensure!(resident <= GROWTH && anonymous <= GROWTH, "the {name} grows: {growth:?}");
        }
    }
    Ok(())
}
