//! Nodes, and what CSI drivers say about them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::metadata::metadata;
use super::{Quantity, null_as_default};

/// A Node: labels, taints, conditions and what it offers.
#[derive(Clone, Debug, Default, Deserialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct Node {
    /// Name, labels, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
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
    pub allocatable: BTreeMap<String, Quantity>,
    /// Conditions; `Ready` is the one that is read.
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: Vec<NodeCondition>,
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
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// False only when the kubelet, or the node lifecycle controller for it, says otherwise.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().filter(|condition| condition.type_ == "Ready").all(|ready| ready.status == "True")
    }
}

/// A Namespace: only its labels and annotations are read.
#[derive(Clone, Debug, Default, Deserialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Namespace)]
pub struct Namespace {
    /// Name, labels, annotations.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}

/// A CSIDriver object.
#[derive(Clone, Debug, Default, Deserialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::storage::v1::CSIDriver)]
pub struct CsiDriver {
    /// Its name is the driver's name.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
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
#[derive(Clone, Debug, Default, Deserialize, kube::Resource)]
#[resource(inherit = k8s_openapi::api::storage::v1::CSINode)]
pub struct CsiNode {
    /// Its name is the node's name.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
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
    pub name: String,
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
