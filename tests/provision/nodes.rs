//! Nodes that are silent, gone, or hard to tell apart.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::crd::{LocalNode, LocalPool, NODE_REPLACED, condition};
use latebind_cluster::{Scope, eventually, holds_for};
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

/// Deletes the Node and makes it anew; the UID of the new one.
async fn made_anew(scope: &Scope, ground: &mut Ground<'_>) -> Result<String> {
    let nodes = scope.all::<Node>();
    nodes.delete(ground.node.name(), &DeleteParams::default()).await?;
    eventually("the Node to go", PATIENCE, async || {
        Ok(nodes.get_opt(ground.node.name()).await?.is_none().then_some(()))
    })
    .await?;
    ground.node = scope.simulated_node("node", &[]).await?;
    nodes.get(ground.node.name()).await?.uid().context("a UID")
}

/// Waits until the report is about this Node, and the condition is as given.
async fn replaced(scope: &Scope, node: &str, uid: &str, wanted: &str) -> Result<String> {
    eventually(&format!("{NODE_REPLACED}={wanted}"), PATIENCE, async || {
        let report = scope.all::<LocalNode>().get(node).await?;
        let conditions = report.status.unwrap_or_default().conditions;
        let found = condition(&conditions, NODE_REPLACED).filter(|it| it.status == wanted);
        Ok(found.filter(|_| report.spec.node_uid == uid).map(|it| it.message.clone()))
    })
    .await
}

pub async fn a_node_made_anew_keeps_its_disks_and_gets_nothing_new_before_they_are_seen(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (first, _) = ground.filled("first").await?;
    let (_, kept) = ground.filled("kept").await?;
    let old = ground.nodes().get(ground.node.name()).await?.uid().context("a UID")?;
    let away = ground.directory.path().join("away");
    fs::rename(ground.base(), &away)?;
    let new = made_anew(scope, &mut ground).await?;
    let said = replaced(scope, ground.node.name(), &old, "True").await?;
    ensure!(said.contains(ground.base().to_str().unwrap()), "{said}");
    ground.claim("refused", json!({})).await?;
    unselected(scope, "refused").await?;
    scope.event("refused", "ProvisioningFailed", "was made anew under the same name", PATIENCE).await?;
    // What is asked of an earlier volume waits for its disk, and touches nothing on this one.
    ground.delete_claim("first").await?;
    let released = ground.volume_phase(&first.name_any(), "Released").await?;
    let there = async || Ok(scope.all::<PersistentVolume>().get_opt(&released.name_any()).await?.is_some());
    ensure!(holds_for("the volume", Duration::from_secs(3), there).await?);

    let base = ground.base();
    eventually("the disk to be back", PATIENCE, async || {
        // The agent may be looking, and has made another base in its place.
        fs::remove_dir_all(&base).ok();
        Ok(fs::rename(&away, &base).is_ok().then_some(()))
    })
    .await?;
    replaced(scope, ground.node.name(), &new, "False").await?;
    ground.volume_gone(&first.name_any()).await?;
    ensure!(fs::read_to_string(&kept)? == "kept");
    let (_, file) = ground.filled("served").await?;
    ensure!(file.exists());

    // With its disks in place a new Node serves at once.
    let newest = made_anew(scope, &mut ground).await?;
    replaced(scope, ground.node.name(), &newest, "False").await?;
    ground.filled("later").await?;
    for name in ["refused", "kept", "served", "later"] {
        ground.delete_claim(name).await?;
    }
    ground.all_clean().await
}
