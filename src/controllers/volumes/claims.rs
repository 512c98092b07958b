//! From a claim to its volume: gathers the facts, has [`crate::volumes::plan_claim`] decide, and does what it says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::memory::{CACHE_LAG, Memory};
use super::placement::View;
use super::warnings::refuse;
use crate::binding::Lookup;
use crate::crd::LocalVolume;
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::model::{Claim, Class, Node, SELECTED_NODE, Wire, is_object_name, reference};
use crate::rancher;
use crate::volumes::{
    Asked, ClaimStep, ClassParameters, PROVISIONER, Past, Patience, Publication, Request, plan_claim, volume_name,
};

const SOON: Duration = Duration::from_secs(1);

/// Brings a claim one step further. `Some` asks for another look after that time.
pub(super) async fn reconcile(
    context: &Context,
    memory: &Memory,
    claim: Arc<Claim>,
) -> Result<Option<Duration>, ApiError> {
    let Some(uid) = claim.metadata.uid.as_ref().map(String::from) else { return Ok(None) };
    if claim.volume_name().is_some() || claim.metadata.deletion_timestamp.is_some() {
        memory.forget(&uid);
        return Ok(None);
    }
    let Some(class) = context.class_of(&claim) else { return Ok(None) };
    let parameters = parameters(context, &class);
    let request = Request { claim: &claim, class: &class, parameters: parameters.as_ref().map_err(String::as_str) };
    let step = match decide(context, memory, &request, &uid, &Asked::default()) {
        ClaimStep::AskForNode(name) => {
            let asked = Asked { node: Some(find_node(context, &name).await?) };
            decide(context, memory, &request, &uid, &asked)
        }
        step => step,
    };
    write_step(context, memory, &claim, &uid, step).await
}

/// What the class asks for, or why it is not served.
fn parameters(context: &Context, class: &Class) -> Result<ClassParameters, String> {
    let read = if class.provisioner == PROVISIONER {
        ClassParameters::of(class)
    } else if let Some(why) = context.options.held_back.why(&class.provisioner, class.name()) {
        return Err(format!("class {} is not adopted: {why}", class.name()));
    } else {
        rancher::parameters(class)
    };
    read.map_err(|error| error.to_string())
}

/// Decides, and reserves the room of what is decided in the same moment: another worker that chooses meanwhile would find
/// the same room.
fn decide(context: &Context, memory: &Memory, request: &Request<'_>, uid: &str, asked: &Asked) -> ClaimStep {
    let mut placement = memory.placement.lock();
    placement.expire();
    // Before the caches, which take over what was done before it ends to count.
    let past = Past {
        created: memory.is_made(&volume_name(uid)),
        reserved: placement.reserved_of(uid),
        silent: memory.silent(uid, context.options.agent_patience),
    };
    let step = plan_claim(request, &View::new(context, &mut placement), &past, asked);
    if let ClaimStep::Reserve(local) = &step {
        placement.reserve(local);
    }
    step
}

async fn write_step(
    context: &Context,
    memory: &Memory,
    claim: &Claim,
    uid: &str,
    step: ClaimStep,
) -> Result<Option<Duration>, ApiError> {
    let later = match step {
        ClaimStep::Nothing | ClaimStep::AskForNode(_) => None,
        ClaimStep::Wait(Patience::Caches) => Some(CACHE_LAG),
        ClaimStep::Wait(Patience::Moment) => Some(SOON),
        ClaimStep::Wait(Patience::Person) => return Ok(Some(memory.put_off(claim))),
        ClaimStep::Wait(Patience::Agent(node)) => {
            // Its answer is a change that brings the claim here again; this is only for an agent that is silent.
            let waited = memory.wait_for_agent(claim, &node);
            return Ok(Some(context.options.agent_patience.saturating_sub(waited)));
        }
        ClaimStep::Refuse(refused) => {
            refuse(context, memory, claim, &refused.why);
            if refused.again {
                return Ok(Some(memory.put_off(claim)));
            }
            None
        }
        ClaimStep::Reserve(local) => {
            memory.goes_on(uid);
            return order(context, memory, claim, &local).await;
        }
        ClaimStep::Publish(publication) => {
            memory.goes_on(uid);
            return publish(context, memory, claim, uid, &publication).await;
        }
        ClaimStep::GiveBack { node, why } => {
            memory.goes_on(uid);
            return give_back(context, memory, claim, uid, (&node, &why)).await;
        }
    };
    memory.goes_on(uid);
    Ok(later)
}

/// A Node that the cache does not know may be so new that it has not heard of it.
async fn find_node(context: &Context, name: &str) -> Result<Lookup<Arc<Node>>, ApiError> {
    if !is_object_name(name) {
        return Ok(Lookup::Absent);
    }
    let nodes: Api<Wire<Node>> = Api::all(context.client.clone());
    Ok(Lookup::found_or(if_found(nodes.get(name)).await?.map(|node| Arc::new(node.object)), Lookup::Absent))
}

/// Orders a directory.
async fn order(
    context: &Context,
    memory: &Memory,
    claim: &Claim,
    local: &LocalVolume,
) -> Result<Option<Duration>, ApiError> {
    match in_time(context.locals().create(&PostParams::default(), local)).await {
        Ok(_) => context.metrics.ordered(local.takes_back().is_some()),
        Err(error) if error.is_conflict() => {}
        Err(error) => {
            memory.placement.lock().release(local.name());
            return Err(error);
        }
    }
    // The answer comes as a change of the LocalVolume; this is only for an agent that is silent.
    memory.wait_for_agent(claim, &local.spec.node_name);
    Ok(Some(context.options.agent_patience))
}

/// Makes the volume, if the claim is still what it was.
async fn publish(
    context: &Context,
    memory: &Memory,
    claim: &Claim,
    uid: &str,
    publication: &Publication,
) -> Result<Option<Duration>, ApiError> {
    let local = LocalVolume::name_for(uid, publication.node());
    let Some(_in_hand) = memory.take_in_hand(&local) else { return Ok(Some(SOON)) };
    // Whoever had it in hand before may have ordered its removal.
    if context.local(&local).is_none_or(|local| local.spec.disposal.is_some()) {
        return Ok(Some(SOON));
    }
    let live = if_found(context.claims(claim.namespace()).get(claim.name())).await?;
    if !live.is_some_and(|live| publication.still_holds(&live.object)) {
        return Ok(None);
    }
    // Before the volume is there: the claim may be bound before this process hears of its own success.
    let waits = || {
        let cached = context.claim(claim.namespace(), claim.name());
        cached.is_some_and(|it| it.metadata.uid.as_deref() == Some(uid) && it.volume_name().is_none())
    };
    let behind = context.options.mark_bound && is_behind(memory.await_binding(uid, waits));
    let mut late = None;
    match in_time(context.new_volumes().create(&PostParams::default(), publication.volume())).await {
        Ok(made) => {
            late = behind.then_some(made);
            context.metrics.made(memory.waited(uid, publication.node()));
            let name = volume_name(uid);
            let kept =
                if publication.takes_back() { ", with the directory that an earlier claim has left" } else { "" };
            let note = format!("made volume {name} on node {} in {}{kept}", publication.node(), publication.base());
            context.events.normal(reference(claim), "ProvisioningSucceeded", &note);
        }
        // It was there before: by whom, and whether it is bound, is not known here.
        Err(error) if error.is_conflict() => memory.bound(uid),
        Err(error) => {
            memory.bound(uid);
            return Err(error);
        }
    }
    memory.made(&volume_name(uid));
    memory.forget(uid);
    if let Some(volume) = late {
        mark_bound(context, &volume).await;
    }
    Ok(None)
}

/// The controller manager writes both annotations, an event, the volume's phase, the claim and the claim's phase: what its
/// burst of 30 requests pays for is this many claims. Those beyond it wait.
const BINDER_BACKLOG: usize = 5;

/// True when the controller manager is behind with so many claims that have their volume.
fn is_behind(unbound: usize) -> bool {
    unbound > BINDER_BACKLOG
}

/// Writes the phase that the controller manager would write while it is behind: it finds nothing to do there and goes on
/// with the claim. While it is prompt, both would write at once and one in vain.
///
/// Nothing depends on it. Source: `updateVolumePhase` of the persistent volume controller.
async fn mark_bound(context: &Context, volume: &PersistentVolume) {
    let patch = json!({
        "metadata": { "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version },
        "status": { "phase": "Bound" },
    });
    let name = volume.name_any();
    let volumes = context.new_volumes();
    match in_time(volumes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => context.metrics.marked(),
        // It was faster after all, or the volume is gone.
        Err(error) if error.is_conflict() || error.is_not_found() => {}
        Err(error) => {
            tracing::warn!(volume = name, %error, "the phase of the volume is left to the controller manager");
        }
    }
}

/// The node will not do: lets the scheduler choose again.
async fn give_back(
    context: &Context,
    memory: &Memory,
    claim: &Claim,
    uid: &str,
    (node, why): (&str, &str),
) -> Result<Option<Duration>, ApiError> {
    refuse(context, memory, claim, why);
    let patch = json!({ "metadata": {
        "uid": claim.metadata.uid,
        "resourceVersion": claim.metadata.resource_version,
        "annotations": { SELECTED_NODE: null },
    } });
    let call = context.claims(claim.namespace());
    let patched = in_time(call.patch(claim.name(), &PatchParams::default(), &Patch::Merge(&patch))).await;
    memory.forget_node(uid, node);
    match patched {
        // Whoever was faster has made a change that brings the claim here again.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
        patched => patched.map(|_| None),
    }
}
