//! Builders of Kubernetes objects. Each gives the least that the API server takes; [`with`] adds what a test is about.

use latebind_cluster::image::BUSYBOX;
use serde_json::{Value, json};

/// The annotation that orders a volume for a node.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// What a class names whose volumes exist beforehand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A class whose claims wait for their first consumer.
pub fn class(name: &str, provisioner: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// A claim of a class, of this size.
pub fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": claim_spec(class, size),
    })
}

/// What such a claim asks for: also the template of an ephemeral volume.
pub fn claim_spec(class: &str, size: &str) -> Value {
    json!({
        "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": size } },
    })
}

/// A claim whose volume is ordered for a node.
pub fn selected(claim: Value, node: &str) -> Value {
    with(claim, &json!({ "metadata": { "annotations": { SELECTED_NODE: node } } }))
}

/// A volume of a Pod, called like the claim that it is.
pub fn of_claim(claim: &str) -> Value {
    named(claim, claim)
}

/// A volume of a Pod that is a claim.
pub fn named(volume: &str, claim: &str) -> Value {
    json!({ "name": volume, "persistentVolumeClaim": { "claimName": claim } })
}

/// A Pod that mounts each of the volumes at `/NAME`. Its image is nowhere.
pub fn pod(name: &str, volumes: &[Value]) -> Value {
    let mounts: Vec<Value> = volumes
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .map(|volume| json!({ "name": volume, "mountPath": format!("/{volume}") }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "containers": [{ "name": "main", "image": "none.invalid/none", "volumeMounts": mounts }],
            "volumes": volumes,
        },
    })
}

/// The Pod, naming its node.
pub fn on_node(pod: Value, node: &str) -> Value {
    with(pod, &json!({ "spec": { "nodeName": node } }))
}

/// The Pod, left to the scheduler and tied to a node by its name.
pub fn pinned_to(pod: Value, node: &str) -> Value {
    with(
        pod,
        &json!({ "spec": { "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }],
        } } } } }),
    )
}

/// The Pod, able to run on a real node: its first container runs a script of busybox, and ends at once when told.
pub fn running(mut pod: Value, script: &str) -> Value {
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!(BUSYBOX);
    container["imagePullPolicy"] = json!("Never");
    container["command"] = json!(["/bin/sh", "-c", script]);
    pod
}

/// A volume that only one node can reach, known by its hostname, and that stays when its claim goes.
pub fn volume(name: &str, class: &str, node: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": {
            "storageClassName": class, "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "local": { "path": format!("/mnt/{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] },
            ] }] } },
        },
    })
}

/// The object, changed as [`merge`] does.
pub fn with(mut object: Value, change: &Value) -> Value {
    merge(&mut object, change);
    object
}

/// Mappings merge field by field; everything else, `null` and lists too, stands for what was there.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
