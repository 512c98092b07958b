//! What newer versions of Kubernetes bring that touches claims, nodes and webhooks, and whether it is there by default.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use latebind_cluster::webhook::Webhook;
use latebind_cluster::{Scope, eventually, holds_for};
use serde_json::{Value, json};

use crate::objects::{AT_ONCE, NO_PROVISIONER, PATIENCE, PROVISIONER, claim, class, pod, pod_on, volume};

/// The minor version of the API server.
async fn minor(scope: &Scope) -> Result<u32> {
    let version = scope.client().apiserver_version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{version:?}"))
}

/// The status of the condition `Unused`, and nothing when the claim has none.
async fn unused(scope: &Scope, claim: &str) -> Result<Option<String>> {
    let conditions = scope.claim(claim).await?.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.into_iter().find(|condition| condition.type_ == "Unused").map(|condition| condition.status))
}

pub async fn a_bound_claim_says_since_1_37_whether_a_pod_uses_it(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("named");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    let mut named = claim("data", &class);
    named["spec"]["volumeName"] = json!(name);
    scope.create::<PersistentVolumeClaim>(named).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    let says = async |status: Option<&str>, what: &str| {
        eventually(what, PATIENCE, async || Ok((unused(scope, "data").await?.as_deref() == status).then_some(()))).await
    };
    let since = minor(scope).await? >= 37;
    says(since.then_some("True"), "a claim that no Pod names").await?;
    scope.create::<Pod>(pod_on(node.name(), "user", "data")).await?;
    says(since.then_some("False"), "a claim that a Pod names").await
}

/// Neither without a Pod nor with one that is stuck on it.
pub async fn a_claim_that_is_not_bound_never_says_whether_a_pod_uses_it(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    scope.create::<PersistentVolumeClaim>(claim("data", &class)).await?;
    let says_nothing = async || {
        holds_for("a claim without such a condition", AT_ONCE, async || {
            Ok(unused(scope, "data").await?.is_none().then_some(()))
        })
        .await
    };
    says_nothing().await?;
    scope.create::<Pod>(pod_on(node.name(), "stuck", "data")).await?;
    says_nothing().await.map(drop)
}

/// 1.37 knows names for conditions that administrators may set. kubectl sets none of them.
pub async fn a_drained_node_is_unschedulable_and_has_no_condition_that_says_so(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let drained = scope.kubectl(&["drain", node.name(), "--ignore-daemonsets"]).await?;
    ensure!(drained.code == Some(0), "{drained:?}");
    let seen = scope.all::<Node>().get(node.name()).await?;
    ensure!(seen.spec.and_then(|spec| spec.unschedulable) == Some(true), "it can be scheduled to");
    let conditions = seen.status.and_then(|status| status.conditions).unwrap_or_default();
    let told = conditions.iter().find(|it| it.type_.contains("Drain") || it.type_.contains("Maintenance"));
    ensure!(told.is_none(), "{told:?}");
    Ok(())
}

/// Gangs are behind a gate that is off: the field goes without an error, and the Pod is one like any other.
pub async fn a_scheduling_group_is_dropped(scope: &Scope) -> Result<()> {
    let mut grouped = pod("grouped", "data");
    grouped["spec"]["schedulingGroup"] = json!({ "podGroupName": "gang" });
    let kind = ApiResource::erase::<Pod>(&());
    let pods = Api::<DynamicObject>::namespaced_with(scope.client(), scope.namespace(), &kind);
    let grouped = serde_json::from_value::<DynamicObject>(grouped)?;
    let spec = pods.create(&PostParams::default(), &grouped).await?.data["spec"].take();
    ensure!(spec["containers"].is_array() && spec["schedulingGroup"].is_null(), "{spec}");
    let served = scope.kubectl(&["api-resources", "--api-group=scheduling.k8s.io", "--no-headers", "-o=name"]).await?;
    ensure!(served.stdout.trim() == "priorityclasses.scheduling.k8s.io", "{served:?}");
    Ok(())
}

/// How many of `count` calls each of two endpoints of one Service gets.
async fn spread(scope: &Scope, count: usize) -> Result<[usize; 2]> {
    let cluster = scope.cluster()?;
    let name = format!("hook.{}.svc", scope.namespace());
    let allow = |_: &str, _: &Value| json!({ "allowed": true });
    let servers =
        [Webhook::serve_as(cluster, &[&name], allow).await?, Webhook::serve_as(cluster, &[&name], allow).await?];
    let ports = json!([{ "name": "https", "port": 443 }]);
    scope.create::<Service>(json!({ "metadata": { "name": "hook" }, "spec": { "ports": ports } })).await?;
    for (number, server) in servers.iter().enumerate() {
        let slice = json!({
            "metadata": { "name": format!("hook-{number}"), "labels": { "kubernetes.io/service-name": "hook" } },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [cluster.host_address()], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": server.port(), "protocol": "TCP" }],
        });
        scope.create::<EndpointSlice>(slice).await?;
    }
    let authorities: String = servers.iter().map(Webhook::authority).collect();
    let configuration = json!({ "metadata": { "name": scope.unique("spread") }, "webhooks": [{
        "name": "spread.latebind.test",
        "clientConfig": {
            "service": { "namespace": scope.namespace(), "name": "hook", "path": "/" },
            "caBundle": STANDARD.encode(authorities),
        },
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": scope.namespace() } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }],
    }] });
    scope.create::<ValidatingWebhookConfiguration>(configuration).await?;
    let create = async |name: String| scope.create::<ConfigMap>(json!({ "metadata": { "name": name } })).await;
    let seen = || servers.each_ref().map(|server| server.seen().len());
    let mut attempt = 0;
    eventually("the API server to call the Service", Duration::from_secs(20), async || {
        attempt += 1;
        create(format!("probe-{attempt}")).await?;
        Ok((seen() != [0, 0]).then_some(()))
    })
    .await?;
    let before = seen();
    for number in 0..count {
        create(format!("counted-{number}")).await?;
    }
    let after = seen();
    ensure!(after[0] + after[1] == before[0] + before[1] + count, "calls were lost: {before:?}, then {after:?}");
    Ok([after[0] - before[0], after[1] - before[1]])
}

/// One after the other, as a quiet cluster does: before, the first connection kept every call.
pub async fn calls_of_a_webhook_service_are_spread_over_its_endpoints_since_1_37(scope: &Scope) -> Result<()> {
    // That one of two gets all of so many by chance happens once in a million runs.
    let [first, second] = spread(scope, 21).await?;
    if minor(scope).await? < 37 {
        ensure!(first == 0 || second == 0, "{first} and {second}");
    } else {
        ensure!(first > 0 && second > 0, "{first} and {second}");
    }
    Ok(())
}

/// Devices are allocated by the scheduler, and such a Pod never comes to it.
pub async fn a_pod_that_names_its_node_waits_forever_for_a_device(scope: &Scope) -> Result<()> {
    scope
        .create::<ResourceClaim>(json!({
            "metadata": { "name": "device" },
            "spec": { "devices": { "requests": [{
                "name": "one", "exactly": { "deviceClassName": "none.latebind.test" },
            }] } },
        }))
        .await?;
    let mut stuck = pod_on("node-a", "stuck", "data");
    stuck["spec"]["resourceClaims"] = json!([{ "name": "device", "resourceClaimName": "device" }]);
    stuck["spec"]["containers"][0]["volumeMounts"] = json!([]);
    stuck["spec"]["volumes"] = json!([]);
    scope.create::<Pod>(stuck).await?;
    let told = eventually("the kubelet to say what it waits for", PATIENCE, async || {
        let events = scope.events("stuck").await?;
        Ok(events.into_iter().find(|event| event.type_.as_deref() == Some("Warning")))
    })
    .await?;
    ensure!(told.reason.as_deref() == Some("FailedPrepareDynamicResources"), "{told:?}");
    scope.pod_phase("stuck", "Pending", AT_ONCE).await?;
    let devices = scope.api::<ResourceClaim>();
    holds_for("a claim of a device that nobody allocates", AT_ONCE, async || {
        let claim = devices.get("device").await?;
        Ok(claim.status.is_none_or(|status| status.allocation.is_none()).then_some(()))
    })
    .await
    .map(drop)
}
