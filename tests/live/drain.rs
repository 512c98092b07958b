//! `latebind drain`: what it leaves, what it refuses, and how far it gets when nothing ends.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use latebind_cluster::{Scope, Version, eventually};
use latebind_test_support::objects::{self, NO_PROVISIONER};
use serde_json::{Value, json};

use crate::shared::{PATIENCE, class, latebind, told, volume};

/// A Deployment of one Pod on the node, with these volumes.
fn deployment(name: &str, node: &str, volumes: &[Value]) -> Value {
    let labels = json!({ "app": name });
    let mut template = objects::pod(name, volumes);
    template["metadata"] = json!({ "labels": labels });
    template["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    json!({ "metadata": { "name": name }, "spec": { "selector": { "matchLabels": labels }, "template": template } })
}

async fn intent(scope: &Scope, name: &str) -> Result<(bool, Option<String>)> {
    let node = scope.all::<Node>().get(name).await?;
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    Ok((cordoned, node.annotations().get("latebind.dev/drain").cloned()))
}

pub async fn what_it_does_not_take_is_left_and_named(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    scope.simulated_node("other", &[]).await?;
    let name = node.name();
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    volume(scope, "disk", &fixed, name, "2Gi", json!({})).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("by-hand", &fixed, "1Gi")).await?;
    scope.create::<Deployment>(deployment("db", name, &[objects::of_claim("by-hand")])).await?;
    let files = json!({ "name": "files", "emptyDir": {} });
    scope.create::<Deployment>(deployment("cache", name, &[files])).await?;
    scope.create::<Pod>(objects::on_node(objects::pod("bare", &[]), name)).await?;
    eventually("all Pods to be on the node", PATIENCE, async || {
        let pods = scope.api::<Pod>().list(&ListParams::default()).await?;
        let here = pods.iter().filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name));
        Ok((here.count() == 3).then_some(()))
    })
    .await?;

    let retire = ["drain", name, "--for=retire", "--dry-run"];
    let dry = latebind(scope, &retire)?;
    let text = told(&dry);
    ensure!(dry.status.code() == Some(1), "{text}");
    for word in
        ["bare: no controller", "--force", "it has an emptyDir", "claim by-hand is not one that a StatefulSet makes"]
    {
        ensure!(text.contains(word), "{word:?} is not in {text}");
    }
    ensure!(!text.contains("Evicts:"), "{text}");
    let all = latebind(scope, &[&retire[..], &["--force", "--delete-emptydir-data"]].concat())?;
    ensure!(told(&all).contains("pod/bare -n") && told(&all).contains("Evicts:"), "{}", told(&all));
    ensure!(intent(scope, name).await? == (false, None), "a dry run changes nothing");

    // It is held, so that it does not end.
    let hold = |finalizers: Value| Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
    let pods = scope.api::<Pod>();
    pods.patch("bare", &PatchParams::default(), &hold(json!(["tests.latebind.dev/hold"]))).await?;
    let late = latebind(scope, &["drain", name, "--for=reboot", "--yes", "--force", "--timeout=3s"])?;
    ensure!(late.status.code() == Some(4) && told(&late).contains("run it again to go on"), "{}", told(&late));
    ensure!(told(&late).contains("pod/bare -n") && told(&late).contains("is evicted"), "{}", told(&late));
    ensure!(intent(scope, name).await? == (true, Some("reboot".to_owned())));
    let ran_out = if Version::from_env()?.minor() >= 37 { ["False", "False"].map(Some) } else { [None, None] };
    ensure!(conditions(scope, name).await? == ran_out.map(|it| it.map(str::to_owned)), "it ran out of time");
    pods.patch("bare", &PatchParams::default(), &hold(Value::Null)).await?;
    let left = pods.list(&ListParams::default()).await?;
    let cache = left.iter().find(|pod| pod.labels().get("app").is_some_and(|app| app == "cache")).context("its Pod")?;
    ensure!(cache.metadata.deletion_timestamp.is_none(), "it was left");
    let back = latebind(scope, &["uncordon", name])?;
    ensure!(back.status.success() && intent(scope, name).await? == (false, None), "{}", told(&back));
    ensure!(conditions(scope, name).await? == [None, None], "they speak of a drain that is over");
    Ok(())
}

/// Of the conditions `DrainInProgress` and `Drained` what they say.
async fn conditions(scope: &Scope, name: &str) -> Result<[Option<String>; 2]> {
    let all = scope.all::<Node>().get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
    let said =
        |kind: &str| all.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.clone());
    Ok(["DrainInProgress", "Drained"].map(said))
}

pub async fn what_is_wrong_or_not_known_changes_nothing(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let account = format!("system:serviceaccount:{}:default", scope.namespace());
    let role = scope.unique("pods-and-nodes");
    scope
        .kubectl(&["create", "clusterrole", &role, "--verb=get,list,patch", "--resource=nodes,pods"])
        .await?
        .success()?;
    let to = format!("--serviceaccount={}:default", scope.namespace());
    scope.kubectl(&["create", "clusterrolebinding", &role, &format!("--clusterrole={role}"), &to]).await?.success()?;
    for (code, args, word) in [
        (2, vec!["drain", "no-such-node", "--for=reboot", "--yes"], "there is no node/no-such-node"),
        (2, vec!["drain", "No_Node", "--for=reboot"], "is not the name of a node"),
        (2, vec!["drain", node.name()], "--for"),
        (2, vec!["drain", node.name(), "--for=fun"], "reboot"),
        (2, vec!["uncordon", "no-such-node"], "there is no node/no-such-node"),
        (3, vec!["drain", node.name(), "--for=reboot", "--yes", "--as", "nobody"], "forbidden"),
    ] {
        let output = latebind(scope, &args)?;
        ensure!(output.status.code() == Some(code) && told(&output).contains(word), "{args:?}: {}", told(&output));
    }
    // Who may not list claims and volumes cannot know which are on the node alone.
    scope.create::<PersistentVolumeClaim>(objects::claim("data", "none", "1Gi")).await?;
    let mut web = deployment("web", node.name(), &[objects::of_claim("data")]);
    web["spec"]["template"]["spec"]["nodeName"] = json!(node.name());
    scope.create::<Deployment>(web).await?;
    let mut last = String::new();
    eventually("the rights and the Pod to count", PATIENCE, async || {
        let unsure = latebind(scope, &["drain", node.name(), "--for=retire", "--yes", "--as", &account])?;
        last = told(&unsure);
        Ok((unsure.status.code() == Some(5) && last.contains("nothing is done")).then_some(()))
    })
    .await
    .with_context(|| last.clone())?;
    ensure!(intent(scope, node.name()).await? == (false, None), "nothing was done");
    scope.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]).await?.success()?;
    Ok(())
}
