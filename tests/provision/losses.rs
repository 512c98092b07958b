//! Sequences of events that lost data, or that left something behind without a word. Each is named by what happens in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use latebind::crd::LocalVolume;
use latebind_cluster::{Scope, eventually, holds_for};
use serde_json::{Value, json};

use super::ground::{Ground, warned};
use latebind_test_support::local::{PATIENCE, path_of};

const WHILE: Duration = Duration::from_secs(4);

pub async fn set(scope: &Scope, volume: &str, change: &Value) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>();
    volumes.patch(volume, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

pub fn policy(policy: &str) -> Value {
    json!({ "spec": { "persistentVolumeReclaimPolicy": policy } })
}

/// Waits until the only LocalVolume of the node is as it should be.
pub async fn local(ground: &Ground<'_>, what: &str, wanted: impl Fn(&LocalVolume) -> bool) -> Result<LocalVolume> {
    eventually(what, PATIENCE, async || Ok(ground.locals().await?.into_iter().find(&wanted))).await
}

/// A volume with a file, Released, whose order of disposal waits for an agent that is away; the volume and the file.
async fn held_up(ground: &mut Ground<'_>) -> Result<(PersistentVolume, std::path::PathBuf)> {
    let (volume, file) = ground.filled("data").await?;
    ground.agent = None;
    ground.delete_claim("data").await?;
    local(ground, "the order", |local| local.spec.disposal.is_some()).await?;
    Ok((volume, file))
}

async fn stays(file: &Path) -> Result<()> {
    ensure!(holds_for("the file", WHILE, async || Ok(file.exists())).await?, "the data is gone");
    Ok(())
}

/// A claim for a volume by its name, as an administrator makes one who brings data back.
pub async fn claim_for(ground: &Ground<'_>, name: &str, volume: &str) -> Result<PersistentVolumeClaim> {
    let change = json!({ "metadata": { "annotations": null }, "spec": { "volumeName": volume } });
    ground.claim(name, change).await
}

pub async fn the_claim_is_deleted_by_mistake_and_the_volume_is_set_to_retain_while_the_order_waits(
    scope: &Scope,
) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = held_up(&mut ground).await?;
    let name = volume.name_any();
    set(scope, &name, &policy("Retain")).await?;
    local(&ground, "the order to be taken back", |local| local.spec.disposal.is_none()).await?;
    ground.start_agent();
    stays(&file).await?;
    // And an administrator who changes their mind once more has it removed.
    set(scope, &name, &policy("Delete")).await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn the_volume_is_bound_to_a_new_claim_while_the_order_waits(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = held_up(&mut ground).await?;
    let name = volume.name_any();
    set(scope, &name, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain", "claimRef": null } })).await?;
    claim_for(&ground, "again", &name).await?;
    scope.claim_phase("again", "Bound", PATIENCE).await?;
    ground.start_agent();
    stays(&file).await?;
    ensure!(local(&ground, "its LocalVolume", |_| true).await?.spec.disposal.is_none());
    // Released by its present claim under Delete it is removed.
    set(scope, &name, &policy("Delete")).await?;
    ground.delete_claim("again").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn a_retained_volume_is_deleted_and_another_is_made_by_hand_for_its_path(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "reclaimPolicy": "Retain" })).await?;
    ground.claim("data", json!({})).await?;
    let volume = ground.bound("data").await?;
    let directory = path_of(&volume);
    let by_hand = scope.unique("by-hand");
    ground.delete_claim("data").await?;
    ground.volume_phase(&volume.name_any(), "Released").await?;
    // Spelled otherwise, as people do.
    let path = format!("{}//{}/", ground.base().display(), directory.file_name().unwrap().to_string_lossy());
    scope
        .create::<PersistentVolume>(json!({ "metadata": { "name": by_hand }, "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": ground.class, "local": { "path": path },
            "nodeAffinity": volume.spec.as_ref().unwrap().node_affinity,
        } }))
        .await?;
    scope.all::<PersistentVolume>().delete(&volume.name_any(), &DeleteParams::default()).await?;
    ground.volume_gone(&volume.name_any()).await?;
    claim_for(&ground, "again", &by_hand).await?;
    scope.claim_phase("again", "Bound", PATIENCE).await?;
    let there = holds_for("the directory", WHILE, async || Ok(directory.exists())).await?;
    ensure!(there, "the directory of a volume in use was removed while it was empty");
    Ok(())
}

pub async fn the_volume_comes_back_from_its_yaml_and_is_released_later(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = held_up(&mut ground).await?;
    let name = volume.name_any();
    let bare = json!({ "metadata": { "finalizers": null } });
    scope.all::<PersistentVolume>().delete(&name, &DeleteParams::default()).await?;
    set(scope, &name, &bare).await.ok();
    ground.volume_gone(&name).await?;
    let mut again = volume.clone();
    again.metadata.resource_version = None;
    again.metadata.uid = None;
    again.status = None;
    again.spec.as_mut().context("a spec")?.claim_ref = None;
    scope.all::<PersistentVolume>().create(&PostParams::default(), &again).await?;
    claim_for(&ground, "again", &name).await?;
    scope.claim_phase("again", "Bound", PATIENCE).await?;
    ground.start_agent();
    local(&ground, "the order to be taken back", |local| local.spec.disposal.is_none()).await?;
    stays(&file).await?;
    ground.delete_claim("again").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn volume_and_claim_vanish_with_their_finalizers_torn_off(scope: &Scope) -> Result<()> {
    let mut ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = held_up(&mut ground).await?;
    let name = volume.name_any();
    scope.all::<PersistentVolume>().delete(&name, &DeleteParams::default()).await?;
    set(scope, &name, &json!({ "metadata": { "finalizers": null } })).await.ok();
    ground.volume_gone(&name).await?;
    ground.start_agent();
    local(&ground, "it to say where the data is", |local| {
        let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|it| it.reason == "Retained")
    })
    .await?;
    stays(&file).await
}

pub async fn a_volume_is_handed_on_to_another_claim_and_released(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "reclaimPolicy": "Retain" })).await?;
    let (volume, file) = ground.filled("first").await?;
    let name = volume.name_any();
    ground.delete_claim("first").await?;
    ground.volume_phase(&name, "Released").await?;
    let second = claim_for(&ground, "second", &name).await?;
    let reference = json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete",
        "claimRef": { "name": "second", "uid": second.metadata.uid, "resourceVersion": null } } });
    set(scope, &name, &reference).await?;
    scope.claim_phase("second", "Bound", PATIENCE).await?;
    stays(&file).await?;
    ground.delete_claim("second").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn a_removal_that_the_agent_refuses_is_told_on_the_volume(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let uid = scope.claim("data").await?.metadata.uid.context("a UID")?;
    let marker = ground.base().join(".latebind/volumes").join(&uid);
    let kept = fs::read(&marker)?;
    fs::remove_file(&marker)?;
    ground.delete_claim("data").await?;
    let told = warned(scope, &volume.name_any(), "VolumeFailedDelete").await?;
    ensure!(told.contains("not ours") && told.contains(ground.node.name()), "{told}");
    stays(&file).await?;
    fs::write(&marker, kept)?;
    // The agent looks again by itself, after minutes; a restart is sooner.
    drop(ground);
    Ok(())
}

pub async fn an_adopted_pattern_leads_into_the_directory_of_an_existing_volume(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "parameters": { "pathPattern": "{namespace}/{claim}/{uid}" } })).await?;
    let outer = scope.unique("outer");
    let path = format!("{}//{}/", ground.base().display(), scope.namespace());
    scope
        .create::<PersistentVolume>(json!({ "metadata": { "name": outer }, "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-hand", "hostPath": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [ground.node.name()] }] }] } } } }))
        .await?;
    ground.claim("data", json!({})).await?;
    scope.event("data", "ProvisioningFailed", &outer, PATIENCE).await?;
    ensure!(ground.locals().await?.is_empty(), "a directory was ordered inside that of another volume");
    scope.all::<PersistentVolume>().delete(&outer, &DeleteParams::default()).await?;
    ground.bound("data").await.map(drop)
}
