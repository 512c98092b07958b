//! The accounts of the manifest: what they need works, and what they must not do is refused.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use latebind::agent::{self, AgentMetrics, AllowedBases, Base, Order};
use latebind::crd::{LocalNode, LocalVolume, VolumePath};
use latebind::provision;
use latebind_cluster::{Cluster, Scope, SimulatedNode, eventually};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::chart::provisioner;
use crate::ground::{PATIENCE, path_of, provision_with};
use crate::manifest::NAMESPACE;

const AGENTS: &str = "latebind-agent";

/// A client with the token that a kubelet would give to the agent's Pod on this node.
async fn agent_client(scope: &Scope, node: &str) -> Result<Client> {
    let pods: Api<Pod> = Api::namespaced(scope.client(), AGENTS);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": format!("agent-of-{node}") },
        "spec": { "nodeName": node, "serviceAccountName": AGENTS, "containers": [{ "name": "c", "image": "x" }] },
    }))?;
    let pod = pods.create(&PostParams::default(), &pod).await?;
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid() });
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "boundObjectRef": bound } }))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(scope.client(), AGENTS);
    let answer = accounts.create_token_request(AGENTS, &PostParams::default(), &request).await?;
    let mut config = bare_config(scope.cluster()?).await?;
    config.auth_info.token = Some(answer.status.context("no token")?.token.into());
    Ok(Client::try_from(config)?)
}

/// The way to the cluster, without anybody's rights.
async fn bare_config(cluster: &Cluster) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let auth = &mut config.auth_info;
    (auth.client_certificate, auth.client_key) = (None, None);
    (auth.client_certificate_data, auth.client_key_data) = (None, None);
    Ok(config)
}

async fn claim(scope: &Scope, name: &str, node: &SimulatedNode) -> Result<()> {
    scope
        .create::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(json!({
            "metadata": { "name": name, "annotations": { "volume.kubernetes.io/selected-node": node.name() } },
            "spec": { "storageClassName": "latebind-local", "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Mi" } } },
        }))
        .await
        .map(drop)
}

pub async fn are_enough_and_an_agent_reaches_its_node_only(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    let (node, other) = (scope.simulated_node("node", &[]).await?, scope.simulated_node("other", &[]).await?);
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let base = directory.path().join("volumes");
    let (manifest, stop) = (provisioner()?, CancellationToken::new());
    cluster.kubectl_with_input(&["apply", "-f", "-"], &manifest).await?.success()?;

    let account = format!("system:serviceaccount:{NAMESPACE}:latebind-controller");
    let controller = cluster.client_as(&account, &["system:serviceaccounts", "system:authenticated"]).await?;
    let options = provision::Options {
        pool: Some(("latebind-local".to_owned(), base.to_str().unwrap().to_owned())),
        ..provision::Options::default()
    };
    provision_with(controller, options, &stop);
    let mine = agent_client(scope, node.name()).await?;
    let options = agent::Options {
        node_name: node.name().to_owned(),
        bases: AllowedBases::new([directory.path().to_str().unwrap()])?,
        unlinks_per_second: 1000,
        remove_orphans: Some(std::time::Duration::from_secs(1)),
    };
    tokio::spawn(agent::run(
        mine.clone(),
        options,
        std::sync::Arc::default(),
        AgentMetrics::default(),
        || {},
        stop.clone(),
    ));

    claim(scope, "data", &node).await?;
    let bound = scope.claim_phase("data", "Bound", PATIENCE).await?;
    let volumes = scope.all::<PersistentVolume>();
    let volume = volumes.get(&bound.spec.and_then(|spec| spec.volume_name).context("bound")?).await?;
    fs::write(path_of(&volume).join("file"), "x")?;

    refused(scope, &mine, &other).await?;

    scope.api::<k8s_openapi::api::core::v1::PersistentVolumeClaim>().delete("data", &DeleteParams::default()).await?;
    eventually("volume and directory to go", PATIENCE, async || {
        let gone = volumes.get_opt(&volume.name_any()).await?.is_none() && !path_of(&volume).exists();
        let trash = fs::read_dir(base.join(".trash"))?.count();
        Ok((gone && trash == 0).then_some(()))
    })
    .await?;
    orphan_goes(scope, directory.path(), &base).await?;
    stop.cancel();
    let arguments = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
    cluster.kubectl_with_input(&arguments, &manifest).await?.success().map(drop)
}

/// A directory that no volume names: agent and controller may do all that it takes to remove it.
async fn orphan_goes(scope: &Scope, allowed: &Path, base: &Path) -> Result<()> {
    let cluster = scope.all::<Namespace>().get("kube-system").await?.uid().context("a UID")?;
    let opened = Base::open(&AllowedBases::new([allowed.to_str().unwrap()])?, base.to_str().unwrap(), false)?;
    let claim = scope.unique("gone");
    let order = Order {
        cluster,
        volume: "v".to_owned(),
        path: VolumePath::parse(&claim)?,
        claim,
        mode: 0o777,
        uid: None,
        gid: None,
        base_id: None,
    };
    opened.make(&order, false)?;
    eventually("the orphan and its order to go", PATIENCE, async || {
        let ordered = scope.all::<LocalVolume>().list(&ListParams::default()).await?.items;
        let ordered = ordered.iter().any(|local| local.spec.claim.uid == order.claim);
        Ok((!base.join(order.path.as_str()).exists() && !ordered).then_some(()))
    })
    .await
}

/// The agent of one node tries everything that could hurt another, or lose data of its own.
async fn refused(scope: &Scope, mine: &Client, other: &SimulatedNode) -> Result<()> {
    let own = scope.all::<LocalVolume>().list(&ListParams::default()).await?.items.remove(0);
    let spec = json!({ "nodeName": other.name(), "base": "/base", "path": "p", "claim": {
        "namespace": scope.namespace(), "name": "x", "uid": "11111111-2222-3333-4444-555555555555" } });
    let foreign = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalVolume", "metadata": { "name": scope.unique("foreign"), "finalizers": ["latebind.dev/directory"] }, "spec": spec });
    // The one whose claim is gone is the controller's to remove; it lasts, since no agent is on that node.
    let foreign: LocalVolume = serde_json::from_value(foreign)?;
    let foreign = scope.all::<LocalVolume>().create(&PostParams::default(), &foreign).await?;
    let volumes: Api<LocalVolume> = Api::all(mine.clone());
    let ready = json!({ "status": { "conditions": [] } });
    let none = json!({ "metadata": { "finalizers": null } });
    let merge = PatchParams::default();
    let mut outcomes: Vec<(&str, Result<(), kube::Error>)> = Vec::new();
    let foreign_status = volumes.patch_status(&foreign.name_any(), &merge, &Patch::Merge(&ready)).await;
    outcomes.push(("status of another node's volume", foreign_status.map(drop)));
    let lifted = volumes.patch(&foreign.name_any(), &merge, &Patch::Merge(&none)).await;
    outcomes.push(("finalizer of another node's volume", lifted.map(drop)));
    let lifted = volumes.patch(&own.name_any(), &merge, &Patch::Merge(&none)).await;
    outcomes.push(("finalizer without an order", lifted.map(drop)));
    for change in [
        json!({ "spec": { "disposal": "Delete" } }),
        json!({ "spec": { "reclaim": "Retain" } }),
        json!({ "metadata": { "labels": { "a": "b" } } }),
        json!({ "metadata": { "finalizers": ["latebind.dev/directory", "example.org/own"] } }),
    ] {
        outcomes
            .push(("spec or metadata", volumes.patch(&own.name_any(), &merge, &Patch::Merge(&change)).await.map(drop)));
    }
    let deleted = volumes.delete(&own.name_any(), &DeleteParams::default()).await;
    outcomes.push(("deletion", deleted.map(drop)));
    let reports: Api<LocalNode> = Api::all(mine.clone());
    let report: Value = json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "LocalNode",
        "metadata": { "name": other.name() }, "spec": { "nodeUID": "x" } });
    let report: LocalNode = serde_json::from_value(report)?;
    outcomes.push(("report of another node", reports.create(&PostParams::default(), &report).await.map(drop)));
    let volumes: Api<PersistentVolume> = Api::all(mine.clone());
    outcomes.push(("volumes", volumes.list(&ListParams::default()).await.map(drop)));
    for (what, outcome) in outcomes {
        let refused = matches!(&outcome, Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422));
        ensure!(refused, "{what}: {outcome:?}");
    }
    // A token that no kubelet asked for names no node.
    let bare = scope
        .cluster()?
        .client_as(&format!("system:serviceaccount:{AGENTS}:{AGENTS}"), &["system:authenticated"])
        .await?;
    let volumes: Api<LocalVolume> = Api::all(bare);
    let outcome = volumes.patch_status(&own.name_any(), &merge, &Patch::Merge(&ready)).await;
    let told = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("names no node"), "{told}");
    let patch = json!({ "metadata": { "finalizers": null } });
    scope.all::<LocalVolume>().patch(&foreign.name_any(), &merge, &Patch::Merge(&patch)).await?;
    Ok(())
}
