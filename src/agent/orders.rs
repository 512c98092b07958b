//! Follows the orders of the LocalVolumes of this node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustix::io::Errno;
use serde_json::json;

use super::attempts::{ATTEMPT_LASTS, Next};
use super::disk::base::Base;
use super::disk::directory::Order;
use super::disk::error::DirectoryError;
use super::disk::marker::{ClaimName, revision};
use super::disk::others::OtherPaths;
use super::disk::records::StoreMark;
use super::disk::removal::{Proof, Removal};
use super::orphans::Situation;
use super::restored::{StoreSays, as_of, stops_removal};
use super::state::Agent;
use super::store;
use crate::crd::{
    DISPOSED, Disposal, FINALIZER, Kept, LISTED_KEPT, LocalNode, LocalVolume, LocalVolumeStatus, OnDelete, Origin,
    READY, VolumePath, set_condition,
};
use crate::kubernetes::api::{ApiError, in_time};
use crate::kubernetes::controller::{Reconciler, Turn};
use crate::model::Relation;

/// Mode of a directory whose class says nothing. Only root can get to it from outside a Pod.
const DEFAULT_MODE: u32 = 0o777;
/// A directory that is in order is looked at again this often.
const CHECK: Duration = Duration::from_secs(600);
/// A failed order is tried again this often: a disk may be mounted, or have room again.
const RETRY: Duration = Duration::from_secs(5);
/// The same for what only a change of the order or of this agent can fix.
const LONG_RETRY: Duration = Duration::from_secs(300);
/// The same after an attempt that was confirmed: asking again costs two writes.
const RETRY_CONFIRMED: Duration = Duration::from_secs(10);
/// Condition: the object was deleted, and the directory stays, since nobody ordered its removal.
const HELD: &str = "DeletionHeld";

/// The orders of this node, by the names of LocalVolumes.
pub(super) struct Orders(pub Arc<Agent>);

impl Reconciler for Orders {
    type Key = String;
    type Error = ApiError;

    async fn reconcile(&self, name: &String, _: Turn) -> Result<Option<Duration>, ApiError> {
        match self.0.caches.locals.get(name) {
            Some(local) => follow_order(&self.0, local).await,
            None => Ok(None),
        }
    }

    fn enqueue_all(&self) {
        for local in self.0.caches.locals.all() {
            self.0.queues.orders.now(local.name().to_owned());
        }
    }

    /// A disk that hangs stops no order beneath another base. There are as many groups as there are bases.
    fn group(&self, name: &String) -> Option<Arc<str>> {
        self.0.caches.locals.get(name).map(|local| local.spec.base.as_str().into())
    }
}

/// Follows one order. `Some` asks for another look after that time.
async fn follow_order(agent: &Arc<Agent>, local: Arc<Kept<LocalVolume>>) -> Result<Option<Duration>, ApiError> {
    if local.spec.node_name != agent.options.node_name || !local.has_finalizer() || local.is_disposed() {
        return Ok(None);
    }
    if local.spec.disposal.is_some() {
        return dispose(agent, local).await;
    }
    agent.attempts().forget(local.uid());
    let deleting = local.is_deleting();
    make(agent, local, deleting).await
}

async fn make(agent: &Arc<Agent>, local: Arc<Kept<LocalVolume>>, deleting: bool) -> Result<Option<Duration>, ApiError> {
    let mut status = local.status.clone().unwrap_or_default();
    let generation = local.metadata.generation;
    let mut changed = false;
    if deleting {
        let message = "this object was deleted without an order to dispose of the directory, which is left alone; \
                       set spec.disposal to Delete to remove it, or remove the finalizer to forget it";
        changed |=
            set_condition(&mut status.conditions, (HELD, true, "NoOrder", message), generation, Timestamp::now());
    }
    let again = if matches!(local.spec.origin, Origin::Adopted | Origin::Orphan) {
        None
    } else {
        let served = local.is_ready() || local.spec.origin == Origin::Recovered || was_ready(&local);
        let outcome = if !served && agent.node_uid() != local.spec.node_uid {
            Err(DirectoryError::Order(format!(
                "node {} was replaced by another of the same name since the order was given",
                agent.options.node_name
            )))
        } else if !served && agent.is_replaced() {
            let why = "its disks are not confirmed yet".to_owned();
            Err(DirectoryError::Replaced { node: agent.options.node_name.clone(), why })
        } else {
            on_disk(agent, &local, move |agent, local| agent.make(local, served)).await
        };
        if !local.is_ready() || outcome.is_err() {
            agent.metrics.ordered("make", outcome.is_ok());
        }
        let (condition, again) = match outcome {
            Ok(base_id) => {
                changed |= status.base_id.as_ref() != Some(&base_id);
                status.base_id = Some(base_id);
                let message = format!("the directory is at {}/{}", local.spec.base, local.spec.path);
                (("DirectoryReady", true, message), CHECK)
            }
            Err(error) => {
                tracing::warn!(volume = local.name(), %error, "the directory is not ready");
                agent.look_soon(&local.spec.base);
                let again = if error.is_final() { LONG_RETRY } else { RETRY };
                ((error.reason(), false, format!("node {}: {error}", agent.options.node_name)), again)
            }
        };
        let (reason, ready, message) = condition;
        changed |=
            set_condition(&mut status.conditions, (READY, ready, reason, &message), generation, Timestamp::now());
        Some(again)
    };
    if changed {
        write_status(agent, &local, &status).await?;
    }
    Ok(again)
}

/// It was ready at some time: the base's identity is only ever written then.
fn was_ready(local: &LocalVolume) -> bool {
    local.status.as_ref().is_some_and(|status| status.base_id.is_some())
}

/// It was reported as ready, or must have been.
fn may_hold_data(local: &LocalVolume) -> bool {
    local.spec.origin != Origin::Made || local.is_ready() || was_ready(local)
}

/// Takes a directory away. The order alone does not permit it: each attempt has to be confirmed by the controller, which
/// asks the API server about the volume at that moment.
async fn dispose(agent: &Arc<Agent>, local: Arc<Kept<LocalVolume>>) -> Result<Option<Duration>, ApiError> {
    if let Some(wait) = agent.attempts().wait(local.uid(), Instant::now()) {
        return Ok(Some(wait));
    }
    // What holds it back anyway is said without anybody being asked.
    let before = match before_asking(agent, &local).await? {
        Ok(before) => before,
        Err(kept) => {
            agent.metrics.ordered("dispose", false);
            return refuse(agent, &local, &kept, RETRY).await;
        }
    };
    let next = agent.attempts().next(local.uid(), local.spec.confirmed_attempt.as_deref(), Instant::now());
    let begun = match next {
        Next::Wait(left) => return Ok(Some(left)),
        Next::Ask(name) => {
            ask(agent, &local, &name).await?;
            return Ok(Some(ATTEMPT_LASTS));
        }
        Next::Act(begun) => begun,
    };
    let outcome = if let Err(kept) = may_remove(agent, &local).await? {
        Err(kept)
    } else {
        let (_, says) = store::report(agent).await?;
        let asked = Asked { before, says };
        on_disk(agent, &local, move |agent, local| agent.dispose(local, &asked, begun + ATTEMPT_LASTS).map(drop)).await
    };
    agent.metrics.ordered("dispose", outcome.is_ok());
    if let Err(error) = outcome {
        return refuse(agent, &local, &error, RETRY_CONFIRMED).await;
    }
    // Noted first: a report that names the base is what a restarted agent finds the trash by.
    agent.sweep_soon(&local.spec.base);
    agent.attempts().forget(local.uid());
    if !local.is_deleting() {
        lift_finalizer(agent, &local).await?;
        return Ok(None);
    }
    // Without its finalizer the object would vanish, and with it what tells that the directory is gone.
    let mut status = local.status.clone().unwrap_or_default();
    let message = match local.spec.on_delete {
        OnDelete::Delete => "the directory is gone, as it was ordered",
        OnDelete::Archive => "the directory was moved to .archive, as it was ordered",
        OnDelete::KeepPath => "the directory stays in its place, as it was ordered",
    };
    let condition = (DISPOSED, true, "Removed", message);
    set_condition(&mut status.conditions, condition, local.metadata.generation, Timestamp::now());
    patch_status(agent, &local, &disposed(&local, &status)).await?;
    Ok(None)
}

/// What is written once a directory is gone. It is said of the very object that was acted on: of one whose order was taken back
/// meanwhile it would have the directory forgotten that is served again.
fn disposed(local: &LocalVolume, status: &LocalVolumeStatus) -> serde_json::Value {
    let mut patch = status_patch(local, status);
    patch["metadata"]["resourceVersion"] = json!(local.metadata.resource_version);
    patch
}

/// What the store was asked, and what the disk said before.
#[derive(Default)]
struct Asked {
    /// Identity and mark of the base, if there is one.
    before: Option<(String, StoreMark)>,
    says: StoreSays,
}

/// What can be told before the controller is asked, so that a disk that is away for a week costs no writes. If nothing holds it
/// back: what the disk remembers of the store.
async fn before_asking(
    agent: &Arc<Agent>,
    local: &Arc<Kept<LocalVolume>>,
) -> Result<Result<Option<(String, StoreMark)>, DirectoryError>, ApiError> {
    let spec = &local.spec;
    let was_served = spec.persistent_volume.is_some() || matches!(spec.origin, Origin::Recovered | Origin::Adopted);
    if spec.disposal == Some(Disposal::DeleteIfEmpty) && was_served {
        return Ok(Err(DirectoryError::Retained { path: local.directory() }));
    }
    if let Err(kept) = may_remove(agent, local).await? {
        return Ok(Err(kept));
    }
    let remembered = |agent: &Agent, local: &LocalVolume| {
        let Some(base) = agent.base_to_remove_from(local, &Asked::default())? else { return Ok(None) };
        Ok(base.known_id()?.zip(Some(base.store_mark()?)))
    };
    Ok(on_disk(agent, local, remembered).await)
}

async fn refuse(
    agent: &Agent,
    local: &LocalVolume,
    error: &DirectoryError,
    again: Duration,
) -> Result<Option<Duration>, ApiError> {
    tracing::warn!(volume = local.name(), %error, "the directory cannot be removed");
    let mut status = local.status.clone().unwrap_or_default();
    let message = format!("node {}: {error}", agent.options.node_name);
    let condition = (READY, false, error.reason(), message.as_str());
    if set_condition(&mut status.conditions, condition, local.metadata.generation, Timestamp::now()) {
        write_status(agent, local, &status).await?;
    }
    let kept = matches!(error, DirectoryError::NotEmpty { .. } | DirectoryError::Retained { .. });
    Ok(Some(if kept || error.is_final() { LONG_RETRY } else { again }))
}

/// Asks the controller whether the order still holds.
async fn ask(agent: &Agent, local: &LocalVolume, attempt: &str) -> Result<(), ApiError> {
    let locals: Api<LocalVolume> = Api::all(agent.client.clone());
    let patch = json!({ "metadata": { "uid": local.uid() }, "status": { "disposalAttempt": attempt } });
    match in_time(locals.patch_status(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// An orphan is the agent's to hold back, whatever was ordered. What is let go is written down first: a restart must not
/// begin to count anew.
async fn may_remove(agent: &Agent, local: &LocalVolume) -> Result<Result<(), DirectoryError>, ApiError> {
    if local.spec.origin != Origin::Orphan {
        return Ok(Ok(()));
    }
    let spec = &local.spec;
    let held_by = store::held_now(agent).await?;
    let (used, ordered) = agent.claims();
    let removed = {
        let situation = Situation {
            now: agent.now(),
            today: Timestamp::now(),
            age: agent.options.remove_orphans,
            volumes: used.len(),
            ordered: &ordered,
            held_by: held_by.as_deref(),
        };
        let mut orphans = agent.orphans();
        let taken = orphans.take(&(spec.base.clone(), spec.claim.uid.clone()), &spec.path, &situation);
        taken.map(|()| orphans.removed(situation.now))
    };
    match removed {
        Err(why) => Ok(Err(DirectoryError::OrphanKept { path: format!("{}/{}", spec.base, spec.path), why })),
        Ok(removed) => {
            let nodes: Api<LocalNode> = Api::all(agent.client.clone());
            let patch = json!({ "status": { "removedOrphans": removed } });
            let name = &agent.options.node_name;
            in_time(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
            tracing::info!(volume = local.name(), path = spec.path, "a directory that no volume names is removed");
            Ok(Ok(()))
        }
    }
}

/// Has something done beneath the base of a volume.
async fn on_disk<T: Send + 'static>(
    agent: &Arc<Agent>,
    local: &Arc<Kept<LocalVolume>>,
    work: impl FnOnce(&Agent, &LocalVolume) -> Result<T, DirectoryError> + Send + 'static,
) -> Result<T, DirectoryError> {
    let (working, of) = (Arc::clone(agent), Arc::clone(local));
    agent.calls.run(&local.spec.base, move || work(&working, &of)).await
}

async fn write_status(agent: &Agent, local: &LocalVolume, status: &LocalVolumeStatus) -> Result<(), ApiError> {
    patch_status(agent, local, &status_patch(local, status)).await
}

fn status_patch(local: &LocalVolume, status: &LocalVolumeStatus) -> serde_json::Value {
    let conditions: &[Condition] = &status.conditions;
    json!({
        "metadata": { "uid": local.uid() },
        "status": { "conditions": conditions, "baseId": status.base_id },
    })
}

async fn patch_status(agent: &Agent, local: &LocalVolume, patch: &serde_json::Value) -> Result<(), ApiError> {
    let locals: Api<LocalVolume> = Api::all(agent.client.clone());
    match in_time(locals.patch_status(local.name(), &PatchParams::default(), &Patch::Merge(patch))).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

async fn lift_finalizer(agent: &Agent, local: &LocalVolume) -> Result<(), ApiError> {
    let locals: Api<LocalVolume> = Api::all(agent.client.clone());
    let others: Vec<&String> =
        local.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({ "metadata": {
        "uid": local.uid(),
        "resourceVersion": local.metadata.resource_version,
        "finalizers": others,
    } });
    match in_time(locals.patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

impl Agent {
    /// The base; made only for a directory that is to be made.
    fn base(&self, local: &LocalVolume, make: bool) -> Result<Base, DirectoryError> {
        let open = if make { Base::open } else { Base::open_existing };
        open(&self.options.bases, &local.spec.base, local.spec.require_mount)
    }

    /// Makes the directory; the identity of its base.
    fn make(&self, local: &LocalVolume, served: bool) -> Result<String, DirectoryError> {
        if !served {
            self.refuse_nesting(local)?;
        }
        let base = self.base(local, !served)?;
        let order = self.order(local)?;
        let takes_back = local.takes_back().is_some();
        if !served && takes_back {
            // It is there already, with what is in it: what cannot be told is refused before anything is written.
            let others = OtherPaths { paths: &local.spec.other_paths, visible: &self.options.bases };
            base.is_apart(&order, &others)?;
        }
        base.make(&order, served).map_err(|error| self.listed(error))?;
        if !served && !takes_back {
            self.refuse_links(local, &base, &order)?;
        }
        base.id()
    }

    /// A report that lists as many directories as it can does not show the controller this one.
    fn listed(&self, error: DirectoryError) -> DirectoryError {
        match error {
            DirectoryError::Existing { path, owner, claim, left } => {
                let left = left && self.kept().len() < LISTED_KEPT;
                DirectoryError::Existing { path, owner, claim, left }
            }
            other => other,
        }
    }

    /// A volume of somebody else may lead here by a link, which no text tells. What is new and empty is taken back then;
    /// where it cannot be told, a directory of its own does no harm.
    fn refuse_links(&self, local: &LocalVolume, base: &Base, order: &Order) -> Result<(), DirectoryError> {
        let others = OtherPaths { paths: &local.spec.other_paths, visible: &self.options.bases };
        let Err(DirectoryError::Shared { path, other }) = base.is_apart(order, &others) else { return Ok(()) };
        base.dispose(order, &Removal::of_unserved(&self.options.bases))?;
        Err(DirectoryError::Inside { path, owner: format!("the one that a volume names by {other}") })
    }

    /// Two classes may put their volumes into one base; a claim of one could have the name of a volume of the other.
    fn refuse_nesting(&self, local: &LocalVolume) -> Result<(), DirectoryError> {
        let (path, takes_back) = (local.directory(), local.takes_back().is_some());
        // One that is taken back is there: it may hold the directory of another, or be that of another.
        let overlaps = |other: &LocalVolume| match Relation::of(&path, other.directory()) {
            Relation::Inside => true,
            Relation::Same | Relation::Around => takes_back && other.name() != local.name() && !other.is_disposed(),
            Relation::Apart => false,
        };
        match self.caches.locals.all().into_iter().find(|other| overlaps(other)) {
            None => Ok(()),
            Some(other) => {
                let owner = format!("that of claim {}/{}", other.spec.claim.namespace, other.spec.claim.name);
                Err(DirectoryError::Inside { path, owner })
            }
        }
    }

    /// The base that holds the directory; none where nothing was ever made and there is not even a base.
    fn find_base(&self, local: &LocalVolume) -> Result<Option<Base>, DirectoryError> {
        match self.base(local, false) {
            Err(DirectoryError::Io { errno: Errno::NOENT, .. }) if !may_hold_data(local) => Ok(None),
            base => base.map(Some),
        }
    }

    /// The base that holds the directory, if the store is known to be no older than it.
    fn base_to_remove_from(&self, local: &LocalVolume, asked: &Asked) -> Result<Option<Base>, DirectoryError> {
        let Some(base) = self.find_base(local)? else { return Ok(None) };
        let order = self.order(local)?;
        let marked = base.recorded_version(&order)?;
        let ordered = order.persistent_volume.as_ref().and_then(|seen| revision(&seen.resource_version));
        let id = base.known_id()?.unwrap_or_default();
        let mut mark = base.store_mark()?;
        if let Some((_, before)) = asked.before.as_ref().filter(|(before, _)| *before == id) {
            mark = as_of(before, mark);
        }
        match stops_removal(&id, &mark, (marked, ordered), &asked.says) {
            None => Ok(Some(base)),
            Some(why) => {
                self.report_soon();
                Err(DirectoryError::StoreRestored { path: local.directory(), why })
            }
        }
    }

    /// Takes the directory away, unless that takes longer than what permits it.
    fn dispose(&self, local: &LocalVolume, asked: &Asked, not_after: Instant) -> Result<Proof, DirectoryError> {
        let Some(disposal) = local.spec.disposal else {
            return Err(DirectoryError::Order("there is no order to dispose".to_owned()));
        };
        let removal = Removal {
            origin: local.spec.origin,
            disposal,
            on_delete: local.spec.on_delete,
            served: may_hold_data(local),
            others: OtherPaths { paths: &local.spec.other_paths, visible: &self.options.bases },
            not_after: Some(not_after),
        };
        let Some(base) = self.base_to_remove_from(local, asked)? else { return Ok(Proof::NeverMade) };
        base.dispose(&self.order(local)?, &removal)
    }

    fn order(&self, local: &LocalVolume) -> Result<Order, DirectoryError> {
        let spec = &local.spec;
        let wrong = |what: String| DirectoryError::Order(what);
        let mode = spec.mode.as_deref().map(|mode| u32::from_str_radix(mode, 8)).transpose();
        let number = |value: Option<i64>| value.map(u32::try_from).transpose();
        Ok(Order {
            cluster: self.cluster.clone(),
            volume: local.uid().to_owned(),
            claim: spec.claim.uid.clone(),
            owner: (spec.on_delete == OnDelete::KeepPath)
                .then(|| ClaimName { namespace: spec.claim.namespace.clone(), name: spec.claim.name.clone() }),
            same_claim: spec.same_claim.clone(),
            path: VolumePath::parse(&spec.path).map_err(|error| wrong(error.to_string()))?,
            mode: mode.map_err(|_| wrong("the mode is not octal".to_owned()))?.unwrap_or(DEFAULT_MODE),
            uid: number(spec.uid).map_err(|_| wrong("the uid is out of range".to_owned()))?,
            gid: number(spec.gid).map_err(|_| wrong("the gid is out of range".to_owned()))?,
            base_id: local.status.as_ref().and_then(|status| status.base_id.clone()),
            persistent_volume: spec.persistent_volume.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer may be lost on the way and the request arrive late: by then the order may have been taken back, and the directory
    /// be served again.
    #[test]
    fn that_a_directory_is_gone_is_said_of_the_very_object_that_was_acted_on() {
        let mut local = crate::volumes::local_volume(crate::crd::LocalVolumeSpec::default());
        local.metadata.resource_version = Some("7".to_owned());
        local.metadata.uid = Some("u".to_owned());
        let status = LocalVolumeStatus::default();
        assert_eq!(disposed(&local, &status)["metadata"], json!({ "uid": "u", "resourceVersion": "7" }));
        assert_eq!(status_patch(&local, &status)["metadata"], json!({ "uid": "u" }));
    }
}
