//! `latebind install`: the manifests that lie in the repository are what it prints. That the chart renders the same is for the
//! suite `install` to see, which has helm.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{printed, run};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("webhook-manifests").join(name)).unwrap()
}

/// `Kind/name` of everything in a manifest.
fn objects(text: &str) -> BTreeSet<String> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let name = |object: &Value| {
        format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
    };
    all.iter().filter(|object| !object.is_null()).map(name).collect()
}

#[test]
fn the_manifests_of_the_repository_are_what_it_prints() {
    assert_eq!(printed(&["install"]), file("install.yaml"));
    assert_eq!(printed(&["install", "--with", "provisioner"]), file("provisioner.yaml"));
}

#[test]
fn parts_can_be_left_out_and_added() {
    let all = objects(&printed(&["install", "--with=provisioner"]));
    let rescue = objects(&printed(&["install", "--without=webhook"]));
    assert!(rescue.contains("Deployment/latebind-controller") && !rescue.iter().any(|name| name.contains("webhook")));
    assert!(!rescue.contains("MutatingWebhookConfiguration/zz-latebind") && rescue.is_subset(&all), "{rescue:?}");
    let alone = printed(&["install", "--with=provisioner", "--without=webhook,rescue"]);
    assert!(alone.contains("- --rescue=off\n") && alone.contains("- --provisioner=on\n"));
    let alone = objects(&alone);
    assert!(alone.contains("DaemonSet/latebind-agent") && alone.contains("StorageClass/latebind-local"), "{alone:?}");
    for (wrong, expected) in [
        (&["install", "--without=webhook,rescue"][..], "nothing is left"),
        (&["install", "--with=rescue", "--without=rescue"], "contradict"),
        (&["install", "--image=a b"], "registry.example"),
        (&["install", "--namespace=A"], "namespace"),
        (&["install", "--webhook-port=80"], "80"),
    ] {
        let run = run(wrong);
        assert!(run.code == 2 && run.stdout.is_empty() && run.stderr.contains(expected), "{wrong:?}: {}", run.stderr);
    }
}

#[test]
fn what_flags_say_stands_everywhere() {
    let args = ["install", "--with=provisioner", "--image=r.example:5000/mine", "-n", "apart", "--mode=audit"];
    let text = printed(&[&args[..], &["--webhook-port=9443"]].concat());
    for gone in ["latebind-system", "ghcr.io", "--mode=rewrite", "10250"] {
        assert!(!text.contains(gone), "{gone} is still there");
    }
    let image = format!("image: r.example:5000/mine:{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text.matches(&image).count(), 3);
    assert_eq!(text.matches("- --mode=audit\n").count(), 2);
    assert!(text.contains("containerPort: 9443}") && text.contains("--listen=0.0.0.0:9443\n"));
    assert!(text.contains("\"system:serviceaccount:apart:latebind-controller\""));
    assert_eq!(objects(&text).len(), objects(&file("provisioner.yaml")).len());
}
