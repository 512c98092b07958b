//! Claims, volumes, classes and capacity.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{TopologySelectorTerm, VolumeNodeAffinity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::metadata::{Metadata, metadata};
use super::{
    BETA_CLASS, DEFAULT_CLASS, Labels, Map, NO_PROVISIONER, ON_DELETE, PROVISIONER, Quantity, ResourceAmounts,
    SELECTED_BY, SELECTED_NODE, SHARED_ON_NODE, Text, null_as_default, object,
};

/// What latebind notes on a claim when it selects a node for it, in [`SELECTED_BY`]. It outlives the selection, which the
/// provisioner may take back and the scheduler may make anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectionMark<'a> {
    /// UID of the Pod for whose sake.
    pub pod_uid: &'a str,
    /// The node. A mark of an early version has none, and nothing can be told from it about a node.
    pub node: Option<&'a str>,
}

impl fmt::Display for SelectionMark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "{} {node}", self.pod_uid),
            None => f.write_str(self.pod_uid),
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Claim {
    /// Name, namespace, annotations, UID.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ClaimSpec,
    /// What was found.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: ClaimStatus,
}

/// `spec` of a claim or of a claim template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// How the volume will be used.
    #[serde(default, deserialize_with = "null_as_default")]
    pub access_modes: Vec<Text>,
    /// How much is asked for.
    #[serde(default, deserialize_with = "null_as_default")]
    pub resources: ResourceAmounts,
    /// The class; empty is not the same as absent.
    #[serde(default)]
    pub storage_class_name: Option<Text>,
    /// `Filesystem` (the default) or `Block`.
    #[serde(default)]
    pub volume_mode: Option<Text>,
    /// The volume that the claim is bound to, or asks for by name.
    #[serde(default)]
    pub volume_name: Option<Text>,
    /// Labels that the volume must carry.
    #[serde(default)]
    pub selector: Option<Box<LabelSelector>>,
    /// Class of mutable volume attributes.
    #[serde(default)]
    pub volume_attributes_class_name: Option<Text>,
    /// What the volume is to be filled from; only its kind is read.
    #[serde(default)]
    pub data_source: Option<DataSource>,
    /// The same, for any kind of object.
    #[serde(default)]
    pub data_source_ref: Option<DataSource>,
}

/// What a volume is to be filled from.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DataSource {
    /// Kind of the object.
    #[serde(default, deserialize_with = "null_as_default")]
    pub kind: Text,
}

/// `status` of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClaimStatus {
    /// `Pending`, `Bound`, `Lost`, or empty before the first write.
    #[serde(default, deserialize_with = "null_as_default")]
    pub phase: Text,
}

/// What a generic ephemeral volume makes its claim from.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClaimTemplate {
    /// Labels and annotations of the claim; nothing else is allowed there.
    #[serde(default, deserialize_with = "object")]
    pub metadata: Option<ClaimTemplateMetadata>,
    /// `spec` of the claim.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: ClaimSpec,
}

/// Metadata that a claim template may carry.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClaimTemplateMetadata {
    /// Annotations, copied to the claim.
    #[serde(default)]
    pub annotations: Option<Labels>,
    /// Labels, copied to the claim.
    #[serde(default)]
    pub labels: Option<Labels>,
}

impl Claim {
    /// The claim's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// The claim's namespace; `default` where none is given.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace()
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotation(key)
    }

    /// The same as [`Claim::class_name`], to be kept.
    #[must_use]
    pub fn class(&self) -> Option<Text> {
        let annotation = self.metadata.annotations.as_ref().and_then(|annotations| annotations.get(BETA_CLASS));
        annotation.or(self.spec.storage_class_name.as_ref()).cloned()
    }

    /// The class by annotation or field; `None` when neither is given. The annotation wins.
    /// Source: `component-helpers/storage/volume/helpers.go`, `GetPersistentVolumeClaimClass`.
    #[must_use]
    pub fn class_name(&self) -> Option<&str> {
        self.annotation(BETA_CLASS).or(self.spec.storage_class_name.as_deref())
    }

    /// The node that a volume was ordered for.
    #[must_use]
    pub fn selected_node(&self) -> Option<&str> {
        self.annotation(SELECTED_NODE).filter(|node| !node.is_empty())
    }

    /// What latebind noted when it selected a node for the claim, whatever has become of that selection since.
    #[must_use]
    pub fn selection_mark(&self) -> Option<SelectionMark<'_>> {
        let text = self.annotation(SELECTED_BY)?;
        let (pod_uid, node) = text.split_once(' ').map_or((text, None), |(pod_uid, node)| (pod_uid, Some(node)));
        Some(SelectionMark { pod_uid, node })
    }

    /// Bound in the sense of the kubelet: phase and volume name agree.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.status.phase == "Bound" && self.volume_name().is_some()
    }

    /// The volume named by the claim.
    #[must_use]
    pub fn volume_name(&self) -> Option<&str> {
        self.spec.volume_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The requested size.
    #[must_use]
    pub fn request(&self) -> Quantity {
        self.spec.resources.requests.get("storage").copied().unwrap_or_default()
    }

    /// True when the API server has stored the claim: then a missing class means that there was no default class.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty())
    }
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Volume {
    /// Name, labels, annotations.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// What it offers, where, to whom.
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: VolumeSpec,
    /// Its phase.
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: VolumeStatus,
}

/// `spec` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Size, by resource `storage`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub capacity: Map<Quantity>,
    /// How it may be used.
    #[serde(default, deserialize_with = "null_as_default")]
    pub access_modes: Vec<Text>,
    /// The class; empty and absent mean the same.
    #[serde(default)]
    pub storage_class_name: Option<Text>,
    /// `Filesystem` (the default) or `Block`.
    #[serde(default)]
    pub volume_mode: Option<Text>,
    /// The claim that owns it, or is to own it.
    #[serde(default)]
    pub claim_ref: Option<ClaimReference>,
    /// The nodes from which it can be reached.
    #[serde(default)]
    pub node_affinity: Option<VolumeNodeAffinity>,
    /// Class of mutable volume attributes.
    #[serde(default)]
    pub volume_attributes_class_name: Option<Text>,
    /// `Delete` or `Retain`.
    #[serde(default)]
    pub persistent_volume_reclaim_policy: Option<Text>,
    /// Source: a disk or directory of a node.
    #[serde(default)]
    pub local: Option<PathSource>,
    /// Source: a directory of whatever node the Pod runs on.
    #[serde(default)]
    pub host_path: Option<PathSource>,
    /// Source: a CSI driver.
    #[serde(default)]
    pub csi: Option<CsiSource>,
    /// Source: a disk of AWS, by the plugin that a CSI driver has taken over. Only that it is one counts.
    #[serde(default)]
    pub aws_elastic_block_store: Option<IgnoredAny>,
    /// Source: the same of Google's cloud.
    #[serde(default)]
    pub gce_persistent_disk: Option<IgnoredAny>,
    /// Source: the same of OpenStack.
    #[serde(default)]
    pub cinder: Option<IgnoredAny>,
}

/// The claim that a volume belongs to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ClaimReference {
    /// Namespace of the claim.
    #[serde(default)]
    pub namespace: Option<Text>,
    /// Name of the claim.
    #[serde(default)]
    pub name: Option<Text>,
    /// UID of the claim; without it any claim of that name may have the volume.
    #[serde(default)]
    pub uid: Option<Text>,
}

/// Source of a volume that is a path on a node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PathSource {
    /// The path.
    #[serde(default, deserialize_with = "null_as_default")]
    pub path: Text,
}

/// Source of a volume that a CSI driver serves.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CsiSource {
    /// The driver's name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub driver: Text,
}

/// `status` of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct VolumeStatus {
    /// `Pending`, `Available`, `Bound`, `Released`, `Failed`, or empty before the first write.
    #[serde(default, deserialize_with = "null_as_default")]
    pub phase: Text,
}

impl Volume {
    /// The volume's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// The class by annotation or field; empty when neither is given. The annotation wins.
    #[must_use]
    pub fn class_name(&self) -> &str {
        self.metadata.annotation(BETA_CLASS).or(self.spec.storage_class_name.as_deref()).unwrap_or_default()
    }

    /// True when nothing has claimed it. A volume that nobody has stored yet has no phase, and comes to be `Available`.
    #[must_use]
    pub fn is_available(&self) -> bool {
        let phase = self.status.phase.as_str();
        phase == "Available" || (phase.is_empty() && self.metadata.uid.as_deref().is_none_or(str::is_empty))
    }

    /// True while a claim has it.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.status.phase == "Bound" && self.spec.claim_ref.is_some()
    }

    /// The path on a node, of a volume that is one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.spec.local.as_ref().or(self.spec.host_path.as_ref()).map(|source| source.path.as_str())
    }

    /// True while its data is to be deleted with it: the policy says so, and it is not one of latebind's whose directory is
    /// archived or stays.
    #[must_use]
    pub fn loses_data_on_release(&self) -> bool {
        self.is_deleted_on_release() && self.metadata.annotation(ON_DELETE).is_none()
    }

    /// True while it is to be deleted once it is released.
    #[must_use]
    pub fn is_deleted_on_release(&self) -> bool {
        self.spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete")
    }

    /// UID of the claim that it is bound to, or was.
    #[must_use]
    pub fn claim_uid(&self) -> Option<&str> {
        self.spec.claim_ref.as_ref()?.uid.as_deref().filter(|uid| !uid.is_empty())
    }

    /// The size.
    #[must_use]
    pub fn capacity(&self) -> Quantity {
        self.spec.capacity.get("storage").copied().unwrap_or_default()
    }

    /// True when `claimRef` names the claim, and its UID where it names one.
    /// Source: `component-helpers/storage/volume/pv_helpers.go`, `IsVolumeBoundToClaim`.
    #[must_use]
    pub fn is_claimed_by(&self, claim: &Claim) -> bool {
        let Some(reference) = &self.spec.claim_ref else { return false };
        let uid = reference.uid.as_deref().unwrap_or_default();
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref() == Some(claim.namespace())
            && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    }
}

/// A StorageClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Class {
    /// Name, annotations.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// Who makes the volumes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub provisioner: String,
    /// `Immediate` (the default) or `WaitForFirstConsumer`.
    #[serde(default)]
    pub volume_binding_mode: Option<String>,
    /// Where volumes may be made.
    #[serde(default, deserialize_with = "null_as_default")]
    pub allowed_topologies: Vec<TopologySelectorTerm>,
    /// What the provisioner is told.
    #[serde(default, deserialize_with = "null_as_default")]
    pub parameters: BTreeMap<String, String>,
    /// `Delete` (the default) or `Retain`.
    #[serde(default)]
    pub reclaim_policy: Option<String>,
    /// Options with which volumes are mounted.
    #[serde(default, deserialize_with = "null_as_default")]
    pub mount_options: Vec<String>,
}

impl Class {
    /// The class's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name()
    }

    /// True when its claims wait for their first consumer.
    #[must_use]
    pub fn is_delayed(&self) -> bool {
        self.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    }

    /// True when a provisioner makes its volumes.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        !self.provisioner.is_empty() && self.provisioner != NO_PROVISIONER
    }

    /// True when all Pods that share a volume of it must be on one node, also where its claim may be used by many.
    #[must_use]
    pub fn shares_on_one_node(&self) -> bool {
        self.provisioner == PROVISIONER && self.parameters.get(SHARED_ON_NODE).is_some_and(|value| value == "true")
    }

    /// True when it is marked as the default class.
    #[must_use]
    pub fn is_default(&self) -> bool {
        DEFAULT_CLASS.iter().any(|key| self.metadata.annotation(key) == Some("true"))
    }
}

/// A CSIStorageCapacity object: how much room a class has in one part of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageCapacity {
    /// Name, namespace.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// The class.
    #[serde(default, deserialize_with = "null_as_default")]
    pub storage_class_name: Text,
    /// The nodes; absent means none.
    #[serde(default)]
    pub node_topology: Option<LabelSelector>,
    /// Room in all.
    #[serde(default)]
    pub capacity: Option<Quantity>,
    /// Largest single volume; wins over `capacity`.
    #[serde(default)]
    pub maximum_volume_size: Option<Quantity>,
}
