//! Agents whose mounts are a copy of their node's.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use latebind::crd::{LocalNode, LocalPool, PathReport};
use latebind_cluster::{Cluster, Node, Scope, eventually};
use serde_json::json;

use crate::nodes::{PATIENCE, installed, last, manifest_with, rolled_out};

const SETTINGS: [&str; 2] = ["--set=agent.mountPropagation=None", "--set=agent.nodeMounts=true"];

pub async fn agents_whose_mounts_are_a_copy_say_what_their_node_has_mounted_since(scope: &Scope) -> Result<()> {
    let cluster = installed(scope).await?;
    apply(cluster, &SETTINGS).await?;
    let outcome = told(scope, last(cluster)).await;
    apply(cluster, &[]).await?;
    outcome
}

async fn apply(cluster: &Cluster, settings: &[&str]) -> Result<()> {
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest_with(settings)?).await?.success()?;
    rolled_out(cluster).await
}

async fn told(scope: &Scope, node: &Node) -> Result<()> {
    let (name, disk) = (scope.unique("disk"), format!("/var/lib/latebind/{}", scope.unique("disk")));
    node.shell(&format!("mkdir -p {disk}")).await?;
    let nodes = json!([{ "names": [node.name()], "paths": [{ "path": disk, "requireMount": true }] }, { "paths": [] }]);
    scope.create::<LocalPool>(json!({ "metadata": { "name": name }, "spec": { "nodes": nodes } })).await?;
    reported(scope, node, &disk, "NotMounted").await?;
    node.shell(&format!("mount -t tmpfs tmpfs {disk}")).await?;
    let later = reported(scope, node, &disk, "MountNotSeen").await?;
    ensure!(later.message.contains("restart the agent's Pod"), "{later:?}");
    restart_agent(scope, node).await?;
    let seen = reported(scope, node, &disk, "").await?;
    ensure!(seen.usable && seen.mount_point, "{seen:?}");
    // The agent has it still, and Pods would get the directory beneath.
    node.shell(&format!("umount -l {disk}")).await?;
    reported(scope, node, &disk, "NotMounted").await?;
    scope.all::<LocalPool>().delete(&name, &DeleteParams::default()).await?;
    Ok(())
}

async fn reported(scope: &Scope, node: &Node, path: &str, reason: &str) -> Result<PathReport> {
    eventually(&format!("{path} to be {reason:?}"), PATIENCE, async || {
        let report = scope.all::<LocalNode>().get(node.name()).await?.status.unwrap_or_default();
        let found = report.paths.into_iter().find(|it| it.path == path).context("not reported")?;
        ensure!(found.reason == reason && found.usable == reason.is_empty(), "{found:?}, at {:?}", report.observed_at);
        Ok(Some(found))
    })
    .await
}

async fn restart_agent(scope: &Scope, node: &Node) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(scope.client(), "latebind-agent");
    let here = ListParams::default().fields(&format!("spec.nodeName={}", node.name()));
    // One that was replaced may still be there while its volumes are unmounted.
    let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    let old = pods.list(&here).await?.items.into_iter().find(stays).context("an agent")?;
    pods.delete(&old.name_any(), &DeleteParams::default()).await?;
    eventually("another agent", PATIENCE, async || {
        let running = pods.list(&here).await?.items;
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
        };
        Ok((running.iter().all(|pod| pod.uid() != old.uid()) && running.iter().any(ready)).then_some(()))
    })
    .await
}
