//! `latebind import` as it is typed.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::kinds::{class, config_map, everywhere};

fn latebind(arguments: &[&str], input: &Value) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have complained of its flags and ended.
    drop(child.stdin.take().unwrap().write_all(input.to_string().as_bytes()));
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn list(objects: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": objects })
}

fn with_teardown(teardown: &str) -> Value {
    let map = config_map("ns", "local-path-config", &everywhere(&["/opt/lpp/"]), &json!({ "teardown": teardown }));
    list(&[map, class("local-path", "rancher.io/local-path")])
}

#[test]
fn what_is_lost_is_said_and_ends_with_one_until_it_is_accepted() {
    let archive = with_teardown("mv \"$VOL_DIR\" \"$VOL_DIR.kept\"");
    let output = latebind(&["import", "rancher", "-f", "-"], &archive);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("lost: ConfigMap ns/local-path-config: teardown") && said.contains("--accept-lost scripts"),
        "{said}"
    );
    assert!(text(&output.stdout).contains("kind: LocalPool"), "what can be kept is written");
    let output = latebind(&["import", "-f", "-", "--accept-lost", "scripts"], &archive);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("teardown"), "it is named all the same");
    let stock = with_teardown("#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n");
    assert_eq!(latebind(&["import", "-f", "-"], &stock).status.code(), Some(0));
}

#[test]
fn check_says_beforehand_what_is_kept_changed_and_lost() {
    let stock = with_teardown("rm -rf \"$VOL_DIR\"");
    let output = latebind(&["import", "--check", "-f", "-"], &stock);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("LocalPool\nmetadata") && !said.contains("apiVersion"), "{said}");
    for line in [
        "kept        class local-path",
        "kept        ConfigMap ns/local-path-config: config.json: nodePathMap: DEFAULT_PATH_FOR_NON_LISTED_NODES: /opt/lpp",
        "kept        ConfigMap ns/local-path-config: teardown",
        "changed     class local-path: claims",
        "--set provisioner.adopt={rancher.io/local-path} --set agent.basePaths={/opt/lpp}",
        ", 0 lost",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    let output = latebind(&["import", "--check", "-f", "-"], &with_teardown("mv \"$VOL_DIR\" /kept"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("lost        ConfigMap ns/local-path-config: teardown"));
    let nothing = list(&[class("c", "example.com/disks")]);
    let output = latebind(&["import", "--check", "-f", "-"], &nothing);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("nothing to import"));
}

#[test]
fn two_entries_or_two_config_maps_are_never_one_class_too_few() {
    let entry = |path: &str| everywhere(&[path]);
    let config = json!({ "storageClassConfigs": { "fast": entry("/ssd"), "slow": entry("/hdd") } });
    let one =
        list(&[config_map("ns", "local-path-config", &config, &json!({})), class("fast", "rancher.io/local-path")]);
    let output = latebind(&["import", "-f", "-"], &one);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("slow"), "{}", text(&output.stderr));
    let maps = ["a", "b"]
        .map(|namespace| config_map(namespace, "local-path-config", &entry(&format!("/{namespace}")), &json!({})));
    let two = list(&[maps[0].clone(), maps[1].clone(), class("local-path", "rancher.io/local-path")]);
    let output = latebind(&["import", "-f", "-"], &two);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    assert!(
        text(&output.stderr).contains("a/local-path-config") && text(&output.stderr).contains("b/local-path-config")
    );
}

#[test]
fn a_wrong_word_is_a_wrong_flag() {
    for arguments in [
        &["import", "-f", "-", "--accept-lost", "everything"][..],
        &["import", "-f", "-", "--assume-cluster", "openshift"],
        &["import", "-f", "/nowhere/at/all.yaml"],
        &["run", "--role", "controller", "--provisioner=on", "--adopt", "kubernetes.io/host-path"],
    ] {
        let output = latebind(arguments, &json!({}));
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stderr).contains("error"), "{}", text(&output.stderr));
    }
}
