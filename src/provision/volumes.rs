//! From a released volume back to nothing, and from a lost LocalVolume back to itself.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::context::Context;
use super::disposal::{ClaimFact, Verdict, VolumeFact, disposal};
use super::volume::{LOCAL_VOLUME, reclaim, recovered, serves, volume_name};
use super::{PROVISIONED_BY, VOLUME_FINALIZER};
use crate::crd::{Kept, LocalVolume, Origin, Reclaim};
use crate::model::{Node, Text, Volume, reference};
use crate::rancher;
use crate::runtime::api::{ApiError, if_found, in_time};

/// How soon something that no change of ours announces is looked at again.
const RECHECK: Duration = Duration::from_secs(5);

/// Brings a directory's end one step further.
pub(crate) async fn reconcile_local(
    context: &Context,
    local: Arc<Kept<LocalVolume>>,
) -> Result<Option<Duration>, ApiError> {
    if local.spec.disposal.is_some() {
        // With data that is retained the object stays, and tells where the data is.
        if !local.is_deleting() {
            delete_local(context, &local).await?;
        }
        tell_of_missing_node(context, &local);
        return Ok(None);
    }
    if !may_end(context, &local) {
        return Ok(None);
    }
    // The caches only said that it is worth asking. What may destroy is decided by what the API server says now.
    let claim = &local.spec.claim;
    let live_claim = if_found(context.claims(&claim.namespace).get(&claim.name)).await?.map(|claim| claim.object);
    let name = volume_of(context, &local).unwrap_or_else(|| volume_name(&claim.uid));
    let live_volume = if_found(context.volumes().get(&name)).await?.map(|volume| volume.object);
    let live_claim = live_claim.filter(|live| live.metadata.uid.as_deref() == Some(claim.uid.as_str()));
    let class = live_claim.as_ref().and_then(|live| context.class(live.class_name()?));
    let verdict = disposal(
        &local,
        live_volume.as_ref().map_or(VolumeFact::Absent, VolumeFact::Present),
        live_claim.as_ref().map_or(ClaimFact::Gone, |live| ClaimFact::Present(live, class.as_deref())),
    );
    match verdict {
        Verdict::Keep(why) => {
            tracing::debug!(volume = local.name(), why, "the directory stays");
            Ok(None)
        }
        Verdict::Dispose(_) if path_is_shared(context, &local, &name) => {
            if let Some(volume) = &live_volume {
                let note = "another volume names this path, or one above or below it: the directory is left alone";
                context.events.warning(reference(volume), "VolumeFailedDelete", note);
            }
            Ok(Some(RECHECK))
        }
        Verdict::Dispose(order) => {
            let patch = json!({
                "metadata": { "uid": local.uid(), "resourceVersion": local.metadata.resource_version },
                "spec": { "disposal": order },
            });
            let patched =
                in_time(context.locals().patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await;
            match patched {
                Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
                Err(error) => Err(error),
                // The order comes back as a change of the LocalVolume, which is deleted then.
                Ok(_) => {
                    context.metrics.disposed();
                    Ok(None)
                }
            }
        }
    }
}

/// The order waits for a node that does not exist. Whether it comes back, and with which disks, only a person knows.
fn tell_of_missing_node(context: &Context, local: &LocalVolume) {
    let node = &local.spec.node_name;
    if context.node(node).is_some() {
        return;
    }
    if let Some(volume) = volume_of(context, local).and_then(|name| context.volume(&name)) {
        let message = format!(
            "node {node} does not exist, and only its agent can remove the directory: bring the node back, or remove \
             the finalizer of LocalVolume {} to give the directory up",
            local.name()
        );
        context.events.warning(reference(&*volume), "VolumeFailedDelete", &message);
    }
}

/// What the caches say: false when the directory is certainly in use.
fn may_end(context: &Context, local: &LocalVolume) -> bool {
    let volume = volume_of(context, local).and_then(|name| context.volume(&name));
    if let Some(volume) = volume {
        return volume.status.phase == "Released" || !serves(&volume, local);
    }
    let claim = &local.spec.claim;
    let found = context
        .claim(&claim.namespace, &claim.name)
        .filter(|it| it.metadata.uid.as_deref() == Some(claim.uid.as_str()));
    found.is_none_or(|claim| claim.selected_node() != Some(local.spec.node_name.as_str()))
}

/// The name of the volume that this directory may belong to. An adopted one has the name that its maker gave it.
fn volume_of(context: &Context, local: &LocalVolume) -> Option<String> {
    if local.spec.origin != Origin::Adopted {
        return Some(volume_name(&local.spec.claim.uid));
    }
    context.all_volumes().iter().find(|volume| serves(volume, local)).map(|volume| volume.name().to_owned())
}

/// Somebody made a volume by hand that leads into this directory.
fn path_is_shared(context: &Context, local: &LocalVolume, own: &str) -> bool {
    let node = context.node(&local.spec.node_name);
    let path = format!("{}/{}", local.spec.base, local.spec.path);
    let shared =
        context.all_volumes().into_iter().find(|it| it.name() != own && leads_into(it, &path, node.as_deref()));
    shared.is_some()
}

/// The volume's path is this one, or one above or below it, and may be on this node.
pub(super) fn leads_into(volume: &Volume, path: &str, node: Option<&Node>) -> bool {
    let ours = format!("{path}/");
    let source = volume.spec.local.as_ref().or(volume.spec.host_path.as_ref());
    let overlaps = source.is_some_and(|source| {
        let theirs = format!("{}/", source.path.trim_end_matches('/'));
        ours.starts_with(&theirs) || theirs.starts_with(&ours)
    });
    overlaps && node.is_none_or(|node| crate::binding::selector::volume_reachable(volume, node))
}

async fn delete_local(context: &Context, local: &LocalVolume) -> Result<(), ApiError> {
    let exactly = Preconditions { uid: local.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match in_time(context.locals().delete(local.name(), &parameters)).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        deleted => deleted.map(drop),
    }
}

/// Brings a volume one step further: its LocalVolume is made again if it was lost, its policy is followed, and it goes
/// when its directory is gone.
pub(crate) async fn reconcile_volume(context: &Context, volume: Arc<Volume>) -> Result<Option<Duration>, ApiError> {
    let annotation = |key: &str| volume.metadata.annotation(key);
    if !annotation(PROVISIONED_BY).is_some_and(|by| context.options.serves(by)) {
        return Ok(None);
    }
    match annotation(LOCAL_VOLUME) {
        Some(name) => own(context, &volume, name).await,
        None => adopted(context, &volume).await,
    }
}

async fn own(context: &Context, volume: &Volume, name: &str) -> Result<Option<Duration>, ApiError> {
    if context.disposed.contains(name) {
        return remove(context, volume, name).await;
    }
    let Some(local) = context.local(name) else {
        let Some(lost) = recovered(volume) else {
            let note = "the annotations of this volume do not say where its directory is: it is left alone";
            context.events.warning(reference(volume), "VolumeFailedDelete", note);
            return Ok(None);
        };
        tracing::info!(volume = volume.name(), "its LocalVolume is missing and is made again");
        return match in_time(context.locals().create(&PostParams::default(), &lost)).await {
            Err(error) if error.is_conflict() => Ok(None),
            made => made.map(|_| {
                context.metrics.recovered();
                None
            }),
        };
    };
    follow_policy(context, volume, &local).await?;
    Ok(None)
}

/// The administrator may change the policy at any time. Data is kept as soon as either side says so.
async fn follow_policy(context: &Context, volume: &Volume, local: &LocalVolume) -> Result<(), ApiError> {
    let wanted = reclaim(volume);
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| *finalizer == VOLUME_FINALIZER);
    let leaving = volume.metadata.deletion_timestamp.is_some();
    match wanted {
        // First it is written down that the data stays, then the volume may vanish without us.
        Reclaim::Retain => {
            if local.spec.reclaim != Reclaim::Retain && local.spec.disposal.is_none() {
                set_reclaim(context, local, Reclaim::Retain).await?;
            }
            if held {
                set_finalizer(context, volume, false).await?;
            }
        }
        Reclaim::Delete => {
            if !held && !leaving {
                set_finalizer(context, volume, true).await?;
            }
            if local.spec.reclaim != Reclaim::Delete && local.spec.disposal.is_none() && (held || !leaving) {
                set_reclaim(context, local, Reclaim::Delete).await?;
            }
        }
    }
    Ok(())
}

async fn set_reclaim(context: &Context, local: &LocalVolume, reclaim: Reclaim) -> Result<(), ApiError> {
    let patch = json!({
        "metadata": { "uid": local.uid(), "resourceVersion": local.metadata.resource_version },
        "spec": { "reclaim": reclaim },
    });
    in_time(context.locals().patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await.map(drop)
}

async fn set_finalizer(context: &Context, volume: &Volume, held: bool) -> Result<(), ApiError> {
    let others = volume.metadata.finalizers.iter().flatten().filter(|finalizer| **finalizer != *VOLUME_FINALIZER);
    let finalizers: Vec<&str> = others.map(Text::as_str).chain(held.then_some(VOLUME_FINALIZER)).collect();
    let patch = json!({ "metadata": {
        "uid": volume.metadata.uid,
        "resourceVersion": volume.metadata.resource_version,
        "finalizers": finalizers,
    } });
    let patched = in_time(context.volumes().patch(volume.name(), &PatchParams::default(), &Patch::Merge(&patch))).await;
    match patched {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// The directory is gone: so goes the volume. Its finalizer has nothing left to guard and is lifted first: once the volume
/// is being deleted the controller manager lifts one of its own, and the two would conflict.
async fn remove(context: &Context, volume: &Volume, name: &str) -> Result<Option<Duration>, ApiError> {
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == VOLUME_FINALIZER);
    let leaving = volume.metadata.deletion_timestamp.is_some();
    if leaving && !held {
        return Ok(None);
    }
    // The directory may have been ordered anew since.
    if volume.status.phase != "Released" || if_found(context.locals().get(name)).await?.is_some() {
        return Ok(Some(Duration::from_secs(1)));
    }
    if held {
        // This comes back as a change of the volume, which is deleted then.
        set_finalizer(context, volume, false).await?;
    } else {
        let exactly = Preconditions { uid: volume.metadata.uid.as_ref().map(String::from), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
        match in_time(context.volumes().delete(volume.name(), &parameters)).await {
            Err(error) if error.is_not_found() => {}
            deleted => drop(deleted?),
        }
    }
    if leaving || !held {
        context.metrics.removed();
    }
    Ok(None)
}

/// A volume that another provisioner made: it is served until it is released, and then its directory is taken away.
async fn adopted(context: &Context, volume: &Volume) -> Result<Option<Duration>, ApiError> {
    if volume.status.phase != "Released" || reclaim(volume) != Reclaim::Delete {
        return Ok(None);
    }
    let nodes = context.all_nodes();
    let pools = context.stores.pools.all();
    let order = match rancher::adoption(volume, &nodes, &pools) {
        Ok(order) => order,
        Err(error) => {
            context.events.warning(reference(volume), "VolumeFailedDelete", &error.to_string());
            return Ok(Some(Duration::from_secs(60)));
        }
    };
    if context.disposed.contains(order.name()) {
        let name = order.name().to_owned();
        return remove(context, volume, &name).await;
    }
    // Its name need not tell the claim's UID, so its LocalVolume does not lead back here.
    if context.local(order.name()).is_some() {
        return Ok(Some(RECHECK));
    }
    match in_time(context.locals().create(&PostParams::default(), &order)).await {
        Err(error) if error.is_conflict() => Ok(Some(RECHECK)),
        made => made.map(|_| Some(RECHECK)),
    }
}
