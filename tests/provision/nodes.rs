//! Nodes that are silent, gone, or hard to tell apart.

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::crd::LocalPool;
use latebind_cluster::Scope;
use serde_json::json;

use super::ground::{Agent, Ground, PATIENCE};
use super::refused::unselected;

pub async fn a_node_without_an_agent_is_given_up(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    ground.claim("data", json!({})).await?;
    unselected(scope, "data").await?;
    scope.event("data", "ProvisioningFailed", "does not answer", PATIENCE).await?;
    // The agent was there and then died: its report alone does not make a volume.
    ground.start_agent();
    ground.wait_for_report().await?;
    ground.agent = None;
    ground.claim("later", json!({})).await?;
    unselected(scope, "later").await?;
    ground.start_agent();
    ground.all_clean().await
}

pub async fn a_node_that_is_gone_is_given_up(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let elsewhere = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": "no-such-node" } } });
    ground.claim("data", elsewhere).await?;
    unselected(scope, "data").await?;
    scope.event("data", "ProvisioningFailed", "no-such-node does not exist", PATIENCE).await?;
    Ok(())
}

pub async fn a_shared_label_is_refused(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let twin = scope.simulated_node("twin", &[]).await?;
    let patch = json!({ "metadata": { "labels": { "kubernetes.io/hostname": ground.node.name() } } });
    scope.all::<Node>().patch(twin.name(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "could not be tied to one of them", PATIENCE).await?;
    assert!(told.contains(twin.name()), "{told}");
    unselected(scope, "data").await?;
    scope.all::<Node>().delete(twin.name(), &DeleteParams::default()).await?;
    Ok(())
}

pub async fn an_agent_on_a_dead_node_stops_nobody_else(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let second = scope.simulated_node("second", &[]).await?;
    let patch = json!({ "spec": { "nodes": [{ "names": [ground.node.name(), second.name()], "paths": [{ "path": ground.base() }] }] } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let mut stuck = Vec::new();
    for number in 0..6 {
        stuck.push(ground.filled(&format!("stuck{number}")).await?);
    }
    ground.agent = None;
    let _agent = Agent::start(scope.client(), second.name(), ground.directory.path());
    for number in 0..6 {
        ground.delete_claim(&format!("stuck{number}")).await?;
    }
    let on_second = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": second.name() } } });
    // Claims that are given up before the second agent's report is there would have to be annotated again.
    let reports = scope.all::<latebind::crd::LocalNode>();
    latebind_cluster::eventually("the second report", PATIENCE, async || {
        Ok(reports.get_opt(second.name()).await?.and_then(|it| it.status).filter(|it| !it.paths.is_empty()).map(drop))
    })
    .await?;
    for number in 0..6 {
        ground.claim(&format!("healthy{number}"), on_second.clone()).await?;
    }
    for number in 0..6 {
        let volume = ground.bound(&format!("healthy{number}")).await?;
        ground.delete_claim(&format!("healthy{number}")).await?;
        ground.volume_gone(&volume.metadata.name.unwrap()).await?;
    }
    for (volume, file) in &stuck {
        assert!(file.exists(), "nobody but the node's own agent removes a directory");
        ground.volume_phase(volume.metadata.name.as_ref().unwrap(), "Released").await?;
    }
    ground.start_agent();
    for (volume, _) in &stuck {
        ground.volume_gone(volume.metadata.name.as_ref().unwrap()).await?;
    }
    ground.all_clean().await
}
