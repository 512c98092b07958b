//! Claims whose node is gone: the controller as a process, with the rights that the chart gives it, on a control plane whose nodes
//! are simulated.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::installed::{class, controllers_kubeconfig};
use latebind_test_support::objects::{self, NO_PROVISIONER, claim_spec};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::nodes::PATIENCE;
use crate::rights::while_installed;

const POLICY: &str = "latebind.dev/lost-node-policy";
/// For how long a node must be gone here.
const GRACE: Duration = Duration::from_secs(3);

/// `latebind run --role controller` as the chart runs it. It ends when dropped.
async fn controller(scope: &Scope, what: &str) -> Result<Child> {
    let cluster = scope.cluster()?;
    let path = controllers_kubeconfig(cluster, "lost.kubeconfig").await?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(cluster.directory().join("logs/lost.log"))?;
    let (lost, grace) = (format!("--lost-nodes={what}"), format!("--lost-node-grace={}s", GRACE.as_secs()));
    Ok(Command::new(env!("CARGO_BIN_EXE_latebind"))
        .args([
            "run",
            "--role=controller",
            "--rescue=off",
            "--metrics-listen=127.0.0.1:0",
            "--most-lost-nodes-percent=0",
        ])
        .args([&lost, &grace, "--lease-namespace", NAMESPACE, "--log=info,latebind=debug", "--kubeconfig"])
        .arg(&path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()?)
}

pub async fn claims_of_lost_nodes_are_let_go_by_policy_alone(scope: &Scope) -> Result<()> {
    let manifest = render(&["--set=namespace.create=true", "--skip-tests", "--set=lostNodes.policy=Unbind"])?;
    // Of a cluster without any Node none is lost.
    scope.simulated_node("always", &[]).await?;
    while_installed(scope, &manifest, async || {
        explained(scope).await.context("explained")?;
        let mut running = controller(scope, "unbind").await?;
        let outcome = async {
            made_anew(scope).await.context("made anew")?;
            node_that_returns(scope).await.context("a node that returns")?;
            pod_that_runs(scope).await.context("a Pod that runs")?;
            two_at_once(scope).await.context("two at once")?;
            stateful_set(scope).await.context("a StatefulSet")
        }
        .await;
        running.kill().await?;
        outcome?;
        killed_in_between(scope).await.context("killed in between")?;
        stolen_token(scope).await.context("a stolen token")
    })
    .await
}

/// A node with a free disk of the class.
async fn node_with_disk(scope: &Scope, stem: &str, class: &str) -> Result<String> {
    let name = scope.simulated_node(stem, &[]).await?.name().to_owned();
    let mut volume = objects::volume(&scope.unique(&format!("pv-{stem}")), class, &name, "1Mi");
    objects::merge(&mut volume["spec"], &json!({ "persistentVolumeReclaimPolicy": "Delete" }));
    scope.create::<PersistentVolume>(volume).await?;
    Ok(name)
}

/// A class, whose claims have a policy if one is given.
async fn class_with(scope: &Scope, stem: &str, policy: Option<&str>) -> Result<String> {
    let name = class(scope, stem, NO_PROVISIONER).await?;
    if let Some(policy) = policy {
        let note = format!("{POLICY}={policy}");
        scope.cluster()?.kubectl(&["annotate", "storageclass", &name, &note]).await?.success()?;
    }
    Ok(name)
}

/// A Deployment of one Pod with a claim, on a node.
async fn deployed(scope: &Scope, name: &str, class: &str) -> Result<PersistentVolumeClaim> {
    let mut claim = objects::claim(name, class, "1Mi");
    objects::merge(&mut claim["metadata"], &json!({ "labels": { "app": name }, "annotations": { "team": "a" } }));
    scope.create::<PersistentVolumeClaim>(claim).await?;
    let labels = json!({ "app": name });
    let mut template = objects::pod(name, &[objects::of_claim(name)]);
    template["metadata"] = json!({ "labels": labels });
    let spec = json!({ "selector": { "matchLabels": labels }, "template": template });
    scope.create::<Deployment>(json!({ "metadata": { "name": name }, "spec": spec })).await?;
    eventually("its Pod to be on a node", PATIENCE, async || {
        let pods = scope.api::<Pod>().list(&ListParams::default().labels(&format!("app={name}"))).await?;
        Ok(pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())).then_some(()))
    })
    .await?;
    scope.claim_phase(name, "Bound", PATIENCE).await
}

/// The Node goes, and its Pods as Kubernetes removes them, a minute sooner.
async fn lost(scope: &Scope, node: &str) -> Result<()> {
    scope.all::<Node>().delete(node, &DeleteParams::default()).await?;
    let pods: Api<Pod> = scope.api();
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    for pod in pods.list(&there).await? {
        pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

async fn volume_of(scope: &Scope, claim: &PersistentVolumeClaim) -> Result<PersistentVolume> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).context("bound")?;
    Ok(scope.all::<PersistentVolume>().get(&name).await?)
}

fn kept(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    policy == Some("Retain") && phase == Some("Released") && volume.labels().contains_key("latebind.dev/retired")
}

/// By default it is told, whatever a policy says where the controller may not, and nothing is written.
async fn explained(scope: &Scope) -> Result<()> {
    let mut running = controller(scope, "explain").await?;
    let class = class_with(scope, "told", Some("Unbind")).await?;
    let node = node_with_disk(scope, "told", &class).await?;
    let claim = deployed(scope, "told", &class).await?;
    let volume = volume_of(scope, &claim).await?;
    lost(scope, &node).await?;
    let why = "was not started with --lost-nodes=unbind";
    let told = scope.event("told", "NodeLost", why, PATIENCE).await?;
    ensure!(
        told.contains(&format!("no node reaches its volume {}: {node} does not exist", volume.name_any())),
        "{told}"
    );
    stays(scope, "told", &claim, GRACE + Duration::from_secs(1)).await?;
    ensure!(scope.claim("told").await?.annotations() == claim.annotations(), "it was written");
    let now = volume_of(scope, &claim).await?;
    ensure!(now.metadata.annotations == volume.metadata.annotations && now.spec == volume.spec, "as was its volume");
    removed(scope, "told").await?;
    scope.all::<PersistentVolume>().delete(&volume.name_any(), &DeleteParams::default()).await?;
    running.kill().await?;
    Ok(())
}

/// A claim that nobody else would make again is made anew, and its Pod starts on another node; its volume is kept.
async fn made_anew(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "anew", Some("Unbind")).await?;
    let node = node_with_disk(scope, "anew", &class).await?;
    let claim = deployed(scope, "anew", &class).await?;
    let volume = volume_of(scope, &claim).await?;
    let other = node_with_disk(scope, "other", &class).await?;
    lost(scope, &node).await?;
    scope.event("anew", "ClaimUnbound", "The volume is kept", PATIENCE).await?;
    eventually("the Pod to be on the other node", PATIENCE, async || {
        let pods = scope.api::<Pod>().list(&ListParams::default().labels("app=anew")).await?;
        let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Ok(pods.iter().any(|pod| on(pod).as_deref() == Some(&other)).then_some(()))
    })
    .await?;
    let now = scope.claim_phase("anew", "Bound", PATIENCE).await?;
    ensure!(now.uid() != claim.uid() && now.labels() == claim.labels(), "{now:?}");
    ensure!(now.annotations()["latebind.dev/unbound-from"] == volume.name_any() && now.annotations()["team"] == "a");
    eventually("the volume to be kept, and its record gone", PATIENCE, async || {
        let volume = volume_of(scope, &claim).await?;
        let is_settled = !volume.annotations().contains_key("latebind.dev/remake-claim");
        Ok((kept(&volume) && is_settled).then_some(()))
    })
    .await?;
    // Somebody deletes the new claim on purpose: it is not made again.
    removed(scope, "anew").await?;
    let is_there = async || Ok(scope.api::<PersistentVolumeClaim>().get_opt("anew").await?.is_some());
    holds_for("that there is no claim", Duration::from_secs(2), is_there).await?;
    scope.all::<Node>().delete(&other, &DeleteParams::default()).await?;
    Ok(())
}

/// A Deployment and its claim are deleted, and are gone. No kubelet ends Pods here, and their controller makes others until it is
/// gone itself.
async fn removed(scope: &Scope, name: &str) -> Result<()> {
    scope.api::<Deployment>().delete(name, &DeleteParams::default()).await?;
    let claims = scope.api::<PersistentVolumeClaim>();
    claims.delete(name, &DeleteParams::default()).await?;
    let of_it = ListParams::default().labels(&format!("app={name}"));
    eventually("the claim to go", PATIENCE, async || {
        scope.api::<Pod>().delete_collection(&DeleteParams::default().grace_period(0), &of_it).await?;
        Ok(claims.get_opt(name).await?.is_none().then_some(()))
    })
    .await
}

/// The claim is this very one for so long, and is not being deleted.
async fn stays(scope: &Scope, name: &str, claim: &PersistentVolumeClaim, time: Duration) -> Result<()> {
    let look = async || {
        let now = scope.claim(name).await?.metadata;
        Ok((now.uid, now.deletion_timestamp.is_some()))
    };
    holds_for(name, time, look).await?;
    ensure!(look().await? == (claim.uid(), false), "{name} was let go");
    Ok(())
}

/// A node that is back in time costs nothing, and its next loss takes the whole time again.
async fn node_that_returns(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "back", Some("Unbind")).await?;
    let node = node_with_disk(scope, "back", &class).await?;
    let claim = deployed(scope, "back", &class).await?;
    let nodes: Api<Node> = scope.all();
    let object = nodes.get(&node).await?;
    for _ in 0..2 {
        lost(scope, &node).await?;
        eventually("the loss to be written down", PATIENCE, async || {
            let volume = volume_of(scope, &claim).await?;
            Ok(volume.annotations().contains_key("latebind.dev/node-lost-seconds").then_some(()))
        })
        .await?;
        tokio::time::sleep(GRACE / 3).await;
        let again = json!({ "metadata": { "name": node, "labels": object.labels() } });
        scope.create::<Node>(again).await?;
        eventually("the note to be taken back", PATIENCE, async || {
            let volume = volume_of(scope, &claim).await?;
            Ok((!volume.annotations().contains_key("latebind.dev/node-lost-seconds")).then_some(()))
        })
        .await?;
    }
    stays(scope, "back", &claim, GRACE + Duration::from_secs(2)).await?;
    removed(scope, "back").await?;
    nodes.delete(&node, &DeleteParams::default()).await?;
    Ok(())
}

/// A Pod that runs keeps its claim, whatever becomes of its Node object: Kubernetes has not removed it, so that it may run still.
async fn pod_that_runs(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "runs", Some("Unbind")).await?;
    let node = node_with_disk(scope, "runs", &class).await?;
    let claim = deployed(scope, "runs", &class).await?;
    let mut waits = objects::pod("second", &[objects::of_claim("runs")]);
    waits["spec"]["nodeSelector"] = json!({ "tests.latebind.dev/none": "x" });
    scope.all::<Node>().delete(&node, &DeleteParams::default()).await?;
    scope.create::<Pod>(waits).await?;
    scope.event("runs", "NodeLost", "a Pod that has a node uses it", PATIENCE).await?;
    stays(scope, "runs", &claim, GRACE).await?;
    let volume = volume_of(scope, &claim).await?;
    ensure!(!volume.annotations().contains_key("latebind.dev/remake-claim"), "nothing was begun");
    scope.api::<Pod>().delete("second", &DeleteParams::default().grace_period(0)).await?;
    removed(scope, "runs").await
}

/// Where more nodes are gone than may be, none is given up, until the others are back.
async fn two_at_once(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "two", Some("Unbind")).await?;
    let mut claims = Vec::new();
    let mut nodes = Vec::new();
    for name in ["two-a", "two-b"] {
        nodes.push(node_with_disk(scope, name, &class).await?);
        claims.push(deployed(scope, name, &class).await?);
    }
    let object = scope.all::<Node>().get(&nodes[1]).await?;
    for node in &nodes {
        lost(scope, node).await?;
    }
    scope.event("two-a", "NodeLost", "so many nodes are gone at one time", PATIENCE).await?;
    stays(scope, "two-a", &claims[0], GRACE + Duration::from_secs(2)).await?;
    stays(scope, "two-b", &claims[1], Duration::ZERO).await?;
    scope.create::<Node>(json!({ "metadata": { "name": nodes[1], "labels": object.labels() } })).await?;
    eventually("the claim of the one that stays away to be made anew", PATIENCE, async || {
        let now = scope.api::<PersistentVolumeClaim>().get_opt("two-a").await?;
        Ok(now.filter(|now| now.uid() != claims[0].uid()).map(drop))
    })
    .await?;
    ensure!(scope.claim("two-b").await?.uid() == claims[1].uid(), "its node is back");
    for name in ["two-a", "two-b"] {
        removed(scope, name).await?;
    }
    scope.all::<Node>().delete(&nodes[1], &DeleteParams::default()).await?;
    Ok(())
}

/// What a kubelet would say of a Pod that runs.
async fn serves(scope: &Scope, pod: &str) -> Result<()> {
    let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    scope.api::<Pod>().patch_status(pod, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn on(scope: &Scope, pod: &str) -> Result<Option<String>> {
    let pod = scope.api::<Pod>().get_opt(pod).await?;
    Ok(pod.and_then(|pod| pod.spec?.node_name))
}

/// Two replicas were on the node. Their StatefulSet makes their claims anew, one after another: the second waits until the first one is
/// ready.
async fn stateful_set(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "set", Some("Unbind")).await?;
    let node = node_with_disk(scope, "set", &class).await?;
    scope.create::<PersistentVolume>(objects::volume(&scope.unique("pv-second"), &class, &node, "1Mi")).await?;
    let labels = json!({ "app": "set" });
    let mut template = objects::pod("set", &[]);
    template["metadata"] = json!({ "labels": labels });
    template["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/d" }]);
    let claim = json!({ "metadata": { "name": "data" }, "spec": claim_spec(&class, "1Mi") });
    let spec = json!({ "serviceName": "set", "replicas": 2, "podManagementPolicy": "Parallel",
        "selector": { "matchLabels": labels }, "template": template, "volumeClaimTemplates": [claim] });
    scope.create::<StatefulSet>(json!({ "metadata": { "name": "set" }, "spec": spec })).await?;
    let mut before = Vec::new();
    for name in ["data-set-0", "data-set-1"] {
        before.push(scope.claim_phase(name, "Bound", PATIENCE).await?);
    }
    let others = [node_with_disk(scope, "set-other", &class).await?, node_with_disk(scope, "set-third", &class).await?];
    lost(scope, &node).await?;
    eventually("the first to be elsewhere", PATIENCE, async || {
        Ok(on(scope, "set-0").await?.filter(|on| others.contains(on)).map(drop))
    })
    .await?;
    // The first is not ready yet.
    scope.event("data-set-1", "NodeLost", "another replica of its StatefulSet comes first", PATIENCE).await?;
    stays(scope, "data-set-1", &before[1], GRACE + Duration::from_secs(8)).await?;
    serves(scope, "set-0").await?;
    eventually("the second to follow", PATIENCE, async || {
        Ok(on(scope, "set-1").await?.filter(|on| others.contains(on)).map(drop))
    })
    .await?;
    for claim in &before {
        ensure!(kept(&volume_of(scope, claim).await?), "its volume is kept");
    }
    scope.api::<StatefulSet>().delete("set", &DeleteParams::default()).await?;
    for node in &others {
        scope.all::<Node>().delete(node, &DeleteParams::default()).await?;
    }
    Ok(())
}

/// The controller ended after the claim had gone and before it was made anew: the next one makes it.
async fn killed_in_between(scope: &Scope) -> Result<()> {
    let class = class_with(scope, "killed", Some("Unbind")).await?;
    node_with_disk(scope, "killed", &class).await?;
    let claim = deployed(scope, "killed", &class).await?;
    let volume = volume_of(scope, &claim).await?;
    let record: Value = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "killed", "namespace": scope.namespace(), "annotations": { "latebind.dev/unbound-from": volume.name_any() } },
        "spec": claim_spec(&class, "1Mi") });
    let marks = json!({ "metadata": { "labels": { "latebind.dev/retired": "" }, "annotations": {
        "latebind.dev/retired-claim": format!("{}/killed", scope.namespace()), "latebind.dev/retired-claim-uid": claim.uid(),
        "latebind.dev/remake-claim": record.to_string() } }, "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
    scope.all::<PersistentVolume>().patch(&volume.name_any(), &PatchParams::default(), &Patch::Merge(&marks)).await?;
    removed(scope, "killed").await?;
    let mut running = controller(scope, "unbind").await?;
    let made = eventually("the claim to be made", PATIENCE, async || {
        let now = scope.api::<PersistentVolumeClaim>().get_opt("killed").await?;
        Ok(now.filter(|now| now.uid() != claim.uid()).map(drop))
    })
    .await;
    running.kill().await?;
    made
}

/// Whoever holds the controller's token makes only claims that say what they are made for, and deletes only those that have a volume; of
/// volumes nothing but what keeps them.
async fn stolen_token(scope: &Scope) -> Result<()> {
    let account = format!("system:serviceaccount:{NAMESPACE}:latebind-controller");
    let groups = ["system:serviceaccounts", "system:authenticated"];
    let stolen = scope.cluster()?.client_as(&account, &groups).await?;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(stolen.clone(), scope.namespace());
    let class = class_with(scope, "stolen", None).await?;
    let refused = |outcome: Result<(), kube::Error>, words: &str| {
        let told = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(told.contains(words), "{words:?} is not in {told:?}");
        anyhow::Ok(())
    };
    let made: PersistentVolumeClaim = serde_json::from_value(objects::claim("invented", &class, "1Mi"))?;
    let outcome = claims.create(&PostParams::default(), &made).await.map(drop);
    refused(outcome, "creates only claims that are made anew")?;
    scope.create::<PersistentVolumeClaim>(objects::claim("unbound", &class, "1Mi")).await?;
    let outcome = claims.delete("unbound", &DeleteParams::default()).await.map(drop);
    refused(outcome, "deletes only claims that have a volume")?;
    let disk = scope.unique("pv-stolen");
    let mut volume = objects::volume(&disk, &class, "nowhere", "1Mi");
    objects::merge(&mut volume["spec"], &json!({ "persistentVolumeReclaimPolicy": "Retain" }));
    scope.create::<PersistentVolume>(volume).await?;
    let volumes: Api<PersistentVolume> = Api::all(stolen);
    for (change, words) in [
        (json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } }), "writes claimRef only"),
        (json!({ "metadata": { "labels": { "team": "mine" } } }), "its marks only"),
        (json!({ "metadata": { "annotations": { "latebind.dev/drain-policy": "Allow" } } }), "its marks only"),
    ] {
        let outcome = volumes.patch(&disk, &PatchParams::default(), &Patch::Merge(&change)).await.map(drop);
        refused(outcome, words).with_context(|| change.to_string())?;
    }
    let marked = json!({ "metadata": { "labels": { "latebind.dev/retired": "" } } });
    volumes.patch(&disk, &PatchParams::default(), &Patch::Merge(&marked)).await?;
    scope.all::<PersistentVolume>().delete(&disk, &DeleteParams::default()).await?;
    Ok(())
}
