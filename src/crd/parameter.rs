//! `AdmissionParameter`: what latebind's admission policies know of the cluster.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
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
