//! latebind installed on real nodes, and what tests create there.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind_cluster::image;
use latebind_cluster::image::BUSYBOX;
use latebind_cluster::{Cluster, Scope};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::manifest::{NAMESPACE, install};

/// The image that the manifests name, built from this tree and brought to every node: so they are used as they are.
const IMAGE: &str = "ghcr.io/latebind/latebind:0.1.0";
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Builds latebind's image and brings it to every node, once.
pub async fn import(cluster: &Cluster) -> Result<()> {
    static IMPORTED: OnceCell<()> = OnceCell::const_new();
    let import = async || {
        let archive = tokio::task::spawn_blocking(|| image::latebind(IMAGE)).await??;
        for node in cluster.nodes() {
            node.import(&archive).await?;
        }
        Ok(())
    };
    IMPORTED.get_or_try_init(import).await.map(drop)
}

/// Installs a manifest, or changes what is installed, and waits until every replica is ready.
pub async fn install_from(scope: &Scope, manifest: &str) -> Result<()> {
    import(scope.cluster()?).await?;
    ensure!(manifest.contains(IMAGE), "the manifest names another image");
    scope.cluster()?.kubectl_with_input(&["apply", "-f", "-"], manifest).await?.success()?;
    for deployment in ["deployment/latebind-controller", "deployment/latebind-webhook"] {
        rolled_out(scope, deployment).await?;
    }
    Ok(())
}

pub async fn rolled_out(scope: &Scope, deployment: &str) -> Result<()> {
    let arguments = ["--namespace", NAMESPACE, "rollout", "status", "--timeout=90s", deployment];
    let output = scope.cluster()?.kubectl(&arguments).await?;
    if output.code != Some(0) {
        let arguments = ["--namespace", NAMESPACE, "describe", "pods"];
        let told = scope.cluster()?.kubectl(&arguments).await?.stdout;
        let logs = [
            "--namespace",
            NAMESPACE,
            "logs",
            "--all-containers",
            "--prefix",
            "--selector=app.kubernetes.io/name=latebind",
        ];
        let logs = scope.cluster()?.kubectl(&logs).await?.stdout;
        anyhow::bail!("{deployment} is not rolled out: {}\n{told}\n{logs}", output.stderr);
    }
    Ok(())
}

/// Removes latebind, if it is there.
pub async fn uninstall(scope: &Scope) -> Result<()> {
    let arguments = ["delete", "--ignore-not-found", "--wait=true", "--timeout=90s", "-f", "-"];
    scope.cluster()?.kubectl_with_input(&arguments, &install()?).await?.success()?;
    Ok(())
}

/// A Pod that names its node and mounts these volumes.
pub fn pinned(name: &str, node: &str, volumes: &Value) -> Value {
    let mounts: Vec<Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap_or("a"))}))
        .collect();
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "sleep 3600"], "volumeMounts": mounts}],
            "volumes": volumes,
        },
    })
}

pub async fn class(scope: &Scope, stem: &str, provisioner: &str) -> Result<String> {
    let name = scope.unique(stem);
    scope
        .create::<StorageClass>(json!({
            "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"}))
        .await?;
    Ok(name)
}

pub async fn claim(scope: &Scope, name: &str, class: &str) -> Result<()> {
    scope.create::<PersistentVolumeClaim>(json!({"metadata": {"name": name}, "spec": claim_spec(class)})).await?;
    Ok(())
}

pub fn claim_spec(class: &str) -> Value {
    json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}})
}

pub async fn runs_on(scope: &Scope, pod: &str, node: &str) -> Result<Pod> {
    let pod = scope.pod_phase(pod, "Running", PATIENCE).await?;
    ensure!(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node), "it runs elsewhere");
    Ok(pod)
}
