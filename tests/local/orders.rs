//! Rescue and the provisioner in one process.

use anyhow::Result;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects;
use serde_json::json;

use crate::crash::Victim;
use latebind_test_support::local::{PATIENCE, install};

/// The node was selected for a Pod's sake, nothing has been made yet, and the Pod goes: left alone, the order would force
/// every later Pod to that node.
pub async fn an_order_for_a_pod_that_is_gone_is_taken_back(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    install(&scope.client(), latebind::crd::definitions()).await?;
    let log = cluster.directory().join("logs").join("latebind-orders.log");
    let _controller = Victim::controller(cluster.kubeconfig(), &log, &[])?;
    let node = scope.simulated_node("node", &[]).await?;
    // Its pool does not exist, so that nothing can be made.
    let class = scope.unique("poolless");
    scope.create::<StorageClass>(objects::class(&class, "local.latebind.dev")).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("data", &class, "1Mi")).await?;
    scope.create::<Pod>(objects::on_node(objects::pod("app", &[objects::of_claim("data")]), node.name())).await?;
    let seen = json!({ "status": { "phase": "Pending", "startTime": "2026-01-01T00:00:00Z" } });
    scope.api::<Pod>().patch_status("app", &PatchParams::default(), &Patch::Merge(seen)).await?;
    let selected = async || {
        let annotations = scope.claim("data").await?.metadata.annotations.unwrap_or_default();
        anyhow::Ok(annotations.get(objects::SELECTED_NODE).cloned())
    };
    eventually("the Pod's node to be selected", PATIENCE, async || {
        Ok((selected().await?.as_deref() == Some(node.name())).then_some(()))
    })
    .await?;
    scope.event("data", "ProvisioningFailed", "pool", PATIENCE).await?;
    scope.api::<Pod>().delete("app", &DeleteParams::default().grace_period(0)).await?;
    eventually("the order to be taken back", PATIENCE, async || Ok(selected().await?.is_none().then_some(()))).await?;
    scope.event("data", "SelectedNodeRemoved", "gone", PATIENCE).await.map(drop)
}
