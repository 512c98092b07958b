//! How far the loop goes where: not to a disk of somebody else's node, and nowhere that admission would not go.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume};
use kube::CustomResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::crd::{PinPolicy, PinPolicyStatus};
use latebind_cluster::{Cluster, Scope, eventually, holds_for};
use serde_json::{Value, json};

use crate::process::{Rescuer, deeds, leave};
use crate::stage::*;

/// Keeps everybody but one team away from a node, which is cordoned besides.
async fn keep_for_a_team(scope: &Scope, node: &str) -> Result<()> {
    let taints = json!([{ "key": "team.example.com/only", "value": "b", "effect": "NoSchedule" }]);
    let patch = json!({ "spec": { "unschedulable": true, "taints": taints } });
    scope.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn label(scope: &Scope, labels: Value) -> Result<()> {
    let patch = json!({ "metadata": { "labels": labels } });
    scope.all::<Namespace>().patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// For whom a volume is reserved, if for anybody.
async fn reserved_for(scope: &Scope, volume: &str) -> Result<Option<String>> {
    let volume = scope.all::<PersistentVolume>().get(volume).await?;
    Ok(volume.spec.and_then(|spec| spec.claim_ref).and_then(|reference| reference.name))
}

/// A Pod that names a node gets around its taint. It does not get that team's disk by it, unless its namespace may.
pub async fn a_pod_that_names_a_node_of_another_team_does_not_get_its_disk(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let disk = volume(scope, "disk", &class, node.name(), "1Gi").await?;
    keep_for_a_team(scope, node.name()).await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;

    let rescuer = Rescuer::start(cluster, &[]).await?;
    let told = scope.event("app", "TaintedNode", "team.example.com/only", PATIENCE).await?;
    ensure!(told.contains("rescue.taintedNodesFor"), "{told}");
    let kept = holds_for("the disk to stay free", QUIET, async || reserved_for(scope, &disk).await).await?;
    ensure!(kept.is_none(), "{kept:?}");
    // A Pod that tolerates the taint is one of the team's.
    let tolerations = json!([{ "key": "team.example.com/only", "operator": "Exists", "effect": "NoSchedule" }]);
    let theirs = volume(scope, "theirs", &class, node.name(), "2Gi").await?;
    claim(scope, "of-team", &class, "2Gi").await?;
    pod(scope, "of-team", &["of-team"], json!({ "nodeName": node.name(), "tolerations": tolerations })).await?;
    acknowledge(scope, "of-team").await?;
    ensure!(bound_to(scope, "of-team").await? == theirs);
    ensure!(reserved_for(scope, &disk).await?.is_none(), "the disk went to the other Pod");
    drop(rescuer);
    leave(cluster).await?;

    let rescuer = Rescuer::start(cluster, &["--tainted-nodes-for", scope.namespace()]).await?;
    ensure!(bound_to(scope, "data").await? == disk);
    rescuer.signal("TERM").await?;
    Ok(())
}

/// What the account changed in a namespace.
fn changes(cluster: &Cluster, namespace: &str) -> Result<usize> {
    let wrote = |verb: &str| matches!(verb, "create" | "patch" | "update" | "delete");
    Ok(deeds(cluster)?.iter().filter(|deed| deed.namespace == namespace && wrote(&deed.verb)).count())
}

/// An exempt namespace, one that is taken out by its label, and mode audit: not even an event is written, and the same
/// claims are fixed once the policy lets them.
pub async fn where_admission_does_nothing_the_rescue_loop_writes_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let disk = volume(scope, "disk", &fixed, node.name(), "1Gi").await?;
    claim(scope, "made", &made, "1Gi").await?;
    claim(scope, "fixed", &fixed, "1Gi").await?;
    stuck(scope, "app-made", node.name(), &["made"]).await?;
    stuck(scope, "app-fixed", node.name(), &["fixed"]).await?;

    let disabled = json!({ "latebind.dev/webhook": "disabled" });
    let cases: [(&str, Vec<&str>, Value); 3] = [
        ("an exempt namespace", vec!["--exempt-namespace", scope.namespace()], json!({})),
        ("a namespace that is taken out", vec![], disabled),
        ("mode audit", vec!["--mode=audit"], json!({})),
    ];
    for (what, flags, labels) in cases {
        label(scope, labels).await?;
        let rescuer = Rescuer::start(cluster, &flags).await?;
        eventually("a leader", PATIENCE, async || Ok((rescuer.metric("latebind_leader ").await? > 0.0).then_some(())))
            .await?;
        if what == "mode audit" {
            // It sees them, and counts them.
            eventually("both claims to be counted", PATIENCE, async || {
                let metrics = rescuer.get("/metrics").await?;
                let counts = metrics.lines().filter(|line| line.starts_with("latebind_rescue_stuck_claims{"));
                let count: f64 = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
                Ok((count >= 2.0).then_some(()))
            })
            .await?;
        }
        let before = changes(cluster, scope.namespace())?;
        tokio::time::sleep(QUIET).await;
        ensure!(changes(cluster, scope.namespace())? == before && before == 0, "{what}: something was written");
        ensure!(reserved_for(scope, &disk).await?.is_none(), "{what}: the volume was reserved");
        // Of other tests' namespaces some are ending, which take no events.
        let id = scope.unique("");
        let log = rescuer.log()?;
        let tried = log.lines().find(|line| line.contains("forbidden") && line.contains(&id));
        ensure!(tried.is_none(), "{what}: a write was tried: {tried:?}");
        drop(rescuer);
        leave(cluster).await?;
        label(scope, json!({ "latebind.dev/webhook": null })).await?;
    }
    let rescuer = Rescuer::start(cluster, &[]).await?;
    ensure!(bound_to(scope, "fixed").await? == disk);
    selected(scope, "made").await?;
    rescuer.signal("TERM").await?;
    Ok(())
}

/// Waits for a status of the policy, and for what it says.
async fn status(scope: &Scope, name: &str, wanted: impl Fn(&PinPolicyStatus) -> bool) -> Result<PinPolicyStatus> {
    let policies = scope.all::<PinPolicy>();
    eventually("the status of the policy", PATIENCE, async || {
        let policy = policies.get(name).await?;
        let status = policy.status.filter(|it| it.observed_generation == policy.metadata.generation);
        Ok(status.filter(|status| wanted(status)))
    })
    .await
}

/// A policy is one for admission and rescue: a Pod that got by admission is not helped to a node that it may not have, and the
/// policy's status names it. Once the node is allowed, it is helped.
pub async fn what_a_pin_policy_forbids_is_not_done_and_its_status_says_so(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    latebind_test_support::local::install(&scope.client(), [PinPolicy::crd()]).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    let name = scope.unique("nodes");
    let spec =
        json!({ "mode": "Deny", "namespaces": { "names": [scope.namespace()] }, "allowedNodes": { "names": [] } });
    scope.create::<PinPolicy>(json!({ "metadata": { "name": name }, "spec": spec })).await?;

    let rescuer = Rescuer::start(cluster, &[]).await?;
    let told = scope.event("app", "RescueWithheld", &name, PATIENCE).await?;
    ensure!(told.contains("does not allow the Pod's node"), "{told}");
    let said = status(scope, &name, |status| status.total_violations == 1).await?;
    ensure!((said.matched_pods, said.violations.len()) == (1, 1), "{said:?}");
    let violation = &said.violations[0];
    ensure!((violation.name.as_str(), violation.reason.as_str()) == ("app", "NodeNotAllowed"), "{violation:?}");
    ensure!(violation.namespace == scope.namespace() && violation.node == node.name(), "{violation:?}");
    ensure!(rescuer.metric("latebind_policy_violations ").await? == 1.0);
    holds_for("the claim to have no node", QUIET, async || {
        let claim = scope.claim("data").await?;
        let selected = claim.metadata.annotations.is_some_and(|found| found.contains_key(SELECTED_NODE));
        ensure!(!selected, "a volume was ordered for a node that is not allowed");
        Ok(())
    })
    .await?;

    let patch = json!({ "spec": { "allowedNodes": { "names": [node.name()] } } });
    scope.all::<PinPolicy>().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    selected(scope, "data").await?;
    // A Pod that waits forever, and would be refused by now.
    let said = status(scope, &name, |status| status.total_violations == 1).await?;
    ensure!(said.violations[0].reason == "WaitsForever", "{said:?}");
    scope.all::<PinPolicy>().delete(&name, &DeleteParams::default()).await?;
    eventually("the violations to be forgotten", PATIENCE, async || {
        Ok((rescuer.metric("latebind_policy_violations ").await? == 0.0).then_some(()))
    })
    .await?;
    rescuer.signal("TERM").await?;
    Ok(())
}
