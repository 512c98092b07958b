//! latebind installed on real nodes, and what tests create there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::config::Kubeconfig;
use latebind_cluster::image;
use latebind_cluster::{Cluster, Scope};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::chart::{NAMESPACE, install};
use crate::objects;

/// The image that the manifests name, built from this tree and brought to every node: so they are used as they are.
const IMAGE: &str = "ghcr.io/latebind/latebind:0.1.0";
/// How long a Pod may take to run.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Builds latebind's image and brings it to every node of the cluster, once.
pub async fn import(cluster: &Cluster) -> Result<()> {
    static IMPORTED: Mutex<BTreeSet<PathBuf>> = Mutex::const_new(BTreeSet::new());
    let mut imported = IMPORTED.lock().await;
    if !imported.contains(cluster.directory()) {
        let archive = tokio::task::spawn_blocking(|| image::latebind(IMAGE)).await??;
        for node in cluster.nodes() {
            node.import(&archive).await?;
        }
        imported.insert(cluster.directory().to_owned());
    }
    Ok(())
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

/// Waits until the newest Pods of a deployment are ready, and tells of Pods and logs when they are not.
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
pub fn pinned(name: &str, node: &str, volumes: &[Value]) -> Value {
    let labels = json!({ "metadata": { "labels": { "app": name } } });
    objects::with(objects::on_node(objects::running(objects::pod(name, volumes), "sleep 3600"), node), &labels)
}

/// A delayed class.
pub async fn class(scope: &Scope, stem: &str, provisioner: &str) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<StorageClass>(objects::class(&name, provisioner)).await?;
    Ok(name)
}

/// A claim of 1 MiB.
pub async fn claim(scope: &Scope, name: &str, class: &str) -> Result<()> {
    scope.create::<PersistentVolumeClaim>(objects::claim(name, class, "1Mi")).await.map(drop)
}

/// Waits until the Pod runs, and says so when it does elsewhere.
pub async fn runs_on(scope: &Scope, pod: &str, node: &str) -> Result<Pod> {
    let pod = scope.pod_phase(pod, "Running", PATIENCE).await?;
    ensure!(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node), "it runs elsewhere");
    Ok(pod)
}

/// A kubeconfig file with a token of the controller's account, beside the cluster's own.
pub async fn controllers_kubeconfig(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let token = ["create", "token", "latebind-controller", "-n", NAMESPACE, "--duration=1h"];
    let token = cluster.kubectl(&token).await?.success()?;
    let mut kubeconfig = serde_json::to_value(Kubeconfig::read_from(cluster.kubeconfig())?)?;
    for user in kubeconfig["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({ "token": token.trim() });
    }
    let path = cluster.directory().join(name);
    std::fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
    Ok(path)
}
