//! What frees a stuck claim, and what makes it worse.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use latebind_cluster::{Scope, SimulatedNode, eventually};
use serde_json::json;

use crate::objects::{
    AT_ONCE, NO_PROVISIONER, PATIENCE, PROVISIONER, RESYNC, SELECTED_NODE, annotate, available, claim, class, pod_on,
    reference, reserve, still_unbound, volume,
};

/// A claim `data` that is stuck, with the Pod that uses it and a volume that would fit.
struct Stuck {
    node: SimulatedNode,
    class: String,
    volume: String,
    claim: PersistentVolumeClaim,
}

async fn stuck(scope: &Scope, provisioner: &str) -> Result<Stuck> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "delayed", provisioner, "WaitForFirstConsumer").await?;
    let name = scope.unique("fits");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    available(scope, &name).await?;
    let claim = scope.create(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(node.name(), "stuck", "data")).await?;
    scope.event("data", "WaitForFirstConsumer", "", PATIENCE).await?;
    Ok(Stuck { node, class, volume: name, claim })
}

pub async fn selected_node_on_a_stuck_claim_asks_the_provisioner_at_once(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    scope.create::<Pod>(pod_on(node.name(), "stuck", "data")).await?;
    scope.event("data", "WaitForFirstConsumer", "", PATIENCE).await?;
    annotate(scope, "data", json!({ SELECTED_NODE: node.name() })).await?;
    eventually("both annotations that call a provisioner", AT_ONCE, async || {
        let annotations = scope.claim("data").await?.metadata.annotations.unwrap_or_default();
        let asks = |key: &str| annotations.get(key).is_some_and(|value| value == PROVISIONER);
        let both =
            asks("volume.kubernetes.io/storage-provisioner") && asks("volume.beta.kubernetes.io/storage-provisioner");
        Ok(both.then_some(()))
    })
    .await
}

pub async fn selected_node_on_a_claim_without_provisioner_fails_forever(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    annotate(scope, "data", json!({ SELECTED_NODE: stuck.node.name() })).await?;
    let reason = "no volume plugin matched name: kubernetes.io/no-provisioner";
    scope.event("data", "ProvisioningFailed", reason, PATIENCE).await?;
    // The volume that fits is there all the time.
    still_unbound(scope, "data", RESYNC + Duration::from_secs(2)).await
}

pub async fn a_poisoned_claim_still_binds_to_a_volume_reserved_for_it(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    annotate(scope, "data", json!({ SELECTED_NODE: stuck.node.name() })).await?;
    scope.event("data", "ProvisioningFailed", "no volume plugin matched", PATIENCE).await?;
    reserve(scope, &stuck.volume, &stuck.claim, true).await?;
    scope.claim_phase("data", "Bound", AT_ONCE).await.map(drop)
}

pub async fn selected_node_ignores_a_static_volume_that_would_fit(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, PROVISIONER).await?;
    annotate(scope, "data", json!({ SELECTED_NODE: stuck.node.name() })).await?;
    scope.event("data", "ExternalProvisioning", PROVISIONER, PATIENCE).await?;
    still_unbound(scope, "data", RESYNC + Duration::from_secs(2)).await
}

pub async fn a_volume_reserved_with_uid_binds_at_once(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    reserve(scope, &stuck.volume, &stuck.claim, true).await?;
    let bound = scope.claim_phase("data", "Bound", AT_ONCE).await?;
    let name = bound.spec.and_then(|spec| spec.volume_name);
    ensure!(name.as_deref() == Some(stuck.volume.as_str()), "bound to {name:?}");
    Ok(())
}

pub async fn a_volume_reserved_without_uid_binds_within_a_resync(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    reserve(scope, &stuck.volume, &stuck.claim, false).await?;
    scope.claim_phase("data", "Bound", RESYNC + AT_ONCE).await.map(drop)
}

/// The class decides which volumes are looked at, and a reserved one needs no looking.
pub async fn a_reserved_volume_of_another_class_binds(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    let mut other = volume(&scope.unique("other-class"), &format!("not-{}", stuck.class), stuck.node.name());
    other["spec"]["claimRef"] = reference(&stuck.claim, true);
    scope.create::<PersistentVolume>(other).await?;
    let bound = scope.claim_phase("data", "Bound", AT_ONCE).await?;
    ensure!(
        bound.spec.and_then(|spec| spec.volume_name) == Some(scope.unique("other-class")),
        "bound to the other one"
    );
    Ok(())
}

pub async fn a_reserved_volume_that_is_too_small_does_not_bind(scope: &Scope) -> Result<()> {
    let stuck = stuck(scope, NO_PROVISIONER).await?;
    let mut small = volume(&scope.unique("small"), &stuck.class, stuck.node.name());
    small["spec"]["capacity"]["storage"] = json!("512Mi");
    small["spec"]["claimRef"] = reference(&stuck.claim, true);
    scope.create::<PersistentVolume>(small).await?;
    still_unbound(scope, "data", RESYNC + Duration::from_secs(2)).await
}
