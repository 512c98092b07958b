//! Pods that wait for devices, and what their fix rests on.

use super::{FACTS, directory, findings, lint, lint_in, names};

const TEMPLATE: &str = "\
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpus}
spec: {spec: {devices: {requests: [{name: one, exactly: {deviceClassName: gpu.example.com}}]}}}
";
const SPEC: &str = "{nodeName: worker-1, containers: [{name: a, image: b, resources: {claims: [{name: gpu}]}}], \
                    resourceClaims: [{name: gpu, resourceClaimTemplateName: gpus}]}";

fn input(object: &str) -> String {
    format!("{FACTS}{TEMPLATE}---\n{}", object.replace("SPEC", SPEC))
}

#[test]
fn a_pod_that_waits_for_devices_is_found_wherever_it_stands() {
    for (object, path) in [
        ("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: SPEC}", "spec"),
        (
            "{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: {spec: SPEC}}}",
            "spec.template.spec",
        ),
        (
            "{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: x}, spec: {workerGroupSpecs: [{template: {spec: SPEC}}]}}",
            "spec.workerGroupSpecs[0].template.spec",
        ),
    ] {
        let found = findings(&["-f", "-"], &input(object));
        assert_eq!(names(&found).len(), 1, "{object}: {found:?}");
        assert!(names(&found)[0].starts_with("LB012 "), "{object}: {:?}", names(&found));
        assert_eq!(found[0]["path"], format!("{path}.resourceClaims[0]"), "{object}");
        assert_eq!(found[0]["severity"], "error", "{object}");
        assert!(found[0]["fix"]["description"].as_str().unwrap().contains("nodeSelector"), "{object}: {found:?}");
    }
}

#[test]
fn it_is_fixed_like_any_other() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  nodeName: worker-1\n  containers: [{name: a, image: b}]\n  \
               resourceClaims: [{name: gpu, resourceClaimTemplateName: gpus}]\n";
    let files = directory(&[("pod.yaml", pod), ("facts.yaml", &format!("{FACTS}{TEMPLATE}"))]);
    let run = lint_in(files.path(), &["--fix", "-f", "pod.yaml", "--objects", "facts.yaml"], "");
    let fixed = std::fs::read_to_string(files.path().join("pod.yaml")).unwrap();
    assert!(fixed.contains("kubernetes.io/hostname: worker-1") && !fixed.contains("nodeName"), "{}{fixed}", run.stderr);
    assert_eq!(lint_in(files.path(), &["-f", "pod.yaml", "--objects", "facts.yaml"], "").code, 0);
}

#[test]
fn what_the_fix_rests_on_is_named() {
    let without = input("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: SPEC}").replace(TEMPLATE, "");
    let run = lint(&["-f", "-"], &without);
    for assumed in [
        "assumed: ResourceClaimTemplate gpus is not in the input: assumed to exist",
        "assumed: not all Pods are in the input: assumed that none on or near node worker-1 keeps this one away",
    ] {
        assert!(run.stdout.contains(assumed), "{}", run.stdout);
    }
    let found = findings(&["-f", "-", "--assume-storage=unknown"], &without);
    assert_eq!(names(&found), ["LB002 Pod/x"], "whether there is such a template is not known");
}
