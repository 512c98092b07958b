//! What a claim may ask for.

use crate::model::{Claim, Text};

/// Why a claim gets no volume from us, however long it waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A block device.
    #[error("volumeMode {0} is not served, only Filesystem")]
    VolumeMode(String),
    /// No access mode, or one that a directory on one node cannot give.
    #[error("accessMode {0} is not served: a local volume is on one node, use ReadWriteOnce or ReadWriteOncePod")]
    AccessMode(String),
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

/// Why the claim is refused; nothing when it can be served.
#[must_use]
pub fn refusal(claim: &Claim) -> Option<Refusal> {
    let spec = &claim.spec;
    if let Some(mode) = spec.volume_mode.as_deref().filter(|mode| !matches!(*mode, "" | "Filesystem")) {
        return Some(Refusal::VolumeMode(mode.to_owned()));
    }
    let served = |mode: &Text| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if let Some(mode) = spec.access_modes.iter().find(|mode| !served(mode)) {
        return Some(Refusal::AccessMode(mode.to_string()));
    }
    if spec.access_modes.is_empty() {
        return Some(Refusal::AccessMode("(none)".to_owned()));
    }
    if spec.selector.is_some() {
        return Some(Refusal::Selector);
    }
    if let Some(source) = spec.data_source_ref.as_ref().or(spec.data_source.as_ref()) {
        return Some(Refusal::DataSource(source.kind.to_string()));
    }
    if bytes(claim).is_none() {
        return Some(Refusal::Size);
    }
    None
}

/// The requested size in bytes, if it is one.
#[must_use]
pub(crate) fn bytes(claim: &Claim) -> Option<i64> {
    i64::try_from(claim.request().units()).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(change: &serde_json::Value) -> Option<Refusal> {
        let mut spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        refusal(&serde_json::from_value(json!({ "metadata": { "name": "c" }, "spec": spec })).unwrap())
    }

    #[test]
    fn what_one_directory_on_one_node_can_be_is_served() {
        assert_eq!(outcome(&json!({})), None);
        assert_eq!(outcome(&json!({ "volumeMode": "Filesystem", "accessModes": ["ReadWriteOncePod"] })), None);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (change, word) in [
            (json!({ "volumeMode": "Block" }), "Block"),
            (json!({ "accessModes": ["ReadWriteOnce", "ReadWriteMany"] }), "ReadWriteMany"),
            (json!({ "accessModes": ["ReadOnlyMany"] }), "ReadOnlyMany"),
            (json!({ "accessModes": [] }), "none"),
            (json!({ "selector": {} }), "selector"),
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
