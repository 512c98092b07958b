//! `LocalNode`: what is really there.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an agent found on its node. The object has the name of the Node.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "LocalNode",
    derive = "PartialEq",
    shortname = "lnode",
    status = "LocalNodeStatus",
    doc = "What the agent of a node found there: paths, file systems, room.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Seen", type_ = "date", json_path = ".status.observedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LocalNodeSpec {
    /// UID of the Node object that the agent runs on.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
}

/// The agent's findings.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalNodeStatus {
    /// When the agent last looked. It writes only when something else changed, or after ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// One entry a path that a pool offers on this node.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub paths: Vec<PathReport>,
    /// Directories that carry our marker and belong to no LocalVolume, the one that is known longest first. At most 32 are
    /// listed; `paths` has their number.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub orphans: Vec<Orphan>,
    /// Orphans that were removed within the last hour: their number is bounded.
    #[serde(default)]
    pub removed_orphans: Vec<RemovedOrphan>,
    /// `Ready`; `NodeReplaced` while the Node is another object than before and a disk of its volumes was not found;
    /// `OrphansHeld` while more orphans are due than may be removed within an hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A directory of this cluster that belongs to no LocalVolume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// UID of the claim that it was made for.
    pub claim: String,
    /// The base.
    pub base: String,
    /// The directory, relative to the base.
    pub path: String,
    /// When it was found.
    pub since: Time,
    /// The agent would remove it: it was told to, has known it for long enough, and not too many went of late.
    #[serde(default)]
    pub removable: bool,
}

/// An orphan that was removed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RemovedOrphan {
    /// UID of the claim that it was made for.
    pub claim: String,
    /// The base.
    pub base: String,
    /// The directory, relative to the base.
    pub path: String,
    /// When.
    pub at: Time,
}

/// What is known of one path.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// The path, as the pool names it.
    pub path: String,
    /// Volumes can be made there.
    pub usable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Type of the file system, such as `ext4`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_system: String,
    /// What is mounted there: a device, or where the file system comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The path is a mount point itself.
    #[serde(default)]
    pub mount_point: bool,
    /// Size of the file system in bytes.
    #[serde(default)]
    pub total_bytes: i64,
    /// Bytes free for an ordinary user.
    #[serde(default)]
    pub free_bytes: i64,
    /// Inodes free.
    #[serde(default)]
    pub free_inodes: i64,
    /// Identity of the base, kept on the disk itself: it moves with the disk.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_id: String,
    /// Directories of deleted volumes that wait for being emptied.
    #[serde(default)]
    pub trash: i64,
    /// Directories that carry our marker and belong to no LocalVolume.
    #[serde(default)]
    pub orphans: i64,
    /// Users other than root can reach into the base.
    #[serde(default)]
    pub open_to_others: bool,
}
