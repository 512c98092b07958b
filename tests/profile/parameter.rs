//! The controller as a process, with the rights that the chart gives it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use latebind::crd::{AdmissionParameter, AdmissionParameterSpec, COMPLETE, PARAMETER, PinPolicy, is_true};
use latebind_cluster::Scope;
use latebind_test_support::installed::controllers_kubeconfig;
use latebind_test_support::objects::{self, with};
use latebind_test_support::policies::served;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::installed::{PATIENCE, admitted, install, uninstall, until};

const NAMESPACE: &str = "latebind-system";
/// How often it is looked where it matters how soon something is there.
const LOOK: Duration = Duration::from_millis(2);

/// `latebind run --role controller` as the chart runs it. It ends when dropped.
pub async fn start(scope: &Scope) -> Result<Child> {
    let cluster = scope.cluster()?;
    let path = controllers_kubeconfig(cluster, "parameter.kubeconfig").await?;
    let log = std::fs::File::create(cluster.directory().join("logs/parameter.log"))?;
    Ok(Command::new(env!("CARGO_BIN_EXE_latebind"))
        .args(["run", "--role=controller", "--policy-parameter=on", "--metrics-listen=127.0.0.1:0"])
        .args(["--lease-namespace", NAMESPACE, "--log=info,latebind=debug", "--kubeconfig"])
        .arg(&path)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()?)
}

async fn content(scope: &Scope) -> Result<AdmissionParameterSpec> {
    Ok(scope.all::<AdmissionParameter>().get(PARAMETER).await?.spec)
}

/// Waits until the parameter is as it must be, and says how long that took.
async fn becomes(scope: &Scope, what: &str, holds: impl Fn(&AdmissionParameterSpec) -> bool) -> Result<Duration> {
    let began = Instant::now();
    let mut last = AdmissionParameterSpec::default();
    let became = until(what, async || {
        last = content(scope).await?;
        Ok(holds(&last).then_some(()))
    });
    became.await.with_context(|| format!("{last:?}"))?;
    Ok(began.elapsed())
}

pub async fn the_controller_lists_what_policies_may_know(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    install(scope.cluster()?).await?;
    let mut controller = start(scope).await?;
    let outcome = lists(scope).await;
    controller.kill().await?;
    uninstall(scope.cluster()?).await?;
    outcome
}

async fn lists(scope: &Scope) -> Result<()> {
    let namespace = scope.namespace();
    let listed = |spec: &AdmissionParameterSpec, claim: &str| {
        spec.claims.get(namespace).is_some_and(|claims| claims.contains_key(claim))
    };
    let first = scope.simulated_node("first", &[]).await?;
    let second = scope.simulated_node("second", &[]).await?;
    let (first, second) = (first.name().to_owned(), second.name().to_owned());
    let fast = scope.unique("fast");
    scope.create::<StorageClass>(objects::class(&fast, "example.org/fast")).await?;
    let at_once =
        with(objects::class(&scope.unique("once"), "example.org/once"), &json!({ "volumeBindingMode": "Immediate" }));
    scope.create::<StorageClass>(at_once).await?;
    for (name, class) in [("data", &fast), ("once", &scope.unique("once")), ("late", &scope.unique("late"))] {
        scope.create::<PersistentVolumeClaim>(objects::claim(name, class, "1Gi")).await?;
    }
    becomes(scope, "the parameter to hold what is there", |spec| {
        listed(spec, "data")
            && spec.classes.contains_key(&fast)
            && spec.nodes.get(&first).is_some_and(String::is_empty)
            && spec.nodes.contains_key(&second)
    })
    .await?;
    let spec = content(scope).await?;
    ensure!(!listed(&spec, "once") && !listed(&spec, "late"), "immediate, or of a class that is not there: {spec:?}");
    ensure!(!spec.classes.contains_key(&scope.unique("once")), "{spec:?}");
    claims(scope, &fast, &first).await?;
    nodes(scope, &first, &second).await?;
    neighbours(scope, &first).await?;
    pin_policies(scope, &first, &second).await?;
    comes_back(scope).await
}

async fn claims(scope: &Scope, fast: &str, node: &str) -> Result<()> {
    let namespace = scope.namespace();
    let listed = |spec: &AdmissionParameterSpec, claim: &str| {
        spec.claims.get(namespace).is_some_and(|claims| claims.contains_key(claim))
    };
    // A class may come after its claim.
    scope.create::<StorageClass>(objects::class(&scope.unique("late"), "example.org/late")).await?;
    becomes(scope, "the claim of the class that came late to be listed", |spec| listed(spec, "late")).await?;
    let pod = || objects::on_node(objects::pod("pod", &[objects::named("data", "data")]), node);
    until("the Pod to be rewritten", async || {
        let seen = admitted(scope, namespace, pod()).await?.map_err(|status| anyhow::anyhow!("{}", status.message))?;
        Ok((seen["spec"]["nodeSelector"]["kubernetes.io/hostname"] == node).then_some(()))
    })
    .await?;
    // A volume that names a claim is bound to it without the scheduler.
    let name = scope.unique("volume");
    let mut volume = objects::volume(&name, fast, node, "1Gi");
    volume["spec"]["claimRef"] = json!({ "namespace": namespace, "name": "data" });
    scope.create::<PersistentVolume>(volume).await?;
    becomes(scope, "the claim that a volume names to be left out", |spec| !listed(spec, "data")).await?;
    let seen = until("the Pod to be left alone", async || {
        let seen = admitted(scope, namespace, pod()).await?.map_err(|status| anyhow::anyhow!("{}", status.message))?;
        Ok(seen["spec"]["nodeName"].is_string().then_some(seen))
    })
    .await?;
    ensure!(seen["spec"]["nodeSelector"].is_null(), "{seen}");
    scope.api::<PersistentVolumeClaim>().delete("late", &DeleteParams::default()).await?;
    becomes(scope, "the claim that is gone to be left out", |spec| !listed(spec, "late")).await?;
    let mut took = Vec::new();
    for number in 0..20 {
        let claim = format!("more-{number}");
        let created = scope.create::<PersistentVolumeClaim>(objects::claim(&claim, fast, "1Gi"));
        let (began, _) = (Instant::now(), created.await?);
        // Looked at more often than a test waits otherwise: the delay itself is told.
        while !listed(&content(scope).await?, &claim) {
            ensure!(began.elapsed() < PATIENCE, "claim {claim} was not listed");
            tokio::time::sleep(LOOK).await;
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "a claim was listed {} ms after the call that made it began, {} ms at most",
        median.as_millis(),
        slowest.as_millis()
    );
    Ok(())
}

async fn nodes(scope: &Scope, first: &str, second: &str) -> Result<()> {
    let change = async |name: &str, change: Value| -> Result<()> {
        scope.all::<Node>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
        Ok(())
    };
    change(first, json!({ "spec": { "unschedulable": true } })).await?;
    becomes(scope, "the cordoned node to be left out", |spec| !spec.nodes.contains_key(first)).await?;
    change(first, json!({ "spec": { "unschedulable": null } })).await?;
    becomes(scope, "the node to be back", |spec| spec.nodes.contains_key(first)).await?;
    change(second, json!({ "metadata": { "labels": { "kubernetes.io/hostname": "elsewhere" } } })).await?;
    becomes(scope, "the label to be told", |spec| spec.nodes.get(second).is_some_and(|host| host == "elsewhere"))
        .await?;
    change(second, json!({ "metadata": { "labels": { "kubernetes.io/hostname": first } } })).await?;
    becomes(scope, "two nodes of one label to be left out", |spec| {
        !spec.nodes.contains_key(first) && !spec.nodes.contains_key(second)
    })
    .await?;
    change(second, json!({ "metadata": { "labels": { "kubernetes.io/hostname": second } } })).await?;
    becomes(scope, "both to be back", |spec| spec.nodes.contains_key(first) && spec.nodes.contains_key(second)).await?;
    Ok(())
}

async fn neighbours(scope: &Scope, node: &str) -> Result<()> {
    let namespace = scope.namespace();
    let away = |namespaces: Value| {
        json!({ "spec": { "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": {}, "namespaces": namespaces,
        }] } } } })
    };
    let repels =
        |spec: &AdmissionParameterSpec, of: &str| spec.repelled.get(of).is_some_and(|nodes| nodes.contains_key(node));
    let alone = with(objects::on_node(objects::pod("alone", &[]), node), &away(json!([])));
    scope.create::<Pod>(alone).await?;
    becomes(scope, "the node to repel Pods of the namespace", |spec| repels(spec, namespace)).await?;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    scope.api::<Pod>().delete("alone", &now).await?;
    becomes(scope, "the node to repel nobody", |spec| spec.repelled.is_empty()).await?;
    Ok(())
}

async fn pin_policies(scope: &Scope, first: &str, second: &str) -> Result<()> {
    let name = scope.unique("racks");
    let spec = json!({ "mode": "Deny", "namespaces": { "names": [scope.namespace()] },
        "allowedNodes": { "selector": { "matchLabels": { "rack": "1" } } } });
    let labelled = async |node: &str, rack: &str| -> Result<()> {
        let change = json!({ "metadata": { "labels": { "rack": rack } } });
        scope.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(change)).await?;
        Ok(())
    };
    labelled(first, "1").await?;
    // The definition is gone before the test is tidied up after.
    let policy = PinPolicy::new(&name, serde_json::from_value(spec)?);
    scope.all::<PinPolicy>().create(&PostParams::default(), &policy).await?;
    let says = |spec: &AdmissionParameterSpec, node: &str, letter: &str| {
        spec.policies.iter().any(|policy| policy.name == name)
            && spec.node_matches.get(node).is_some_and(|matches| matches == letter)
    };
    becomes(scope, "the policy to be listed, and which nodes it selects", |spec| {
        says(spec, first, "1") && says(spec, second, "0")
    })
    .await?;
    let pod = |node: &str| objects::on_node(objects::pod("pod", &[]), node);
    let refused =
        until("a Pod to be refused", async || Ok(admitted(scope, scope.namespace(), pod(second)).await?.err())).await?;
    ensure!(refused.message.contains(&format!("LB302: PinPolicy \"{name}\"")), "{refused:?}");
    ensure!(admitted(scope, scope.namespace(), pod(first)).await?.is_ok(), "its node is allowed");
    labelled(second, "1").await?;
    becomes(scope, "the label that has changed to be heeded", |spec| says(spec, second, "1")).await?;
    until("the Pod to be let in", async || Ok(admitted(scope, scope.namespace(), pod(second)).await?.ok())).await?;
    scope.all::<PinPolicy>().delete(&name, &DeleteParams::default()).await?;
    becomes(scope, "the policy to be gone", |spec| spec.policies.is_empty() && spec.node_matches.is_empty()).await?;
    Ok(())
}

/// Somebody deletes the parameter, or writes another.
async fn comes_back(scope: &Scope) -> Result<()> {
    let parameters = scope.all::<AdmissionParameter>();
    let status = parameters.get(PARAMETER).await?.status.unwrap_or_default();
    ensure!(is_true(&status.conditions, COMPLETE), "{status:?}");
    let other =
        scope.attempt::<AdmissionParameter>(json!({ "metadata": { "name": "other" }, "spec": { "mode": "deny" } }));
    let refused = other.await?.err().context("another one was stored")?;
    ensure!(refused.message.contains("there is one, named latebind"), "{refused:?}");
    parameters.delete(PARAMETER, &DeleteParams::default()).await?;
    // With the next change of a fact; at the latest when everything is looked at again.
    scope.create::<PersistentVolumeClaim>(objects::claim("again", &scope.unique("fast"), "1Gi")).await?;
    becomes(scope, "the parameter to be there again", |spec| {
        spec.claims.get(scope.namespace()).is_some_and(|claims| claims.contains_key("again"))
    })
    .await?;
    Ok(())
}
