use std::path::Path;

use super::*;
use crate::model::Node;

#[test]
fn the_files_are_those_of_the_types() {
    let of_chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("webhook-manifests/chart/files");
    let provisioning = files().unwrap().into_iter().map(|file| ("crds", file));
    for (directory, (name, text)) in provisioning.chain([("policy-crds", policy_file().unwrap())]) {
        let path = of_chart.join(directory).join(&name);
        if std::env::var_os("LATEBIND_UPDATE").is_some() {
            std::fs::create_dir_all(of_chart.join(directory)).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{name} is out of date: run this test with LATEBIND_UPDATE=1");
    }
}

#[test]
fn every_kind_has_columns_and_a_schema_without_open_ends() {
    for definition in definitions().into_iter().chain([policy_definition()]) {
        let version = &definition.spec.versions[0];
        assert!(version.additional_printer_columns.as_ref().is_some_and(|columns| columns.len() > 2));
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        assert!(schema.properties.as_ref().unwrap().contains_key("spec"));
        assert_eq!(definition.spec.scope, "Cluster");
    }
    let volume = &definitions()[2].spec.versions[0];
    assert_eq!(volume.selectable_fields.as_ref().unwrap()[0].json_path, ".spec.nodeName");
}

#[test]
fn an_entry_by_name_wins_over_a_selector_and_that_over_the_rest() {
    let spec: LocalPoolSpec = serde_json::from_value(serde_json::json!({ "nodes": [
        { "paths": [{ "path": "/rest" }] },
        { "selector": { "matchLabels": { "disk": "fast" } }, "paths": [{ "path": "/fast" }] },
        { "names": ["n1"], "paths": [{ "path": "/named" }] },
        { "names": ["n2"] },
    ]}))
    .unwrap();
    let node = |name: &str, disk: &str| -> Node {
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name, "labels": { "disk": disk } } })).unwrap()
    };
    let first = |name: &str, disk: &str| spec.paths_on(&node(name, disk)).first().map(|path| path.path.clone());
    assert_eq!(first("n1", "fast").as_deref(), Some("/named"));
    assert_eq!(first("n2", "fast"), None);
    assert_eq!(first("n3", "fast").as_deref(), Some("/fast"));
    assert_eq!(first("n3", "slow").as_deref(), Some("/rest"));
}

#[test]
fn names_differ_by_node_and_stay_the_same_forever() {
    assert_eq!(LocalVolume::name_for("u", "node-a"), LocalVolume::name_for("u", "node-a"));
    assert_ne!(LocalVolume::name_for("u", "node-a"), LocalVolume::name_for("u", "node-b"));
    // Stored objects carry it: a change of the function would lose them.
    assert_eq!(LocalVolume::name_for("u", ""), "u-cbf29ce484222325");
}

/// What the API server refuses, a real one too: the suite `aspects` gives it the same file.
#[test]
fn a_policy_that_the_api_server_refuses_is_refused_offline_too() {
    #[derive(serde::Deserialize)]
    struct Refused {
        why: String,
        spec: serde_json::Value,
    }
    let text = include_str!("../../tests/data/policies/refused.json");
    for Refused { why, spec } in serde_json::from_str::<Vec<Refused>>(text).unwrap() {
        let read = serde_json::from_value::<PinPolicySpec>(spec.clone());
        assert!(read.is_err() || read.unwrap().check(&spec).is_err(), "{why}");
    }
}

#[test]
fn what_a_policy_may_hold_is_bounded_and_the_largest_is_kept() {
    let text = |length: usize| "x".repeat(length);
    let names = |count: usize, length: usize| vec![text(length); count];
    let wanted = serde_json::json!({ "key": text(317), "operator": "In", "values": names(16, 63) });
    let labels: serde_json::Map<String, serde_json::Value> =
        (0..32).map(|place| (format!("{place:0317}"), text(63).into())).collect();
    let selector = serde_json::json!({ "matchLabels": labels, "matchExpressions": vec![wanted; 32] });
    let account = format!("{}/{}", text(63), text(253));
    let requesters =
        serde_json::json!({ "users": names(16, 253), "groups": names(16, 253), "serviceAccounts": vec![account; 16] });
    let exception = serde_json::json!({ "reason": text(512), "expiresAt": "2030-01-01T00:00:00Z",
        "namespaces": names(32, 63), "requesters": requesters });
    let mut spec = serde_json::json!({
        "mode": "Rewrite", "pin": "Name", "allowIgnore": true,
        "namespaces": { "names": names(256, 63), "selector": selector }, "objectSelector": selector,
        "storageClasses": names(64, 253), "requesters": requesters,
        "allowedNodes": { "names": names(256, 253), "selector": selector }, "exceptions": vec![exception.clone(); 32],
    });
    let read: PinPolicySpec = serde_json::from_value(spec.clone()).unwrap();
    read.check(&spec).unwrap();
    // What caches keep of one object.
    assert!(format!("{:?}", PinPolicy::new("p", read)).len() < 1 << 20);
    for (field, more) in [
        ("/exceptions", vec![exception; 33]),
        ("/namespaces/names", names(257, 63).into_iter().map(Into::into).collect()),
    ] {
        let before = std::mem::replace(spec.pointer_mut(field).unwrap(), more.into());
        let read: PinPolicySpec = serde_json::from_value(spec.clone()).unwrap();
        assert!(read.check(&spec).is_err(), "{field}");
        *spec.pointer_mut(field).unwrap() = before;
    }
}

#[test]
fn a_field_that_there_is_not_is_found() {
    let fault = |spec: serde_json::Value| {
        serde_json::from_value::<PinPolicySpec>(spec.clone()).unwrap().check(&spec).map_err(|fault| fault.field)
    };
    assert_eq!(fault(serde_json::json!({ "mode": "Deny", "exceptions": [], "allowedNodes": { "names": [] } })), Ok(()));
    assert_eq!(fault(serde_json::json!({ "mode": "Deny", "namespace": "a" })), Err("spec.namespace".to_owned()));
    let deep = serde_json::json!({ "mode": "Deny", "namespaces": { "name": ["a"], "names": ["a"] } });
    assert_eq!(fault(deep), Err("spec.namespaces.name".to_owned()));
}
