//! Tells what is on this node: puts together what was found at each base, and writes it when it is worth a write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use super::bases::LOOK;
use super::disk::error::DirectoryError;
use super::disk::marker::Marker;
use super::disk::records::{Ages, StoreMark};
use super::facts::BaseLook;
use super::orphans::{Found, Situation};
use super::restored::{DiskSays, StoreSays, judge, next_epoch};
use super::state::Agent;
use super::static_disks::mark_duplicates;
use super::{replaced, store};
use crate::crd::{
    DISK_HUNG, DiskReport, LISTED_DISKS, LISTED_KEPT, LocalNode, LocalNodeSpec, LocalNodeStatus, NODE_REPLACED,
    ORPHANS_HELD, PathReport, READY, Reclaim, is_true, orphan_allowance, set_condition,
};
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::kubernetes::controller::{Reconciler, Turn};

/// A report is written again after this time, changed or not.
const REFRESH: Duration = Duration::from_secs(600);
/// The same while a person is waited for.
const REFRESH_WAITING: Duration = Duration::from_secs(10);
/// The same after a volume was seen for the first time: a store that is restored to before that time then knows less
/// than the disk.
const REFRESH_AFTER_NEW: Duration = Duration::from_secs(30);
/// Free bytes count as changed from this part of the size on: 1/64. Less is not worth a write.
const NOTABLE: i64 = 64;
/// The report waits no longer than this for a base that nothing is known of yet: others have something to tell.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Writes the report on this node. It has one key.
pub(super) struct Reports {
    agent: Arc<Agent>,
    last: Mutex<Last>,
}

/// What there was to tell the last time.
#[derive(Default)]
struct Last {
    conditions: Vec<Condition>,
    written: Option<Written>,
}

struct Written {
    at: Instant,
    status: LocalNodeStatus,
    /// The newest version of a volume that a disk knew of.
    newest: u128,
}

/// A report that is not written yet.
struct Composed {
    /// UID of the Node that it is about.
    node_uid: String,
    status: LocalNodeStatus,
    /// What the disks say of the store, at the very looks that the rest is made of: what was not known then, such as that
    /// the store is older, held nothing back.
    marks: Marks,
}

impl Reports {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, last: Mutex::default() }
    }
}

impl Reconciler for Reports {
    type Key = ();
    type Error = ApiError;

    async fn reconcile(&self, (): &(), _: Turn) -> Result<Option<Duration>, ApiError> {
        let Some(next) = self.compose() else { return Ok(Some(LOOK)) };
        let newest = next.marks.values().map(|(_, disk)| disk.newest).max().unwrap_or(0);
        if self.is_due(&next.status, newest)
            && let Some(status) = write(&self.agent, next).await?
        {
            self.last.lock().written = Some(Written { at: Instant::now(), status, newest });
        }
        Ok(Some(LOOK))
    }

    fn enqueue_all(&self) {
        self.agent.report_soon();
    }
}

impl Reports {
    fn is_due(&self, next: &LocalNodeStatus, newest: u128) -> bool {
        let is_replaced = is_true(&next.conditions, NODE_REPLACED);
        // A person who deletes the object accepts the Node as it is, and should not wait long for it; nor should one who
        // says that the store is as it should be.
        let waits = is_replaced || store::held_by(&self.agent).is_some();
        let refresh = if waits { REFRESH_WAITING } else { REFRESH };
        // A Node whose disks are confirmed is not told apart from an earlier one by what was found there.
        let confirms = self.agent.is_replaced() && !is_replaced;
        let last = self.last.lock();
        let Some(Written { at, status, newest: known }) = &last.written else { return true };
        let age = at.elapsed();
        confirms || age >= refresh || differs(status, next) || (newest != *known && age >= REFRESH_AFTER_NEW)
    }

    /// What there is. Nothing before every base was looked at for this Node.
    fn compose(&self) -> Option<Composed> {
        let agent = &self.agent;
        let uid = agent.node_uid();
        let looks = looked(agent, &uid)?;
        let marks = looks.iter().filter_map(|(path, look)| Some((path.clone(), look.mark.clone()?))).collect();
        let missing = replaced::missing(agent);
        let mut kept = agent.kept();
        agent.metrics.kept(kept.len());
        kept.truncate(LISTED_KEPT);
        let (claims, ordered) = agent.claims();
        let mut found_orphans = Vec::new();
        let (mut offered, mut former, mut hung) = (Vec::new(), Vec::new(), Vec::new());
        for (path, look) in looks {
            // One may have become a volume's since.
            let orphans = look.orphans.into_iter().filter(|marker| !claims.contains(&marker.claim));
            found_orphans.extend(orphans.map(|marker| found(&path, marker, &look.ages)));
            hung.extend(look.hangs.then(|| path.clone()));
            match look.offered {
                Some(report) => offered.push(report),
                None if look.trash > 0 => former.push(left_over(path, look.trash)),
                None => {}
            }
        }
        agent.metrics.looked(&offered, &former, claims.len());
        let now = Timestamp::now();
        let held_by = store::held_by(agent);
        let situation = Situation {
            now: agent.now(),
            today: now,
            age: agent.options.remove_orphans,
            volumes: claims.len(),
            ordered: &ordered,
            held_by: held_by.as_deref(),
        };
        let (plan, removed_orphans) = {
            let mut known = agent.orphans();
            known.saw(situation.now, now, found_orphans);
            (known.plan(&situation), known.removed(situation.now))
        };
        agent.metrics.held(plan.held, !missing.is_empty());
        let mut last = self.last.lock();
        let conditions = &mut last.conditions;
        replaced::tell(agent, &missing, conditions, now);
        tell_held(&situation, plan.held, store::went_back(agent), conditions);
        tell_hung(&hung, conditions, now);
        tell_ready(&offered, conditions, now);
        let status = LocalNodeStatus {
            observed_at: Some(Time(now)),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            paths: offered.into_iter().chain(former).collect(),
            disks: found_disks(agent),
            orphans: plan.listed,
            kept,
            removed_orphans,
            conditions: conditions.clone(),
        };
        Some(Composed { node_uid: uid, status, marks })
    }
}

/// What was found at every base that is known, for this Node; `None` while one has still to be looked at.
fn looked(agent: &Agent, node_uid: &str) -> Option<Vec<(String, BaseLook)>> {
    let offered = agent.caches.offered(&agent.options.node_name)?;
    let bases = agent.known_bases()?;
    let looks = agent.looks();
    let look = |path: String| match looks.get(&path) {
        Some(look) if look.node_uid == node_uid => Some((path, look.clone())),
        // A person may have to be told that it hangs before it is known for sure.
        _ if agent.calls.waits_for(&path) >= FIRST_LOOK => {
            let error = DirectoryError::Hung { path: path.clone() };
            let reported = agent.reported().get(&path).cloned();
            let look = BaseLook::unanswered(None, reported, &path, offered.contains_key(&path), &error);
            Some((path, look))
        }
        _ => None,
    };
    bases.into_iter().map(look).collect()
}

/// What was found of whole disks, by path; more than a report lists are left out.
fn found_disks(agent: &Agent) -> Vec<DiskReport> {
    let mut all: Vec<DiskReport> = agent.found_disks().values().flatten().cloned().collect();
    all.sort_by(|one, two| one.path.cmp(&two.path));
    mark_duplicates(&mut all);
    agent.metrics.found_disks(&all);
    all.truncate(LISTED_DISKS);
    all
}

/// What is left in a base that no pool offers any more.
fn left_over(path: String, trash: i64) -> PathReport {
    let message = "no pool offers this path; what is left there of deleted volumes is being removed".to_owned();
    PathReport { path, message, trash, ..PathReport::default() }
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
                agent.orphans().restore(&status, agent.now());
                agent.reported_kept().clone_from(&status.kept);
                agent.trashed().extend(status.paths.iter().map(|path| path.path.clone()));
                agent.reported().extend(status.paths.into_iter().map(|path| (path.path.clone(), path)));
                return;
            }
            Err(error) => tracing::warn!(%error, "the last report cannot be read, asking again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn found(base: &str, marker: Marker, ages: &Ages) -> Found {
    let recorded = marker.persistent_volume.as_ref().map(|recorded| recorded.seen.reclaim_policy);
    Found {
        base: base.to_owned(),
        age_before: ages.get(&marker.claim, &marker.path),
        retained: recorded == Some(Reclaim::Retain),
        claim: marker.claim,
        path: marker.path,
    }
}

/// Says that more orphans are due than may go. Where none are ever removed there is nothing to say.
fn tell_held(situation: &Situation<'_>, held: usize, went_back: bool, conditions: &mut Vec<Condition>) {
    if situation.age.is_none() && !went_back {
        conditions.retain(|condition| condition.type_ != ORPHANS_HELD);
        return;
    }
    let most = orphan_allowance(situation.volumes);
    let message = format!(
        "{held} directories that no volume names are due and wait: of {} volumes {most} may go within an hour; look \
         whether that many should",
        situation.volumes
    );
    let condition = if let Some(why) = situation.held_by {
        (ORPHANS_HELD, true, "StoreRestored", why)
    } else if held > 0 {
        (ORPHANS_HELD, true, "TooMany", message.as_str())
    } else {
        (ORPHANS_HELD, false, "WithinBounds", "no directory waits to be removed")
    };
    set_condition(conditions, condition, None, situation.today);
}

/// Says which disks hang. Where none ever did there is nothing to say.
fn tell_hung(hung: &[String], conditions: &mut Vec<Condition>, now: Timestamp) {
    let message = format!(
        "calls to the disk do not return, and nothing is made or removed there until they do: {}; look at the disk, and at \
         the kernel's log of the node",
        hung.join(", ")
    );
    if !hung.is_empty() {
        set_condition(conditions, (DISK_HUNG, true, "NoAnswer", &message), None, now);
    } else if is_true(conditions, DISK_HUNG) {
        set_condition(conditions, (DISK_HUNG, false, "Answers", "every disk answers again"), None, now);
    }
}

fn tell_ready(offered: &[PathReport], conditions: &mut Vec<Condition>, now: Timestamp) {
    let bad: Vec<&PathReport> = offered.iter().filter(|path| !path.usable).collect();
    let message = bad.iter().map(|path| path.message.as_str()).collect::<Vec<_>>().join("; ");
    let condition = match bad.as_slice() {
        _ if offered.is_empty() => (READY, true, "NoPaths", "no pool has paths on this node"),
        [] => (READY, true, "PathsUsable", "every path can be used"),
        // What all of them lack is said in one word.
        [first, rest @ ..] if !first.reason.is_empty() && rest.iter().all(|path| path.reason == first.reason) => {
            (READY, false, first.reason.as_str(), message.as_str())
        }
        _ => (READY, false, "PathsNotUsable", message.as_str()),
    };
    set_condition(conditions, condition, None, now);
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
            epoch: 0,
            ..path.clone()
        }
    };
    let all = |status: &LocalNodeStatus| status.paths.iter().map(rough).collect::<Vec<_>>();
    let others =
        |status: &LocalNodeStatus| (status.conditions.clone(), status.orphans.clone(), status.removed_orphans.clone());
    if old.kept != new.kept || old.disks != new.disks {
        return true;
    }
    all(old) != all(new) || others(old) != others(new)
}

type Marks = BTreeMap<String, (String, DiskSays)>;

/// What is to be written down on disks: path, identity of the base, and mark.
type Notes = Vec<(String, String, StoreMark)>;

/// Holds what the disks say against what the store says, and numbers the report. First what the disks do not know yet, which
/// is written down before anything is reported; then what they are told of the report once the store has it.
fn judged(status: &mut LocalNodeStatus, marks: Marks, says: &StoreSays) -> (Notes, Notes) {
    let (mut changed, mut counted) = (Vec::new(), Vec::new());
    // Of a disk that does not answer an earlier report is told again. Its number is that of the store: one that was taken back
    // would look like a store that was restored.
    for report in &mut status.paths {
        let known = says.epochs.get(&report.base_id).copied().unwrap_or(0);
        report.epoch = i64::try_from(known).unwrap_or(i64::MAX);
    }
    for (path, (id, disk)) in marks {
        let mark = judge(&id, &disk, says);
        let report = status.paths.iter_mut().find(|report| report.path == path && report.base_id == id);
        let epoch = if mark != disk.mark || mark.behind.is_some() {
            // What tells that the store is behind is not overwritten.
            says.epochs.get(&id).copied().unwrap_or(0)
        } else {
            next_epoch(&mark, says, &id)
        };
        if let Some(report) = report {
            report.epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        }
        if mark != disk.mark {
            changed.push((path, id, mark));
        } else if mark.behind.is_none() {
            counted.push((path, id, StoreMark { epoch, ..mark }));
        }
    }
    (changed, counted)
}

/// Writes the report, if the disks agree with the store. `None` when they did not: what they say now is to be reported.
async fn write(
    agent: &Arc<Agent>,
    Composed { node_uid: uid, mut status, mut marks }: Composed,
) -> Result<Option<LocalNodeStatus>, ApiError> {
    let (found, says) = store::ask(agent).await?;
    // Nothing is written down there. What is reported of it is what was reported before.
    marks.retain(|path, _| !agent.calls.hangs(path));
    let (changed, counted) = judged(&mut status, marks, &says);
    let mut told = status.clone();
    if !changed.is_empty() {
        let mut kept = true;
        for (path, id, mark) in changed {
            kept &= store::keep(agent, &path, id, mark).await;
            agent.look_soon(&path);
        }
        if kept {
            // The disks say something else now, which the next look finds.
            return Ok(None);
        }
        // One would not take it, and so the next look does not find it.
        told.orphans.iter_mut().for_each(|orphan| orphan.removable = false);
    }
    let nodes: Api<LocalNode> = Api::all(agent.client.clone());
    let name = &agent.options.node_name;
    let found = if let Some(found) = found {
        found
    } else {
        // Whoever deleted the report of an earlier Node has accepted this one as it is.
        let new = LocalNode::new(name, LocalNodeSpec { node_uid: uid.clone() });
        in_time(nodes.create(&PostParams::default(), &new)).await?
    };
    // What the disks were compared with must still be what is there.
    let patch = json!({ "metadata": { "resourceVersion": found.metadata.resource_version }, "status": told });
    let found = in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    for (path, id, mark) in counted {
        store::keep(agent, &path, id, mark).await;
    }
    let mut confirmed = found.spec.node_uid;
    if confirmed != uid && !is_true(&status.conditions, NODE_REPLACED) {
        let patch = json!({ "spec": { "nodeUID": uid } });
        in_time(nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        confirmed = uid;
    }
    *agent.confirmed() = confirmed;
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that hangs has taken no note of the last report yet, or cannot say that it has.
    #[test]
    fn the_number_of_a_disk_that_does_not_answer_is_not_taken_back() {
        let report = |base_id: &str, epoch| PathReport {
            path: "/base".to_owned(),
            base_id: base_id.to_owned(),
            epoch,
            ..PathReport::default()
        };
        let says = StoreSays { epochs: [("disk".to_owned(), 1556)].into(), ..StoreSays::default() };
        for (told, expected) in [(report("disk", 1555), 1556), (report("disk", 0), 1556), (report("other", 7), 0)] {
            let mut status = LocalNodeStatus { paths: vec![told], ..LocalNodeStatus::default() };
            let (changed, counted) = judged(&mut status, Marks::new(), &says);
            assert!(changed.is_empty() && counted.is_empty());
            assert_eq!(status.paths[0].epoch, expected);
        }
    }

    /// A look that ended before the disk had learnt that the store is older let an orphan go. The report that it is part of
    /// is not written, whatever later looks say.
    #[test]
    fn a_report_is_judged_by_the_looks_that_it_was_made_of() {
        let path = PathReport { path: "/base".to_owned(), base_id: "disk".to_owned(), ..PathReport::default() };
        let composed = LocalNodeStatus { paths: vec![path], ..LocalNodeStatus::default() };
        let marked = |mark| Marks::from([("/base".to_owned(), ("disk".to_owned(), DiskSays { mark, newest: 0 }))]);
        let (says, mut status) = (StoreSays::default(), composed.clone());
        let before = StoreMark { epoch: 7, ..StoreMark::default() };
        let (changed, counted) = judged(&mut status, marked(before), &says);
        assert!(changed.len() == 1 && counted.is_empty() && changed[0].2.behind.is_some(), "{changed:?}");
        // The look after that one: what the disk knows now is reported, and the number is not counted on.
        let mut status = composed.clone();
        let (changed, counted) = judged(&mut status, marked(changed[0].2.clone()), &says);
        assert!(changed.is_empty() && counted.is_empty() && status.paths[0].epoch == 0);
        let (says, mut status) = (StoreSays { epochs: [("disk".to_owned(), 7)].into(), ..says }, composed);
        let current = StoreMark { epoch: 7, ..StoreMark::default() };
        let (changed, counted) = judged(&mut status, marked(current), &says);
        assert!(changed.is_empty() && counted[0].2.epoch == 8 && status.paths[0].epoch == 8);
    }
}
