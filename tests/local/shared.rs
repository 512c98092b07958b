//! A path that is the same directory on every node, on real nodes.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use latebind::crd::{LocalNode, LocalPool};
use latebind_cluster::{Cluster, Scope, eventually};
use latebind_test_support::local::path_of;
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::nodes::{PATIENCE, delete_claim, delete_pod, installed, removed, without_webhook};

/// One directory of this host, mounted at the same path of a node.
async fn mount(cluster: &Cluster, node: &str, path: &str) -> Result<()> {
    let shared = cluster.directory().join("shared-by-nodes");
    std::fs::create_dir_all(&shared)?;
    let script = format!("mkdir -p {path}; mount --bind {} {path}", shared.display());
    cluster.node(node)?.shell(&script).await.map(drop)
}

async fn pool(scope: &Scope, name: &str, names: &[&str], path: &str) -> Result<()> {
    let paths = json!([{ "path": path, "requireMount": true }]);
    let nodes = json!([{ "names": names, "paths": paths }]);
    scope.create::<LocalPool>(json!({ "metadata": { "name": name }, "spec": { "nodes": nodes } })).await?;
    let parameters = json!({ "parameters": { "sharedFileSystem": "true" } });
    scope.create::<StorageClass>(objects::with(objects::class(name, "local.latebind.dev"), &parameters)).await?;
    Ok(())
}

async fn many(scope: &Scope, name: &str, class: &str) -> Result<()> {
    let many = json!({ "spec": { "accessModes": ["ReadWriteMany"] } });
    scope.create::<PersistentVolumeClaim>(objects::with(objects::claim(name, class, "1Mi"), &many)).await?;
    Ok(())
}

/// A Pod on a node that writes its name into a file of its own.
fn writer(name: &str, node: &str, claim: &str) -> Value {
    let pod = objects::running(
        objects::pod(name, &[objects::named("data", claim)]),
        "hostname > /data/$(hostname); while true; do sleep 1; done",
    );
    objects::on_node(pod, node)
}

/// Pods of both nodes use one volume, which the agent of one of them has made and removes.
pub async fn pods_of_every_node_use_a_volume_of_a_shared_file_system(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let [other, serving] = [0, 1].map(|at| cluster.nodes()[at].name());
    let name = scope.unique("same");
    let path = format!("/var/lib/latebind/{name}");
    pool(scope, &name, &[serving], &path).await?;
    // Where it is not mounted nothing is made.
    cluster.node(serving)?.shell(&format!("mkdir -p {path}")).await?;
    without_webhook(scope).await?;
    many(scope, "data", &name).await?;
    scope.create::<Pod>(writer("there", other, "data")).await?;
    let told = scope.event("data", "ProvisioningFailed", "nothing is mounted", PATIENCE).await?;
    ensure!(told.contains(serving) && !told.contains("asked for another"), "{told}");
    for node in [serving, other] {
        mount(cluster, node, &path).await?;
    }
    // It is a part of this host's file system, not one of its own, as an NFS mount would be.
    let paths = json!({ "spec": { "nodes": [{ "names": [serving], "paths": [{ "path": path }] }] } });
    scope.all::<LocalPool>().patch(&name, &PatchParams::default(), &Patch::Merge(&paths)).await?;
    scope.create::<Pod>(writer("here", serving, "data")).await?;
    for pod in ["there", "here"] {
        scope.pod_phase(pod, "Running", PATIENCE).await?;
    }
    let bound = scope.claim("data").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    let spec = volume.spec.clone().context("a spec")?;
    ensure!(spec.node_affinity.is_none() && spec.access_modes == Some(vec!["ReadWriteMany".to_owned()]), "{spec:?}");
    let directory = path_of(&volume).display().to_string();
    for node in [serving, other] {
        eventually("both files on each node", PATIENCE, async || {
            let files = cluster.node(node)?.shell(&format!("ls {directory}")).await?;
            Ok((files.split_whitespace().collect::<Vec<_>>() == ["here", "there"]).then_some(()))
        })
        .await?;
    }
    // Nobody else takes what lies there for an orphan of its own.
    for report in scope.all::<LocalNode>().list(&ListParams::default()).await? {
        let orphans = report.status.iter().flat_map(|status| &status.orphans);
        let there: Vec<_> = orphans.filter(|orphan| orphan.base == path).collect();
        ensure!(there.is_empty(), "{}: {there:?}", report.name_any());
    }
    for pod in ["here", "there"] {
        delete_pod(scope, pod).await?;
    }
    delete_claim(scope, "data").await?;
    removed(scope, &volume, serving).await?;

    // Two agents on the same files would be in each other's way.
    let two = scope.unique("two");
    pool(scope, &two, &[serving, other], &path).await?;
    many(scope, "refused", &two).await?;
    scope.create::<Pod>(writer("refused", other, "refused")).await?;
    scope.event("refused", "ProvisioningFailed", "names one node", PATIENCE).await?;
    delete_pod(scope, "refused").await?;
    for pool in [&name, &two] {
        scope.all::<LocalPool>().delete(pool, &DeleteParams::default()).await?;
    }
    for node in [serving, other] {
        cluster.node(node)?.shell(&format!("umount -l {path}")).await?;
    }
    Ok(())
}
