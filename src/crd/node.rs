//! `LocalNode`: what is really there.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::disk::DiskReport;
use super::path::beneath;

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
    /// What was found at each entry of the directories in which pools look for disks. At most 256 are listed.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub disks: Vec<DiskReport>,
    /// Directories that carry our marker and belong to no LocalVolume, the one that is known longest first. At most 32 are
    /// listed; `paths` has their number.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub orphans: Vec<Orphan>,
    /// Directories that stay for a claim of the same namespace and name (`onDelete: keep-path`): those of this cluster whose
    /// volume is gone, and all of other clusters. At most 256 are listed; `paths` has their number.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub kept: Vec<KeptDirectory>,
    /// Orphans that were removed within the last hour: their number is bounded.
    #[serde(default)]
    pub removed_orphans: Vec<RemovedOrphan>,
    /// `Ready`; `NodeReplaced` while the Node is another object than before and a disk of its volumes was not found;
    /// `OrphansHeld` while more orphans are due than may be removed within an hour, or the store was restored;
    /// `DiskHung` while calls to a disk do not return.
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
    /// When it was found, by the node's clock. Its age is the time that the agent has seen it, by a clock that nobody sets.
    pub since: Time,
    /// The agent would remove it: it was told to, has seen it for long enough, and not too many went of late.
    #[serde(default)]
    pub removable: bool,
    /// Its marker says that its volume was retained: it is never removed.
    #[serde(default)]
    pub retained: bool,
}

/// One part of so many of a node's volumes.
const ORPHANS_SHARE: usize = 10;

/// How many orphans of a node with so many volumes may be on their way out at one time, and may go within an hour.
#[must_use]
pub fn orphan_allowance(volumes: usize) -> usize {
    (volumes / ORPHANS_SHARE).max(1)
}

impl Orphan {
    /// The directory's path on the node.
    #[must_use]
    pub fn directory(&self) -> String {
        beneath(&self.base, &self.path)
    }
}

/// How many kept directories a report lists: with names as long as people make them, some 50 KiB of an object that is
/// written when one comes or goes.
pub const LISTED_KEPT: usize = 256;

/// A directory that stays in its place for a claim of the same namespace and name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct KeptDirectory {
    /// Namespace of the claim that it was made for.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of that claim.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of that claim.
    #[schemars(length(max = 64))]
    pub claim: String,
    /// Its cluster, by the UID of its namespace `kube-system`; empty for this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub cluster: String,
    /// The base.
    pub base: String,
    /// The directory, relative to the base.
    pub path: String,
}

impl KeptDirectory {
    /// The directory's path on the node.
    #[must_use]
    pub fn directory(&self) -> String {
        beneath(&self.base, &self.path)
    }
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
    /// Why not, in one word, such as `PathMissing`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the file system at the path cannot give, and what the agent does instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
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
    /// Number of the report in which the agent said so, which is on the disk too: where this one is smaller, the API
    /// server's store was restored from a backup.
    #[serde(default)]
    pub epoch: i64,
    /// Directories of deleted volumes that wait for being emptied.
    #[serde(default)]
    pub trash: i64,
    /// Directories that carry our marker and belong to no LocalVolume.
    #[serde(default)]
    pub orphans: i64,
    /// Directories that stay for a claim of the same namespace and name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept: i64,
    /// Users other than root can reach into the base.
    #[serde(default)]
    pub open_to_others: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
