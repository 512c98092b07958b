//! The objects of profile `policy` as the chart renders them, on an API server.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::core::{DynamicObject, Status};
use kube::discovery::ApiResource;
use latebind::binding::MOST_POLICY_CLAIMS;
use latebind_cluster::{Cluster, Scope, eventually};
use latebind_test_support::chart::objects_of;
use latebind_test_support::policies::served;
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// Rescue and policy, as `latebind install --profile policy` prints it.
const SET: usize = 10;

/// Everything but what would run Pods: these tests run the controller themselves.
fn manifest(settings: &[&str]) -> Result<String> {
    let objects = objects_of(SET, settings)?;
    let runs = |object: &String| object.contains("\nkind: Deployment\n") || object.starts_with("kind: Deployment\n");
    Ok(objects.into_iter().filter(|object| !runs(object)).collect::<Vec<_>>().join("\n---\n"))
}

/// Installs it, and waits until the definition of the parameter is served.
pub async fn install(cluster: &Cluster) -> Result<()> {
    install_with(cluster, &[]).await
}

/// The same with settings of the chart. What is installed already becomes so.
pub async fn install_with(cluster: &Cluster, settings: &[&str]) -> Result<()> {
    cluster.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &manifest(settings)?).await?.success()?;
    let ready = ["wait", "--for=condition=Established", "--timeout=30s", "crd/admissionparameters.latebind.dev"];
    cluster.kubectl(&ready).await?.success().map(drop)
}

/// Removes it. Other tests of this cluster have their own.
pub async fn uninstall(cluster: &Cluster) -> Result<()> {
    let arguments = ["delete", "--ignore-not-found", "--wait=true", "--timeout=90s", "-f", "-"];
    cluster.kubectl_with_input(&arguments, &manifest(&[])?).await?.success().map(drop)
}

/// What the API server would store of a Pod, without storing it.
pub async fn admitted(scope: &Scope, namespace: &str, mut pod: Value) -> Result<Result<Value, Status>> {
    let kind = ApiResource::erase::<Pod>(&());
    let pods = Api::<DynamicObject>::namespaced_with(scope.client(), namespace, &kind);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&dry, &serde_json::from_value(pod)?).await {
        Ok(pod) => Ok(Ok(serde_json::to_value(pod)?)),
        Err(kube::Error::Api(status)) => Ok(Err(*status)),
        Err(error) => Err(error.into()),
    }
}

/// Types of expressions are checked by the API server, which says what it finds in the status of a policy that validates.
pub async fn what_the_chart_renders_is_accepted(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
    // The namespace is not there yet when the objects in it are tried, so they are tried in one that is.
    let here = format!("namespace: {}", scope.namespace());
    let bound = format!("<= {MOST_POLICY_CLAIMS}\n");
    ensure!(manifest(&[])?.contains(&bound), "the chart has another bound of claims");
    let manifest = manifest(&[])?.replace("namespace: latebind-system", &here);
    let output = scope.cluster()?.kubectl_with_input(&arguments, &manifest).await?;
    ensure!(!output.stderr.contains("Warning"), "{}", output.stderr);
    output.success()?;
    Ok(())
}

/// Waits until a policy acts on a Pod.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    eventually(what, PATIENCE, probe).await
}
