//! Nodes, and what CSI drivers say about them.

use k8s_openapi::api::core::v1::Taint;
use serde::Deserialize;

use super::metadata::{Metadata, metadata};
use super::{Map, Quantity, Text, null_as_default};

/// A Node: labels, taints, conditions and what it offers.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Node {
    /// Name, labels, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What an administrator or a controller asks of it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: NodeSpec,
    /// What its kubelet reports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    /// Cordoned.
    #[serde(default, deserialize_with = "null_as_default")]
    pub unschedulable: bool,
    /// Taints.
    #[serde(default, deserialize_with = "null_as_default")]
    pub taints: Vec<Taint>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatus {
    /// Amounts of each resource, extended ones included.
    #[serde(default, deserialize_with = "null_as_default")]
    pub allocatable: Map<Quantity>,
    /// Conditions; `Ready` is the one that is read.
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: Vec<NodeCondition>,
}

/// A condition of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeCondition {
    /// What it is about.
    #[serde(default, rename = "type", deserialize_with = "null_as_default")]
    pub type_: Text,
    /// `True`, `False` or `Unknown`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: Text,
}

impl Node {
    /// The Node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.label(key)
    }

    /// False only when the kubelet, or the node lifecycle controller for it, says otherwise.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().filter(|condition| condition.type_ == "Ready").all(|ready| ready.status == "True")
    }
}

impl Node {
    /// True only when the kubelet says so. What nobody reports is not known.
    #[must_use]
    pub fn says_that_it_is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

/// What the taints of a node keep away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repels {
    /// No Pod.
    Nothing,
    /// Pods that could as well be elsewhere.
    Preferably,
    /// Every Pod that does not tolerate them.
    Untolerating,
}

impl Repels {
    /// All of them, from the least on.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Preferably, Self::Untolerating];
}

/// Labels and taints by which a node is marked as a part of the control plane, today and formerly.
/// Source: kubeadm, `LabelNodeRoleControlPlane`.
pub(crate) const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

impl Node {
    /// What its taints keep away.
    #[must_use]
    pub fn repels(&self) -> Repels {
        let of_taint = |taint: &Taint| match taint.effect.as_str() {
            "NoSchedule" | "NoExecute" => Repels::Untolerating,
            "PreferNoSchedule" => Repels::Preferably,
            _ => Repels::Nothing,
        };
        self.spec.taints.iter().map(of_taint).max().unwrap_or(Repels::Nothing)
    }

    /// True for a node of the control plane that a taint keeps free of other Pods. One without a taint, as in a cluster of
    /// one node, is a node like any other; and a taint that comes and goes with the node's condition says nothing of that.
    #[must_use]
    pub fn is_reserved_control_plane(&self) -> bool {
        let keeps = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        let mut lasting =
            self.spec.taints.iter().filter(keeps).filter(|taint| !taint.key.starts_with("node.kubernetes.io/"));
        let is_marked = CONTROL_PLANE.iter().any(|label| self.label(label).is_some());
        lasting.any(|taint| is_marked || CONTROL_PLANE.contains(&taint.key.as_str()))
    }
}

/// A Namespace: only its labels and annotations are read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Namespace {
    /// Name, labels, annotations.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
}

/// A CSIDriver object.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiDriver {
    /// Its name is the driver's name.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What the driver wants of Kubernetes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: CsiDriverSpec,
}

/// `spec` of a CSIDriver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsiDriverSpec {
    /// The scheduler is to look at `CSIStorageCapacity` objects.
    #[serde(default, deserialize_with = "null_as_default")]
    pub storage_capacity: bool,
    /// The scheduler is to refuse nodes on which the driver is not registered.
    #[serde(default, deserialize_with = "null_as_default")]
    pub prevent_pod_scheduling_if_missing: bool,
}

/// A CSINode object: which drivers run on a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiNode {
    /// Its name is the node's name.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// The drivers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: CsiNodeSpec,
}

/// `spec` of a CSINode.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiNodeSpec {
    /// One entry a driver registered with the node's kubelet.
    #[serde(default, deserialize_with = "null_as_default")]
    pub drivers: Vec<CsiNodeDriver>,
}

/// One driver on one node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiNodeDriver {
    /// The driver's name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// How many volumes of the driver the node can hold.
    #[serde(default)]
    pub allocatable: Option<CsiVolumeLimit>,
}

/// How many volumes of one driver a node can hold.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiVolumeLimit {
    /// Number of volumes; none means no limit.
    #[serde(default)]
    pub count: Option<u32>,
}
