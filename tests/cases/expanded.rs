//! How cases and their bases come together.

use std::collections::BTreeMap;

use serde_json::json;

use latebind_test_support::cases::Case;
use latebind_test_support::cases::{Base, expand};

const BASE: &str = r"
objects:
  - {apiVersion: v1, kind: Node, metadata: {name: node-a, labels: {disk: ssd}}, spec: {taints: [{key: a}]}}
  - {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: default}}
pod: {kind: Pod, metadata: {name: web}, spec: {nodeName: node-a, volumes: [{name: data}, {name: logs}]}}
";

/// Mappings merge, lists and nulls replace, what is left out is gone, and other objects are added.
pub fn changes() -> Result<(), String> {
    let case = expanded(
        r"
without: [PersistentVolumeClaim/data]
objects:
  - {kind: Node, metadata: {name: node-a, labels: {cores: '8'}}, spec: {taints: [], unschedulable: true}}
  - {apiVersion: v1, kind: Node, metadata: {name: node-b}}
pod: {spec: {affinity: null, volumes: [{name: tmp}]}}
",
    )?;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a", "labels": { "disk": "ssd", "cores": "8" } },
        "spec": { "taints": [], "unschedulable": true },
    });
    let other = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-b" } });
    equal(&case.objects, &vec![node, other])?;
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "web" },
        "spec": { "nodeName": "node-a", "affinity": null, "volumes": [{ "name": "tmp" }] },
    });
    equal(&case.pod, &Some(pod))?;
    // The same claim in another namespace is another claim.
    let case =
        expanded("objects: [{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: x}}]")?;
    equal(&case.objects.len(), &3)?;
    // A case about something else than the base's Pod, and one about a Pod of its own.
    equal(&expanded("claim: default/data")?.pod, &None)?;
    equal(&expanded("workload: {kind: Job}")?.pod, &None)?;
    equal(&expanded("{without: [Pod/web], pod: {kind: Pod}}")?.pod, &Some(json!({ "kind": "Pod" })))
}

/// What would silently be another case than was meant.
pub fn mistakes() -> Result<(), String> {
    for (case, told) in [
        ("base: statik", "there is no base statik"),
        ("without: [Node/node-b]", "without: the base it has no Node/node-b"),
        (
            "{without: [Node/node-a], objects: [{kind: Node, metadata: {name: node-a}}]}",
            "the base it has no Node/node-a to change",
        ),
        (
            "objects: [{kind: PersistentVolumeClaim, metadata: {name: data}}]",
            "the base it has no PersistentVolumeClaim/data to change",
        ),
        ("{base: null, without: [Node/node-a]}", "without: there is no base"),
    ] {
        equal(&expanded(case).map(drop), &Err(told.to_owned()))?;
    }
    Ok(())
}

/// The case with the base above, unless it names one, and with what every case needs.
fn expanded(case: &str) -> Result<Case, String> {
    let mut fields: serde_json::Value = serde_saphyr::from_str(case).map_err(|error| error.to_string())?;
    for (field, value) in [("base", json!("it")), ("name", json!("")), ("proves", json!("")), ("expect", json!({}))] {
        if fields.get(field).is_none() {
            fields[field] = value;
        }
    }
    let mut case: Case = serde_json::from_value(fields).map_err(|error| error.to_string())?;
    let base: Base = serde_saphyr::from_str(BASE).map_err(|error| error.to_string())?;
    expand(&mut case, &BTreeMap::from([("it".to_owned(), base)]))?;
    Ok(case)
}

fn equal<T: std::fmt::Debug + PartialEq>(found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("expected {wanted:?}, got {found:?}")) }
}
