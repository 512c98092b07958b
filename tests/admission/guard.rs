//! Which evictions and deletions of Nodes a drain policy holds up, and how that is answered.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use latebind::admission::GuardOptions;
use latebind::admission::service::AdmissionOptions;
use latebind::binding::{ClusterView, LayeredView, Lookup};
use latebind::facts::{Facts, Unlisted};
use latebind::model::{EvictedPod, OtherReplicas};
use latebind::policy::Mode;
use serde_json::{Value, json};

use super::drain::{bound, cluster, cordon, deleted_node, eviction, facts, local, pod};
use super::support::{Config, Served, serve};

const POLICY: &str = "latebind.dev/drain-policy";

/// A cluster, and what a live look at any Pod says.
struct Looked(Facts, Lookup<Arc<EvictedPod>>);

impl LayeredView for Looked {
    fn beneath(&self) -> &dyn ClusterView {
        &self.0
    }

    fn evicted_pod(&self, _: &str, _: &str) -> Lookup<Arc<EvictedPod>> {
        self.1.clone()
    }
}

const READY: OtherReplicas = OtherReplicas::Ready { ahead: None };

fn serves(others: OtherReplicas) -> Lookup<Arc<EvictedPod>> {
    Lookup::Found(Arc::new(EvictedPod::Serves(others)))
}

/// One of the others is not ready.
fn awaited() -> Lookup<Arc<EvictedPod>> {
    let (awaited, templates) = (vec!["pg-1".to_owned()], vec!["data".to_owned()]);
    serves(OtherReplicas::Awaited { set: "pg".to_owned(), wanted: 2, awaited, templates })
}

/// The cluster with a policy on the volume of claim `a`, and other changes of objects, by kind and name.
fn objects(policy: &str, changes: &[(&str, &str, Value)]) -> Vec<(&'static str, Value)> {
    let mut objects = cluster(false);
    let of_volume = json!({ "metadata": { "annotations": { POLICY: policy } } });
    let of_volume = ("PersistentVolume", "pv-a", of_volume);
    for (kind, name, change) in std::iter::once(&of_volume).chain(changes) {
        let is_it = |(of, object): &&mut (&str, Value)| of == kind && object["metadata"]["name"] == *name;
        json_patch::merge(&mut objects.iter_mut().find(is_it).expect("it is in the cluster").1, change);
    }
    objects
}

async fn guarded(
    objects: Vec<(&'static str, Value)>,
    pod: Lookup<Arc<EvictedPod>>,
    choices: AdmissionOptions,
) -> Served {
    let view = Arc::new(Looked(facts(Unlisted::Absent, objects), pod));
    serve(Config { view, choices, ..Config::default() }).await
}

async fn by_default(policy: &str, changes: &[(&str, &str, Value)], pod: Lookup<Arc<EvictedPod>>) -> Served {
    guarded(objects(policy, changes), pod, AdmissionOptions::default()).await
}

/// Status code, reason and message of a refusal.
fn refusal(answer: &Value) -> (u64, &str, &str) {
    assert_eq!(answer["allowed"], false, "{answer}");
    let status = &answer["status"];
    let text = |field: &str| status[field].as_str().unwrap_or_else(|| panic!("no {field}: {answer}"));
    (status["code"].as_u64().unwrap_or_default(), text("reason"), text("message"))
}

fn in_hours(hours: i64) -> String {
    let moment = Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap();
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn approved(until: &str) -> Value {
    json!({ "metadata": { "annotations": { "latebind.dev/drain-approved-by": "anna", "latebind.dev/drain-approved-until": until } } })
}

#[tokio::test]
async fn wait_answers_429_until_the_other_replicas_are_ready() {
    let served = by_default("Wait", &[], awaited()).await;
    let answer = served.client().ask("/validate", &eviction("pg-0")).await;
    assert_eq!(
        refusal(&answer),
        (
            429,
            "TooManyRequests",
            "LB404: pod pg-0 waits until the other replicas of statefulset pg are ready (1 of 2 are not: pg-1). \
             It goes by itself then; drain policy Wait of volume pv-a"
        )
    );
    assert_eq!(answer["auditAnnotations"]["drain-policy"], "Wait");
    let series = r#"latebind_admission_requests_total{hook="validate",decision="held",code="LB404""#;
    let all = served.probe("/metrics").await.1;
    assert!(all.contains(series), "{all}");
    for others in [READY, OtherReplicas::NoSet] {
        let served = by_default("Wait", &[], serves(others)).await;
        let answer = served.client().ask("/validate", &eviction("pg-0")).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        assert!(answer["warnings"][0].as_str().unwrap().starts_with("LB401"), "it is warned of all the same: {answer}");
    }
}

#[tokio::test]
async fn of_a_node_that_is_retired_one_pod_goes_after_another() {
    let ahead = || serves(OtherReplicas::Ready { ahead: Some("pg-2".to_owned()) });
    let retired = json!({ "metadata": { "annotations": { "latebind.dev/drain": "retire" } } });
    let served = by_default("Wait", &[("Node", "n1", retired)], ahead()).await;
    let answer = served.client().ask("/validate", &eviction("pg-0")).await;
    let (code, _, message) = refusal(&answer);
    assert!(code == 429 && message.contains("pg-2 of the same StatefulSet goes from the node first"), "{message}");
    let served = by_default("Wait", &[], ahead()).await;
    assert_eq!(served.client().ask("/validate", &eviction("pg-0")).await["allowed"], true, "nobody retires the node");
}

#[tokio::test]
async fn where_too_many_are_looked_at_an_eviction_is_tried_again() {
    for policy in ["Wait", "Deny"] {
        let served = by_default(policy, &[], Lookup::Found(Arc::new(EvictedPod::NotLookedAt))).await;
        let answer = served.client().ask("/validate", &eviction("pg-0")).await;
        let (code, _, message) = refusal(&answer);
        assert!(code == 429 && message.contains("Try again"), "{answer}");
    }
}

#[tokio::test]
async fn deny_answers_403_until_somebody_approves_and_not_longer() {
    let pod = || serves(READY);
    let served = by_default("Deny", &[], pod()).await;
    let answer = served.client().ask("/validate", &eviction("pg-0")).await;
    let (code, reason, message) = refusal(&answer);
    assert_eq!((code, reason), (403, "Forbidden"));
    let told = "LB405: pod pg-0 keeps its data on its node; drain policy Deny of volume pv-a. To let it go, approve: kubectl \
                annotate node n1 --overwrite latebind.dev/drain-approved-by=YOUR-NAME latebind.dev/drain-approved-until=";
    let until = message.strip_prefix(told).unwrap_or_else(|| panic!("{message}"));
    let until: Timestamp = until.parse().unwrap_or_else(|error| panic!("{until}: {error}"));
    assert!(until > Timestamp::now(), "the command approves for a time to come");
    for (kind, name) in [("Node", "n1"), ("PersistentVolumeClaim", "a")] {
        let served = by_default("Deny", &[(kind, name, approved(&in_hours(1)))], pod()).await;
        let answer = served.client().ask("/validate", &eviction("pg-0")).await;
        assert_eq!(
            (&answer["allowed"], &answer["auditAnnotations"]["drain-approved-by"]),
            (&json!(true), &json!("anna"))
        );
        for (until, why) in [(in_hours(-1), "holds no more"), ("soon".to_owned(), "cannot be read")] {
            let served = by_default("Deny", &[(kind, name, approved(&until))], pod()).await;
            let answer = served.client().ask("/validate", &eviction("pg-0")).await;
            assert!(refusal(&answer).2.contains(why), "{answer}");
        }
    }
    // A Pod that nothing makes again has its data there all the same; one of a DaemonSet is not what a drain evicts.
    let answer = served.client().ask("/validate", &eviction("bare")).await;
    assert_eq!(refusal(&answer).0, 403, "{answer}");
    for quiet in ["each", "free", "unheard-of"] {
        assert_eq!(served.client().ask("/validate", &eviction(quiet)).await["allowed"], true, "{quiet}");
    }
}

/// Each of these lets go whatever the policy is.
#[tokio::test]
async fn a_guard_is_never_why_a_drain_does_not_end() {
    let ready = |status: &str| json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
    let unreported = json!({ "status": { "conditions": null } });
    for policy in ["Wait", "Deny"] {
        for node in [ready("False"), ready("Unknown"), unreported.clone()] {
            let served = by_default(policy, &[("Node", "n1", node.clone())], awaited()).await;
            let answer = served.client().ask("/validate", &eviction("pg-0")).await;
            assert_eq!(answer["allowed"], true, "{policy}: {node}");
        }
        for pod in [Lookup::Found(Arc::new(EvictedPod::Idle)), Lookup::Absent] {
            let served = by_default(policy, &[], pod).await;
            assert_eq!(served.client().ask("/validate", &eviction("pg-0")).await["allowed"], true, "{policy}");
        }
        for unknown in [Lookup::Unknown, serves(OtherReplicas::NotKnown)] {
            if policy == "Deny" && unknown != Lookup::Unknown {
                continue;
            }
            let served = by_default(policy, &[], unknown).await;
            let answer = served.client().ask("/validate", &eviction("pg-0")).await;
            assert_eq!(answer["allowed"], true, "{policy}: {answer}");
            assert!(answer["warnings"].to_string().contains("what decides is not known"), "{answer}");
            assert_eq!(answer["auditAnnotations"]["drain-not-known"], "true");
        }
        for choices in [
            AdmissionOptions { guard: None, ..AdmissionOptions::default() },
            AdmissionOptions { mode: Mode::Audit, ..AdmissionOptions::default() },
            AdmissionOptions {
                guard: Some(GuardOptions { exempt_groups: vec!["system:authenticated".to_owned()] }),
                ..AdmissionOptions::default()
            },
        ] {
            let served = guarded(objects(policy, &[]), awaited(), choices).await;
            let answer = served.client().ask("/validate", &eviction("pg-0")).await;
            assert_eq!(answer["allowed"], true, "{policy}: {answer}");
        }
    }
    // Of a cluster whose volumes or Nodes are not known nothing is held up.
    let view = Arc::new(Looked(facts(Unlisted::Unknown, objects("Deny", &[])), awaited()));
    let partial = serve(Config { view, ..Config::default() }).await;
    assert_eq!(partial.client().ask("/validate", &eviction("pg-0")).await["allowed"], true);
}

#[tokio::test]
async fn mode_audit_writes_down_what_it_would_refuse() {
    let audit = AdmissionOptions { mode: Mode::Audit, ..AdmissionOptions::default() };
    let served = guarded(objects("Deny", &[]), serves(READY), audit).await;
    for review in [eviction("pg-0"), deleted_node("n1")] {
        let answer = served.client().ask("/validate", &review).await;
        assert_eq!((&answer["allowed"], answer.get("warnings")), (&json!(true), None), "{answer}");
        assert_eq!(answer["auditAnnotations"]["drain-refused"], "LB405", "{answer}");
    }
}

#[tokio::test]
async fn a_node_that_is_up_is_not_deleted_before_somebody_approves() {
    let pod = || serves(READY);
    let served = by_default("Deny", &[], pod()).await;
    let answer = served.client().ask("/validate", &deleted_node("n1")).await;
    let (code, _, message) = refusal(&answer);
    assert!(
        code == 403 && message.contains("node n1 is up") && message.contains("drain policy Deny of volume pv-a"),
        "{message}"
    );
    assert!(message.contains("kubectl annotate node n1"), "{message}");
    assert_eq!(served.client().ask("/validate", &deleted_node("n2")).await["allowed"], true, "it has no such claim");
    assert_eq!(served.client().ask("/validate", &cordon()).await["allowed"], true, "a cordon takes nothing away");
    // Kubernetes' own controllers delete a Node when its machine is gone.
    let mut by_controller = deleted_node("n1");
    by_controller["request"]["userInfo"]["groups"] = json!(["system:serviceaccounts:kube-system"]);
    assert_eq!(served.client().ask("/validate", &by_controller).await["allowed"], true);
    let down = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    for change in [down, approved(&in_hours(1))] {
        let served = by_default("Deny", &[("Node", "n1", change.clone())], pod()).await;
        let answer = served.client().ask("/validate", &deleted_node("n1")).await;
        assert!(answer["allowed"] == true && answer["warnings"].to_string().contains("LB401"), "{change}: {answer}");
    }
    let waits = by_default("Wait", &[], awaited()).await;
    assert_eq!(waits.client().ask("/validate", &deleted_node("n1")).await["allowed"], true);
}

#[tokio::test]
async fn allow_says_nothing_and_a_word_that_is_no_policy_is_told() {
    let served = by_default("Allow", &[], awaited()).await;
    let answer = served.client().ask("/validate", &eviction("pg-0")).await;
    assert_eq!((&answer["allowed"], answer.get("warnings")), (&json!(true), None), "{answer}");
    let served = by_default("Forbid", &[], awaited()).await;
    let answer = served.client().ask("/validate", &eviction("pg-0")).await;
    let told = "latebind.dev/drain-policy of volume pv-a is none of Allow, Warn, Wait, Deny";
    assert!(answer["allowed"] == true && answer["warnings"].to_string().contains(told), "{answer}");
}

/// Without a client's certificate anybody may ask.
#[tokio::test]
async fn a_short_refusal_names_nothing_that_the_request_does_not() {
    for (policy, pod) in [("Wait", awaited()), ("Deny", serves(READY))] {
        let short = AdmissionOptions { details: false, ..AdmissionOptions::default() };
        let served = guarded(objects(policy, &[]), pod, short).await;
        let answer = served.client().ask("/validate", &eviction("pg-0")).await;
        let message = refusal(&answer).2;
        assert!(message.contains("drain policy") && message.chars().count() <= 1024, "{message}");
        for of_the_cluster in ["pv-a", "n1", "pg-1", "claim a", "statefulset pg", "1 of 2"] {
            assert!(!message.contains(of_the_cluster), "{of_the_cluster} in {message}");
        }
    }
}

/// Every cell of the table in docs/drain.md, as it is answered.
#[tokio::test]
async fn each_kind_of_pod_is_answered_as_the_page_says() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/drain.md")).unwrap();
    let header = "| Pod, with a volume on its node alone | `Allow` | `Warn` | `Wait` | `Deny` |";
    let rows: Vec<&str> =
        page.lines().skip_while(|line| *line != header).skip(2).take_while(|line| line.starts_with('|')).collect();
    let looked_at: [(&str, &str, Lookup<Arc<EvictedPod>>); 6] = [
        ("of a StatefulSet whose other replicas are ready", "pg-0", serves(READY)),
        ("of a StatefulSet of which another replica is not ready", "pg-0", awaited()),
        ("of a Deployment, or of any other controller", "rs-1", serves(OtherReplicas::NoSet)),
        ("of no controller", "bare", serves(OtherReplicas::NoSet)),
        ("of a DaemonSet", "each", serves(OtherReplicas::NoSet)),
        ("with a generic ephemeral volume only", "own", serves(OtherReplicas::NoSet)),
    ];
    let mut answered = Vec::new();
    for (title, name, look) in looked_at {
        let mut cells = vec![title.to_owned()];
        for policy in ["Allow", "Warn", "Wait", "Deny"] {
            let mut objects = objects(policy, &[]);
            objects.push(pod("rs-1", "a", Some("ReplicaSet")));
            let mut own = pod("own", "a", Some("ReplicaSet"));
            own.1["spec"]["volumes"] =
                json!([{ "name": "data", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } }]);
            objects.push(own);
            // Its own claim is on the node alone, too.
            let [mut volume, mut claim] = bound("own-data", &local(), ("kubernetes.io/hostname", &["n1"]));
            volume.1["metadata"]["annotations"] = json!({ POLICY: policy });
            claim.1["metadata"]["ownerReferences"] =
                json!([{ "apiVersion": "v1", "kind": "Pod", "name": "own", "uid": "own", "controller": true }]);
            objects.extend([volume, claim]);
            let served = guarded(objects, look.clone(), AdmissionOptions::default()).await;
            let answer = served.client().ask("/validate", &eviction(name)).await;
            let is_warned = answer.get("warnings").is_some();
            cells.push(match (&answer["allowed"], &answer["status"]["code"]) {
                (Value::Bool(true), _) if is_warned => "goes, warned".to_owned(),
                (Value::Bool(true), _) => "goes".to_owned(),
                (_, code) => code.to_string(),
            });
        }
        answered.push(format!("| {} |", cells.join(" | ")));
    }
    assert_eq!(rows, answered);
}
