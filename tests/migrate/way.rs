//! The way over, and what becomes of old and new volumes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind_cluster::image::BUSYBOX;
use latebind_cluster::{Cluster, Output, Scope, eventually, holds_for, project_root};
use serde_json::json;

use crate::image::of_this_build;
use crate::old;

const PATIENCE: Duration = Duration::from_secs(120);

/// A command line of a person who has latebind, kubectl and helm.
async fn shell(cluster: &Cluster, line: &str) -> Result<Output> {
    let latebind = std::path::Path::new(env!("CARGO_BIN_EXE_latebind")).parent().unwrap().display().to_string();
    // helm is built once, beside the binaries of one version.
    let helm = cluster.binaries().helm().parent().unwrap().display().to_string();
    let path = format!("PATH={latebind}:{}:{helm}:/usr/bin:/bin", cluster.binaries().directory().display());
    let config = format!("KUBECONFIG={}", cluster.kubeconfig().display());
    let home = format!("HOME={}", cluster.directory().display());
    let script = format!("cd '{}' && {line}", project_root().display());
    cluster.run(&["env", &path, &config, &home, "bash", "-eo", "pipefail", "-c", &script]).await
}

/// The three commands, as the page has them; only the image is the one of this tree.
fn commands() -> Result<Vec<String>> {
    let page = std::fs::read_to_string(project_root().join("docs/migrate-from-rancher.md"))?;
    let block =
        page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).context("a block of commands")?;
    let image = "--set image.repository=localhost/latebind --set image.tag=test --timeout 100s";
    let lines: Vec<String> = block
        .lines()
        .map(|line| line.replace("helm install latebind ", &format!("helm install latebind {image} ")))
        .collect();
    ensure!(lines.len() == 3, "three commands were promised");
    Ok(lines)
}

async fn pod_with_claim(
    scope: &Scope,
    name: &str,
    class: &str,
    node: &str,
    annotations: serde_json::Value,
) -> Result<()> {
    scope
        .create::<PersistentVolumeClaim>(json!({ "metadata": { "name": name, "annotations": annotations }, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Mi" } } } }))
        .await?;
    scope
        .create::<Pod>(json!({ "metadata": { "name": name }, "spec": {
            "terminationGracePeriodSeconds": 0,
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }] } } },
            "containers": [{ "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "hostname > /data/name && sleep 3600"],
                "volumeMounts": [{ "name": "v", "mountPath": "/data" }] }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": name } }] } }))
        .await
        .map(drop)
}

async fn volume_of(scope: &Scope, name: &str) -> Result<(PersistentVolume, String)> {
    scope.pod_phase(name, "Running", PATIENCE).await?;
    let volume = scope.claim(name).await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&volume).await?;
    let spec = volume.spec.clone().unwrap();
    let path = spec.local.map(|it| it.path).or(spec.host_path.map(|it| it.path)).context("a path")?;
    Ok((volume, path))
}

async fn delete(scope: &Scope, name: &str) -> Result<()> {
    scope.api::<Pod>().delete(name, &DeleteParams::default()).await?;
    scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

pub async fn three_commands_replace_the_real_rancher_provisioner(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let (first, second) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let image = tokio::task::spawn_blocking(|| of_this_build("localhost/latebind:test")).await??;
    for node in cluster.nodes() {
        node.import(&image).await?;
    }
    old::install(cluster).await?;
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
    let refused = shell(cluster, early).await?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("still runs, in local-path-storage/"), "{refused:?}");

    for command in commands()? {
        let output = shell(cluster, &command).await?;
        if output.code != Some(0) {
            let pods = shell(cluster, "kubectl get pods -A -o wide; kubectl -n latebind-system logs --all-containers --prefix --selector app.kubernetes.io/name=latebind --tail 20").await?;
            anyhow::bail!("{command}: {}\n{}\n{}", output.stdout, output.stderr, pods.stdout);
        }
    }

    // Nobody noticed.
    for (name, node, _, path) in &made {
        let phase = scope.pod(name).await?.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Running"), "{name}: {phase:?}");
        ensure!(node.shell(&format!("cat {path}/name")).await?.trim() == *name);
    }
    // New volumes of the same class, in the same directories.
    pod_with_claim(scope, "new", "local-path", second.name(), json!({})).await?;
    let (volume, path) = volume_of(scope, "new").await?;
    let by = volume.annotations().get("pv.kubernetes.io/provisioned-by").map(String::as_str);
    ensure!(by == Some("local.latebind.dev") && path.starts_with(&format!("{}/", old::BASE)), "{by:?} {path}");
    made.push(("new", second, volume, path));

    // And old ones go with their directories, where label and name differ too.
    for (name, ..) in &made {
        delete(scope, name).await?;
    }
    for (name, node, volume, path) in &made {
        if *name == "retained" {
            continue;
        }
        eventually(&format!("{name} and its directory to go"), PATIENCE, async || {
            let gone = scope.all::<PersistentVolume>().get_opt(&volume.name_any()).await?.is_none();
            let script = format!("ls -d {path} {}/.trash/* 2>/dev/null || true", old::BASE);
            let left = node.shell(&script).await?;
            ensure!(gone && left.trim().is_empty(), "left: {gone} {left}");
            Ok(Some(()))
        })
        .await?;
    }
    let (_, node, _, path) = &made[5];
    let there = async || Ok(node.shell(&format!("cat {path}/name || true")).await?.trim() == "retained");
    ensure!(holds_for("the retained data", Duration::from_secs(3), there).await?, "the retained data is gone");
    scope.all::<PersistentVolume>().delete(&kept, &DeleteParams::default()).await?;
    Ok(())
}
