//! Pods.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde::de::{self, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::device::{PodResourceClaim, PodResourceClaimStatus};
use super::metadata::{Metadata, metadata};
use super::storage::{Claim, ClaimTemplate};
use super::{MIRROR_POD, ResourceAmounts, Text, boxed_object, null_as_default, object, object_or_default, objects};

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
    /// Init containers. Of these lists, containers are left out that mount and ask for nothing that is read.
    #[serde(default, deserialize_with = "containers")]
    pub init_containers: Vec<Container>,
    /// Containers.
    #[serde(default, deserialize_with = "containers")]
    pub containers: Vec<Container>,
    /// Ephemeral containers.
    #[serde(default, deserialize_with = "containers")]
    pub ephemeral_containers: Vec<Container>,
    /// The group of Pods with which the scheduler places this one; only whether there is one counts.
    #[serde(default)]
    pub scheduling_group: Option<IgnoredAny>,
    /// What Kubernetes 1.35 had in its place.
    #[serde(default)]
    pub workload_ref: Option<IgnoredAny>,
    /// The Pod uses the network of its node.
    #[serde(default, deserialize_with = "null_as_default")]
    pub host_network: bool,
    /// Claims of dynamic resource allocation.
    #[serde(default, deserialize_with = "objects")]
    pub resource_claims: Vec<PodResourceClaim>,
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
    /// Which ResourceClaims were made for the Pod.
    #[serde(default, deserialize_with = "objects")]
    pub resource_claim_statuses: Vec<PodResourceClaimStatus>,
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

/// Pod affinity or anti-affinity; only required terms are read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodAffinity {
    /// Terms that must hold.
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_as_default")]
    pub required: Vec<PodAffinityTerm>,
}

/// Pods, and the topology in which they count. `matchLabelKeys` are part of the selector once the API server has stored
/// the Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAffinityTerm {
    /// The Pods by label; absent means none.
    #[serde(default)]
    pub label_selector: Option<LabelSelector>,
    /// Their namespaces by name; where neither these nor the selector is given, the Pod's own.
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespaces: Vec<Text>,
    /// Their namespaces by label.
    #[serde(default)]
    pub namespace_selector: Option<LabelSelector>,
    /// The node label whose value is one topology.
    #[serde(default, deserialize_with = "null_as_default")]
    pub topology_key: Text,
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

impl Container {
    /// True for one that mounts, attaches and asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let ResourceAmounts { requests, limits } = &self.resources;
        self.volume_mounts.is_empty() && self.volume_devices.is_empty() && requests.is_empty() && limits.is_empty()
    }
}

/// Reads containers that are not empty; `null` as none. A million empty ones fit into one object, and would take a hundred
/// megabytes.
fn containers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Container>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<Container>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of containers")
        }
        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut read = Vec::new();
            while let Some(container) = list.next_element::<Container>()? {
                if !container.is_empty() {
                    read.push(container);
                }
            }
            Ok(read)
        }
    }
    deserializer.deserialize_option(Visitor)
}

/// The volume that a mount or device refers to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct VolumeReference {
    /// Name of an entry of `spec.volumes`, or of a claim template.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
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

impl PodVolume {
    /// True for one that is a claim, or becomes one.
    #[must_use]
    pub fn is_claim(&self) -> bool {
        self.persistent_volume_claim.is_some() || self.ephemeral.is_some()
    }
}

/// Name of the claim of a generic ephemeral volume.
/// Source: `component-helpers/storage/ephemeral`, `VolumeClaimName`.
pub(super) fn ephemeral_claim_name(pod: &str, volume: &str) -> Text {
    format!("{pod}-{volume}").into()
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
        self.metadata.namespace()
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

    /// True when the API server has stored the Pod, so that its node name can no longer be changed.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty())
    }

    /// True when both are states of one Pod: by UID, or by name and owner where one of them has not been created yet.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_described_by(&other.metadata)
    }

    /// The same where of the other Pod only its metadata is known.
    #[must_use]
    pub fn is_described_by(&self, other: &Metadata) -> bool {
        if let (Some(uid), Some(other)) = (&self.metadata.uid, &other.uid) {
            return uid == other;
        }
        let owner = |metadata: &Metadata| {
            let owner = metadata.controller()?;
            Some((owner.kind.clone(), owner.name.clone()))
        };
        let namespace = other.namespace();
        self.namespace() == namespace
            && self.metadata.name == other.name
            && (self.metadata.name.is_some() || owner(&self.metadata) == owner(other))
    }

    /// True when all containers have ended for good: it uses no claim any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.status.has_ended()
    }

    /// True while the Pod can still use a claim: neither ended nor being deleted.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.metadata.deletion_timestamp.is_none() && !self.has_ended()
    }

    /// Name of the claim that a volume of the Pod stands for: the one that it names, or `<pod>-<volume>` for a generic
    /// ephemeral volume. `None` for other sources, and for ephemeral volumes of a Pod that has no name yet.
    #[must_use]
    pub fn claim_name(&self, volume: &PodVolume) -> Option<Text> {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(source.claim_name.clone());
        }
        volume.ephemeral.as_ref()?;
        let pod_name = self.metadata.name.as_deref().filter(|name| !name.is_empty())?;
        Some(ephemeral_claim_name(pod_name, &volume.name))
    }

    /// Names of all claims that the Pod's volumes stand for, in the order of the volumes.
    pub fn claim_names(&self) -> impl Iterator<Item = Text> + '_ {
        self.spec.volumes.iter().filter_map(|volume| self.claim_name(volume))
    }

    /// The place of the Pod's volume that is this claim, which is in the Pod's namespace. The claim of an ephemeral volume
    /// must be the Pod's own.
    #[must_use]
    pub fn volume_of(&self, claim: &Claim) -> Option<usize> {
        self.spec.volumes.iter().position(|volume| {
            self.claim_name(volume).is_some_and(|name| name == claim.name())
                && (volume.persistent_volume_claim.is_some() || self.owns(claim))
        })
    }

    /// True when the Pod is the controller of the claim, as it is of those of its own ephemeral volumes.
    /// Source: `component-helpers/storage/ephemeral`, `VolumeIsForPod`.
    #[must_use]
    pub fn owns(&self, claim: &Claim) -> bool {
        self.controls(&claim.metadata)
    }

    /// True when the Pod is the controller of an object.
    #[must_use]
    pub fn controls(&self, object: &Metadata) -> bool {
        object.controller().is_some_and(|owner| Some(owner.uid.as_str()) == self.metadata.uid.as_deref())
    }
}

/// The number at the end of the name of a StatefulSet's Pod.
/// Source: `pkg/controller/statefulset/stateful_set_utils.go`, `getParentNameAndOrdinal`.
#[must_use]
pub fn ordinal(pod: &str) -> Option<u64> {
    pod.rsplit_once('-')?.1.parse().ok()
}

impl PodStatus {
    /// True in the phases that a Pod never leaves.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl PodSpec {
    /// The scheduler places the Pod together with others.
    #[must_use]
    pub fn is_in_group(&self) -> bool {
        self.scheduling_group.is_some() || self.workload_ref.is_some()
    }

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

    /// The names of all volumes that a container mounts or attaches: what [`Self::mounts`] answers, for who asks often.
    #[must_use]
    pub fn mounted_volumes(&self) -> HashSet<&str> {
        let mounts =
            self.all_containers().flat_map(|container| container.volume_mounts.iter().chain(&container.volume_devices));
        mounts.map(|mount| mount.name.as_str()).collect()
    }

    /// Terms of required anti-affinity to Pods.
    #[must_use]
    pub fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let terms = self.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        terms.map(|terms| terms.required.as_slice()).unwrap_or_default()
    }

    /// Required node affinity, if any is given.
    #[must_use]
    pub fn required_node_affinity(&self) -> Option<&NodeSelector> {
        self.affinity.as_ref()?.node_affinity.as_ref()?.required.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_containers_those_are_kept_that_a_decision_reads() {
        let mount = json!({"name": "a", "volumeMounts": [{"name": "v"}]});
        let asks = json!({"resources": {"limits": {"cpu": "1"}}});
        let spec = |list: serde_json::Value| serde_json::from_value::<PodSpec>(json!({ "containers": list }));
        let kept = spec(json!([{}, mount, {"name": "b"}, asks, {"resources": {}}])).unwrap();
        assert_eq!(kept.containers.len(), 2);
        assert!(kept.mounts("v"));
        assert!(spec(serde_json::Value::Null).unwrap().containers.is_empty());
        assert!(spec(json!([1])).is_err() && spec(json!({})).is_err() && spec(json!([null])).is_err());
    }
}
