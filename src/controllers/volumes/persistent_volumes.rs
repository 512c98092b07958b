//! A volume's LocalVolume is made again if it was lost, its policy is followed and recorded, and it goes when its directory
//! is gone.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::context::{Context, Key};
use super::memory::Memory;
use super::warnings::volume_stays;
use crate::binding::Lookup;
use crate::crd::LocalVolume;
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::model::{Text, Volume};
use crate::volumes::{
    LOCAL_VOLUME, PROVISIONED_BY, Removal, VOLUME_FINALIZER, VolumeStep, adoption, is_let_go, plan_volume,
    removal as removal_of, seen,
};

/// How soon something that no change of ours announces is looked at again.
const RECHECK: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);
/// How soon something that only a person can change is looked at again.
const LONG: Duration = Duration::from_secs(60);
/// A new volume is recorded after this time: while a thousand are made, the API server has other things to do.
const RECORD_DELAY: Duration = Duration::from_secs(30);

/// Brings a volume one step further.
pub(super) async fn reconcile(
    context: &Context,
    memory: &Memory,
    volume: Arc<Volume>,
) -> Result<Option<Duration>, ApiError> {
    let annotation = |key: &str| volume.metadata.annotation(key);
    if !annotation(PROVISIONED_BY).is_some_and(|by| context.options.handles(by)) {
        return Ok(None);
    }
    let Some(name) = annotation(LOCAL_VOLUME) else { return reconcile_adopted(context, memory, &volume).await };
    let local = context.local(name);
    let found = Lookup::found_or(local.as_ref().map(|local| &***local), Lookup::Absent);
    let step = plan_volume(&volume, &found);
    write_step(context, memory, &volume, local.as_ref().map(|local| &***local), step).await
}

async fn write_step(
    context: &Context,
    memory: &Memory,
    volume: &Volume,
    local: Option<&LocalVolume>,
    step: VolumeStep,
) -> Result<Option<Duration>, ApiError> {
    match step {
        VolumeStep::Nothing => Ok(None),
        VolumeStep::Tell(why) => {
            volume_stays(context, memory, volume, &why);
            Ok(Some(LONG))
        }
        VolumeStep::Recover(lost) => {
            tracing::info!(volume = volume.name(), "its LocalVolume is missing and is made again");
            match in_time(context.locals().create(&PostParams::default(), &lost)).await {
                Err(error) if error.is_conflict() => Ok(None),
                made => made.map(|_| {
                    context.metrics.recovered();
                    None
                }),
            }
        }
        VolumeStep::Hold => set_finalizer(context, volume, true).await.map(|_| None),
        VolumeStep::Release => set_finalizer(context, volume, false).await.map(|_| None),
        VolumeStep::Record { at_once, .. } => {
            if !at_once && let Some(left) = memory.record_later(volume.name(), RECORD_DELAY) {
                return Ok(Some(left));
            }
            match local {
                Some(local) => record(context, memory, volume, local).await,
                None => Ok(None),
            }
        }
        VolumeStep::Remove => match local {
            Some(local) => remove(context, memory, volume, local.name()).await,
            None => Ok(None),
        },
    }
}

/// Writes down what the API server says of the volume at this moment, not what a cache said.
async fn record(
    context: &Context,
    memory: &Memory,
    volume: &Volume,
    local: &LocalVolume,
) -> Result<Option<Duration>, ApiError> {
    let Some(live) = if_found(context.volumes().get(volume.name())).await?.map(|volume| volume.object) else {
        return Ok(None);
    };
    if live.metadata.uid != volume.metadata.uid {
        return Ok(None);
    }
    let seen = seen(&live);
    let patch = json!({
        "metadata": { "uid": local.uid(), "resourceVersion": local.metadata.resource_version },
        "spec": { "reclaim": seen.reclaim_policy, "persistentVolume": seen, "otherPaths": null },
    });
    in_time(context.locals().patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await?;
    memory.recorded(volume.name());
    // Whether its finalizer has to be set or lifted is seen when the record has come back.
    Ok(None)
}

/// Sets or lifts our finalizer. Gives the volume as it is then, unless it is gone.
async fn set_finalizer(context: &Context, volume: &Volume, held: bool) -> Result<Option<Volume>, ApiError> {
    let others = volume.metadata.finalizers.iter().flatten().filter(|finalizer| **finalizer != *VOLUME_FINALIZER);
    let finalizers: Vec<&str> = others.map(Text::as_str).chain(held.then_some(VOLUME_FINALIZER)).collect();
    let patch = json!({ "metadata": {
        "uid": volume.metadata.uid,
        "resourceVersion": volume.metadata.resource_version,
        "finalizers": finalizers,
    } });
    let patch = Patch::Merge(&patch);
    let patched = if_found(context.volumes().patch(volume.name(), &PatchParams::default(), &patch)).await?;
    Ok(patched.map(|volume| volume.object))
}

/// The directory is gone: so goes the volume. Its finalizer has nothing left to guard and is lifted first: once the volume
/// is being deleted the controller manager lifts one of its own, and the two would conflict.
async fn remove(
    context: &Context,
    memory: &Memory,
    volume: &Volume,
    local: &str,
) -> Result<Option<Duration>, ApiError> {
    if is_let_go(volume) {
        return Ok(None);
    }
    let Some(mut live) = if_found(context.volumes().get(volume.name())).await?.map(|volume| volume.object) else {
        return Ok(None);
    };
    if is_let_go(&live) {
        return Ok(None);
    }
    let Some(local) = if_found(context.locals().get(local)).await? else { return Ok(Some(SOON)) };
    let mut removal = removal_of(&live, &local);
    if removal.as_ref().is_ok_and(Removal::held) {
        // What the API server answers to a write is as live as what it answers to a question.
        let Some(lifted) = set_finalizer(context, &live, false).await? else { return Ok(None) };
        live = lifted;
        removal = removal_of(&live, &local);
    }
    match removal {
        Err(why) => {
            volume_stays(context, memory, &live, &why);
            return Ok(Some(LONG));
        }
        Ok(_) if live.metadata.deletion_timestamp.is_some() => {}
        Ok(removal) => {
            let seen = removal.seen();
            let exactly =
                Preconditions { uid: Some(seen.uid.clone()), resource_version: Some(seen.resource_version.clone()) };
            let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
            if if_found(context.volumes().delete(live.name(), &parameters)).await?.is_none() {
                return Ok(None);
            }
        }
    }
    context.metrics.removed();
    Ok(None)
}

/// A volume that another provisioner made: it is served until it is released, and then its directory is taken away.
async fn reconcile_adopted(context: &Context, memory: &Memory, volume: &Volume) -> Result<Option<Duration>, ApiError> {
    // Under the claim that it had then; it may have been handed on to another since.
    let known = context.stores.locals.find(&volume.name().into()).into_iter().find(|local| {
        let seen = local.spec.persistent_volume.as_ref();
        seen.is_some_and(|seen| Some(seen.uid.as_str()) == volume.metadata.uid.as_deref())
    });
    if let Some(local) = known {
        if local.is_disposed() {
            return remove(context, memory, volume, local.name()).await;
        }
        context.queue.now(Key::Local(local.name().to_owned()));
        return Ok(None);
    }
    if volume.status.phase != "Released" || !volume.is_deleted_on_release() {
        return Ok(None);
    }
    let provisioner = volume.metadata.annotation(PROVISIONED_BY).unwrap_or_default();
    if let Some(why) = context.options.held_back.why(provisioner, volume.class_name()) {
        volume_stays(context, memory, volume, &format!("its directory is not removed: {why}"));
        return Ok(Some(LONG));
    }
    let nodes = context.nodes_of(volume);
    let pools = context.stores.pools.all();
    let order = match adoption(volume, &nodes, &pools) {
        Ok(order) => order,
        Err(error) => {
            volume_stays(context, memory, volume, &error.to_string());
            return Ok(Some(LONG));
        }
    };
    match in_time(context.locals().create(&PostParams::default(), &order)).await {
        Err(error) if error.is_conflict() => Ok(Some(RECHECK)),
        made => made.map(|_| None),
    }
}
