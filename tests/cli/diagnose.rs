//! `latebind diagnose --from`: dumps of several makers, and what each of them does not know.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{file, matches_golden, run, run_with};

const STUCK: &str = "tests/data/diagnose/stuck.yaml";

/// What a run says as JSON, and its exit code.
fn diagnosed(args: &[&str]) -> (i32, Vec<Value>) {
    let run = run(&[&["diagnose", "-o", "json"], args].concat());
    let list: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    assert_eq!((&list["apiVersion"], &list["kind"]), (&json!("latebind.dev/v1alpha1"), &json!("DiagnosisList")));
    (run.code, list["items"].as_array().unwrap().clone())
}

fn causes(items: &[Value]) -> Vec<String> {
    let of = |item: &Value| {
        format!(
            "{}/{} {}",
            item["subject"]["kind"].as_str().unwrap(),
            item["subject"]["name"].as_str().unwrap(),
            item["cause"].as_str().unwrap()
        )
    };
    items.iter().map(of).collect()
}

#[test]
fn one_object_is_explained_and_all_are_listed() {
    let pod = run(&["diagnose", "--from", STUCK, "pod/web"]);
    assert_eq!((pod.code, pod.stderr.as_str()), (1, ""));
    matches_golden("diagnose-pod.txt", &pod.stdout);
    // kubectl's own list proves no absence: whether a Pod uses the other claim is not known.
    let all = run(&["diagnose", "--from", STUCK]);
    assert_eq!((all.code, all.stderr.as_str()), (5, ""));
    matches_golden("diagnose-all.txt", &all.stdout);
    let (code, items) = diagnosed(&["--from", STUCK, "--complete"]);
    assert_eq!(code, 1);
    assert_eq!(causes(&items), ["PersistentVolumeClaim/spare NoConsumer", "Pod/web Deadlock"]);
    let next = &items[1]["next"][0];
    assert_eq!(next["command"], "kubectl annotate pvc data -n team-a volume.kubernetes.io/selected-node=node-a");
    assert_eq!((&next["fixes"], &items[1]["ageSeconds"]), (&json!(true), &json!(180)));
}

#[test]
fn yaml_and_json_say_the_same() {
    let yaml = run(&["diagnose", "--from", STUCK, "pod/web", "-o", "yaml"]).stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["items"].as_array().unwrap(), &diagnosed(&["--from", STUCK, "pod/web"]).1);
}

#[test]
fn what_waits_as_it_should_is_no_finding() {
    let (code, items) = diagnosed(&["--from", STUCK, "--complete", "pvc/spare"]);
    assert_eq!((code, causes(&items)), (0, vec!["PersistentVolumeClaim/spare NoConsumer".to_owned()]));
    let (code, items) = diagnosed(&["--from", STUCK, "pvc/spare", "-n", "team-a"]);
    assert_eq!((code, causes(&items)), (5, vec!["PersistentVolumeClaim/spare NotKnown".to_owned()]));
    assert_eq!(items[0]["notKnown"], json!(["some Pods may be missing in the dump"]));
}

#[test]
fn of_a_kind_with_an_object_that_cannot_be_read_nothing_is_absent() {
    let nodes = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "node-a"}}, {"metadata": {"name": "node-b"}, "spec": {"taints": 7}}]});
    for complete in [&[][..], &["--complete"]] {
        let run = run_with(
            &[&["diagnose", "--from", "-", "node/node-b"], complete].concat(),
            nodes.to_string().as_bytes(),
            &[],
        );
        assert!(run.code == 5 && run.stderr.contains("spec.taints"), "{}", run.stderr);
        assert!(run.stdout.contains("NotKnown") && !run.stdout.contains("does not exist"), "{}", run.stdout);
        assert!(run.stdout.contains("some objects of kind Node could not be read"), "{}", run.stdout);
    }
}

#[test]
fn that_nothing_is_blocked_is_said_of_what_is_known_only() {
    let nodes = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "node-a"}}]});
    let partial = run_with(&["diagnose", "--from", "-"], nodes.to_string().as_bytes(), &[]);
    assert_eq!(partial.code, 5, "{}", partial.stderr);
    let text = &partial.stdout;
    assert!(text.contains("Nothing that is known is blocked") && text.contains("no Pods in the dump"), "{text}");
    let empty = |kind: &str| json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": []});
    let directory = tempfile::tempdir().unwrap();
    let namespace = directory.path().join("team-a");
    fs::create_dir(&namespace).unwrap();
    for (name, kind) in [("pods.json", "Pod"), ("pvcs.json", "PersistentVolumeClaim")] {
        file(&namespace, name, empty(kind).to_string());
    }
    let whole = run(&["diagnose", "--from", directory.path().to_str().unwrap(), "-n", "team-a"]);
    assert_eq!(
        (whole.code, whole.stdout.as_str()),
        (0, "Nothing that was looked at is blocked.\n"),
        "{}",
        whole.stderr
    );
}

#[test]
fn slips_are_told() {
    for (args, expected) in [
        (vec!["diagnose", "--from", STUCK, "web"], "write pod/NAME"),
        (vec!["diagnose", "--from", STUCK, "deployment/web"], "none of pod, pvc, pv and node"),
        (vec!["diagnose", "--from", STUCK, "pod/nobody"], "some Pods may be missing in the dump"),
        (vec!["diagnose", "--from", STUCK, "--complete", "pvc/nobody"], "there is no pvc/nobody"),
        (vec!["diagnose", "--from", "no/such/dump"], "no such file"),
        (vec!["diagnose", "--from", STUCK, "--context", "x"], "cannot be used with"),
        (vec!["diagnose", "-A", "pod/web"], "cannot be used with"),
    ] {
        let run = run(&args);
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{args:?}: {}", run.stderr);
    }
}

/// The lists of a namespace as `kubectl cluster-info dump` writes them: no claims, no volumes.
#[test]
fn a_cluster_info_dump_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let namespace = directory.path().join("team-a");
    fs::create_dir_all(namespace.join("web")).unwrap();
    let list = |kind: &str, items: Value| {
        json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items})
            .to_string()
    };
    let pod = json!({"metadata": {"name": "web", "namespace": "team-a", "uid": "u", "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"containers": [], "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 node(s) had volume node affinity conflict."}]}});
    file(&namespace, "pods.json", list("Pod", json!([pod])));
    file(&namespace, "events.json", list("Event", json!([])));
    fs::write(namespace.join("web/logs.txt"), "==== START logs\n").unwrap();
    file(directory.path(), "nodes.json", list("Node", json!([{"metadata": {"name": "node-a"}}])));
    let from = directory.path().to_str().unwrap();
    let (code, items) = diagnosed(&["--from", from, "pod/web"]);
    // What the scheduler says stands, and what is not there is said.
    assert_eq!((code, causes(&items)), (1, vec!["Pod/web BoundElsewhere".to_owned()]));
    let missing = items[0]["notKnown"].to_string();
    assert!(missing.contains("no PersistentVolumes in the dump"), "{missing}");
    assert!(!missing.contains("Events"), "the list of events is empty, and whole: {missing}");
}

/// Lists without a word about their kind, one file a namespace.
#[test]
fn a_support_bundle_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let resources = directory.path().join("cluster-resources");
    for folder in ["pods", "pvcs"] {
        fs::create_dir_all(resources.join(folder)).unwrap();
    }
    let source: Value =
        serde_saphyr::from_str(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(STUCK)).unwrap())
            .unwrap();
    let of = |kind: &str| {
        let items = source["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).cloned();
        let bare = items.map(|mut item| {
            let fields = item.as_object_mut().unwrap();
            fields.remove("kind");
            fields.remove("apiVersion");
            item
        });
        json!(bare.collect::<Vec<_>>()).to_string()
    };
    file(&resources.join("pods"), "team-a.json", of("Pod"));
    file(&resources.join("pvcs"), "team-a.json", of("PersistentVolumeClaim"));
    file(&resources, "nodes.json", of("Node"));
    file(&resources, "storage-classes.json", of("StorageClass"));
    let (code, items) = diagnosed(&["--from", directory.path().to_str().unwrap(), "pod/web"]);
    assert_eq!((code, causes(&items)), (1, vec!["Pod/web Deadlock".to_owned()]));
}

#[test]
fn what_steers_a_terminal_does_not_get_through() {
    let harm = "\u{1b}[31mred\u{7}\u{202e}";
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(STUCK)).unwrap();
    let mut list: Value = serde_saphyr::from_str(&source).unwrap();
    for item in list["items"].as_array_mut().unwrap() {
        if item["kind"] == "Event" {
            item["message"] = json!(format!("no {harm}"));
        }
        if item["kind"] == "Node" {
            item["metadata"]["name"] = json!("node-a; rm -rf /");
        }
        if item["kind"] == "Pod" {
            item["spec"]["nodeName"] = json!("node-a; rm -rf /");
        }
    }
    let text = list.to_string();
    for format in ["text", "json", "yaml"] {
        let run = run_with(&["diagnose", "--from", "-", "pod/web", "-o", format], text.as_bytes(), &[]);
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(!run.stdout.contains('\u{1b}') && !run.stdout.contains('\u{202e}'), "{}", run.stdout);
        // What is no name of a node goes into no command.
        assert!(!run.stdout.contains("selected-node=node-a"), "{}", run.stdout);
    }
}
