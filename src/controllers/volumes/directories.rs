//! From a released volume back to nothing: gathers what the API server says at this moment, has
//! [`crate::volumes::plan_directory`] decide, and writes what it permits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::context::{Context, Key};
use super::memory::Memory;
use super::warnings::volume_stays;
use crate::binding::Lookup;
use crate::crd::{Disposal, FINALIZER, Kept, LocalVolume, Origin};
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::model::{Claim, ClaimReference, Wire};
use crate::volumes::{
    DirectoryFacts, DirectoryStep, Order, Permit, VolumeSet, awaits_agent, complaint, is_let_go, is_superseded,
    may_forget, names_maker, plan_directory, volume_name,
};

/// How soon something that no change of ours announces is looked at again.
const RECHECK: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(1);

/// Brings a directory's end one step further.
pub(super) async fn reconcile(
    context: &Context,
    memory: &Memory,
    local: Arc<Kept<LocalVolume>>,
) -> Result<Option<Duration>, ApiError> {
    if local.is_disposed() {
        return forget(context, &local).await;
    }
    pass_on(context, memory, &local);
    if !is_worth_asking(context, memory, &local) {
        return Ok(None);
    }
    let Some(_in_hand) = memory.take_in_hand(local.name()) else { return Ok(Some(SOON)) };
    let volumes = context.live_volumes.now(&context.client).await?;
    let step = decide(context, &local, &volumes).await?;
    match step {
        DirectoryStep::Keep(kept) => {
            tracing::debug!(volume = local.name(), why = kept.why, "the directory stays");
            Ok(tell((context, memory), &local, &volumes, kept.tell.then_some(kept.why.as_str())))
        }
        DirectoryStep::Withdraw(kept) if local.spec.origin == Origin::Orphan => {
            // It stands for nothing but the order, and in the way of the LocalVolume that the volume's should be.
            tracing::info!(volume = local.name(), why = kept.why, "the order to remove an orphan is taken back");
            delete(context, &local).await.map(|()| None)
        }
        DirectoryStep::Withdraw(kept) => {
            tracing::info!(volume = local.name(), why = kept.why, "the order of disposal is taken back");
            let spec = json!({ "disposal": null, "disposalOf": null, "confirmedAttempt": null, "otherPaths": null });
            write_spec(context, &local, spec).await?;
            Ok(tell((context, memory), &local, &volumes, kept.tell.then_some(kept.why.as_str())))
        }
        DirectoryStep::Order(order) => {
            write_spec(context, &local, ordered(&order)).await?;
            if matches!(order, Order::Permitted(_)) {
                memory.permitted(local.name());
                context.metrics.disposed();
            }
            Ok(None)
        }
        DirectoryStep::Confirm { attempt, permit } => {
            write_spec(context, &local, confirmed(&attempt, &permit)).await?;
            memory.permitted(local.name());
            Ok(None)
        }
    }
}

/// The order as it is written. What is not permitted is no order that any agent follows: it has the agent say where the
/// data is.
fn ordered(order: &Order) -> Value {
    match order {
        Order::Retained => json!({ "disposal": Disposal::DeleteIfEmpty, "disposalOf": null, "confirmedAttempt": null }),
        Order::Permitted(permit) => {
            let mut spec = json!({
                "disposal": permit.disposal(),
                "disposalOf": permit.volume().map(|seen| &seen.uid),
                "confirmedAttempt": null,
            });
            if let Some(seen) = permit.volume() {
                spec["persistentVolume"] = json!(seen);
                spec["reclaim"] = json!(seen.reclaim_policy);
            }
            spec
        }
    }
}

/// The confirmation of one attempt, spent by its only write.
fn confirmed(attempt: &str, permit: &Permit) -> Value {
    let mut spec = json!({ "confirmedAttempt": attempt, "otherPaths": permit.other_paths() });
    if let Some(seen) = permit.volume() {
        spec["persistentVolume"] = json!(seen);
    }
    spec
}

async fn decide(context: &Context, local: &LocalVolume, volumes: &VolumeSet) -> Result<DirectoryStep, ApiError> {
    let maker = live_maker(context, local).await?;
    let owner = match volumes.of(local).as_slice() {
        // Most often the volume is still that of the claim that it was made for.
        [volume] if volume.spec.claim_ref.as_ref().is_some_and(|it| names_maker(it, local)) => maker.clone(),
        [volume] => live_owner(context, volume.spec.claim_ref.as_ref()).await?,
        _ => Lookup::Unknown,
    };
    let class = match &maker {
        Lookup::Found(claim) => claim.class_name().and_then(|name| context.class(name)),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let node = context.node(&local.spec.node_name);
    let facts =
        DirectoryFacts { volumes, owner: &owner, maker: &maker, class: class.as_deref(), node: node.as_deref() };
    Ok(plan_directory(local, &facts))
}

async fn live_claim(context: &Context, namespace: &str, name: &str, uid: &str) -> Result<Lookup<Claim>, ApiError> {
    let live = if_found(context.claims(namespace).get(name)).await?.map(|claim| claim.object);
    Ok(Lookup::found_or(live.filter(|claim| claim.metadata.uid.as_deref() == Some(uid)), Lookup::Absent))
}

/// The claim that a volume names.
pub(super) async fn live_owner(
    context: &Context,
    reference: Option<&ClaimReference>,
) -> Result<Lookup<Claim>, ApiError> {
    let text = |text: &Option<crate::model::Text>| text.as_deref().unwrap_or_default().to_owned();
    let Some(reference) = reference else { return Ok(Lookup::Unknown) };
    let (namespace, name, uid) = (text(&reference.namespace), text(&reference.name), text(&reference.uid));
    if [&namespace, &name, &uid].iter().any(|part| part.is_empty()) {
        return Ok(Lookup::Unknown);
    }
    live_claim(context, &namespace, &name, &uid).await
}

/// The claim that a directory was made for. An orphan's marker has its UID only, so that all claims are looked at; no more
/// than a tenth of a node's volumes are removed in this way within an hour.
async fn live_maker(context: &Context, local: &LocalVolume) -> Result<Lookup<Claim>, ApiError> {
    let claim = &local.spec.claim;
    if local.spec.origin == Origin::Orphan || claim.namespace.is_empty() || claim.name.is_empty() {
        let all: Api<Wire<Claim>> = Api::all(context.client.clone());
        let listed = in_time(all.list(&ListParams::default())).await?.items.into_iter().map(|claim| claim.object);
        let found = listed.into_iter().find(|it| it.metadata.uid.as_deref() == Some(claim.uid.as_str()));
        return Ok(Lookup::found_or(found, Lookup::Absent));
    }
    live_claim(context, &claim.namespace, &claim.name, &claim.uid).await
}

/// Says on the volume why its directory stays.
fn tell(
    (context, memory): (&Context, &Memory),
    local: &LocalVolume,
    volumes: &VolumeSet,
    why: Option<&str>,
) -> Option<Duration> {
    let why = why?;
    for volume in volumes.of(local) {
        if volume.status.phase == "Released" {
            volume_stays(context, memory, volume, &format!("{why}: the directory is left alone"));
        }
    }
    Some(RECHECK)
}

/// Passes on what the agent says of an order that it cannot follow: it writes no events, and nobody looks at a LocalVolume.
fn pass_on(context: &Context, memory: &Memory, local: &LocalVolume) {
    let node = context.live_node(&local.spec.node_name);
    if let Some(words) = complaint(local, &node)
        && let Some(volume) = local.spec.persistent_volume.as_ref().and_then(|seen| context.volume(&seen.name))
    {
        volume_stays(context, memory, &volume, &words);
    }
}

/// What the caches say: false when nothing has to be decided.
fn is_worth_asking(context: &Context, memory: &Memory, local: &LocalVolume) -> bool {
    if is_superseded(local) {
        return true;
    }
    if local.spec.disposal.is_some() {
        let seen = local.spec.persistent_volume.as_ref().and_then(|seen| context.volume(&seen.name));
        return !(memory.is_permitted(local.name()) && awaits_agent(local, seen.as_deref()));
    }
    // Most often both are the same, which is one volume, not two that are in each other's way.
    let recorded = local.spec.persistent_volume.as_ref().map(|seen| seen.name.clone());
    let names: BTreeSet<String> = recorded.into_iter().chain([volume_name(&local.spec.claim.uid)]).collect();
    let volumes: VolumeSet =
        names.iter().filter_map(|name| context.volume(name)).map(|volume| (*volume).clone()).collect();
    if let [volume] = volumes.of(local).as_slice() {
        return volume.status.phase == "Released";
    }
    let claim = &local.spec.claim;
    let found = context
        .claim(&claim.namespace, &claim.name)
        .filter(|it| it.metadata.uid.as_deref() == Some(claim.uid.as_str()));
    let Some(found) = found else { return true };
    if let Some(node) = found.selected_node() {
        return node != local.spec.node_name && !local.spec.shared_file_system;
    }
    // Where nobody selects a node it is this one, unless the volume was made on another.
    let is_immediate = context.class_of(&found).is_some_and(|class| !class.is_delayed());
    !is_immediate || context.volume(&volume_name(&claim.uid)).is_some()
}

async fn write_spec(context: &Context, local: &LocalVolume, spec: Value) -> Result<(), ApiError> {
    let patch = json!({
        "metadata": { "uid": local.uid(), "resourceVersion": local.metadata.resource_version },
        "spec": spec,
    });
    match in_time(context.locals().patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        // Whoever was faster has made a change that brings it here again.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// The directory is gone. The record of that stays for as long as its volume does: without it the volume would be taken for
/// one whose LocalVolume was lost.
async fn forget(context: &Context, local: &LocalVolume) -> Result<Option<Duration>, ApiError> {
    let volume = match local.spec.persistent_volume.as_ref().filter(|_| local.spec.disposal_of.is_some()) {
        None => Lookup::Unknown,
        Some(seen) => {
            let cached = context.volume(&seen.name);
            if let Some(volume) = cached.filter(|it| it.metadata.uid.as_deref() == local.spec.disposal_of.as_deref()) {
                // The volume goes first; its end brings this here again.
                if !is_let_go(&volume) {
                    context.queue.now(Key::Volume(seen.name.clone()));
                }
                return Ok(Some(RECHECK));
            }
            let live = if_found(context.volumes().get(&seen.name)).await?.map(|volume| volume.object);
            Lookup::found_or(live, Lookup::Absent)
        }
    };
    if !may_forget(local, &volume) {
        if let Lookup::Found(volume) = volume {
            context.queue.now(Key::Volume(volume.name().to_owned()));
        }
        return Ok(Some(RECHECK));
    }
    delete(context, local).await.map(|()| None)
}

/// Deletes an object that has nothing left to tell; what holds it back is lifted.
async fn delete(context: &Context, local: &LocalVolume) -> Result<(), ApiError> {
    if local.has_finalizer() {
        let others: Vec<&String> = local.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({ "metadata": {
            "uid": local.uid(), "resourceVersion": local.metadata.resource_version, "finalizers": others,
        } });
        match in_time(context.locals().patch(local.name(), &PatchParams::default(), &Patch::Merge(&patch))).await {
            // Whoever was faster has made a change that brings it here again.
            Err(error) if error.is_not_found() || error.is_conflict() => return Ok(()),
            patched => drop(patched?),
        }
    }
    let exactly = Preconditions { uid: local.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match in_time(context.locals().delete(local.name(), &parameters)).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        deleted => deleted.map(drop),
    }
}
