//! On real nodes: a Pod that exists and is stuck starts once its claim is bound, and its file is on the right node.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::objects::{self, of_claim};
use serde_json::{Value, json};

use crate::process::{Rescuer, leave, writes};
use crate::stage::*;

/// A Pod that writes a file to each of its volumes.
fn writing(name: &str, node: &str, volumes: &[Value], cpu: &str) -> Value {
    let script =
        format!("for volume in {}; do echo {name} > /$volume/file || exit 1; done; sleep 3600", names(volumes));
    let mut pod = objects::on_node(objects::running(objects::pod(name, volumes), &script), node);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

fn names(volumes: &[Value]) -> String {
    volumes.iter().filter_map(|volume| volume["name"].as_str()).collect::<Vec<_>>().join(" ")
}

/// A volume that is a directory of the node; of a claim's own if one is given.
async fn directory(
    scope: &Scope,
    name: &str,
    class: &str,
    node: &str,
    claim: Option<&PersistentVolumeClaim>,
) -> Result<String> {
    let path = format!("/var/lib/latebind-test/{name}");
    let mut object = objects::volume(name, class, node, "1Gi");
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("local");
        spec.insert("hostPath".to_owned(), json!({"path": path, "type": "DirectoryOrCreate"}));
    }
    if let Some(claim) = claim {
        object["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": PROVISIONER});
        object["spec"]["claimRef"] = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
        });
    }
    scope.create::<PersistentVolume>(object).await?;
    Ok(path)
}

/// A Pod of each row that rescue fixes, and its claim: the row's number, the Pod, the claim, who makes the volume.
const ROWS: [(u8, &str, &str, From); 10] = [
    (1, "late", "late", From::Order),
    (4, "made", "made", From::Order),
    (5, "kept", "kept", From::Disk),
    (6, "fixed", "fixed", From::Disk),
    (12, "annotated", "annotated", From::Order),
    (14, "poisoned", "poisoned", From::Disk),
    (16, "moved", "moved", From::Order),
    (22, "first", "shared", From::Order),
    (23, "scratch", "scratch-own", From::Order),
    (25, "set-0", "of-set-0", From::Order),
];

/// Where a row's volume comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// The test makes it when a node is selected, as a provisioner would.
    Order,
    /// It is there.
    Disk,
}

/// Every row that says "works": the Pod was created while latebind was away, and runs once it is back, with its file on
/// the node that it names.
pub async fn existing_pods_start(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let (node, other) = (cluster.nodes().first().context("a node")?, cluster.nodes().get(1).context("two nodes")?);
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    // One disk that a provisioner made earlier, and one for each static claim.
    let kept = class(scope, "kept", PROVISIONER).await?;
    directory(scope, &scope.unique("kept"), &kept, node.name(), None).await?;
    for stem in ["disk-1", "disk-2", "disk-3"] {
        directory(scope, &scope.unique(stem), &fixed, node.name(), None).await?;
    }
    for (name, class) in
        [("made", &made), ("kept", &kept), ("fixed", &fixed), ("poisoned", &fixed), ("moved", &made), ("shared", &made)]
    {
        claim(scope, name, class, "1Gi").await?;
    }
    let annotated = json!({"metadata": {
        "name": "annotated", "annotations": {"volume.beta.kubernetes.io/storage-class": made},
    }, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    scope.create::<PersistentVolumeClaim>(annotated).await?;
    annotate(scope, "poisoned", json!({SELECTED_NODE: node.name()})).await?;
    annotate(scope, "moved", json!({SELECTED_NODE: "node-that-never-was"})).await?;
    for name in ["late", "made", "kept", "fixed", "annotated", "poisoned", "moved"] {
        scope.create::<Pod>(writing(name, node.name(), &[of_claim(name)], "1m")).await?;
    }
    let ephemeral =
        |class: &str| json!({"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(class, "1Gi")}}});
    scope.create::<Pod>(writing("scratch", node.name(), &[ephemeral(&made)], "1m")).await?;
    // Row 24.
    scope.create::<Pod>(writing("fixture", node.name(), &[ephemeral(&fixed)], "1m")).await?;
    scope.create::<Pod>(writing("first", node.name(), &[of_claim("shared")], "1m")).await?;
    // Creation times have seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    scope.create::<Pod>(writing("second", other.name(), &[of_claim("shared")], "1m")).await?;
    stateful_set(scope, node.name(), &made).await?;

    let pods: Vec<&str> = ROWS.iter().map(|row| row.1).chain(["fixture", "second"]).collect();
    // As it is without latebind: the kubelet has seen them, and they wait forever.
    for name in &pods {
        eventually("the kubelet to see the Pod", PATIENCE, async || {
            let pod = scope.api::<Pod>().get_opt(name).await?;
            Ok(pod.and_then(|pod| pod.status?.start_time).map(drop))
        })
        .await?;
    }
    holds_for("the Pods to be stuck", QUIET, async || {
        let mut phases = Vec::new();
        for name in &pods {
            phases.push(scope.pod(name).await?.status.and_then(|status| status.phase));
        }
        ensure!(phases.iter().all(|phase| phase.as_deref() == Some("Pending")), "{phases:?}");
        Ok(phases)
    })
    .await?;

    let rescuer = Rescuer::start(cluster, &[]).await?;
    claim(scope, "late", &made, "1Gi").await?;
    for (row, pod, name, from) in ROWS.into_iter().chain([(24, "fixture", "fixture-own", From::Disk)]) {
        if from == From::Order {
            let claim = ordered(scope, name, node.name()).await.with_context(|| format!("row {row}"))?;
            let volume = format!("pvc-{}", claim.uid().unwrap_or_default());
            directory(scope, &volume, &made, node.name(), Some(&claim)).await?;
        }
        let volume = bound_to(scope, name).await.with_context(|| format!("row {row}"))?;
        scope.pod_phase(pod, "Running", PATIENCE * 2).await.with_context(|| format!("row {row}"))?;
        let volume = scope.all::<PersistentVolume>().get(&volume).await?;
        let path = volume.spec.and_then(|spec| spec.host_path).context("a directory")?.path;
        let cat = format!("cat {path}/file");
        let text = eventually("the Pod's file", PATIENCE, async || node.shell(&cat).await.map(Some)).await;
        let text = text.with_context(|| format!("row {row}"))?;
        ensure!(text.trim() == pod, "row {row}: {path}: {text}");
        let written = writes(cluster, "persistentvolumeclaims", scope.namespace(), name)?;
        ensure!(written == usize::from(from == From::Order), "row {row}: {written} writes");
    }
    // The volume is where the older Pod is, and the other node cannot reach it.
    scope.event("second", "BoundElsewhere", "LB004", PATIENCE).await?;
    rescuer.signal("TERM").await
}

async fn stateful_set(scope: &Scope, node: &str, class: &str) -> Result<()> {
    let mut template = writing("set-0", node, &[of_claim("of")], "1m")["spec"].clone();
    template["volumes"] = json!([]);
    let set = json!({"metadata": {"name": "set"}, "spec": {
        "serviceName": "none", "replicas": 1, "selector": {"matchLabels": {"app": "set"}},
        "template": {"metadata": {"labels": {"app": "set"}}, "spec": template},
        "volumeClaimTemplates": [{"metadata": {"name": "of"}, "spec": claim_spec(class, "1Gi")}],
    }});
    scope.create::<StatefulSet>(set).await.map(drop)
}

/// The claim, once this node is selected for it.
async fn ordered(scope: &Scope, name: &str, node: &str) -> Result<PersistentVolumeClaim> {
    eventually(&format!("node {node} on claim {name}"), PATIENCE, async || {
        let Some(claim) = scope.api::<PersistentVolumeClaim>().get_opt(name).await? else { return Ok(None) };
        Ok((claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(node)).then_some(claim))
    })
    .await
}

/// What a real kubelet rejects (too little CPU, a selector that excludes the node) does not pin its claim.
pub async fn pods_that_a_kubelet_rejects_pin_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = cluster.nodes().first().context("a node")?;
    let rescuer = Rescuer::start(cluster, &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "cpu", &class, "1Gi").await?;
    claim(scope, "selector", &class, "1Gi").await?;
    scope.create::<Pod>(writing("cpu", node.name(), &[of_claim("cpu")], "9999")).await?;
    let mut excluded = writing("selector", node.name(), &[of_claim("selector")], "1m");
    excluded["spec"]["nodeSelector"] = json!({"test.example.com/no": "where"});
    scope.create::<Pod>(excluded).await?;
    for (name, reason) in [("cpu", "OutOfcpu"), ("selector", "NodeAffinity")] {
        let pod = scope.pod_phase(name, "Failed", PATIENCE).await?;
        let said = pod.status.and_then(|status| status.reason).unwrap_or_default();
        ensure!(said == reason, "{said}");
    }
    for name in ["cpu", "selector"] {
        crate::rows::untouched(scope, name).await?;
        scope.api::<Pod>().delete(name, &DeleteParams::default()).await?;
    }
    rescuer.signal("TERM").await
}
