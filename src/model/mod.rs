//! The few fields of Kubernetes objects that decisions read.
//!
//! Types are narrow on purpose: parsing a Pod costs a fraction of the full type, a watch cache of them stays small,
//! and a field that a newer API server adds cannot break them. Objects are never written back through these types.
//! `null` stands for "absent" wherever the API server reads it so.

mod node;
mod pod;
mod quantity;
mod storage;
mod workload;

pub use node::{
    CsiDriver, CsiDriverSpec, CsiNode, CsiNodeDriver, CsiNodeSpec, CsiVolumeLimit, Namespace, Node, NodeSpec,
    NodeStatus,
};
pub use pod::{
    Affinity, ClaimSource, Container, EphemeralSource, NodeAffinity, Pod, PodAffinity, PodSpec, PodStatus, PodVolume,
    ResourceAmounts, VolumeReference,
};
pub use quantity::{ParseQuantityError, Quantity};
pub use storage::{
    Claim, ClaimSpec, ClaimStatus, ClaimTemplate, ClaimTemplateMetadata, Class, CsiSource, DataSource, PathSource,
    StorageCapacity, Volume, VolumeSpec, VolumeStatus,
};
pub use workload::{PodTemplate, Workload, WorkloadError, WorkloadKind};

use serde::{Deserialize, Deserializer};

/// Annotation of a claim by which the scheduler orders a volume for a node.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `AnnSelectedNode`.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Label that the kubelet sets to the host name; usually, not always, the node's name.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// Provisioner name of classes whose volumes an administrator makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Annotation that names the class of a claim or volume and wins over `storageClassName`.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotation that only a kubelet sets, on the API server's image of a static Pod.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";
/// Namespace annotation that the admission plugin `PodNodeSelector` merges into every Pod.
pub const NAMESPACE_NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// Annotation in which latebind keeps the node name that a rewritten Pod came with.
pub const ORIGINAL_NODE_NAME: &str = "latebind.dev/original-node-name";

/// Reads `null` as the type's default, as Go's decoder does.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
