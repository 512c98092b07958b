//! What the input does not say: assumed by name, or not known, and never a no.

use serde_json::Value;

use super::{FACTS, findings, lint, names, stuck_pod};

/// The facts without their Node, and a stuck Pod with these fields before the others of its spec.
fn without_node(spec: &str) -> String {
    let facts =
        FACTS.split("---\n").filter(|document| !document.contains("kind: Node")).collect::<Vec<_>>().join("---\n");
    format!("{facts}---\n{}", stuck_pod("{name: a}").replace("spec:\n", &format!("spec:\n{spec}")))
}

fn assumptions(found: &Value) -> Vec<String> {
    found["assumptions"].as_array().into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_assumption_is_named_with_the_finding_in_every_format() {
    let input = without_node("  nodeSelector: {kubernetes.io/os: linux}\n");
    let assumed = "Node worker-1 is not in the input: assumed ready, untainted, hostname label worker-1, labels kubernetes.io/os=linux";
    let found = findings(&["-f", "-"], &input);
    assert_eq!(names(&found), ["LB001 Pod/a"]);
    assert_eq!(assumptions(&found[0]), [assumed]);
    assert!(found[0]["fix"]["description"].as_str().unwrap().contains("nodeSelector"));
    for format in ["table", "yaml", "sarif", "junit", "github", "gitlab", "markdown", "openreports"] {
        let run = lint(&["-f", "-", "-o", format], &input);
        assert_eq!(run.code, 1, "{format}");
        let text = run.stdout.replace('\\', "");
        assert!(text.contains("assumed ready, untainted, hostname label worker-1"), "{format}: {text}");
    }
}

#[test]
fn who_assumes_nothing_gets_no_fix() {
    let input = without_node("");
    let found = findings(&["-f", "-", "--assume-node=unknown"], &input);
    assert_eq!(names(&found), ["LB001 Pod/a", "LB015 Pod/a"]);
    assert!(found[0].get("fix").is_none() && assumptions(&found[0]).is_empty());
}

#[test]
fn a_healthy_pod_with_a_zonal_volume_is_no_error() {
    let volume = "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: pv}\nspec:\n  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [eu-1a]}]}]}}\n  csi: {driver: ebs.csi.aws.com}\n";
    let bound = without_node("")
        .replace("storageClassName: local-path, ", "storageClassName: local-path, volumeName: pv, ")
        .replace(
            "resources: {requests: {storage: 1Gi}}}\n",
            "resources: {requests: {storage: 1Gi}}}\nstatus: {phase: Bound}\n",
        );
    let run = lint(&["-f", "-"], &format!("{bound}{volume}"));
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(
        run.stdout.contains("LB016") && run.stdout.contains("topology.kubernetes.io/zone In (eu-1a)"),
        "{}",
        run.stdout
    );
}

#[test]
fn a_list_of_nodes_is_complete_and_so_is_what_is_said_to_be() {
    let selected = "annotations: {volume.kubernetes.io/selected-node: old-7}";
    let claim = FACTS.replace("metadata: {name: scratch}", &format!("metadata: {{name: scratch, {selected}}}"));
    let pod = stuck_pod("{name: a}");
    let single = format!("{claim}---\n{pod}");
    assert_eq!(names(&findings(&["-f", "-"], &single)), ["LB006 Pod/a"]);
    assert_eq!(
        names(&findings(&["-f", "-", "--nodes-complete"], &single)),
        ["LB007 Pod/a", "LB001 Pod/a"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>()
    );
    for list in ["kind: List", "kind: NodeList"] {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: worker-1, labels: {kubernetes.io/hostname: worker-1}}\nstatus: {conditions: [{type: Ready, status: 'True'}]}\n";
        let as_list = format!(
            "apiVersion: v1\n{list}\nitems:\n- {{apiVersion: v1, kind: Node, metadata: {{name: worker-1, labels: {{kubernetes.io/hostname: worker-1}}}}, status: {{conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
        );
        let found = findings(&["-f", "-"], &single.replace(node, &as_list));
        assert!(names(&found).contains(&"LB007 Pod/a".to_owned()), "{list}: {:?}", names(&found));
    }
}

#[test]
fn a_kind_of_cluster_brings_its_classes() {
    let bare = without_node("").replace("storageClassName: local-path, ", "");
    let bare = bare
        .split("---\n")
        .filter(|document| !document.contains("kind: StorageClass"))
        .collect::<Vec<_>>()
        .join("---\n");
    let unknown = lint(&["-f", "-"], &bare);
    assert_eq!(unknown.code, 0);
    assert!(unknown.stdout.contains("LB003") && unknown.stdout.contains("--assume-cluster=k3s"), "{}", unknown.stdout);
    let found = findings(&["-f", "-", "--assume-cluster", "k3s"], &bare);
    assert_eq!(names(&found), ["LB001 Pod/a"]);
    assert!(assumptions(&found[0])[0].contains("as k3s ships it"), "{found:?}");
    assert_eq!(names(&findings(&["-f", "-", "--assume-cluster", "minikube"], &bare)), ["LB019 Pod/a"]);
    assert_eq!(lint(&["-f", "-", "--assume-cluster", "x"], &bare).code, 2);
}

#[test]
fn a_claim_of_another_namespace_is_named() {
    let input = format!("{FACTS}---\n{}", stuck_pod("{name: a, namespace: team}"));
    let found = findings(&["-f", "-"], &input);
    assert_eq!(names(&found), ["LB002 Pod/a"]);
    assert!(found[0]["message"].as_str().unwrap().contains("in namespace \"default\", the Pod is in \"team\""));
}

#[test]
fn consumers_are_workloads_too() {
    let deployment = |name: &str, node: &str| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{template: {{spec: {{{node}containers: [{{name: a, volumeMounts: [{{name: data, mountPath: /d}}]}}], volumes: [{{name: data, persistentVolumeClaim: {{claimName: scratch}}}}]}}}}}}\n"
        )
    };
    let two = format!("{FACTS}{}{}", deployment("a", "nodeName: worker-1, "), deployment("b", "nodeName: worker-2, "));
    let found = names(&findings(&["-f", "-"], &two));
    assert_eq!(found.iter().filter(|name| name.starts_with("LB013 ")).count(), 2, "{found:?}");
    let one = format!("{FACTS}{}{}", deployment("a", "nodeName: worker-1, "), deployment("b", ""));
    let found = findings(&["-f", "-"], &one);
    assert_eq!(names(&found), ["LB001 Deployment/a"]);
    let message = found[0]["message"].as_str().unwrap();
    assert!(message.contains("is bound where the scheduler places Pod \"b-\""), "{message}");
    let alone = format!("{FACTS}{}", deployment("a", "nodeName: worker-1, "));
    assert_eq!(names(&findings(&["-f", "-"], &alone)), ["LB001 Deployment/a"]);
}

#[test]
fn a_pod_that_exists_is_not_mended_in_a_file() {
    let stored = format!("{FACTS}---\n{}", stuck_pod("{name: a, namespace: default, uid: u-1}"));
    let run = lint(&["-f", "-"], &stored);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("kubectl annotate pvc scratch -n default volume.kubernetes.io/selected-node=worker-1"),
        "{}",
        run.stdout
    );
    assert!(findings(&["-f", "-"], &stored)[0].get("fix").is_none());
    let deleting = stored.replace("uid: u-1", "uid: u-1, deletionTimestamp: '2026-01-02T03:04:05Z'");
    assert_eq!(lint(&["-f", "-"], &deleting).code, 0);
}
