//! A directory that mixes good and bad manifests of every kind.

use std::collections::BTreeSet;

use super::{findings, lint, lint_in, names};

const STUCK: [&str; 10] = [
    "LB001 Pod/bad-json",
    "LB001 Pod/bad-pod",
    "LB001 Deployment/bad-deployment",
    "LB001 ReplicaSet/bad-replicaset",
    "LB001 StatefulSet/bad-statefulset",
    "LB001 DaemonSet/bad-daemonset",
    "LB001 Job/bad-job",
    "LB001 CronJob/bad-cronjob",
    "LB001 ReplicationController/bad-controller",
    "LB001 PodTemplate/bad-template",
];

#[test]
fn exactly_the_stuck_workloads_are_errors() {
    let found = findings(&["-f", "tests/lint/mixed"], "");
    let errors: Vec<_> = found.iter().filter(|finding| finding["severity"] == "error").cloned().collect();
    assert_eq!(names(&errors), STUCK);
    let others: Vec<_> = found.iter().filter(|finding| finding["severity"] != "error").cloned().collect();
    assert_eq!(names(&others), ["LB019 Pod/pinned-and-well"]);
}

#[test]
fn places_are_those_of_the_node_name() {
    for finding in findings(&["-f", "tests/lint/mixed"], "").iter().filter(|found| found["code"] == "LB001") {
        let text = std::fs::read_to_string(finding["file"].as_str().unwrap()).unwrap();
        let line = finding["start"]["line"].as_u64().unwrap();
        let column = finding["start"]["column"].as_u64().unwrap();
        let line = text.lines().nth(usize::try_from(line).unwrap() - 1).unwrap();
        let field = &line[usize::try_from(column).unwrap() - 1..];
        assert!(field.trim_start_matches('"').starts_with("nodeName"), "{finding}: {field}");
    }
}

#[test]
fn a_stream_on_standard_input_is_read_as_the_files_are() {
    let mut stream = String::new();
    for file in ["cluster.yaml", "bad.yaml", "good.yaml"] {
        // As helm writes it: a comment names the template of each document.
        stream.push_str("---\n# Source: chart/templates/all.yaml\n");
        stream += &std::fs::read_to_string(format!("tests/lint/mixed/{file}")).unwrap();
    }
    let errors: Vec<_> =
        findings(&["-f", "-"], &stream).into_iter().filter(|found| found["severity"] == "error").collect();
    assert_eq!(names(&errors), STUCK[1..]);
    assert!(errors.iter().all(|found| found["file"] == "<stdin>"));
}

#[test]
fn facts_may_come_from_elsewhere() {
    let with = findings(&["-f", "tests/lint/mixed/bad.yaml", "--objects", "tests/lint/mixed/cluster.yaml"], "");
    assert_eq!(names(&with), STUCK[1..]);
    let without = findings(&["-f", "tests/lint/mixed/bad.yaml"], "");
    assert!(without.iter().all(|found| found["severity"] == "warning"), "{without:?}");
    assert_eq!(without.len(), 9);
}

#[test]
fn assumptions_that_were_used_are_named() {
    let args = ["-f", "tests/lint/mixed/bad.json", "--assume-binding-mode=delayed"];
    let run = lint(&args, "");
    assert!(
        !run.stdout.contains("StorageClass"),
        "the claim is not known, so its class is not asked for: {}",
        run.stdout
    );
    let facts = "kind: PersistentVolumeClaim\napiVersion: v1\nmetadata: {name: scratch}\nspec: {storageClassName: x}\n";
    let run = lint(&[args.as_slice(), &["-f", "-"]].concat(), facts);
    assert!(run.stdout.contains("StorageClass x is not in the input: assumed"), "{}", run.stdout);
    assert!(run.stdout.contains("Node worker-1 is not in the input: assumed"), "{}", run.stdout);
    assert_eq!(run.code, 1);
}

#[test]
fn after_the_fix_nothing_is_stuck_and_the_other_files_are_as_they_were() {
    let files = ["cluster.yaml", "good.yaml", "bad.yaml", "bad.json"];
    let texts = files.map(|file| std::fs::read_to_string(format!("tests/lint/mixed/{file}")).unwrap());
    let pairs: Vec<_> = files.iter().zip(&texts).map(|(file, text)| (*file, text.as_str())).collect();
    let directory = super::directory(&pairs);
    let run = lint_in(directory.path(), &["-f", ".", "--fix"], "");
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("10 fixed"), "{}", run.stdout);
    let after = files.map(|file| std::fs::read_to_string(directory.path().join(file)).unwrap());
    assert_eq!(after[..2], texts[..2]);
    for (before, after) in texts[2..].iter().zip(&after[2..]) {
        assert!(!after.contains("nodeName"), "{after}");
        let touched = ["nodeName", "nodeSelector"];
        for line in before.lines().filter(|line| !touched.iter().any(|word| line.contains(word))) {
            assert!(after.lines().any(|other| other == line), "lost: {line}");
        }
    }
    assert!(after[2].contains("kubernetes.io/hostname: worker-1  # the one with the disk"));
    let again = lint_in(directory.path(), &["-f", ".", "--fix"], "");
    assert_eq!((again.code, again.stdout.contains("error")), (0, false), "{}", again.stdout);
}

#[test]
fn the_example_folder_holds_what_its_names_say() {
    let mut text = String::new();
    for file in std::fs::read_dir("examples/mixed").unwrap() {
        text += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '-'));
    let pinned: BTreeSet<&str> = words.filter(|word| word.starts_with("pinned-")).collect();
    let found = findings(&["-f", "examples/mixed"], "");
    let errors = found.iter().filter(|found| found["severity"] != "info");
    let named: Vec<&str> = errors.map(|found| found["object"]["name"].as_str().unwrap()).collect();
    assert_eq!(named.len(), pinned.len());
    assert_eq!(named.into_iter().collect::<BTreeSet<_>>(), pinned);
}
