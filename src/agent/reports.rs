//! Tells what is on this node, and empties the trash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::base::Base;
use super::run::Agent;
use super::trash::Swept;
use crate::crd::{LocalNode, LocalNodeSpec, LocalNodeStatus, PathReport, PoolPath, READY, set_condition};
use crate::provision::api::{ApiError, in_time};

/// How often the disks are looked at. Only a change is written.
const LOOK: Duration = Duration::from_secs(2);
/// A report is written again after this time, changed or not.
const REFRESH: Duration = Duration::from_secs(600);
/// Free bytes count as changed from this part of the size on: 1/64. Less is not worth a write.
const NOTABLE: i64 = 64;
/// The trash is looked at this often even if nobody said that there is something in it.
const TRASH: Duration = Duration::from_secs(60);
/// One round of emptying.
const ROUND: Duration = Duration::from_millis(100);

/// Reports until the future is dropped.
pub(super) async fn report_for_ever(agent: Arc<Agent>) {
    let mut written: Option<(Instant, LocalNodeStatus)> = None;
    loop {
        if let Some(next) = look(&agent).await {
            let due = written.as_ref().is_none_or(|(at, old)| at.elapsed() >= REFRESH || differs(old, &next));
            if due {
                match write(&agent, &next).await {
                    Ok(()) => written = Some((Instant::now(), next)),
                    Err(error) => tracing::warn!(%error, "the report was not written, trying again"),
                }
            }
        }
        drop(tokio::time::timeout(LOOK, agent.report.notified()).await);
    }
}

/// The pool paths on this node. `None` before the Node is known.
fn paths(agent: &Agent) -> Option<Vec<PoolPath>> {
    let node = agent.node()?;
    let mut paths: Vec<PoolPath> = Vec::new();
    for pool in agent.pools.state() {
        for path in pool.spec.paths_on(&node) {
            match paths.iter_mut().find(|known| known.path == path.path) {
                // Two pools may share a path; the stricter one counts.
                Some(known) => known.require_mount |= path.require_mount,
                None => paths.push(path.clone()),
            }
        }
    }
    paths.sort_by(|a, b| a.path.cmp(&b.path));
    Some(paths)
}

async fn look(agent: &Arc<Agent>) -> Option<LocalNodeStatus> {
    let paths = paths(agent)?;
    let claims: BTreeSet<String> = agent.locals.state().iter().map(|local| local.spec.claim.uid.clone()).collect();
    let looking = Arc::clone(agent);
    let reports = tokio::task::spawn_blocking(move || {
        let look = |path| super::facts::report(&looking.options.bases, path, &looking.cluster, &claims);
        paths.iter().map(look).collect::<Vec<PathReport>>()
    });
    let reports = reports.await.ok()?;
    let mut status = LocalNodeStatus {
        observed_at: Some(Time(Timestamp::now())),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        paths: reports,
        conditions: agent.conditions(),
    };
    let bad: Vec<&PathReport> = status.paths.iter().filter(|path| !path.usable).collect();
    let message = bad.iter().map(|path| path.message.as_str()).collect::<Vec<_>>().join("; ");
    let condition = if status.paths.is_empty() {
        (READY, true, "NoPaths", "no pool has paths on this node")
    } else if bad.is_empty() {
        (READY, true, "PathsUsable", "every path can be used")
    } else {
        (READY, false, "PathsNotUsable", message.as_str())
    };
    set_condition(&mut status.conditions, condition, None, Timestamp::now());
    agent.keep_conditions(&status.conditions);
    Some(status)
}

/// True when the difference is worth a write.
fn differs(old: &LocalNodeStatus, new: &LocalNodeStatus) -> bool {
    let rough = |path: &PathReport| {
        let step = (path.total_bytes / NOTABLE).max(1);
        // What belongs to the volumes themselves changes all the time.
        PathReport {
            free_bytes: path.free_bytes / step,
            free_inodes: 0,
            trash: i64::from(path.trash > 0),
            ..path.clone()
        }
    };
    let all = |status: &LocalNodeStatus| status.paths.iter().map(rough).collect::<Vec<_>>();
    all(old) != all(new) || old.conditions != new.conditions
}

async fn write(agent: &Agent, status: &LocalNodeStatus) -> Result<(), ApiError> {
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    let name = &agent.options.node_name;
    let patch = json!({ "status": status });
    let written = in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await;
    let found = match written {
        Err(error) if error.is_not_found() => {
            let new = LocalNode::new(name, LocalNodeSpec { node_uid: agent.node_uid() });
            in_time(nodes.create(&PostParams::default(), &new)).await?;
            in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await?
        }
        written => written?,
    };
    if found.spec.node_uid != agent.node_uid() {
        let patch = json!({ "spec": { "nodeUID": agent.node_uid() } });
        in_time(nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    }
    Ok(())
}

/// Empties the trash of every base, no faster than allowed.
pub(super) async fn sweep_for_ever(agent: Arc<Agent>) {
    // Ten rounds a second.
    let budget = (agent.options.unlinks_per_second / 10).max(1);
    loop {
        let mut bases: BTreeSet<(String, bool)> =
            paths(&agent).unwrap_or_default().into_iter().map(|path| (path.path, path.require_mount)).collect();
        for local in agent.locals.state() {
            if !bases.iter().any(|(path, _)| *path == local.spec.base) {
                bases.insert((local.spec.base.clone(), local.spec.require_mount));
            }
        }
        let mut left = false;
        for (path, require_mount) in bases {
            let sweeping = Arc::clone(&agent);
            let swept = tokio::task::spawn_blocking(move || {
                Base::open(&sweeping.options.bases, &path, require_mount)
                    .and_then(|base| if base.trash_entries()? > 0 { base.sweep(budget) } else { Ok(Swept::default()) })
            });
            match swept.await {
                Ok(Ok(swept)) => {
                    if let Some(stuck) = &swept.stuck {
                        tracing::warn!(stuck, "something in the trash cannot be removed");
                    }
                    // What is stuck alone is not worth ten rounds a second.
                    left |= swept.left > 0 && swept.stuck.is_none();
                }
                Ok(Err(error)) => tracing::debug!(%error, "a trash cannot be emptied now"),
                Err(error) => tracing::warn!(%error, "emptying the trash broke off"),
            }
        }
        if left {
            tokio::time::sleep(ROUND).await;
        } else {
            drop(tokio::time::timeout(TRASH, agent.sweep.notified()).await);
        }
    }
}
