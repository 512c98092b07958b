//! From a claim to its volume.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::claim::{bytes, refusal};
use super::context::{Context, UNSEEN, lock};
use super::parameters::ClassParameters;
use super::pattern::Names;
use super::placement::{NodeObstacle, affinity_value, choose_path};
use super::volume::{VolumeOrder, build, local_volume, volume_name};
use crate::binding::selector::topology_allows;
use crate::crd::{ClaimIdentity, Kept, LocalPool, LocalVolume, LocalVolumeSpec, READY, condition};
use crate::model::{Claim, Class, Node, Pod, SELECTED_NODE, Text, Wire, is_object_name, reference};
use crate::rancher;
use crate::runtime::api::{ApiError, if_found, in_time};

/// How soon something that only a person or time can change is looked at again.
const PATIENCE: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(1);

/// A claim that is to get a volume, and what it is made by.
struct Request {
    claim: Arc<Claim>,
    class: Arc<Class>,
    parameters: ClassParameters,
    uid: String,
    bytes: i64,
}

/// Brings a claim one step further. `Some` asks for another look after that time.
pub(crate) async fn reconcile(context: &Context, claim: Arc<Claim>) -> Result<Option<Duration>, ApiError> {
    let Some(uid) = claim.metadata.uid.as_ref().map(String::from) else { return Ok(None) };
    if claim.volume_name().is_some() || claim.metadata.deletion_timestamp.is_some() {
        context.forget(&uid);
        return Ok(None);
    }
    let Some(class) = context.class_of(&claim) else { return Ok(None) };
    let volume = volume_name(&uid);
    // Before the cache, as promises are.
    let just_made = context.made.contains(&volume);
    if (class.is_delayed() && claim.selected_node().is_none()) || context.volume(&volume).is_some() {
        return Ok(None);
    }
    if just_made {
        return Ok(Some(UNSEEN));
    }
    if let Some(refusal) = refusal(&claim) {
        context.refuse(&claim, refusal.to_string());
        return Ok(None);
    }
    let parameters =
        if class.provisioner == super::PROVISIONER { ClassParameters::of(&class) } else { rancher::parameters(&class) };
    let parameters = match parameters {
        Ok(parameters) => parameters,
        Err(error) => {
            context.refuse(&claim, error.to_string());
            return Ok(None);
        }
    };
    // `refusal` has checked the size.
    let bytes = bytes(&claim).unwrap_or(i64::MAX);
    let request = Request { claim, class, parameters, uid, bytes };
    match request.claim.selected_node() {
        Some(name) => on_selected(context, &request, name).await,
        None => on_any(context, &request).await,
    }
}

/// The scheduler, the rescue loop or a person chose the node.
async fn on_selected(context: &Context, request: &Request, name: &str) -> Result<Option<Duration>, ApiError> {
    let outcome = match find_node(context, name).await? {
        None => Err(NodeObstacle::Gone(name.to_owned())),
        Some(node) => on_node(context, request, &node).await?,
    };
    match outcome {
        Ok(again) => Ok(again),
        Err(NodeObstacle::NoAgent(_)) if !waited_enough(context, request, name) => Ok(Some(SOON)),
        Err(obstacle) => give_up(context, request, name, &obstacle.to_string()).await,
    }
}

/// True once the claim has waited for the agent of the node for as long as an agent may be away.
fn waited_enough(context: &Context, request: &Request, node: &str) -> bool {
    let mut waiting = lock(&context.waiting);
    let since = waiting.entry((request.uid.clone(), node.to_owned())).or_insert_with(Instant::now);
    since.elapsed() >= context.options.agent_patience
}

async fn find_node(context: &Context, name: &str) -> Result<Option<Arc<Node>>, ApiError> {
    if let Some(node) = context.node(name) {
        return Ok(Some(node));
    }
    if !is_object_name(name) {
        return Ok(None);
    }
    // It may be so new that the cache has not heard of it.
    let nodes: Api<Wire<Node>> = Api::all(context.client.clone());
    Ok(if_found(nodes.get(name)).await?.map(|node| Arc::new(node.object)))
}

/// Nobody chose: the class binds immediately.
async fn on_any(context: &Context, request: &Request) -> Result<Option<Duration>, ApiError> {
    let begun = context
        .stores
        .locals
        .find(&request.uid.as_str().into())
        .into_iter()
        .find(|local| local.spec.disposal.is_none() && !local.is_deleting());
    if let Some(local) = begun {
        let node = find_node(context, &local.spec.node_name).await?;
        let outcome = match node {
            Some(node) => on_node(context, request, &node).await?,
            None => Err(NodeObstacle::Gone(local.spec.node_name.clone())),
        };
        return match outcome {
            Ok(again) => Ok(again),
            Err(NodeObstacle::NoAgent(_)) if !waited_enough(context, request, &local.spec.node_name) => Ok(Some(SOON)),
            Err(obstacle) => {
                context.refuse(&request.claim, obstacle.to_string());
                Ok(Some(PATIENCE))
            }
        };
    }
    let pinned = pinned_node(context, &request.claim).await?;
    let Some(pool) = pool(context, request) else { return Ok(Some(PATIENCE)) };
    let mut best: Option<(i64, Arc<Node>)> = None;
    let mut why = format!("no node that pool {} has paths on is ready and schedulable", request.parameters.pool);
    for node in context.all_nodes() {
        let wanted = pinned.as_ref().is_none_or(|name| name == node.name());
        if !wanted || pinned.is_none() && (node.spec.unschedulable || !node.is_ready()) {
            continue;
        }
        match candidate(context, request, &pool, &node) {
            Ok(candidate) if best.as_ref().is_none_or(|(free, _)| candidate.free_bytes > *free) => {
                best = Some((candidate.free_bytes, node));
            }
            Ok(_) => {}
            Err(NodeObstacle::NoPath { .. }) if pinned.is_none() => {}
            Err(obstacle) => why = obstacle.to_string(),
        }
    }
    if let Some((_, node)) = best {
        match on_node(context, request, &node).await? {
            Ok(again) => return Ok(again),
            Err(obstacle) => why = obstacle.to_string(),
        }
    }
    context.refuse(&request.claim, why);
    Ok(Some(PATIENCE))
}

fn pool(context: &Context, request: &Request) -> Option<Arc<Kept<LocalPool>>> {
    let name = &request.parameters.pool;
    let found = context.stores.pools.get(name);
    if found.is_none() {
        let class = request.class.name();
        context.refuse(&request.claim, format!("class {class} names pool {name}, and there is no LocalPool {name}"));
    }
    found
}

fn candidate(
    context: &Context,
    request: &Request,
    pool: &LocalPool,
    node: &Node,
) -> Result<super::placement::Candidate, NodeObstacle> {
    if !topology_allows(&request.class.allowed_topologies, node) {
        return Err(NodeObstacle::Topology(node.name().to_owned()));
    }
    affinity_value(node, &request.parameters.affinity_key, context.all_nodes())?;
    let report = context.stores.reports.get(node.name());
    let volumes = context.locals_on(node.name());
    choose_path(
        (&request.parameters.pool, &pool.spec),
        node,
        report.as_ref().map(|report| &***report),
        volumes.iter().map(|volume| &***volume),
        (request.bytes, request.parameters.node_path.as_deref()),
    )
}

type OnNode = Result<Option<Duration>, NodeObstacle>;

/// The node is chosen: orders the directory, or makes the volume when it is there.
async fn on_node(context: &Context, request: &Request, node: &Node) -> Result<OnNode, ApiError> {
    let name = LocalVolume::name_for(&request.uid, node.name());
    // Before the cache, which takes an order over before its promise ends.
    let promised = context.promised.contains(&name);
    let Some(local) = context.local(&name) else {
        // The claim changed again before the watch brought the order that was given a moment ago.
        if promised {
            return Ok(Ok(Some(SOON)));
        }
        let Some(pool) = pool(context, request) else { return Ok(Ok(Some(PATIENCE))) };
        return match reserve(context, request, &pool, node) {
            Ok(Some(local)) => order(context, request, &local).await,
            Ok(None) => Ok(Ok(None)),
            Err(obstacle) => Ok(Err(obstacle)),
        };
    };
    if local.spec.disposal.is_some() || local.is_deleting() {
        return Ok(Ok(Some(SOON)));
    }
    if local.is_ready() {
        let value = match affinity_value(node, &request.parameters.affinity_key, context.all_nodes()) {
            Ok(value) => value,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        publish(context, request, &local, &value).await?;
        return Ok(Ok(None));
    }
    let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if let Some(said) = condition(conditions, READY) {
        let why = format!("{}: {}", said.reason, said.message);
        return Ok(Err(NodeObstacle::NotUsable { pool: local.spec.pool.clone(), node: node.name().to_owned(), why }));
    }
    Ok(Err(NodeObstacle::NoAgent(node.name().to_owned())))
}

/// Chooses a path and promises its room, in one step: another worker that chooses meanwhile would find the same room. `None`
/// where the claim's directory cannot be named, which has been said.
fn reserve(
    context: &Context,
    request: &Request,
    pool: &LocalPool,
    node: &Node,
) -> Result<Option<LocalVolume>, NodeObstacle> {
    let _alone = lock(&context.choosing);
    let path = candidate(context, request, pool, node)?.path;
    let claim = &request.claim;
    let volume = volume_name(&request.uid);
    let names = Names {
        namespace: claim.namespace(),
        claim: claim.name(),
        uid: &request.uid,
        volume: &volume,
        class: request.class.name(),
    };
    let directory = match request.parameters.pattern.render(&names) {
        Ok(directory) => directory,
        Err(error) => {
            context.refuse(claim, format!("class {}: {error}", request.class.name()));
            return Ok(None);
        }
    };
    let local = local_volume(LocalVolumeSpec {
        node_name: node.name().to_owned(),
        node_uid: Text::or_empty(node.metadata.uid.as_ref()),
        pool: request.parameters.pool.clone(),
        base: path.path,
        path: directory.to_string(),
        require_mount: path.require_mount,
        bytes: request.bytes,
        claim: ClaimIdentity {
            namespace: claim.namespace().to_owned(),
            name: claim.name().to_owned(),
            uid: request.uid.clone(),
        },
        mode: request.parameters.mode.clone(),
        uid: request.parameters.uid,
        gid: request.parameters.gid,
        on_delete: request.parameters.on_delete,
        reclaim: request.parameters.reclaim,
        ..LocalVolumeSpec::default()
    });
    context.promised.insert(local.name(), local.clone());
    Ok(Some(local))
}

/// Orders a directory.
async fn order(context: &Context, request: &Request, local: &LocalVolume) -> Result<OnNode, ApiError> {
    match in_time(context.locals().create(&PostParams::default(), local)).await {
        Ok(_) => context.metrics.ordered(),
        Err(error) if error.is_conflict() => {}
        Err(error) => {
            context.promised.remove(local.name());
            return Err(error);
        }
    }
    // The answer comes as a change of the LocalVolume; this is only for an agent that is silent.
    lock(&context.waiting).entry((request.uid.clone(), local.spec.node_name.clone())).or_insert_with(Instant::now);
    Ok(Ok(Some(context.options.agent_patience)))
}

/// Makes the volume, if the claim is still what it was.
async fn publish(context: &Context, request: &Request, local: &LocalVolume, value: &str) -> Result<(), ApiError> {
    let claim = &request.claim;
    let live = if_found(context.claims(claim.namespace()).get(claim.name())).await?;
    let unchanged = live.as_ref().is_some_and(|Wire { object: live, .. }| {
        live.metadata.uid.as_deref() == Some(request.uid.as_str())
            && live.metadata.deletion_timestamp.is_none()
            && live.volume_name().is_none()
            && live.selected_node().is_none_or(|node| node == local.spec.node_name)
            && (live.selected_node().is_some() || !request.class.is_delayed())
    });
    if !unchanged {
        return Ok(());
    }
    let volume = build(&VolumeOrder {
        claim,
        class: &request.class,
        parameters: &request.parameters,
        local,
        affinity_value: value,
    });
    // Before the volume is there: the claim may be bound before this process hears of its own success.
    let behind = context.options.mark_bound && is_behind(context.await_binding(&request.uid));
    let mut late = None;
    match in_time(context.new_volumes().create(&PostParams::default(), &volume)).await {
        Ok(made) => {
            late = behind.then_some(made);
            let waited = lock(&context.waiting).get(&(request.uid.clone(), local.spec.node_name.clone())).copied();
            context.metrics.made(waited.map(|since| since.elapsed()));
            let name = volume_name(&request.uid);
            let note = format!("made volume {name} on node {} in {}", local.spec.node_name, local.spec.base);
            context.events.normal(reference(claim.as_ref()), "ProvisioningSucceeded", &note);
        }
        Err(error) if error.is_conflict() => {}
        Err(error) => {
            lock(&context.unbound).remove(&request.uid);
            return Err(error);
        }
    }
    context.made.insert(&volume_name(&request.uid), ());
    context.forget(&request.uid);
    if let Some(volume) = late {
        mark_bound(context, &volume).await;
    }
    Ok(())
}

/// The controller manager writes both annotations, an event, the volume's phase, the claim and the claim's phase: what its
/// burst of 30 requests pays for is this many claims. Those beyond it wait.
const PROMPT: usize = 5;

/// True when the controller manager is behind with so many claims that have their volume.
fn is_behind(unbound: usize) -> bool {
    unbound > PROMPT
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

/// The node will not do: lets the scheduler choose again. With a Pod that names its node there is nothing to choose.
async fn give_up(context: &Context, request: &Request, node: &str, why: &str) -> Result<Option<Duration>, ApiError> {
    let claim = &request.claim;
    if !request.class.is_delayed() || pinned_node(context, claim).await?.is_some() {
        context.refuse(claim, why.to_owned());
        return Ok(Some(PATIENCE));
    }
    context.refuse(claim, format!("{why}; the scheduler is asked for another node"));
    let patch = json!({ "metadata": {
        "uid": claim.metadata.uid,
        "resourceVersion": claim.metadata.resource_version,
        "annotations": { SELECTED_NODE: null },
    } });
    let call = context.claims(claim.namespace());
    let patched = in_time(call.patch(claim.name(), &PatchParams::default(), &Patch::Merge(&patch))).await;
    lock(&context.waiting).remove(&(request.uid.clone(), node.to_owned()));
    match patched {
        // Whoever was faster has made a change that brings the claim here again.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
        patched => patched.map(|_| None),
    }
}

/// The node that a Pod with this claim names. A Pod that the scheduler places has none before its claims are bound.
async fn pinned_node(context: &Context, claim: &Claim) -> Result<Option<String>, ApiError> {
    let pods: Api<Wire<Pod>> = Api::namespaced(context.client.clone(), claim.namespace());
    let found = in_time(pods.list(&ListParams::default())).await?;
    let pinned = found.items.iter().map(|pod| &pod.object).find(|pod| {
        let waits = !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        waits && pod.pinned_node().is_some() && mounts(pod, claim.name())
    });
    Ok(pinned.and_then(Pod::pinned_node).map(str::to_owned))
}

fn mounts(pod: &Pod, claim: &str) -> bool {
    pod.spec.volumes.iter().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        named || volume.ephemeral.is_some() && format!("{name}-{}", volume.name) == claim
    })
}
