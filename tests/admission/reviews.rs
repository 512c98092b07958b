//! What is answered to each kind of review.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use latebind::admission::service::AdmissionOptions;
use latebind::facts::Unlisted;
use latebind::policy::Mode;
use serde_json::{Value, json};

use super::support::{Config, Served, review, serve, view};

async fn serve_in(mode: Mode) -> Served {
    serve(Config { choices: AdmissionOptions { mode, ..AdmissionOptions::default() }, ..Config::default() }).await
}

/// The object of a review after the patch of an answer; the patch must apply.
fn patched(review: &Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(response["patch"].as_str().expect("base64, not an array of numbers")).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut object = review["request"]["object"].clone();
    json_patch::patch(&mut object, &patch).expect("the patch applies");
    object
}

/// Nothing but `allowed` and the UID.
fn assert_untouched(response: &Value) {
    let keys: Vec<&String> = response.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["allowed", "uid"], "{response}");
    assert_eq!(response["allowed"], true);
}

fn warnings(response: &Value) -> Vec<&str> {
    let warnings = response["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let warnings: Vec<&str> = warnings.iter().map(|warning| warning.as_str().unwrap()).collect();
    for warning in &warnings {
        assert!(warning.chars().count() <= 256 && !warning.chars().any(char::is_control), "{warning:?}");
    }
    warnings
}

#[tokio::test]
async fn a_pinned_pod_of_a_delayed_claim_is_rewritten() {
    let served = serve_in(Mode::Rewrite).await;
    let review = review("pod-pinned");
    let response = served.client().ask("/mutate", &review).await;
    assert_eq!(response["allowed"], true);
    let mut expected = review["request"]["object"].clone();
    expected["spec"].as_object_mut().unwrap().remove("nodeName");
    expected["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "k3d-test-server-0"});
    expected["metadata"]["annotations"] = json!({"latebind.dev/original-node-name": "k3d-test-server-0"});
    assert_eq!(patched(&review, &response), expected);
    let [warning] = warnings(&response)[..] else { panic!("one warning, not {response}") };
    assert!(warning.starts_with("LB001: ") && warning.contains("shop-data"), "{warning}");
    assert!(warning.chars().count() <= 120, "{warning}");
    assert_eq!(
        response["auditAnnotations"],
        json!({"findings": "LB001", "mode": "rewrite", "original-node-name": "k3d-test-server-0",
               "remedy": "rewrite hostname=k3d-test-server-0"})
    );
    // Once rewritten, there is nothing left to say: the hook may be called again after others.
    let mut again = review.clone();
    again["request"]["object"] = expected;
    assert_untouched(&served.client().ask("/mutate", &again).await);
    assert_untouched(&served.client().ask("/validate", &again).await);
}

#[tokio::test]
async fn a_dry_run_is_answered_alike_and_counted_apart() {
    let served = serve_in(Mode::Rewrite).await;
    let review = review("pod-dry-run");
    let mut real = review.clone();
    real["request"]["dryRun"] = json!(false);
    let (dry, wet) = (served.client().ask("/mutate", &review).await, served.client().ask("/mutate", &real).await);
    assert_eq!(dry, wet);
    let annotations = &patched(&review, &dry)["metadata"]["annotations"];
    assert_eq!(*annotations, json!({"team": "shop", "latebind.dev/original-node-name": "k3d-test-server-0"}));
    for dry_run in ["true", "false"] {
        let series = format!(
            r#"latebind_admission_requests_total{{hook="mutate",decision="rewritten",code="LB001",dry_run="{dry_run}"}}"#
        );
        assert!((served.metric(&series).await - 1.0).abs() < f64::EPSILON, "{series}");
    }
}

#[tokio::test]
async fn a_pod_without_a_name_is_decided_by_its_template() {
    let served = serve_in(Mode::Rewrite).await;
    let review = review("pod-generate-name");
    let response = served.client().ask("/mutate", &review).await;
    let object = patched(&review, &response);
    assert_eq!(object["spec"]["nodeSelector"], json!({"kubernetes.io/hostname": "k3d-test-server-0"}));
    assert_eq!(object["spec"].get("nodeName"), None);
}

#[tokio::test]
async fn where_a_rewrite_is_not_safe_the_template_gets_the_node() {
    let served = serve_in(Mode::Rewrite).await;
    let review = review("pod-ephemeral-cordoned");
    let response = served.client().ask("/mutate", &review).await;
    let object = patched(&review, &response);
    assert_eq!(object["spec"]["nodeName"], "cordoned-0");
    let metadata = &object["spec"]["volumes"][0]["ephemeral"]["volumeClaimTemplate"]["metadata"];
    assert_eq!(metadata["annotations"], json!({"volume.kubernetes.io/selected-node": "cordoned-0"}));
    assert_eq!(metadata["labels"], json!({"kind": "scratch"}));
    assert_eq!(response["auditAnnotations"]["remedy"], "select-in-template scratch");
    assert_eq!(response["auditAnnotations"].get("original-node-name"), None, "the name is still on the Pod");
    assert!(warnings(&response).iter().any(|warning| warning.starts_with("LB101: ")), "{response}");
}

#[tokio::test]
async fn what_is_not_ours_is_allowed_untouched() {
    let served = serve_in(Mode::Rewrite).await;
    let client = served.client();
    for name in ["pod-delete", "pod-scheduled", "pod-mirror", "config-map"] {
        for path in ["/mutate", "/validate"] {
            assert_untouched(&client.ask(path, &review(name)).await);
        }
    }
    for name in ["deployment-pinned", "claim-selected"] {
        assert_untouched(&client.ask("/mutate", &review(name)).await);
    }
    let pinned = review("pod-pinned");
    let edits: [(&str, &[&str], Value); 6] = [
        ("kubelets", &["userInfo", "groups"], json!(["system:nodes", "system:authenticated"])),
        ("an exempt namespace", &["namespace"], json!("kube-system")),
        ("a subresource", &["subResource"], json!("ephemeralcontainers")),
        ("an update", &["operation"], json!("UPDATE")),
        ("a gated Pod", &["object", "spec", "schedulingGates"], json!([{"name": "example.com/hold"}])),
        ("a Pod of another group", &["kind", "group"], json!("metrics.k8s.io")),
    ];
    for (what, steps, value) in edits {
        let mut review = pinned.clone();
        let field = steps.iter().fold(&mut review["request"], |field, step| &mut field[*step]);
        *field = value;
        for path in ["/mutate", "/validate"] {
            let response = client.ask(path, &review).await;
            assert_eq!(response.as_object().unwrap().len(), 2, "{what}: {response}");
        }
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_left_to_the_api_server() {
    let served = serve_in(Mode::Deny).await;
    let client = served.client();
    for object in [
        json!({"metadata": {}, "spec": {"nodeName": 7}}),
        json!({"metadata": {"name": ["a"]}}),
        json!("a text"),
        json!([1, 2]),
        Value::Null,
        json!({"spec": {"volumes": {}}}),
    ] {
        for name in ["pod-pinned", "deployment-pinned", "claim-selected"] {
            let mut review = review(name);
            review["request"]["object"] = object.clone();
            for path in ["/mutate", "/validate"] {
                let response = client.ask(path, &review).await;
                assert_eq!(response["allowed"], true, "{object}");
                assert_eq!(response.get("patch"), None);
            }
        }
    }
    let series =
        r#"latebind_admission_requests_total{hook="mutate",decision="unreadable",code="none",dry_run="false"}"#;
    assert!(served.metric(series).await >= 5.0);
}

#[tokio::test]
async fn deep_nesting_neither_blocks_a_pod_nor_ends_the_server() {
    let served = serve_in(Mode::Rewrite).await;
    let text = serde_json::to_string(&review("pod-pinned")).unwrap();
    // In a field that nobody reads, it changes nothing; anywhere, it must not exhaust the stack.
    let deep = format!("{}{}", "{\"a\":".repeat(100_000), "1".to_owned() + &"}".repeat(100_000));
    let unread = text.replacen(r#""status":{}"#, &format!(r#""status":{{}},"extra":{deep}"#), 1);
    assert_ne!(unread, text);
    let (status, answer) = served.client().post("/mutate", unread).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(answer.contains("JSONPatch"), "{answer}");
    let read = text.replacen(r#""tolerations":["#, &format!(r#""affinity":{deep},"tolerations":["#), 1);
    assert_ne!(read, text);
    for path in ["/mutate", "/validate"] {
        let (status, answer) = served.client().post(path, read.clone()).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer.contains(r#""allowed":true"#), "{answer}");
    }
    let workload = serde_json::to_string(&review("deployment-pinned")).unwrap();
    let workload = workload.replacen(r#""tolerations":["#, &format!(r#""affinity":{deep},"tolerations":["#), 1);
    let (status, answer) = served.client().post("/validate", workload).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer.contains(r#""allowed":true"#), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_no_review_gets_400_and_says_why() {
    let served = serve_in(Mode::Rewrite).await;
    let client = served.client();
    let mut no_uid = review("pod-pinned");
    no_uid["request"].as_object_mut().unwrap().remove("uid");
    let mut no_request = review("pod-pinned");
    no_request.as_object_mut().unwrap().remove("request");
    let whole = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let (mut trailing, mut not_utf8) = (whole.clone(), whole.clone());
    trailing.extend_from_slice(b"{}");
    let place = not_utf8.windows(6).position(|window| window == b"team-a").unwrap();
    not_utf8[place] = 0xff;
    let bodies: [(&str, Vec<u8>, &str); 10] = [
        ("nothing", Vec::new(), "not one AdmissionReview"),
        ("not JSON", b"kind: AdmissionReview".to_vec(), "not one AdmissionReview"),
        ("half a review", whole[..whole.len() / 2].to_vec(), "not one AdmissionReview"),
        ("trailing bytes", trailing, "trailing characters"),
        ("not UTF-8", not_utf8, "not one AdmissionReview"),
        ("another kind", serde_json::to_vec(&review("pod-pinned")["request"]["object"]).unwrap(), "\"Pod\" of \"v1\""),
        ("v1beta1", serde_json::to_vec(&review("review-v1beta1")).unwrap(), "admissionReviewVersions: [\"v1\"]"),
        ("no UID", serde_json::to_vec(&no_uid).unwrap(), "no uid"),
        ("no request", serde_json::to_vec(&no_request).unwrap(), "no request"),
        ("null", b"null".to_vec(), "not one AdmissionReview"),
    ];
    for (what, body, reason) in bodies {
        let (status, text) = client.post("/mutate", body).await.unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{what}: {text}");
        assert!(text.contains(reason), "{what}: {text}");
    }
    assert!(served.metric(r#"latebind_admission_refusals_total{hook="mutate",status="400"}"#).await >= 10.0);
}

#[tokio::test]
async fn absent_and_unknown_claims_get_the_same_answer() {
    let mut answers = Vec::new();
    for unlisted in [Unlisted::Absent, Unlisted::Unknown] {
        for mode in [Mode::Rewrite, Mode::Deny] {
            let choices = AdmissionOptions { mode, ..AdmissionOptions::default() };
            let served = serve(Config { view: view(unlisted), choices, ..Config::default() }).await;
            let mut review = review("pod-pinned");
            review["request"]["object"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("secret");
            for path in ["/mutate", "/validate"] {
                let mut response = served.client().ask(path, &review).await;
                assert_eq!(response["allowed"], true);
                assert_eq!(response.get("patch"), None);
                assert!(warnings(&response)[0].starts_with("LB002: "), "{response}");
                response["auditAnnotations"]["mode"] = Value::Null;
                answers.push(response);
            }
        }
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
}

#[tokio::test]
async fn a_claim_of_another_namespace_is_not_the_pods() {
    let served = serve_in(Mode::Rewrite).await;
    // The object says one namespace and the request, which the API server has authorized, another.
    let mut review = review("pod-pinned");
    review["request"]["namespace"] = json!("team-b");
    let response = served.client().ask("/mutate", &review).await;
    assert_eq!(response.get("patch"), None);
    assert!(warnings(&response)[0].starts_with("LB002: "), "{response}");
}

#[tokio::test]
async fn audit_is_silent_and_warn_changes_nothing() {
    let review = review("pod-pinned");
    let served = serve_in(Mode::Audit).await;
    for path in ["/mutate", "/validate"] {
        let response = served.client().ask(path, &review).await;
        assert_eq!((response.get("patch"), response.get("warnings")), (None, None), "{response}");
        assert_eq!(response["auditAnnotations"]["findings"], "LB001");
        assert_eq!(response["auditAnnotations"]["mode"], "audit");
    }
    let served = serve_in(Mode::Warn).await;
    let mutate = served.client().ask("/mutate", &review).await;
    assert_eq!(mutate.get("patch"), None);
    assert!(warnings(&mutate)[0].ends_with("left as it is"), "{mutate}");
    // The API server shows a warning once when both webhooks say it in the same words.
    assert_eq!(served.client().ask("/validate", &review).await["warnings"], mutate["warnings"]);
}

#[tokio::test]
async fn a_workload_is_told_when_its_pods_are_mended() {
    for (mode, end) in [(Mode::Rewrite, "fixed when its Pod is created"), (Mode::Warn, "left as it is")] {
        let served = serve_in(mode).await;
        for name in ["deployment-pinned", "stateful-set-pinned"] {
            let response = served.client().ask("/validate", &review(name)).await;
            assert!(warnings(&response)[0].ends_with(end), "{mode} {response}");
        }
    }
}

#[tokio::test]
async fn deny_refuses_what_would_wait_forever_and_says_what_to_do() {
    let served = serve_in(Mode::Deny).await;
    let client = served.client();
    for name in ["pod-pinned", "deployment-pinned", "stateful-set-pinned"] {
        let response = client.ask("/validate", &review(name)).await;
        assert_eq!(response["allowed"], false, "{name}");
        assert_eq!(response["status"]["code"], 403);
        assert_eq!(response["status"]["reason"], "Forbidden");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("LB001: ") && message.contains("lint --fix"), "{name}: {message}");
        assert_eq!(response.get("patch"), None);
    }
    let mutate = client.ask("/mutate", &review("pod-pinned")).await;
    assert_eq!((mutate["allowed"].clone(), mutate.get("patch")), (json!(true), None), "the other webhook refuses");
    let poisoned = client.ask("/validate", &review("claim-selected")).await;
    assert_eq!(poisoned["allowed"], false);
    assert!(poisoned["status"]["message"].as_str().unwrap().starts_with("LB005: "), "{poisoned}");
}

#[tokio::test]
async fn an_update_is_judged_by_what_it_makes_worse() {
    let served = serve_in(Mode::Deny).await;
    let client = served.client();
    // It was pinned before: scaling it is nobody's fault.
    assert_untouched(&client.ask("/validate", &review("deployment-scaled")).await);
    let mut pinning = review("deployment-scaled");
    pinning["request"]["oldObject"]["spec"]["template"]["spec"].as_object_mut().unwrap().remove("nodeName");
    assert_eq!(client.ask("/validate", &pinning).await["allowed"], false);
    let mut fixing = review("deployment-scaled");
    fixing["request"]["object"]["spec"]["template"]["spec"].as_object_mut().unwrap().remove("nodeName");
    assert_untouched(&client.ask("/validate", &fixing).await);
    let mut labelling = review("claim-selected");
    labelling["request"]["oldObject"] = labelling["request"]["object"].clone();
    labelling["request"]["object"]["metadata"]["labels"] = json!({"team": "shop"});
    assert_untouched(&client.ask("/validate", &labelling).await);
}

#[tokio::test]
async fn workloads_and_claims_are_warned_about() {
    let served = serve_in(Mode::Rewrite).await;
    let client = served.client();
    for (name, code) in [("deployment-pinned", "LB001"), ("stateful-set-pinned", "LB001"), ("claim-selected", "LB005")]
    {
        let response = client.ask("/validate", &review(name)).await;
        assert_eq!(response["allowed"], true, "{name}");
        assert!(warnings(&response)[0].starts_with(code), "{name}: {response}");
        assert_eq!(response["auditAnnotations"]["findings"], code);
    }
    // A claim of a class with a provisioner may carry a selected node: that is how the scheduler orders a volume.
    let mut ordered = review("claim-selected");
    ordered["request"]["object"]["spec"]["storageClassName"] = json!("local-path");
    assert_untouched(&client.ask("/validate", &ordered).await);
}

#[tokio::test]
async fn hostile_names_reach_neither_terminal_nor_header() {
    let served = serve_in(Mode::Deny).await;
    let long = "n".repeat(100_000);
    let mut of_node = review("pod-pinned");
    of_node["request"]["object"]["spec"]["nodeName"] = json!(format!("node\u{1b}[2J\r\nX: y{long}"));
    let mut of_claim = review("pod-pinned");
    of_claim["request"]["object"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] =
        json!(format!("a\u{1b}]0;title\u{7}\n{long}"));
    for review in [of_node, of_claim] {
        for path in ["/mutate", "/validate"] {
            let response = served.client().ask(path, &review).await;
            assert!(!warnings(&response).is_empty());
            assert!(response.to_string().len() < 5_000, "{response}");
            let mut texts = vec![&response];
            while let Some(value) = texts.pop() {
                match value {
                    Value::String(text) => assert!(!text.chars().any(char::is_control), "{text:?}"),
                    Value::Array(values) => texts.extend(values),
                    Value::Object(fields) => texts.extend(fields.values()),
                    _ => {}
                }
            }
        }
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let served = serve_in(Mode::Rewrite).await;
    let client = served.client();
    for path in ["/", "/livez", "/readyz", "/metrics", "/mutate/x"] {
        assert_eq!(client.post(path, "{}").await.unwrap().0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/mutate", "/validate"] {
        assert_eq!(served.probe(path).await.0, StatusCode::NOT_FOUND, "not without TLS: {path}");
    }
    assert_eq!(served.probe("/livez").await, (StatusCode::OK, "ok\n".to_owned()));
    served.end().await.unwrap();
}
