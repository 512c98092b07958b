//! Pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::metadata::{Metadata, metadata};
use super::storage::ClaimTemplate;
use super::{MIRROR_POD, Map, Quantity, Text, boxed_object, null_as_default, object, object_or_default, objects};

/// A Pod: where it may run, and which volumes its containers mount.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    /// Name, namespace, annotations, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(default, deserialize_with = "object_or_default")]
    pub spec: PodSpec,
    /// What the kubelet reports.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that the Pod names; empty and absent mean the same.
    #[serde(default)]
    pub node_name: Option<Text>,
    /// Labels that the node must carry.
    #[serde(default)]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Affinity; only required terms are read.
    #[serde(default, deserialize_with = "boxed_object")]
    pub affinity: Option<Box<Affinity>>,
    /// Taints that the Pod tolerates.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tolerations: Arc<[Toleration]>,
    /// Topology spread constraints.
    #[serde(default, deserialize_with = "null_as_default")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The scheduler that is to place the Pod.
    #[serde(default)]
    pub scheduler_name: Option<Text>,
    /// Gates that hold the Pod back from scheduling; only their number counts.
    #[serde(default, deserialize_with = "null_as_default")]
    pub scheduling_gates: Vec<IgnoredAny>,
    /// Priority, as the admission plugin of that name resolved it.
    #[serde(default)]
    pub priority: Option<i32>,
    /// The class that the priority comes from.
    #[serde(default)]
    pub priority_class_name: Option<Text>,
    /// `Never`, or `PreemptLowerPriority` (the default).
    #[serde(default)]
    pub preemption_policy: Option<Text>,
    /// Volumes.
    #[serde(default, deserialize_with = "objects")]
    pub volumes: Vec<PodVolume>,
    /// Init containers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub init_containers: Vec<Container>,
    /// Containers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub containers: Vec<Container>,
    /// Ephemeral containers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ephemeral_containers: Vec<Container>,
    /// Claims of dynamic resource allocation; only their number counts.
    #[serde(default, deserialize_with = "null_as_default")]
    pub resource_claims: Vec<IgnoredAny>,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`, or empty before the first write.
    #[serde(default, deserialize_with = "null_as_default")]
    pub phase: Text,
    /// When the kubelet acknowledged the Pod.
    #[serde(default)]
    pub start_time: Option<Time>,
}

/// Affinity of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// To nodes.
    #[serde(default, deserialize_with = "object")]
    pub node_affinity: Option<NodeAffinity>,
    /// To Pods.
    #[serde(default)]
    pub pod_affinity: Option<PodAffinity>,
    /// Away from Pods.
    #[serde(default)]
    pub pod_anti_affinity: Option<PodAffinity>,
}

/// Node affinity of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeAffinity {
    /// Terms of which at least one must match the node.
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
}

/// Pod affinity or anti-affinity; only the number of required terms counts.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodAffinity {
    /// Terms that must hold.
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_as_default")]
    pub required: Vec<IgnoredAny>,
}

/// A container: what it mounts and asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Volumes mounted as directories.
    #[serde(default, deserialize_with = "null_as_default")]
    pub volume_mounts: Vec<VolumeReference>,
    /// Volumes attached as block devices.
    #[serde(default, deserialize_with = "null_as_default")]
    pub volume_devices: Vec<VolumeReference>,
    /// Requested amounts.
    #[serde(default, deserialize_with = "null_as_default")]
    pub resources: ResourceAmounts,
}

/// The volume that a mount or device refers to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct VolumeReference {
    /// Name of an entry of `spec.volumes`, or of a claim template.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
}

/// Amounts of resources that a container, claim or template asks for.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ResourceAmounts {
    /// At least this much.
    #[serde(default, deserialize_with = "null_as_default")]
    pub requests: Map<Quantity>,
    /// At most this much; also the request where none is given.
    #[serde(default, deserialize_with = "null_as_default")]
    pub limits: Map<Quantity>,
}

/// A volume of a Pod. Sources other than claims need no binding and are not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVolume {
    /// Name, unique in the Pod.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// A claim of the Pod's namespace.
    #[serde(default)]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A generic ephemeral volume: a claim that lives as long as the Pod.
    #[serde(default, deserialize_with = "object")]
    pub ephemeral: Option<EphemeralSource>,
}

/// Source of a volume that is a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Name of the claim.
    #[serde(default, deserialize_with = "null_as_default")]
    pub claim_name: Text,
}

/// Source of a generic ephemeral volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralSource {
    /// What the claim is made from; its name will be `<pod>-<volume>`.
    #[serde(default, deserialize_with = "boxed_object")]
    pub volume_claim_template: Option<Box<ClaimTemplate>>,
}

impl Pod {
    /// The node that the Pod names, if it names one.
    #[must_use]
    pub fn pinned_node(&self) -> Option<&str> {
        self.spec.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The Pod's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
    }

    /// Name, or the prefix of a generated one, or nothing.
    #[must_use]
    pub fn display_name(&self) -> &str {
        let name = self.metadata.name.as_deref().filter(|name| !name.is_empty());
        name.or(self.metadata.generate_name.as_deref()).unwrap_or_default()
    }

    /// True for the API server's image of a static Pod, which must keep its node name.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.metadata.annotation(MIRROR_POD).is_some()
    }

    /// True when the kubelet has acknowledged the Pod and not rejected it.
    /// Source: `pkg/kubelet/lifecycle/predicate.go`; a rejected Pod is in phase `Failed`.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.status.phase == "Pending" && self.status.start_time.is_some()
    }

    /// True while the Pod can still use a claim: neither ended nor being deleted.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.metadata.deletion_timestamp.is_none() && !matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl PodSpec {
    /// Every container: init, ordinary, ephemeral.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers)
    }

    /// True when a container mounts the volume or attaches it as a device. The kubelet ignores volumes that none does.
    /// Source: `desired_state_of_world_populator.go`, `processPodVolumes`.
    #[must_use]
    pub fn mounts(&self, volume_name: &str) -> bool {
        self.all_containers().any(|container| {
            container.volume_mounts.iter().chain(&container.volume_devices).any(|mount| mount.name == volume_name)
        })
    }

    /// Required node affinity, if any is given.
    #[must_use]
    pub fn required_node_affinity(&self) -> Option<&NodeSelector> {
        self.affinity.as_ref()?.node_affinity.as_ref()?.required.as_ref()
    }
}
