//! `latebind simulate` on files, directories and standard input.

use super::*;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: n1
  containers: [{name: a, image: b, volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

fn items(args: &[&str]) -> Vec<Value> {
    let list: Value = serde_json::from_str(&printed(&[&["simulate", "-o", "json"], args].concat())).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[test]
fn every_form_of_the_deadlock_is_named_and_fixed() {
    for name in ["1-dynamic-class", "2-static-disk", "3-ephemeral-volume", "4-ci-job", "5-statefulset"] {
        let path = format!("examples/deadlock/{name}.yaml");
        matches_golden(&format!("simulate-{name}.txt"), &printed(&["simulate", "-f", &path]));
        // What admission would store is no longer stuck: it goes back in as it came out.
        let admitted = printed(&["simulate", "-f", &path, "-o", "yaml"]);
        let again = run_with(&["simulate", "-f", "-", "--objects", &path], admitted.as_bytes(), &[]);
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert!(again.stdout.ends_with("1 Pod: none would wait forever\n"), "{name}: {}", again.stdout);
    }
    let path = "examples/deadlock/1-dynamic-class.yaml";
    matches_golden("simulate-1.diff", &printed(&["simulate", "-f", path, "-o", "diff"]));
    matches_golden("simulate-1.json", &printed(&["simulate", "-f", path, "-o", "json"]));
}

#[test]
fn exactly_the_pinned_ones_are_stuck_whatever_their_kind() {
    let found = items(&["-f", "examples/mixed"]);
    assert_eq!(found.len(), 28);
    for item in &found {
        let name = item["object"]["name"].as_str().unwrap();
        let stuck = item["pods"].as_array().unwrap().iter().any(|pod| pod["stuck"] == true);
        assert_eq!(stuck, name.starts_with("pinned"), "{item:#}");
    }
    let kinds: std::collections::BTreeSet<_> =
        found.iter().map(|item| item["object"]["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn a_patch_is_json_alone_and_a_stream_in_company() {
    let one = printed(&["simulate", "-f", "examples/deadlock/1-dynamic-class.yaml", "-o", "patch"]);
    let patch: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(patch[0], json!({"op": "remove", "path": "/spec/nodeName"}));
    let many = printed(&["simulate", "-f", "examples/deadlock", "-o", "patch"]);
    assert_eq!(many.matches("---\n").count(), 4);
    let read: Vec<Value> = serde_saphyr::from_multiple(&many).unwrap();
    assert!(read.len() == 5 && read.iter().all(Value::is_array), "{many}");
    assert_eq!(printed(&["simulate", "-f", "examples/mixed/facts.yaml", "-o", "patch"]), "");
}

#[test]
fn several_results_go_where_they_are_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (patched, diff) = (directory.path().join("p.json"), directory.path().join("d.diff"));
    let (to_patch, to_diff) = (format!("patch={}", patched.display()), format!("diff={}", diff.display()));
    let path = "examples/deadlock/1-dynamic-class.yaml";
    let summary =
        printed(&["simulate", "-f", path, "-o", &to_patch, "-o", "summary", "-o", &to_diff, "--color=always"]);
    assert!(summary.contains("\u{1b}[") && summary.contains("volume-test"), "{summary}");
    assert!(serde_json::from_str::<Value>(&fs::read_to_string(patched).unwrap()).unwrap().is_array());
    let diff = fs::read_to_string(diff).unwrap();
    assert!(diff.contains("-  nodeName: k3d-test-server-0\n") && !diff.contains('\u{1b}'), "{diff}");
}

#[test]
fn what_is_not_in_the_input_is_assumed_as_the_flags_say_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "pod.yaml", POD);
    let path = path.to_str().unwrap();
    let first = |extra: &[&str]| items(&[&["-f", path], extra].concat()).remove(0);
    let codes = |item: &Value| -> Vec<String> {
        let findings = item["pods"][0]["verdict"]["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    };

    let unknown = first(&[]);
    assert_eq!(codes(&unknown), ["LB003"]);
    assert_eq!(unknown["pods"][0]["patch"], json!([]));

    let delayed = first(&["--assume-binding-mode=delayed"]);
    assert_eq!(codes(&delayed), ["LB001"]);
    assert_eq!(delayed["pods"][0]["decision"], "rewritten");
    assert_eq!(
        delayed["assumptions"],
        json!([
            "StorageClass fast is not in the input: assumed to bind WaitForFirstConsumer",
            "Node n1 is not in the input: assumed ready, untainted, hostname label n1"
        ])
    );

    let immediate = first(&["--assume-binding-mode", "immediate"]);
    assert_eq!((codes(&immediate), &immediate["pods"][0]["stuck"]), (vec!["LB019".to_owned()], &json!(false)));

    let no_node = first(&["--assume-binding-mode=delayed", "--assume-node=unknown"]);
    assert_eq!(codes(&no_node), ["LB001", "LB015"]);
    assert_eq!(no_node["pods"][0]["patch"], json!([]));
}

#[test]
fn flags_and_environment_choose_pin_scheduler_and_mode() {
    let path = "examples/deadlock/1-dynamic-class.yaml";
    let by_name = items(&["-f", path, "--pin=name"]).remove(0);
    assert!(by_name["pods"][0]["after"].pointer("/spec/affinity/nodeAffinity").is_some(), "{by_name:#}");
    let by_env = run_with(&["simulate", "-f", path, "-o", "patch"], b"", &[("LATEBIND_PIN", "name")]);
    assert!(by_env.stdout.contains("metadata.name"), "{}", by_env.stdout);

    let other = items(&["-f", path, "--scheduler", "volcano"]).remove(0);
    assert_eq!(other["pods"][0]["verdict"]["findings"][1]["code"], "LB108");

    let denied = run(&["simulate", "-f", path, "--mode", "deny"]);
    assert_eq!(denied.code, 1);
    assert!(denied.stdout.contains("refused: LB001:"), "{}", denied.stdout);
    let warned = items(&["-f", path, "--mode", "warn"]).remove(0);
    assert_eq!((&warned["pods"][0]["patch"], &warned["pods"][0]["allowed"]), (&json!([]), &json!(true)));
}

#[test]
fn objects_and_namespace_complete_the_input() {
    let directory = tempfile::tempdir().unwrap();
    let pod = POD.split("---\n").next().unwrap();
    let claim = POD.split("---\n").nth(1).unwrap().replace("{name: data}", "{name: data, namespace: team}");
    let facts = file(directory.path(), "facts.yaml", claim);
    let facts = facts.to_str().unwrap();
    let args = ["simulate", "-f", "-", "--objects", facts, "-o", "json", "--assume-binding-mode=delayed"];
    let decision = |args: &[&str]| {
        let run = run_with(args, pod.as_bytes(), &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let list: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        list["items"][0]["pods"][0]["decision"].as_str().unwrap().to_owned()
    };
    assert_eq!(decision(&args), "warned");
    assert_eq!(decision(&[&args[..], &["-n", "team"]].concat()), "rewritten");
    assert_eq!(decision(&[&args[..], &["-n", "kube-system"]].concat()), "exempt");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "mixed.yaml", format!("{POD}---\na: [1\n---\nkind: Pod\n"));
    let partial = run(&["simulate", "-f", path.to_str().unwrap()]);
    assert_eq!(partial.code, 5);
    assert!(partial.stdout.contains("Pod default/web"), "{}", partial.stdout);
    assert!(partial.stderr.contains("mixed.yaml:14:4: unclosed bracket"), "{}", partial.stderr);
    assert!(
        partial.stderr.contains("mixed.yaml:16:1: not a Kubernetes object: apiVersion is missing"),
        "{}",
        partial.stderr
    );
    let nothing = run_with(&["simulate", "-f", "-"], b"a: [1\n", &[]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("<stdin>:1:4: "), "{}", nothing.stderr);
    let template = run_with(&["simulate", "-f", "-"], b"kind: {{ .Values.kind }}\n", &[]);
    assert!(template.stderr.contains("helm template CHART | latebind"), "{}", template.stderr);
    let empty = run_with(&["simulate", "-f", "-"], b"", &[]);
    assert_eq!((empty.code, empty.stdout.as_str()), (0, "no Pod and no workload in the input\n"));
}

#[test]
fn directories_need_r_to_be_searched() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    file(directory.path(), "sub/pod.yaml", POD);
    let path = directory.path().to_str().unwrap();
    let flat = run(&["simulate", "-f", path]);
    assert_eq!(flat.code, 2);
    assert!(flat.stderr.contains("add -R to look into subdirectories"), "{}", flat.stderr);
    assert_eq!(items(&["-R", "-f", path]).len(), 1);
}

#[test]
fn what_the_provisioner_will_refuse_is_said_and_is_not_mended() {
    let class = "---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: fast}\nprovisioner: local.latebind.dev\nvolumeBindingMode: WaitForFirstConsumer\n";
    let served = printed_of(&format!("{POD}{class}"));
    assert!(served.contains("admission fixes 1") && !served.contains("provisioner:"), "{served}");
    for (from, to, why) in [
        ("[ReadWriteOnce]", "[ReadWriteMany]", "accessMode ReadWriteMany is not served"),
        ("{storageClassName: fast", "{volumeMode: Block, storageClassName: fast", "volumeMode Block is not served"),
        ("provisioner: local", "parameters: {quota: x}\nprovisioner: local", "unknown parameter `quota`"),
    ] {
        let refused = printed_of(&format!("{POD}{class}").replace(from, to));
        let flat = refused.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("provisioner:") && flat.contains(why), "{refused}");
        assert!(flat.contains("admission fixes 0"), "{refused}");
    }
    // The verdict follows the parameter of the class, and so does admission.
    let shared = format!("{POD}{class}")
        .replace("[ReadWriteOnce]", "[ReadWriteMany]")
        .replace("provisioner: local", "parameters: {sharedOnNode: \"true\"}\nprovisioner: local");
    let served = printed_of(&shared);
    assert!(served.contains("admission fixes 1") && !served.contains("provisioner:"), "{served}");
    // Another provisioner may do it, and so may ours for a class that is not known.
    let other = format!("{POD}{class}")
        .replace("[ReadWriteOnce]", "[ReadWriteMany]")
        .replace("local.latebind.dev", "nfs.example.com");
    assert!(!printed_of(&other).contains("provisioner:"));
}

fn printed_of(input: &str) -> String {
    run_with(&["simulate", "-f", "-"], input.as_bytes(), &[]).stdout
}

#[test]
fn a_pod_that_admission_leaves_alone_comes_with_the_real_reason() {
    let directory = tempfile::tempdir().unwrap();
    let plain = "metadata: {name: web}\nspec:\n";
    for (pod, reason) in [
        (
            POD.replace(plain, "metadata: {name: web, annotations: {kubernetes.io/config.mirror: x}}\nspec:\n"),
            "left alone: it is the image of a static Pod, which must keep its node name",
        ),
        (
            POD.replace(plain, "metadata: {name: web}\nspec:\n  schedulingGates: [{name: later}]\n"),
            "left alone: it has scheduling gates, and Kubernetes refuses it with a node name",
        ),
        (
            POD.replace("{name: web}", "{name: web, namespace: kube-system}")
                .replace("metadata: {name: data}", "metadata: {name: data, namespace: kube-system}"),
            "left alone: its namespace is exempt",
        ),
    ] {
        let path = file(directory.path(), "pod.yaml", &pod);
        let text = printed(&["simulate", "-f", path.to_str().unwrap()]);
        assert!(text.contains(reason), "{pod}\n{text}");
    }
}

const POLICIES: &str = "\
apiVersion: latebind.dev/v1alpha1
kind: PinPolicy
metadata: {name: racks}
spec:
  mode: Deny
  requesters: {groups: [devs]}
  allowedNodes: {names: [n2]}
---
apiVersion: latebind.dev/v1alpha1
kind: PinPolicy
metadata: {name: all}
spec:
  mode: Audit
---
apiVersion: latebind.dev/v1alpha1
kind: PinPolicy
metadata: {name: none}
spec:
  mode: Deny
  exceptions:
    - {reason: moving out, expiresAt: '2900-01-01T00:00:00Z', namespaces: [default]}
";

#[test]
fn the_policy_that_decides_is_named_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path(), "policies.yaml", POLICIES.as_bytes());
    let simulate = |more: &[&str]| {
        let args = [&["simulate", "-f", "-", "--policy", file.to_str().unwrap()], more].concat();
        run_with(&args, POD.as_bytes(), &[])
    };
    let run = simulate(&["--requester", "jane", "--requester-group", "devs"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for line in [
        "policy: mode deny, by PinPolicy \"racks\", the strictest of 2 that cover the Pod",
        "policy: PinPolicy \"all\" covers it too, mode audit",
        "policy: PinPolicy \"racks\" (mode deny) does not allow the node that it names",
        "policy: PinPolicy \"none\" does not cover it until 2900-01-01T00:00:00Z: moving out",
    ] {
        assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
    }
    assert!(run.stdout.contains("refused: LB302"), "{}", run.stdout);
    // Without a requester nobody knows, and so nobody is refused.
    let run = simulate(&["-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let list: Value = serde_json::from_str(&run.stdout).unwrap();
    let pod = &list["items"][0]["pods"][0];
    assert_eq!((pod["allowed"].as_bool(), pod["decision"].as_str()), (Some(true), Some("warned")), "{pod}");
    assert!(pod["policies"].to_string().contains("who creates the Pod is not known"), "{pod}");
    assert_eq!(simulate(&["--requester", "joe", "-o", "json"]).code, 0);
}
