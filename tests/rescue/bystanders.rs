//! Rows of the truth table in which the claim's fate is somebody else's, and those whose rule is about which class or
//! which Pod counts.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::process::{deeds, share, writes};
use crate::rows::untouched;
use crate::stage::*;

async fn claim_of(scope: &Scope, name: &str, metadata: Value, spec: Value) -> Result<()> {
    let mut object = json!({"metadata": {"name": name}, "spec": claim_spec("", "1Gi")});
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        if let (Some(part), Value::Object(more)) = (object[part].as_object_mut(), more) {
            part.extend(more);
        }
    }
    scope.create::<PersistentVolumeClaim>(object).await.map(drop)
}

/// Row 9: without a class a claim takes any fitting volume at once, and needs nobody.
pub async fn a_claim_without_a_class_is_left_to_the_controller_manager(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    claim_of(scope, "waits", json!({}), json!({"resources": {"requests": {"storage": "9Pi"}}})).await?;
    stuck(scope, "app", node.name(), &["waits"]).await?;
    untouched(scope, "waits").await
}

/// Row 12: the annotation of old wins over the field, on claims and on volumes.
pub async fn the_class_annotation_wins(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let annotated = |class: &str| json!({"annotations": {"volume.beta.kubernetes.io/storage-class": class}});
    claim_of(scope, "made", annotated(&made), json!({"storageClassName": null})).await?;
    stuck(scope, "made", node.name(), &["made"]).await?;
    let claim = selected(scope, "made").await?;
    ensure!(claim.metadata.annotations.unwrap_or_default().get(SELECTED_NODE).map(String::as_str) == Some(node.name()));

    let disk = volume(scope, "disk", &fixed, node.name(), "1Gi").await?;
    claim_of(scope, "fixed", annotated(&fixed), json!({"storageClassName": null})).await?;
    stuck(scope, "fixed", node.name(), &["fixed"]).await?;
    ensure!(bound_to(scope, "fixed").await? == disk);
    Ok(())
}

/// Row 13: somebody has ordered a volume for this very node.
pub async fn an_order_for_the_same_node_stands(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    annotate(scope, "data", json!({SELECTED_NODE: node.name()})).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    provision(scope, "data").await?;
    bound_to(scope, "data").await?;
    ensure!(!scope.claim("data").await?.metadata.annotations.unwrap_or_default().contains_key(SELECTED_BY));
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "data")? == 0);
    Ok(())
}

/// Row 17: a volume that names the claim is bound without anybody's help; one that another node alone reaches is told of.
pub async fn a_volume_that_names_the_claim_is_enough(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "static", NO_PROVISIONER).await?;
    for (name, at) in [("here", &node), ("elsewhere", &other)] {
        let volume = reserved_volume(scope, name, &class, at.name()).await?;
        claim(scope, name, &class, "1Gi").await?;
        stuck(scope, &format!("app-{name}"), node.name(), &[name]).await?;
        ensure!(bound_to(scope, name).await? == volume);
        ensure!(writes(scope.cluster()?, "persistentvolumes", "", &volume)? == 0);
        ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), name)? == 0);
    }
    scope.event("app-elsewhere", "BoundElsewhere", "LB004", PATIENCE).await.map(drop)
}

/// Row 18: a claim that names its volume waits for that one alone.
pub async fn a_claim_that_names_its_volume_is_left_alone(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let other = volume(scope, "other", &class, node.name(), "1Gi").await?;
    claim_of(scope, "data", json!({}), json!({"storageClassName": class, "volumeName": scope.unique("named")})).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    untouched(scope, "data").await?;
    ensure!(writes(scope.cluster()?, "persistentvolumes", "", &other)? == 0);
    let named = new_volume(scope, "named", &class, node.name(), "1Gi").await?;
    ensure!(bound_to(scope, "data").await? == named);
    ensure!(writes(scope.cluster()?, "persistentvolumes", "", &named)? == 0);
    Ok(())
}

/// Row 20: what was in the volume is gone, and no write brings it back.
pub async fn a_claim_that_lost_its_volume_is_told_of(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let disk = reserved_volume(scope, "data", &class, node.name()).await?;
    claim(scope, "data", &class, "1Gi").await?;
    bound_to(scope, "data").await?;
    let volumes = scope.all::<PersistentVolume>();
    volumes.delete(&disk, &DeleteParams::default()).await?;
    let lift = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    volumes.patch(&disk, &kube::api::PatchParams::default(), &lift).await?;
    scope.claim_phase("data", "Lost", PATIENCE).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    scope.event("app", "ClaimLost", "LB010", PATIENCE).await?;
    untouched(scope, "data").await
}

/// Row 21: one Pod alone may use it; nobody does yet.
pub async fn a_claim_for_one_pod_is_served(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOncePod"]});
    claim_of(scope, "data", json!({}), spec).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    selected(scope, "data").await.map(drop)
}

/// Row 26: volumes that are no claims wait for nothing.
pub async fn other_volumes_are_of_no_interest(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    scope.create::<ConfigMap>(json!({"metadata": {"name": "settings"}, "data": {"a": "b"}})).await?;
    let mounts: Vec<Value> =
        ["a", "b", "c"].into_iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
    let spec = json!({
        "nodeName": node.name(),
        "containers": [{"name": "main", "image": "none.invalid/none", "volumeMounts": mounts}],
        "volumes": [
            {"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "settings"}},
            {"name": "c", "hostPath": {"path": "/tmp"}},
        ],
    });
    scope.create::<Pod>(json!({"metadata": {"name": "app"}, "spec": spec})).await?;
    acknowledge(scope, "app").await?;
    // A Pod that is served after it shows that this one has been looked at.
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "later", node.name(), &["data"]).await?;
    selected(scope, "data").await?;
    scope.event("later", "SelectedNode", "data", PATIENCE).await?;
    ensure!(scope.events("app").await?.is_empty());
    let here = |name: &str| name != "data";
    let written = deeds(scope.cluster()?)?;
    let beside: Vec<_> = written
        .iter()
        .filter(|deed| deed.namespace == scope.namespace() && deed.verb == "patch" && here(&deed.name))
        .filter(|deed| deed.resource != "events")
        .collect();
    ensure!(beside.is_empty(), "{beside:?}");
    Ok(())
}

/// Row 22: the first of two nodes has the volume; the Pod of the other one is told, and nothing more is written.
pub async fn a_claim_of_two_nodes_is_bound_for_one_of_them(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (first, second) = (scope.simulated_node("first", &[]).await?, scope.simulated_node("second", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app-1", first.name(), &["data"]).await?;
    selected(scope, "data").await?;
    stuck(scope, "app-2", second.name(), &["data"]).await?;
    provision(scope, "data").await?;
    bound_to(scope, "data").await?;
    scope.event("app-2", "BoundElsewhere", "LB004", PATIENCE).await?;
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "data")? == 1);
    Ok(())
}

/// A volume of the node that names the claim, which does not exist yet.
async fn reserved_volume(scope: &Scope, claim: &str, class: &str, node: &str) -> Result<String> {
    let name = scope.unique(&format!("for-{claim}"));
    let reference = json!({"spec": {"claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": scope.namespace(), "name": claim,
    }}});
    scope.create::<PersistentVolume>(objects::with(objects::volume(&name, class, node, "1Gi"), &reference)).await?;
    let volumes = scope.all::<PersistentVolume>();
    eventually("the volume to be seen", PATIENCE, async || {
        Ok(volumes.get(&name).await?.status.and_then(|status| status.phase).map(drop))
    })
    .await?;
    Ok(name)
}
