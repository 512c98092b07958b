//! Directories that stay when their claim goes, and the claim of the same name that takes one back.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::DeleteParams;
use latebind::crd::{KeptDirectory, LocalNode};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::local::{PATIENCE, path_of};
use latebind_test_support::objects;
use serde_json::{Value, json};

use super::ground::Ground;

fn class() -> Value {
    json!({ "parameters": { "onDelete": "keep-path", "adoptExisting": "same-claim" } })
}

async fn kept(ground: &Ground<'_>, count: usize) -> Result<Vec<KeptDirectory>> {
    eventually(&format!("{count} kept directories in the report"), PATIENCE, async || {
        let report = ground.scope.all::<LocalNode>().get(ground.node.name()).await?;
        Ok(report.status.map(|status| status.kept).filter(|kept| kept.len() == count))
    })
    .await
}

/// The claim and its volume go, and what they leave is in the report.
async fn leave(ground: &Ground<'_>, name: &str, volume: &PersistentVolume) -> Result<KeptDirectory> {
    ground.delete_claim(name).await?;
    ground.volume_gone(&volume.name_any()).await?;
    eventually("its LocalVolume to go", PATIENCE, async || Ok(ground.locals().await?.is_empty().then_some(()))).await?;
    kept(ground, 1).await?.pop().context("one is there")
}

pub async fn a_directory_that_stays_is_taken_back_by_a_claim_of_the_same_name(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, class()).await?;
    let (first, file) = ground.filled("data").await?;
    let left = leave(&ground, "data", &first).await?;
    ensure!(fs::read_to_string(&file)? == "data", "the data is gone");
    ensure!(left.namespace == scope.namespace() && left.name == "data" && left.cluster.is_empty(), "{left:?}");
    ensure!(file.starts_with(left.directory()), "{left:?}");
    // Another name gets a directory of its own.
    ground.filled("other").await?;
    ground.claim("data", json!({})).await?;
    let second = ground.bound("data").await?;
    ensure!(second.name_any() != first.name_any() && path_of(&second) == path_of(&first), "{second:?}");
    ensure!(fs::read_to_string(&file)? == "data", "the data is gone");
    scope.event("data", "ProvisioningSucceeded", "that an earlier claim has left", PATIENCE).await?;
    kept(&ground, 0).await?;
    fs::write(&file, "second")?;
    // In whatever hurry, it is never an empty one.
    for _ in 0..3 {
        scope.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
        eventually("the claim to be made again", PATIENCE, async || {
            Ok(ground.claim("data", json!({})).await.is_ok().then_some(()))
        })
        .await?;
        let next = ground.bound("data").await?;
        ensure!(path_of(&next) == path_of(&first) && fs::read_to_string(&file)? == "second", "{next:?}");
    }
    for name in ["data", "other"] {
        ground.delete_claim(name).await?;
    }
    kept(&ground, 2).await?;
    ensure!(ground.directories().len() == 2 && fs::read_dir(ground.base().join(".trash"))?.next().is_none());
    Ok(())
}

pub async fn what_is_in_doubt_is_not_taken_back_and_said(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, class()).await?;
    let (first, file) = ground.filled("data").await?;
    let left = leave(&ground, "data", &first).await?;
    // A volume that somebody made for it.
    let name = scope.unique("by-hand");
    scope
        .create::<PersistentVolume>(json!({ "metadata": { "name": name }, "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "by-hand", "local": { "path": file.parent().context("a directory")? },
            "nodeAffinity": first.spec.as_ref().unwrap().node_affinity,
        } }))
        .await?;
    ground.volume_phase(&name, "Available").await?;
    ground.claim("data", json!({})).await?;
    scope.event("data", "ProvisioningFailed", &name, PATIENCE).await?;
    ensure!(ground.directories().len() == 1 && ground.locals().await?.is_empty(), "{:?}", ground.directories());
    // A marker that says nothing, while that volume goes.
    let broken = ground.base().join(".latebind/volumes/broken");
    fs::write(&broken, "{")?;
    scope.all::<PersistentVolume>().delete(&name, &DeleteParams::default()).await?;
    scope.event("data", "ProvisioningFailed", "cannot be read", PATIENCE).await?;
    ensure!(ground.directories().len() == 1, "{:?}", ground.directories());
    fs::remove_file(&broken)?;
    // As the scheduler does: a node that is selected before the report tells of the base is given back once more.
    eventually("the claim to be bound", PATIENCE, async || {
        let phase = scope.claim("data").await?.status.and_then(|status| status.phase);
        if phase.as_deref() == Some("Bound") {
            return Ok(Some(()));
        }
        super::nodes::select(&ground, "data").await?;
        Ok(None)
    })
    .await?;
    let second = ground.bound("data").await?;
    ensure!(path_of(&second) == path_of(&first) && fs::read_to_string(&file)? == "data", "{left:?} {second:?}");
    Ok(())
}

/// The markers are those of a cluster that was destroyed: another one has the disk now.
pub async fn a_cluster_made_anew_takes_back_what_an_earlier_one_had_when_it_is_named(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, class()).await?;
    let (first, file) = ground.filled("data").await?;
    let left = leave(&ground, "data", &first).await?;
    let marker = ground.base().join(".latebind/volumes").join(&left.claim);
    let mut said: Value = serde_json::from_slice(&fs::read(&marker)?)?;
    said["cluster"] = json!("cluster-0");
    said.as_object_mut().context("an object")?.remove("kept");
    fs::write(&marker, said.to_string())?;
    eventually("the report to name the cluster", PATIENCE, async || {
        Ok(kept(&ground, 1).await?.iter().any(|it| it.cluster == "cluster-0").then_some(()))
    })
    .await?;
    ground.claim("data", json!({})).await?;
    scope.event("data", "ProvisioningFailed", "in cluster cluster-0", PATIENCE).await?;
    ground.delete_claim("data").await?;
    ensure!(ground.directories().len() == 1, "{:?}", ground.directories());
    let named = scope.unique("anew");
    let parameters = json!({ "parameters": { "pool": ground.class, "onDelete": "keep-path", "adoptExisting": "same-claim",
        "adoptClusters": "cluster-0" } });
    scope
        .create::<StorageClass>(objects::with(objects::class(&named, latebind::volumes::PROVISIONER), &parameters))
        .await?;
    ground.claim("data", json!({ "spec": { "storageClassName": named } })).await?;
    let second = ground.bound("data").await?;
    ensure!(path_of(&second) == path_of(&first) && fs::read_to_string(&file)? == "data", "{second:?}");
    Ok(())
}
