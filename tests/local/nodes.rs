//! Local volumes on real nodes, installed by one command, with latebind as real Pods.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Node as NodeObject, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind::crd::{LocalNode, LocalPool, LocalVolume};
use latebind_cluster::image;
use latebind_cluster::{Cluster, Node, Scope, eventually, holds_for};
use latebind_test_support::objects::{self, of_claim};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::chart::provisioner_with;
use latebind_test_support::chart::NAMESPACE;
use latebind_test_support::diagnosed::diagnosed;
use latebind_test_support::local::path_of;

/// The image that tests build from this tree.
const IMAGE: &str = "localhost/latebind:test";
pub const CLASS: &str = "latebind-local";
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Label of namespaces that the webhook does not hear of.
const WITHOUT_WEBHOOK: &str = "tests.latebind.dev/without-webhook";

static INSTALLED: OnceCell<()> = OnceCell::const_new();

fn manifest() -> Result<String> {
    manifest_with(&[])
}

/// What is installed, with more settings.
pub fn manifest_with(more: &[&str]) -> Result<String> {
    let settings = format!(
        r#"--set-json=webhook.namespaceMatchExpressions=[{{"key":"{WITHOUT_WEBHOOK}","operator":"DoesNotExist"}}]"#
    );
    let disks = r#"--set-json=agent.diskPaths=["/mnt/disks"]"#;
    let all = [&[settings.as_str(), disks], more].concat();
    Ok(provisioner_with(&all)?.replace("ghcr.io/latebind/latebind:0.1.0", IMAGE))
}

/// Applies the manifest, once, and waits for its Pods.
pub async fn installed(scope: &Scope) -> Result<&Cluster> {
    let cluster = scope.cluster()?;
    INSTALLED
        .get_or_try_init(|| async {
            let archive = tokio::task::spawn_blocking(|| image::latebind(IMAGE)).await??;
            for node in cluster.nodes() {
                node.import(&archive).await?;
            }
            cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest()?).await?.success()?;
            rolled_out(cluster).await
        })
        .await?;
    Ok(cluster)
}

pub async fn rolled_out(cluster: &Cluster) -> Result<()> {
    for (namespace, workload) in [
        (NAMESPACE, "deployment/latebind-controller"),
        (NAMESPACE, "deployment/latebind-webhook"),
        ("latebind-agent", "daemonset/latebind-agent"),
    ] {
        let arguments = ["--namespace", namespace, "rollout", "status", "--timeout=90s", workload];
        let output = cluster.kubectl(&arguments).await?;
        if output.code != Some(0) {
            let told = cluster.kubectl(&["--namespace", namespace, "describe", "pods"]).await?.stdout;
            let selector = "--selector=app.kubernetes.io/name=latebind";
            let logs = cluster.kubectl(&["--namespace", namespace, "logs", "--prefix", selector]).await?.stdout;
            bail!("{workload} is not rolled out: {}\n{told}\n{logs}", output.stderr);
        }
    }
    Ok(())
}

pub fn claim_spec(class: &str) -> Value {
    objects::claim_spec(class, "1Mi")
}

pub async fn claim(scope: &Scope, name: &str, class: &str) -> Result<()> {
    scope.create::<PersistentVolumeClaim>(objects::claim(name, class, "1Mi")).await.map(drop)
}

/// A Pod that writes its own name into its volume.
pub fn pod(name: &str, node: Option<&str>, volume: &Value) -> Value {
    let volume = objects::with(volume.clone(), &json!({ "name": "data" }));
    let pod = objects::running(objects::pod(name, &[volume]), "hostname > /data/name && sleep 3600");
    let tolerant = json!({
        "metadata": { "labels": { "app": name } }, "spec": { "tolerations": [{ "operator": "Exists" }] },
    });
    let pod = objects::with(pod, &tolerant);
    match node {
        Some(node) => objects::on_node(pod, node),
        None => pod,
    }
}

/// The volume of a claim, once its Pod runs and has written into it.
pub async fn written(scope: &Scope, pod: &str, claim: &str) -> Result<(PersistentVolume, String)> {
    let running = scope.pod_phase(pod, "Running", PATIENCE).await?;
    let node = running.spec.and_then(|spec| spec.node_name).context("it runs somewhere")?;
    let name = scope.claim(claim).await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&name).await?;
    let file = path_of(&volume).join("name");
    let on = scope.cluster()?.node(&node)?;
    eventually("the file on the node", PATIENCE, async || {
        let found = on.shell(&format!("cat {} 2>/dev/null || true", file.display())).await?;
        Ok((found.trim() == pod).then_some(()))
    })
    .await?;
    Ok((volume, node))
}

/// The volume and every trace of it on the node are gone.
pub async fn removed(scope: &Scope, volume: &PersistentVolume, node: &str) -> Result<()> {
    let (volumes, name) = (scope.all::<PersistentVolume>(), volume.name_any());
    let (path, node) = (path_of(volume), scope.cluster()?.node(node)?);
    let base = volume.annotations().get("latebind.dev/base").context("a base")?;
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone()).context("a claim")?;
    eventually(&format!("{name} and its directory to go"), PATIENCE, async || {
        let script = format!("ls -d {} {base}/.latebind/*/{claim} {base}/.trash/* 2>/dev/null || true", path.display());
        let left = node.shell(&script).await?;
        let gone = volumes.get_opt(&name).await?.is_none();
        ensure!(gone && left.trim().is_empty(), "left: {gone} {left}");
        Ok(Some(()))
    })
    .await
}

pub async fn delete_pod(scope: &Scope, name: &str) -> Result<()> {
    let pods = scope.api::<Pod>();
    pods.delete(name, &DeleteParams::default()).await?;
    eventually("the Pod to go", PATIENCE, async || Ok(pods.get_opt(name).await?.is_none().then_some(()))).await
}

pub async fn delete_claim(scope: &Scope, name: &str) -> Result<()> {
    scope.api::<PersistentVolumeClaim>().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

pub fn last(cluster: &Cluster) -> &Node {
    cluster.nodes().last().unwrap()
}

async fn pinned(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?).name();
    claim(scope, "data", CLASS).await?;
    scope.create::<Pod>(pod("pinned", Some(node), &of_claim("data"))).await?;
    let (volume, on) = written(scope, "pinned", "data").await?;
    ensure!(on == node, "it runs on {on}");
    delete_pod(scope, "pinned").await?;
    delete_claim(scope, "data").await?;
    removed(scope, &volume, node).await?;

    let own = json!({ "ephemeral": { "volumeClaimTemplate": { "spec": claim_spec(CLASS) } } });
    scope.create::<Pod>(pod("own", Some(node), &own)).await?;
    let (volume, _) = written(scope, "own", "own-data").await?;
    delete_pod(scope, "own").await?;
    removed(scope, &volume, node).await
}

pub async fn a_pinned_pod_runs_with_the_webhook(scope: &Scope) -> Result<()> {
    pinned(scope).await
}

pub async fn a_pinned_pod_runs_without_the_webhook(scope: &Scope) -> Result<()> {
    without_webhook(scope).await?;
    pinned(scope).await
}

/// No Pod of the namespace is rewritten, as if the webhook were away; whoever is stuck there is still rescued.
pub async fn without_webhook(scope: &Scope) -> Result<()> {
    let off = json!({ "metadata": { "labels": { WITHOUT_WEBHOOK: "" } } });
    let namespaces = scope.all::<Namespace>();
    namespaces.patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(&off)).await?;
    Ok(())
}

/// Both write into one ReadWriteMany volume at the same time; one that names another node does not get it.
pub async fn two_pods_of_one_node_share_a_volume(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let node = last(cluster);
    let other = cluster.nodes().first().context("another node")?;
    let class = scope.unique("shared");
    let parameters = json!({ "parameters": { "pool": CLASS, "sharedOnNode": "true" } });
    scope.create::<StorageClass>(objects::with(objects::class(&class, "local.latebind.dev"), &parameters)).await?;
    let many = json!({ "spec": { "accessModes": ["ReadWriteMany"] } });
    scope.create::<PersistentVolumeClaim>(objects::with(objects::claim("data", &class, "1Mi"), &many)).await?;
    let writer = |name: &str, node: Option<&str>| {
        let pod = objects::pod(name, &[of_claim("data")]);
        let script = "while true; do hostname >> /data/all; hostname > /data/$(hostname); sleep 1; done";
        let pod = objects::running(pod, script);
        node.map_or(pod.clone(), |node| objects::on_node(pod, node))
    };
    scope.create::<Pod>(writer("first", Some(node.name()))).await?;
    scope.pod_phase("first", "Running", PATIENCE).await?;
    // The scheduler follows the volume's affinity.
    scope.create::<Pod>(writer("second", None)).await?;
    let second = scope.pod_phase("second", "Running", PATIENCE).await?;
    ensure!(second.spec.and_then(|spec| spec.node_name).as_deref() == Some(node.name()), "on another node");
    let bound = scope.claim("data").await?.spec.and_then(|spec| spec.volume_name).context("bound")?;
    let volume = scope.all::<PersistentVolume>().get(&bound).await?;
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    ensure!(modes == ["ReadWriteMany"], "{modes:?}");
    let path = path_of(&volume).display().to_string();
    eventually("lines of both in one file", PATIENCE, async || {
        let lines = node.shell(&format!("sort -u {path}/all; ls {path}")).await?;
        Ok(["first", "second"].iter().all(|name| lines.matches(name).count() == 2).then_some(()))
    })
    .await?;
    // No volume of that claim is on the other node.
    without_webhook(scope).await?;
    scope.create::<Pod>(writer("elsewhere", Some(other.name()))).await?;
    scope.event("elsewhere", "FailedMount", "NodeAffinity", Duration::from_secs(150)).await?;
    for name in ["elsewhere", "second", "first"] {
        delete_pod(scope, name).await?;
    }
    delete_claim(scope, "data").await?;
    removed(scope, &volume, node.name()).await
}

pub async fn a_stateful_set_of_three_keeps_its_data(scope: &Scope) -> Result<()> {
    installed(scope).await?;
    stateful_set(scope, None).await
}

/// Its template names the node, and nobody rewrites its Pods.
pub async fn a_pinned_stateful_set_of_three_keeps_its_data_without_the_webhook(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?).name();
    without_webhook(scope).await?;
    stateful_set(scope, Some(node)).await
}

async fn stateful_set(scope: &Scope, node: Option<&str>) -> Result<()> {
    let pinned_to = node;
    let mut template = pod("set", pinned_to, &json!({}));
    template["spec"]["volumes"] = json!([]);
    scope
        .create::<StatefulSet>(json!({ "metadata": { "name": "set" }, "spec": {
            "serviceName": "set", "replicas": 3, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": "set" } }, "template": template,
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim_spec(CLASS) }] } }))
        .await?;
    let mut made = Vec::new();
    for number in 0..3 {
        made.push(written(scope, &format!("set-{number}"), &format!("data-set-{number}")).await?);
    }
    // A Pod that comes back finds its volume, on the same node.
    let before = scope.pod("set-1").await?.uid();
    scope.api::<Pod>().delete("set-1", &DeleteParams::default()).await?;
    eventually("set-1 to be another Pod", PATIENCE, async || {
        Ok(scope.api::<Pod>().get_opt("set-1").await?.filter(|pod| pod.uid() != before).map(drop))
    })
    .await?;
    let (volume, node) = written(scope, "set-1", "data-set-1").await?;
    ensure!((volume.name_any(), &node) == (made[1].0.name_any(), &made[1].1), "another volume");
    ensure!(pinned_to.is_none_or(|pinned| made.iter().all(|(_, on)| on == pinned)), "not all on {pinned_to:?}");
    scope.api::<StatefulSet>().delete("set", &DeleteParams::default()).await?;
    for (number, (volume, node)) in made.iter().enumerate() {
        delete_claim(scope, &format!("data-set-{number}")).await?;
        removed(scope, volume, node).await?;
    }
    Ok(())
}

pub async fn a_disk_that_is_not_mounted_gets_no_volume_until_it_is(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    let (name, disk) = (scope.unique("disk"), format!("/var/lib/latebind/{}", scope.unique("disk")));
    node.shell(&format!("mkdir -p {disk}")).await?;
    let path = json!({ "path": disk, "requireMount": true });
    let nodes = json!([{ "names": [node.name()], "paths": [path] }, { "paths": [] }]);
    scope.create::<LocalPool>(json!({ "metadata": { "name": name }, "spec": { "nodes": nodes } })).await?;
    scope.create::<StorageClass>(objects::class(&name, "local.latebind.dev")).await?;
    let reports = scope.all::<LocalNode>();
    eventually("the node's report to say so", PATIENCE, async || {
        let report = reports.get(node.name()).await?.status.unwrap_or_default();
        let told = report.conditions.iter().any(|it| it.status == "False" && it.message.contains(&disk));
        Ok(told.then_some(()))
    })
    .await?;
    claim(scope, "data", &name).await?;
    scope.create::<Pod>(pod("pinned", Some(node.name()), &of_claim("data"))).await?;
    let told = scope.event("data", "ProvisioningFailed", "nothing is mounted", PATIENCE).await?;
    ensure!(told.contains(&disk) && told.contains(node.name()), "{told}");
    // The node is selected and given back in turn; whoever asks again is told of the disk.
    eventually("the diagnosis to name the disk", PATIENCE, async || {
        let found = diagnosed(scope, env!("CARGO_BIN_EXE_latebind"), "pvc/data")?;
        let is_told = found["cause"] == "DiskNotReady" || found["cause"] == "ProvisionerFails";
        ensure!(is_told && found.to_string().contains(&disk), "{found:#}");
        Ok(Some(()))
    })
    .await?;
    // The agent was started before: it sees the mount all the same.
    node.shell(&format!("mount -t tmpfs tmpfs {disk}")).await?;
    let (volume, _) = written(scope, "pinned", "data").await?;
    ensure!(path_of(&volume).starts_with(&disk), "{volume:?}");
    delete_pod(scope, "pinned").await?;
    delete_claim(scope, "data").await?;
    removed(scope, &volume, node.name()).await?;
    scope.all::<LocalPool>().delete(&name, &DeleteParams::default()).await?;
    node.shell(&format!("umount -l {disk}")).await.map(drop)
}

/// Cordoned, and with taints that evict everything else.
pub async fn a_cordoned_and_tainted_node_still_makes_and_removes(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?).name();
    claim(scope, "early", CLASS).await?;
    scope.create::<Pod>(pod("early", Some(node), &of_claim("early"))).await?;
    let (early, _) = written(scope, "early", "early").await?;
    let nodes = scope.all::<NodeObject>();
    let taints = json!([{ "key": "test", "value": "x", "effect": "NoSchedule" }, { "key": "test", "value": "y", "effect": "NoExecute" }]);
    let set =
        |unschedulable: bool, taints: Value| json!({ "spec": { "unschedulable": unschedulable, "taints": taints } });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&set(true, taints))).await?;
    let outcome = async {
        without_webhook(scope).await?;
        delete_pod(scope, "early").await?;
        delete_claim(scope, "early").await?;
        removed(scope, &early, node).await?;
        claim(scope, "late", CLASS).await?;
        scope.create::<Pod>(pod("late", Some(node), &of_claim("late"))).await?;
        let (late, _) = written(scope, "late", "late").await?;
        delete_pod(scope, "late").await?;
        delete_claim(scope, "late").await?;
        removed(scope, &late, node).await
    }
    .await;
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(&set(false, json!(null)))).await?;
    rolled_out(scope.cluster()?).await?;
    outcome
}

/// Definitions deleted, finalizers torn off, and the same command again.
pub async fn data_outlives_the_definitions(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let node = last(cluster).name();
    claim(scope, "data", CLASS).await?;
    scope.create::<Pod>(pod("keeper", Some(node), &of_claim("data"))).await?;
    let (volume, _) = written(scope, "keeper", "data").await?;
    let definitions = ["localvolumes.latebind.dev", "localpools.latebind.dev", "localnodes.latebind.dev"];
    cluster.kubectl(&[&["delete", "crd", "--wait=false"], &definitions[..]].concat()).await?.success()?;
    let locals = scope.all::<LocalVolume>();
    eventually("the definitions to go", PATIENCE, async || {
        let torn_off = json!({ "metadata": { "finalizers": null } });
        for local in locals.list(&ListParams::default()).await.map_or(vec![], |list| list.items) {
            locals.patch(&local.name_any(), &PatchParams::default(), &Patch::Merge(&torn_off)).await.ok();
        }
        let arguments = [&["get", "crd", "--ignore-not-found", "--output=name"], &definitions[..]].concat();
        Ok(cluster.kubectl(&arguments).await?.success()?.trim().is_empty().then_some(()))
    })
    .await?;
    let file = path_of(&volume).join("name");
    let look = async || {
        let found = cluster.node(node)?.shell(&format!("cat {} || true", file.display())).await?;
        Ok(found.trim() == "keeper")
    };
    ensure!(holds_for("the file", Duration::from_secs(3), look).await?, "the file is gone");
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest()?).await?.success()?;
    let claim_uid = scope.claim("data").await?.uid().context("a UID")?;
    eventually("the volume to be known again", PATIENCE, async || {
        let found = locals.get_opt(&LocalVolume::name_for(&claim_uid, node)).await?;
        Ok(found.filter(LocalVolume::is_ready).map(drop))
    })
    .await?;
    ensure!(look().await?, "the file is gone");
    // And everything goes on: new volumes from the pool that was made again, old ones removed.
    claim(scope, "more", CLASS).await?;
    scope.create::<Pod>(pod("more", Some(node), &of_claim("more"))).await?;
    let (more, _) = written(scope, "more", "more").await?;
    for (name, claim, volume) in [("more", "more", &more), ("keeper", "data", &volume)] {
        delete_pod(scope, name).await?;
        delete_claim(scope, claim).await?;
        removed(scope, volume, node).await?;
    }
    Ok(())
}

/// A claim that a person, or a test, orders for a node: no Pod takes part.
pub async fn ordered(scope: &Scope, name: &str, node: &str) -> Result<PersistentVolume> {
    scope.create::<PersistentVolumeClaim>(objects::selected(objects::claim(name, CLASS, "1Mi"), node)).await?;
    let bound = scope.claim_phase(name, "Bound", PATIENCE).await?;
    let volume = bound.spec.and_then(|spec| spec.volume_name).context("bound without a volume")?;
    let volume = scope.all::<PersistentVolume>().get(&volume).await?;
    let path = path_of(&volume).display().to_string();
    scope.cluster()?.node(node)?.shell(&format!("test -d {path}")).await.context("the directory")?;
    Ok(volume)
}

/// A Pod for each directory is what the older provisioners need, with an image and a right to make it.
pub async fn no_registry_is_asked_and_no_pod_is_made(scope: &Scope) -> Result<()> {
    const OURS: [(&str, &str); 3] =
        [(NAMESPACE, "latebind-controller"), (NAMESPACE, "latebind-webhook"), ("latebind-agent", "latebind-agent")];
    let cluster = installed(scope).await?;
    let node = last(cluster).name();
    let pods = async || {
        let mut found = Vec::new();
        for namespace in [NAMESPACE, "latebind-agent", "kube-system", "default", scope.namespace()] {
            let pods = Api::<Pod>::namespaced(scope.client(), namespace).list(&ListParams::default()).await?;
            found.extend(pods.iter().map(|pod| (namespace.to_owned(), pod.name_any(), pod.uid())));
        }
        anyhow::Ok(found)
    };
    let before = pods().await?;
    let mut volumes = Vec::new();
    for number in 0..4 {
        volumes.push(ordered(scope, &format!("data{number}"), node).await?);
    }
    for (number, volume) in volumes.iter().enumerate() {
        delete_claim(scope, &format!("data{number}")).await?;
        removed(scope, volume, node).await?;
    }
    ensure!(before == pods().await?, "Pods came or went: {before:?} {:?}", pods().await?);
    for (namespace, account) in OURS {
        let account = format!("--as=system:serviceaccount:{namespace}:{account}");
        for what in ["pods", "jobs.batch", "daemonsets.apps", "pods/ephemeralcontainers"] {
            let answer = cluster.kubectl(&["auth", "can-i", "create", what, "--all-namespaces", &account]).await?;
            ensure!(answer.stdout.trim() == "no", "{account} may create {what}: {}", answer.stdout);
        }
        let events = Api::<Event>::namespaced(scope.client(), namespace).list(&ListParams::default()).await?;
        for event in events {
            let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
            let pulled = reason == "Pulling" || reason == "Pulled" && !message.contains("already present");
            ensure!(!pulled && !message.contains("pull"), "{reason}: {message}");
        }
    }
    let made = cluster.audit_log()?.into_iter().find(|event| {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        user.contains(":latebind-") && event["objectRef"]["resource"] == "pods" && event["verb"] == "create"
    });
    ensure!(made.is_none(), "{made:?}");
    Ok(())
}
