//! `latebind plan drain` against a real control plane: what it says of each Pod is what becomes of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects::{self, NO_PROVISIONER};
use serde_json::{Value, json};

use crate::shared::{PATIENCE, class, latebind, told, volume};

/// A workload of one Pod, whose template has this spec.
fn workload(name: &str, spec: &Value, more: &Value) -> Value {
    let labels = json!({ "app": name });
    let mut template = objects::pod(name, &[]);
    template["metadata"] = json!({ "labels": labels });
    objects::merge(&mut template["spec"], spec);
    let own = json!({ "metadata": { "name": name }, "spec": { "selector": { "matchLabels": labels }, "template": template } });
    objects::with(own, more)
}

/// The Pods of the namespace by the workload that made them, or by their own name.
async fn pods(scope: &Scope) -> Result<BTreeMap<String, Pod>> {
    let listed = scope.api::<Pod>().list(&ListParams::default()).await?;
    let live = listed.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(live.map(|pod| (pod.labels().get("app").cloned().unwrap_or_else(|| pod.name_any()), pod)).collect())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Why the scheduler has not placed a Pod.
fn unplaced(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|it| it.type_ == "PodScheduled" && it.status == "False")?.message.as_deref()
}

/// Names of Pods and what is said of them, and the exit code.
fn planned(scope: &Scope, args: &[&str]) -> Result<(Option<i32>, BTreeMap<String, String>, Value)> {
    let output = latebind(scope, &[&["plan", "drain", "-o", "json"], args].concat())?;
    let plan: Value = serde_json::from_slice(&output.stdout).with_context(|| told(&output))?;
    let own = |pod: &&Value| pod["namespace"] == scope.namespace();
    let text = |pod: &Value, key: &str| pod[key].as_str().unwrap_or_default().to_owned();
    let pods = plan["pods"].as_array().with_context(|| told(&output))?.iter().filter(own);
    let outcomes = pods.map(|pod| (text(pod, "pod"), text(pod, "outcome"))).collect();
    Ok((output.status.code(), outcomes, plan))
}

pub async fn a_drain_does_to_each_pod_what_the_plan_says(scope: &Scope) -> Result<()> {
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    volume(scope, "disk", &fixed, node.name(), "2Gi", json!({})).await?;
    scope.kubectl(&["cordon", other.name()]).await?.success()?;
    let here = json!({ "nodeSelector": { "kubernetes.io/hostname": node.name() } });
    let claim = json!({ "metadata": { "name": "data" }, "spec": objects::claim_spec(&fixed, "1Gi") });
    let mount = json!({ "containers": [{ "name": "c", "image": "x", "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }] });
    scope.create::<Deployment>(workload("web", &json!({}), &json!({}))).await?;
    scope.create::<Deployment>(workload("tied", &here, &json!({}))).await?;
    scope.create::<DaemonSet>(workload("each", &here, &json!({}))).await?;
    let set = json!({ "spec": { "serviceName": "db", "volumeClaimTemplates": [claim] } });
    scope.create::<StatefulSet>(workload("db", &mount, &set)).await?;
    scope.create::<Pod>(objects::pod("once", &[])).await?;
    let before = eventually("all Pods to be on the node", PATIENCE, async || {
        let pods = pods(scope).await?;
        Ok((pods.len() == 5 && pods.values().all(|pod| node_of(pod) == Some(node.name()))).then_some(pods))
    })
    .await?;
    scope.kubectl(&["uncordon", other.name()]).await?.success()?;

    let (code, outcomes, plan) = planned(scope, &[node.name()])?;
    let name = |of: &str| before[of].name_any();
    let expected: BTreeMap<String, String> = [
        ("web", "StartsElsewhere"),
        ("tied", "WaitsForThisNode"),
        ("each", "Stays"),
        ("db", "WaitsForThisNode"),
        ("once", "NotMadeAgain"),
    ]
    .map(|(of, outcome)| (name(of), outcome.to_owned()))
    .into();
    ensure!((code, &outcomes) == (Some(1), &expected), "{plan:#}");
    ensure!(plan["notKnown"] == json!([]), "{plan:#}");
    // A dump says the same.
    let dump = tempfile::tempdir()?;
    let written = latebind(scope, &["dump", "-A", "-o", dump.path().join("all").to_str().context("UTF-8")?])?;
    ensure!(written.status.success(), "{}", told(&written));
    let of_dump = planned(scope, &["--from", dump.path().to_str().context("UTF-8")?, node.name()])?;
    ensure!((of_dump.0, &of_dump.1) == (Some(1), &expected), "{:#}", of_dump.2);

    // Nobody ends the Pods of a simulated node, so they are deleted at once.
    let drain = ["drain", node.name(), "--ignore-daemonsets", "--force", "--disable-eviction", "--grace-period=0"];
    scope.kubectl(&drain).await?.success()?;
    let after = eventually("the Pods that are made in their place", PATIENCE, async || {
        let pods = pods(scope).await?;
        let is_new = |of: &str| pods.get(of).filter(|pod| pod.uid() != before[of].uid());
        let placed = is_new("web").and_then(node_of) == Some(other.name());
        let waits = |of: &str| is_new(of).and_then(unplaced).is_some();
        Ok((placed && waits("tied") && waits("db")).then_some(pods))
    })
    .await?;
    ensure!(!after.contains_key("once") && after["each"].uid() == before["each"].uid(), "{:?}", after.keys());
    let why = unplaced(&after["db"]).unwrap_or_default();
    ensure!(why.contains("node affinity"), "{why}");
    let (_, outcomes, plan) = planned(scope, &[node.name()])?;
    ensure!(plan["cordoned"] == true && outcomes == BTreeMap::from([(name("each"), "Stays".to_owned())]), "{plan:#}");

    scope.kubectl(&["uncordon", node.name()]).await?.success()?;
    eventually("what waited to start on the node again", PATIENCE, async || {
        let pods = pods(scope).await?;
        Ok(["tied", "db"].iter().all(|of| pods.get(*of).and_then(node_of) == Some(node.name())).then_some(()))
    })
    .await
}

pub async fn a_drain_is_planned_of_nodes_that_there_are(scope: &Scope) -> Result<()> {
    let missing = latebind(scope, &["plan", "drain", "no-such-node"])?;
    ensure!(
        missing.status.code() == Some(2) && told(&missing).contains("there is no node/no-such-node"),
        "{}",
        told(&missing)
    );
    let refused = latebind(scope, &["plan", "drain", "no-such-node", "--as", "nobody"])?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    Ok(())
}

pub async fn what_a_budget_holds_back_is_told(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let labels = json!({ "metadata": { "labels": { "app": "guarded" } } });
    for name in ["one", "two"] {
        scope.create::<Pod>(objects::on_node(objects::with(objects::pod(name, &[]), &labels), node.name())).await?;
        // No kubelet says so.
        let running =
            json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        scope.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(running)).await?;
    }
    let budget = json!({ "metadata": { "name": "guard" }, "spec": { "minAvailable": 2,
        "selector": { "matchLabels": { "app": "guarded" } } } });
    scope.create::<PodDisruptionBudget>(budget).await?;
    eventually("the budget to be counted", PATIENCE, async || {
        let status = scope.api::<PodDisruptionBudget>().get("guard").await?.status;
        Ok(status.is_some_and(|status| status.current_healthy == 2).then_some(()))
    })
    .await?;
    let (code, _, plan) = planned(scope, &[node.name()])?;
    let held = json!([{ "namespace": scope.namespace(), "budgets": ["guard"], "pods": 2, "allowed": 0, "endsByItself": false }]);
    ensure!(code == Some(1) && plan["heldBack"] == held, "{plan:#}");
    let drained = scope.kubectl(&["drain", node.name(), "--ignore-daemonsets", "--force", "--timeout=2s"]).await?;
    ensure!(
        drained.success().is_err_and(|said| said.to_string().contains("disruption budget")),
        "nothing held it back"
    );
    let text = latebind(scope, &["plan", "drain", node.name()])?;
    ensure!(
        told(&text).contains("guard -n") && told(&text).contains("lets none of its 2 Pods here go now"),
        "{}",
        told(&text)
    );
    Ok(())
}
