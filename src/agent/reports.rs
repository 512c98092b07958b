//! Tells what is on this node, and empties the trash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::base::Base;
use super::facts::report_and_orphans;
use super::orphans::{Situation, allowance};
use super::replaced;
use super::run::Agent;
use super::trash::Swept;
use crate::crd::{
    Kept, LocalNode, LocalNodeSpec, LocalNodeStatus, LocalVolume, NODE_REPLACED, ORPHANS_HELD, Origin, PathReport,
    PoolPath, READY, is_true, set_condition,
};
use crate::runtime::api::{ApiError, if_found, in_time};

/// How often the disks are looked at. Only a change is written.
const LOOK: Duration = Duration::from_secs(2);
/// A report is written again after this time, changed or not.
const REFRESH: Duration = Duration::from_secs(600);
/// The same while it is not known whether the disks of the Node are there.
const REFRESH_REPLACED: Duration = Duration::from_secs(10);
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
        if let Some((uid, next)) = look(&agent).await {
            // A person who deletes the object accepts the Node as it is, and should not wait long for it.
            let refresh = if is_true(&next.conditions, NODE_REPLACED) { REFRESH_REPLACED } else { REFRESH };
            // A Node whose disks are confirmed is not told apart from an earlier one by what was found there.
            let confirms = agent.is_replaced() && !is_true(&next.conditions, NODE_REPLACED);
            let due =
                confirms || written.as_ref().is_none_or(|(at, old)| at.elapsed() >= refresh || differs(old, &next));
            if due {
                match write(&agent, uid, &next).await {
                    Ok(()) => written = Some((Instant::now(), next)),
                    Err(error) => tracing::warn!(%error, "the report was not written, trying again"),
                }
            }
        }
        drop(tokio::time::timeout(LOOK, agent.report.notified()).await);
    }
}

/// Reads from the last report in which bases there is trash, since their pools and volumes may be gone; which orphans there
/// were; and which Node it was about.
pub(super) async fn remember(agent: &Agent) {
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    loop {
        match if_found(nodes.get(&agent.options.node_name)).await {
            Ok(found) => {
                let Some(LocalNode { spec, status, .. }) = found else { return };
                *agent.confirmed() = spec.node_uid;
                let status = status.unwrap_or_default();
                agent.orphans().restore(&status);
                agent.trashed().extend(status.paths.into_iter().map(|path| path.path));
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
    for pool in agent.caches.pools.all() {
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

/// What there is, and the UID of the Node as it was before the look: a Node that is made anew in the middle of it has not
/// been looked for.
async fn look(agent: &Arc<Agent>) -> Option<(String, LocalNodeStatus)> {
    let uid = agent.node_uid();
    let paths = paths(agent)?;
    let (claims, ordered) = claims(agent);
    let volumes = claims.len();
    let looking = Arc::clone(agent);
    let reports = tokio::task::spawn_blocking(move || {
        let mut orphans = Vec::new();
        let mut offered: Vec<PathReport> = Vec::new();
        for path in &paths {
            let (report, markers) = report_and_orphans(&looking.options.bases, path, &looking.cluster, &claims);
            offered.push(report);
            orphans.extend(markers.into_iter().map(|marker| (path.path.clone(), marker.claim, marker.path)));
        }
        let former = former(&looking, &offered);
        let missing = replaced::missing(&looking);
        (offered, former, orphans, missing)
    });
    let (offered, former, orphans, missing) = reports.await.ok()?;
    agent.metrics.looked(&offered, &former, volumes);
    let now = Timestamp::now();
    let situation = Situation { now, age: agent.options.remove_orphans, volumes, ordered: &ordered };
    let (plan, removed_orphans) = {
        let mut known = agent.orphans();
        known.saw(now, orphans);
        (known.plan(&situation), known.removed(now))
    };
    agent.metrics.held(plan.held, !missing.is_empty());
    let mut status = LocalNodeStatus {
        observed_at: Some(Time(now)),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        paths: offered,
        orphans: plan.listed,
        removed_orphans,
        conditions: agent.conditions(),
    };
    replaced::tell(agent, &missing, &mut status.conditions, now);
    tell_held(&situation, plan.held, &mut status.conditions);
    let bad: Vec<&PathReport> = status.paths.iter().filter(|path| !path.usable).collect();
    let message = bad.iter().map(|path| path.message.as_str()).collect::<Vec<_>>().join("; ");
    let condition = if status.paths.is_empty() {
        (READY, true, "NoPaths", "no pool has paths on this node")
    } else if bad.is_empty() {
        (READY, true, "PathsUsable", "every path can be used")
    } else {
        (READY, false, "PathsNotUsable", message.as_str())
    };
    set_condition(&mut status.conditions, condition, None, now);
    agent.keep_conditions(&status.conditions);
    status.paths.extend(former);
    Some((uid, status))
}

/// The claims whose directories are in use on this node, and those whose orphaned directories were ordered to be removed.
pub(super) fn claims(agent: &Agent) -> (BTreeSet<String>, BTreeSet<String>) {
    let locals = agent.locals();
    let (ordered, used): (Vec<_>, Vec<_>) = locals.iter().partition(|local| local.spec.origin == Origin::Orphan);
    let uids = |locals: Vec<&Arc<Kept<LocalVolume>>>| locals.iter().map(|local| local.spec.claim.uid.clone()).collect();
    (uids(used), uids(ordered))
}

/// Says that more orphans are due than may go. Where none are ever removed there is nothing to say.
fn tell_held(situation: &Situation<'_>, held: usize, conditions: &mut Vec<Condition>) {
    if situation.age.is_none() {
        conditions.retain(|condition| condition.type_ != ORPHANS_HELD);
        return;
    }
    let most = allowance(situation.volumes);
    let message = format!(
        "{held} directories that no volume names are due and wait: of {} volumes {most} may go within an hour; look \
         whether that many should",
        situation.volumes
    );
    let condition = if held > 0 {
        (ORPHANS_HELD, true, "TooMany", message.as_str())
    } else {
        (ORPHANS_HELD, false, "WithinBounds", "no directory waits to be removed")
    };
    set_condition(conditions, condition, None, situation.now);
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
    let others =
        |status: &LocalNodeStatus| (status.conditions.clone(), status.orphans.clone(), status.removed_orphans.clone());
    all(old) != all(new) || others(old) != others(new)
}

async fn write(agent: &Agent, uid: String, status: &LocalNodeStatus) -> Result<(), ApiError> {
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    let name = &agent.options.node_name;
    let patch = json!({ "status": status });
    let written = in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await;
    let found = match written {
        Err(error) if error.is_not_found() => {
            // Whoever deleted the report of an earlier Node has accepted this one as it is.
            let new = LocalNode::new(name, LocalNodeSpec { node_uid: uid.clone() });
            in_time(nodes.create(&PostParams::default(), &new)).await?;
            in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await?
        }
        written => written?,
    };
    let mut confirmed = found.spec.node_uid;
    if confirmed != uid && !is_true(&status.conditions, NODE_REPLACED) {
        let patch = json!({ "spec": { "nodeUID": uid } });
        in_time(nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        confirmed = uid;
    }
    *agent.confirmed() = confirmed;
    Ok(())
}

/// Empties the trash of every base, no faster than allowed.
pub(super) async fn sweep_for_ever(agent: Arc<Agent>) {
    // Ten rounds a second. The first step of a round finds out that a directory is not empty; one must be left for what is
    // in it, or nothing would ever be removed.
    let budget = (agent.options.unlinks_per_second / 10).max(2);
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
    bases.extend(agent.locals().iter().map(|local| local.spec.base.clone()));
    bases
}
