//! What of an object goes into a dump: only fields that a diagnosis reads.

use serde_json::{Map, Value};

use crate::diagnosis::Field;

/// Metadata that is kept.
const METADATA: [&str; 11] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "generateName",
    "labels",
    "ownerReferences",
    "finalizers",
];
/// Beginnings of annotations that are kept: who made what, and for whom. Those of `kubectl apply` hold whole objects.
const ANNOTATIONS: [&str; 9] = [
    "volume.kubernetes.io/",
    "volume.beta.kubernetes.io/",
    "pv.kubernetes.io/",
    "storageclass.kubernetes.io/",
    "storageclass.beta.kubernetes.io/",
    "storage.alpha.kubernetes.io/",
    "kubernetes.io/config.mirror",
    "scheduler.alpha.kubernetes.io/node-selector",
    "latebind.dev/",
];
/// Fields that are kept of a kind; a kind that is not named is kept whole. A step `*` stands for every item of a list.
const FIELDS: [(&str, &[&str]); 6] = [
    (
        "Pod",
        &[
            "spec.nodeName",
            "spec.nodeSelector",
            "spec.affinity",
            "spec.tolerations",
            "spec.topologySpreadConstraints",
            "spec.schedulerName",
            "spec.schedulingGates",
            "spec.schedulingGroup",
            "spec.workloadRef",
            "spec.priority",
            "spec.priorityClassName",
            "spec.preemptionPolicy",
            "spec.hostNetwork",
            "spec.resourceClaims",
            "spec.volumes.*.name",
            "spec.volumes.*.persistentVolumeClaim",
            "spec.volumes.*.ephemeral.volumeClaimTemplate.spec",
            "spec.containers.*.name",
            "spec.containers.*.resources",
            "spec.containers.*.volumeMounts.*.name",
            "spec.containers.*.volumeDevices.*.name",
            "spec.initContainers.*.name",
            "spec.initContainers.*.resources",
            "spec.initContainers.*.volumeMounts.*.name",
            "spec.initContainers.*.volumeDevices.*.name",
            "spec.ephemeralContainers.*.name",
            "spec.ephemeralContainers.*.volumeMounts.*.name",
            "status.phase",
            "status.reason",
            "status.message",
            "status.conditions",
            "status.startTime",
            "status.resourceClaimStatuses",
        ],
    ),
    (
        "PersistentVolume",
        &[
            "spec.capacity",
            "spec.accessModes",
            "spec.storageClassName",
            "spec.volumeMode",
            "spec.claimRef",
            "spec.nodeAffinity",
            "spec.volumeAttributesClassName",
            "spec.persistentVolumeReclaimPolicy",
            "spec.local",
            "spec.hostPath",
            "spec.csi.driver",
            "spec.awsElasticBlockStore.volumeID",
            "spec.gcePersistentDisk.pdName",
            "spec.cinder.volumeID",
            "status",
        ],
    ),
    (
        "StorageClass",
        &["provisioner", "volumeBindingMode", "allowedTopologies", "reclaimPolicy", "allowVolumeExpansion"],
    ),
    ("Node", &["spec.unschedulable", "spec.taints", "status.allocatable", "status.conditions"]),
    ("PodDisruptionBudget", &["spec.selector", "status.disruptionsAllowed"]),
    ("ResourceClaim", &["status.allocation.nodeSelector", "status.reservedFor"]),
];

/// The object without what a diagnosis does not read.
pub(super) fn cut(kind: &str, object: &Value) -> Value {
    let mut kept = match FIELDS.iter().find(|(known, _)| *known == kind) {
        Some((_, fields)) => {
            let mut kept = Value::Object(Map::new());
            for field in *fields {
                let steps: Vec<&str> = field.split('.').collect();
                copy(object, &mut kept, &steps);
            }
            // An allocation without a selector is one all the same.
            if kind == "ResourceClaim" && object.pointer("/status/allocation").is_some_and(Value::is_object) {
                entry(entry(&mut kept, "status"), "allocation");
            }
            kept
        }
        None if kind == "ResourceClaimTemplate" => Value::Object(Map::new()),
        None => object.clone(),
    };
    for key in ["apiVersion", "kind"] {
        if let (Some(found), Some(kept)) = (object.get(key), kept.as_object_mut()) {
            kept.insert(key.to_owned(), found.clone());
        }
    }
    if let (Some(metadata), Some(kept)) = (object.get("metadata"), kept.as_object_mut()) {
        kept.insert("metadata".to_owned(), metadata_of(metadata));
    }
    kept
}

fn metadata_of(metadata: &Value) -> Value {
    let mut kept = Map::new();
    for key in METADATA {
        if let Some(found) = metadata.get(key) {
            kept.insert(key.to_owned(), found.clone());
        }
    }
    let is_kept = |key: &str| ANNOTATIONS.iter().any(|known| key.starts_with(known));
    let annotations = metadata.get("annotations").and_then(Value::as_object).into_iter().flatten();
    let annotations: Map<String, Value> =
        annotations.filter(|(key, _)| is_kept(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    if !annotations.is_empty() {
        kept.insert("annotations".to_owned(), Value::Object(annotations));
    }
    let writers = metadata.get("managedFields").and_then(Value::as_array).into_iter().flatten();
    let writers: Vec<Value> = writers.filter_map(writer).collect();
    if !writers.is_empty() {
        kept.insert("managedFields".to_owned(), Value::Array(writers));
    }
    Value::Object(kept)
}

/// An entry of the API server's account, with those fields of which it is told who wrote them.
fn writer(entry: &Value) -> Option<Value> {
    let fields = entry.get("fieldsV1")?;
    let mut kept = Value::Object(Map::new());
    for field in Field::ALL {
        let steps = field.steps();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        copy(fields, &mut kept, &steps);
    }
    if kept.as_object().is_none_or(Map::is_empty) {
        return None;
    }
    let mut entry = entry.clone();
    entry["fieldsV1"] = kept;
    Some(entry)
}

/// Copies what stands at a path, if anything does.
fn copy(from: &Value, to: &mut Value, steps: &[&str]) {
    match steps {
        [] => to.clone_from(from),
        ["*", rest @ ..] => {
            let Some(items) = from.as_array() else { return };
            if !to.is_array() {
                *to = Value::Array(Vec::new());
            }
            let Some(kept) = to.as_array_mut() else { return };
            kept.resize(items.len(), Value::Object(Map::new()));
            for (item, kept) in items.iter().zip(kept) {
                copy(item, kept, rest);
            }
        }
        [step, rest @ ..] => {
            if let Some(found) = from.get(*step).filter(|found| !found.is_null()) {
                copy(found, entry(to, step), rest);
            }
        }
    }
}

/// The value of a key, made if it is not there.
fn entry<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    if !object.is_object() && !object.is_array() {
        *object = Value::Object(Map::new());
    }
    match object {
        Value::Object(object) => object.entry(key).or_insert_with(|| Value::Object(Map::new())),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_secret_is_left_out() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "uid": "u", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hidden",
                "vault.example/token": "hidden", "latebind.dev/original-node-name": "n"},
                "managedFields": [
                    {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:nodeName": {}, "f:hidden": {}}}},
                    {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:hidden": {}}}}]},
            "spec": {"nodeName": "n", "serviceAccountName": "hidden",
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "s", "secret": {"secretName": "hidden"}}],
                "containers": [{"name": "m", "image": "hidden", "command": ["hidden"], "args": ["hidden"],
                    "env": [{"name": "A", "value": "hidden"}], "volumeMounts": [{"name": "v", "mountPath": "/hidden"}]}]},
            "status": {"phase": "Pending", "podIP": "hidden"}});
        let kept = cut("Pod", &pod);
        assert!(!kept.to_string().contains("hidden"), "{kept:#}");
        assert_eq!(kept["spec"]["volumes"][0], json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}));
        assert_eq!(kept["spec"]["volumes"][1], json!({"name": "s"}));
        assert_eq!(kept["spec"]["containers"][0]["volumeMounts"], json!([{"name": "v"}]));
        assert_eq!(kept["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:spec": {"f:nodeName": {}}}));
        assert_eq!(kept["metadata"]["annotations"], json!({"latebind.dev/original-node-name": "n"}));
        let class = json!({"metadata": {"name": "c"}, "provisioner": "p", "parameters": {"key": "hidden"}});
        assert_eq!(cut("StorageClass", &class), json!({"metadata": {"name": "c"}, "provisioner": "p"}));
        let volume =
            json!({"metadata": {"name": "v"}, "spec": {"csi": {"driver": "d", "volumeAttributes": {"a": "hidden"}}}});
        assert_eq!(cut("PersistentVolume", &volume)["spec"], json!({"csi": {"driver": "d"}}));
        let claim = json!({"metadata": {"name": "g"}, "spec": {"devices": "hidden"}, "status": {"allocation": {"devices": "hidden"}}});
        assert_eq!(cut("ResourceClaim", &claim)["status"], json!({"allocation": {}}));
    }
}
