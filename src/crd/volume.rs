//! `LocalVolume`: one directory on one node, from its order to its removal.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::beneath;
use super::{DISPOSED, FINALIZER, READY, is_true};

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
    /// The directory is the same on every node: it was ordered from this one, whichever node the claim selects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change its node"))]
    pub shared_file_system: bool,
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
    /// What an earlier claim of the same namespace and name has left is taken back; not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a directory does not change where it comes from"))]
    pub same_claim: Option<SameClaim>,
    /// The reclaim policy of the volume, as it was seen last.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// The PersistentVolume of this directory as the API server showed it last. The agent writes it into the marker on
    /// disk: what is retained stays retained, even when this object and the volume are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<SeenVolume>,
    /// Paths that other volumes name on this node and that no LocalVolume stands for, as of the order or of the
    /// confirmation, whichever is newer. The agent looks whether one of them is this directory, holds it or lies in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 4096)))]
    pub other_paths: Vec<String>,
    /// The order to dispose of the directory. Without it nobody touches the directory, whatever happens to this object.
    /// It is taken back as soon as the volume is not to be deleted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disposal: Option<Disposal>,
    /// UID of the PersistentVolume that was released, and that the order is about. An order that a person writes has none.
    #[serde(default, rename = "disposalOf", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub disposal_of: Option<String>,
    /// The attempt that the order still held for (`status.disposalAttempt`). Every other attempt has to ask anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub confirmed_attempt: Option<String>,
}

/// The agent's answer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalVolumeStatus {
    /// Identity of the base that holds the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_id: Option<String>,
    /// The attempt to dispose of the directory that waits for `spec.confirmedAttempt`: a new random name each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub disposal_attempt: Option<String>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A PersistentVolume as the API server showed it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SeenVolume {
    /// Name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID: another volume of the same name is not this one.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The version that was seen. A marker that names a newer one than the API server has tells of a restored store.
    #[schemars(length(max = 64))]
    pub resource_version: String,
    /// Its reclaim policy. Whatever is not `Delete` is `Retain`.
    #[serde(default)]
    pub reclaim_policy: Reclaim,
    /// UID of the claim that it was bound to; empty when it was bound to none.
    #[serde(default, rename = "claimUID")]
    #[schemars(length(max = 64))]
    pub claim_uid: String,
}

/// A claim, forever.
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
    /// It stays in its place, and its marker says so. A later claim of the same namespace and name may take it back.
    KeepPath,
}

/// A claim that takes back what an earlier one of its namespace and name has left, and gets nothing new in its place.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SameClaim {
    /// Earlier clusters whose directories count too, each by the UID of its namespace `kube-system`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub clusters: Vec<String>,
    /// The directory that is taken back. Without it a new one is made, if the agent finds none that could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_back: Option<TakeBack>,
}

/// A directory that is taken back, by its marker.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TakeBack {
    /// UID of the claim that left it.
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{1,64}$"))]
    pub claim: String,
    /// The cluster of that claim; empty for this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub cluster: String,
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

    /// True when the agent has said that the directory is gone, or a person that it is given up: the order stands, and the
    /// finalizer was lifted. Of an object that was deleted it would vanish with it, so there a condition says it.
    #[must_use]
    pub fn is_disposed(&self) -> bool {
        let said = || self.status.as_ref().is_some_and(|status| is_true(&status.conditions, DISPOSED));
        self.spec.disposal.is_some() && (!self.has_finalizer() || said())
    }

    /// The directory that it takes back, if it is to.
    #[must_use]
    pub fn takes_back(&self) -> Option<&TakeBack> {
        self.spec.same_claim.as_ref().and_then(|same| same.take_back.as_ref())
    }

    /// The directory's path on the node.
    #[must_use]
    pub fn directory(&self) -> String {
        beneath(&self.spec.base, &self.spec.path)
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

/// FNV-1a with 64 bits: stable forever, unlike the standard library's hash. Nobody is kept from finding two texts with the
/// same one, so what must be unique has more in it than this.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
