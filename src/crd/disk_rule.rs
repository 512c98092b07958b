//! Which disks of a node a pool offers, each as one volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelectorTerm;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Disks of a node that become volumes of a class: what is mounted at the entries of a directory, and the devices that
/// entries of it are, or are links to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.volumeMode == 'Filesystem' || !has(self.fsType)")
        .message("a volume of mode Block has no file system: leave `fsType` out")
)]
pub struct DiskRule {
    /// The class of the volumes. Its reclaim policy and mount options become theirs; its provisioner is
    /// `kubernetes.io/no-provisioner`.
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: String,
    /// Absolute path of the directory. It must be one that the agents mount (chart value `agent.diskPaths`). Only its own
    /// entries count, not what lies deeper.
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^(/([^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+))+$"))]
    pub directory: String,
    /// Names of entries, as patterns with `*`, `?` and `[...]`. An entry that matches none is passed over. None means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 255)))]
    pub names: Vec<String>,
    /// What a Pod gets: a directory or a device.
    #[serde(default)]
    pub volume_mode: VolumeMode,
    /// How many may use a volume.
    #[serde(default)]
    pub access_mode: AccessMode,
    /// The file system that the kubelet makes on a device without one. For devices with `volumeMode: Filesystem` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub fs_type: Option<String>,
    /// Smaller disks are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Quantity>,
    /// Larger disks are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Quantity>,
    /// Models of devices, as patterns. None means all. A disk whose model is not known is not offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 255)))]
    pub models: Vec<String>,
    /// Only disks that rotate, or only those that do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Devices are offered although something is on them: a file system, a partition table, another signature.
    #[serde(default)]
    pub allow_data: bool,
    /// What is on a disk is removed before it is offered for the first time.
    #[serde(default)]
    pub wipe_before_first_use: bool,
    /// Volumes that sig-storage-local-static-provisioner has made for these disks are taken over under their own names, and cleaned as
    /// latebind's own are when they are released. That provisioner must be gone from the nodes first.
    #[serde(default)]
    pub adopt_volumes: bool,
    /// Further nodes that reach the volume: for disks that several nodes share. Each is one more way to be allowed, beside the
    /// node on which the disk was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub selector: Vec<NodeSelectorTerm>,
    /// Labels of the volumes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 32))]
    pub labels: BTreeMap<String, String>,
    /// Labels of the Node that the volumes have too; one that the Node has not is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 317)))]
    pub node_labels: Vec<String>,
}

/// What a Pod gets of a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumeMode {
    /// A directory.
    #[default]
    Filesystem,
    /// A device.
    Block,
}

/// How many may use a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// One node, to read and write.
    #[default]
    ReadWriteOnce,
    /// One Pod, to read and write.
    ReadWriteOncePod,
    /// Many nodes, to read. Only a disk that several nodes reach can be that.
    ReadOnlyMany,
    /// Many nodes, to read and write. Only a disk that several nodes reach can be that.
    ReadWriteMany,
}

impl DiskRule {
    /// True for the name of an entry that it is about. A pattern that cannot be read matches nothing.
    #[must_use]
    pub fn is_about(&self, name: &str) -> bool {
        self.names.is_empty()
            || self.names.iter().any(|pattern| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name)))
    }
}

impl VolumeMode {
    /// As volumes have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "Filesystem",
            Self::Block => "Block",
        }
    }
}

impl AccessMode {
    /// As volumes have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadOnlyMany => "ReadOnlyMany",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}
