//! `AdmissionParameter`: what latebind's admission policies know of the cluster.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pin_policy::{NamespacesOf, PinBy, PolicyMode, RequestersOf, Selector};

/// The name of the one parameter.
pub const PARAMETER: &str = "latebind";
/// Condition of an [`AdmissionParameter`]: everything that it is to hold fits into it.
pub const COMPLETE: &str = "Complete";
/// Stands for every node among [`AdmissionParameterSpec::repelled`]. No Node can have the name.
pub const EVERY_NODE: &str = "*";

/// Names, each of which is there or not: a mapping, since an expression finds a key of it at the same cost however many
/// there are.
pub type Names = BTreeMap<String, bool>;

/// What the controller tells the admission policies: they see the Pod and this, and no other object.
///
/// What is not listed is not known to them, and a Pod that names it is left alone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "AdmissionParameter",
    derive = "PartialEq",
    status = "AdmissionParameterStatus",
    doc = "What latebind's admission policies know of the cluster. The controller writes it.",
    validation = Rule::new("self.metadata.name == 'latebind'").message("there is one, named latebind"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Complete", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionParameterSpec {
    /// What is done about a Pod that would wait forever: audit, warn, rewrite or deny.
    #[schemars(length(max = 16))]
    pub mode: String,
    /// Schedulers that bind volumes.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub schedulers: Vec<String>,
    /// By namespace, the claims that wait for the scheduler and that it could have bound on any of the nodes below.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic", "maxProperties" = 8192))]
    pub claims: BTreeMap<String, Names>,
    /// The classes whose claims wait so: for ephemeral volumes, whose claims are made after their Pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic", "maxProperties" = 1024))]
    pub classes: Names,
    /// The one among them that is the default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub default_class: Option<String>,
    /// Nodes on which the scheduler could place a Pod that asks for nothing else, each with the value of its label
    /// kubernetes.io/hostname, which no other node has; nothing where that is the node's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic", "maxProperties" = 16384))]
    pub nodes: BTreeMap<String, String>,
    /// By namespace, nodes from which the required anti-affinity of others may keep its Pods; `*` is every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic", "maxProperties" = 8192))]
    pub repelled: BTreeMap<String, Names>,
    /// The PinPolicies, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic", "maxItems" = 64))]
    pub policies: Vec<ParameterPolicy>,
    /// By node, for each selector of the policies' allowed nodes a letter at its `place`: 1 where the node has the labels,
    /// else 0. Of a node that is not listed that is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic", "maxProperties" = 16384))]
    pub node_matches: BTreeMap<String, String>,
}

/// What the admission policies know of a PinPolicy: what they cannot evaluate is left out, or said in a word.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParameterPolicy {
    /// The policy's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// How far it goes.
    pub mode: PolicyMode,
    /// The namespaces; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespacesOf>,
    /// The labels of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<Selector>,
    /// Who creates the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requesters: Option<RequestersOf>,
    /// It is about the classes of claims, which an expression does not see: whether it covers a Pod is not known.
    #[serde(default)]
    pub of_classes: bool,
    /// The nodes that a Pod may name; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_nodes: Option<ParameterNodes>,
    /// By what a rewritten Pod is tied to its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinBy>,
    /// The annotation `latebind.dev/ignore` counts.
    #[serde(default)]
    pub allow_ignore: bool,
    /// Whom it does not cover, and until when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub exceptions: Vec<ParameterException>,
}

/// Nodes that a policy allows.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParameterNodes {
    /// Names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    pub names: Vec<String>,
    /// The place of its selector in `nodeMatches`; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<i32>,
}

/// Whom a policy does not cover: all that is given must hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ParameterException {
    /// From this second on it counts no more.
    pub expires_at: Time,
    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub namespaces: Option<Vec<String>>,
    /// Who creates the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requesters: Option<RequestersOf>,
}

/// What the controller says of it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionParameterStatus {
    /// `Complete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
