//! `latebind audit` against a real control plane: what is stuck or at risk is made, listed, and written as reports.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::objects::{self, NO_PROVISIONER};
use serde_json::{Value, json};

use crate::shared::{latebind, told};
use crate::{apply, delete};

const PATIENCE: Duration = Duration::from_secs(60);
/// What keeps reports current by itself.
const CRON_JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/audit.yaml");

/// Codes and objects of what an audit of the namespace finds, and what it counts.
fn audited(scope: &Scope) -> Result<(Vec<(String, String)>, Value)> {
    let output = latebind(scope, &["audit", "-n", scope.namespace(), "-o", "json"])?;
    let list: Value = serde_json::from_slice(&output.stdout).with_context(|| told(&output))?;
    let text = |item: &Value, at: &str| item.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let items = list["items"].as_array().with_context(|| told(&output))?;
    let mut found: Vec<(String, String)> =
        items.iter().map(|item| (text(item, "/code"), text(item, "/object/name"))).collect();
    found.sort();
    Ok((found, list["audit"].clone()))
}

/// A claim that is bound to a volume of a host.
async fn bound(scope: &Scope, class: &str, claim: &str, host: &str) -> Result<()> {
    let reference = json!({"spec": {"claimRef": {"namespace": scope.namespace(), "name": claim}}});
    let volume = objects::with(objects::volume(&scope.unique(claim), class, host, "1Gi"), &reference);
    scope.create::<PersistentVolume>(volume).await?;
    if !claim.contains("-db-") {
        scope.create::<PersistentVolumeClaim>(objects::claim(claim, class, "1Gi")).await?;
    }
    let claims = scope.api::<PersistentVolumeClaim>();
    eventually(&format!("claim {claim} to be bound"), PATIENCE, async || {
        let found = claims.get_opt(claim).await?;
        let phase = found.and_then(|found| found.status?.phase);
        Ok((phase.as_deref() == Some("Bound")).then_some(()))
    })
    .await
}

/// A Pod that uses a claim on a node.
async fn pod(scope: &Scope, name: &str, claim: &str, node: &str) -> Result<()> {
    let pod = objects::on_node(objects::pod(name, &[objects::named("data", claim)]), node);
    scope.create::<Pod>(pod).await.map(|_| ())
}

/// What an audit is to find: a stuck Pod, a template that makes another, a claim that a drain strands, one whose node is gone,
/// and a StatefulSet of which one Pod has no volume. Answers the name of the node.
async fn at_risk(scope: &Scope) -> Result<String> {
    let node = scope.simulated_node("audit", &[]).await?.name().to_owned();
    let class = scope.unique("audit");
    let delayed = json!({"volumeBindingMode": "WaitForFirstConsumer"});
    scope.create::<StorageClass>(objects::with(objects::class(&class, NO_PROVISIONER), &delayed)).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("stuck", &class, "1Gi")).await?;
    pod(scope, "stuck", "stuck", &node).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("next", &class, "1Gi")).await?;
    let template = objects::on_node(objects::pod("t", &[objects::named("data", "next")]), &node);
    let labels = json!({"app": "next"});
    scope
        .create::<Deployment>(json!({"metadata": {"name": "next", "namespace": scope.namespace()}, "spec": {
            "replicas": 1, "paused": true, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]}}}))
        .await?;
    bound(scope, &class, "kept", &node).await?;
    pod(scope, "kept", "kept", &node).await?;
    bound(scope, &class, "gone", &scope.unique("gone")).await?;
    let labels = json!({"app": "db"});
    scope
        .create::<StatefulSet>(json!({"metadata": {"name": "db", "namespace": scope.namespace()}, "spec": {
            "replicas": 2, "serviceName": "db", "podManagementPolicy": "Parallel", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": objects::pod("t", &[])["spec"]},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": objects::claim_spec(&class, "1Gi")}]}}))
        .await?;
    bound(scope, &class, "data-db-0", &node).await?;
    Ok(node)
}

pub async fn what_is_stuck_or_at_risk_is_listed_by_its_reason(scope: &Scope) -> Result<()> {
    let node = at_risk(scope).await?;
    let expected = |code: &str, name: &str| (code.to_owned(), name.to_owned());
    let wanted = [
        expected("LB008", "next"),
        expected("LB008", "stuck"),
        expected("LB401", "kept"),
        expected("LB402", "gone"),
        expected("LB403", "db"),
    ];
    let mut last = (Vec::new(), Value::Null);
    eventually("the audit to list what was made", PATIENCE, async || {
        last = audited(scope)?;
        Ok(wanted.iter().all(|wanted| last.0.contains(wanted)).then_some(()))
    })
    .await
    .with_context(|| format!("{last:#?}"))?;
    let counts = &last.1;
    ensure!(counts["workloadsAtRisk"] == 1 && counts["claimsLeftByDrain"].as_u64() >= Some(1), "{counts}");
    ensure!(counts["claimsWithoutNode"] == 1 && counts["statefulSetsIncomplete"] == 1, "{counts}");

    let table = latebind(scope, &["audit", "-n", scope.namespace()])?;
    let text = told(&table);
    ensure!(table.status.code() == Some(1), "{text}");
    for title in
        ["Stuck now", "Stuck at the next roll-out", "Claims whose volume or node is gone", "Left Pending by a drain"]
    {
        ensure!(text.contains(title), "{title}: {text}");
    }
    ensure!(text.contains("Pods Pending after a drain (") || text.contains("Pods Pending after a drain;"), "{text}");
    let quiet = latebind(scope, &["audit", "-n", scope.namespace(), "--fail-on", "never", "-o", "json"])?;
    ensure!(quiet.status.code() == Some(0), "{}", told(&quiet));

    // Once the node is cordoned, it is time.
    let nodes = scope.all::<Node>();
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(&node, &PatchParams::default(), &cordon).await?;
    let text = told(&latebind(scope, &["audit", "-n", scope.namespace()])?);
    ensure!(
        text.contains(&format!("node {node} is cordoned; once evicted, pod kept cannot start on another one")),
        "{text}"
    );

    let refused = latebind(scope, &["audit", "-A", "--as", "system:serviceaccount:default:nobody"])?;
    ensure!(refused.status.code() == Some(3) && told(&refused).contains("right to list"), "{}", told(&refused));
    Ok(())
}

fn definition(kind: &str, plural: &str, scope: &str) -> Value {
    let count = json!({"type": "integer"});
    let text = json!({"type": "string"});
    let result = json!({"type": "object", "properties": {
        "source": text, "policy": text, "rule": text, "category": text, "severity": text, "message": text,
        "result": {"type": "string", "enum": ["pass", "fail", "warn", "error", "skip"]},
        "scored": {"type": "boolean"},
        "properties": {"type": "object", "additionalProperties": text},
        "resources": {"type": "array", "items": {"type": "object", "properties": {
            "kind": text, "namespace": text, "name": text}}}}});
    json!({
        "metadata": {"name": format!("{plural}.openreports.io")},
        "spec": {"group": "openreports.io", "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {
                    "summary": {"type": "object", "properties": {
                        "pass": count, "fail": count, "warn": count, "error": count, "skip": count}},
                    "results": {"type": "array", "items": result}}}}}]},
    })
}

pub async fn reports_in_the_cluster_follow_what_an_audit_finds(scope: &Scope) -> Result<()> {
    let namespace = scope.namespace();
    let audit = || latebind(scope, &["audit", "-n", namespace, "--report", "openreports", "-o", "json"]);
    let missing = audit()?;
    ensure!(missing.status.code() == Some(3), "{}", told(&missing));
    ensure!(told(&missing).contains("install its definitions first"), "{}", told(&missing));

    for (kind, plural, of) in [("Report", "reports", "Namespaced"), ("ClusterReport", "clusterreports", "Cluster")] {
        scope.create::<CustomResourceDefinition>(definition(kind, plural, of)).await?;
    }
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("openreports.io", "v1alpha1", "Report"));
    let reports: Api<DynamicObject> = Api::namespaced_with(scope.client(), namespace, &kind);
    let served = async || Ok(reports.list(&ListParams::default()).await.ok().map(|_| ()));
    eventually("reports to be served", PATIENCE, served).await?;

    let node = scope.simulated_node("reported", &[]).await?.name().to_owned();
    let class = scope.unique("reported");
    let delayed = json!({"volumeBindingMode": "WaitForFirstConsumer"});
    scope.create::<StorageClass>(objects::with(objects::class(&class, NO_PROVISIONER), &delayed)).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("stuck", &class, "1Gi")).await?;
    pod(scope, "stuck", "stuck", &node).await?;
    let output = audit()?;
    ensure!(output.status.code() == Some(1), "what was found counts all the same: {}", told(&output));
    let report = reports.get("latebind").await?;
    ensure!(report.data["summary"]["fail"].as_u64() >= Some(1), "{:#}", report.data);
    ensure!(report.data["results"][0]["resources"][0]["name"] == "stuck", "{:#}", report.data);

    // Nothing is left to look at: the report says so, and is not left as it was.
    scope.api::<Pod>().delete("stuck", &DeleteParams::default().grace_period(0)).await?;
    scope.api::<PersistentVolumeClaim>().delete("stuck", &DeleteParams::default()).await?;
    let pods = scope.api::<Pod>();
    eventually("the Pod to be gone", PATIENCE, async || Ok(pods.get_opt("stuck").await?.is_none().then_some(())))
        .await?;
    let output = audit()?;
    ensure!(output.status.code() == Some(0), "{}", told(&output));
    let report = reports.get("latebind").await?;
    ensure!(report.data["summary"]["fail"] == 0, "{:#}", report.data);
    ensure!(report.data["results"].as_array().is_some_and(Vec::is_empty), "{:#}", report.data);

    as_a_cron_job(scope).await
}

/// The account of the example has just the rights that an audit of the whole cluster takes.
async fn as_a_cron_job(scope: &Scope) -> Result<()> {
    apply(scope.cluster()?, &std::fs::read_to_string(CRON_JOB)?).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(scope.client(), "latebind-audit");
    ensure!(accounts.get("latebind-audit").await?.name_any() == "latebind-audit");
    let account = "system:serviceaccount:latebind-audit:latebind-audit";
    let output = latebind(scope, &["audit", "-A", "--report", "openreports", "--fail-on", "never", "--as", account])?;
    ensure!(output.status.code() == Some(0), "{}", told(&output));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("openreports.io", "v1alpha1", "ClusterReport"));
    let of_cluster: Api<DynamicObject> = Api::all_with(scope.client(), &kind);
    ensure!(of_cluster.get_opt("latebind").await?.is_some(), "classes were looked at: {}", told(&output));
    delete(scope.cluster()?, &["-f", CRON_JOB]).await
}
