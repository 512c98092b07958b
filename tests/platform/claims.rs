//! What becomes of claims when their Pod names its node.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind_cluster::{Scope, Version, eventually, holds_for};
use serde_json::{Value, json};

use crate::objects::{
    AT_ONCE, NO_PROVISIONER, PATIENCE, PROVISIONER, RESYNC, SELECTED_NODE, available, claim, class, deadlocked, pod,
    pod_on, volume,
};

pub async fn a_pod_that_names_its_node_leaves_a_delayed_claim_waiting_even_with_a_perfect_volume(
    scope: &Scope,
) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("perfect");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    available(scope, &name).await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(node.name(), "stuck", "data")).await?;
    deadlocked(scope, "data", "stuck").await
}

pub async fn an_immediate_claim_binds_without_a_scheduler(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "immediate", NO_PROVISIONER, "Immediate").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(node.name(), "pod", "data")).await?;
    scope.create::<PersistentVolume>(volume(&scope.unique("volume"), &class, node.name())).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await.map(drop)
}

pub async fn a_claim_without_class_binds_to_a_static_volume_without_a_scheduler(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    // Volumes without class serve every namespace; a label keeps this one for this test.
    let mut own = volume(&scope.unique("classless"), "", node.name());
    own["metadata"]["labels"] = json!({ "test": scope.namespace() });
    let mut wanted = claim("data", "");
    wanted["spec"]["selector"] = json!({ "matchLabels": { "test": scope.namespace() } });
    scope.create::<PersistentVolume>(own).await?;
    scope.create::<PersistentVolumeClaim>(wanted).await?;
    scope.create::<Pod>(pod_on(node.name(), "pod", "data")).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await.map(drop)
}

pub async fn a_delayed_claim_that_names_its_volume_binds_at_once(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("named");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    available(scope, &name).await?;
    let mut wanted = claim("data", &class);
    wanted["spec"]["volumeName"] = json!(name);
    scope.create::<PersistentVolumeClaim>(wanted).await?;
    // Before 1.36 the claim's half is written when the controller looks at the claim again.
    let is_quick = Version::from_env().is_ok_and(|version| version >= Version::V1_36);
    scope.claim_phase("data", "Bound", if is_quick { AT_ONCE } else { RESYNC * 2 }).await.map(drop)
}

/// The claim protection counts Pods that have a node.
pub async fn a_deleted_unbound_claim_stays_while_a_pod_that_names_its_node_uses_it(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(node.name(), "stuck", "data")).await?;
    // The finalizer comes from the API server; the Pod must have reached the protection's cache to count.
    scope.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
    holds_for("a deleted claim in use", RESYNC, async || {
        let claim = scope.claim("data").await?;
        ensure!(claim.metadata.deletion_timestamp.is_some(), "not marked for deletion");
        Ok(claim.metadata.finalizers)
    })
    .await
    .map(drop)
}

pub async fn a_deleted_unbound_claim_goes_when_only_an_unscheduled_pod_uses_it(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    let mut waiting = pod("waiting", "data");
    waiting["spec"]["nodeSelector"] = json!({ "latebind.test/no-node-has-this": "" });
    scope.create::<Pod>(waiting).await?;
    scope.event("waiting", "FailedScheduling", "", PATIENCE).await?;
    scope.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
    eventually("the claim to be gone", PATIENCE, async || {
        Ok(scope.api::<PersistentVolumeClaim>().get_opt("data").await?.is_none().then_some(()))
    })
    .await
}

pub async fn a_lost_claim_stays_lost_beside_an_available_volume(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "immediate", NO_PROVISIONER, "Immediate").await?;
    let volumes = scope.all::<PersistentVolume>();
    let name = scope.unique("doomed");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    volumes.delete(&name, &DeleteParams::default()).await?;
    let unprotect = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    volumes.patch(&name, &PatchParams::default(), &unprotect).await?;
    scope.claim_phase("data", "Lost", PATIENCE).await?;
    let other = scope.unique("other");
    scope.create::<PersistentVolume>(volume(&other, &class, node.name())).await?;
    available(scope, &other).await?;
    let phase =
        holds_for("a lost claim", RESYNC, async || Ok(scope.claim("data").await?.status.and_then(|it| it.phase)));
    ensure!(phase.await?.as_deref() == Some("Lost"), "not Lost any more");
    Ok(())
}

pub async fn a_generic_ephemeral_volume_of_a_delayed_class_deadlocks(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<Pod>(ephemeral(node.name(), &class, &json!({}))).await?;
    eventually("the ephemeral claim", PATIENCE, async || {
        Ok(scope.api::<PersistentVolumeClaim>().get_opt("pod-data").await?.map(drop))
    })
    .await?;
    deadlocked(scope, "pod-data", "pod").await
}

pub async fn a_template_annotation_reaches_the_ephemeral_claim_and_starts_provisioning(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<Pod>(ephemeral(node.name(), &class, &json!({ SELECTED_NODE: node.name() }))).await?;
    scope.event("pod-data", "ExternalProvisioning", PROVISIONER, PATIENCE).await?;
    let annotations = scope.claim("pod-data").await?.metadata.annotations.unwrap_or_default();
    ensure!(annotations.get(SELECTED_NODE).map(String::as_str) == Some(node.name()), "{annotations:?}");
    Ok(())
}

fn ephemeral(node: &str, class: &str, annotations: &Value) -> Value {
    let mut pod = pod_on(node, "pod", "unused");
    pod["spec"]["volumes"] = json!([{ "name": "data", "ephemeral": { "volumeClaimTemplate": {
        "metadata": { "annotations": annotations },
        "spec": claim("unused", class)["spec"],
    } } }]);
    pod
}
