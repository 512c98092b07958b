//! Watch caches against a real API server.

#![allow(clippy::expect_used, reason = "a test that cannot run has failed")]

mod audit;
mod causes;
mod diagnose;
mod drain;
mod plan;
mod server;
mod shared;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use latebind::binding::{ClusterView, Lookup};
use latebind::facts::live::{Fetcher, LiveCluster, WatchedPods};
use latebind::model::Pod;
use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::{Cluster, Component, Scope, eventually, tests};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut suite = Suite::new("live");
    tests!(
        suite,
        Needs::ControlPlane,
        [
            objects_appear_change_and_vanish_in_every_index,
            pods_that_keep_others_away_and_devices_are_watched,
            a_view_without_pods_does_not_know_consumers,
            a_claim_that_no_watch_has_brought_is_looked_at,
            server::commands_take_facts_from_the_cluster,
            server::a_cluster_that_is_not_there_or_refuses_is_told,
            server::lists_are_read_page_by_page,
            audit::what_is_stuck_or_at_risk_is_listed_by_its_reason,
            audit::reports_in_the_cluster_follow_what_an_audit_finds,
            diagnose::a_pod_that_names_its_node_is_explained_and_started,
            diagnose::a_watch_tells_the_answer_again_when_it_is_another,
            diagnose::waiting_ends_when_nothing_is_in_the_way_or_says_what_is,
            diagnose::a_stuck_pod_is_fixed_once_and_only_when_that_is_safe,
            diagnose::a_pin_policy_keeps_fix_from_writing,
            diagnose::claims_that_wait_are_told_apart,
            diagnose::the_scheduler_s_reasons_lead_to_a_cause,
            diagnose::a_volume_that_nobody_cleans_is_given_back,
            diagnose::a_quota_is_named,
            diagnose::a_dump_says_what_the_cluster_said,
            diagnose::what_may_not_be_read_is_named,
            diagnose::what_an_agent_reports_leads_to_a_cause,
            causes::what_keeps_a_pod_from_nodes_is_told_by_its_kind,
            causes::what_a_driver_says_of_nodes_is_told,
            causes::what_a_kubelet_says_of_a_pod_is_told,
            causes::claims_that_pinned_pods_cannot_use_are_told_apart,
            causes::volumes_that_are_gone_or_kept_are_told,
            causes::a_provisioner_whose_lease_ran_out_does_not_run,
            plan::a_drain_is_planned_of_nodes_that_there_are,
            drain::what_it_does_not_take_is_left_and_named,
            drain::what_is_wrong_or_not_known_changes_nothing,
            plan::what_a_budget_holds_back_is_told,
        ]
    );
    // Nodes of other tests would take its Pods.
    suite.alone(
        Needs::ControlPlane,
        "plan::a_drain_does_to_each_pod_what_the_plan_says",
        plan::a_drain_does_to_each_pod_what_the_plan_says,
    );
    suite.alone(
        Needs::ControlPlane,
        "caches_outlive_a_restart_and_a_silence_of_the_api_server",
        caches_outlive_a_restart_and_a_silence_of_the_api_server,
    );
    suite.alone(
        Needs::ControlPlane,
        "causes::a_pair_that_is_about_to_be_bound_is_told",
        causes::a_pair_that_is_about_to_be_bound_is_told,
    );
    suite.alone(
        Needs::ControlPlane,
        "diagnose::why_a_pod_was_not_rewritten_is_told",
        diagnose::why_a_pod_was_not_rewritten_is_told,
    );
    suite.run()
}

struct Watching {
    live: LiveCluster,
    stop: CancellationToken,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn watching(client: Client, pods: WatchedPods) -> Result<Watching> {
    let (live, stop) = (LiveCluster::new(pods), CancellationToken::new());
    let running = live.clone();
    tokio::spawn({
        let stop = stop.clone();
        async move { running.run(client, Arc::new(()), stop).await.expect("no watch panics") }
    });
    tokio::time::timeout(PATIENCE, live.synced()).await.context("the caches did not sync")?;
    ensure!(live.not_synced().is_empty());
    Ok(Watching { live, stop })
}

async fn apply(cluster: &Cluster, objects: &str) -> Result<()> {
    let output = cluster.kubectl_with_input(&["apply", "-f", "-"], objects).await?;
    output.success().map(drop)
}

async fn delete(cluster: &Cluster, what: &[&str]) -> Result<()> {
    let arguments: Vec<&str> = ["delete", "--wait=false"].into_iter().chain(what.iter().copied()).collect();
    let output = cluster.kubectl(&arguments).await?;
    output.success().map(drop)
}

/// Waits until the view says something.
async fn until(what: &str, view: &LiveCluster, says: impl Fn(&LiveCluster) -> bool) -> Result<()> {
    eventually(what, PATIENCE, async || Ok(says(view).then_some(()))).await
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: facts, annotations: {scheduler.alpha.kubernetes.io/node-selector: "a=b", other: x}, labels: {latebind.dev/mode: warn}}
---
apiVersion: v1
kind: Node
metadata: {name: facts-node, labels: {kubernetes.io/hostname: facts-host, disk: ssd}}
spec: {unschedulable: true}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: facts-class, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: facts-volume, labels: {tier: fast}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: facts-class
  local: {path: /mnt/disk}
  claimRef: {namespace: facts, name: elsewhere}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [facts-host]}]}]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: facts-free}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: facts-class
  local: {path: /mnt/free}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [facts-host]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: facts-claim, namespace: facts, annotations: {volume.kubernetes.io/selected-node: facts-node, other: x}}
spec: {accessModes: [ReadWriteOnce], storageClassName: facts-class, resources: {requests: {storage: 1Gi}}}
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: facts.example.com}
spec: {storageCapacity: true}
---
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: facts-node}
spec: {drivers: [{name: facts.example.com, nodeID: node-1, allocatable: {count: 3}}]}
---
apiVersion: storage.k8s.io/v1
kind: CSIStorageCapacity
metadata: {name: facts-capacity, namespace: facts}
storageClassName: facts-class
nodeTopology: {}
capacity: 5Gi
---
apiVersion: v1
kind: Pod
metadata: {name: facts-pod, namespace: facts}
spec:
  nodeName: facts-node
  containers: [{name: main, image: none, volumeMounts: [{name: data, mountPath: /data}]}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: facts-claim}}
  - name: scratch
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}
"#;

async fn objects_appear_change_and_vanish_in_every_index(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let watching = watching(cluster.client(), WatchedPods::Pending).await?;
    let view = &watching.live;
    ensure!(matches!(view.node("facts-node"), Lookup::Absent));
    ensure!(matches!(view.default_class(), Lookup::Absent));
    // The Pod needs its namespace's service account, which a controller makes.
    apply(cluster, OBJECTS.split("---").next().unwrap_or_default()).await?;
    eventually("the service account", PATIENCE, async || {
        let account = cluster.kubectl(&["get", "serviceaccount", "default", "-n", "facts"]).await?;
        Ok(account.success().ok().map(drop))
    })
    .await?;
    apply(cluster, OBJECTS).await?;
    until("every object", view, |view| {
        let pods = view.consumers("facts", "facts-claim").found().is_some_and(|pods| pods.len() == 1);
        let own = view.consumers("facts", "facts-pod-scratch").found().is_some_and(|pods| pods.len() == 1);
        let capacity = view.capacities_of_class("facts-class").found().is_some_and(|found| found.len() == 1);
        let driver = view.csi_driver("facts.example.com").found().is_some();
        pods && own && capacity && driver && view.csi_node("facts-node").found().is_some()
    })
    .await?;

    let node = view.node("facts-node").found().context("node")?;
    ensure!(node.spec.unschedulable && node.label("disk") == Some("ssd"));
    ensure!(view.nodes_with_hostname("facts-host").found().context("synced")?.len() == 1);
    ensure!(view.default_class().found().context("default class")?.name() == "facts-class");
    // One of the class is somebody's.
    let free = view.free_volumes_of_class("facts-class").found().context("synced")?;
    ensure!(free.len() == 1 && free[0].name() == "facts-free", "{free:?}");
    ensure!(view.volumes_claimed_by("facts", "elsewhere").found().context("synced")?.len() == 1);
    let claim = view.claim("facts", "facts-claim").found().context("claim")?;
    ensure!(claim.selected_node() == Some("facts-node"));
    // What decisions do not read is not kept.
    ensure!(claim.annotation("other").is_none());
    let namespace = view.namespace("facts").found().context("namespace")?;
    ensure!(namespace.metadata.annotations.as_ref().is_some_and(|annotations| annotations.len() == 1));

    let moved = "apiVersion: v1\nkind: Node\nmetadata: {name: facts-node, labels: {kubernetes.io/hostname: other}}\n";
    apply(cluster, moved).await?;
    until("the new label", view, |view| {
        let at = |host: &str| view.nodes_with_hostname(host).found().map(|nodes| nodes.len());
        at("facts-host") == Some(0) && at("other") == Some(1)
    })
    .await?;

    let taken = r#"{"spec":{"claimRef":{"namespace":"facts","name":"taken"}}}"#;
    cluster.kubectl(&["patch", "pv", "facts-free", "-p", taken]).await?.success()?;
    until("the volume to be somebody's", view, |view| {
        let free = view.free_volumes_of_class("facts-class").found().map(|volumes| volumes.len());
        let own = view.volumes_claimed_by("facts", "taken").found().map(|volumes| volumes.len());
        (free, own) == (Some(0), Some(1))
    })
    .await?;

    // A Pod that is no longer Pending is no longer a consumer that anyone waits for.
    let status = r#"{"status":{"phase":"Running"}}"#;
    let patch = ["patch", "pod", "facts-pod", "-n", "facts", "--subresource=status", "-p", status];
    cluster.kubectl(&patch).await?.success()?;
    until("the Pod to leave", view, |view| {
        view.consumers("facts", "facts-claim").found().is_some_and(|pods| pods.is_empty())
    })
    .await?;

    delete(
        cluster,
        &["storageclass/facts-class", "pv/facts-volume", "pv/facts-free", "node/facts-node", "csinode/facts-node"],
    )
    .await?;
    until("the deletions", view, |view| {
        matches!(view.class("facts-class"), Lookup::Absent)
            && matches!(view.node("facts-node"), Lookup::Absent)
            && matches!(view.csi_node("facts-node"), Lookup::Absent)
            && view.nodes_with_hostname("other").found().is_some_and(|nodes| nodes.is_empty())
    })
    .await
}

const WANTED: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: known}
spec: {nodeName: known-node, containers: [{name: main, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: known, labels: {app: alone}}
spec:
  nodeName: known-node
  containers: [{name: main, image: none}]
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: alone}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: gpu, namespace: known}
spec: {devices: {requests: [{name: one, exactly: {deviceClassName: gpu.example.com}}]}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpus, namespace: known}
spec: {spec: {devices: {requests: [{name: one, exactly: {deviceClassName: gpu.example.com}}]}}}
";

async fn pods_that_keep_others_away_and_devices_are_watched(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    apply(cluster, "apiVersion: v1\nkind: Namespace\nmetadata: {name: known, labels: {team: a}}\n").await?;
    apply(cluster, "apiVersion: v1\nkind: Node\nmetadata: {name: known-node}\n").await?;
    eventually("the service account", PATIENCE, async || {
        let account = cluster.kubectl(&["get", "serviceaccount", "default", "-n", "known"]).await?;
        Ok(account.success().ok().map(drop))
    })
    .await?;
    apply(cluster, WANTED).await?;
    let watching = watching(cluster.client(), WatchedPods::OnNodes).await?;
    let repelling = |view: &LiveCluster| view.repelling("known", "known-node").found().unwrap_or_default();
    until("everything that is wanted", &watching.live, |view| {
        let devices = view.resource_claim("known", "gpu").found().is_some_and(|gpu| gpu.status.allocation.is_none());
        devices && view.resource_claim_template("known", "gpus").found().is_some() && repelling(view).len() == 1
    })
    .await?;
    let alone = repelling(&watching.live);
    ensure!(alone[0].metadata.name.as_deref() == Some("alone") && !alone[0].is_cut, "{alone:?}");
    let namespace = watching.live.namespace("known").found().context("namespace")?;
    ensure!(namespace.metadata.label("team") == Some("a"), "anti-affinity may select by any label");
    let status = r#"{"status":{"phase":"Succeeded"}}"#;
    let patch = ["patch", "pod", "alone", "-n", "known", "--subresource=status", "-p", status];
    cluster.kubectl(&patch).await?.success()?;
    until("the Pod that has ended to leave", &watching.live, |view| repelling(view).is_empty()).await?;
    delete(cluster, &["resourceclaim/gpu", "-n", "known"]).await?;
    until("the ResourceClaim to vanish", &watching.live, |view| {
        matches!(view.resource_claim("known", "gpu"), Lookup::Absent)
    })
    .await?;
    delete(cluster, &["namespace/known", "node/known-node"]).await
}

async fn a_view_without_pods_does_not_know_consumers(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let watching = watching(cluster.client(), WatchedPods::None).await?;
    ensure!(matches!(watching.live.consumers("default", "claim"), Lookup::Unknown));
    ensure!(matches!(watching.live.claim("default", "claim"), Lookup::Absent));
    Ok(())
}

async fn a_claim_that_no_watch_has_brought_is_looked_at(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    apply(
            cluster,
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: fresh}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n",
        )
        .await?;
    // A view that watches nothing stands for one that is late.
    let late = LiveCluster::new(WatchedPods::None);
    let fetcher = Fetcher::new(cluster.client(), late);
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "fresh"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "never"}},
        ]},
    }))?;
    // The API server has a fraction of a second to answer. One that is too busy leaves it unknown, which is right too.
    latebind_cluster::eventually("the claims to be looked at", Duration::from_secs(20), async || {
        let view = fetcher.prefetch(&pod).await;
        ensure!(matches!(view.claim("default", "not-named"), Lookup::Unknown));
        let (fresh, never) = (view.claim("default", "fresh"), view.claim("default", "never"));
        ensure!(
            !matches!(fresh, Lookup::Absent) && !matches!(never, Lookup::Found(_)),
            "what is there, and what is not"
        );
        let Some(found) = fresh.found() else { return Ok(None) };
        ensure!(found.is_stored() && found.name() == "fresh");
        Ok(matches!(never, Lookup::Absent).then_some(()))
    })
    .await
}

/// A break of 4 s, or of 30 s where `LATEBIND_LONG_TESTS` is set.
async fn caches_outlive_a_restart_and_a_silence_of_the_api_server(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let watching = watching(cluster.client(), WatchedPods::Pending).await?;
    let view = &watching.live;
    let node = |name: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    apply(cluster, &node("before")).await?;
    until("the first node", view, |view| view.node("before").found().is_some()).await?;

    cluster.restart(Component::ApiServer).await?;
    ensure!(view.node("before").found().is_some(), "what was known is kept while the API server is away");
    apply(cluster, &node("after-restart")).await?;
    until("a node made after the restart", view, |view| view.node("after-restart").found().is_some()).await?;

    let silence = if std::env::var_os("LATEBIND_LONG_TESTS").is_some() { 30 } else { 4 };
    cluster.pause(Component::ApiServer).await?;
    tokio::time::sleep(Duration::from_secs(silence)).await;
    cluster.resume(Component::ApiServer).await?;
    cluster.ready(PATIENCE).await?;
    apply(cluster, &node("after-silence")).await?;
    until("a node made after the silence", view, |view| view.node("after-silence").found().is_some()).await?;
    Ok(())
}
