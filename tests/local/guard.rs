//! Drain policies on real nodes, against kubectl drain: an upgrade of all nodes, a refusal until somebody approves, and a webhook
//! that is away.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::chart::NAMESPACE;
use latebind_test_support::objects;
use serde_json::json;

use crate::drains::{is_ready, run, stateful_set, told};
use crate::nodes::{CLASS, PATIENCE, delete_claim, installed, removed, rolled_out, written};

const POLICY: &str = "latebind.dev/drain-policy";

/// What kubectl drain does with the Pods of the StatefulSet: whether it ended, and what it said.
async fn drain(scope: &Scope, node: &str, seconds: u32) -> Result<(bool, String)> {
    let timeout = format!("--timeout={seconds}s");
    let selector = "--pod-selector=app=pg";
    let arguments = ["drain", node, selector, &timeout, "--delete-emptydir-data", "--grace-period=1"];
    let output = scope.cluster()?.kubectl(&arguments).await?;
    Ok((output.code == Some(0), format!("{}{}", output.stdout, output.stderr)))
}

/// Names of the Pods that are ready.
async fn ready(scope: &Scope) -> Result<Vec<String>> {
    let pods = scope.api::<Pod>().list(&ListParams::default().labels("app=pg")).await?;
    Ok(pods.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect())
}

async fn until_ready(scope: &Scope, names: &[&str]) -> Result<()> {
    eventually(&format!("{names:?} to be ready"), PATIENCE, async || Ok((ready(scope).await? == names).then_some(())))
        .await
}

async fn policy(scope: &Scope, class: &str, policy: &str) -> Result<()> {
    let change = json!({ "metadata": { "annotations": { POLICY: policy } } });
    scope.all::<StorageClass>().patch(class, &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

/// Two replicas on one node, the third on the other.
async fn spread(scope: &Scope, class: &str, [one, other]: [&str; 2]) -> Result<Vec<(PersistentVolume, String)>> {
    scope.kubectl(&["cordon", other]).await?.success()?;
    scope.create::<StatefulSet>(stateful_set(class, 2)).await?;
    let mut made = Vec::new();
    for name in ["pg-0", "pg-1"] {
        made.push(written(scope, name, &format!("data-{name}")).await?);
    }
    scope.kubectl(&["uncordon", other]).await?.success()?;
    scope.kubectl(&["cordon", one]).await?.success()?;
    scope.kubectl(&["scale", "statefulset/pg", "--replicas=3"]).await?.success()?;
    made.push(written(scope, "pg-2", "data-pg-2").await?);
    scope.kubectl(&["uncordon", one]).await?.success()?;
    let on: Vec<&str> = made.iter().map(|(_, on)| on.as_str()).collect();
    ensure!(on == [one, one, other], "{on:?}");
    until_ready(scope, &["pg-0", "pg-1", "pg-2"]).await?;
    Ok(made)
}

pub async fn drains_wait_and_are_refused_as_the_policy_says(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    let [one, other] = [0, 1].map(|at| cluster.nodes()[at].name());
    let class = scope.unique("guarded");
    let of_class = json!({ "metadata": { "annotations": { POLICY: "Wait" } }, "parameters": { "pool": CLASS } });
    scope.create::<StorageClass>(objects::with(objects::class(&class, "local.latebind.dev"), &of_class)).await?;
    let made = spread(scope, &class, [one, other]).await?;

    upgrade(scope, [one, other]).await?;
    refused_until_approved(scope, &class, other).await?;
    away(scope, other).await?;

    scope.api::<StatefulSet>().delete("pg", &DeleteParams::default()).await?;
    for (number, (volume, on)) in made.iter().enumerate() {
        delete_claim(scope, &format!("data-pg-{number}")).await?;
        removed(scope, volume, on).await?;
    }
    Ok(())
}

/// All nodes are cordoned, and drained one by one. Those of the first go at one time, since they come back with it alone; that of the
/// second waits for them.
async fn upgrade(scope: &Scope, [one, other]: [&str; 2]) -> Result<()> {
    scope.kubectl(&["cordon", one, other]).await?.success()?;
    let (ended, said) = drain(scope, one, 60).await?;
    ensure!(ended && !said.contains("LB404"), "{said}");
    until_ready(scope, &["pg-2"]).await?;
    let (ended, said) = drain(scope, other, 8).await?;
    ensure!(
        !ended && said.contains("LB404: pod pg-2 waits until the other replicas of its StatefulSet are ready"),
        "{said}"
    );
    ensure!(said.contains("will retry after 5s"), "kubectl tries again: {said}");
    ensure!(ready(scope).await? == ["pg-2"], "it was not evicted");
    // The first node is done, and takes Pods again while the second is being drained.
    let uncordon = ["uncordon", one];
    let (drained, uncordoned) = tokio::join!(drain(scope, other, 120), scope.kubectl(&uncordon));
    uncordoned?.success()?;
    let (ended, said) = drained?;
    ensure!(ended && said.contains("pod/pg-2 evicted"), "{said}");
    until_ready(scope, &["pg-0", "pg-1"]).await?;
    scope.kubectl(&["uncordon", other]).await?.success()?;
    until_ready(scope, &["pg-0", "pg-1", "pg-2"]).await
}

/// With `Deny` a drain ends at once with what to type, as does the deletion of the Node; an approval lets it go.
async fn refused_until_approved(scope: &Scope, class: &str, node: &str) -> Result<()> {
    policy(scope, class, "Deny").await?;
    // What the webhook knows comes by watches.
    eventually("an eviction to be refused", PATIENCE, async || {
        let dry = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "pg-2" }, "deleteOptions": { "dryRun": ["All"] } });
        let path = format!("/api/v1/namespaces/{}/pods/pg-2/eviction", scope.namespace());
        let output = scope.cluster()?.kubectl_with_input(&["create", "--raw", &path, "-f", "-"], &dry.to_string()).await?;
        Ok(output.stderr.contains("LB405").then_some(()))
    })
    .await?;
    let (ended, said) = drain(scope, node, 60).await?;
    ensure!(
        !ended && said.contains("LB405: pod pg-2 keeps its data on its node") && !said.contains("will retry"),
        "{said}"
    );
    ensure!(said.contains("kubectl annotate node NODE --overwrite latebind.dev/drain-approved-by=YOUR-NAME"), "{said}");
    let deleted = scope.kubectl(&["delete", "node", node]).await?;
    ensure!(
        deleted.code == Some(1) && deleted.stderr.contains("is up, and claims have their volumes on it alone"),
        "{deleted:?}"
    );
    let left = run(scope, &["plan", "drain", node]).await?;
    ensure!(told(&left).contains("goes once somebody approves (drain policy Deny of class"), "{}", told(&left));
    let latebind = ["drain", node, "--for=reboot", "--delete-emptydir-data", "--force", "--yes", "--timeout=60s"];
    let left = run(scope, &latebind).await?;
    ensure!(left.status.code() == Some(1) && told(&left).contains("pod/pg-2 -n"), "{}", told(&left));
    ensure!(ready(scope).await?.len() == 3, "it was left: {}", told(&left));
    run(scope, &["uncordon", node]).await?;
    let approved = run(scope, &[&latebind[..], &["--approve"]].concat()).await?;
    ensure!(
        approved.status.success() && told(&approved).contains("approves of its evictions until"),
        "{}",
        told(&approved)
    );
    until_ready(scope, &["pg-0", "pg-1"]).await?;
    let nodes: Api<Node> = scope.all();
    let by = |node: &Node| node.annotations().get("latebind.dev/drain-approved-by").cloned();
    ensure!(by(&nodes.get(node).await?).is_some_and(|by| !by.is_empty()), "it says who approved");
    run(scope, &["uncordon", node]).await?;
    ensure!(by(&nodes.get(node).await?).is_none(), "and it is over");
    until_ready(scope, &["pg-0", "pg-1", "pg-2"]).await
}

/// Without a webhook nothing is held up.
async fn away(scope: &Scope, node: &str) -> Result<()> {
    let cluster = scope.cluster()?;
    let scale = async |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let arguments = ["--namespace", NAMESPACE, "scale", "deployment/latebind-webhook", &replicas];
        cluster.kubectl(&arguments).await?.success()
    };
    scale("0").await?;
    eventually("the webhook to end", PATIENCE, async || {
        let pods: Api<Pod> = Api::namespaced(scope.client(), NAMESPACE);
        let webhooks = ListParams::default().labels("app.kubernetes.io/component=webhook");
        Ok(pods.list(&webhooks).await?.items.is_empty().then_some(()))
    })
    .await?;
    let outcome = drain(scope, node, 60).await;
    scope.kubectl(&["uncordon", node]).await?.success()?;
    scale("2").await?;
    rolled_out(cluster).await?;
    let (ended, said) = outcome?;
    ensure!(ended && said.contains("pod/pg-2 evicted"), "{said}");
    until_ready(scope, &["pg-0", "pg-1", "pg-2"]).await
}
