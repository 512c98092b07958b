//! Follows the orders of the LocalVolumes of this node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::base::Base;
use super::directory::Order;
use super::error::DirectoryError;
use super::orphans::Situation;
use super::reports::claims;
use super::run::Agent;
use crate::crd::{
    FINALIZER, Kept, LocalNode, LocalVolume, LocalVolumeStatus, Origin, READY, VolumePath, set_condition,
};
use crate::runtime::api::{ApiError, in_time};

/// Mode of a directory whose class says nothing. Only root can get to it from outside a Pod.
const DEFAULT_MODE: u32 = 0o777;
/// A directory that is in order is looked at again this often.
const CHECK: Duration = Duration::from_secs(600);
/// A failed order is tried again this often: a disk may be mounted, or have room again.
const RETRY: Duration = Duration::from_secs(5);
/// The same for what only a change of the order or of this agent can mend.
const LONG_RETRY: Duration = Duration::from_secs(300);
/// Condition: the object was deleted, and the directory stays, since nobody ordered its removal.
const HELD: &str = "DeletionHeld";

/// Follows one order. `Some` asks for another look after that time.
pub(super) async fn follow_order(
    agent: &Arc<Agent>,
    local: Arc<Kept<LocalVolume>>,
) -> Result<Option<Duration>, ApiError> {
    if local.spec.node_name != agent.options.node_name || !local.has_finalizer() {
        return Ok(None);
    }
    match (local.is_deleting(), local.spec.disposal.is_some()) {
        (true, true) => dispose(agent, local).await,
        // The controller deletes the object next.
        (false, true) => Ok(None),
        (deleting, false) => make(agent, local, deleting).await,
    }
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
            let (agent, local) = (Arc::clone(agent), Arc::clone(&local));
            blocking(move || agent.make(&local, served)).await
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
                agent.report_soon();
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

async fn dispose(agent: &Arc<Agent>, local: Arc<Kept<LocalVolume>>) -> Result<Option<Duration>, ApiError> {
    let outcome = if let Err(kept) = may_remove(agent, &local).await? {
        Err(kept)
    } else {
        let (agent, local) = (Arc::clone(agent), Arc::clone(&local));
        blocking(move || agent.dispose(&local)).await
    };
    agent.metrics.ordered("dispose", outcome.is_ok());
    let Err(error) = outcome else {
        // Noted first: a report that names the base is what a restarted agent finds the trash by.
        agent.sweep_soon(&local.spec.base);
        lift_finalizer(agent, &local).await?;
        return Ok(None);
    };
    tracing::warn!(volume = local.name(), %error, "the directory cannot be removed");
    let mut status = local.status.clone().unwrap_or_default();
    let message = format!("node {}: {error}", agent.options.node_name);
    let condition = (READY, false, error.reason(), message.as_str());
    if set_condition(&mut status.conditions, condition, local.metadata.generation, Timestamp::now()) {
        write_status(agent, &local, &status).await?;
    }
    let kept = matches!(error, DirectoryError::NotEmpty { .. });
    Ok(Some(if kept || error.is_final() { LONG_RETRY } else { RETRY }))
}

/// An orphan is the agent's to hold back, whatever was ordered. What is let go is written down first: a restart must not
/// begin to count anew.
async fn may_remove(agent: &Agent, local: &LocalVolume) -> Result<Result<(), DirectoryError>, ApiError> {
    if local.spec.origin != Origin::Orphan {
        return Ok(Ok(()));
    }
    let spec = &local.spec;
    let now = Timestamp::now();
    let (used, ordered) = claims(agent);
    let removed = {
        let situation = Situation { now, age: agent.options.remove_orphans, volumes: used.len(), ordered: &ordered };
        let mut orphans = agent.orphans();
        let taken = orphans.take(&(spec.base.clone(), spec.claim.uid.clone()), &spec.path, &situation);
        taken.map(|()| orphans.removed(now))
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

/// File systems may take their time: never on the threads that serve the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
) -> Result<T, DirectoryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(DirectoryError::Order(format!("the work broke off: {error}"))),
    }
}

async fn write_status(agent: &Agent, local: &LocalVolume, status: &LocalVolumeStatus) -> Result<(), ApiError> {
    let locals: Api<LocalVolume> = Api::all(agent.client.clone());
    let conditions: &[Condition] = &status.conditions;
    let patch = json!({
        "metadata": { "uid": local.uid() },
        "status": { "conditions": conditions, "baseId": status.base_id },
    });
    match in_time(locals.patch_status(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
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
    fn base(&self, local: &LocalVolume) -> Result<Base, DirectoryError> {
        if local.spec.origin == Origin::Orphan {
            return Base::open_existing(&self.options.bases, &local.spec.base);
        }
        Base::open(&self.options.bases, &local.spec.base, local.spec.require_mount)
    }

    /// Makes the directory; the identity of its base.
    fn make(&self, local: &LocalVolume, served: bool) -> Result<String, DirectoryError> {
        if !served {
            self.refuse_nesting(local)?;
        }
        let base = self.base(local)?;
        base.make(&self.order(local)?, served)?;
        base.id()
    }

    /// Two classes may put their volumes into one base; a claim of one could have the name of a volume of the other.
    fn refuse_nesting(&self, local: &LocalVolume) -> Result<(), DirectoryError> {
        let path = format!("{}/{}", local.spec.base, local.spec.path);
        let inside = |other: &LocalVolume| {
            let rest = path.strip_prefix(other.spec.base.as_str()).and_then(|rest| rest.strip_prefix('/'));
            rest.and_then(|rest| rest.strip_prefix(other.spec.path.as_str())).is_some_and(|rest| rest.starts_with('/'))
        };
        match self.locals().into_iter().find(|other| inside(other)) {
            None => Ok(()),
            Some(other) => {
                let owner = format!("{}/{}", other.spec.claim.namespace, other.spec.claim.name);
                Err(DirectoryError::Inside { path, owner })
            }
        }
    }

    fn dispose(&self, local: &LocalVolume) -> Result<(), DirectoryError> {
        let Some(disposal) = local.spec.disposal else {
            return Err(DirectoryError::Order("there is no order to dispose".to_owned()));
        };
        self.base(local)?.dispose(&self.order(local)?, local.spec.origin, disposal, local.spec.on_delete)
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
            path: VolumePath::parse(&spec.path).map_err(|error| wrong(error.to_string()))?,
            mode: mode.map_err(|_| wrong("the mode is not octal".to_owned()))?.unwrap_or(DEFAULT_MODE),
            uid: number(spec.uid).map_err(|_| wrong("the uid is out of range".to_owned()))?,
            gid: number(spec.gid).map_err(|_| wrong("the gid is out of range".to_owned()))?,
            base_id: local.status.as_ref().and_then(|status| status.base_id.clone()),
        })
    }
}
