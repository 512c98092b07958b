//! From a case to objects that an API server takes, with names that no other case uses.

use std::collections::{BTreeMap, BTreeSet};

use latebind::binding::{PodVerdict, Rules, decide_pod};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::model::Pod;
use serde_json::{Value, json};

use latebind_test_support::cases::{Case, View, group_and_kind};

/// A case's objects under names of its own, and what the engine says of exactly these.
pub struct Built {
    pub file: String,
    pub namespace: String,
    /// In the order in which they are created; the Pod is not among them.
    pub objects: Vec<Value>,
    pub pod: Value,
    pub verdict: PodVerdict,
}

/// Objects outside of namespaces whose names must not meet those of other cases.
const CLUSTER_SCOPED: [&str; 5] = ["Node", "PersistentVolume", "StorageClass", "CSIDriver", "CSINode"];
/// The longest name that still has room for a prefix.
const LONGEST_NAME: usize = 50;

/// Builds a copy of the case, or says why that cannot be done.
pub fn build(file: &str, case: &Case, place: usize, copy: &str) -> Result<Built, &'static str> {
    let pod = case.pod.clone().ok_or("decides about a workload or a claim")?;
    if matches!(case.view, View::Manifests) {
        return Err("is about what manifests leave open");
    }
    if let Some(reason) = case.objects.iter().chain([&pod]).find_map(unbuildable) {
        return Err(reason);
    }
    let namespace = format!("agreement-{copy}{place}");
    let names = names(&case.objects, &pod);
    if names.iter().any(|name| name.len() > LONGEST_NAME) {
        return Err("has names too long for a prefix");
    }
    let renamed = |value: &Value| {
        let mut value = value.clone();
        rename(&mut value, &names, &format!("{copy}{place}-"));
        in_namespace(&mut value, &namespace);
        value
    };
    if has_foreign_claim(&case.objects, &pod) {
        return Err("has an ephemeral volume whose claim belongs to another: the Pod waits either way");
    }
    let mut pod = renamed(&pod);
    admissible(&mut pod);
    let objects: Vec<Value> = case.objects.iter().map(renamed).collect();
    let devices = devices(&objects);
    let rules = Rules { pin: case.pin().parse().map_err(|_| "pins in an unknown way")?, ..Rules::default() };
    let rules = Rules { schedulers: case.schedulers().unwrap_or(rules.schedulers.clone()), ..rules };
    let verdict = decide(&objects, &pod, &rules)?;
    let uids: BTreeSet<String> =
        objects.iter().filter_map(|it| it["metadata"]["uid"].as_str().map(str::to_owned)).collect();
    let mut objects: Vec<Value> = objects.into_iter().map(|object| stored(object, &uids)).chain(devices).collect();
    // Volumes before claims, so that a claim which names its volume does not find it missing.
    objects.sort_by_key(|object| group_and_kind(object).1 == "PersistentVolumeClaim");
    Ok(Built { file: file.to_owned(), namespace, objects, pod, verdict })
}

/// What the driver of a case's devices publishes: a class, and some devices of it on each Node, whichever the case is about.
fn devices(objects: &[Value]) -> Vec<Value> {
    let classes: BTreeSet<String> = objects.iter().flat_map(device_classes).collect();
    let nodes = || objects.iter().filter(|object| group_and_kind(object).1 == "Node");
    let slice = |driver: &str, node: &Value| {
        let node = &node["metadata"]["name"];
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": { "name": format!("{driver}-{}", node.as_str().unwrap_or_default()) },
            "spec": { "driver": driver, "nodeName": node, "devices": [{ "name": "one" }, { "name": "two" }],
                "pool": { "name": node, "generation": 1, "resourceSliceCount": 1 } },
        })
    };
    let of_class = |driver: &String| {
        let class = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": { "name": driver },
            "spec": { "selectors": [{ "cel": { "expression": format!("device.driver == {driver:?}") } }] },
        });
        std::iter::once(class).chain(nodes().map(|node| slice(driver, node))).collect::<Vec<_>>()
    };
    classes.iter().flat_map(of_class).collect()
}

/// The classes that a ResourceClaim or its template asks for. In the cases a driver has the name of its class.
fn device_classes(object: &Value) -> Vec<String> {
    let requests = ["/spec/devices/requests", "/spec/spec/devices/requests"];
    let requests = requests.iter().filter_map(|path| object.pointer(path)?.as_array()).flatten();
    requests.filter_map(|request| Some(request.pointer("/exactly/deviceClassName")?.as_str()?.to_owned())).collect()
}

fn decide(objects: &[Value], pod: &Value, rules: &Rules) -> Result<PodVerdict, &'static str> {
    let mut facts = Facts::new(Unlisted::Absent);
    for object in objects {
        let (group, kind) = group_and_kind(object);
        facts.add(Fact::read(group, kind, object).ok_or("has an unknown kind")?.map_err(|_| "does not read")?);
    }
    let pod: Pod = serde_json::from_value(pod.clone()).map_err(|_| "has a Pod that does not read")?;
    Ok(decide_pod(&pod, &facts, rules))
}

fn has_foreign_claim(objects: &[Value], pod: &Value) -> bool {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let ephemeral =
        pod["spec"]["volumes"].as_array().into_iter().flatten().filter(|volume| volume["ephemeral"].is_object());
    let names: Vec<String> =
        ephemeral.map(|volume| format!("{pod_name}-{}", volume["name"].as_str().unwrap_or_default())).collect();
    let claims = objects.iter().filter(|object| group_and_kind(object).1 == "PersistentVolumeClaim");
    claims.filter_map(|claim| claim["metadata"]["name"].as_str()).any(|name| names.iter().any(|own| own == name))
}

fn unbuildable(object: &Value) -> Option<&'static str> {
    let metadata = &object["metadata"];
    let (_, kind) = group_and_kind(object);
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    let annotation = |key: &str| metadata["annotations"].get(key).is_some();
    if !metadata["deletionTimestamp"].is_null() {
        return Some("holds an object that is being deleted");
    }
    match (kind, phase) {
        ("PersistentVolumeClaim", "Lost") => return Some("holds a lost claim"),
        ("PersistentVolume", phase)
            if !["", "Available", "Bound"].contains(&phase) || (phase.is_empty() && !metadata["uid"].is_null()) =>
        {
            return Some("holds a volume in a phase that only time brings");
        }
        ("Namespace", _) => return Some("is about a namespace's annotation, which needs an admission plugin"),
        ("StorageClass", _) if annotation("storageclass.kubernetes.io/is-default-class") => {
            return Some("has a default class, which other cases would get too");
        }
        ("Pod", _) if !object["spec"]["priority"].is_null() || !object["spec"]["priorityClassName"].is_null() => {
            return Some("has a priority, which the API server resolves itself");
        }
        ("Pod", _) if object["spec"]["schedulerName"].as_str().is_some_and(|name| name != "default-scheduler") => {
            return Some("names a scheduler that does not run here");
        }
        ("Pod", _) if !object["status"]["resourceClaimStatuses"].is_null() => {
            return Some("has a Pod whose ResourceClaim was made before it");
        }
        ("ResourceClaim", _) if !object["status"]["reservedFor"].is_null() => {
            return Some("holds a ResourceClaim that is reserved for Pods which do not exist");
        }
        _ => {}
    }
    None
}

/// Names that must become the case's own: of objects outside of namespaces, of provisioners, of host names.
fn names(objects: &[Value], pod: &Value) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut add = |value: &Value| names.extend(value.as_str().filter(|name| !name.is_empty()).map(str::to_owned));
    for object in objects {
        let (_, kind) = group_and_kind(object);
        if CLUSTER_SCOPED.contains(&kind) {
            add(&object["metadata"]["name"]);
        }
        for class in device_classes(object) {
            add(&json!(class));
        }
        add(&object["metadata"]["labels"]["kubernetes.io/hostname"]);
        add(&object["spec"]["storageClassName"]);
        add(&object["spec"]["csi"]["driver"]);
        add(&object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]);
        add(&object["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]);
        if object["provisioner"] != "kubernetes.io/no-provisioner" {
            add(&object["provisioner"]);
        }
    }
    add(&pod["spec"]["nodeName"]);
    names
}

fn rename(value: &mut Value, names: &BTreeSet<String>, prefix: &str) {
    match value {
        Value::String(text) if names.contains(text) => text.insert_str(0, prefix),
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, names, prefix)),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| {
            // A volume or container of the Pod may be called like a class.
            if key != "image" && key != "kind" {
                rename(value, names, prefix);
            }
        }),
        _ => {}
    }
}

fn in_namespace(object: &mut Value, namespace: &str) {
    let (_, kind) = group_and_kind(object);
    if !CLUSTER_SCOPED.contains(&kind) {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if let Some(claim) = object["spec"].get_mut("claimRef") {
        claim["namespace"] = json!(namespace);
    }
}

/// What an API server adds or asks for and a case leaves out.
fn admissible(pod: &mut Value) {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("uid");
        metadata.remove("creationTimestamp");
    }
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    for list in ["containers", "initContainers"] {
        for (place, container) in pod["spec"][list].as_array_mut().into_iter().flatten().enumerate() {
            container["image"] = json!("registry.invalid/none");
            if container["name"].is_null() {
                container["name"] = json!(format!("c{place}"));
            }
        }
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("ephemeralContainers");
        spec.retain(|_, value| !value.is_null());
    }
}

/// The object as a client creates it: without what only the cluster writes.
fn stored(mut object: Value, uids: &BTreeSet<String>) -> Value {
    let (_, kind) = group_and_kind(&object);
    let kind = kind.to_owned();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("uid");
        metadata.remove("creationTimestamp");
        metadata.remove("ownerReferences");
    }
    match kind.as_str() {
        "PersistentVolumeClaim" => drop(object.as_object_mut().map(|fields| fields.remove("status"))),
        "PersistentVolume" => complete_volume(&mut object, uids),
        "Node" => complete_node(&mut object),
        "Pod" => admissible(&mut object),
        _ => {}
    }
    object
}

fn complete_volume(volume: &mut Value, uids: &BTreeSet<String>) {
    if let Some(fields) = volume.as_object_mut() {
        fields.remove("status");
    }
    let spec = &mut volume["spec"];
    let sources = ["local", "hostPath", "csi", "nfs", "awsElasticBlockStore", "gcePersistentDisk", "cinder"];
    if !sources.iter().any(|source| spec.get(source).is_some()) {
        spec["hostPath"] = json!({ "path": "/nowhere" });
    }
    spec["persistentVolumeReclaimPolicy"] = json!("Retain");
    // The real UID of a claim of the case is not known yet, and none means "whoever has the name". That of a claim that is
    // gone stays as it is.
    if let Some(reference) = spec.get_mut("claimRef").and_then(Value::as_object_mut)
        && reference.get("uid").and_then(Value::as_str).is_some_and(|uid| uids.contains(uid))
    {
        reference.remove("uid");
    }
}

/// A node that offers room, and whose condition stands in its taints as the node lifecycle would write it.
fn complete_node(node: &mut Value) {
    let allocatable = node["status"]["allocatable"].as_object().cloned().unwrap_or_default();
    let mut all: BTreeMap<String, Value> =
        [("cpu", "64"), ("memory", "256Gi"), ("pods", "500")].map(|(key, value)| (key.to_owned(), json!(value))).into();
    all.extend(allocatable);
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let unready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] != "True");
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if unready && !taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/not-ready") {
        taints.push(json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }));
    }
    node["spec"]["taints"] = json!(taints);
    node["status"] = json!({
        "capacity": all,
        "allocatable": all,
        "conditions": [{ "type": "Ready", "status": if unready { "False" } else { "True" } }],
    });
}
