//! Races between rescue and everybody else, as far as they can be forced.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind_cluster::suite::long;
use latebind_cluster::{Scope, eventually, holds_for};
use serde_json::{Value, json};

use crate::process::{share, writes};
use crate::results::note;
use crate::rows::untouched;
use crate::stage::*;

/// Without a start time the kubelet has not seen the Pod; in phase Failed it has rejected it.
pub async fn a_pod_that_its_kubelet_has_not_seen_or_has_rejected_pins_nothing(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "unseen", &class, "1Gi").await?;
    claim(scope, "rejected", &class, "1Gi").await?;
    pinned(scope, "unseen", node.name(), &["unseen"]).await?;
    pinned(scope, "rejected", node.name(), &["rejected"]).await?;
    // What kubelet writes for OutOfcpu: the start time is there too.
    let failed = json!({"phase": "Failed", "reason": "OutOfcpu", "startTime": "2026-01-01T00:00:00Z"});
    status(scope, "rejected", failed).await?;
    untouched(scope, "unseen").await?;
    untouched(scope, "rejected").await?;
    acknowledge(scope, "unseen").await?;
    selected(scope, "unseen").await.map(drop)
}

/// A start time may come before the rejection does: what kubelet rejects for is looked at here too.
pub async fn a_pod_that_its_kubelet_would_reject_pins_nothing(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let tainted = scope.simulated_node("tainted", &[]).await?;
    let taint = json!({"spec": {"taints": [{"key": "test.example.com/out", "effect": "NoExecute"}]}});
    scope.all::<Node>().patch(tainted.name(), &PatchParams::default(), &Patch::Merge(taint)).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let topology =
        json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["elsewhere"]}]}]});
    let bounded = class_with(scope, "bounded", PROVISIONER, topology).await?;
    claim(scope, "tainted", &class, "1Gi").await?;
    claim(scope, "selector", &class, "1Gi").await?;
    claim(scope, "topology", &bounded, "1Gi").await?;
    stuck(scope, "tainted", tainted.name(), &["tainted"]).await?;
    let selector = json!({"nodeName": node.name(), "nodeSelector": {"kubernetes.io/hostname": "another"}});
    pod(scope, "selector", &["selector"], selector).await?;
    acknowledge(scope, "selector").await?;
    stuck(scope, "topology", node.name(), &["topology"]).await?;
    // The controller manager deletes the first one within moments, too soon for an event.
    untouched(scope, "tainted").await?;
    for (name, reason) in [("selector", "SelectorContradicts"), ("topology", "TopologyExcluded")] {
        scope.event(name, reason, "LB1", PATIENCE).await?;
        ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), name)? == 0, "{name}");
    }
    Ok(())
}

/// While a Pod that the scheduler has yet to place uses the claim, rescue writes nothing and says whom it waits for.
pub async fn the_scheduler_comes_first(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    // No node has the label, so that the scheduler cannot place it.
    pod(scope, "unplaced", &["data"], json!({"nodeSelector": {"test.example.com/no": "where"}})).await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    scope.event("app", "WaitsForScheduler", "unplaced", PATIENCE).await?;
    untouched(scope, "data").await?;
    scope.api::<Pod>().delete("unplaced", &DeleteParams::default().grace_period(0)).await?;
    let claim = selected(scope, "data").await?;
    ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(node.name()));
    Ok(())
}

/// Rows 1, 10 and 11: what is missing appears later, and no Pod changes then.
pub async fn a_claim_or_class_may_come_after_the_pod(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let made = class(scope, "dynamic", PROVISIONER).await?;
    stuck(scope, "no-claim", node.name(), &["late-claim"]).await?;
    claim(scope, "late-claim", &made, "1Gi").await?;
    selected(scope, "late-claim").await?;

    let later = scope.unique("later");
    claim(scope, "no-class", &later, "1Gi").await?;
    stuck(scope, "no-class", node.name(), &["no-class"]).await?;
    scope.event("no-class", "NoClassYet", &later, PATIENCE).await?;
    class(scope, "later", PROVISIONER).await?;
    selected(scope, "no-class").await?;

    // No class named and no default: the controller manager fills in one that appears later.
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    scope.create::<PersistentVolumeClaim>(json!({"metadata": {"name": "no-default"}, "spec": spec})).await?;
    stuck(scope, "no-default", node.name(), &["no-default"]).await?;
    scope.event("no-default", "NoClassYet", "no default", PATIENCE).await?;
    let default = json!({"metadata": {
        "name": scope.unique("default"), "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    }});
    class_with(scope, "default", PROVISIONER, default).await?;
    // It looks at such claims every 15 s.
    selected(scope, "no-default").await.map(drop)
}

pub async fn the_older_of_two_nodes_wins(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (first, second) = (scope.simulated_node("first", &[]).await?, scope.simulated_node("second", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    pinned(scope, "older", first.name(), &["data"]).await?;
    // Creation times have seconds; within one the UID decides.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pinned(scope, "younger", second.name(), &["data"]).await?;
    // The younger one's kubelet is faster. It must wait all the same: the older one's is alive and may come.
    acknowledge(scope, "younger").await?;
    scope.event("younger", "SharedAcrossNodes", "older", PATIENCE).await?;
    untouched(scope, "data").await?;
    acknowledge(scope, "older").await?;
    let claim = selected(scope, "data").await?;
    ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(first.name()));
    Ok(())
}

pub async fn two_claims_and_one_volume(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "static", NO_PROVISIONER).await?;
    let names = ["one", "two", "three"];
    for name in names {
        claim(scope, name, &class, "1Gi").await?;
        stuck(scope, &format!("app-{name}"), node.name(), &[name]).await?;
    }
    let volume = volume(scope, "only", &class, node.name(), "1Gi").await?;
    let bound = eventually("one claim to be bound", PATIENCE, async || {
        for name in names {
            let claim = scope.claim(name).await?;
            if claim.status.and_then(|status| status.phase).as_deref() == Some("Bound") {
                return Ok(Some(name));
            }
        }
        Ok(None)
    })
    .await?;
    for name in names.into_iter().filter(|name| *name != bound) {
        scope.event(&format!("app-{name}"), "NoVolumeFits", "LB008", PATIENCE).await?;
    }
    // One write, whoever asked: the volume was promised before the watch had brought the write back.
    ensure!(writes(scope.cluster()?, "persistentvolumes", "", &volume)? == 1);
    Ok(())
}

/// Left alone, the annotation would force every later Pod to the node.
pub async fn an_order_for_a_vanished_pod_is_taken_back(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (doomed, other) = (scope.simulated_node("doomed", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;

    // Its node goes with it.
    claim(scope, "gone", &class, "1Gi").await?;
    stuck(scope, "gone", doomed.name(), &["gone"]).await?;
    selected(scope, "gone").await?;
    scope.api::<Pod>().delete("gone", &DeleteParams::default().grace_period(0)).await?;
    let name = doomed.name().to_owned();
    drop(doomed);
    scope.all::<Node>().delete(&name, &DeleteParams::default()).await?;
    unselected(scope, "gone").await?;
    scope.event("gone", "SelectedNodeRemoved", &name, PATIENCE).await?;

    // Its node stands: as long as nobody waits, or the provisioner may still be at work, the order does too.
    claim(scope, "stands", &class, "1Gi").await?;
    stuck(scope, "stands", other.name(), &["stands"]).await?;
    selected(scope, "stands").await?;
    scope.api::<Pod>().delete("stands", &DeleteParams::default().grace_period(0)).await?;
    pod(scope, "next", &["stands"], json!({"nodeSelector": {"test.example.com/no": "where"}})).await?;
    tokio::time::sleep(QUIET).await;
    ensure!(scope.claim("stands").await?.annotations().contains_key(SELECTED_NODE));

    // The same, and the provisioner has failed for longer than ten minutes.
    claim(scope, "failed", &class, "1Gi").await?;
    let pod_before = stuck(scope, "failed", other.name(), &["failed"]).await?;
    selected(scope, "failed").await?;
    failure(scope, "failed", "out of space", SignedDuration::from_mins(11)).await?;
    scope.api::<Pod>().delete("failed", &DeleteParams::default().grace_period(0)).await?;
    pod(scope, "later", &["failed"], json!({"nodeSelector": {"test.example.com/no": "where"}})).await?;
    unselected(scope, "failed").await?;
    ensure!(pod_before.metadata.uid.is_some());
    Ok(())
}

/// The provisioner gives the node back, the Pod goes, and the scheduler selects a node for the next one, once another and
/// once the very same: the mark that is left on the claim lets nobody take that back.
pub async fn what_the_scheduler_selects_after_us_stays(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    for (name, chosen) in [("elsewhere", other.name()), ("same", node.name())] {
        claim(scope, name, &class, "1Gi").await?;
        stuck(scope, name, node.name(), &[name]).await?;
        selected(scope, name).await?;
        // For as long as would let an order of ours be taken back.
        failure(scope, name, "out of space", SignedDuration::from_mins(11)).await?;
        give_back(scope, name).await?;
        scope.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await?;
        let left = scope.claim(name).await?;
        ensure!(left.annotations().contains_key(SELECTED_BY), "there is no mark to go wrong by");
        annotate(scope, name, json!({SELECTED_NODE: chosen})).await?;
        pod(scope, &format!("{name}-next"), &[name], json!({"nodeSelector": {"test.example.com/no": "where"}})).await?;
    }
    let chosen = async |name: &str| anyhow::Ok(scope.claim(name).await?.annotations().get(SELECTED_NODE).cloned());
    for (name, node) in [("elsewhere", other.name()), ("same", node.name())] {
        let stays = holds_for(&format!("the node of claim {name}"), QUIET, async || chosen(name).await).await?;
        ensure!(stays.as_deref() == Some(node), "{name}: {stays:?}");
    }
    // The mark of the same node says of whom the order was, and it was not: that is settled by its going.
    eventually("the mark to go", PATIENCE, async || {
        Ok((!scope.claim("same").await?.annotations().contains_key(SELECTED_BY)).then_some(()))
    })
    .await
}

async fn unselected(scope: &Scope, claim: &str) -> Result<()> {
    eventually(&format!("claim {claim} to be free of its node"), PATIENCE, async || {
        let claim = scope.claim(claim).await?;
        let free = !claim.annotations().contains_key(SELECTED_NODE) && !claim.annotations().contains_key(SELECTED_BY);
        Ok(free.then_some(()))
    })
    .await
}

/// What a provisioner says when it cannot make a volume.
pub async fn failure(scope: &Scope, claim: &str, message: &str, ago: SignedDuration) -> Result<()> {
    let claim = scope.claim(claim).await?;
    let (first, last) = (Timestamp::now() - ago, Timestamp::now());
    scope
        .create::<Event>(json!({
            "metadata": {"generateName": "failure-"},
            "involvedObject": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                "name": claim.name_any(), "uid": claim.uid(),
            },
            "reason": "ProvisioningFailed", "message": message, "type": "Warning", "count": 5,
            "source": {"component": PROVISIONER},
            "firstTimestamp": format!("{first:.0}"), "lastTimestamp": format!("{last:.0}"),
        }))
        .await?;
    Ok(())
}

/// Gives the node back as provisioners do that are out of room on it.
pub async fn give_back(scope: &Scope, claim: &str) -> Result<()> {
    annotate(scope, claim, json!({SELECTED_NODE: Value::Null})).await
}

/// Once in the ordinary run, three times in the long one.
pub async fn a_node_given_back_is_ordered_again_later(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    selected(scope, "data").await?;
    let times = if long() { 3 } else { 1 };
    for time in 1..=times {
        failure(scope, "data", &format!("disk full, time {time}"), SignedDuration::ZERO).await?;
        give_back(scope, "data").await?;
        let begin = std::time::Instant::now();
        scope.event("app", "NodeGivenBack", "disk full", PATIENCE).await?;
        let again = eventually("the node to be selected again", Duration::from_secs(90), async || {
            let claim = scope.claim("data").await?;
            Ok(claim.annotations().contains_key(SELECTED_NODE).then_some(claim))
        })
        .await?;
        // 10 s, 20 s, 40 s: never sooner, or two parties would fight over the annotation.
        let least = Duration::from_secs(10 << (time - 1));
        ensure!(begin.elapsed() + Duration::from_millis(500) >= least, "after {:?}", begin.elapsed());
        let count = again.annotations().get("latebind.dev/selected-node-count").cloned();
        ensure!(count == Some((time + 1).to_string()), "{count:?}");
    }
    // The last time is near: then a person is told, and nothing is written any more.
    annotate(scope, "data", json!({"latebind.dev/selected-node-count": "10"})).await?;
    give_back(scope, "data").await?;
    scope.event("app", "GaveUp", "disk full", PATIENCE).await?;
    let gave_up = scope.claim("data").await?.annotations().get("latebind.dev/gave-up").cloned();
    ensure!(gave_up.context("an annotation")?.contains("10 times"));
    let seen = "asked again after 10 s, 20 s, 40 s and no sooner; given up after the tenth".to_owned();
    if long() {
        note("a provisioner that gives the node back three times", seen);
    }
    Ok(())
}

/// A Pod of the same name is another Pod: nothing that was known of the first one counts for it.
pub async fn a_pod_that_was_created_again_is_another_pod(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let (first, second) = (scope.simulated_node("first", &[]).await?, scope.simulated_node("second", &[]).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let now = DeleteParams::default().grace_period(0);
    let pods = scope.api::<Pod>();

    // Nothing had been ordered for the first one.
    claim(scope, "data", &class, "1Gi").await?;
    pinned(scope, "app", first.name(), &["data"]).await?;
    pods.delete("app", &now).await?;
    let again = stuck(scope, "app", second.name(), &["data"]).await?;
    let chosen = selected(scope, "data").await?;
    ensure!(chosen.annotations().get(SELECTED_NODE).map(String::as_str) == Some(second.name()));
    ensure!(chosen.annotations().get(SELECTED_BY) == Some(&mark(&again, second.name())));

    // A volume is on order for the first one: it may be made at this moment.
    claim(scope, "ordered", &class, "1Gi").await?;
    stuck(scope, "other", first.name(), &["ordered"]).await?;
    selected(scope, "ordered").await?;
    pods.delete("other", &now).await?;
    stuck(scope, "other", second.name(), &["ordered"]).await?;
    scope.event("other", "SelectedElsewhere", first.name(), PATIENCE).await?;
    let stands = scope.claim("ordered").await?;
    ensure!(stands.annotations().get(SELECTED_NODE).map(String::as_str) == Some(first.name()));
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), "ordered")? == 1);

    // Its own claim belongs to the first one, and goes with it.
    let ephemeral = |node: &str| {
        json!({"metadata": {"name": "own"}, "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none.invalid/none", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(&class, "1Gi")}}}],
        }})
    };
    let claims = scope.api::<PersistentVolumeClaim>();
    scope.create::<Pod>(ephemeral(first.name())).await?;
    let old =
        eventually("the claim of the first one", PATIENCE, async || claims.get_opt("own-v").await.map_err(Into::into))
            .await?;
    pods.delete("own", &now).await?;
    let new = scope.create::<Pod>(ephemeral(second.name())).await?;
    acknowledge(scope, "own").await?;
    let claim = eventually("the claim of the second one to be ordered", PATIENCE, async || {
        let claim = claims.get_opt("own-v").await?;
        Ok(claim.filter(|claim| claim.annotations().contains_key(SELECTED_NODE)))
    })
    .await?;
    ensure!(claim.uid() != old.uid() && claim.annotations().get(SELECTED_BY) == Some(&mark(&new, second.name())));
    ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(second.name()));
    Ok(())
}

/// A claim that was deleted and made again between the decision and the write has the same name, and nothing else.
pub async fn writes_are_bound_to_what_was_decided_on(scope: &Scope) -> Result<()> {
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let claims: Api<PersistentVolumeClaim> = scope.api();
    let before = claim(scope, "data", &class, "1Gi").await?;
    claims.delete("data", &DeleteParams::default()).await?;
    eventually("the claim to be gone", PATIENCE, async || Ok(claims.get_opt("data").await?.is_none().then_some(())))
        .await?;
    let after = claim(scope, "data", &class, "1Gi").await?;
    let attempt = async |uid: Option<String>, version: Option<String>| {
        let patch = json!({"metadata": {"uid": uid, "resourceVersion": version, "annotations": {SELECTED_NODE: "n"}}});
        match claims.patch("data", &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(200),
            Err(kube::Error::Api(status)) => Ok(status.code),
            Err(error) => Err(error),
        }
    };
    // Each precondition alone suffices.
    let of_both = attempt(before.uid(), before.resource_version()).await?;
    let of_version = attempt(after.uid(), before.resource_version()).await?;
    let of_uid = attempt(before.uid(), after.resource_version()).await?;
    ensure!((of_both, of_version) == (409, 409), "{of_both} {of_version}");
    ensure!(matches!(of_uid, 409 | 422), "{of_uid}");
    ensure!(!scope.claim("data").await?.annotations().contains_key(SELECTED_NODE));
    ensure!(attempt(after.uid(), after.resource_version()).await? == 200);

    // And of a volume: who comes second loses.
    let node = scope.simulated_node("node", &[]).await?;
    let name = volume(scope, "disk", &class, node.name(), "1Gi").await?;
    let volumes = scope.all::<PersistentVolume>();
    let read = volumes.get(&name).await?;
    let reserve = async |claim: &str| {
        let patch = json!({
            "metadata": {"uid": read.uid(), "resourceVersion": read.resource_version()},
            "spec": {"claimRef": {"namespace": scope.namespace(), "name": claim, "uid": claim}},
        });
        volumes.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await
    };
    reserve("first").await?;
    let second = reserve("second").await;
    ensure!(matches!(&second, Err(kube::Error::Api(status)) if status.code == 409), "{second:?}");
    Ok(())
}

/// Objects in it can be changed but not created: an event that is refused must not disturb anything.
pub async fn a_namespace_that_is_ending_is_left_alone(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let name = scope.unique("ending");
    scope.create::<Namespace>(json!({"metadata": {"name": name}})).await?;
    let held = ["test.example.com/held"];
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(scope.client(), &name);
    let object = json!({"metadata": {"name": "data", "finalizers": held}, "spec": claim_spec(&class, "1Gi")});
    claims.create(&kube::api::PostParams::default(), &serde_json::from_value(object)?).await?;
    scope.all::<Namespace>().delete(&name, &DeleteParams::default()).await?;
    // The shared process goes on working for others.
    claim(scope, "data", &class, "1Gi").await?;
    stuck(scope, "app", node.name(), &["data"]).await?;
    selected(scope, "data").await?;
    ensure!(writes(scope.cluster()?, "persistentvolumeclaims", &name, "data")? == 0);
    let lift = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    claims.patch("data", &PatchParams::default(), &lift).await?;
    Ok(())
}

/// An unscheduled and a pinned consumer of one claim, created at the same time: 10 rounds, or 100 in the long run.
pub async fn scheduler_and_rescue_never_choose_two_nodes(scope: &Scope) -> Result<()> {
    share(scope.cluster()?).await?;
    // Nodes of other tests come and go.
    let own = scope.unique("race");
    let labels = [("test.example.com/race", own.as_str())];
    let (named, free) = (scope.simulated_node("named", &labels).await?, scope.simulated_node("free", &labels).await?);
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let (mut by_scheduler, mut by_rescue) = (0, 0);
    for round in 0..if long() { 100 } else { 10 } {
        let (data, unplaced, app) = (format!("data-{round}"), format!("unplaced-{round}"), format!("app-{round}"));
        claim(scope, &data, &class, "1Gi").await?;
        pinned(scope, &app, named.name(), &[&data]).await?;
        // From rescue well ahead to the scheduler well ahead, through all that lies between.
        let head_start = Duration::from_millis((round % 10) * 6);
        let (placed, acknowledged) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                pod(scope, &unplaced, &[&data], json!({"nodeSelector": {"test.example.com/race": own}})).await
            },
            async {
                tokio::time::sleep(head_start).await;
                acknowledge(scope, &app).await
            },
        );
        placed?;
        acknowledged?;
        let chosen = selected(scope, &data).await?.annotations().get(SELECTED_NODE).cloned().context("chosen")?;
        provision(scope, &data).await?;
        bound_to(scope, &data).await?;
        // The scheduler's Pod runs where the volume is, as it would have without anybody's help.
        let node = eventually("the Pod to be placed", PATIENCE, async || {
            Ok(scope.pod(&unplaced).await?.spec.and_then(|spec| spec.node_name))
        })
        .await?;
        ensure!(node == chosen, "round {round}: placed on {node}, volume on {chosen}");
        let after = scope.claim(&data).await?;
        ensure!(after.annotations().get(SELECTED_NODE) == Some(&chosen), "round {round}: the choice has changed");
        let ours = writes(scope.cluster()?, "persistentvolumeclaims", scope.namespace(), &data)?;
        if ours == 0 {
            by_scheduler += 1;
        } else {
            ensure!(ours == 1 && chosen == named.name());
            by_rescue += 1;
        }
        for name in [&unplaced, &app] {
            scope.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await?;
        }
    }
    let seen = format!("never two nodes; the scheduler chose {by_scheduler} times, rescue {by_rescue} times");
    note("a Pod for the scheduler and a pinned one with the same claim, created at once", seen);
    drop(free);
    Ok(())
}
