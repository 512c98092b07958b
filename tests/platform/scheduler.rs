//! What the scheduler does with Pods that do not name their node any more.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity};
use kube::api::DeleteParams;
use latebind_cluster::{Scope, eventually};
use serde_json::{Value, json};

use crate::objects::{
    NO_PROVISIONER, PATIENCE, PROVISIONER, SELECTED_NODE, annotate, available, claim, class, pod, pod_pinned_to,
    unschedulable, volume,
};

async fn scheduled_to(scope: &Scope, name: &str) -> Result<String> {
    eventually(&format!("Pod {name} to be scheduled"), PATIENCE, async || {
        Ok(scope.pod(name).await?.spec.and_then(|spec| spec.node_name))
    })
    .await
}

pub async fn a_pin_by_field_schedules_to_that_node(scope: &Scope) -> Result<()> {
    let (_other, wanted) = (scope.simulated_node("other", &[]).await?, scope.simulated_node("wanted", &[]).await?);
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("volume");
    scope.create::<PersistentVolume>(volume(&name, &class, wanted.name())).await?;
    available(scope, &name).await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_pinned_to(wanted.name(), "pinned", "data")).await?;
    let node = scheduled_to(scope, "pinned").await?;
    ensure!(node == wanted.name(), "scheduled to {node}");
    // And by scheduling it the deadlock has ended.
    scope.claim_phase("data", "Bound", PATIENCE).await.map(drop)
}

pub async fn an_unbound_immediate_claim_keeps_a_pod_unscheduled(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "immediate", NO_PROVISIONER, "Immediate").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_pinned_to(node.name(), "pinned", "data")).await?;
    unschedulable(scope, "pinned", "pod has unbound immediate PersistentVolumeClaims").await
}

/// With `selected-node` the scheduler leaves static volumes aside, and nobody provisions for this class.
pub async fn a_poisoned_claim_keeps_a_pod_unscheduled(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("fits");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    available(scope, &name).await?;
    let mut poisoned = claim("data", &class);
    poisoned["metadata"]["annotations"] = json!({ SELECTED_NODE: node.name() });
    scope.create::<PersistentVolumeClaim>(poisoned).await?;
    scope.create::<Pod>(pod_pinned_to(node.name(), "pinned", "data")).await?;
    unschedulable(scope, "pinned", "didn't find available persistent volumes to bind").await?;
    // Without the annotation the same Pod is scheduled.
    annotate(scope, "data", json!({ SELECTED_NODE: null })).await?;
    let scheduled = scheduled_to(scope, "pinned").await?;
    ensure!(scheduled == node.name(), "scheduled to {scheduled}");
    Ok(())
}

pub async fn a_claim_promised_to_another_node_keeps_a_pinned_pod_unscheduled(scope: &Scope) -> Result<()> {
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    promised(scope, other.name()).await?;
    scope.create::<Pod>(pod_pinned_to(node.name(), "pinned", "data")).await?;
    unschedulable(scope, "pinned", "node(s) didn't find available persistent volumes to bind").await
}

pub async fn a_claim_promised_to_a_node_that_is_gone_keeps_a_pod_unscheduled(scope: &Scope) -> Result<()> {
    let (node, gone) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("gone", &[]).await?);
    promised(scope, gone.name()).await?;
    scope.all::<Node>().delete(gone.name(), &DeleteParams::default()).await?;
    scope.create::<Pod>(pod_pinned_to(node.name(), "pinned", "data")).await?;
    unschedulable(scope, "pinned", "node(s) didn't find available persistent volumes to bind").await
}

async fn promised(scope: &Scope, node: &str) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    let mut promised = claim("data", &class);
    promised["metadata"]["annotations"] = json!({ SELECTED_NODE: node });
    scope.create::<PersistentVolumeClaim>(promised).await?;
    scope.event("data", "ExternalProvisioning", PROVISIONER, PATIENCE).await.map(drop)
}

/// A `CSIDriver` object may bear the name of any provisioner.
pub async fn capacity_objects_steer_a_provisioner_that_is_no_csi_driver(scope: &Scope) -> Result<()> {
    let group = [("latebind.test/group", scope.namespace())];
    let full = scope.simulated_node("full", &group).await?;
    let roomy = scope.simulated_node("roomy", &group).await?;
    let driver = scope.unique("capacity.latebind.test");
    let spec = json!({ "attachRequired": false, "storageCapacity": true });
    scope.create::<CSIDriver>(json!({ "metadata": { "name": driver }, "spec": spec })).await?;
    let class = class(scope, "capacity", &driver, "WaitForFirstConsumer").await?;
    for (node, room) in [(full.name(), "100Mi"), (roomy.name(), "10Gi")] {
        scope.create::<CSIStorageCapacity>(capacity(node, &class, room)).await?;
    }
    let among = |mut pod: Value| {
        pod["spec"]["nodeSelector"] = json!({ "latebind.test/group": scope.namespace() });
        pod
    };
    scope.create::<PersistentVolumeClaim>(claim("fits", &class)).await?;
    scope.create::<Pod>(among(pod("fits", "fits"))).await?;
    eventually("the scheduler to choose the node with room", PATIENCE, async || {
        let annotations = scope.claim("fits").await?.metadata.annotations.unwrap_or_default();
        let Some(node) = annotations.get(SELECTED_NODE) else { return Ok(None) };
        ensure!(node == roomy.name(), "it chose {node}");
        Ok(Some(()))
    })
    .await?;
    let mut large = claim("large", &class);
    large["spec"]["resources"]["requests"]["storage"] = json!("20Gi");
    scope.create::<PersistentVolumeClaim>(large).await?;
    scope.create::<Pod>(among(pod("large", "large"))).await?;
    unschedulable(scope, "large", "2 node(s) did not have enough free storage").await
}

fn capacity(node: &str, class: &str, room: &str) -> Value {
    json!({
        "metadata": { "name": node },
        "storageClassName": class,
        "nodeTopology": { "matchLabels": { "kubernetes.io/hostname": node } },
        "capacity": room,
    })
}
