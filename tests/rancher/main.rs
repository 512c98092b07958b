//! An old configuration becomes pools and classes that our own parser takes, and what is lost is named.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod accounted;
mod command;
mod kinds;

use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeSet;

use latebind::crd::{Reclaim, VolumeType};
use latebind::model::{Class, Node};
use latebind::rancher::{Config, Import, Input, import, import_all};
use latebind::volumes::{ClassParameters, PROVISIONER};
use serde_json::{Value, json};

fn imported(config: &str, class: &Value) -> Import {
    let mut object = json!({ "metadata": { "name": "local-path" }, "provisioner": "rancher.io/local-path" });
    for (key, value) in class.as_object().unwrap() {
        object[key] = value.clone();
    }
    let class: StorageClass = serde_json::from_value(object).unwrap();
    import(&Config::parse(config).unwrap(), &[class])
}

const CONFIG: &str = r#"{ "nodePathMap": [
    { "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/opt/local-path-provisioner"] },
    { "node": "n1", "paths": ["/opt/lpp", "/data1"] },
    { "node": "n3", "paths": [] } ] }"#;

fn parameters(made: &Import) -> ClassParameters {
    let class: Class = serde_json::from_value(serde_json::to_value(&made.classes[0]).unwrap()).unwrap();
    assert_eq!(class.provisioner, PROVISIONER);
    ClassParameters::of(&class).unwrap()
}

#[test]
fn every_node_keeps_its_paths() {
    let made = imported(CONFIG, &json!({ "volumeBindingMode": "WaitForFirstConsumer" }));
    let pool = &made.pools[0];
    let paths = |name: &str| -> Vec<String> {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        pool.spec.paths_on(&node).iter().map(|path| path.path.clone()).collect()
    };
    assert_eq!(paths("n1"), ["/opt/lpp", "/data1"]);
    assert_eq!(paths("n2"), ["/opt/local-path-provisioner"]);
    assert!(paths("n3").is_empty());
    let read = parameters(&made);
    assert_eq!((read.pool.as_str(), read.volume_type), ("local-path", VolumeType::HostPath));
    assert_eq!(made.classes[0].volume_binding_mode.as_deref(), Some("WaitForFirstConsumer"));
}

#[test]
fn parameters_are_kept_or_named() {
    let made = imported(
        CONFIG,
        &json!({
            "metadata": { "name": "local-path", "annotations": {
                "defaultVolumeType": "local", "storageclass.kubernetes.io/is-default-class": "true" } },
            "parameters": { "nodePath": "/data1", "nodeAffinityKey": "example.com/id", "userPattern": "1000",
                "groupPattern": "{{ .PVC.Labels.g }}", "permPattern": "0700",
                "pathPattern": "{{ .PVC.Namespace }}/{{ .PVC.Name }}", "allowUnsafePathPattern": "true" },
            "allowVolumeExpansion": true,
        }),
    );
    let read = parameters(&made);
    assert_eq!((read.uid, read.gid, read.mode.as_deref()), (Some(1000), None, Some("0700")));
    assert_eq!((read.volume_type, read.affinity_key.as_str()), (VolumeType::Local, "example.com/id"));
    assert_eq!(made.classes[0].metadata.annotations.as_ref().unwrap().len(), 1);
    assert_eq!(made.classes[0].allow_volume_expansion, None);
    for word in ["groupPattern", "{namespace}/{claim}/{volume}", "allowUnsafePathPattern", "allowVolumeExpansion"] {
        assert!(made.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", made.notes);
    }
}

#[test]
fn a_pattern_that_could_leave_the_base_is_not_kept() {
    for pattern in [
        "{{ .PVC.Namespace }}/{{ .PVC.Name }}/{{ .PVC.Annotations.sub }}",
        "/opt/../{{ .PVC.Namespace }}_{{ .PVC.Name }}/../etc/",
        "{{ .PVC.Name }}/../../../etc/passwd",
    ] {
        let made = imported(CONFIG, &json!({ "parameters": { "pathPattern": pattern } }));
        assert!(!made.classes[0].parameters.as_ref().unwrap().contains_key("pathPattern"), "{pattern}");
        assert!(made.notes.iter().any(|note| note.contains("pathPattern")));
    }
}

#[test]
fn classes_have_their_own_pools_and_shared_paths_are_named() {
    let config = r#"{ "storageClassConfigs": {
        "local-path": { "nodePathMap": [{ "node": "n1", "paths": ["/a"] }] },
        "shared": { "sharedFilesystemPath": "/nfs" } }, "setupCommand": "/setup" }"#;
    let class = |name: &str| -> StorageClass {
        serde_json::from_value(json!({ "metadata": { "name": name }, "provisioner": "rancher.io/local-path" })).unwrap()
    };
    let other: StorageClass =
        serde_json::from_value(json!({ "metadata": { "name": "nfs" }, "provisioner": "nfs.csi.k8s.io" })).unwrap();
    let made = import(&Config::parse(config).unwrap(), &[class("local-path"), class("shared"), class("absent"), other]);
    assert_eq!((made.pools.len(), made.classes.len()), (1, 1));
    for word in ["/nfs", "class absent", "nfs.csi.k8s.io", "setupCommand"] {
        assert!(made.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", made.notes);
    }
}

#[test]
fn a_shared_path_is_served_by_the_node_that_a_person_names() {
    let object = |value: &Value| value.clone();
    let config = json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "local-path-config", "namespace": "x" },
        "data": { "config.json": r#"{ "sharedFileSystemPath": "/nfs/" }"# } });
    let class = json!({ "kind": "StorageClass", "apiVersion": "storage.k8s.io/v1", "provisioner": "rancher.io/local-path",
        "metadata": { "name": "shared", "annotations": { "defaultVolumeType": "local" } }, "reclaimPolicy": "Retain" });
    let made = |node: Option<&str>| {
        let mut input = Input::default();
        input.share_by(node.map(str::to_owned));
        for given in [&config, &class] {
            input.add(object(given)).unwrap();
        }
        import_all(&input)
    };
    let lost = made(None);
    assert_eq!((lost.pools.len(), lost.classes.len()), (0, 0));
    assert!(lost.notes.iter().any(|note| note.contains("--shared-by NODE")), "{:?}", lost.notes);
    let served = made(Some("n1"));
    assert_eq!(served.lost(&BTreeSet::new()).count(), 0, "{:?}", served.notes);
    let [pool] = served.pools.as_slice() else { panic!("{:?}", served.pools) };
    assert_eq!(pool.spec.serving_node(), Some("n1"));
    assert_eq!(served.base_paths(), BTreeSet::from(["/nfs"]));
    assert!(pool.spec.nodes[0].paths[0].require_mount);
    let read = parameters(&served);
    assert!(read.shared_file_system && read.serves_many());
    assert_eq!((read.volume_type, read.reclaim), (VolumeType::HostPath, Reclaim::Retain));
}

#[test]
fn what_the_import_writes_our_own_parser_takes() {
    let made = imported(
        CONFIG,
        &json!({
            "metadata": { "name": "local-path", "annotations": { "userPattern": "1000", "defaultVolumeType": "nfs" } },
            "parameters": { "nodePath": "/data1/", "nodeAffinityKey": "", "permPattern": "77777", "groupPattern": "99999999999" },
        }),
    );
    let read = parameters(&made);
    assert_eq!((read.uid, read.gid, read.mode), (Some(1000), None, None));
    assert_eq!(read.node_path.as_deref(), Some("/data1"), "in its shortest form");
    assert_eq!(read.affinity_key, "kubernetes.io/hostname", "an empty value says nothing");
    for word in ["permPattern", "groupPattern", "defaultVolumeType"] {
        assert!(made.notes.iter().any(|note| note.contains(word)), "{word}: {:?}", made.notes);
    }
}

#[test]
fn a_class_that_is_adopted_reads_annotations_as_the_import_does() {
    let class: Class = serde_json::from_value(json!({
        "metadata": { "name": "local-path", "annotations": { "userPattern": "1000", "groupPattern": "7" } },
        "provisioner": "rancher.io/local-path", "parameters": { "groupPattern": "2000" },
    }))
    .unwrap();
    let read = latebind::rancher::parameters(&class).unwrap();
    assert_eq!((read.uid, read.gid), (Some(1000), Some(2000)), "a parameter wins over the annotation");
}
