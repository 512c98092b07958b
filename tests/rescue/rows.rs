//! Rows of the truth table in which claims of an existing Pod can be fixed, and those in which nothing may be written.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use latebind_cluster::{Scope, eventually, holds_for};
use serde_json::json;

use crate::process::{share, writes};
use crate::stage::*;

/// Row 4.
pub async fn a_dynamic_claim_gets_its_node(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    let pod = stuck(scope, "app", node.name(), &["data"]).await?;

    let claim = selected(scope, "data").await?;
    let annotations = claim.annotations();
    ensure!(annotations.get(SELECTED_NODE).map(String::as_str) == Some(node.name()));
    ensure!(annotations.get(SELECTED_BY) == Some(&mark(&pod, node.name())));
    for key in ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"] {
        ensure!(annotations.get(key).map(String::as_str) == Some(PROVISIONER), "{key} in {annotations:?}");
    }
    provision(scope, "data").await?;
    bound_to(scope, "data").await?;

    // Both objects are told, each with the other beside it.
    for (object, other) in [("app", "PersistentVolumeClaim"), ("data", "Pod")] {
        scope.event(object, "SelectedNode", "ordered a volume", PATIENCE).await?;
        let fields = ListParams::default().fields(&format!("involvedObject.name={object},reason=SelectedNode"));
        let events = scope.api::<Event>().list(&fields).await?.items;
        let related = events.first().and_then(|event| event.related.as_ref()).and_then(|other| other.kind.as_deref());
        ensure!(related == Some(other), "{related:?}");
    }
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "data")? == 1);
    Ok(())
}

/// Row 6.
pub async fn a_static_claim_gets_the_smallest_volume_that_fits(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "static", NO_PROVISIONER).await?;
    for (stem, at, size) in
        [("big", &node, "9Gi"), ("fits", &node, "3Gi"), ("small", &node, "1Gi"), ("far", &other, "2Gi")]
    {
        volume(scope, stem, &class, at.name(), size).await?;
    }
    claim(scope, "data", &class, "2Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    let name = bound_to(scope, "data").await?;
    ensure!(name == scope.unique("fits"), "{name}");
    let volume = scope.all::<PersistentVolume>().get(&name).await?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).context("a reference")?;
    ensure!(reference.uid == scope.claim("data").await?.metadata.uid);
    // The controller manager may undo the reservation if it had to.
    ensure!(volume.annotations().get("pv.kubernetes.io/bound-by-controller").map(String::as_str) == Some("yes"));
    ensure!(!scope.claim("data").await?.annotations().contains_key(SELECTED_NODE));
    scope.event("app", "VolumeReserved", &name, PATIENCE).await?;
    ensure!(writes(scope.cluster()?, "persistentvolumes", "", &name)? == 1);
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "data")? == 0);
    Ok(())
}

/// Row 5.
pub async fn a_volume_that_exists_is_preferred_to_a_new_one(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let volume = volume(scope, "made", &class, node.name(), "1Gi").await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    ensure!(bound_to(scope, "data").await? == volume);
    ensure!(!scope.claim("data").await?.annotations().contains_key(SELECTED_NODE));
    Ok(())
}

pub async fn two_claims_of_a_pod_get_a_volume_each(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let (large, small) = (
        volume(scope, "large", &class, node.name(), "5Gi").await?,
        volume(scope, "small", &class, node.name(), "2Gi").await?,
    );
    claim(scope, "much", &class, "4Gi").await?;
    claim(scope, "little", &class, "1Gi").await?;
    // Whichever claim is looked at first, the small volume must not go to the wrong one.
    stuck(scope, "app", node.name(), &["much", "little"]).await?;
    ensure!(bound_to(scope, "much").await? == large);
    ensure!(bound_to(scope, "little").await? == small);
    Ok(())
}

/// Row 7.
pub async fn a_claim_without_a_volume_waits_for_one(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    claim(scope, "data", &class, "2Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    scope.event("app", "NoVolumeFits", "LB008", PATIENCE).await?;
    ensure!(!scope.claim("data").await?.annotations().contains_key(SELECTED_NODE));
    let volume = volume(scope, "late", &class, node.name(), "2Gi").await?;
    ensure!(bound_to(scope, "data").await? == volume);
    Ok(())
}

/// The scheduler binds all of a Pod's claims or none.
pub async fn nothing_is_bound_for_a_pod_that_lacks_another_volume(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (fixed, made) = (class(scope, "static", NO_PROVISIONER).await?, class(scope, "dynamic", PROVISIONER).await?);
    claim(scope, "lacking", &fixed, "2Gi").await?;
    claim(scope, "data", &made, "1Gi").await?;
    stuck(scope, "app", node.name(), &["lacking", "data"]).await?;
    scope.event("data", "NoVolumeFits", "lacking", PATIENCE).await?;
    untouched(scope, "data").await?;
    let volume = volume(scope, "late", &fixed, node.name(), "2Gi").await?;
    ensure!(bound_to(scope, "lacking").await? == volume);
    selected(scope, "data").await.map(drop)
}

/// Row 14, and row 6 of the remedies: an annotation that would hold the claim forever.
pub async fn a_poisoned_claim_is_bound_or_cured(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let volume = volume(scope, "disk", &class, node.name(), "1Gi").await?;
    for (name, size) in [("fits", "1Gi"), ("lacks", "7Gi")] {
        claim(scope, name, &class, size).await?;
        annotate(scope, name, json!({SELECTED_NODE: node.name()})).await?;
        stuck(scope, &format!("app-{name}"), node.name(), &[name]).await?;
    }
    ensure!(bound_to(scope, "fits").await? == volume);
    eventually("the poison to be gone", PATIENCE, async || {
        Ok((!scope.claim("lacks").await?.annotations().contains_key(SELECTED_NODE)).then_some(()))
    })
    .await?;
    scope.event("app-lacks", "SelectedNodeRemoved", "no provisioner", PATIENCE).await?;
    scope.event("app-lacks", "NoVolumeFits", "LB008", PATIENCE).await.map(drop)
}

/// Row 16.
pub async fn a_node_that_is_gone_is_replaced(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    annotate(scope, "data", json!({SELECTED_NODE: "node-that-never-was"})).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    eventually("the Pod's own node to be selected", PATIENCE, async || {
        let claim = scope.claim("data").await?;
        Ok((claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(node.name())).then_some(()))
    })
    .await
}

/// Row 15.
pub async fn an_order_for_another_node_stands(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    annotate(scope, "data", json!({SELECTED_NODE: other.name()})).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    scope.event("app", "SelectedElsewhere", other.name(), PATIENCE).await?;
    let claim = scope.claim("data").await?;
    ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(other.name()));
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "data")? == 0);
    Ok(())
}

/// Row 3.
pub async fn a_claim_bound_elsewhere_is_told_of(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "static", NO_PROVISIONER).await?;
    volume(scope, "far", &class, other.name(), "1Gi").await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "first", other.name(), &["data"]).await?;
    bound_to(scope, "data").await?;
    stuck(scope, "second", node.name(), &["data"]).await?;
    scope.event("second", "BoundElsewhere", "LB", PATIENCE).await.map(drop)
}

/// Rows 23 and 24.
pub async fn ephemeral_volumes_are_served(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let disk = volume(scope, "disk", &fixed, node.name(), "1Gi").await?;
    let ephemeral = |name: &str, class: &str| json!({"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(class, "1Gi")}}});
    let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
    let spec = json!({
        "nodeName": node.name(),
        "containers": [{"name": "main", "image": "none.invalid/none", "volumeMounts": [mount("a"), mount("b")]}],
        "volumes": [ephemeral("a", &made), ephemeral("b", &fixed)],
    });
    scope.create::<Pod>(json!({"metadata": {"name": "app"}, "spec": spec})).await?;
    acknowledge(scope, "app").await?;
    eventually("the Pod's own claims", PATIENCE, async || {
        Ok(scope.api::<PersistentVolumeClaim>().get_opt("app-b").await?.map(drop))
    })
    .await?;
    provision(scope, "app-a").await?;
    bound_to(scope, "app-a").await?;
    ensure!(bound_to(scope, "app-b").await? == disk);
    Ok(())
}

/// Rows 8 and 27.
pub async fn an_unmounted_claim_and_an_immediate_one_are_left_alone(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let delayed = class(scope, "dynamic", PROVISIONER).await?;
    let immediate = class_with(scope, "immediate", PROVISIONER, json!({"volumeBindingMode": "Immediate"})).await?;
    claim(scope, "unmounted", &delayed, "1Gi").await?;
    claim(scope, "immediate", &immediate, "1Gi").await?;
    let spec = json!({
        "nodeName": node.name(),
        "containers": [{"name": "main", "image": "none.invalid/none"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "unmounted"}}],
    });
    scope.create::<Pod>(json!({"metadata": {"name": "idle"}, "spec": spec})).await?;
    acknowledge(scope, "idle").await?;
    stuck(scope, "app", node.name(), &["immediate"]).await?;
    untouched(scope, "unmounted").await?;
    untouched(scope, "immediate").await
}

/// Rows 19 and 23: a claim that is being deleted, and one that has an ephemeral volume's name but not its owner.
pub async fn a_claim_that_is_ending_or_foreign_is_left_alone(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let held = json!({"metadata": {"name": "ending", "finalizers": ["test.example.com/held"]}, "spec": claim_spec(&class, "1Gi")});
    scope.create::<PersistentVolumeClaim>(held).await?;
    scope.api::<PersistentVolumeClaim>().delete("ending", &DeleteParams::default()).await?;
    stuck(scope, "app", node.name(), &["ending"]).await?;
    claim(scope, "other-scratch", &class, "1Gi").await?;
    let spec = json!({
        "nodeName": node.name(),
        "containers": [{"name": "main", "image": "none.invalid/none", "volumeMounts": [{"name": "scratch", "mountPath": "/s"}]}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(&class, "1Gi")}}}],
    });
    scope.create::<Pod>(json!({"metadata": {"name": "other"}, "spec": spec})).await?;
    acknowledge(scope, "other").await?;
    scope.event("app", "ClaimDeleting", "LB009", PATIENCE).await?;
    untouched(scope, "other-scratch").await?;
    let lift = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    scope.api::<PersistentVolumeClaim>().patch("ending", &kube::api::PatchParams::default(), &lift).await?;
    Ok(())
}

/// Nothing of ours appears on the claim.
pub async fn untouched(scope: &Scope, claim: &str) -> Result<()> {
    holds_for(&format!("claim {claim} to be left alone"), QUIET, async || {
        let claim = scope.claim(claim).await?;
        Ok((claim.annotations().get(SELECTED_NODE).cloned(), claim.annotations().get(SELECTED_BY).cloned()))
    })
    .await?;
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), claim)? == 0);
    Ok(())
}
