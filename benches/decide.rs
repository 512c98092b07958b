//! How long one decision takes.
//!
//! The aim: a typical Pod that names its node, with one claim, in a cluster of 5,000 nodes, in less than 10 µs.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use latebind::admission::{Admission, Exemptions, Hook, patch, respond};
use latebind::binding::{Remedy, Rules, decide_pod};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::model::Pod;
use latebind::policy::Mode;
use latebind_test_support::objects::{self, class, with};
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

fn claim(name: &str, class: &str) -> Value {
    let known =
        json!({"metadata": {"namespace": "default", "uid": format!("uid-{name}")}, "status": {"phase": "Pending"}});
    with(objects::claim(name, class, "10Gi"), &known)
}

/// One of every hundred volumes lies on the node of the Pod.
fn volume(place: usize) -> Value {
    let node = format!("node-{}", place % 100);
    let size = format!("{}Gi", 10 + place % 7);
    let volume = objects::volume(&format!("pv-{place}"), "local-disks", &node, &size);
    with(volume, &json!({"status": {"phase": "Available"}}))
}

fn pod(claims: &[&str]) -> Pod {
    let volumes: Vec<Value> = claims.iter().map(|claim| objects::of_claim(claim)).collect();
    let mut object = objects::on_node(objects::pod("web", &volumes), "node-42");
    object["metadata"]["namespace"] = json!("default");
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    object["spec"]["tolerations"] =
        json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]);
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

/// Measures a whole review, from the bytes of the request to those of the answer, without HTTP and TLS.
fn review(criterion: &mut Criterion) {
    let bytes = include_bytes!("../tests/data/reviews/pod-pinned.json");
    let Ok(recorded) = serde_json::from_slice::<Value>(bytes) else { panic!("the recorded review is not JSON") };
    let object = &recorded["request"]["object"];
    let claims = object["spec"]["volumes"].as_array().into_iter().flatten();
    let claims = claims.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    let claims = claims.map(|name| {
        let mut claim = claim(name, "local-path");
        claim["metadata"]["namespace"] = recorded["request"]["namespace"].clone();
        claim
    });
    let mut named = node(0);
    named["metadata"] = json!({"name": object["spec"]["nodeName"],
        "labels": {"kubernetes.io/hostname": object["spec"]["nodeName"]}});
    let facts = facts(claims.chain([class("local-path", "rancher.io/local-path"), named]));
    let (rules, exemptions) = (Rules::default(), Exemptions::default());
    let admission = Admission {
        view: &facts,
        rules: &rules,
        provisioners: &[],
        mode: Mode::Rewrite,
        exemptions: &exemptions,
        details: true,
        guard: None,
        now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
    };
    let mut large = recorded.clone();
    let variables: Vec<Value> =
        (0..900).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(32)})).collect();
    large["request"]["object"]["spec"]["containers"][0]["env"] = json!(variables);
    for (name, review) in [("a review", &recorded), ("a large review", &large)] {
        let body = review.to_string().into_bytes();
        let patched = respond(Hook::Mutate, &body, &admission).is_ok_and(|reply| !reply.answer.patch.0.is_empty());
        assert!(patched, "{name} is not answered with a patch");
        let name = format!("{name} of {} KiB", body.len() >> 10);
        criterion.bench_function(&name, |bencher| bencher.iter(|| respond(Hook::Mutate, black_box(&body), &admission)));
    }
}

criterion_group!(benches, decide, review);
criterion_main!(benches);
