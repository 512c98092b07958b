//! Objects of a deadlock. Nodes are simulated: what a kubelet would report of a Pod, a test reports by hand.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects;
pub use latebind_test_support::objects::{NO_PROVISIONER, SELECTED_NODE, claim_spec};
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a test watches that nothing is written: far longer than a write takes.
pub const QUIET: Duration = Duration::from_secs(4);
pub const SELECTED_BY: &str = "latebind.dev/selected-node-by";
pub const PROVISIONER: &str = "test.example.com/disk";

/// A class whose claims wait for their first consumer.
pub async fn class(scope: &Scope, stem: &str, provisioner: &str) -> Result<String> {
    class_with(scope, stem, provisioner, json!({})).await
}

pub async fn class_with(scope: &Scope, stem: &str, provisioner: &str, more: Value) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<StorageClass>(objects::with(objects::class(&name, provisioner), &more)).await?;
    Ok(name)
}

pub async fn claim(scope: &Scope, name: &str, class: &str, size: &str) -> Result<PersistentVolumeClaim> {
    scope.create(objects::claim(name, class, size)).await
}

/// A Pod that names its node and mounts the claims.
pub async fn pinned(scope: &Scope, name: &str, node: &str, claims: &[&str]) -> Result<Pod> {
    pod(scope, name, claims, json!({"nodeName": node})).await
}

pub async fn pod(scope: &Scope, name: &str, claims: &[&str], more: Value) -> Result<Pod> {
    let volumes: Vec<Value> = claims.iter().map(|claim| objects::of_claim(claim)).collect();
    scope.create(objects::with(objects::pod(name, &volumes), &json!({"spec": more}))).await
}

/// Says what a kubelet says when it has seen the Pod and means to run it.
pub async fn acknowledge(scope: &Scope, pod: &str) -> Result<()> {
    status(scope, pod, json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"})).await
}

pub async fn status(scope: &Scope, pod: &str, status: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    scope.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// A pinned Pod that its kubelet has acknowledged: a deadlock, if the claims are delayed.
pub async fn stuck(scope: &Scope, name: &str, node: &str, claims: &[&str]) -> Result<Pod> {
    let pod = pinned(scope, name, node, claims).await?;
    acknowledge(scope, name).await?;
    Ok(pod)
}

/// What latebind notes on a claim that it selects the node for, for the sake of the Pod.
pub fn mark(pod: &Pod, node: &str) -> String {
    format!("{} {node}", pod.metadata.uid.as_deref().unwrap_or_default())
}

/// A volume that only the node can reach, made by hand, of which nothing is known yet.
pub async fn new_volume(scope: &Scope, stem: &str, class: &str, node: &str, size: &str) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<PersistentVolume>(objects::volume(&name, class, node, size)).await?;
    Ok(name)
}

/// The same, once it is available, or taken already.
pub async fn volume(scope: &Scope, stem: &str, class: &str, node: &str, size: &str) -> Result<String> {
    let name = new_volume(scope, stem, class, node, size).await?;
    let volumes = scope.all::<PersistentVolume>();
    eventually("the volume to be available", PATIENCE, async || {
        let phase = volumes.get(&name).await?.status.and_then(|status| status.phase);
        Ok(matches!(phase.as_deref(), Some("Available" | "Bound")).then_some(()))
    })
    .await?;
    Ok(name)
}

/// What an external provisioner does once a node is selected: makes a volume that belongs to the claim.
pub async fn provision(scope: &Scope, name: &str) -> Result<()> {
    let claim = selected(scope, name).await?;
    let node = claim.annotations().get(SELECTED_NODE).context("selected")?.clone();
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let made_for = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
        }},
    });
    let volume = objects::with(objects::volume(&name, &class, &node, "1Gi"), &made_for);
    scope.create::<PersistentVolume>(volume).await?;
    Ok(())
}

/// Waits until a node is selected for the claim.
pub async fn selected(scope: &Scope, name: &str) -> Result<PersistentVolumeClaim> {
    eventually(&format!("a selected node on claim {name}"), PATIENCE, async || {
        let claim = scope.claim(name).await?;
        Ok(claim.annotations().contains_key(SELECTED_NODE).then_some(claim))
    })
    .await
}

/// Changes annotations of a claim; null removes one.
pub async fn annotate(scope: &Scope, claim: &str, annotations: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    scope.api::<PersistentVolumeClaim>().patch(claim, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The volume that the claim is bound to.
pub async fn bound_to(scope: &Scope, claim: &str) -> Result<String> {
    let claim = scope.claim_phase(claim, "Bound", PATIENCE).await?;
    claim.spec.and_then(|spec| spec.volume_name).context("a bound claim names its volume")
}
