//! A real node on which no Pod could start.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::Api;
use kube::api::ListParams;
use latebind_cluster::{Node, Scope, eventually};
use latebind_test_support::objects::of_claim;
use serde_json::{Value, json};

use crate::nodes::{
    CLASS, PATIENCE, claim, delete_claim, delete_pod, installed, last, ordered, pod, removed, rolled_out,
    without_webhook, written,
};

pub async fn a_node_without_a_place_for_a_pod_still_makes_and_removes(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    without_webhook(scope).await?;
    without_cpu(scope, node).await.context("without CPU")?;
    let outcome = async {
        without_pods(scope, node).await.context("at max pods")?;
        under_disk_pressure(scope, node).await.context("under disk pressure")
    }
    .await;
    node.configure_kubelet(&json!({})).await?;
    settled(scope, node, |object| {
        let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_ref()).map_or(0, Vec::len);
        !is_pressed(object) && taints == 0 && amount(object, "pods").is_some_and(|pods| pods >= 100)
    })
    .await?;
    rolled_out(scope.cluster()?).await?;
    outcome
}

/// A claim comes and goes.
async fn serves(scope: &Scope, node: &Node, name: &str) -> Result<()> {
    let volume = ordered(scope, name, node.name()).await?;
    delete_claim(scope, name).await?;
    removed(scope, &volume, node.name()).await
}

/// A Pod without volumes that names the node.
fn bare(name: &str, node: &Node, cpu: &str) -> Value {
    let mut object = pod(name, Some(node.name()), &json!({ "emptyDir": {} }));
    object["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
    object
}

/// The premise: the kubelet itself takes no other Pod.
async fn turned_away(scope: &Scope, node: &Node, name: &str, reason: &str) -> Result<()> {
    scope.create::<Pod>(bare(name, node, "1m")).await?;
    let failed = scope.pod_phase(name, "Failed", PATIENCE).await?;
    let told = failed.status.and_then(|status| status.reason).unwrap_or_default();
    ensure!(told == reason, "{told}, not {reason}");
    delete_pod(scope, name).await
}

async fn without_cpu(scope: &Scope, node: &Node) -> Result<()> {
    let object = scope.all::<NodeObject>().get(node.name()).await?;
    let taken: i64 = here(scope, node).await?.iter().map(requested).sum();
    let left = amount(&object, "cpu").context("CPU")? - taken;
    scope.create::<Pod>(bare("hog", node, &format!("{left}m"))).await?;
    scope.pod_phase("hog", "Running", PATIENCE).await?;
    turned_away(scope, node, "one-too-many", "OutOfcpu").await?;
    serves(scope, node, "no-cpu").await?;
    delete_pod(scope, "hog").await
}

async fn without_pods(scope: &Scope, node: &Node) -> Result<()> {
    let count = here(scope, node).await?.len();
    node.configure_kubelet(&json!({ "maxPods": count })).await?;
    settled(scope, node, |object| amount(object, "pods") == i64::try_from(count).ok()).await?;
    turned_away(scope, node, "no-place", "OutOfpods").await?;
    serves(scope, node, "no-pods").await
}

/// Its kubelet evicts what it may, and takes nothing but what the node cannot do without.
async fn under_disk_pressure(scope: &Scope, node: &Node) -> Result<()> {
    node.configure_kubelet(&json!({})).await?;
    settled(scope, node, |object| amount(object, "pods").is_some_and(|pods| pods >= 100)).await?;
    // It holds its image, which would be removed from the node to make room.
    claim(scope, "critical", CLASS).await?;
    let mut object = pod("critical", Some(node.name()), &of_claim("critical"));
    object["spec"]["priorityClassName"] = json!("system-node-critical");
    scope.create::<Pod>(object).await?;
    let (volume, _) = written(scope, "critical", "critical").await?;
    let thresholds = json!({ "memory.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        "nodefs.available": "99.9%" });
    node.configure_kubelet(&json!({ "evictionHard": thresholds })).await?;
    settled(scope, node, is_pressed).await?;
    turned_away(scope, node, "no-disk", "Evicted").await?;
    serves(scope, node, "pressed").await?;
    let phase = scope.pod("critical").await?.status.and_then(|status| status.phase);
    ensure!(phase.as_deref() == Some("Running"), "{phase:?}");
    delete_pod(scope, "critical").await?;
    delete_claim(scope, "critical").await?;
    removed(scope, &volume, node.name()).await
}

fn is_pressed(object: &NodeObject) -> bool {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "DiskPressure" && it.status == "True")
}

async fn settled(scope: &Scope, node: &Node, wanted: impl Fn(&NodeObject) -> bool) -> Result<()> {
    eventually("the node to say so", PATIENCE, async || {
        let object = scope.all::<NodeObject>().get(node.name()).await?;
        Ok((wanted(&object) && is_ready(&object)).then_some(()))
    })
    .await
}

fn is_ready(object: &NodeObject) -> bool {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

/// The node's Pods that have not ended.
async fn here(scope: &Scope, node: &Node) -> Result<Vec<Pod>> {
    let on = format!("spec.nodeName={},status.phase!=Succeeded,status.phase!=Failed", node.name());
    Ok(Api::<Pod>::all(scope.client()).list(&ListParams::default().fields(&on)).await?.items)
}

/// What a node can allocate: thousandths of a CPU, or Pods.
fn amount(object: &NodeObject, of: &str) -> Option<i64> {
    let text = &object.status.as_ref()?.allocatable.as_ref()?.get(of)?.0;
    if of == "cpu" { thousandths(text) } else { text.parse().ok() }
}

fn thousandths(text: &str) -> Option<i64> {
    match text.strip_suffix('m') {
        Some(text) => text.parse().ok(),
        None => Some(text.parse::<i64>().ok()? * 1000),
    }
}

fn requested(pod: &Pod) -> i64 {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref()?.requests.as_ref()?;
        thousandths(&requests.get("cpu")?.0)
    };
    pod.spec.iter().flat_map(|spec| &spec.containers).filter_map(of).sum()
}
