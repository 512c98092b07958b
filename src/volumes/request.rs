//! What a claim may ask for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::model::{Claim, DataSource, Text};

/// Why a claim gets no volume from us, however long it waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A block device.
    #[error("volumeMode {0} is not served, only Filesystem")]
    VolumeMode(String),
    /// No access mode, or one that a directory on one node cannot give.
    #[error("accessMode {0} is not served: a local volume is on one node, use ReadWriteOnce or ReadWriteOncePod")]
    AccessMode(String),
    /// An access mode of many nodes, which a class grants to Pods of one node if it says so.
    #[error(
        "accessMode {0} is not served: a local volume is on one node, use ReadWriteOnce or ReadWriteOncePod, or a class with parameter \
         `sharedOnNode: \"true\"`, whose volumes all Pods of that node share, or `sharedFileSystem: \"true\"` where its path is the same on \
         every node"
    )]
    Shared(String),
    /// A selector picks among volumes that exist.
    #[error("a claim with spec.selector is not provisioned for: remove the selector")]
    Selector,
    /// The volume would be handed out empty.
    #[error("a volume cannot be filled from a {0}: remove dataSource and dataSourceRef")]
    DataSource(String),
    /// A size of nothing or less.
    #[error("the requested size is not a number of bytes above zero")]
    Size,
}

/// Why the claim is refused; nothing when it can be served. `shared` is what its class says of access by many.
#[must_use]
pub fn refusal(claim: &Claim, shared: bool) -> Option<Refusal> {
    let spec = &claim.spec;
    if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !matches!(*mode, "" | "Filesystem")) {
        return Some(Refusal::VolumeMode(mode.to_owned()));
    }
    let of_many = |mode: &Text| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany");
    if let Some(mode) = spec.access_modes.iter().find(|mode| of_many(mode)).filter(|_| !shared) {
        return Some(Refusal::Shared(mode.to_string()));
    }
    let served = |mode: &Text| of_many(mode) || matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if let Some(mode) = spec.access_modes.iter().find(|mode| !served(mode)) {
        return Some(Refusal::AccessMode(mode.to_string()));
    }
    if spec.access_modes.is_empty() {
        return Some(Refusal::AccessMode("(none)".to_owned()));
    }
    // One without requirements picks among all, and leaves nothing out.
    let picks = |selector: &LabelSelector| {
        selector.match_labels.as_ref().is_some_and(|labels| !labels.is_empty())
            || selector.match_expressions.as_ref().is_some_and(|expressions| !expressions.is_empty())
    };
    if spec.selector.as_deref().is_some_and(picks) {
        return Some(Refusal::Selector);
    }
    if let Some(source) = source(claim).filter(|source| COPIED.contains(&source.kind.as_str())) {
        return Some(Refusal::DataSource(source.kind.to_string()));
    }
    if bytes(claim).is_none() {
        return Some(Refusal::Size);
    }
    None
}

/// Kinds that a provisioner itself fills a volume from. All others are for populators.
/// Source: `volume-data-source-validator`; a populator makes a claim of its own for the same class and hands its volume over.
const COPIED: [&str; 2] = ["PersistentVolumeClaim", "VolumeSnapshot"];

fn source(claim: &Claim) -> Option<&DataSource> {
    claim.spec.data_source_ref.as_ref().or(claim.spec.data_source.as_ref())
}

/// True for a claim that gets its volume from a populator: until then there is nothing to do, nor to complain of.
#[must_use]
pub fn waits_for_populator(claim: &Claim) -> bool {
    source(claim).is_some_and(|source| !COPIED.contains(&source.kind.as_str()))
}

/// The requested size in bytes, if it is one.
#[must_use]
pub fn bytes(claim: &Claim) -> Option<i64> {
    i64::try_from(claim.request().units()).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(change: &serde_json::Value) -> Option<Refusal> {
        outcome_where(change, false)
    }

    fn outcome_where(change: &serde_json::Value, shared: bool) -> Option<Refusal> {
        let mut spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        refusal(&serde_json::from_value(json!({ "metadata": { "name": "c" }, "spec": spec })).unwrap(), shared)
    }

    #[test]
    fn what_one_directory_on_one_node_can_be_is_served() {
        assert_eq!(outcome(&json!({})), None);
        assert_eq!(outcome(&json!({ "volumeMode": "Filesystem", "accessModes": ["ReadWriteOncePod"] })), None);
    }

    #[test]
    fn a_class_may_share_its_volumes_among_pods_of_one_node() {
        for modes in [json!(["ReadWriteMany"]), json!(["ReadOnlyMany"]), json!(["ReadWriteOnce", "ReadWriteMany"])] {
            assert_eq!(outcome_where(&json!({ "accessModes": modes }), true), None, "{modes}");
            let refused = outcome_where(&json!({ "accessModes": modes }), false).unwrap();
            assert!(refused.to_string().contains("sharedOnNode"), "{refused}");
        }
        for modes in [json!([]), json!(["ReadWriteAll"])] {
            assert!(outcome_where(&json!({ "accessModes": modes }), true).is_some(), "{modes}");
        }
    }

    #[test]
    fn a_selector_that_selects_nothing_is_no_selector() {
        for selector in
            [json!({}), json!({ "matchLabels": {} }), json!({ "matchLabels": null, "matchExpressions": [] })]
        {
            assert_eq!(outcome(&json!({ "selector": selector })), None, "{selector}");
        }
    }

    #[test]
    fn a_populator_is_waited_for() {
        let waits = |kind: &str| {
            let claim =
                json!({ "metadata": { "name": "c" }, "spec": { "dataSourceRef": { "kind": kind, "name": "s" } } });
            waits_for_populator(&serde_json::from_value(claim).unwrap())
        };
        assert!(waits("VirtualMachineImage") && waits("Hello"));
        assert!(!waits("VolumeSnapshot") && !waits("PersistentVolumeClaim"));
        assert_eq!(outcome(&json!({ "dataSourceRef": { "kind": "Hello", "name": "s" } })), None);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (change, word) in [
            (json!({ "volumeMode": "Block" }), "Block"),
            (json!({ "accessModes": ["ReadWriteOnce", "ReadWriteMany"] }), "ReadWriteMany"),
            (json!({ "accessModes": ["ReadOnlyMany"] }), "ReadOnlyMany"),
            (json!({ "accessModes": [] }), "none"),
            (json!({ "selector": { "matchLabels": { "a": "b" } } }), "selector"),
            (json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Exists" }] } }), "selector"),
            (json!({ "dataSource": { "kind": "VolumeSnapshot", "name": "s" } }), "VolumeSnapshot"),
            (json!({ "dataSourceRef": { "kind": "PersistentVolumeClaim", "name": "s" } }), "PersistentVolumeClaim"),
            (json!({ "resources": {} }), "size"),
            (json!({ "resources": { "requests": { "storage": "-1" } } }), "size"),
        ] {
            let refused = outcome(&change).unwrap_or_else(|| panic!("{change} was not refused"));
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }
}
