//! PinPolicies offline, held against what admission answers with the same facts.

use std::collections::BTreeSet;

use latebind::admission::{Admission, Exemptions, Hook, respond};
use latebind::binding::{Assumptions, Rules};
use latebind::facts::files::{Input, Manifests, Request};
use latebind::policy::Mode;
use serde_json::{Value, json};

use super::{directory, findings, lint, lint_in, names};

const FACTS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {team: x}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {rack: '1', kubernetes.io/hostname: n1}}
status: {conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast}
provisioner: example.com/disk
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: a}
spec: {storageClassName: fast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

fn pod(claim: Option<&str>, metadata: &Value) -> Value {
    let volumes: Vec<Value> =
        claim.iter().map(|claim| json!({ "name": "v", "persistentVolumeClaim": { "claimName": claim } })).collect();
    let mounts: Vec<Value> = claim.iter().map(|_| json!({ "name": "v", "mountPath": "/v" })).collect();
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "a" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "volumeMounts": mounts }], "volumes": volumes } });
    for (key, value) in metadata.as_object().unwrap() {
        pod["metadata"][key] = value.clone();
    }
    pod
}

fn policies(specs: &[Value]) -> String {
    let object = |(place, spec): (usize, &Value)| {
        let metadata = json!({ "name": format!("p{place}") });
        json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "PinPolicy", "metadata": metadata, "spec": spec })
            .to_string()
    };
    specs.iter().enumerate().map(object).collect::<Vec<_>>().join("\n---\n")
}

/// Policies, a Pod, who creates it, and the findings that are expected.
type Case = (Vec<Value>, Value, Option<&'static str>, &'static [&'static str]);

/// Every case by `lint --policy` and by the webhook: the same findings, and refused is what lint calls an error.
#[test]
fn lint_finds_what_admission_says() {
    let none: &'static [&'static str] = &[];
    let deny = |more: Value| {
        let mut spec = json!({ "mode": "Deny" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let only = |node: &str| json!({ "allowedNodes": { "names": [node] } });
    let exception = |until: &str| json!({ "allowedNodes": { "names": [] }, "exceptions": [{ "reason": "r", "expiresAt": until, "namespaces": ["a"] }] });
    let ignores = json!({ "annotations": { "latebind.dev/ignore": "LB001: by hand; LB302: mine" } });
    let cases: Vec<Case> = vec![
        (vec![deny(only("n2"))], pod(None, &json!({})), None, &["LB302"]),
        (vec![deny(only("n1"))], pod(None, &json!({})), None, none),
        (vec![deny(only("n2"))], pod(Some("data"), &json!({})), None, &["LB001", "LB302"]),
        (
            vec![json!({ "mode": "Warn", "allowedNodes": { "names": [] } })],
            pod(Some("data"), &json!({})),
            None,
            &["LB001", "LB302"],
        ),
        (vec![json!({ "mode": "Audit", "allowedNodes": { "names": [] } })], pod(None, &json!({})), None, &["LB302"]),
        (vec![json!({ "mode": "Off", "allowedNodes": { "names": [] } })], pod(None, &json!({})), None, none),
        (
            vec![deny(json!({ "allowedNodes": { "selector": { "matchLabels": { "rack": "2" } } } }))],
            pod(None, &json!({})),
            None,
            &["LB302"],
        ),
        (vec![deny(exception("2000-01-01T00:00:00Z"))], pod(None, &json!({})), None, &["LB302"]),
        (vec![deny(exception("2900-01-01T00:00:00Z"))], pod(None, &json!({})), None, none),
        (
            vec![deny(json!({ "requesters": { "users": ["jane"] }, "allowedNodes": { "names": [] } }))],
            pod(None, &json!({})),
            None,
            &["LB304"],
        ),
        (
            vec![deny(json!({ "requesters": { "users": ["jane"] }, "allowedNodes": { "names": [] } }))],
            pod(None, &json!({})),
            Some("jane"),
            &["LB302"],
        ),
        (
            vec![deny(json!({ "requesters": { "users": ["jane"] }, "allowedNodes": { "names": [] } }))],
            pod(None, &json!({})),
            Some("joe"),
            none,
        ),
        (
            vec![deny(json!({ "namespaces": { "names": ["b"] }, "allowedNodes": { "names": [] } }))],
            pod(None, &json!({})),
            None,
            none,
        ),
        (
            vec![deny(
                json!({ "namespaces": { "selector": { "matchLabels": { "team": "x" } } }, "allowedNodes": { "names": [] } }),
            )],
            pod(None, &json!({})),
            None,
            &["LB302"],
        ),
        (
            vec![deny(json!({ "storageClasses": ["fast"], "allowedNodes": { "names": [] } }))],
            pod(None, &json!({})),
            None,
            none,
        ),
        (vec![deny(only("n2"))], pod(Some("data"), &ignores), None, &["LB001", "LB302", "LB303"]),
        (vec![deny(only("n1")), json!({ "mode": "Off" })], pod(Some("data"), &json!({})), None, &["LB001"]),
    ];
    for (specs, pod, requester, expected) in cases {
        let texts =
            directory(&[("facts.yaml", FACTS), ("policy.yaml", &policies(&specs)), ("pod.json", &pod.to_string())]);
        let mut args = vec!["-f", "pod.json", "--objects", "facts.yaml", "--policy", "policy.yaml", "-o", "json"];
        args.extend(requester.iter().flat_map(|user| ["--requester", user]));
        let run = lint_in(texts.path(), &args, "");
        let list: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stderr));
        let found = list["items"].as_array().unwrap();
        // An entry of the annotation that nobody may have is a finding about the manifest alone.
        let of_pod = found.iter().filter(|it| it["code"] != "LB301");
        let codes: BTreeSet<&str> = of_pod.clone().map(|it| it["code"].as_str().unwrap()).collect();
        assert_eq!(codes, expected.iter().copied().collect(), "lint: {specs:?} {pod}");

        let (said, refused) = admission(texts.path(), &pod, requester);
        assert_eq!(said, codes.iter().map(ToString::to_string).collect(), "admission: {specs:?} {pod}");
        let is_denied = specs.iter().any(|spec| spec["mode"] == "Deny");
        let has_error = of_pod.clone().any(|it| it["severity"] == "error" && it["state"] == "open");
        assert_eq!(refused, is_denied && has_error, "{specs:?} {pod}");
    }
}

/// The findings that the webhook's audit annotation names, and whether it refuses.
fn admission(directory: &std::path::Path, pod: &Value, requester: Option<&str>) -> (BTreeSet<String>, bool) {
    let input = |name: &str| Input::Path(directory.join(name));
    let request = Request { objects: vec![input("facts.yaml"), input("policy.yaml")], ..Request::default() };
    let manifests = Manifests::read(&request).unwrap();
    let user = requester.map(|user| json!({ "username": user, "groups": ["system:authenticated"] }));
    let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": { "uid": "1",
        "kind": { "group": "", "version": "v1", "kind": "Pod" }, "operation": "CREATE", "namespace": "a",
        "userInfo": user, "object": pod } });
    let (rules, exemptions) = (Rules { assume: Assumptions::in_order(), ..Rules::default() }, Exemptions::default());
    let admission = Admission {
        view: manifests.facts(),
        rules: &rules,
        provisioners: &[],
        mode: Mode::default(),
        exemptions: &exemptions,
        details: true,
        guard: None,
        now: k8s_openapi::jiff::Timestamp::now(),
    };
    let answer = respond(Hook::Validate, review.to_string().as_bytes(), &admission).unwrap().answer;
    let findings = answer.audit.get("findings").cloned().unwrap_or_default();
    let codes = findings.split(',').filter(|code| !code.is_empty()).map(str::to_owned).collect();
    (codes, answer.denial.is_some())
}

#[test]
fn a_file_that_holds_no_policy_is_no_policy() {
    let texts = directory(&[
        ("pod.json", &pod(None, &json!({})).to_string()),
        ("facts.yaml", FACTS),
        (
            "typo.yaml",
            "apiVersion: latebind.dev/v1alpha1\nkind: PinPolicy\nmetadata: {name: p}\nspec: {mode: Deny, namespace: a}\n",
        ),
    ]);
    let run = lint_in(texts.path(), &["-f", "pod.json", "--policy", "facts.yaml"], "");
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("there is no PinPolicy in it"), "{}", run.stderr);
    let run = lint_in(texts.path(), &["-f", "pod.json", "--policy", "typo.yaml"], "");
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("spec.namespace: there is no such field"), "{}", run.stderr);
}

#[test]
fn a_workload_is_judged_too_and_the_person_who_writes_it_does_not_create_its_pods() {
    let template = pod(None, &json!({}));
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "j", "namespace": "a" },
        "spec": { "template": { "metadata": { "annotations": {} }, "spec": template["spec"] } } });
    let whole = |spec: Value| format!("{FACTS}---\n{}\n---\n{job}\n", policies(&[spec]));
    let found = findings(&["-f", "-"], &whole(json!({ "mode": "Deny", "allowedNodes": { "names": [] } })));
    assert_eq!(names(&found), ["LB302 Job/j"]);
    assert_eq!(found[0]["path"], "spec.template.spec.nodeName");
    let by_user = json!({ "mode": "Deny", "requesters": { "users": ["jane"] }, "allowedNodes": { "names": [] } });
    let found = findings(&["-f", "-", "--requester", "jane"], &whole(by_user));
    assert_eq!(names(&found), ["LB304 Job/j"]);
}

#[test]
fn control_characters_of_a_policy_reach_no_terminal() {
    let spec = json!({ "mode": "Deny", "allowedNodes": { "names": ["\u{1b}[2Jn2"] } });
    let run = lint(&["-f", "-"], &format!("{FACTS}---\n{}\n---\n{}\n", policies(&[spec]), pod(None, &json!({}))));
    assert!(!run.stdout.contains('\u{1b}') && run.stdout.contains("LB302"), "{}", run.stdout);
}
