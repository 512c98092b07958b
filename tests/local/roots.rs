//! A kubelet with a root of its own, as RKE1 and Talos have it: it does not see the directories that agents make.

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use latebind_cluster::{Node, NodeComponent, Scope, eventually};
use latebind_test_support::local::path_of;
use latebind_test_support::objects::{self, of_claim};
use serde_json::{Value, json};

use crate::nodes::{CLASS, PATIENCE, delete_claim, delete_pod, installed, last, pod, removed, written};

const BASE: &str = "/var/lib/latebind";

pub async fn a_kubelet_that_sees_another_root_runs_pods_of_classes_that_ask_it_for_less(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    let before = Timestamp::now();
    node.hide_from_kubelet(BASE).await?;
    let outcome = match heard(scope, node, before).await {
        Ok(()) => with_hidden_base(scope, node).await,
        unheard => unheard,
    };
    node.stop(NodeComponent::Kubelet).await?;
    let before = Timestamp::now();
    node.start(NodeComponent::Kubelet).await?;
    heard(scope, node, before).await?;
    outcome
}

async fn with_hidden_base(scope: &Scope, node: &Node) -> Result<()> {
    // Those that have it look: it does not see them.
    for (name, parameters, said) in [
        ("sees-local", json!({}), "does not exist"),
        ("sees-directory", json!({ "type": "hostPath" }), "hostPath type check failed"),
    ] {
        claimed(scope, name, parameters, node).await?;
        scope.event(name, "FailedMount", said, PATIENCE).await?;
        ensure!(is_pending(scope, name).await?, "{name} runs");
        delete_pod(scope, name).await?;
        delete_claim(scope, name).await?;
    }
    for (name, kind) in [("makes-its-own", "DirectoryOrCreate"), ("looks-at-nothing", "")] {
        let parameters = json!({ "type": "hostPath", "hostPathType": kind });
        claimed(scope, name, parameters, node).await?;
        // The file is in the node's directory, which the agent made.
        let (volume, on) = written(scope, name, name).await?;
        ensure!(on == node.name(), "it runs on {on}");
        delete_pod(scope, name).await?;
        delete_claim(scope, name).await?;
        removed(scope, &volume, node.name()).await?;
        ensure!(path_of(&volume).starts_with(BASE), "{volume:?}");
    }
    Ok(())
}

/// A class, a claim and a Pod of this name; the volume is there when the Pod waits for it.
async fn claimed(scope: &Scope, name: &str, parameters: Value, node: &Node) -> Result<()> {
    let class = scope.unique(name);
    let parameters = objects::with(json!({ "pool": CLASS }), &parameters);
    let object = objects::with(objects::class(&class, "local.latebind.dev"), &json!({ "parameters": parameters }));
    scope.create::<StorageClass>(object).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim(name, &class, "1Mi")).await?;
    scope.create::<Pod>(pod(name, Some(node.name()), &of_claim(name))).await?;
    scope.claim_phase(name, "Bound", PATIENCE).await.map(drop)
}

async fn is_pending(scope: &Scope, name: &str) -> Result<bool> {
    Ok(scope.pod(name).await?.status.and_then(|status| status.phase).as_deref() == Some("Pending"))
}

/// The kubelet has renewed its Lease since: it does so when it starts. Its Node says when at its next change, which may be
/// minutes later, and in whole seconds.
async fn heard(scope: &Scope, node: &Node, since: Timestamp) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(scope.client(), "kube-node-lease");
    eventually("the kubelet to be heard", PATIENCE, async || {
        let renewed = leases.get(node.name()).await?.spec.and_then(|spec| spec.renew_time);
        ensure!(renewed.as_ref().is_some_and(|time| time.0 >= since), "heard last at {renewed:?}, not since {since}");
        Ok(Some(()))
    })
    .await
}
