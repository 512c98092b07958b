//! Findings that an object accepts.

use super::{FACTS, findings, lint, names, stuck_pod};

fn with(annotation: &str) -> String {
    let metadata = format!("{{name: a, annotations: {{latebind.dev/ignore: {annotation:?}}}}}");
    format!("{FACTS}---\n{}", stuck_pod(&metadata))
}

#[test]
fn a_reason_makes_it_ignored() {
    let input = with("LB001: bound by hand, see the wiki");
    let found = findings(&["-f", "-"], &input);
    assert_eq!(names(&found), ["LB001 Pod/a"]);
    assert_eq!(found[0]["state"], "ignored");
    assert_eq!(found[0]["reason"], "bound by hand, see the wiki");
    assert!(found[0]["fix"].is_null(), "what is accepted is not fixed");
    let run = lint(&["-f", "-"], &input);
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains("ignored: bound by hand") && run.stdout.contains("1 ignored"), "{}", run.stdout);
    let run = lint(&["-f", "-", "--fix"], &input);
    assert_eq!((run.code, run.stdout.as_str()), (0, input.as_str()));
}

#[test]
fn without_a_reason_the_finding_stands() {
    for annotation in ["LB001", "LB001:", "LB002: another", "LB999: what", "everything"] {
        let found = findings(&["-f", "-"], &with(annotation));
        assert_eq!(found[0]["code"], "LB001");
        assert_eq!(found[0]["state"], "open", "{annotation}");
        let faulty = annotation != "LB002: another";
        assert_eq!(found.iter().any(|found| found["code"] == "LB301"), faulty, "{annotation}: {found:?}");
        if faulty {
            assert_eq!(found[1]["path"], "metadata.annotations.latebind.dev/ignore");
            assert_eq!(found[1]["start"]["line"], found[0]["start"]["line"].as_u64().unwrap() - 2);
        }
    }
}

#[test]
fn templates_may_carry_the_annotation_too() {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec:\n  template:\n    metadata: {annotations: {latebind.dev/ignore: 'LB001: by hand'}}\n    spec:\n      nodeName: worker-1\n      containers: [{name: a, volumeMounts: [{name: d, mountPath: /d}]}]\n      volumes: [{name: d, persistentVolumeClaim: {claimName: scratch}}]\n";
    let found = findings(&["-f", "-"], &format!("{FACTS}---\n{job}"));
    assert_eq!(names(&found), ["LB001 Job/a"]);
    assert_eq!(found[0]["state"], "ignored");
}

#[test]
fn storage_may_be_accepted() {
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: a, annotations: {latebind.dev/ignore: 'LB201: one node only'}}\nprovisioner: rancher.io/local-path\n";
    let found = findings(&["-f", "-"], class);
    assert_eq!((found.len(), &found[0]["state"]), (1, &"ignored".into()));
}
