//! The custom resources, group `latebind.dev`, cluster-scoped: the types, their schemas and rules.
//!
//! [`PinPolicy`] says who may pin Pods to nodes, and [`AdmissionParameter`] holds what admission policies know. Of provisioning,
//! [`LocalPool`] is what an administrator writes, [`LocalNode`] what an agent reports, [`LocalVolume`] the order that passes between
//! controller and agent about a directory, [`LocalDisk`] the same about a whole disk. The schemas under `webhook-manifests/chart/files` are generated from these types.

mod condition;
mod disk;
mod disk_identity;
mod disk_rule;
mod drain_policy;
mod kept;
mod lost_node_policy;
mod node;
mod parameter;
mod path;
mod pin_policy;
mod pin_policy_check;
mod pool;
mod volume;

pub use condition::{condition, is_true, set_condition};
pub use disk::{
    CleanOrder, CleanProgress, CleanReason, DiskKind, DiskRelease, DiskReport, LISTED_DISKS, LocalDisk, LocalDiskSpec,
    LocalDiskStatus, Presence, RootOwner, rounded_capacity,
};
pub use disk_identity::{DiskIdentity, SameDisk};
pub use disk_rule::{AccessMode, DiskRule, VolumeMode};
pub use drain_policy::{DrainPolicy, NoDrainPolicy};
pub use kept::{Kept, SpecAndStatus};
pub use lost_node_policy::{LostNodePolicy, NoLostNodePolicy};
pub use node::{
    KeptDirectory, LISTED_KEPT, LocalNode, LocalNodeSpec, LocalNodeStatus, Orphan, PathReport, RemovedOrphan,
    orphan_allowance,
};
pub use parameter::{
    AdmissionParameter, AdmissionParameterSpec, AdmissionParameterStatus, COMPLETE, EVERY_NODE, Names, PARAMETER,
    ParameterException, ParameterNodes, ParameterPolicy,
};
pub use path::{MAX_PATH_BYTES, PathError, VolumePath, checked_base};
pub use pin_policy::{
    AllowedNodes, LISTED_VIOLATIONS, NamespacesOf, Operator, PinBy, PinPolicy, PinPolicySpec, PinPolicyStatus,
    PolicyException, PolicyMode, RequestersOf, Requirement, Selector, Violation,
};
pub use pin_policy_check::PolicyFault;
pub use pool::{LocalPool, LocalPoolSpec, LocalPoolStatus, Placement, PoolNodes, PoolPath, Room};
pub(crate) use volume::fnv1a;
pub use volume::{
    ClaimIdentity, Disposal, LocalVolume, LocalVolumeSpec, LocalVolumeStatus, OnDelete, Origin, Reclaim, SameClaim,
    SeenVolume, TakeBack, VolumeType,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group.
pub const GROUP: &str = "latebind.dev";
/// The finalizer of a [`LocalVolume`]: the controller sets it at creation, the agent alone lifts it.
pub const FINALIZER: &str = "latebind.dev/directory";
/// The finalizer of the volume of a [`LocalDisk`]: it goes when what is on the disk is gone, or the disk is kept back.
pub const DISK_FINALIZER: &str = "latebind.dev/disk";
/// Condition: the object does what it is for.
pub const READY: &str = "Ready";
/// Condition of a [`LocalVolume`] that was deleted: its directory is gone as it was ordered.
pub const DISPOSED: &str = "Disposed";
/// Condition of a [`LocalNode`]: the Node was made anew under the same name, and a disk of its volumes was not found since.
pub const NODE_REPLACED: &str = "NodeReplaced";
/// Condition of a [`LocalNode`]: more orphans are due than may be removed within an hour.
pub const ORPHANS_HELD: &str = "OrphansHeld";
/// Condition of a [`LocalNode`]: calls to a disk do not return.
pub const DISK_HUNG: &str = "DiskHung";

/// Condition of a [`PinPolicy`]: an exception is past its time, and covers nobody any more.
pub const EXCEPTIONS_EXPIRED: &str = "ExceptionsExpired";

/// Reason of `Ready=False` of a [`LocalDisk`]: all that is on it is being removed.
pub const CLEANING: &str = "Cleaning";

/// Reason of `Ready=False` of a [`LocalVolume`]: nothing was made, since a directory that an earlier claim of the same namespace and
/// name has left is there, and is in the report.
pub const EXISTING_DIRECTORY: &str = "ExistingDirectory";

/// The definition that the admission policies need.
#[must_use]
pub fn policy_definition() -> CustomResourceDefinition {
    AdmissionParameter::crd()
}

/// The definitions of provisioning, in the order in which they are to be applied.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![LocalPool::crd(), LocalNode::crd(), LocalVolume::crd(), LocalDisk::crd(), PinPolicy::crd()]
}

/// Each definition of provisioning as a YAML file: its name and its text.
///
/// # Errors
/// When a definition cannot be written as YAML, which no definition of this crate should cause.
pub fn files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    definitions().iter().map(file).collect()
}

/// The definition that the admission policies need, as a YAML file: its name and its text.
///
/// # Errors
/// As [`files`].
pub fn policy_file() -> Result<(String, String), serde_saphyr::ser::Error> {
    file(&policy_definition())
}

fn file(definition: &CustomResourceDefinition) -> Result<(String, String), serde_saphyr::ser::Error> {
    let name = definition.metadata.name.clone().unwrap_or_default();
    let text = serde_saphyr::to_string(definition)?;
    Ok((format!("{name}.yaml"), format!("# Generated from the types in src/crd.\n{text}")))
}

#[cfg(test)]
mod tests;
