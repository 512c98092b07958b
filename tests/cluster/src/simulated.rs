//! Nodes that nobody runs, for tests of what the control plane decides.
//!
//! They are kept alive the way kubelets are, by renewing a Lease, rather than by switching the node lifecycle off: the
//! controllers under test then run with their real configuration. What would happen otherwise: the API server taints a new Node
//! `not-ready`, a silent one is marked `Unknown` after 50 s, and the Pods of a missing one are deleted after 40 s.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::scope::Scope;
use crate::{eventually, node};

/// A third of the time after which the control plane would miss a kubelet.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon a Pod that is being deleted is reported as gone.
const TURN: Duration = Duration::from_millis(300);

/// A Node object that stays Ready without a machine. Pods bound to it never run, and go at once when they are deleted.
///
/// It falls silent when dropped; the scope deletes the object.
pub struct SimulatedNode {
    name: String,
    task: JoinHandle<()>,
}

impl SimulatedNode {
    pub(crate) async fn create(scope: &Scope, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let mut all: BTreeMap<&str, &str> = [("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux")].into();
        all.extend(labels.iter().copied());
        let object: Node = scope.create(json!({ "metadata": { "name": name, "labels": all } })).await?;
        let nodes: Api<Node> = scope.all();
        let heart = Heart { client: scope.client(), name: name.to_owned(), uid: object.uid().unwrap_or_default() };
        heart.beat().await?;
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status())).await?;
        eventually("the simulated node to be schedulable", Duration::from_secs(20), async || {
            let node = nodes.get(name).await?;
            if node.spec.as_ref().is_none_or(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty)) {
                return Ok(node::is_ready(&node).then_some(()));
            }
            // The node lifecycle would do it within seconds; a test need not wait.
            let untainted =
                json!({ "metadata": { "resourceVersion": node.resource_version() }, "spec": { "taints": null } });
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(untainted)).await?;
            Ok(None)
        })
        .await?;
        let task = tokio::spawn(heart.live());
        Ok(Self { name: name.to_owned(), task })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stops the heartbeats: the node is as dead as one whose power failed.
    pub fn fall_silent(&self) {
        self.task.abort();
    }
}

impl Drop for SimulatedNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn status() -> serde_json::Value {
    let now = Timestamp::now().to_string();
    let amounts = json!({ "cpu": "16", "memory": "64Gi", "pods": "250", "ephemeral-storage": "1Ti" });
    json!({ "status": {
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Simulated", "message": "a test keeps this node alive",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    } })
}

/// What keeps a node alive.
struct Heart {
    client: Client,
    name: String,
    uid: String,
}

impl Heart {
    async fn live(self) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut turn = tokio::time::interval(TURN);
        loop {
            // Whatever fails here (the API server may be down for a test) is tried again next time.
            tokio::select! {
                _ = heartbeat.tick() => self.beat().await.ok(),
                _ = turn.tick() => self.bury().await.ok(),
            };
        }
    }

    async fn beat(&self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        // Owned by the Node, as a kubelet's is: the Lease goes with it.
        let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self.uid });
        let renewed = json!({
            "metadata": { "name": self.name, "ownerReferences": [owner] },
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": 40,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        match leases.patch(&self.name, &PatchParams::default(), &Patch::Merge(&renewed)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                leases.create(&PostParams::default(), &serde_json::from_value(renewed)?).await.map(drop)?;
            }
            other => other.map(drop)?,
        }
        Ok(())
    }

    /// Confirms the end of Pods that are being deleted, as a kubelet does when their containers have stopped.
    async fn bury(&self) -> Result<()> {
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.name));
        let pods = Api::<Pod>::all(self.client.clone()).list(&here).await?;
        for pod in pods.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            let own: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            let ended = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            own.delete(&pod.name_any(), &ended).await?;
        }
        Ok(())
    }
}
