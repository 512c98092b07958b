//! `latebind check` says why the webhook does not answer.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind_cluster::{Scope, eventually};
use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::installed::PATIENCE;
use latebind_test_support::objects;
use serde_json::{Value, json};

/// An address of a block for documentation, which nobody answers on.
const NOWHERE: &str = "192.0.2.1";

/// What it says, which is not ok.
fn check(scope: &Scope, namespace: &str) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(["check", "--namespace", namespace, "--kubeconfig"]).arg(scope.cluster()?.kubeconfig());
    let output = command.output()?;
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(1), "{:?}: {told}", output.status);
    Ok(told.split_whitespace().collect::<Vec<_>>().join(" "))
}

async fn kubectl(scope: &Scope, arguments: &[&str]) -> Result<String> {
    scope.cluster()?.kubectl(arguments).await?.success()
}

async fn apply(scope: &Scope, object: &Value) -> Result<()> {
    scope.cluster()?.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await?.success().map(drop)
}

/// The webhook's only endpoint: this address, where nobody listens.
fn endpoint(address: &str, is_ready: bool) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "latebind-webhook-test", "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "latebind-webhook"}},
        "ports": [{"name": "admission", "port": 1, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": is_ready}}]})
}

/// The same in the older form, by which an API server before 1.37 finds where a request to a Service is to go. Nobody makes a slice
/// of it.
fn endpoints(address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "latebind-webhook", "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "admission", "port": 1}]}]})
}

pub async fn says_why_the_webhook_does_not_answer(scope: &Scope) -> Result<()> {
    scope.simulated_node("check", &[]).await?;
    let class = scope.unique("check");
    scope.create::<StorageClass>(objects::class(&class, "a.example")).await?;
    let namespace = scope.namespace();
    let says = |expected: &str| -> Result<()> {
        let told = check(scope, namespace)?;
        ensure!(told.contains(expected), "{expected:?} is not in {told}");
        Ok(())
    };
    says("not installed: ")?;

    // The configuration and the Service alone: no Pod, no certificate.
    let rendered = render(&["--set=namespace.create=true", "--skip-tests"])?;
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
    objects.retain(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        kind == "MutatingWebhookConfiguration"
            || kind == "Namespace"
            || (kind == "Service" && object["metadata"]["name"] == "latebind-webhook")
    });
    ensure!(objects.len() == 3, "{objects:#?}");
    for object in &mut objects {
        // A Service with a selector has its endpoints from Pods, and this one's are to be ours.
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("selector");
        }
        apply(scope, object).await?;
    }
    says("not ready: the webhook has no replicas")?;
    says("has no caBundle yet")?;
    apply(scope, &endpoint(NOWHERE, false)).await?;
    says("not ready: 1 replicas of the webhook run and none is ready")?;

    // A replica is ready, and the API server does not get there.
    apply(scope, &endpoint(NOWHERE, true)).await?;
    apply(scope, &endpoints(NOWHERE)).await?;
    // The API server learns of endpoints some time after they were written.
    let mut told = String::new();
    eventually("the API server to have tried", PATIENCE, async || {
        told = check(scope, namespace)?;
        let all = ["unreachable: ", "latebind-system/latebind-webhook, port 443", "docs/compatibility.md"];
        Ok(all.iter().all(|expected| told.contains(expected)).then_some(()))
    })
    .await
    .with_context(|| told.clone())?;

    kubectl(scope, &["label", "namespace", namespace, "latebind.dev/webhook=disabled"]).await?;
    says("exempt: the namespace has the label latebind.dev/webhook=disabled")?;
    kubectl(scope, &["label", "namespace", namespace, "latebind.dev/webhook-"]).await?;
    let told = check(scope, "kube-system")?;
    ensure!(told.contains("exempt: the webhook leaves this namespace alone by its name"), "{told}");
    for what in [["mutatingwebhookconfiguration", "zz-latebind"], ["namespace", NAMESPACE]] {
        kubectl(scope, &["delete", what[0], what[1], "--timeout=60s"]).await.context("cleaning up")?;
    }
    Ok(())
}
