//! `PinPolicy`: who may pin Pods to which nodes, and how far latebind goes with those that are.

// A column is an attribute that may be repeated.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many violations a status lists; their number is beside them.
pub const LISTED_VIOLATIONS: usize = 20;

/// Which Pods a policy covers, how far latebind goes with them, and which nodes they may name.
///
/// A Pod is covered when everything holds that is given: its namespace, its labels, the class of one of its claims, and who
/// creates it. What is not given holds for all.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "latebind.dev",
    version = "v1alpha1",
    kind = "PinPolicy",
    plural = "pinpolicies",
    derive = "PartialEq",
    shortname = "pinpol",
    status = "PinPolicyStatus",
    doc = "Who may pin Pods to which nodes by spec.nodeName, and how far latebind goes with those that are pinned.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matchedPods"),
    printcolumn(name = "Violations", type_ = "integer", json_path = ".status.totalViolations"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.pin) || self.mode == 'Rewrite'")
        .message("`pin` says how a Pod is rewritten: give it with mode Rewrite only")
)]
pub struct PinPolicySpec {
    /// How far latebind goes. Of all policies that cover a Pod the strictest wins, and takes the place of `--mode`.
    pub mode: PolicyMode,
    /// The namespaces; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespacesOf>,
    /// The labels of the Pod. Whoever creates a Pod chooses them: to bind somebody, select by namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<Selector>,
    /// Names of StorageClasses, of which at least one claim of the Pod must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    pub storage_classes: Option<Vec<String>>,
    /// Who creates the Pod. Of a workload's Pods that is the workload's controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requesters: Option<RequestersOf>,
    /// The nodes that a covered Pod may name; any where absent. A Pod that names another one is a violation, whatever
    /// its claims are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_nodes: Option<AllowedNodes>,
    /// By what a rewritten Pod is tied to its node; as `--pin` says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinBy>,
    /// The annotation `latebind.dev/ignore` of a covered Pod counts at admission and for the rescue loop.
    #[serde(default)]
    pub allow_ignore: bool,
    /// Whom the policy does not cover, why, and until when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub exceptions: Vec<PolicyException>,
}

/// How far latebind goes with a Pod that names its node, from the least to the most strict.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyMode {
    /// The Pod is left alone.
    Off,
    /// Audit annotations and metrics only.
    Audit,
    /// Warnings as well.
    #[default]
    Warn,
    /// What would wait forever is rewritten where that is safe; all else is warned of.
    Rewrite,
    /// What would wait forever is refused, and so is a Pod that names a node that is not allowed.
    Deny,
}

/// By what a rewritten Pod is tied to its node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinBy {
    /// The hostname label where it alone leads to the node, else the node's name.
    Auto,
    /// The hostname label or not at all.
    Hostname,
    /// The node's name.
    Name,
}

/// Namespaces: those with one of the names, and those with the labels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("give `names` or a `selector`"))]
pub struct NamespacesOf {
    /// Names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub names: Option<Vec<String>>,
    /// Labels of Namespace objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// Nodes: those with one of the names, and those with the labels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.names) || has(self.selector)")
        .message("give `names` or a `selector`; an empty list of names allows no node")
)]
pub struct AllowedNodes {
    /// Names of Node objects. An empty list without a selector allows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 253)))]
    pub names: Option<Vec<String>>,
    /// Labels of Node objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// Requesters: any of these.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.users) || has(self.groups) || has(self.serviceAccounts)")
        .message("give `users`, `groups` or `serviceAccounts`")
)]
pub struct RequestersOf {
    /// Names of users, as the API server knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    pub users: Option<Vec<String>>,
    /// Names of groups, such as `system:serviceaccounts:NAMESPACE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    pub groups: Option<Vec<String>>,
    /// Service accounts, each as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 3, max = 317),
            regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub service_accounts: Option<Vec<String>>,
}

/// Whom a policy does not cover: all that is given must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespaces) || has(self.requesters)")
        .message("say for whom: give `namespaces` or `requesters`")
)]
pub struct PolicyException {
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\p{Cc}]*[^\p{Cc}\s][^\p{Cc}]*$"))]
    pub reason: String,
    /// From this second on the exception counts no more.
    pub expires_at: Time,
    /// Names of namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)))]
    pub namespaces: Option<Vec<String>>,
    /// Who creates the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requesters: Option<RequestersOf>,
}

/// Labels: all of it must hold, and an empty one matches everything.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub match_expressions: Option<Vec<Requirement>>,
}

/// A requirement on a label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
        .message("In and NotIn take values, Exists and DoesNotExist take none")
)]
pub struct Requirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// Values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub values: Option<Vec<String>>,
}

/// What is asked of a label.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It has one of the values.
    In,
    /// It has none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// What the controller sees of a policy among the Pods that wait.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PinPolicyStatus {
    /// The generation of the object that the rest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that name their node, wait for a claim, and are covered.
    #[serde(default)]
    pub matched_pods: i64,
    /// Such Pods of which it is not known whether they are covered, or whether their node is allowed.
    #[serde(default)]
    pub unknown_pods: i64,
    /// Covered Pods that the policy would not admit as they are: they name a node that is not allowed, or the mode is Deny.
    #[serde(default)]
    pub total_violations: i64,
    /// The first 20 of them, by namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub violations: Vec<Violation>,
    /// `Ready`; `ExceptionsExpired` while an exception is past its time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A Pod that a policy would not admit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// Namespace of the Pod.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the Pod.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The node that it names.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Why, in one word: `NodeNotAllowed` or `WaitsForever`.
    #[schemars(length(max = 64))]
    pub reason: String,
}

impl PinPolicy {
    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}
