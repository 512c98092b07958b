//! The objects of these tests, and what they look for in them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::objects as build;
pub use latebind_test_support::objects::{NO_PROVISIONER, SELECTED_NODE};
use serde_json::{Value, json};

/// The provisioner of classes without volumes that exist beforehand; nobody answers to this name.
pub const PROVISIONER: &str = "provisioner.latebind.test";

/// The controller manager looks at each claim again in this period.
pub const RESYNC: Duration = Duration::from_secs(15);
/// Long enough for what happens "at once" on a busy machine, and shorter than a resync.
pub const AT_ONCE: Duration = Duration::from_secs(8);
/// Long enough for anything that happens at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Creates a class and returns its name.
pub async fn class(scope: &Scope, stem: &str, provisioner: &str, mode: &str) -> Result<String> {
    let name = scope.unique(stem);
    let class = build::with(build::class(&name, provisioner), &json!({ "volumeBindingMode": mode }));
    scope.create::<StorageClass>(class).await?;
    Ok(name)
}

/// A claim of 1 GiB.
pub fn claim(name: &str, class: &str) -> Value {
    build::claim(name, class, "1Gi")
}

/// A volume of 1 GiB at `/mnt/<name>` of one node, kept when its claim goes.
pub fn volume(name: &str, class: &str, node: &str) -> Value {
    build::volume(name, class, node, "1Gi")
}

/// A Pod that mounts one claim and does nothing.
pub fn pod(name: &str, claim: &str) -> Value {
    build::running(build::pod(name, &[build::named("data", claim)]), "sleep infinity")
}

/// The same Pod, sent to a node by its name.
pub fn pod_on(node: &str, name: &str, claim: &str) -> Value {
    build::on_node(pod(name, claim), node)
}

/// The same Pod, bound to its node by a field selector and left to the scheduler.
pub fn pod_pinned_to(node: &str, name: &str, claim: &str) -> Value {
    build::pinned_to(pod(name, claim), node)
}

/// Sets annotations of a claim.
pub async fn annotate(scope: &Scope, claim: &str, annotations: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    scope.api::<PersistentVolumeClaim>().patch(claim, &PatchParams::default(), &patch).await.map(drop)?;
    Ok(())
}

/// A reference from a volume to a claim, as the scheduler writes it when `uid` is set.
pub fn reference(claim: &PersistentVolumeClaim, with_uid: bool) -> Value {
    let mut reference = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace(), "name": claim.name_any(),
    });
    if with_uid {
        reference["uid"] = json!(claim.uid());
    }
    reference
}

/// Reserves a volume for a claim.
pub async fn reserve(scope: &Scope, volume: &str, claim: &PersistentVolumeClaim, with_uid: bool) -> Result<()> {
    let patch = Patch::Merge(json!({
        "metadata": { "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" } },
        "spec": { "claimRef": reference(claim, with_uid) },
    }));
    scope.all::<PersistentVolume>().patch(volume, &PatchParams::default(), &patch).await.map(drop)?;
    Ok(())
}

/// Waits until the volume can be bound.
pub async fn available(scope: &Scope, volume: &str) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>();
    eventually("the volume to be Available", PATIENCE, async || {
        let phase = volumes.get(volume).await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Available")).then_some(()))
    })
    .await
}

/// Checks that the controller looks at the claim while the Pod exists, waits for a consumer, and goes on so for a resync.
pub async fn deadlocked(scope: &Scope, claim: &str, pod: &str) -> Result<()> {
    let born = scope.pod(pod).await?.creation_timestamp().context("creation timestamp")?.0;
    eventually("the claim to wait for a consumer although it has one", PATIENCE, async || {
        let events = scope.events(claim).await?;
        Ok(events.iter().any(|event| waits(event) && last_seen(event).is_some_and(|seen| seen >= born)).then_some(()))
    })
    .await?;
    still_unbound(scope, claim, RESYNC).await
}

/// Checks that the claim stays unbound for `period`.
pub async fn still_unbound(scope: &Scope, claim: &str, period: Duration) -> Result<()> {
    let phase = holds_for("the claim's phase", period, async || {
        Ok(scope.claim(claim).await?.status.and_then(|status| status.phase))
    })
    .await?;
    ensure!(phase.as_deref() == Some("Pending"), "the claim is {phase:?}");
    Ok(())
}

fn waits(event: &Event) -> bool {
    event.reason.as_deref() == Some("WaitForFirstConsumer")
        && event.message.as_deref() == Some("waiting for first consumer to be created before binding")
}

fn last_seen(event: &Event) -> Option<k8s_openapi::jiff::Timestamp> {
    event.last_timestamp.as_ref().map(|time| time.0)
}

/// Waits until the scheduler gives up on the Pod with a message that contains `text`.
pub async fn unschedulable(scope: &Scope, name: &str, text: &str) -> Result<()> {
    eventually(&format!("Pod {name} to be unschedulable: {text}"), PATIENCE, async || {
        let Some(message) = why_unscheduled(&scope.pod(name).await?) else { return Ok(None) };
        ensure!(message.contains(text), "the scheduler says: {message}");
        Ok(Some(()))
    })
    .await
}

fn why_unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    scheduled.message.clone()
}
