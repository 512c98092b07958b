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
