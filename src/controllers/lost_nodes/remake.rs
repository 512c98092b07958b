//! A claim as it is to be made anew: without its volume, and without what the volume controller and latebind wrote.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ObjectMeta;

/// Annotation of a claim that was made anew: the volume that the one before it had.
pub(super) const UNBOUND_FROM: &str = "latebind.dev/unbound-from";
/// Longest claim that is kept on its volume, in bytes of JSON. A usual one has a few hundred; one that was applied by kubectl twice
/// that.
const MOST_BYTES: usize = 8 << 10;

/// What the new claim is made from; nothing where it would be too large to be kept.
pub(super) fn record(claim: &PersistentVolumeClaim, volume: &str) -> Option<String> {
    let written_by_others = |key: &str| {
        let prefix = key.split('/').next().unwrap_or(key);
        matches!(prefix, "pv.kubernetes.io" | "volume.kubernetes.io" | "volume.beta.kubernetes.io" if key != CLASS)
            || key.starts_with("latebind.dev/selected-node")
            || key == "latebind.dev/gave-up"
    };
    let annotations = claim.metadata.annotations.iter().flatten().filter(|(key, _)| !written_by_others(key));
    let mut annotations: BTreeMap<String, String> =
        annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.insert(UNBOUND_FROM.to_owned(), volume.to_owned());
    let mut spec = claim.spec.clone()?;
    spec.volume_name = None;
    let anew = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: claim.metadata.name.clone(),
            namespace: claim.metadata.namespace.clone(),
            labels: claim.metadata.labels.clone(),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    };
    serde_json::to_string(&anew).ok().filter(|text| text.len() <= MOST_BYTES)
}

/// The class of a claim, which is the user's to say.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The claim that a record stands for; nothing where it is none, or one of another place.
pub(super) fn read(record: &str, namespace: &str, name: &str) -> Option<PersistentVolumeClaim> {
    let claim: PersistentVolumeClaim = serde_json::from_str(record).ok()?;
    let is_it = claim.metadata.namespace.as_deref() == Some(namespace) && claim.metadata.name.as_deref() == Some(name);
    is_it.then_some(claim)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(annotations: &Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({ "metadata": { "name": "data", "namespace": "db", "uid": "u", "resourceVersion": "7",
            "finalizers": ["kubernetes.io/pvc-protection"], "labels": { "app": "pg" }, "annotations": annotations },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "pv-1", "volumeMode": "Filesystem",
                "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "phase": "Bound" } }))
        .unwrap()
    }

    #[test]
    fn it_is_as_its_author_wrote_it() {
        let text = record(
            &claim(
                &json!({ "team": "a", "latebind.dev/drain-policy": "Wait", "volume.beta.kubernetes.io/storage-class": "fast",
                "pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes",
                "volume.kubernetes.io/selected-node": "n", "volume.kubernetes.io/storage-provisioner": "p",
                "volume.beta.kubernetes.io/storage-provisioner": "p", "latebind.dev/selected-node-by": "x" }),
            ),
            "pv-1",
        );
        let anew: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(
            anew["metadata"],
            json!({ "name": "data", "namespace": "db", "labels": { "app": "pg" }, "annotations": { "team": "a",
                "latebind.dev/drain-policy": "Wait", "volume.beta.kubernetes.io/storage-class": "fast",
                "latebind.dev/unbound-from": "pv-1" } })
        );
        assert_eq!(
            anew["spec"],
            json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeMode": "Filesystem",
                "resources": { "requests": { "storage": "1Gi" } } })
        );
    }

    #[test]
    fn one_that_is_too_large_is_not_kept_and_one_of_another_place_is_not_made() {
        assert!(record(&claim(&json!({ "x": "y".repeat(9000) })), "pv-1").is_none());
        let text = record(&claim(&json!({})), "pv-1").unwrap();
        assert!(read(&text, "db", "data").is_some());
        for (text, namespace, name) in
            [(text.as_str(), "db", "other"), (&text, "kube-system", "data"), ("{", "db", "data"), ("{}", "", "")]
        {
            assert!(read(text, namespace, name).is_none(), "{namespace}/{name}");
        }
    }
}
