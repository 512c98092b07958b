//! `latebind diagnose` and `dump` against a real control plane: each cause is made, named, and mended by the command that is
//! printed. Nodes are simulated, and nothing of latebind runs.

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota};
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::crd::{LocalNode, LocalVolume, PinPolicy};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::objects::{self, NO_PROVISIONER, SELECTED_NODE};
use serde_json::{Value, json};

use crate::shared::{
    PATIENCE, PROVISIONER, cause, claim, class, diagnosis, latebind, mend, on, pod, told, typed, volume,
};

/// Longer than a provisioner is waited for before it counts as silent.
const SILENCE: Duration = Duration::from_secs(150);
/// How often `--watch` looks.
const WATCHED: Duration = Duration::from_secs(5);

pub async fn a_pod_that_names_its_node_is_explained_and_started(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let (fixed, made) = (
        class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?,
        class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?,
    );
    volume(scope, "disk", &fixed, node.name(), "2Gi", json!({})).await?;
    claim(scope, "fixed", &fixed, json!({})).await?;
    pod(scope, "fixed", "fixed", json!({"nodeName": node.name()})).await?;
    let found = cause(scope, "pod/fixed", "Deadlock", PATIENCE).await?;
    mend(scope, &found)?;
    scope.claim_phase("fixed", "Bound", PATIENCE).await?;
    cause(scope, "pod/fixed", "Starting", PATIENCE).await?;

    claim(scope, "made", &made, json!({})).await?;
    pod(scope, "made", "made", json!({"nodeName": node.name()})).await?;
    // Of the claim it is the same, and the account that the API server keeps tells who named the node.
    let found = cause(scope, "pvc/made", "Deadlock", PATIENCE).await?;
    let evidence = found["evidence"].to_string();
    ensure!(evidence.contains("spec.nodeName was written by") && evidence.contains("LB001"), "{evidence}");
    mend(scope, &found)?;
    let selected = scope.claim("made").await?.metadata.annotations.unwrap_or_default();
    ensure!(selected.get(SELECTED_NODE).map(String::as_str) == Some(node.name()), "{selected:?}");
    // The volume is on order now, and nobody is there who could make it.
    let silent = cause(scope, "pod/made", "ProvisionerSilent", SILENCE).await?;
    ensure!(silent["summary"].to_string().contains(PROVISIONER), "{silent:#}");
    // A flag that chooses the cluster stands in the command too.
    let kubeconfig = scope.cluster()?.kubeconfig().display().to_string();
    let output = latebind(scope, &["diagnose", "pod/made", "-n", scope.namespace(), "--kubeconfig", &kubeconfig])?;
    ensure!(output.status.code() == Some(1), "{}", told(&output));
    ensure!(told(&output).contains(&format!("kubectl --kubeconfig='{kubeconfig}' get")), "{}", told(&output));
    Ok(())
}

/// Ends a process that would go on.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub async fn a_watch_tells_the_answer_again_when_it_is_another(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    volume(scope, "disk", &fixed, node.name(), "2Gi", json!({})).await?;
    claim(scope, "data", &fixed, json!({})).await?;
    pod(scope, "app", "data", json!({"nodeName": node.name()})).await?;
    let found = cause(scope, "pod/app", "Deadlock", PATIENCE).await?;
    let printed = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(["diagnose", "pod/app", "--watch", "-n", scope.namespace()]).stdout(printed.reopen()?);
    command.env("KUBECONFIG", scope.cluster()?.kubeconfig()).env("NO_COLOR", "1");
    let _watching = Ended(command.spawn()?);
    let told = async |last: &'static str| {
        eventually(&format!("an answer that ends with {last}"), PATIENCE, async || {
            let text = std::fs::read_to_string(printed.path())?;
            let answers: Vec<String> =
                text.lines().filter(|line| line.starts_with("pod/app -n ")).map(str::to_owned).collect();
            ensure!(answers.last().is_some_and(|it| it.ends_with(last)), "{text}");
            Ok(Some(answers))
        })
        .await
    };
    ensure!(told("blocked, Deadlock").await?.len() == 1);
    // It is looked at again meanwhile, and is the same.
    holds_for("one answer", 2 * WATCHED, async || Ok(told("blocked, Deadlock").await?.len())).await?;
    mend(scope, &found)?;
    let answers = told("not blocked, Starting").await?;
    ensure!(answers.len() > 1, "{answers:?}");
    Ok(())
}

pub async fn waiting_ends_when_nothing_is_in_the_way_or_says_what_is(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    volume(scope, "disk", &fixed, node.name(), "2Gi", json!({})).await?;
    claim(scope, "data", &fixed, json!({})).await?;
    pod(scope, "app", "data", json!({"nodeName": node.name()})).await?;
    let found = cause(scope, "pod/app", "Deadlock", PATIENCE).await?;
    let late = latebind(scope, &["wait", "pod/app", "-n", scope.namespace(), "--for=unblocked", "--timeout=1s"])?;
    ensure!(late.status.code() == Some(4) && told(&late).contains("Deadlock"), "{}", told(&late));
    // What is to be typed next is for the cluster that was looked at.
    let config = scope.cluster()?.kubeconfig().display().to_string();
    let elsewhere =
        latebind(scope, &["wait", "pod/app", "-n", scope.namespace(), "--timeout=1s", "--kubeconfig", &config])?;
    ensure!(told(&elsewhere).contains(&format!("kubectl --kubeconfig='{config}' ")), "{}", told(&elsewhere));
    let never = latebind(scope, &["wait", "pvc/never", "-n", scope.namespace(), "--timeout=1s"])?;
    ensure!(never.status.code() == Some(4) && told(&never).contains("does not exist"), "{}", told(&never));
    mend(scope, &found)?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    for object in ["pod/app", "pvc/data"] {
        let waited = latebind(scope, &["wait", object, "-n", scope.namespace()])?;
        ensure!(waited.status.code() == Some(0) && told(&waited).contains("is not blocked"), "{}", told(&waited));
    }
    Ok(())
}

/// Says what a kubelet says when it has seen the Pod and means to run it.
async fn acknowledge(scope: &Scope, pod: &str) -> Result<()> {
    let status = Patch::Merge(json!({"status": {"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"}}));
    scope.api::<Pod>().patch_status(pod, &PatchParams::default(), &status).await?;
    Ok(())
}

pub async fn a_stuck_pod_is_fixed_once_and_only_when_that_is_safe(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let (fixed, made) = (
        class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?,
        class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?,
    );
    let fix =
        |object: &str, more: &[&str]| latebind(scope, &[&["fix", object, "-n", scope.namespace()], more].concat());
    claim(scope, "made", &made, json!({})).await?;
    pod(scope, "made", "made", json!({"nodeName": node.name()})).await?;
    // Before its kubelet has seen the Pod nobody knows whether it will run there.
    let early = fix("pod/made", &["--yes"])?;
    ensure!(early.status.code() == Some(1) && told(&early).contains("nothing is written"), "{}", told(&early));
    acknowledge(scope, "made").await?;
    let selected = async || {
        let annotations = scope.claim("made").await?.metadata.annotations.unwrap_or_default();
        anyhow::Ok(annotations.get(SELECTED_NODE).cloned())
    };
    for how in ["client", "server"] {
        let trial = fix("pod/made", &["--dry-run", how])?;
        let text = told(&trial);
        ensure!(trial.status.code() == Some(0) && text.contains(&format!("{SELECTED_NODE}={}", node.name())), "{text}");
        ensure!(text.contains("nothing was written") || text.contains("Nothing was written"), "{text}");
        ensure!(selected().await?.is_none(), "a dry run wrote");
    }
    let unasked = fix("pod/made", &[])?;
    ensure!(unasked.status.code() == Some(2) && told(&unasked).contains("--yes"), "{}", told(&unasked));
    ensure!(selected().await?.is_none(), "nobody said yes");
    let done = fix("pod/made", &["--yes"])?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    ensure!(selected().await?.as_deref() == Some(node.name()));

    // Of a class without a provisioner a volume is reserved, and the claim is bound.
    volume(scope, "disk", &fixed, node.name(), "2Gi", json!({})).await?;
    claim(scope, "fixed", &fixed, json!({})).await?;
    pod(scope, "fixed", "fixed", json!({"nodeName": node.name()})).await?;
    acknowledge(scope, "fixed").await?;
    let done = fix("pvc/fixed", &["--yes"])?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    scope.claim_phase("fixed", "Bound", PATIENCE).await?;
    let again = fix("pvc/fixed", &["--yes"])?;
    ensure!(again.status.code() == Some(0) && told(&again).contains("nothing to write"), "{}", told(&again));

    // A Pod that the scheduler has yet to place uses the claim: it decides.
    claim(scope, "shared", &made, json!({})).await?;
    pod(scope, "first", "shared", json!({"nodeName": node.name()})).await?;
    pod(scope, "second", "shared", json!({"schedulerName": "nobody"})).await?;
    acknowledge(scope, "first").await?;
    let refused = fix("pvc/shared", &["--yes"])?;
    ensure!(refused.status.code() == Some(1) && told(&refused).contains("LB017"), "{}", told(&refused));
    Ok(())
}

/// A person who fixes a Pod goes no further than the rescue loop where a PinPolicy does not allow the node.
pub async fn a_pin_policy_keeps_fix_from_writing(scope: &Scope) -> Result<()> {
    let definitions = String::from_utf8(latebind(scope, &["crds"])?.stdout)?;
    let applied = scope.cluster()?.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &definitions).await?;
    applied.success()?;
    let node = scope.simulated_node("node", &[]).await?;
    let made = class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?;
    claim(scope, "made", &made, json!({})).await?;
    pod(scope, "made", "made", json!({"nodeName": node.name()})).await?;
    acknowledge(scope, "made").await?;
    let policy = scope.unique("racks");
    let spec =
        json!({"mode": "Deny", "namespaces": {"names": [scope.namespace()]}, "allowedNodes": {"names": ["another"]}});
    eventually("the kind to be served", PATIENCE, async || {
        let object = json!({"metadata": {"name": policy}, "spec": spec});
        Ok(scope.attempt::<PinPolicy>(object).await?.ok().map(drop))
    })
    .await?;
    let found = cause(scope, "pod/made", "Deadlock", PATIENCE).await?;
    let summary = format!("PinPolicy \"{policy}\" does not allow Pods to name node");
    ensure!(found["summary"].as_str().is_some_and(|told| told.contains(&summary)), "{found:#}");
    typed(scope, found["next"][0]["command"].as_str().context("a command")?)?;
    let fix = |more: &[&str]| latebind(scope, &[&["fix", "pod/made", "-n", scope.namespace(), "--yes"], more].concat());
    let refused = fix(&[])?;
    let why = format!("PinPolicy \"{policy}\" does not allow the Pod's node");
    ensure!(refused.status.code() == Some(1) && told(&refused).contains(&why), "{}", told(&refused));
    // Who may not list the policies does not know whether one of them forbids it.
    let rights = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": policy},
            "rules": [{"apiGroups": ["", "storage.k8s.io"], "verbs": ["get", "list", "patch"],
                "resources": ["pods", "persistentvolumeclaims", "persistentvolumes", "nodes", "storageclasses", "events", "namespaces"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": policy},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": policy},
            "subjects": [{"kind": "User", "name": policy, "apiGroup": "rbac.authorization.k8s.io"}]}]});
    crate::apply(scope.cluster()?, &rights.to_string()).await?;
    let mut last = String::new();
    eventually("the rights to count", PATIENCE, async || {
        let refused = fix(&["--as", &policy])?;
        last = told(&refused);
        Ok((refused.status.code() == Some(1) && last.contains("--accept-unknown-policies")).then_some(()))
    })
    .await
    .with_context(|| last.clone())?;
    ensure!(last.contains("which PinPolicies there are is not known"), "{last}");
    let accepted = fix(&["--as", &policy, "--accept-unknown-policies", "--dry-run=server"])?;
    ensure!(accepted.status.code() == Some(0), "{}", told(&accepted));
    crate::delete(scope.cluster()?, &["clusterrole,clusterrolebinding", &policy]).await?;
    let allowed = Patch::Merge(json!({"spec": {"allowedNodes": {"names": [node.name()]}}}));
    scope.all::<PinPolicy>().patch(&policy, &PatchParams::default(), &allowed).await?;
    let done = fix(&[])?;
    ensure!(done.status.code() == Some(0), "{}", told(&done));
    Ok(())
}

pub async fn claims_that_wait_are_told_apart(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let (fixed, made) = (
        class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?,
        class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?,
    );
    claim(scope, "alone", &made, json!({})).await?;
    let output = latebind(scope, &["diagnose", "pvc/alone", "-n", scope.namespace()])?;
    ensure!(output.status.code() == Some(0) && told(&output).contains("NoConsumer"), "{}", told(&output));

    let selected = |node: &str| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
    claim(scope, "poisoned", &fixed, selected(node.name())).await?;
    let found = cause(scope, "pvc/poisoned", "PoisonedClaim", PATIENCE).await?;
    mend(scope, &found)?;
    cause(scope, "pvc/poisoned", "NoConsumer", PATIENCE).await?;

    claim(scope, "stale", &made, selected("never-was")).await?;
    let found = cause(scope, "pvc/stale", "SelectedNodeGone", PATIENCE).await?;
    mend(scope, &found)?;
    cause(scope, "pvc/stale", "NoConsumer", PATIENCE).await?;

    claim(scope, "unclassed", &scope.unique("never"), json!({})).await?;
    cause(scope, "pvc/unclassed", "ClassMissing", PATIENCE).await?;
    pod(scope, "lonely", "never-made", json!({})).await?;
    cause(scope, "pod/lonely", "ClaimMissing", PATIENCE).await?;
    let gone = latebind(scope, &["diagnose", "pod/nobody", "-n", scope.namespace()])?;
    ensure!(gone.status.code() == Some(2) && told(&gone).contains("there is no pod/nobody"), "{}", told(&gone));
    Ok(())
}

pub async fn the_scheduler_s_reasons_lead_to_a_cause(scope: &Scope) -> Result<()> {
    let (here, there) = (scope.simulated_node("here", &[]).await?, scope.simulated_node("there", &[]).await?);
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let at_once = class(scope, "at-once", NO_PROVISIONER, "Immediate").await?;
    // Bound to a volume of one node, wanted on another.
    for (name, class) in [("tied", &fixed), ("hasty", &at_once)] {
        let reserved = json!({"spec": {"claimRef": {"namespace": scope.namespace(), "name": name}}});
        volume(scope, name, class, here.name(), "1Gi", reserved).await?;
        claim(scope, name, class, json!({})).await?;
        scope.claim_phase(name, "Bound", PATIENCE).await?;
        pod(scope, name, name, on(&there)).await?;
    }
    let found = cause(scope, "pod/tied", "BoundElsewhere", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("own node selector"), "{found:#}");
    cause(scope, "pod/hasty", "ImmediateElsewhere", PATIENCE).await?;
    pod(scope, "named", "tied", json!({"nodeName": there.name()})).await?;
    cause(scope, "pod/named", "BoundElsewhere", PATIENCE).await?;

    // The volumes that exist are too small.
    volume(scope, "small", &fixed, here.name(), "1Mi", json!({})).await?;
    claim(scope, "large", &fixed, json!({})).await?;
    pod(scope, "large", "large", json!({})).await?;
    let found = cause(scope, "pod/large", "VolumeMismatch", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("spec.capacity.storage should be 1Gi or more"), "{found:#}");

    // A cordon on the only node that reaches the volume; what is printed lifts it.
    let cordon = |on: bool| Patch::Merge(json!({"spec": {"unschedulable": on}}));
    let nodes = scope.all::<k8s_openapi::api::core::v1::Node>();
    nodes.patch(here.name(), &PatchParams::default(), &cordon(true)).await?;
    pod(scope, "kept-out", "tied", json!({})).await?;
    let found = cause(scope, "pod/kept-out", "NodesCordoned", PATIENCE).await?;
    mend(scope, &found)?;
    eventually("the Pod to be placed", PATIENCE, async || {
        Ok(scope.pod("kept-out").await?.spec.and_then(|spec| spec.node_name).map(drop))
    })
    .await?;

    pod(scope, "unheard", "tied", json!({"schedulerName": "nobody"})).await?;
    cause(scope, "pod/unheard", "SchedulerSilent", SILENCE).await?;
    Ok(())
}

pub async fn a_volume_that_nobody_cleans_is_given_back(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let reserved = json!({"spec": {"claimRef": {"namespace": scope.namespace(), "name": "data"}}});
    let name = volume(scope, "disk", &fixed, node.name(), "1Gi", reserved).await?;
    claim(scope, "data", &fixed, json!({})).await?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    scope.api::<PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
    let volumes = scope.all::<PersistentVolume>();
    eventually("the volume to be released", PATIENCE, async || {
        let phase = volumes.get(&name).await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Released")).then_some(()))
    })
    .await?;
    cause(scope, &format!("pv/{name}"), "VolumeReleased", PATIENCE).await?;
    claim(scope, "data", &fixed, json!({})).await?;
    pod(scope, "app", "data", json!({})).await?;
    let found = cause(scope, "pod/app", "VolumeReleased", PATIENCE).await?;
    mend(scope, &found)?;
    scope.claim_phase("data", "Bound", PATIENCE).await?;
    Ok(())
}

pub async fn a_quota_is_named(scope: &Scope) -> Result<()> {
    let class = class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"persistentvolumeclaims": "0"}}});
    scope.create::<ResourceQuota>(quota).await?;
    eventually("the quota to count", PATIENCE, async || {
        let quota = scope.api::<ResourceQuota>().get("none").await?;
        Ok(quota.status.and_then(|status| status.used).map(drop))
    })
    .await?;
    let pod = objects::pod("p", &[]);
    scope
        .create::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": pod["spec"]},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": objects::claim_spec(&class, "1Gi")}]}}))
        .await?;
    let scratch =
        json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": objects::claim_spec(&class, "1Gi")}}});
    scope.create::<Pod>(objects::pod("temporary", &[scratch])).await?;
    cause(scope, "pod/temporary", "QuotaExceeded", PATIENCE).await?;
    let mut last = String::new();
    eventually("the StatefulSet to be listed", PATIENCE, async || {
        last = told(&latebind(scope, &["diagnose", "-n", scope.namespace()])?);
        let row = last.lines().find(|line| line.contains("statefulset/db"));
        Ok(row.filter(|row| row.contains("QuotaExceeded")).map(drop))
    })
    .await
    .with_context(|| last.clone())
}

/// Subjects and causes of a list.
fn rows(output: &Output) -> Result<Vec<String>> {
    let list: Value = serde_json::from_slice(&output.stdout).with_context(|| told(output))?;
    let items = list["items"].as_array().context("items")?;
    let mut rows: Vec<String> = items.iter().map(|it| format!("{} {}", it["subject"]["name"], it["cause"])).collect();
    rows.sort();
    Ok(rows)
}

fn everything_in(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        text.push_str(&if path.is_dir() { everything_in(&path)? } else { std::fs::read_to_string(&path)? });
    }
    Ok(text)
}

pub async fn a_dump_says_what_the_cluster_said(scope: &Scope) -> Result<()> {
    let (node, there) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("there", &[]).await?);
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let reserved = json!({"spec": {"claimRef": {"namespace": scope.namespace(), "name": "tied"}}});
    volume(scope, "tied", &fixed, node.name(), "1Gi", reserved).await?;
    for name in ["tied", "stuck", "alone"] {
        claim(scope, name, &fixed, json!({})).await?;
    }
    scope.claim_phase("tied", "Bound", PATIENCE).await?;
    pod(scope, "stuck", "stuck", json!({"nodeName": node.name()})).await?;
    pod(scope, "tied", "tied", on(&there)).await?;
    cause(scope, "pod/tied", "BoundElsewhere", PATIENCE).await?;
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("dump").display().to_string();
    let output = latebind(scope, &["dump", "-n", scope.namespace(), "-o", &dump])?;
    ensure!(output.status.success(), "{}", told(&output));
    let text = everything_in(Path::new(&dump))?;
    ensure!(text.contains("\"stuck\"") && !text.contains("nobodys-business") && !text.contains("\"Secret"), "{text}");
    let live = rows(&latebind(scope, &["diagnose", "-n", scope.namespace(), "-o", "json"])?)?;
    // Nothing of the environment names a cluster.
    let mut offline = Command::new(env!("CARGO_BIN_EXE_latebind"));
    offline
        .args(["diagnose", "--from", &dump, "-n", scope.namespace(), "-o", "json"])
        .env_clear()
        .env("HOME", folder.path());
    let offline = rows(&offline.output()?)?;
    ensure!(live == offline && live.len() == 3, "live {live:?}, from the dump {offline:?}");
    let again = latebind(scope, &["dump", "-n", scope.namespace(), "-o", &dump])?;
    ensure!(again.status.code() == Some(2) && told(&again).contains("not empty"), "{}", told(&again));
    Ok(())
}

/// Who may read little learns what can be told from that, and what is missing.
pub async fn what_may_not_be_read_is_named(scope: &Scope) -> Result<()> {
    let fixed = class(scope, "fixed", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    claim(scope, "data", &fixed, json!({})).await?;
    let rights = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "claims", "namespace": scope.namespace()},
            "rules": [{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "claims", "namespace": scope.namespace()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "claims"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": scope.namespace()}]}]);
    let role = json!({"apiVersion": "v1", "kind": "List", "items": rights});
    crate::apply(scope.cluster()?, &role.to_string()).await?;
    let account = format!("system:serviceaccount:{}:default", scope.namespace());
    let mut last = String::new();
    eventually("the rights to count", PATIENCE, async || {
        let output = latebind(scope, &["diagnose", "pvc/data", "-n", scope.namespace(), "--as", &account])?;
        last = told(&output);
        let names = |text: &str| last.contains(text);
        Ok((output.status.code() == Some(5) && names("refuses to list storageclasses") && names("NotKnown"))
            .then_some(()))
    })
    .await
    .with_context(|| last.clone())?;
    // Pods that may not be listed are not missing, and nothing is written for want of them.
    for command in [["fix", "pod/app", "--yes"], ["fix", "pvc/data", "--yes"], ["wait", "pod/app", "--timeout=1s"]] {
        let output = latebind(scope, &[&command[..], &["-n", scope.namespace(), "--as", &account]].concat())?;
        let said = told(&output);
        let code = if command[0] == "fix" { 1 } else { 4 };
        ensure!(output.status.code() == Some(code) && said.contains("refuses to list"), "{command:?}: {said}");
        ensure!(!said.contains("there is no") && !said.contains("does not exist"), "{command:?}: {said}");
    }
    let nobody =
        latebind(scope, &["diagnose", "pvc/data", "-n", scope.namespace(), "--as", "system:serviceaccount:a:b"])?;
    ensure!(nobody.status.code() == Some(3), "{}", told(&nobody));
    Ok(())
}

/// Why a Pod that the webhook rewrites was not rewritten: what `latebind check` finds out stands beside the deadlock.
pub async fn why_a_pod_was_not_rewritten_is_told(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let made = class(scope, "made", PROVISIONER, "WaitForFirstConsumer").await?;
    claim(scope, "data", &made, json!({})).await?;
    pod(scope, "earlier", "data", json!({"nodeName": node.name()})).await?;
    let evidence = |object: &str| -> Result<String> { Ok(diagnosis(scope, object)?["evidence"].to_string()) };
    ensure!(evidence("pod/earlier")?.contains("is not installed"), "{}", evidence("pod/earlier")?);
    // Times of creation are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let label = Patch::Merge(json!({"metadata": {"labels": {"latebind.dev/webhook": "disabled"}}}));
    let namespaces = scope.all::<k8s_openapi::api::core::v1::Namespace>();
    namespaces.patch(scope.namespace(), &PatchParams::default(), &label).await?;
    let expressions = json!([{"key": "latebind.dev/webhook", "operator": "NotIn", "values": ["disabled"]},
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [scope.namespace()]}]);
    scope
        .create::<MutatingWebhookConfiguration>(json!({"metadata": {"name": "zz-latebind"}, "webhooks": [{
            "name": "pods.latebind.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"service": {"namespace": scope.namespace(), "name": "latebind-webhook"}},
            "namespaceSelector": {"matchExpressions": expressions},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]}))
        .await?;
    let told = evidence("pod/earlier")?;
    ensure!(told.contains("was installed after the Pod was created"), "{told}");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    pod(scope, "later", "data", json!({"nodeName": node.name()})).await?;
    let told = evidence("pod/later")?;
    ensure!(told.contains("did not rewrite the Pod: exempt: the namespace has the label"), "{told}");
    ensure!(!told.contains("was installed after"), "{told}");
    // A Pod that the webhook would have left alone is not one that it missed.
    let taint = Patch::Merge(json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}));
    let nodes = scope.all::<k8s_openapi::api::core::v1::Node>();
    nodes.patch(node.name(), &PatchParams::default(), &taint).await?;
    let told = evidence("pod/later")?;
    ensure!(told.contains("LB102") && !told.contains("did not rewrite"), "{told}");
    Ok(())
}

/// What an agent reports leads to the cause. Nothing of latebind runs here: the reports are written by hand, as an agent would.
pub async fn what_an_agent_reports_leads_to_a_cause(scope: &Scope) -> Result<()> {
    let definitions = String::from_utf8(latebind(scope, &["crds"])?.stdout)?;
    let applied = scope.cluster()?.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &definitions).await?;
    applied.success()?;
    let node = scope.simulated_node("node", &[]).await?;
    let own = class(scope, "own", "local.latebind.dev", "WaitForFirstConsumer").await?;
    let ordered = json!({"metadata": {"annotations": {SELECTED_NODE: node.name()}}});
    let data = claim(scope, "data", &own, ordered).await?;
    let found = cause(scope, "pvc/data", "AgentAway", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("has no LocalNode"), "{found:#}");

    eventually("the kind to be served", PATIENCE, async || {
        let report = json!({"metadata": {"name": node.name()}, "spec": {"nodeUID": "u"}});
        Ok(scope.attempt::<LocalNode>(report).await?.ok().map(drop))
    })
    .await?;
    let reports = scope.all::<LocalNode>();
    let now = || k8s_openapi::jiff::Timestamp::now().to_string();
    let report = async |status: Value| -> Result<()> {
        let patch = Patch::Merge(json!({"status": status}));
        reports.patch_status(node.name(), &PatchParams::default(), &patch).await?;
        Ok(())
    };
    let path =
        |usable: bool| json!([{"path": "/mnt/fast", "usable": usable, "message": "/mnt/fast is not a mount point"}]);
    report(json!({"observedAt": now(), "paths": path(false)})).await?;
    let found = cause(scope, "pvc/data", "DiskNotReady", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("is not a mount point"), "{found:#}");

    let held = |kind: &str| json!([{"type": kind, "status": "True", "reason": "Held", "message": "a disk is away", "lastTransitionTime": now()}]);
    for (condition, named) in [("NodeReplaced", "NodeReplaced"), ("DiskHung", "DiskHung")] {
        report(json!({"paths": path(true), "conditions": held(condition)})).await?;
        cause(scope, "pvc/data", named, PATIENCE).await?;
        cause(scope, &format!("node/{}", node.name()), named, PATIENCE).await?;
    }
    report(json!({"observedAt": "2026-01-01T00:00:00Z", "conditions": []})).await?;
    let found = cause(scope, "pvc/data", "AgentAway", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("has not reported for"), "{found:#}");

    // The directory itself.
    report(json!({"observedAt": now()})).await?;
    let uid = data.metadata.uid.context("uid")?;
    let name = LocalVolume::name_for(&uid, node.name());
    scope
        .create::<LocalVolume>(
            json!({"metadata": {"name": name}, "spec": {"nodeName": node.name(), "base": "/mnt/fast",
            "path": "data", "claim": {"namespace": scope.namespace(), "name": "data", "uid": uid}}}),
        )
        .await?;
    let refused = json!([{"type": "Ready", "status": "False", "reason": "ReadOnlyFileSystem",
        "message": "mkdir data: read-only file system", "lastTransitionTime": now()}]);
    let status = Patch::Merge(json!({"status": {"conditions": refused}}));
    scope.all::<LocalVolume>().patch_status(&name, &PatchParams::default(), &status).await?;
    let found = cause(scope, "pvc/data", "DiskNotReady", PATIENCE).await?;
    ensure!(found["summary"].to_string().contains("read-only file system"), "{found:#}");
    typed(scope, found["next"][0]["command"].as_str().context("a command")?).map(drop)
}
