//! A kubelet with a root of its own, as RKE1 and Talos have it: it does not see the directories that agents make.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind_cluster::{Node, NodeComponent, Scope, eventually};
use latebind_test_support::local::path_of;
use latebind_test_support::objects::{self, of_claim};
use serde_json::{Value, json};

use crate::nodes::{CLASS, PATIENCE, delete_claim, delete_pod, installed, last, pod, removed, written};

const BASE: &str = "/var/lib/latebind";

pub async fn a_kubelet_that_sees_another_root_runs_pods_of_classes_that_ask_it_for_less(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    node.hide_from_kubelet(BASE).await?;
    let outcome = with_hidden_base(scope, node).await;
    node.stop(NodeComponent::Kubelet).await?;
    node.start(NodeComponent::Kubelet).await?;
    ready(scope, node).await?;
    outcome
}

async fn with_hidden_base(scope: &Scope, node: &Node) -> Result<()> {
    ready(scope, node).await?;
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

/// The kubelet that was started last has said that its node is ready.
async fn ready(scope: &Scope, node: &Node) -> Result<()> {
    let since = k8s_openapi::jiff::Timestamp::now();
    eventually("the kubelet to be heard", PATIENCE, async || {
        let found = scope.all::<NodeObject>().get(node.name()).await?;
        let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().find(|it| it.type_ == "Ready" && it.status == "True");
        let heard = ready.and_then(|it| it.last_heartbeat_time.as_ref()).is_some_and(|time| time.0 >= since);
        ensure!(heard, "{} is not ready", found.metadata.name.unwrap_or_default());
        Ok(Some(()))
    })
    .await
}
