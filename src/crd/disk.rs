//! `LocalDisk`: one disk that is a volume, from the look that found it; and what an agent reports of each.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelectorTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::disk_identity::DiskIdentity;
use super::disk_rule::{AccessMode, VolumeMode};
use super::volume::{ClaimIdentity, SeenVolume};

/// One disk. The controller writes this part, the agent of the node the status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "LocalDisk",
    derive = "PartialEq",
    shortname = "ldisk",
    status = "LocalDiskStatus",
    selectable = ".spec.nodeName",
    doc = "One disk of a node that is a volume. Deleting this object cleans nothing: only `spec.clean` orders that.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Path", type_ = "string", json_path = ".spec.path"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.storageClassName"),
    printcolumn(name = "Presence", type_ = "string", json_path = ".status.presence"),
    printcolumn(name = "Unclean", type_ = "boolean", json_path = ".spec.unclean"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LocalDiskSpec {
    /// The node, by the name of its Node object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a disk on another node is another object"))]
    pub node_name: String,
    /// UID of the Node object on which the disk was found.
    #[serde(default, rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// The pool whose rule found it.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// The class of its volume.
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: String,
    /// Where it is on the node: a mount point, a device or a link to one.
    #[schemars(length(min = 2, max = 4096))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a disk at another path is another object"))]
    pub path: String,
    /// What is there.
    pub kind: DiskKind,
    /// What a Pod gets.
    #[serde(default)]
    pub volume_mode: VolumeMode,
    /// How many may use it.
    #[serde(default)]
    pub access_mode: AccessMode,
    /// The file system that the kubelet makes on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// The volume that another provisioner has made for it, and that was taken over. It goes when it is released; the next one has the
    /// name of this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub adopted_volume: Option<String>,
    /// What tells it from other disks. What is learned later is added; what is there is never changed.
    #[serde(default, skip_serializing_if = "DiskIdentity::is_empty")]
    pub identity: DiskIdentity,
    /// Owner and mode that the root of its file system had when it was found; they are given back to it when it is cleaned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootOwner>,
    /// Further nodes that reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub selector: Vec<NodeSelectorTerm>,
    /// Labels of its volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Labels of the Node that its volume has too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_labels: Vec<String>,
    /// It may hold what a claim has written, and is not offered before it was cleaned, or a person has said otherwise.
    #[serde(default)]
    pub unclean: bool,
    /// The claim that had it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimIdentity>,
    /// The volume that is, or was, made for it last, as the API server showed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume: Option<SeenVolume>,
    /// The order to clean it. Without it nobody touches what is on the disk, whatever happens to this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<CleanOrder>,
    /// The attempt that the order still held for (`status.attempt`). Every other attempt has to ask anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub confirmed_attempt: Option<String>,
    /// What a person has said of a disk that holds data of a claim whose volume is gone (`latebind release`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<DiskRelease>,
    /// A person has said that it is offered with what a claim has written.
    #[serde(default)]
    pub kept: bool,
    /// UID of the claim about whose data that was said, or that it was cleaned of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cleared_of: Option<String>,
    /// Why it is not offered, though it is there; written by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub not_offered: Option<String>,
    /// How often a person has asked for another attempt (`latebind disks retry`): after too many failures none is made without.
    #[serde(default)]
    pub retries: i64,
}

/// The agent's answer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalDiskStatus {
    /// Whether the disk is at its path.
    #[serde(default)]
    pub presence: Presence,
    /// Its size in bytes, as it was measured last.
    #[serde(default)]
    pub capacity_bytes: i64,
    /// The attempt to clean it that waits for `spec.confirmedAttempt`: a new random name each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub attempt: Option<String>,
    /// The order (`spec.clean.id`) that was carried out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cleaned: Option<String>,
    /// How far the cleaning has come; nothing while none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<CleanProgress>,
    /// Attempts that have failed one after another, without any progress in between.
    #[serde(default)]
    pub failures: i64,
    /// The order that they were about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failed_order: Option<String>,
    /// `spec.retries` as of the last failure.
    #[serde(default)]
    pub retries_seen: i64,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What is at an entry.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskKind {
    /// A file system is mounted there.
    #[default]
    Mount,
    /// It is a block device, or a link to one.
    Device,
}

/// Whether a disk is where it was found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nobody has looked, or the look told nothing.
    #[default]
    Unknown,
    /// It is there.
    Present,
    /// Nothing is there: no mount, no device.
    Absent,
    /// Another disk is there.
    Another,
}

/// Owner and mode of the root of a file system.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootOwner {
    /// User.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub uid: u32,
    /// Group.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub gid: u32,
    /// Mode: the twelve bits of permissions.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_295_i64))]
    pub mode: u32,
}

/// An order to remove all that is on a disk.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanOrder {
    /// What the order is about: the UID of the volume that was released, or a name of its own.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Why.
    pub why: CleanReason,
}

/// Why a disk is cleaned.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanReason {
    /// Its volume was released, and its reclaim policy is `Delete`.
    #[default]
    Released,
    /// The pool wants it before the first use.
    FirstUse,
    /// A person said so.
    Asked,
}

/// What becomes of a disk that holds data of a claim whose volume is gone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRelease {
    /// It is cleaned, and offered again.
    Wipe,
    /// It is offered again as it is: whoever gets it gets the data.
    Keep,
    /// The disk will not come back: nothing is remembered of it. If it does come back, it counts as one that nobody has seen.
    Forget,
}

/// How far a cleaning has come.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CleanProgress {
    /// The order (`spec.clean.id`).
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub order: String,
    /// Bytes of a device that are done; entries of a file system that were removed.
    pub done: i64,
    /// Bytes of the device; 0 of a file system, whose entries nobody has counted.
    #[serde(default)]
    pub total: i64,
}

/// What an agent found at one entry of a directory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DiskReport {
    /// The pool whose rule it is.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// The class that the rule names.
    #[schemars(length(max = 253))]
    pub storage_class_name: String,
    /// The entry; the directory itself where nothing can be said of its entries.
    #[schemars(length(max = 4096))]
    pub path: String,
    /// It can be a volume.
    pub usable: bool,
    /// Why not, in one word, such as `NotMounted`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What is there.
    #[serde(default)]
    pub kind: DiskKind,
    /// Number of the device, as `major:minor`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The directory of the file system that is mounted; empty for all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub mount_root: String,
    /// What tells it from other disks.
    #[serde(default, skip_serializing_if = "DiskIdentity::is_empty")]
    pub identity: DiskIdentity,
    /// Its size in bytes.
    #[serde(default)]
    pub capacity_bytes: i64,
    /// Type of the file system that is mounted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file_system: String,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Whether it rotates, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// Owner and mode of the root of the file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootOwner>,
}

/// How many entries a report lists: some 400 bytes each, in an object that is written when a disk comes or goes.
pub const LISTED_DISKS: usize = 256;

/// The capacity that a volume of a disk gets: whole GiB from 10 GiB on, whole MiB from 10 MiB on. What a claim asks for is then met
/// by every disk of a kind, although their sizes differ in the last bytes.
#[must_use]
pub const fn rounded_capacity(bytes: i64) -> i64 {
    const MIB: i64 = 1 << 20;
    const GIB: i64 = 1 << 30;
    let unit = if bytes >= 10 * GIB {
        GIB
    } else if bytes >= 10 * MIB {
        MIB
    } else {
        1
    };
    bytes - bytes % unit
}

impl LocalDisk {
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

    /// The name of its volume.
    #[must_use]
    pub fn volume_name(&self) -> &str {
        self.spec.adopted_volume.as_deref().unwrap_or_else(|| self.name())
    }

    /// True once somebody has deleted the object.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// What the agent has said of it last.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.status.as_ref().map_or(Presence::Unknown, |status| status.presence)
    }

    /// True when the agent has carried out the order that stands.
    #[must_use]
    pub fn is_cleaned(&self) -> bool {
        let cleaned = self.status.as_ref().and_then(|status| status.cleaned.as_deref());
        self.spec.clean.as_ref().is_some_and(|order| cleaned == Some(order.id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::rounded_capacity;

    #[test]
    fn capacity_is_rounded_down_to_what_a_person_would_write() {
        let (mib, gib) = (1_i64 << 20, 1_i64 << 30);
        for (bytes, expected) in [
            (0, 0),
            (10 * mib - 1, 10 * mib - 1),
            (10 * mib + 1, 10 * mib),
            (10 * gib - 1, 10 * gib - mib),
            (10 * gib, 10 * gib),
            (11 * gib - 1, 10 * gib),
            (4_000_787_030_016, 3726 * gib),
        ] {
            assert_eq!(rounded_capacity(bytes), expected, "{bytes}");
        }
    }
}
