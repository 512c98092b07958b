//! What kubelets do with Pods that name their node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use latebind_cluster::{Scope, holds_for};
use serde_json::{Value, json};

use crate::objects::{
    AT_ONCE, NO_PROVISIONER, PATIENCE, PROVISIONER, SELECTED_NODE, annotate, available, claim, class, deadlocked,
    pod_on, reference, reserve, volume,
};

const NODE: &str = "node-a";
const OTHER: &str = "node-b";

/// A volume on a node whose directory is really there.
async fn real_volume(scope: &Scope, stem: &str, class: &str, node: &str) -> Result<String> {
    let name = scope.unique(stem);
    make_directory(scope, &name, node).await?;
    scope.create::<PersistentVolume>(volume(&name, class, node)).await?;
    Ok(name)
}

async fn make_directory(scope: &Scope, name: &str, node: &str) -> Result<()> {
    scope.cluster()?.node(node)?.shell(&format!("mkdir -p /mnt/{name}")).await.map(drop)
}

pub async fn a_pod_that_names_its_node_waits_forever_for_a_delayed_claim(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(NODE, "stuck", "data")).await?;
    deadlocked(scope, "data", "stuck").await?;
    let pod = scope.pod("stuck").await?;
    ensure!(waiting_for(&pod) == Some("ContainerCreating"), "{:?}", pod.status);
    let told = scope.event("stuck", "FailedMount", "PVC is not bound", Duration::from_secs(150)).await?;
    ensure!(told.contains(&format!("error processing PVC {}/data", scope.namespace())), "{told}");
    Ok(())
}

fn waiting_for(pod: &Pod) -> Option<&str> {
    let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
    state.waiting.as_ref()?.reason.as_deref()
}

pub async fn a_pod_whose_delayed_claim_no_container_mounts_runs(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    let mut declared = pod_on(NODE, "runs", "data");
    declared["spec"]["containers"][0]["volumeMounts"] = json!([]);
    scope.create::<Pod>(declared).await?;
    scope.pod_phase("runs", "Running", PATIENCE).await?;
    scope.claim_phase("data", "Pending", AT_ONCE).await.map(drop)
}

pub async fn a_stuck_pod_runs_once_a_provisioner_answers_selected_node(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    let claim: PersistentVolumeClaim = scope.create(claim("data", &class)).await?;
    let stuck: Pod = scope.create(pod_on(NODE, "stuck", "data")).await?;
    deadlocked(scope, "data", "stuck").await?;
    annotate(scope, "data", json!({ SELECTED_NODE: NODE })).await?;
    scope.event("data", "ExternalProvisioning", PROVISIONER, PATIENCE).await?;
    // What a provisioner does then.
    let name = scope.unique("provisioned");
    make_directory(scope, &name, NODE).await?;
    let mut made = volume(&name, &class, NODE);
    made["spec"]["claimRef"] = reference(&claim, true);
    scope.create::<PersistentVolume>(made).await?;
    runs_as_it_was(scope, &stuck).await
}

pub async fn a_stuck_pod_runs_once_a_static_volume_is_reserved_for_its_claim(scope: &Scope) -> Result<()> {
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = real_volume(scope, "static", &class, NODE).await?;
    available(scope, &name).await?;
    let claim: PersistentVolumeClaim = scope.create(claim("data", &class)).await?;
    let stuck: Pod = scope.create(pod_on(NODE, "stuck", "data")).await?;
    deadlocked(scope, "data", "stuck").await?;
    reserve(scope, &name, &claim, true).await?;
    scope.claim_phase("data", "Bound", AT_ONCE).await?;
    runs_as_it_was(scope, &stuck).await
}

/// The Pod need not be made anew.
async fn runs_as_it_was(scope: &Scope, stuck: &Pod) -> Result<()> {
    let name = stuck.metadata.name.as_deref().context("name")?;
    let running = scope.pod_phase(name, "Running", PATIENCE).await?;
    ensure!(running.metadata.uid == stuck.metadata.uid, "another Pod runs under its name");
    Ok(())
}

pub async fn a_pod_runs_with_a_claim_bound_to_its_node_whatever_selected_node_says(scope: &Scope) -> Result<()> {
    bound_claim(scope, NODE).await?;
    annotate(scope, "data", json!({ SELECTED_NODE: OTHER })).await?;
    scope.create::<Pod>(pod_on(NODE, "runs", "data")).await?;
    scope.pod_phase("runs", "Running", PATIENCE).await.map(drop)
}

/// A claim `data` that is bound to a volume of this node.
async fn bound_claim(scope: &Scope, node: &str) -> Result<()> {
    let class = class(scope, "immediate", NO_PROVISIONER, "Immediate").await?;
    real_volume(scope, "volume", &class, node).await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await.map(drop)
}

pub async fn a_claim_bound_to_another_node_stops_a_pod_forever(scope: &Scope) -> Result<()> {
    bound_claim(scope, OTHER).await?;
    scope.create::<Pod>(pod_on(NODE, "stuck", "data")).await?;
    refused_by_affinity(scope, "stuck").await
}

async fn refused_by_affinity(scope: &Scope, name: &str) -> Result<()> {
    scope.event(name, "FailedMount", "MountVolume.NodeAffinity check failed", PATIENCE).await?;
    let phase =
        holds_for("the Pod's phase", AT_ONCE, async || Ok(scope.pod(name).await?.status.and_then(|it| it.phase)));
    ensure!(phase.await?.as_deref() == Some("Pending"), "it left Pending");
    Ok(())
}

pub async fn of_two_pods_that_share_a_local_claim_only_the_one_on_its_node_runs(scope: &Scope) -> Result<()> {
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = real_volume(scope, "shared", &class, NODE).await?;
    available(scope, &name).await?;
    let claim: PersistentVolumeClaim = scope.create(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(NODE, "here", "data")).await?;
    scope.create::<Pod>(pod_on(OTHER, "there", "data")).await?;
    reserve(scope, &name, &claim, true).await?;
    scope.pod_phase("here", "Running", PATIENCE).await?;
    refused_by_affinity(scope, "there").await
}

pub async fn a_waiting_pod_is_pending_and_a_refused_one_failed_and_both_have_a_start_time(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(NODE, "waiting", "data")).await?;
    let mut refused: Value = pod_on(NODE, "refused", "data");
    refused["spec"]["nodeSelector"] = json!({ "latebind.test/no-node-has-this": "" });
    scope.create::<Pod>(refused).await?;
    let refused = scope.pod_phase("refused", "Failed", PATIENCE).await?.status.context("status")?;
    ensure!(refused.reason.as_deref() == Some("NodeAffinity") && refused.start_time.is_some(), "{refused:?}");
    let waiting = latebind_cluster::eventually("the kubelet to have seen the Pod", PATIENCE, async || {
        Ok(scope.pod("waiting").await?.status.filter(|status| status.start_time.is_some()))
    })
    .await?;
    ensure!(waiting.phase.as_deref() == Some("Pending"), "{waiting:?}");
    Ok(())
}
