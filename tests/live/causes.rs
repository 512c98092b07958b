//! Causes that take more than a claim and a Pod: each is made on a real control plane, named, and the command that is printed
//! is typed. What a kubelet says is written by hand, since nodes are simulated.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind_cluster::{Component, Scope, eventually};
use latebind_test_support::objects::{self, NO_PROVISIONER, SELECTED_NODE, named, on_node, pinned_to, with};
use serde_json::{Value, json};

use crate::shared::{PATIENCE, cause, claim, class, pod, typed, volume};

/// The cause is found, and the first command that is printed shows what it says.
async fn shows(scope: &Scope, object: &str, wanted: &str, text: &str) -> Result<Value> {
    let found = cause(scope, object, wanted, PATIENCE).await?;
    let command = found["next"][0]["command"].as_str().with_context(|| format!("no command: {found:#}"))?;
    let shown = typed(scope, command)?;
    ensure!(shown.contains(text), "{command}: {text:?} is not in {shown}");
    Ok(found)
}

async fn change<K>(scope: &Scope, name: &str, change: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    scope.all::<K>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
    Ok(())
}

/// A claim that is bound to a volume of the node.
async fn bound(scope: &Scope, name: &str, class: &str, node: &str) -> Result<String> {
    let reserved = json!({"spec": {"claimRef": {"namespace": scope.namespace(), "name": name}}});
    let volume = volume(scope, name, class, node, "1Gi", reserved).await?;
    claim(scope, name, class, json!({})).await?;
    scope.claim_phase(name, "Bound", PATIENCE).await?;
    Ok(volume)
}

pub async fn what_keeps_a_pod_from_nodes_is_told_by_its_kind(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let on = |name: &str, volumes: &[Value]| pinned_to(objects::pod(name, volumes), node.name());
    let demanding = json!({"resources": {"requests": {"cpu": "1000"}}});
    let mut greedy = on("greedy", &[]);
    greedy["spec"]["containers"][0] = with(greedy["spec"]["containers"][0].clone(), &demanding);
    scope.create::<Pod>(greedy).await?;
    let found = shows(scope, "pod/greedy", "Unplaced", "Insufficient cpu").await?;
    ensure!(found["summary"].to_string().contains("Insufficient cpu"), "{found:#}");

    let gated = with(on("gated", &[]), &json!({"spec": {"schedulingGates": [{"name": "example.com/wait"}]}}));
    scope.create::<Pod>(gated).await?;
    shows(scope, "pod/gated", "Gated", "example.com/wait").await?;

    let device = json!({"metadata": {"name": scope.unique("device")}, "spec": {}});
    scope.create::<DeviceClass>(device).await?;
    let requests = json!([{"name": "one", "exactly": {"deviceClassName": scope.unique("device")}}]);
    let wanted = json!({"metadata": {"name": "accelerator"}, "spec": {"devices": {"requests": requests}}});
    scope.create::<ResourceClaim>(wanted).await?;
    let uses = json!({"spec": {"resourceClaims": [{"name": "one", "resourceClaimName": "accelerator"}]}});
    scope.create::<Pod>(with(on("accelerated", &[]), &uses)).await?;
    shows(scope, "pod/accelerated", "DevicesNotAllocated", "accelerator").await?;

    let taint = json!({"spec": {"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]}});
    change::<Node>(scope, node.name(), taint).await?;
    scope.create::<Pod>(on("kept-away", &[])).await?;
    shows(scope, "pod/kept-away", "NodesTainted", "dedicated").await?;
    Ok(())
}

pub async fn what_a_driver_says_of_nodes_is_told(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let driver = scope.unique("csi.example.com");
    let installed = json!({"metadata": {"name": driver}, "spec": {"storageCapacity": true, "attachRequired": false}});
    scope.create::<CSIDriver>(installed).await?;
    let holds = json!([{"name": driver, "nodeID": "n", "topologyKeys": [], "allocatable": {"count": 1}}]);
    let registered = json!({"metadata": {"name": node.name()}, "spec": {"drivers": holds}});
    scope.create::<CSINode>(registered).await?;
    let made = class(scope, "made", &driver, "WaitForFirstConsumer").await?;
    let room = json!({"metadata": {"name": "room"}, "storageClassName": made, "nodeTopology": {}, "capacity": "1Mi"});
    scope.create::<CSIStorageCapacity>(room).await?;
    claim(scope, "large", &made, json!({})).await?;
    scope.create::<Pod>(pinned_to(objects::pod("large", &[named("data", "large")]), node.name())).await?;
    shows(scope, "pod/large", "NoCapacity", &made).await?;

    // Volumes of the driver: the node holds one.
    for name in ["first", "second"] {
        let source = json!({"spec": {"local": null, "csi": {"driver": driver, "volumeHandle": name},
            "claimRef": {"namespace": scope.namespace(), "name": name}}});
        volume(scope, name, &made, node.name(), "1Gi", source).await?;
        claim(scope, name, &made, json!({})).await?;
        scope.claim_phase(name, "Bound", PATIENCE).await?;
        scope.create::<Pod>(pinned_to(objects::pod(name, &[named("data", name)]), node.name())).await?;
        if name == "first" {
            eventually("the first to be placed", PATIENCE, async || {
                Ok(scope.pod(name).await?.spec.and_then(|spec| spec.node_name).map(drop))
            })
            .await?;
        }
    }
    shows(scope, "pod/second", "VolumeLimit", node.name()).await?;
    Ok(())
}

pub async fn what_a_kubelet_says_of_a_pod_is_told(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    bound(scope, "data", &fixed, node.name()).await?;
    pod(scope, "rejected", "data", json!({"nodeName": node.name()})).await?;
    let failed =
        json!({"status": {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource"}});
    scope.api::<Pod>().patch_status("rejected", &PatchParams::default(), &Patch::Merge(failed)).await?;
    let found = shows(scope, "pod/rejected", "Rejected", "OutOfcpu").await?;
    ensure!(found["summary"].to_string().contains("OutOfcpu"), "{found:#}");

    let mounting = pod(scope, "mounting", "data", json!({"nodeName": node.name()})).await?;
    cause(scope, "pod/mounting", "Starting", PATIENCE).await?;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let event = json!({
        "metadata": {"name": "mounting.1"}, "type": "Warning", "reason": "FailedMount", "count": 1,
        "message": "MountVolume.SetUp failed for volume: wrong fs type", "firstTimestamp": now, "lastTimestamp": now,
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": scope.namespace(), "name": "mounting",
            "uid": mounting.metadata.uid},
    });
    scope.create::<Event>(event).await?;
    shows(scope, "pod/mounting", "MountFails", "wrong fs type").await?;

    pod(scope, "lost", "data", json!({"nodeName": scope.unique("never-was")})).await?;
    shows(scope, "pod/lost", "NodeGone", node.name()).await?;

    node.fall_silent();
    let silent = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no"}]}});
    scope.all::<Node>().patch_status(node.name(), &PatchParams::default(), &Patch::Merge(silent)).await?;
    shows(scope, "pod/mounting", "NodeNotReady", "KubeletNotReady").await?;
    cause(scope, &format!("node/{}", node.name()), "NodeNotReady", PATIENCE).await?;
    Ok(())
}

pub async fn claims_that_pinned_pods_cannot_use_are_told_apart(scope: &Scope) -> Result<()> {
    let (here, there) = (scope.simulated_node("here", &[]).await?, scope.simulated_node("there", &[]).await?);
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let made = class(scope, "made", "nobody.example.com", "WaitForFirstConsumer").await?;
    let pinned = json!({"nodeName": here.name()});

    claim(scope, "nowhere", &fixed, json!({})).await?;
    pod(scope, "nowhere", "nowhere", pinned.clone()).await?;
    shows(scope, "pod/nowhere", "NoVolume", "NAME").await?;

    claim(scope, "ordered", &made, json!({"metadata": {"annotations": {SELECTED_NODE: there.name()}}})).await?;
    cause(scope, "pvc/ordered", "OnOrder", PATIENCE).await?;
    pod(scope, "ordered", "ordered", pinned.clone()).await?;
    shows(scope, "pod/ordered", "SelectedElsewhere", there.name()).await?;

    let zones = json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["zone-9"]}]}]);
    let zonal = scope.unique("zonal");
    let of_zone = with(objects::class(&zonal, "nobody.example.com"), &json!({"allowedTopologies": zones}));
    scope.create::<StorageClass>(of_zone).await?;
    claim(scope, "zonal", &zonal, json!({})).await?;
    pod(scope, "zonal", "zonal", pinned.clone()).await?;
    shows(scope, "pod/zonal", "TopologyExcluded", "zone-9").await?;

    // A claim of the name that an ephemeral volume's would have.
    claim(scope, "temporary-scratch", &made, json!({})).await?;
    let scratch =
        json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": objects::claim_spec(&made, "1Gi")}}});
    scope.create::<Pod>(on_node(objects::pod("temporary", &[scratch]), here.name())).await?;
    shows(scope, "pod/temporary", "ForeignClaim", "temporary-scratch").await?;

    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    claim(scope, "going", &made, held).await?;
    scope.api::<PersistentVolumeClaim>().delete("going", &DeleteParams::default()).await?;
    let told = shows(scope, "pvc/going", "ClaimDeleting", "going").await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    scope.api::<PersistentVolumeClaim>().patch("going", &PatchParams::default(), &free).await?;
    told.map(drop)
}

pub async fn volumes_that_are_gone_or_kept_are_told(scope: &Scope) -> Result<()> {
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let never = scope.unique("never-was");
    let unreachable = bound(scope, "stranded", &fixed, &never).await?;
    pod(scope, "stranded", "stranded", json!({})).await?;
    for object in ["pod/stranded", &format!("pv/{unreachable}")] {
        shows(scope, object, "VolumeNodeGone", &never).await?;
    }

    let name = bound(scope, "lost", &fixed, &never).await?;
    scope.all::<PersistentVolume>().delete(&name, &DeleteParams::default()).await?;
    change::<PersistentVolume>(scope, &name, json!({"metadata": {"finalizers": null}})).await?;
    scope.claim_phase("lost", "Lost", PATIENCE).await?;
    shows(scope, "pvc/lost", "ClaimLost", "lost").await?;

    // Nobody can delete what was made by hand.
    let kept = bound(scope, "kept", &fixed, &never).await?;
    change::<PersistentVolume>(scope, &kept, json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})).await?;
    scope.api::<PersistentVolumeClaim>().delete("kept", &DeleteParams::default()).await?;
    shows(scope, &format!("pv/{kept}"), "VolumeKept", &kept).await?;
    Ok(())
}

pub async fn a_provisioner_whose_lease_ran_out_does_not_run(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let provisioner = scope.unique("gone.example.com");
    let made = class(scope, "made", &provisioner, "WaitForFirstConsumer").await?;
    let long_ago = k8s_openapi::jiff::Timestamp::now() - Duration::from_secs(3600);
    let lease = json!({"metadata": {"name": provisioner}, "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 15,
        "renewTime": format!("{long_ago:.6}")}});
    scope.create::<Lease>(lease).await?;
    claim(scope, "data", &made, json!({"metadata": {"annotations": {SELECTED_NODE: node.name()}}})).await?;
    let found = cause(scope, "pvc/data", "ProvisionerMissing", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("was last renewed"), "{found:#}");
    typed(
        scope,
        found["next"].as_array().and_then(|next| next.last()).and_then(|it| it["command"].as_str()).context("none")?,
    )?;
    Ok(())
}

/// While nobody binds, a claim and a volume that name each other are about to be bound.
pub async fn a_pair_that_is_about_to_be_bound_is_told(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let node = scope.simulated_node("node", &[]).await?;
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = volume(scope, "disk", &fixed, node.name(), "1Gi", json!({})).await?;
    eventually("the volume to be available", PATIENCE, async || {
        let phase = scope.all::<PersistentVolume>().get(&name).await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Available")).then_some(()))
    })
    .await?;
    cluster.pause(Component::ControllerManager).await?;
    let told = async {
        claim(scope, "data", &fixed, json!({"spec": {"volumeName": name}})).await?;
        pod(scope, "app", "data", json!({"nodeName": node.name()})).await?;
        shows(scope, "pvc/data", "BindingInProgress", &name).await
    }
    .await;
    cluster.resume(Component::ControllerManager).await?;
    told?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    scope
        .api::<Pod>()
        .delete("app", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await?;
    cause(scope, "pvc/data", "Healthy", PATIENCE).await?;
    Ok(())
}
