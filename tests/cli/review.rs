//! `latebind simulate --review`: a recorded review, answered.

use latebind::admission::{Admission, Exemptions, Hook, respond};
use latebind::binding::{AssumedNode, Assumptions, Rules};
use latebind::facts::files::{Input, Manifests, Request};
use latebind::policy::Mode;

use super::*;

const FACTS: &str = "examples/deadlock/1-dynamic-class.yaml";

fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "5d3a7c1e-0000-4000-8000-000000000001",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "default",
            "userInfo": {"username": "someone", "groups": ["system:authenticated"]},
            "object": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "volume-test", "namespace": "default"},
                "spec": {
                    "nodeName": "k3d-test-server-0",
                    "containers": [{"name": "a", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
                    "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "local-path-pvc"}}]
                }
            },
            "dryRun": true
        }
    })
}

const ASSUMED: &str = "--assume-node=schedulable";

/// By itself the server takes nothing for granted, and neither does a replay.
#[test]
fn a_replay_rewrites_on_no_assumption_unless_it_is_told_to() {
    let body = serde_json::to_vec(&review()).unwrap();
    let run = run_with(&["simulate", "--review", "-", "--objects", FACTS, "-o", "json"], &body, &[]);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(answer["response"].get("patch").is_none(), "{answer}");
    assert!(answer["response"]["warnings"].to_string().contains("LB015"), "{answer}");
}

fn answered(hook: Hook, body: &[u8]) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let request = Request { objects: vec![Input::Path(root.join(FACTS))], ..Request::default() };
    let manifests = Manifests::read(&request).unwrap();
    let assume = Assumptions { node: AssumedNode::Schedulable, ..Assumptions::default() };
    let (rules, exemptions) = (Rules { assume, ..Rules::default() }, Exemptions::default());
    let view = manifests.facts();
    let admission = Admission {
        view,
        rules: &rules,
        provisioners: &[],
        mode: Mode::Rewrite,
        exemptions: &exemptions,
        details: true,
        guard: None,
        now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
    };
    respond(hook, body, &admission).unwrap().json
}

#[test]
fn json_is_the_very_answer_of_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let body = serde_json::to_vec(&review()).unwrap();
    let path = file(directory.path(), "review.json", &body);
    let path = path.to_str().unwrap();
    let bytes = printed(&["simulate", "--review", path, "--objects", FACTS, ASSUMED, "-o", "json"]).into_bytes();
    assert_eq!(bytes, answered(Hook::Mutate, &body));
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    assert_eq!(answer["response"]["uid"], "5d3a7c1e-0000-4000-8000-000000000001");
    let validated =
        printed(&["simulate", "--review", path, "--hook", "validate", "--objects", FACTS, ASSUMED, "-o", "json"]);
    assert_eq!(validated.into_bytes(), answered(Hook::Validate, &body));
}

#[test]
fn people_get_the_same_answer_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let body = serde_json::to_vec(&review()).unwrap();
    let run = run_with(&["simulate", "--review", "-", "--objects", FACTS, ASSUMED], &body, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("rewritten: the scheduler places it"), "{}", run.stdout);
    // As YAML, which people write by hand.
    let yaml = file(directory.path(), "review.yaml", serde_saphyr::to_string(&review()).unwrap());
    let diff = printed(&["simulate", "--review", yaml.to_str().unwrap(), "-f", FACTS, ASSUMED, "-o", "diff"]);
    assert!(diff.contains("-  nodeName: k3d-test-server-0\n"), "{diff}");
}

#[test]
fn what_admission_does_not_look_at_is_said() {
    let mut update = review();
    update["request"]["operation"] = json!("UPDATE");
    let run = run_with(&["simulate", "--review", "-"], update.to_string().as_bytes(), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("does not look at such requests"), "{}", run.stdout);
}

#[test]
fn what_is_no_review_is_refused_as_the_server_does() {
    let mut old = review();
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let cases: [(Vec<u8>, &str); 6] = [
        (old.to_string().into_bytes(), "admissionReviewVersions"),
        (b"{\"kind\": \"Pod\", \"apiVersion\": \"v1\"}".to_vec(), "is not an AdmissionReview"),
        (b"{\"kind\":".to_vec(), "not one AdmissionReview in JSON"),
        (b"a: 1\n---\nb: 2\n".to_vec(), "one AdmissionReview is needed, and there are 2 documents"),
        (b"\xff\xfe".to_vec(), "invalid utf-8"),
        (vec![b' '; (7 << 20) + 1], "larger than 7 MiB"),
    ];
    for (body, expected) in cases {
        let run = run_with(&["simulate", "--review", "-", "-o", "json"], &body, &[]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{expected}");
        assert!(run.stderr.contains(expected), "{expected:?} not in {}", run.stderr);
    }
    assert_eq!(run(&["simulate", "--review", "/no/such/review.json"]).code, 2);
}
