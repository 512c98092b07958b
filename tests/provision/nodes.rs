//! Nodes that are silent, gone, or hard to tell apart.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use latebind::crd::{LocalNode, LocalPool, LocalVolume, NODE_REPLACED, condition};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::diagnosed::ensure_diagnosed;
use latebind_test_support::local::PATIENCE;
use serde_json::{Value, json};

use super::ground::{Agent, Ground, warned};
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
    ground.node.fall_silent();
    set_status(scope, ground.node.name(), &json!({ "conditions": [not("Ready", "Unknown")] })).await?;
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
    let object = format!("node/{}", ground.node.name());
    ensure_diagnosed(
        scope,
        env!("CARGO_BIN_EXE_latebind"),
        &object,
        ("NodeReplaced", ground.base().to_str().unwrap()),
    )?;
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

pub async fn a_node_made_anew_is_accepted_as_it_is_when_its_report_is_deleted(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (lost, _) = ground.filled("lost").await?;
    let old = ground.nodes().get(ground.node.name()).await?.uid().context("a UID")?;
    let away = ground.directory.path().join("away");
    fs::rename(ground.base(), &away)?;
    let new = made_anew(scope, &mut ground).await?;
    let name = ground.node.name().to_owned();
    let said = replaced(scope, &name, &old, "True").await?;
    ensure!(said.contains(&format!("delete LocalNode {name} to accept")), "{said}");
    ground.claim("refused", json!({})).await?;
    unselected(scope, "refused").await?;
    ground.delete_claim("refused").await?;

    scope.all::<LocalNode>().delete(&name, &DeleteParams::default()).await?;
    let said = replaced(scope, &name, &new, "False").await?;
    ensure!(said.contains("accepted"), "{said}");
    let (_, file) = ground.filled("served").await?;
    ensure!(file.starts_with(ground.base()));

    // Whose disk is lost stays so: nothing on the new one is taken for it, until a person gives it up.
    ground.delete_claim("lost").await?;
    let local = eventually("the agent to miss the disk", PATIENCE, async || {
        let locals = ground.locals().await?;
        let found = locals.into_iter().find(|local| local.spec.claim.name == "lost").context("the order is gone")?;
        let conditions = found.status.clone().unwrap_or_default().conditions;
        Ok(condition(&conditions, "Ready").is_some_and(|it| it.reason == "BaseChanged").then_some(found))
    })
    .await?;
    ground.volume_phase(&lost.name_any(), "Released").await?;
    let patch = json!({ "metadata": { "finalizers": null } });
    scope.all::<LocalVolume>().patch(&local.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ground.volume_gone(&lost.name_any()).await?;
    ensure!(fs::read_to_string(&file)? == "served");
    ground.delete_claim("served").await?;
    ground.all_clean().await
}

fn not(kind: &str, status: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": "Test", "message": "as a test wants it",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

async fn set_status(scope: &Scope, node: &str, status: &Value) -> Result<()> {
    let patch = json!({ "status": status });
    scope.all::<Node>().patch_status(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A claim comes and goes on such a node, and no Pod is made for it.
async fn serves(ground: &Ground<'_>) -> Result<()> {
    let (volume, _) = ground.filled("data").await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await?;
    assert!(ground.scope.api::<Pod>().list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

async fn serves_with(scope: &Scope, spec: Value) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let patch = json!({ "spec": spec });
    ground.nodes().patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    serves(&ground).await
}

pub async fn a_cordoned_node_serves(scope: &Scope) -> Result<()> {
    serves_with(scope, json!({ "unschedulable": true })).await
}

pub async fn a_node_with_a_no_schedule_taint_serves(scope: &Scope) -> Result<()> {
    serves_with(scope, json!({ "taints": [{ "key": "test", "effect": "NoSchedule" }] })).await
}

pub async fn a_node_with_a_no_execute_taint_serves(scope: &Scope) -> Result<()> {
    serves_with(scope, json!({ "taints": [{ "key": "test", "effect": "NoExecute" }] })).await
}

pub async fn a_node_under_disk_pressure_serves(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let ready = json!({ "type": "Ready", "status": "True" });
    let pressed = json!({ "conditions": [ready, not("DiskPressure", "True")] });
    set_status(scope, ground.node.name(), &pressed).await?;
    eventually("the control plane to taint the node", PATIENCE, async || {
        let taints =
            ground.nodes().get(ground.node.name()).await?.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Ok(taints.iter().any(|taint| taint.key == "node.kubernetes.io/disk-pressure").then_some(()))
    })
    .await?;
    serves(&ground).await
}

pub async fn a_node_with_room_for_no_pod_serves(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let nothing = json!({ "cpu": "0", "memory": "0", "pods": "0" });
    set_status(scope, ground.node.name(), &json!({ "capacity": nothing, "allocatable": nothing })).await?;
    serves(&ground).await
}

pub async fn a_node_without_the_label_is_given_up(scope: &Scope) -> Result<()> {
    let ground =
        Ground::new(scope, json!({ "parameters": { "nodeAffinityKey": "test.example.com/stable-id" } })).await?;
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "has no label test.example.com/stable-id", PATIENCE).await?;
    assert!(told.contains(ground.node.name()), "{told}");
    unselected(scope, "data").await?;
    assert!(ground.directories().is_empty(), "nothing is made that could not be tied to its node");
    // And once it has the label, the same claim is served.
    let patch = json!({ "metadata": { "labels": { "test.example.com/stable-id": scope.unique("stable") } } });
    ground.nodes().patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    select(&ground, "data").await?;
    ground.bound("data").await.map(drop)
}

/// A read-only root, or a disk that this node lacks: the agent runs, says so, and serves from what is there.
pub async fn a_base_that_cannot_be_made_is_a_condition_and_no_crash(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({})).await?;
    let missing = ground.directory.path().join("missing");
    let paths: Vec<Value> = [missing.join("disk"), ground.base()].iter().map(|path| json!({ "path": path })).collect();
    let patch = json!({ "spec": { "nodes": [{ "names": [ground.node.name()], "paths": paths }] } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let given = [missing.to_str().context("text")?, ground.directory.path().join("base").to_str().context("text")?]
        .map(str::to_owned);
    let options = latebind::agent::Options {
        bases: latebind::agent::AllowedBases::new(given)?,
        ..Agent::options(ground.node.name(), ground.directory.path())
    };
    fs::create_dir_all(ground.base())?;
    ground.agent = Some(Agent::run(scope.client(), options, latebind::agent::AgentMetrics::default()));
    let ready = async |status: &str, reason: &str| {
        eventually(&format!("Ready={status}, {reason}"), PATIENCE, async || {
            let Some(report) = scope.all::<LocalNode>().get_opt(ground.node.name()).await? else { return Ok(None) };
            let found = report.status.unwrap_or_default();
            let ready = condition(&found.conditions, "Ready").filter(|it| it.status == status && it.reason == reason);
            Ok(ready.is_some().then_some(found))
        })
        .await
    };
    let told = ready("False", "PathMissing").await?;
    let of = |path: &std::path::Path| told.paths.iter().find(|it| std::path::Path::new(&it.path) == path).cloned();
    let (lacking, usable) = (of(&missing.join("disk")).context("a report")?, of(&ground.base()).context("a report")?);
    ensure!(!lacking.usable && lacking.reason == "PathMissing" && lacking.message.contains("ENOENT"), "{lacking:?}");
    ensure!(usable.usable && usable.reason.is_empty(), "{usable:?}");
    let (volume, file) = ground.filled("data").await?;
    ensure!(file.starts_with(ground.base()), "{volume:?}");
    fs::create_dir(&missing)?;
    ready("True", "PathsUsable").await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await
}

pub async fn select(ground: &Ground<'_>, claim: &str) -> Result<()> {
    let patch = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": ground.node.name() } } });
    let claims = ground.scope.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    claims.patch(claim, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

pub async fn a_node_whose_entry_has_no_paths_is_given_up(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let nodes = json!([{ "names": [ground.node.name()], "paths": [] }, { "paths": [{ "path": ground.base() }] }]);
    let patch = json!({ "spec": { "nodes": nodes } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    eventually("the controller to see the pool", PATIENCE, async || {
        let name = scope.unique("try");
        ground.claim(&name, json!({})).await?;
        let told = scope.event(&name, "ProvisioningFailed", "", PATIENCE).await;
        ground.delete_claim(&name).await?;
        Ok(told.is_ok_and(|told| told.contains("offers no path on node")).then_some(()))
    })
    .await?;
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "offers no path on node", PATIENCE).await?;
    assert!(told.contains(ground.node.name()) && told.contains(&ground.class), "{told}");
    unselected(scope, "data").await
}

pub async fn a_selected_node_deleted_before_anything_was_made_is_given_up(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    ground.agent = None;
    ground.claim("data", json!({})).await?;
    eventually("the order", PATIENCE, async || Ok((!ground.locals().await?.is_empty()).then_some(()))).await?;
    let first = ground.node.name().to_owned();
    ground.nodes().delete(&first, &DeleteParams::default()).await?;
    scope.event("data", "ProvisioningFailed", "does not exist", PATIENCE).await?;
    unselected(scope, "data").await?;
    // Another node serves the claim; what is left of the first order is in nobody's way.
    ground.node = scope.simulated_node("second", &[]).await?;
    let nodes = json!([{ "names": [ground.node.name()], "paths": [{ "path": ground.base() }] }]);
    let patch = json!({ "spec": { "nodes": nodes } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ground.start_agent();
    ground.wait_for_report().await?;
    select(&ground, "data").await?;
    let volume = ground.bound("data").await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}

/// The Node is deleted, and with it goes its agent; its disks may come back or not.
async fn lose_node(ground: &mut Ground<'_>) -> Result<()> {
    ground.agent = None;
    ground.nodes().delete(ground.node.name(), &DeleteParams::default()).await?;
    eventually("the Node to go", PATIENCE, async || {
        Ok(ground.nodes().get_opt(ground.node.name()).await?.is_none().then_some(()))
    })
    .await
}

pub async fn a_released_volume_of_a_deleted_node_waits_and_says_so(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let (given_up, kept) = ground.filled("other").await?;
    lose_node(&mut ground).await?;
    ground.delete_claim("data").await?;
    ground.delete_claim("other").await?;
    let locals = ground.locals().await?;
    for (volume, claim) in [(&volume, "data"), (&given_up, "other")] {
        let told = warned(scope, &volume.name_any(), "VolumeFailedDelete").await?;
        let local = locals.iter().find(|local| local.spec.claim.name == claim).unwrap();
        assert!(told.contains(ground.node.name()) && told.contains(&local.name_any()), "{told}");
    }
    assert!(file.exists(), "nobody but the node's own agent removes a directory");
    // A person knows that this one will not come back.
    let local = locals.iter().find(|local| local.spec.claim.name == "other").unwrap();
    let patch = json!({ "metadata": { "finalizers": null } });
    scope.all::<LocalVolume>().patch(&local.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ground.volume_gone(&given_up.name_any()).await?;
    assert!(kept.exists());
    // The node comes back under its name, with its disks: what was ordered is done.
    ground.node = scope.simulated_node("node", &[]).await?;
    ground.start_agent();
    ground.volume_gone(&volume.name_any()).await?;
    assert!(!file.exists());
    Ok(())
}

pub async fn a_bound_claim_of_a_deleted_node_keeps_all_it_has(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    lose_node(&mut ground).await?;
    let bound = holds_for("claim, volume and order", Duration::from_secs(3), async || {
        let phase = |status: Option<&String>| status.map(String::as_str) == Some("Bound");
        let claim = scope.claim("data").await?.status.and_then(|status| status.phase);
        let live = scope.all::<PersistentVolume>().get(&volume.name_any()).await?.status.and_then(|it| it.phase);
        let ordered = ground.locals().await?.iter().any(|local| local.spec.disposal.is_some() || local.is_deleting());
        Ok(phase(claim.as_ref()) && phase(live.as_ref()) && !ordered)
    })
    .await?;
    assert!(bound && file.exists());
    ground.node = scope.simulated_node("node", &[]).await?;
    ground.start_agent();
    ground.wait_for_report().await?;
    assert_eq!(std::fs::read_to_string(&file)?, "data");
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.name_any()).await?;
    ground.all_clean().await
}
