//! The way over from rancher's own manifest and back, and what becomes of old and new volumes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind_cluster::image;
use latebind_cluster::{Cluster, Node as Machine, Scope, eventually, holds_for};
use latebind_test_support::{objects, rancher};
use serde_json::json;

use crate::page::{Person, commands};

const PATIENCE: Duration = Duration::from_secs(120);
pub const LATEBIND: &str = "local.latebind.dev";

/// Has every node know latebind's image.
pub async fn import_latebind(cluster: &Cluster) -> Result<()> {
    let image = tokio::task::spawn_blocking(|| image::latebind("localhost/latebind:test")).await??;
    for node in cluster.nodes() {
        node.import(&image).await?;
    }
    Ok(())
}

/// A claim, and a Pod that names its node and writes the claim's name into it.
pub async fn pod_with_claim<'a>(
    scope: &Scope,
    name: &str,
    class: &str,
    node: impl Into<Option<&'a str>>,
    annotations: serde_json::Value,
) -> Result<()> {
    let annotated = json!({ "metadata": { "annotations": annotations } });
    scope.create::<PersistentVolumeClaim>(objects::with(objects::claim(name, class, "1Mi"), &annotated)).await?;
    let mut pod = objects::pod(name, &[objects::named("data", name)]);
    if let Some(node) = node.into() {
        pod = objects::pinned_to(pod, node);
    }
    scope.create::<Pod>(objects::running(pod, "hostname > /data/name && sleep 3600")).await.map(drop)
}

/// The volume of a running Pod's claim, its path, and who made it.
pub async fn volume_of(scope: &Scope, name: &str) -> Result<(PersistentVolume, String)> {
    scope.pod_phase(name, "Running", PATIENCE).await?;
    let volume = scope.claim(name).await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&volume).await?;
    let spec = volume.spec.clone().unwrap();
    let path = spec.local.map(|it| it.path).or(spec.host_path.map(|it| it.path)).context("a path")?;
    Ok((volume, path))
}

pub fn maker(volume: &PersistentVolume) -> Option<&str> {
    volume.annotations().get("pv.kubernetes.io/provisioned-by").map(String::as_str)
}

pub async fn delete(scope: &Scope, name: &str) -> Result<()> {
    scope.api::<Pod>().delete(name, &DeleteParams::default()).await?;
    scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// The Pod runs on and its data is there.
pub async fn unharmed(scope: &Scope, name: &str, node: &Machine, path: &str) -> Result<()> {
    let phase = scope.pod(name).await?.status.and_then(|status| status.phase);
    ensure!(phase.as_deref() == Some("Running"), "{name}: {phase:?}");
    ensure!(node.shell(&format!("cat {path}/name")).await?.trim() == name, "{name}: its data");
    Ok(())
}

/// The volume is gone, and its directory with it.
pub async fn removed(scope: &Scope, name: &str, volume: &PersistentVolume, node: &Machine, path: &str) -> Result<()> {
    eventually(&format!("{name} and its directory to go"), PATIENCE, async || {
        let gone = scope.all::<PersistentVolume>().get_opt(&volume.name_any()).await?.is_none();
        let base = path.rsplit_once('/').map_or("/", |(base, _)| base);
        let script = format!("ls -d {path} {base}/.trash/* 2>/dev/null || true");
        let left = node.shell(&script).await?;
        ensure!(gone && left.trim().is_empty(), "left: {gone} {left}");
        Ok(Some(()))
    })
    .await
}

pub async fn three_commands_replace_the_real_rancher_provisioner(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let person = Person::new(cluster, "manifest")?;
    let (first, second) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    import_latebind(cluster).await?;
    rancher::install(cluster).await?;
    // The label's value is no node's name: what the old provisioner could make, but not remove.
    let labels = json!({ "kubernetes.io/hostname": "host-of-the-second", "test.example.com/stable-id": "two" });
    let label = json!({ "metadata": { "labels": labels } });
    scope.all::<Node>().patch(second.name(), &PatchParams::default(), &Patch::Merge(&label)).await?;
    let rows = [
        ("plain", "local-path", first, json!({})),
        ("local", "local-path", first, json!({ "volumeType": "local" })),
        ("label", "local-path", second, json!({})),
        ("key", "local-path-key", second, json!({})),
        ("pattern", "local-path-pattern", first, json!({})),
        ("retained", "local-path", first, json!({})),
        ("back", "local-path", first, json!({})),
    ];
    for (name, class, node, annotations) in &rows {
        pod_with_claim(scope, name, class, node.name(), annotations.clone()).await?;
    }
    let mut made = Vec::new();
    for (name, _, node, _) in &rows {
        let (volume, path) = volume_of(scope, name).await.with_context(|| (*name).to_owned())?;
        made.push((*name, *node, volume, path));
    }
    let retain = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
    let kept = made[5].2.name_any();
    scope.all::<PersistentVolume>().patch(&kept, &PatchParams::default(), &Patch::Merge(&retain)).await?;

    // Two of one name would work against each other.
    let early =
        "latebind run --role controller --provisioner=on --adopt rancher.io/local-path --metrics-listen 127.0.0.1:0";
    let refused = person.types(early).await?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("still runs, in local-path-storage/"), "{refused:?}");

    let looked = person.types(&commands("Look first")?[0][0]).await?;
    ensure!(looked.code == Some(0), "{}{}", looked.stdout, looked.stderr);
    for said in ["volumes that are there: 7", "agent.basePaths={/opt/local-path-provisioner}", " 0 lost"] {
        ensure!(looked.stdout.contains(said), "no {said:?} in\n{}", looked.stdout);
    }
    let [save, three] = &commands("rancher's manifest")?[..] else { anyhow::bail!("two blocks") };
    ensure!(three.len() == 3, "three commands were promised");
    person.follows(save).await?;
    person.follows(three).await?;

    // Nobody noticed.
    for (name, node, _, path) in &made {
        unharmed(scope, name, node, path).await?;
    }
    // New volumes of the same class, in the same directories.
    pod_with_claim(scope, "new", "local-path", second.name(), json!({})).await?;
    let (volume, path) = volume_of(scope, "new").await?;
    ensure!(maker(&volume) == Some(LATEBIND) && path.starts_with(&format!("{}/", rancher::BASE)), "{volume:?} {path}");
    made.push(("new", second, volume, path));

    // And old ones go with their directories, where label and name differ too.
    let staying = ["retained", "back", "new"];
    for (name, ..) in made.iter().filter(|(name, ..)| *name != "back" && *name != "new") {
        delete(scope, name).await?;
    }
    for (name, node, volume, path) in made.iter().filter(|(name, ..)| !staying.contains(name)) {
        removed(scope, name, volume, node, path).await?;
    }
    let (_, node, _, path) = &made[5];
    let there = async || Ok(node.shell(&format!("cat {path}/name || true")).await?.trim() == "retained");
    ensure!(holds_for("the retained data", Duration::from_secs(3), there).await?, "the retained data is gone");
    scope.all::<PersistentVolume>().delete(&kept, &DeleteParams::default()).await?;

    // Back again: each serves its own.
    person.follows(&commands("Back again")?[0]).await?;
    rancher::running(cluster, rancher::NAMESPACE).await?;
    pod_with_claim(scope, "again", "local-path", first.name(), json!({})).await?;
    let (volume, path) = volume_of(scope, "again").await?;
    ensure!(maker(&volume) == Some("rancher.io/local-path"), "{volume:?}");
    made.push(("again", first, volume, path));
    for (name, node, volume, path) in made.iter().filter(|(name, ..)| ["back", "new", "again"].contains(name)) {
        unharmed(scope, name, node, path).await?;
        delete(scope, name).await?;
        removed(scope, name, volume, node, path).await?;
    }
    crate::products::clean_up(&person, scope, &rancher::MANIFEST).await?;
    let labels = json!({ "kubernetes.io/hostname": second.name(), "test.example.com/stable-id": null });
    let label = json!({ "metadata": { "labels": labels } });
    scope.all::<Node>().patch(second.name(), &PatchParams::default(), &Patch::Merge(&label)).await?;
    Ok(())
}
