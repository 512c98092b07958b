//! A provisioner that does as little as one can: it answers a selected node with a PersistentVolume.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

/// What its classes name.
pub const PROVISIONER: &str = "test.latebind.dev";
const TURN: Duration = Duration::from_millis(200);

/// Provisions until it is dropped.
pub struct Provisioner(JoinHandle<()>);

impl Provisioner {
    /// Starts to provision for every class of the cluster that names it.
    pub fn start(client: Client) -> Self {
        Self(tokio::spawn(async move {
            loop {
                // Whatever fails is tried again: the API server may be away for a test.
                turn(&client).await.ok();
                tokio::time::sleep(TURN).await;
            }
        }))
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn turn(client: &Client) -> Result<()> {
    let claims = Api::<PersistentVolumeClaim>::all(client.clone()).list(&ListParams::default()).await?;
    for claim in claims {
        let annotated = |key: &str| claim.annotations().get(key).cloned();
        let ours = annotated("volume.kubernetes.io/storage-provisioner").as_deref() == Some(PROVISIONER);
        let unbound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none());
        let (true, true, Some(node)) = (ours, unbound, annotated("volume.kubernetes.io/selected-node")) else {
            continue;
        };
        provision(client, &claim, &node).await?;
    }
    Ok(())
}

async fn provision(client: &Client, claim: &PersistentVolumeClaim, node: &str) -> Result<()> {
    let Some(node) = Api::<Node>::all(client.clone()).get_opt(node).await? else { return Ok(()) };
    let spec = claim.spec.as_ref().context("a claim has a spec")?;
    let uid = claim.uid().context("a claim has a UID")?;
    let terms = match node.labels().get("kubernetes.io/hostname") {
        Some(hostname) => json!([{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}]}]),
        // A volume that every node can reach.
        None => json!([{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "Exists"}]}]),
    };
    let volume = json!({
        "metadata": {
            "name": format!("pvc-{uid}"),
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec.resources.as_ref().and_then(|it| it.requests.as_ref()?.get("storage"))},
            "accessModes": spec.access_modes,
            "storageClassName": spec.storage_class_name,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": uid,
                "namespace": claim.namespace(), "name": claim.name_any()},
            "hostPath": {"path": format!("/tmp/{uid}"), "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    });
    match Api::<PersistentVolume>::all(client.clone())
        .create(&PostParams::default(), &serde_json::from_value(volume)?)
        .await
    {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
