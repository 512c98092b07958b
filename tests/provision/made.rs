//! Volumes that are made.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use latebind::crd::LocalPool;
use latebind_cluster::{Scope, eventually};
use latebind_test_support::local::{PATIENCE, path_of};
use latebind_test_support::objects;
use serde_json::{Value, json};

use super::ground::Ground;

pub async fn a_claim_with_a_selected_node_is_bound_to_a_directory_and_both_go_with_it(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (volume, file) = ground.filled("data").await?;
    let name = volume.metadata.name.clone().unwrap();
    assert!(file.starts_with(ground.base()));
    assert_eq!(path_of(&volume).metadata()?.mode() & 0o7777, 0o777);
    assert_eq!(ground.base().metadata()?.mode() & 0o7777, 0o700);
    scope.event("data", "ProvisioningSucceeded", &name, PATIENCE).await?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

fn pod(name: &str, change: &serde_json::Value) -> serde_json::Value {
    objects::with(objects::pod(name, &[objects::named("v", "data")]), change)
}

pub async fn a_pod_that_the_scheduler_places_gets_its_volume(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let unordered = json!({ "metadata": { "annotations": null } });
    ground.claim("data", unordered).await?;
    let selector = json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": ground.node.name() } } });
    scope.create::<Pod>(pod("user", &selector)).await?;
    ground.bound("data").await?;
    let ephemeral = json!({ "spec": {
        "nodeSelector": { "kubernetes.io/hostname": ground.node.name() },
        "volumes": [{ "name": "v", "ephemeral": { "volumeClaimTemplate": { "spec": {
            "storageClassName": ground.class, "accessModes": ["ReadWriteOncePod"],
            "resources": { "requests": { "storage": "1Mi" } } } } } }],
    } });
    scope.create::<Pod>(pod("short", &ephemeral)).await?;
    ground.bound("short-v").await?;
    assert_eq!(ground.directories().len(), 2);
    Ok(())
}

/// Which path is chosen must count what other workers choose at the same moment.
pub async fn claims_that_come_at_once_take_a_path_each(scope: &Scope) -> Result<()> {
    const PATHS: usize = 40;
    let ground = Ground::new(scope, json!({})).await?;
    let paths: Vec<String> =
        (0..PATHS).map(|number| ground.directory.path().join(format!("p{number}")).display().to_string()).collect();
    let entry = json!({ "names": [ground.node.name()],
        "paths": paths.iter().map(|path| json!({ "path": path })).collect::<Vec<_>>() });
    let pool = scope.unique("paths");
    let spec = json!({ "placement": "RoundRobin", "nodes": [entry] });
    scope.create::<LocalPool>(json!({ "metadata": { "name": pool }, "spec": spec })).await?;
    let class = async |name: &str, parameters: serde_json::Value| {
        let class = objects::class(name, "local.latebind.dev");
        scope.create::<StorageClass>(objects::with(class, &json!({ "parameters": parameters }))).await
    };
    // When the last path is served, the controller has the agent's report about all of them.
    let last = scope.unique("last");
    class(&last, json!({ "pool": pool, "nodePath": paths[PATHS - 1] })).await?;
    ground.claim("probe", json!({ "spec": { "storageClassName": last } })).await?;
    ground.bound("probe").await?;
    // The others wait for their class, so that all of them are looked at in one moment.
    let late = scope.unique("late");
    let names: Vec<String> = (1..PATHS).map(|number| format!("data{number}")).collect();
    let of_late = json!({ "spec": { "storageClassName": late } });
    futures::future::try_join_all(names.iter().map(|name| ground.claim(name, of_late.clone()))).await?;
    class(&late, json!({ "pool": pool })).await?;
    let orders = eventually("every order", PATIENCE, async || {
        let orders = ground.locals().await?;
        ensure!(orders.len() == PATHS, "{} orders", orders.len());
        Ok(Some(orders))
    })
    .await?;
    let taken: BTreeSet<&str> = orders.iter().map(|order| order.spec.base.as_str()).collect();
    ensure!(taken.len() == PATHS, "{PATHS} volumes are in {} paths", taken.len());
    Ok(())
}

pub async fn an_immediate_claim_gets_a_node_of_the_pool(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "volumeBindingMode": "Immediate" })).await?;
    ground.claim("data", json!({ "metadata": { "annotations": null } })).await?;
    let volume = ground.bound("data").await?;
    assert!(path_of(&volume).starts_with(ground.base()));
    let name = volume.metadata.name.unwrap();
    ground.delete_claim("data").await?;
    ground.volume_gone(&name).await?;
    ground.all_clean().await
}

pub async fn an_immediate_claim_of_a_pinned_pod_goes_to_its_node(scope: &Scope) -> Result<()> {
    let mut ground = Ground::without_agent(scope, json!({ "volumeBindingMode": "Immediate" })).await?;
    let second = scope.simulated_node("second", &[]).await?;
    let patch = json!({ "spec": { "nodes": [{ "names": [ground.node.name(), second.name()], "paths": [{ "path": ground.base() }] }] } });
    scope
        .all::<latebind::crd::LocalPool>()
        .patch(&ground.class, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
        .await?;
    let pinned = json!({ "spec": { "nodeName": second.name() } });
    scope.create::<Pod>(pod("user", &pinned)).await?;
    let _agent = super::ground::Agent::start(scope.client(), second.name(), ground.directory.path());
    ground.start_agent();
    ground.wait_for_report().await?;
    ground.claim("data", json!({ "metadata": { "annotations": null } })).await?;
    let volume = ground.bound("data").await?;
    let affinity = serde_json::to_value(volume.spec.unwrap().node_affinity)?;
    let term = &affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(term["values"], json!([second.name()]));
    Ok(())
}

pub async fn a_volume_is_tied_by_the_label_and_not_by_the_name_of_the_node(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({ "parameters": { "type": "hostPath" } })).await?;
    let value = scope.unique("host");
    let patch = json!({ "metadata": { "labels": { "kubernetes.io/hostname": value } } });
    ground
        .nodes()
        .patch(ground.node.name(), &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
        .await?;
    let (volume, _) = ground.filled("data").await?;
    let affinity = serde_json::to_value(volume.spec.as_ref().unwrap().node_affinity.as_ref())?;
    let term = &affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(term["values"], json!([value]));
    // What leaked elsewhere: the label's value is no node's name.
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.metadata.name.unwrap()).await?;
    ground.all_clean().await
}

pub async fn the_class_says_how_the_directory_looks(scope: &Scope) -> Result<()> {
    let parameters = json!({ "parameters": {
        "pathPattern": "{namespace}/{claim}/{uid}", "mode": "2750", "uid": "1000", "gid": "2000", "onDelete": "archive",
    }, "mountOptions": ["noatime"] });
    let ground = Ground::new(scope, parameters).await?;
    ground.claim("data", json!({})).await?;
    let volume = ground.bound("data").await?;
    let path = path_of(&volume);
    let uid = scope.claim("data").await?.metadata.uid.unwrap();
    assert_eq!(path, ground.base().join(scope.namespace()).join("data").join(&uid));
    let made = path.metadata()?;
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o2750, 1000, 2000));
    std::fs::write(path.join("x"), "kept")?;
    ground.delete_claim("data").await?;
    ground.volume_gone(&volume.metadata.name.unwrap()).await?;
    assert_eq!(std::fs::read_to_string(ground.base().join(".archive").join(uid).join("x"))?, "kept");
    Ok(())
}

pub async fn a_class_that_shares_on_one_node_grants_access_by_many_and_ties_the_volume_all_the_same(
    scope: &Scope,
) -> Result<()> {
    let ground = Ground::new(scope, json!({ "parameters": { "sharedOnNode": "true" } })).await?;
    for (name, modes) in [("write", json!(["ReadWriteMany"])), ("read", json!(["ReadOnlyMany", "ReadWriteOnce"]))] {
        ground.claim(name, json!({ "spec": { "accessModes": modes } })).await?;
        let volume = ground.bound(name).await?;
        let spec = serde_json::to_value(volume.spec.as_ref())?;
        ensure!(spec["accessModes"] == modes, "{spec}");
        let term = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
        ensure!(term["values"] == json!([ground.node.name()]), "{spec}");
        ground.delete_claim(name).await?;
        ground.volume_gone(&volume.metadata.name.unwrap()).await?;
    }
    ground.all_clean().await
}

/// A conflict with what the controller manager writes costs one more of each, on a machine that is busy. Hence the least of
/// a few volumes.
pub async fn three_writes_make_a_volume_and_seven_remove_it(scope: &Scope) -> Result<()> {
    const ROUNDS: usize = 4;
    let ground = Ground::new(scope, json!({})).await?;
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let costs = costs_of_a_volume(&ground, &format!("data{round}")).await?;
        if costs.are_least() {
            return ground.all_clean().await;
        }
        seen.push(costs);
    }
    bail!("each of {ROUNDS} volumes cost more: {seen:#?}")
}

/// What was asked for, to make a volume and to remove it.
#[derive(Debug)]
struct Costs {
    made: Vec<String>,
    removed: Vec<String>,
    reads: Vec<String>,
}

impl Costs {
    fn are_least(&self) -> bool {
        const READS: usize = 12;
        let made = [
            "create localvolumes : 201",
            // The test itself.
            "create persistentvolumeclaims : 201",
            "create persistentvolumes : 201",
            "patch localvolumes status: 200",
        ];
        let removed = [
            "delete localvolumes : 200",
            "delete persistentvolumes : 200",
            // The order, its confirmation, and the end of the agent's work.
            "patch localvolumes : 200",
            "patch localvolumes : 200",
            "patch localvolumes : 200",
            // The agent asks for the confirmation.
            "patch localvolumes status: 200",
            "patch persistentvolumes : 200",
        ];
        self.made == made && self.removed == removed && self.reads.len() <= READS
    }
}

async fn costs_of_a_volume(ground: &Ground<'_>, name: &str) -> Result<Costs> {
    let scope = ground.scope;
    let from = scope.cluster()?.audit_log()?.len();
    ground.claim(name, json!({})).await?;
    let volume = ground.bound(name).await?;
    let claim = scope.claim(name).await?.metadata.uid.context("a UID")?;
    let (made, _) = asked(scope, from, (name, &claim))?;
    let finalizers = volume.metadata.finalizers.as_ref().map_or(0, Vec::len);
    ensure!(finalizers == 2, "ours and Kubernetes' own, from birth");

    let locals = ground.locals().await?;
    let from = scope.cluster()?.audit_log()?.len();
    scope.kubectl(&["delete", "persistentvolumeclaim", name]).await?.success()?;
    let gone = [format!("persistentvolume/{}", volume.name_any()), format!("localvolume/{}", locals[0].name_any())];
    for object in &gone {
        scope.kubectl(&["wait", "--for=delete", "--timeout=60s", object]).await?.success()?;
    }
    // A request is in the log when it was answered, which may be after others have seen what it did.
    let (removed, reads) = eventually("the last request in the log", PATIENCE, async || {
        let asked = asked(scope, from, (name, &claim))?;
        Ok(asked.0.iter().any(|write| write.starts_with("delete localvolumes")).then_some(asked))
    })
    .await?;
    Ok(Costs { made, removed, reads })
}

/// What controller and agent have asked for since a place in the audit log: writes of the claim's objects, and reads of
/// everything, watches left out. The test itself reads with kubectl.
fn asked(scope: &Scope, from: usize, (of, claim): (&str, &str)) -> Result<(Vec<String>, Vec<String>)> {
    const COUNTED: [&str; 4] = ["localvolumes", "localnodes", "persistentvolumes", "persistentvolumeclaims"];
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for event in &scope.cluster()?.audit_log()?[from..] {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let by_kubectl = text("/userAgent").starts_with("kubectl");
        let resource = text("/objectRef/resource");
        if text("/stage") != "ResponseComplete" || text("/user/username") != "admin" || by_kubectl {
            continue;
        }
        if !COUNTED.contains(&resource) {
            continue;
        }
        // What tests before this one left behind is still being cleaned up.
        let (verb, name) = (text("/verb"), text("/objectRef/name"));
        let is_own = name == of || name.contains(claim);
        match verb {
            "list" => reads.push(text("/requestURI").to_owned()),
            "get" if is_own || resource == "localnodes" => reads.push(text("/requestURI").to_owned()),
            "create" | "patch" | "update" | "delete" if is_own => {
                let (part, code) = (text("/objectRef/subresource"), &event["responseStatus"]["code"]);
                writes.push(format!("{verb} {resource} {part}: {code}"));
            }
            _ => {}
        }
    }
    writes.sort();
    Ok((writes, reads))
}
