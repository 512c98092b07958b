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
use crate::runtime::api::{ApiError, if_found, in_time};

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

/// Reads from the last report in which bases there is trash: their pools and volumes may be gone.
pub(super) async fn remember(agent: &Agent) {
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    loop {
        match if_found(nodes.get(&agent.options.node_name)).await {
            Ok(found) => {
                let paths = found.and_then(|node| node.status).map(|status| status.paths).unwrap_or_default();
                agent.trashed().extend(paths.into_iter().map(|path| path.path));
                return;
            }
            Err(error) => tracing::warn!(%error, "the last report cannot be read, asking again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is left in bases that no pool offers any more.
fn former(agent: &Agent, offered: &[PathReport]) -> Vec<PathReport> {
    let trashed: Vec<String> = agent.trashed().iter().cloned().collect();
    let others = trashed.into_iter().filter(|path| !offered.iter().any(|known| known.path == *path));
    let looked = others.filter_map(|path| {
        let trash = Base::open_existing(&agent.options.bases, &path).and_then(|base| base.trash_entries()).ok()?;
        let message = "no pool offers this path; what is left there of deleted volumes is being removed".to_owned();
        let trash = i64::try_from(trash).unwrap_or(i64::MAX);
        Some(PathReport { path, message, trash, ..PathReport::default() })
    });
    looked.filter(|report| report.trash > 0).collect()
}

/// The pool paths on this node. `None` before the Node is known.
fn paths(agent: &Agent) -> Option<Vec<PoolPath>> {
    let node = agent.node()?;
    let mut paths: Vec<PoolPath> = Vec::new();
    for pool in agent.pools.state() {
        for path in pool.spec.paths_on(&node.object) {
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
        let offered = paths.iter().map(look).collect::<Vec<PathReport>>();
        let former = former(&looking, &offered);
        (offered, former)
    });
    let (offered, former) = reports.await.ok()?;
    agent.metrics.looked(&offered, &former, agent.locals.len());
    let mut status = LocalNodeStatus {
        observed_at: Some(Time(Timestamp::now())),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        paths: offered,
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
    status.paths.extend(former);
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
        let mut left = false;
        for path in known_bases(&agent) {
            let (sweeping, base) = (Arc::clone(&agent), path.clone());
            let swept = tokio::task::spawn_blocking(move || {
                // Without its mount there is nothing to be emptied, and nothing is made.
                let base = Base::open_existing(&sweeping.options.bases, &base)?;
                if base.trash_entries()? > 0 { base.sweep(budget) } else { Ok(Swept::default()) }
            });
            match swept.await {
                Ok(Ok(swept)) => {
                    if let Some(stuck) = &swept.stuck {
                        tracing::warn!(stuck, "something in the trash cannot be removed");
                    }
                    // What is stuck alone is not worth ten rounds a second.
                    left |= swept.left > 0 && swept.stuck.is_none();
                }
                Ok(Err(error)) => tracing::debug!(path, %error, "a trash cannot be emptied now"),
                Err(error) => tracing::warn!(path, %error, "emptying the trash broke off"),
            }
        }
        if left {
            tokio::time::sleep(ROUND).await;
        } else {
            drop(tokio::time::timeout(TRASH, agent.sweep.notified()).await);
        }
    }
}

/// Every base that there may be trash in.
fn known_bases(agent: &Agent) -> BTreeSet<String> {
    let mut bases: BTreeSet<String> = agent.trashed().clone();
    bases.extend(paths(agent).unwrap_or_default().into_iter().map(|path| path.path));
    bases.extend(agent.locals.state().iter().map(|local| local.spec.base.clone()));
    bases
}
