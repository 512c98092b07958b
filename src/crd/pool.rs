//! `LocalPool`: which nodes offer which directories.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DiskRule, DrainPolicy};
use crate::model::selector;
use crate::model::{CONTROL_PLANE, Node};

/// Which nodes offer which base paths, and how volumes are spread over them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "LocalPool",
    derive = "PartialEq",
    shortname = "lpool",
    status = "LocalPoolStatus",
    doc = "Which nodes offer which directories for local volumes.",
    printcolumn(name = "Placement", type_ = "string", json_path = ".spec.placement"),
    printcolumn(name = "Room", type_ = "string", json_path = ".spec.room"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodes.filter(n, !has(n.names) && !has(n.selector)).size() <= 1")
        .message("only one entry may stand for all other nodes: give the others `names` or a `selector`")
)]
pub struct LocalPoolSpec {
    /// Which nodes offer what. An entry that names the node wins, then the first whose selector matches it, then the
    /// entry with neither. A node without an entry, or with one without paths, gets no volumes.
    #[schemars(length(min = 1, max = 128))]
    pub nodes: Vec<PoolNodes>,
    /// How a path is chosen on a node that offers several.
    #[serde(default)]
    pub placement: Placement,
    /// What a claim's size is held against.
    #[serde(default)]
    pub room: Room,
    /// What the eviction of a Pod does that leaves a volume of the pool behind. It is written onto the volumes that are made
    /// from then on (annotation latebind.dev/drain-policy), where it can be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_policy: Option<DrainPolicy>,
}

/// What the controller found out about a pool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalPoolStatus {
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The paths of some nodes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.names) && has(self.selector))").message("give `names` or a `selector`, not both")
)]
pub struct PoolNodes {
    /// Names of Node objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), inner(length(min = 1, max = 253)))]
    pub names: Option<Vec<String>>,
    /// Labels of Node objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The directories, on each of these nodes. None means that these nodes get no volumes.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub paths: Vec<PoolPath>,
    /// Disks of these nodes that become volumes, each as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub discover: Vec<DiskRule>,
}

/// One directory in which volumes are made.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolPath {
    /// Absolute path. It must lie beneath one that the agents mount (chart value `agent.basePaths`).
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^(/([^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+))+$"))]
    pub path: String,
    /// Only use the path while a file system of its own is mounted there. Without it a disk that was not mounted at
    /// boot would silently put volumes onto the root disk.
    #[serde(default)]
    pub require_mount: bool,
}

/// How a path is chosen among several.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The path whose file system has the most free bytes, less what is promised to volumes that are being made.
    #[default]
    MostFree,
    /// The path with the fewest volumes.
    RoundRobin,
}

/// What the size of a claim is held against. Sizes are not enforced on the directory itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// The claim must fit into what is free on the file system now.
    #[default]
    Free,
    /// The sizes of all volumes together must fit into the file system.
    Reserve,
    /// Nothing: any size is accepted.
    Ignore,
}

impl LocalPoolSpec {
    /// The paths that the pool offers on a node; none when it has no entry for it.
    #[must_use]
    pub fn paths_on(&self, node: &Node) -> &[PoolPath] {
        self.entry_of(node).map_or(&[], |entry| &entry.paths)
    }

    /// The rules by which disks of a node become volumes; none when the pool has no entry for it.
    #[must_use]
    pub fn disk_rules_on(&self, node: &Node) -> &[DiskRule] {
        self.entry_of(node).map_or(&[], |entry| &entry.discover)
    }

    /// True when the entry of a node of the control plane means it: it has the node's name, or a selector that asks for the
    /// control plane. One that stands for all nodes, or selects by something else, does not.
    #[must_use]
    pub fn names(&self, node: &Node) -> bool {
        let asks_for = |selector: &LabelSelector| {
            let labels = selector.match_labels.iter().flatten().map(|(key, _)| key);
            let wanted = selector.match_expressions.iter().flatten();
            let present = wanted.filter(|wanted| matches!(wanted.operator.as_str(), "In" | "Exists"));
            labels.chain(present.map(|wanted| &wanted.key)).any(|key| CONTROL_PLANE.contains(&key.as_str()))
        };
        self.entry_of(node).is_some_and(|entry| entry.names.is_some() || entry.selector.as_ref().is_some_and(asks_for))
    }

    /// The one node that the pool names; nothing where it has several entries, or one that is about other nodes too.
    #[must_use]
    pub fn serving_node(&self) -> Option<&str> {
        match self.nodes.as_slice() {
            [PoolNodes { names: Some(names), selector: None, .. }] => match names.as_slice() {
                [name] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    fn entry_of(&self, node: &Node) -> Option<&PoolNodes> {
        let named = self
            .nodes
            .iter()
            .find(|entry| entry.names.as_ref().is_some_and(|names| names.iter().any(|name| name == node.name())));
        let labels = selector::labels(node.metadata.labels.as_ref());
        let selected = || {
            let matches = |wanted: &LabelSelector| selector::label_selector_matches(wanted, labels);
            self.nodes.iter().find(|entry| entry.selector.as_ref().is_some_and(matches))
        };
        let rest = || self.nodes.iter().find(|entry| entry.names.is_none() && entry.selector.is_none());
        named.or_else(selected).or_else(rest)
    }
}
