//! What PinPolicies change in an answer, and what the audit log and the metrics keep of it.

use std::sync::Arc;

use latebind::admission::service::AdmissionOptions;
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::policy::Mode;
use serde_json::{Value, json};

use super::support::{Config, Served, review, serve};

/// The usual cluster with these policies.
fn facts(policies: &[(&str, Value)]) -> Facts {
    let mut facts = latebind_fuzz_checks::cluster(Unlisted::Absent);
    for (name, spec) in policies {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        facts.add(Fact::read("latebind.dev", "PinPolicy", &object).unwrap().unwrap());
    }
    facts
}

async fn serve_with(policies: &[(&str, Value)], details: bool) -> Served {
    let choices = AdmissionOptions { details, ..AdmissionOptions::default() };
    serve(Config { view: Arc::new(facts(policies)), choices, ..Config::default() }).await
}

/// The recorded Pod, which anna of the developers creates in namespace team-a.
fn pinned() -> Value {
    review("pod-pinned")
}

fn without_claims() -> Value {
    let mut review = pinned();
    review["request"]["object"]["spec"]["volumes"] = json!([]);
    for container in review["request"]["object"]["spec"]["containers"].as_array_mut().unwrap() {
        container["volumeMounts"] = json!([]);
    }
    review
}

#[tokio::test]
async fn a_pod_on_a_node_that_is_not_allowed_is_refused_whatever_its_claims_are() {
    let racks =
        json!({ "mode": "Deny", "requesters": { "groups": ["developers"] }, "allowedNodes": { "names": ["other"] } });
    for details in [true, false] {
        let served = serve_with(&[("racks", racks.clone())], details).await;
        let response = served.client().ask("/validate", &without_claims()).await;
        assert_eq!((response["allowed"].as_bool(), response["status"]["code"].as_u64()), (Some(false), Some(403)));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("LB302: PinPolicy \"racks\" does not allow Pods to name node"), "{message}");
        assert_eq!(
            response["auditAnnotations"],
            json!({ "findings": "LB302", "mode": "deny", "remedy": "leave", "policy": "racks", "policies-violated": "racks" })
        );
        let series =
            r#"latebind_policy_decisions_total{hook="validate",mode="deny",outcome="not_allowed",dry_run="false"}"#;
        assert!((served.metric(series).await - 1.0).abs() < f64::EPSILON);
        // The mutating webhook changes nothing of it.
        let response = served.client().ask("/mutate", &pinned()).await;
        assert!(response.get("patch").is_none() && response["allowed"] == true, "{response}");
    }
}

#[tokio::test]
async fn off_leaves_a_pod_alone_and_the_audit_log_says_who_decided() {
    let served = serve_with(&[("off", json!({ "mode": "Off", "namespaces": { "names": ["team-a"] } }))], true).await;
    for path in ["/mutate", "/validate"] {
        let response = served.client().ask(path, &pinned()).await;
        let audit = json!({ "mode": "off", "policy": "off" });
        let uid = &response["uid"];
        assert_eq!(response, json!({ "allowed": true, "uid": uid, "auditAnnotations": audit }));
    }
}

#[tokio::test]
async fn the_strictest_wins_and_an_exception_subtracts() {
    let deny = |until: &str| {
        let exception = json!({ "reason": "r", "expiresAt": until, "requesters": { "users": ["anna"] } });
        json!({ "mode": "Deny", "exceptions": [exception] })
    };
    let warn = json!({ "mode": "Warn" });
    let served = serve_with(&[("deny", deny("2000-01-01T00:00:00Z")), ("warn", warn.clone())], true).await;
    let response = served.client().ask("/validate", &pinned()).await;
    assert_eq!((response["allowed"].as_bool(), &response["auditAnnotations"]["policy"]), (Some(false), &json!("deny")));
    let served = serve_with(&[("deny", deny("2900-01-01T00:00:00Z")), ("warn", warn)], true).await;
    let response = served.client().ask("/validate", &pinned()).await;
    assert_eq!((response["allowed"].as_bool(), &response["auditAnnotations"]["policy"]), (Some(true), &json!("warn")));
    assert_eq!(response["auditAnnotations"]["policies-excepted"], "deny");
    assert!(served.client().ask("/mutate", &pinned()).await.get("patch").is_none(), "mode warn rewrites nothing");
}

#[tokio::test]
async fn the_namespace_is_that_of_the_request_and_the_user_that_of_the_api_server() {
    let of_team = json!({ "mode": "Deny", "namespaces": { "names": ["team-a"] }, "allowedNodes": { "names": [] } });
    let served = serve_with(&[("team", of_team)], true).await;
    let mut forged = without_claims();
    forged["request"]["object"]["metadata"]["namespace"] = json!("kube-system");
    forged["request"]["object"]["metadata"]["labels"] = json!({ "kubernetes.io/metadata.name": "kube-system" });
    forged["request"]["object"]["metadata"]["annotations"] = json!({
        "latebind.dev/ignore": "LB302: mine", "latebind.dev/original-node-name": "x", "latebind.dev/mode": "audit" });
    assert_eq!(served.client().ask("/validate", &forged).await["allowed"], false);
    // A user whose name is that of a group, and a group that is named like a user.
    let by_group = json!({ "mode": "Deny", "requesters": { "groups": ["anna"], "users": ["developers"] },
        "allowedNodes": { "names": [] } });
    let served = serve_with(&[("group", by_group)], true).await;
    assert_eq!(served.client().ask("/validate", &without_claims()).await["allowed"], true);
}

#[tokio::test]
async fn policies_that_are_not_known_neither_refuse_nor_rewrite_and_it_is_told() {
    for mode in [Mode::Rewrite, Mode::Deny] {
        let mut facts = facts(&[]);
        facts.add(Fact::PoliciesNotTold);
        let choices = AdmissionOptions { mode, ..AdmissionOptions::default() };
        let served = serve(Config { view: Arc::new(facts), choices, ..Config::default() }).await;
        let response = served.client().ask("/mutate", &pinned()).await;
        assert!(response.get("patch").is_none(), "{response}");
        let response = served.client().ask("/validate", &pinned()).await;
        assert_eq!(response["allowed"], true, "{response}");
        let warnings = response["warnings"].to_string();
        assert!(
            warnings.contains("LB304") && warnings.contains("which PinPolicies there are is not known"),
            "{warnings}"
        );
        assert_eq!(response["auditAnnotations"]["policies-not-known"], "*");
        let series =
            r#"latebind_policy_decisions_total{hook="validate",mode="warn",outcome="not_known",dry_run="false"}"#;
        assert!((served.metric(series).await - 1.0).abs() < f64::EPSILON);
    }
}

#[tokio::test]
async fn a_pin_of_a_policy_is_followed() {
    let served = serve_with(&[("pin", json!({ "mode": "Rewrite", "pin": "Name" }))], true).await;
    let response = served.client().ask("/mutate", &pinned()).await;
    assert_eq!(response["auditAnnotations"]["remedy"], "rewrite name=k3d-test-server-0", "{response}");
}
