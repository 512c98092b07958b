//! The rights in `webhook-manifests/parts/rescue-rbac.yaml` are enough, and every one of them is used.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::SignedDuration;
use kube::CustomResourceExt;
use kube::api::{DeleteParams, ListParams};
use latebind::crd::PinPolicy;
use latebind_cluster::{Cluster, Scope, eventually};
use serde::Deserialize;
use serde_json::json;

use crate::process::{Rescuer, USER, deeds, leave, rights};
use crate::races::{failure, give_back};
use crate::stage::*;

type Right = (String, String, String);

pub async fn are_enough_and_all_used(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    // An API server that has just restarted refuses for a moment, and another test restarts it.
    latebind_test_support::local::install(&scope.client(), [PinPolicy::crd()]).await?;
    let earlier = deeds(cluster)?.len();
    let rescuer = Rescuer::start(cluster, &[]).await?;
    exercise(scope).await?;
    rescuer.signal("TERM").await?;
    eventually("latebind to end", PATIENCE, async || Ok(rescuer.log()?.contains("ended").then_some(()))).await?;

    let done = deeds(cluster)?.split_off(earlier);
    let refused: Vec<_> = done.iter().filter(|deed| matches!(deed.code, 401 | 403)).collect();
    // Events of a namespace that a test has deleted are refused whatever the rights.
    let refused: Vec<_> = refused.into_iter().filter(|deed| deed.resource != "events").collect();
    ensure!(refused.is_empty(), "{refused:?}");

    let mut used: BTreeSet<Right> =
        done.iter().map(|deed| (deed.group.clone(), deed.resource.clone(), deed.verb.clone())).collect();
    // A PUT of what does not exist takes both rights.
    let made = done.iter().filter(|deed| deed.verb == "update" && deed.code == 201);
    used.extend(made.map(|deed| (deed.group.clone(), deed.resource.clone(), "create".to_owned())));
    let granted = granted()?;
    // This API server has streaming lists; an older one is asked for a list before the watch.
    let for_older =
        |right: &Right| right.2 == "list" && granted.contains(&(right.0.clone(), right.1.clone(), "watch".into()));
    let unused: Vec<_> = granted.iter().filter(|right| !used.contains(*right) && !for_older(right)).collect();
    ensure!(unused.is_empty(), "granted and not used: {unused:?}");
    let beyond: Vec<_> = used.iter().filter(|right| !right.1.is_empty() && !granted.contains(*right)).collect();
    ensure!(beyond.is_empty(), "used and not granted: {beyond:?}");
    every_write_names_what_was_decided_on(cluster)
}

/// Every patch of a claim or volume, whichever test it comes from, carries the UID and the version that were decided on:
/// of an object that was made again in between, the API server refuses it.
fn every_write_names_what_was_decided_on(cluster: &Cluster) -> Result<()> {
    let mut patches = 0;
    for event in cluster.audit_log()? {
        // What is refused early is not read.
        let is_stored = event["responseStatus"]["code"] == 200;
        let is_ours = event["user"]["username"] == USER && event["verb"] == "patch" && is_stored;
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        if !is_ours || !matches!(resource, "persistentvolumeclaims" | "persistentvolumes") {
            continue;
        }
        let metadata = &event["requestObject"]["metadata"];
        ensure!(metadata["uid"].is_string() && metadata["resourceVersion"].is_string(), "{event}");
        patches += 1;
    }
    ensure!(patches > 0, "no write is in the audit log");
    Ok(())
}

/// Everything that rescue ever does, once.
async fn exercise(scope: &Scope) -> Result<()> {
    policy(scope).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    volume(scope, "disk", &fixed, node.name(), "1Gi").await?;
    claim(scope, "fixed", &fixed, "1Gi").await?;
    stuck(scope, "fixed", node.name(), &["fixed"]).await?;
    bound_to(scope, "fixed").await?;
    claim(scope, "gone", &made, "1Gi").await?;
    annotate(scope, "gone", json!({SELECTED_NODE: "node-that-never-was"})).await?;
    stuck(scope, "gone", node.name(), &["gone"]).await?;
    eventually("the gone node to be replaced", PATIENCE, async || {
        let claim = scope.claim("gone").await?;
        let selected = claim.metadata.annotations.as_ref().and_then(|found| found.get(SELECTED_NODE)).cloned();
        Ok((selected.as_deref() == Some(node.name())).then_some(()))
    })
    .await?;
    failure(scope, "gone", "disk full", SignedDuration::ZERO).await?;
    give_back(scope, "gone").await?;
    scope.event("gone", "NodeGivenBack", "disk full", PATIENCE).await?;

    // What is said again makes the first event count.
    claim(scope, "lacks", &fixed, "9Gi").await?;
    for _ in 0..2 {
        stuck(scope, "lacks", node.name(), &["lacks"]).await?;
        let pod = scope.pod("lacks").await?.metadata.uid.context("a UID")?;
        let pods = scope.api::<Event>();
        let of_pod = ListParams::default().fields(&format!("involvedObject.uid={pod},reason=NoVolumeFits"));
        eventually("the Pod to be told", PATIENCE, async || Ok(pods.list(&of_pod).await?.items.pop().map(drop)))
            .await?;
        scope.api::<Pod>().delete("lacks", &DeleteParams::default().grace_period(0)).await?;
    }
    eventually("an event that counts", PATIENCE, async || {
        let fields = ListParams::default()
            .fields("involvedObject.kind=PersistentVolumeClaim,involvedObject.name=lacks,reason=NoVolumeFits");
        let events = scope.api::<Event>().list(&fields).await?.items;
        let counts = |event: &Event| event.series.as_ref().and_then(|series| series.count) == Some(2);
        Ok(events.iter().any(counts).then_some(()))
    })
    .await
}

/// A policy about nobody, which gets its status all the same.
async fn policy(scope: &Scope) -> Result<()> {
    let name = scope.unique("nobody");
    let spec = json!({ "mode": "Audit", "namespaces": { "names": ["nobody"] } });
    scope.create::<PinPolicy>(json!({ "metadata": { "name": name }, "spec": spec })).await?;
    eventually("the status of the policy", PATIENCE, async || {
        Ok(scope.all::<PinPolicy>().get(&name).await?.status.map(drop))
    })
    .await
}

#[derive(Deserialize)]
struct Role {
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// Group, resource and verb of everything that the file grants.
fn granted() -> Result<BTreeSet<Right>> {
    let text = std::fs::read_to_string(rights())?;
    let roles: Vec<Role> = serde_saphyr::from_multiple(&text).context("the file of rights")?;
    let mut granted = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| &role.rules) {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                granted.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
    }
    Ok(granted)
}
