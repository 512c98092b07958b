//! What admission must know besides the Pod's claims: Pods that keep others away, and ResourceClaims.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use latebind::binding::PinStyle;
use latebind_cluster::{Scope, SimulatedNode, eventually};
use latebind_test_support::objects;
use latebind_test_support::provisioner::PROVISIONER;
use serde_json::{Value, json};

use crate::installed::{Installed, is_called};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node, a class, a claim that waits, and a webhook that is called.
async fn ground(scope: &Scope, name: &str) -> Result<(SimulatedNode, Installed, Api<Pod>)> {
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    let node = scope.simulated_node(name, &[]).await?;
    let class = scope.unique(name);
    scope.create::<StorageClass>(objects::class(&class, PROVISIONER)).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("data", &class, "1Gi")).await?;
    let pods: Api<Pod> = scope.api();
    is_called(&pods, &waiting(&node, "probe", &json!({}))?).await?;
    Ok((node, installed, pods))
}

/// A Pod on the node that waits for the claim.
fn waiting(node: &SimulatedNode, name: &str, change: &Value) -> Result<Pod> {
    let pod = objects::on_node(objects::pod(name, &[objects::of_claim("data")]), node.name());
    Ok(serde_json::from_value(objects::with(pod, change))?)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Tries the Pod until it keeps its node name, or loses it.
async fn becomes(pods: &Api<Pod>, pod: &Pod, kept: bool) -> Result<()> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let what = if kept { "the Pod to keep its node name" } else { "the Pod to be rewritten" };
    eventually(what, PATIENCE, async || Ok((node_of(&pods.create(&dry, pod).await?).is_some() == kept).then_some(())))
        .await
}

pub async fn a_pod_that_keeps_others_away_is_known(scope: &Scope) -> Result<()> {
    let (node, installed, pods) = ground(scope, "repelled").await?;
    let web = waiting(&node, "web", &json!({"metadata": {"labels": {"app": "web"}}}))?;
    becomes(&pods, &web, false).await?;
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scope.namespace()}}});
    let other = objects::with(
        objects::on_node(objects::pod("other", &[]), node.name()),
        &json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
    );
    pods.create(&PostParams::default(), &serde_json::from_value(other)?).await?;
    becomes(&pods, &web, true).await?;
    becomes(&pods, &waiting(&node, "db", &json!({"metadata": {"labels": {"app": "db"}}}))?, false).await?;
    pods.delete("other", &DeleteParams::default().grace_period(0)).await?;
    becomes(&pods, &web, false).await?;
    installed.remove().await
}

/// A driver's class and one device of it on the node, as the driver publishes them.
async fn devices(scope: &Scope, node: &SimulatedNode) -> Result<String> {
    let driver = format!("{}.example.com", node.name());
    let selector = json!({"cel": {"expression": format!("device.driver == {driver:?}")}});
    scope.create::<DeviceClass>(json!({"metadata": {"name": driver}, "spec": {"selectors": [selector]}})).await?;
    let names: Vec<Value> = (0..4).map(|place| json!({"name": format!("gpu-{place}")})).collect();
    scope
        .create::<ResourceSlice>(json!({"metadata": {"name": node.name()}, "spec": {
            "driver": driver, "nodeName": node.name(), "devices": names,
            "pool": {"name": node.name(), "generation": 1, "resourceSliceCount": 1}}}))
        .await?;
    Ok(driver)
}

/// Who names its node waits for devices, with a claim and without one; who is rewritten gets them there.
pub async fn devices_are_allocated_to_pods_that_are_rewritten(scope: &Scope) -> Result<()> {
    let pods: Api<Pod> = scope.api();
    let claims: Api<ResourceClaim> = scope.api();
    let spec =
        |driver: &str| json!({"devices": {"requests": [{"name": "one", "exactly": {"deviceClassName": driver}}]}});
    let left = scope.simulated_node("left-alone", &[]).await?;
    let driver = devices(scope, &left).await?;
    let with_device = |node: &SimulatedNode, name: &str, entry: Value| -> Result<Pod> {
        let pod = objects::on_node(objects::pod(name, &[]), node.name());
        let entry = json!({"spec": {"resourceClaims": [entry]}});
        Ok(serde_json::from_value(objects::with(pod, &entry))?)
    };
    // Before latebind is there: nobody allocates the device.
    scope.create::<ResourceClaim>(json!({"metadata": {"name": "left"}, "spec": spec(&driver)})).await?;
    let entry = json!({"name": "gpu", "resourceClaimName": "left"});
    pods.create(&PostParams::default(), &with_device(&left, "left", entry)?).await?;

    let (node, installed, _) = ground(scope, "devices").await?;
    let driver = devices(scope, &node).await?;
    scope.create::<ResourceClaim>(json!({"metadata": {"name": "named"}, "spec": spec(&driver)})).await?;
    let entry = json!({"name": "gpu", "resourceClaimName": "named"});
    let named = pods.create(&PostParams::default(), &with_device(&node, "named", entry)?).await?;
    // The template is milliseconds older than the Pod.
    scope
        .create::<ResourceClaimTemplate>(json!({"metadata": {"name": "each"}, "spec": {"spec": spec(&driver)}}))
        .await?;
    let entry = json!({"name": "gpu", "resourceClaimTemplateName": "each"});
    let made = pods.create(&PostParams::default(), &with_device(&node, "made", entry)?).await?;
    for pod in [&named, &made] {
        ensure!(node_of(pod).is_none(), "{} was not rewritten", pod.name_any());
        eventually("the Pod to be on the node that it named", PATIENCE, async || {
            let pod = pods.get(&pod.name_any()).await?;
            Ok((node_of(&pod) == Some(node.name())).then_some(()))
        })
        .await?;
    }
    for claim in claims.list(&kube::api::ListParams::default()).await? {
        let status = claim.status.as_ref().context("a ResourceClaim has a status")?;
        let allocated = status.allocation.is_some() && status.reserved_for.iter().flatten().next().is_some();
        ensure!(allocated == (claim.name_any() != "left"), "{}: {status:?}", claim.name_any());
    }
    installed.remove().await
}
