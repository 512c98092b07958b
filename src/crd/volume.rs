//! `LocalVolume`: one directory on one node, from its order to its removal.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FINALIZER, READY, is_true};

/// One directory. The controller writes this part, the agent of the node the status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "LocalVolume",
    derive = "PartialEq",
    shortname = "lvol",
    status = "LocalVolumeStatus",
    selectable = ".spec.nodeName",
    doc = "One directory on one node. Deleting this object deletes no data: only `spec.disposal` orders that.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.claim.namespace"),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claim.name"),
    printcolumn(name = "Path", type_ = "string", json_path = ".spec.path", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.disposal) || has(self.disposal)").message("an order of disposal stands")
)]
pub struct LocalVolumeSpec {
    /// The node, by the name of its Node object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change its node"))]
    pub node_name: String,
    /// UID of the Node object that the directory was ordered for.
    #[serde(default, rename = "nodeUID")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change its node"))]
    pub node_uid: String,
    /// The pool that the path came from.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// The pool's path on the node.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not move"))]
    pub base: String,
    /// The directory, relative to `base`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not move"))]
    pub path: String,
    /// Only while a file system of its own is mounted at `base`.
    #[serde(default)]
    pub require_mount: bool,
    /// Size that was asked for, in bytes.
    #[serde(default)]
    pub bytes: i64,
    /// The claim that it was made for.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change its owner"))]
    pub claim: ClaimIdentity,
    /// Mode of the directory, in octal; 0777 unless the class says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-7]{3,4}$"))]
    pub mode: Option<String>,
    /// Owner of the directory; root unless the class says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub uid: Option<i64>,
    /// Group of the directory; root unless the class says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_294_i64))]
    pub gid: Option<i64>,
    /// Where the directory comes from.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change its origin"))]
    pub origin: Origin,
    /// What becomes of the directory when its volume is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// The reclaim policy of the volume, as it was seen last.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// The order to dispose of the directory. Without it nobody touches the directory, whatever happens to this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disposal: Option<Disposal>,
}

/// The agent's answer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalVolumeStatus {
    /// Identity of the base that holds the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_id: Option<String>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A claim, for ever.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimIdentity {
    /// Namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID.
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{1,64}$"))]
    pub uid: String,
}

/// Where a directory comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Made by latebind; carries a marker.
    #[default]
    Made,
    /// Made by latebind; this object was lost and made again from the volume. The directory must be there.
    Recovered,
    /// Made by another provisioner, whose volume is to be deleted; carries no marker.
    Adopted,
    /// Made by latebind, and named by no volume any more: this object was made from the marker, to have it removed.
    Orphan,
}

/// What becomes of the directory when its volume is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// It is emptied and removed.
    #[default]
    Delete,
    /// It is moved to `.archive` in the base and kept.
    Archive,
}

/// The reclaim policy of a volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reclaim {
    /// The directory goes with the volume.
    Delete,
    /// The directory stays.
    #[default]
    Retain,
}

/// An order to dispose of a directory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// With all that is in it.
    Delete,
    /// Only if nothing is in it.
    DeleteIfEmpty,
}

/// The source that a volume is given.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VolumeType {
    /// `local`: the kubelet checks that the path exists, and honours `fsGroup`.
    #[default]
    Local,
    /// `hostPath`.
    HostPath,
}

impl LocalVolume {
    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The object's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// True when the agent has made, or found, the directory.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
    }

    /// True once somebody has deleted the object.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// True while the agent has not lifted its finalizer.
    #[must_use]
    pub fn has_finalizer(&self) -> bool {
        self.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
    }

    /// The name of the object for a claim on a node: another node gets another object, so that one that is stuck on a
    /// dead node is in nobody's way.
    #[must_use]
    pub fn name_for(claim_uid: &str, node_name: &str) -> String {
        format!("{claim_uid}-{:016x}", fnv1a(node_name))
    }
}

/// FNV-1a with 64 bits: stable for ever, unlike the standard library's hash. It only tells the nodes of one claim apart.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
