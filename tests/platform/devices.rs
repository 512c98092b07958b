//! Devices (dynamic resource allocation) with a real driver beside a real kubelet.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::devices;
use serde_json::{Value, json};

use crate::objects::{AT_ONCE, PATIENCE, pod_on};

const NODE: &str = "node-a";

/// A Pod that names its node and uses one device.
fn with_device(name: &str, source: &Value) -> Value {
    let mut pod = devices::used_by(pod_on(NODE, name, "none"), source);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
    pod["spec"]["volumes"] = json!([]);
    pod
}

/// The same Pod as latebind would make it.
fn placed_by_scheduler(mut pod: Value) -> Value {
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("nodeName");
    }
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": NODE });
    pod
}

/// A device is free and its driver is there, and the Pod waits all the same: nobody allocates it. Placed by the scheduler it
/// runs, and so does one that names its node and shares what another Pod was given.
pub async fn only_a_pod_that_the_scheduler_places_is_given_a_device(scope: &Scope) -> Result<()> {
    let driver = devices::Driver::start(scope, NODE).await?;
    let outcome = given(scope, driver.class()).await;
    driver.stop().await.and(outcome)
}

async fn given(scope: &Scope, class: &str) -> Result<()> {
    scope.create::<ResourceClaimTemplate>(devices::template("own", class)).await?;
    scope.create::<ResourceClaim>(devices::claim("shared", class)).await?;
    let from_template = json!({ "resourceClaimTemplateName": "own" });
    let shared = json!({ "resourceClaimName": "shared" });

    scope.create::<Pod>(with_device("stuck", &from_template)).await?;
    let told = eventually("the kubelet to say what it waits for", PATIENCE, async || {
        let events = scope.events("stuck").await?;
        Ok(events.into_iter().find(|event| event.type_.as_deref() == Some("Warning")))
    })
    .await?;
    ensure!(told.reason.as_deref() == Some("FailedPrepareDynamicResources"), "{told:?}");

    scope.create::<Pod>(placed_by_scheduler(with_device("placed", &shared))).await?;
    scope.pod_phase("placed", "Running", PATIENCE).await.context("a Pod that the scheduler places")?;
    scope.create::<Pod>(with_device("sharing", &shared)).await?;
    scope.pod_phase("sharing", "Running", PATIENCE).await.context("a Pod that shares an allocated device")?;

    let claims = scope.api::<ResourceClaim>();
    holds_for("the device of the Pod that is stuck", AT_ONCE, async || {
        let all = claims.list(&kube::api::ListParams::default()).await?;
        let made = all.items.into_iter().filter(|claim| claim.metadata.generate_name.is_some());
        let allocated = made.filter(|claim| claim.status.as_ref().is_some_and(|status| status.allocation.is_some()));
        Ok(allocated.count())
    })
    .await
    .and_then(|count| {
        ensure!(count == 0, "it was allocated, though no scheduler saw the Pod");
        Ok(())
    })
}
