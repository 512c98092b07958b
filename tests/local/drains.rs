//! `latebind drain` on real nodes, with volumes of latebind's own.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind_cluster::{Scope, Version, eventually};
use latebind_test_support::local::path_of;
use latebind_test_support::objects::{self, claim_spec};
use serde_json::{Value, json};

use crate::nodes::{CLASS, PATIENCE, delete_claim, installed, removed, written};

const REPLICAS: usize = 3;

pub fn latebind(scope: &Scope, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(args).env("KUBECONFIG", scope.cluster()?.kubeconfig()).env("NO_COLOR", "1").stdin(Stdio::null());
    Ok(command)
}

pub fn told(output: &Output) -> String {
    format!("{output:?}").replace("\\n", "\n")
}

/// Runs it to its end while the cluster is looked at.
pub async fn run(scope: &Scope, args: &[&str]) -> Result<Output> {
    let mut command = latebind(scope, args)?;
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// Starts it, and kills it when it has said this.
async fn run_until(scope: &Scope, args: &[&str], said: &'static str) -> Result<()> {
    let mut command = latebind(scope, args)?;
    tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut all = Vec::new();
        for line in lines {
            all.push(line?);
            if all.last().is_some_and(|line| line.contains(said)) {
                child.kill()?;
                child.wait()?;
                return Ok(());
            }
        }
        anyhow::bail!("it never said {said:?}: {all:#?}")
    })
    .await?
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.filter(|it| it.type_ == "Ready").any(|it| it.status == "True")
}

/// The fewest Pods that were ready at one time since this began.
struct Fewest(Arc<AtomicUsize>, tokio::task::JoinHandle<()>);

impl Fewest {
    fn watch(pods: Api<Pod>) -> Self {
        let fewest = Arc::new(AtomicUsize::new(usize::MAX));
        let seen = Arc::clone(&fewest);
        let task = tokio::spawn(async move {
            loop {
                if let Ok(all) = pods.list(&ListParams::default()).await {
                    seen.fetch_min(all.iter().filter(|pod| is_ready(pod)).count(), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self(fewest, task)
    }

    fn end(self) -> usize {
        self.1.abort();
        self.0.load(Ordering::Relaxed)
    }
}

async fn node(scope: &Scope, name: &str) -> Result<(bool, Option<String>)> {
    let node = scope.all::<Node>().get(name).await?;
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    Ok((cordoned, node.annotations().get("latebind.dev/drain").cloned()))
}

/// A StatefulSet `pg` whose Pods each write their name into a volume of the class.
pub fn stateful_set(class: &str, replicas: usize) -> Value {
    let labels = json!({ "app": "pg" });
    let mut template = objects::running(objects::pod("pg", &[]), "hostname > /data/name && sleep 3600");
    template["metadata"] = json!({ "labels": labels });
    template["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    json!({ "metadata": { "name": "pg" }, "spec": {
        "serviceName": "pg", "replicas": replicas, "podManagementPolicy": "Parallel",
        "selector": { "matchLabels": labels }, "template": template,
        "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim_spec(class, "1Mi") }] } })
}

/// Three Pods with a volume each, and their budget, all on one node.
async fn all_on(scope: &Scope, here: &str, other: &str) -> Result<Vec<(PersistentVolume, String)>> {
    scope.kubectl(&["cordon", other]).await?.success()?;
    scope.create::<StatefulSet>(stateful_set(CLASS, REPLICAS)).await?;
    let budget = json!({ "metadata": { "name": "pg" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "pg" } } } });
    scope.create::<PodDisruptionBudget>(budget).await?;
    let mut made = Vec::new();
    for number in 0..REPLICAS {
        made.push(written(scope, &format!("pg-{number}"), &format!("data-pg-{number}")).await?);
    }
    ensure!(made.iter().all(|(_, on)| on == here), "not all on {here}");
    scope.kubectl(&["uncordon", other]).await?.success()?;
    Ok(made)
}

async fn all_ready(scope: &Scope, on: &str) -> Result<()> {
    eventually("all Pods to be ready on the node", PATIENCE, async || {
        let pods = scope.api::<Pod>().list(&ListParams::default()).await?;
        let there =
            |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(on) && is_ready(pod);
        Ok((pods.iter().filter(there).count() == REPLICAS).then_some(()))
    })
    .await
}

/// The whole story: a StatefulSet of three on one node moves to another, one Pod after another, over a kill -9; the data of before is
/// kept. Then a reboot, after which all start again with their data.
pub async fn a_stateful_set_leaves_a_node_and_outlives_a_reboot(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let [other, retired] = [0, 1].map(|at| cluster.nodes()[at].name());
    let before = all_on(scope, retired, other).await?;
    let drain = ["drain", retired, "--for=retire", "--delete-emptydir-data"];
    let dry = run(scope, &[&drain[..], &["--dry-run"]].concat()).await?;
    let text = String::from_utf8_lossy(&dry.stdout).into_owned();
    ensure!(dry.status.success() && text.contains("Nothing was changed"), "{}", told(&dry));
    ensure!(text.contains("claim data-pg-2 is made anew, its data stays here in volume"), "{text}");
    let unasked = run(scope, &drain).await?;
    ensure!(unasked.status.code() == Some(2) && told(&unasked).contains("say --yes"), "{}", told(&unasked));
    ensure!(node(scope, retired).await? == (false, None), "nobody said yes");

    let fewest = Fewest::watch(scope.api());
    let drain = [&drain[..], &["--yes"]].concat();
    run_until(scope, &drain, "pod/pg-2").await?;
    let output = run(scope, &drain).await?;
    let fewest = fewest.end();
    ensure!(output.status.success(), "{}", told(&output));
    ensure!(fewest == REPLICAS - 1, "only {fewest} were ready at one time: {}", told(&output));
    ensure!(node(scope, retired).await? == (true, Some("retire".to_owned())));
    let drained = scope.kubectl(&["wait", "node", retired, "--for=condition=Drained", "--timeout=1s"]).await?;
    ensure!(Version::from_env()?.minor() < 37 || drained.code == Some(0), "{drained:?}");
    all_ready(scope, other).await?;
    let volumes = scope.all::<PersistentVolume>();
    let mut now = Vec::new();
    for (number, (volume, _)) in before.iter().enumerate() {
        let (new, on) = written(scope, &format!("pg-{number}"), &format!("data-pg-{number}")).await?;
        ensure!(on == other && new.name_any() != volume.name_any(), "{number}: {} on {on}", new.name_any());
        now.push(new);
        let kept = volumes.get(&volume.name_any()).await?;
        let phase = kept.status.as_ref().and_then(|status| status.phase.clone());
        let policy = kept.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.clone());
        ensure!((phase.as_deref(), policy.as_deref()) == (Some("Released"), Some("Retain")), "{phase:?} {policy:?}");
        ensure!(kept.annotations()["latebind.dev/retired-claim"] == format!("{}/data-pg-{number}", scope.namespace()));
        let file = cluster.node(retired)?.shell(&format!("cat {}/name", path_of(volume).display())).await?;
        ensure!(file.trim() == format!("pg-{number}"), "{file}");
    }
    let listed = scope.kubectl(&["get", "pv", "-l", "latebind.dev/retired", "-o", "name"]).await?.success()?;
    ensure!(listed.lines().count() == REPLICAS, "{listed}");
    given_by_hand(scope, retired, &before[0].0).await?;
    // There is nothing left to do.
    let again = run(scope, &drain).await?;
    ensure!(again.status.success(), "{}", told(&again));
    let back = run(scope, &["uncordon", retired]).await?;
    ensure!(back.status.success() && node(scope, retired).await? == (false, None), "{}", told(&back));

    reboot(scope, other, &now).await?;

    scope.api::<StatefulSet>().delete("pg", &DeleteParams::default()).await?;
    let delete = json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } });
    for (number, ((old, _), new)) in before.iter().zip(&now).enumerate() {
        delete_claim(scope, &format!("data-pg-{number}")).await?;
        removed(scope, new, other).await?;
        volumes.patch(&old.name_any(), &PatchParams::default(), &Patch::Merge(&delete)).await?;
        removed(scope, old, retired).await?;
    }
    Ok(())
}

/// A kept volume is given to a claim that somebody makes, whose Pod waits for the node: the mark of before is not about that claim.
async fn given_by_hand(scope: &Scope, retired: &str, kept: &PersistentVolume) -> Result<()> {
    let volumes = scope.all::<PersistentVolume>();
    let claim = json!({ "namespace": scope.namespace(), "name": "by-hand", "uid": null, "resourceVersion": null });
    let give = json!({ "spec": { "claimRef": claim } });
    volumes.patch(&kept.name_any(), &PatchParams::default(), &Patch::Merge(&give)).await?;
    let named = json!({ "spec": { "volumeName": kept.name_any() } });
    scope.create::<PersistentVolumeClaim>(objects::with(objects::claim("by-hand", CLASS, "1Mi"), &named)).await?;
    scope.claim_phase("by-hand", "Bound", PATIENCE).await?;
    scope
        .create::<Pod>(objects::running(objects::pod("reader", &[objects::of_claim("by-hand")]), "sleep 3600"))
        .await?;
    let drained =
        run(scope, &["drain", retired, "--for=retire", "--delete-emptydir-data", "--yes", "--timeout=20s"]).await?;
    ensure!(drained.status.success() && !told(&drained).contains("by-hand"), "{}", told(&drained));
    ensure!(scope.claim("by-hand").await?.metadata.deletion_timestamp.is_none(), "it was deleted");
    // As it was.
    scope.api::<Pod>().delete("reader", &DeleteParams::default()).await?;
    delete_claim(scope, "by-hand").await?;
    eventually("the volume to be released", PATIENCE, async || {
        let phase = volumes.get(&kept.name_any()).await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Released")).then_some(()))
    })
    .await
}

/// Nothing can start elsewhere, so that the budget lets one go and no other: the time is up. Without the budget all go, and come back.
async fn reboot(scope: &Scope, rebooted: &str, volumes: &[PersistentVolume]) -> Result<()> {
    let drain = ["drain", rebooted, "--for=reboot", "--delete-emptydir-data", "--yes"];
    let held = run(scope, &[&drain[..], &["--timeout=8s"]].concat()).await?;
    ensure!(held.status.code() == Some(4) && told(&held).contains("cannot go yet"), "{}", told(&held));
    scope.api::<PodDisruptionBudget>().delete("pg", &DeleteParams::default()).await?;
    let output = run(scope, &drain).await?;
    ensure!(output.status.success() && told(&output).contains("latebind uncordon"), "{}", told(&output));
    ensure!(node(scope, rebooted).await? == (true, Some("reboot".to_owned())));
    let pods = scope.api::<Pod>().list(&ListParams::default()).await?;
    ensure!(pods.iter().all(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none())), "they wait");
    run(scope, &["uncordon", rebooted]).await?;
    all_ready(scope, rebooted).await?;
    for (number, volume) in volumes.iter().enumerate() {
        let (same, _) = written(scope, &format!("pg-{number}"), &format!("data-pg-{number}")).await?;
        ensure!(same.name_any() == volume.name_any(), "another volume");
    }
    Ok(())
}
