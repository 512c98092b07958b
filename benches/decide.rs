//! How long one decision takes.
//!
//! The aim: a typical Pod that names its node, with one claim, in a cluster of 5,000 nodes, in less than 10 µs.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use latebind::admission::patch;
use latebind::binding::{Remedy, Rules, decide_pod};
use latebind::cluster::{Fact, Facts, Unlisted};
use latebind::model::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

const NODES: usize = 5_000;
const HOSTNAME: &str = "kubernetes.io/hostname";

fn facts(objects: impl IntoIterator<Item = Value>) -> Facts {
    let mut facts = Facts::new(Unlisted::Absent);
    for object in objects {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        match Fact::read(group, text("kind"), &object) {
            Some(Ok(fact)) => facts.add(fact),
            other => panic!("{object} cannot be read: {other:?}"),
        }
    }
    facts
}

fn node(place: usize) -> Value {
    let name = format!("node-{place}");
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {HOSTNAME: name, "topology.kubernetes.io/zone": "zone-1"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "16"}}})
}

fn class(name: &str, provisioner: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

fn claim(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}}},
        "status": {"phase": "Pending"}})
}

/// One of every hundred volumes lies on the node of the Pod.
fn volume(place: usize) -> Value {
    let node = format!("node-{}", place % 100);
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{place}")},
        "spec": {"storageClassName": "local-disks", "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": format!("{}Gi", 10 + place % 7)}, "local": {"path": "/mnt/disk"},
            "nodeAffinity": {"required": {"nodeSelectorTerms":
                [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}]}}},
        "status": {"phase": "Available"}})
}

fn pod(claims: &[&str]) -> Pod {
    let mounts: Vec<Value> = claims.iter().map(|claim| json!({"name": claim, "mountPath": claim})).collect();
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
    let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "node-42",
        "containers": [{"name": "app", "volumeMounts": mounts, "resources": {"requests": {"cpu": "1"}}}],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        "volumes": volumes}});
    match Pod::deserialize(object) {
        Ok(pod) => pod,
        Err(error) => panic!("the Pod cannot be read: {error}"),
    }
}

/// Measures a decision that must be a rewrite; anything else would be a shortcut.
fn measure(criterion: &mut Criterion, name: &str, facts: &Arc<Facts>, pod: &Pod) {
    let rules = Rules::default();
    let remedy = decide_pod(pod, &**facts, &rules).remedy;
    assert!(matches!(remedy, Remedy::Rewrite { .. }), "{name}: {remedy:?}");
    criterion.bench_function(name, |bencher| bencher.iter(|| decide_pod(black_box(pod), &**facts, &rules)));
    criterion.bench_function(&format!("{name}, with its patch"), |bencher| {
        bencher.iter(|| {
            let verdict = decide_pod(black_box(pod), &**facts, &rules);
            patch::operations(pod, &verdict.remedy)
        });
    });
}

fn decide(criterion: &mut Criterion) {
    let cluster = [class("local-path", "rancher.io/local-path"), class("local-disks", "kubernetes.io/no-provisioner")];
    let claims = [claim("data", "local-path"), claim("disk-a", "local-disks"), claim("disk-b", "local-disks")];
    let nodes = (0..NODES).map(node);
    let volumes = (0..1_000).map(volume);
    let more = [claim("disk-c", "local-disks")];
    let facts = Arc::new(facts(cluster.into_iter().chain(claims).chain(more).chain(nodes).chain(volumes)));
    measure(criterion, "one claim, 5,000 nodes", &facts, &pod(&["data"]));
    measure(criterion, "three claims, 1,000 volumes of their class", &facts, &pod(&["disk-a", "disk-b", "disk-c"]));
}

criterion_group!(benches, decide);
criterion_main!(benches);
