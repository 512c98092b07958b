//! What is said when a node is cordoned, drained or deleted, and when a claim is deleted.

use std::sync::Arc;

use latebind::admission::service::AdmissionOptions;
use latebind::binding::Kind;
use latebind::facts::{Fact, Facts, Unlisted};
use latebind::policy::Mode;
use serde_json::{Value, json};

use super::support::{Config, Served, serve};

/// What a warning may have where names are of the usual length.
const USUAL_CHARS: usize = 120;

pub fn node(name: &str, more: &Value) -> Value {
    let mut node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": "z", "topology.csi.example/node": name } }, "spec": {},
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    json_patch::merge(&mut node, more);
    node
}

/// A bound volume of a claim of namespace `db`, and the claim.
pub fn bound(claim: &str, source: &Value, (key, values): (&str, &[&str])) -> [(&'static str, Value); 2] {
    let volume = format!("pv-{claim}");
    let terms = json!([{ "matchExpressions": [{ "key": key, "operator": "In", "values": values }] }]);
    let mut spec = json!({ "claimRef": { "namespace": "db", "name": claim, "uid": claim },
        "persistentVolumeReclaimPolicy": "Delete", "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } });
    json_patch::merge(&mut spec, source);
    let volume_object = json!({ "metadata": { "name": volume }, "spec": spec, "status": { "phase": "Bound" } });
    let claim = json!({ "metadata": { "name": claim, "namespace": "db", "uid": claim },
        "spec": { "volumeName": volume }, "status": { "phase": "Bound" } });
    [("PersistentVolume", volume_object), ("PersistentVolumeClaim", claim)]
}

/// A Pod on n1 that uses a claim.
pub fn pod(name: &str, claim: &str, owner: Option<&str>) -> (&'static str, Value) {
    let owners = owner
        .map(|kind| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "controller": true }]));
    let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]);
    let metadata = json!({ "name": name, "namespace": "db", "uid": name, "ownerReferences": owners });
    (
        "Pod",
        json!({ "metadata": metadata, "spec": { "nodeName": "n1", "volumes": volumes }, "status": { "phase": "Running" } }),
    )
}

pub fn local() -> Value {
    json!({ "local": { "path": "/mnt/disks/one" } })
}

/// Two nodes; on n1 alone are `a`, `b` and, by a CSI driver's label, `csi`; in its zone `zonal`; on both `both`.
pub fn cluster(cordoned: bool) -> Vec<(&'static str, Value)> {
    let csi = json!({ "csi": { "driver": "csi.example", "volumeHandle": "x" } });
    let hostname = "kubernetes.io/hostname";
    let mut objects = vec![
        ("Node", node("n1", &json!({ "spec": { "unschedulable": cordoned } }))),
        ("Node", node("n2", &json!({}))),
        pod("pg-0", "a", Some("StatefulSet")),
        pod("free", "both", Some("ReplicaSet")),
        pod("bare", "a", None),
        pod("each", "a", Some("DaemonSet")),
    ];
    objects.extend(bound("a", &local(), (hostname, &["n1"])));
    objects.extend(bound("b", &json!({ "hostPath": { "path": "/b" } }), (hostname, &["n1"])));
    objects.extend(bound("csi", &csi, ("topology.csi.example/node", &["n1"])));
    objects.extend(bound("zonal", &csi, ("topology.kubernetes.io/zone", &["z"])));
    objects.extend(bound("both", &local(), (hostname, &["n1", "n2"])));
    objects.extend(bound("there", &local(), (hostname, &["n2"])));
    objects
}

pub fn facts(unlisted: Unlisted, objects: Vec<(&'static str, Value)>) -> Facts {
    let mut facts = Facts::new(unlisted);
    for (kind, object) in objects {
        facts.add(Fact::read("", kind, &object).unwrap().unwrap());
    }
    facts
}

async fn served(facts: Facts, choices: AdmissionOptions) -> Served {
    serve(Config { view: Arc::new(facts), choices, ..Config::default() }).await
}

fn request(kind: (&str, &str), operation: &str, name: &str, more: &Value) -> Value {
    let mut request = json!({ "uid": "u", "kind": { "group": kind.0, "version": "v1", "kind": kind.1 }, "name": name,
        "operation": operation, "userInfo": { "username": "anna", "groups": ["system:authenticated"] } });
    json_patch::merge(&mut request, more);
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request })
}

fn update(before: &Value, after: &Value) -> Value {
    request(("", "Node"), "UPDATE", "n1", &json!({ "object": node("n1", after), "oldObject": node("n1", before) }))
}

pub fn cordon() -> Value {
    update(&json!({}), &json!({ "spec": { "unschedulable": true } }))
}

pub fn deleted_node(name: &str) -> Value {
    request(("", "Node"), "DELETE", name, &json!({ "oldObject": node(name, &json!({})) }))
}

pub fn eviction(pod: &str) -> Value {
    let object = json!({ "metadata": { "name": pod, "namespace": "db" } });
    let more = json!({ "namespace": "db", "subResource": "eviction", "object": object });
    request(("policy", "Eviction"), "CREATE", pod, &more)
}

fn deleted_claim(object: &Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap();
    request(("", "PersistentVolumeClaim"), "DELETE", name, &json!({ "namespace": "db", "oldObject": object }))
}

/// The warnings to an answer that allows.
async fn warnings(served: &Served, review: &Value) -> Vec<String> {
    let answer = served.client().ask("/validate", review).await;
    assert_eq!(answer["allowed"], true, "nothing is refused: {answer}");
    let texts: Vec<String> = serde_json::from_value(answer.get("warnings").cloned().unwrap_or(json!([]))).unwrap();
    assert!(texts.iter().all(|text| text.chars().count() <= USUAL_CHARS), "{texts:#?}");
    texts
}

#[tokio::test]
async fn whoever_takes_a_node_away_hears_which_claims_stay_on_it() {
    let served = served(facts(Unlisted::Absent, cluster(false)), AdmissionOptions::default()).await;
    let held = "LB401: 3 claims have their volumes on n1 alone: db/a, db/b, db/csi";
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute" });
    let out = update(&json!({}), &json!({ "spec": { "taints": [taint] } }));
    for (review, next) in [
        (cordon(), "what replaces their Pods waits for this node. Next: latebind plan drain n1"),
        (out, "the taint frees Pods, not claims: new Pods stay Pending. Next: latebind diagnose node/n1"),
        (deleted_node("n1"), "without it their Pods stay Pending. Next: latebind diagnose pvc/a -n db"),
    ] {
        assert_eq!(warnings(&served, &review).await, [held, next]);
    }
    let one = "LB401: 1 claim has its volume on n2 alone: db/there";
    assert_eq!(warnings(&served, &deleted_node("n2")).await[0], one);
}

#[tokio::test]
async fn other_changes_of_a_node_are_not_spoken_about() {
    let served = served(facts(Unlisted::Absent, cluster(false)), AdmissionOptions::default()).await;
    let cordoned = json!({ "spec": { "unschedulable": true } });
    let labelled = json!({ "spec": { "unschedulable": true }, "metadata": { "labels": { "x": "y" } } });
    for (before, after) in [(cordoned.clone(), labelled), (cordoned, json!({})), (json!({}), json!({}))] {
        assert_eq!(warnings(&served, &update(&before, &after)).await, [""; 0]);
    }
    assert_eq!(warnings(&served, &deleted_node("unheard-of")).await, [""; 0]);
    let mut by_kubelet = cordon();
    by_kubelet["request"]["userInfo"]["groups"] = json!(["system:nodes"]);
    assert_eq!(warnings(&served, &by_kubelet).await, [""; 0]);
}

#[tokio::test]
async fn whoever_evicts_a_pod_hears_that_another_can_start_on_its_node_alone() {
    let open = served(facts(Unlisted::Absent, cluster(false)), AdmissionOptions::default()).await;
    let told = "LB401: what replaces pod pg-0 can start on n1 alone (there is the volume of claim a)";
    assert_eq!(warnings(&open, &eviction("pg-0")).await, [told]);
    let cordoned = served(facts(Unlisted::Absent, cluster(true)), AdmissionOptions::default()).await;
    let told =
        "LB401: what replaces pod pg-0 stays Pending until: kubectl uncordon n1 (there is the volume of claim a)";
    assert_eq!(warnings(&cordoned, &eviction("pg-0")).await, [told]);
    for quiet in ["free", "bare", "each", "unheard-of"] {
        assert_eq!(warnings(&cordoned, &eviction(quiet)).await, [""; 0], "{quiet}");
    }
}

#[tokio::test]
async fn whoever_deletes_a_claim_hears_that_its_data_goes_and_how_to_keep_it() {
    let [(_, _), (_, claim)] = bound("a", &local(), ("kubernetes.io/hostname", &["n1"]));
    let served = served(facts(Unlisted::Absent, cluster(false)), AdmissionOptions::default()).await;
    let keep = r#"kubectl patch pv pv-a -p '{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'"#;
    let told = "data in /mnt/disks/one is deleted with claim a. While a Pod uses it, this keeps the data:";
    assert_eq!(warnings(&served, &deleted_claim(&claim)).await, [told, keep]);
    // One that is not bound, one of a cloud's disk, and one whose volume is another's since.
    let mut unbound = claim.clone();
    unbound["spec"] = json!({});
    let mut of_cloud = claim.clone();
    of_cloud["spec"]["volumeName"] = json!("pv-zonal");
    // Who does not know the claim's UID is told nothing of its volume.
    let (mut anew, mut forged) = (claim.clone(), claim.clone());
    anew["metadata"]["uid"] = json!("other");
    forged["metadata"]["uid"] = Value::Null;
    for quiet in [unbound, of_cloud, anew, forged] {
        assert_eq!(warnings(&served, &deleted_claim(&quiet)).await, [""; 0], "{quiet}");
    }
}

#[tokio::test]
async fn data_that_is_retained_is_not_said_to_go() {
    let [(_, _), (_, claim)] = bound("a", &local(), ("kubernetes.io/hostname", &["n1"]));
    for change in [
        json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } }),
        json!({ "metadata": { "annotations": { "latebind.dev/on-delete": "archive" } } }),
        json!({ "metadata": { "annotations": { "latebind.dev/on-delete": "keep-path" } } }),
    ] {
        let mut objects = cluster(false);
        let volume = objects.iter_mut().find(|(_, object)| object["metadata"]["name"] == "pv-a").unwrap();
        json_patch::merge(&mut volume.1, &change);
        let served = served(facts(Unlisted::Absent, objects), AdmissionOptions::default()).await;
        assert_eq!(warnings(&served, &deleted_claim(&claim)).await, [""; 0], "{change}");
    }
}

#[tokio::test]
async fn of_a_cluster_that_is_not_all_known_no_claim_is_said_to_be_on_a_node_alone() {
    let partial = served(facts(Unlisted::Unknown, cluster(true)), AdmissionOptions::default()).await;
    for review in [cordon(), deleted_node("n1"), eviction("pg-0")] {
        assert_eq!(warnings(&partial, &review).await, [""; 0]);
    }
    let mut nodes_known = facts(Unlisted::Unknown, cluster(true));
    nodes_known.complete(Kind::Nodes);
    let nodes_known = served(nodes_known, AdmissionOptions::default()).await;
    let told = &warnings(&nodes_known, &cordon()).await[0];
    assert!(told.starts_with("LB401: at least 3 claims have"), "{told}");
}

#[tokio::test]
async fn modes_and_short_answers_are_kept_to() {
    let audit = AdmissionOptions { mode: Mode::Audit, ..AdmissionOptions::default() };
    let audit = served(facts(Unlisted::Absent, cluster(true)), audit).await;
    let deny = AdmissionOptions { mode: Mode::Deny, ..AdmissionOptions::default() };
    let deny = served(facts(Unlisted::Absent, cluster(true)), deny).await;
    let short = AdmissionOptions { details: false, ..AdmissionOptions::default() };
    let short = served(facts(Unlisted::Absent, cluster(true)), short).await;
    let [(_, _), (_, claim)] = bound("a", &local(), ("kubernetes.io/hostname", &["n1"]));
    for review in [cordon(), deleted_node("n1"), eviction("pg-0"), deleted_claim(&claim)] {
        assert_eq!(warnings(&audit, &review).await, [""; 0]);
        assert!(!warnings(&deny, &review).await.is_empty(), "and allowed all the same");
    }
    for review in [cordon(), deleted_node("n1"), eviction("pg-0")] {
        let answer = short.client().ask("/validate", &review).await.to_string();
        assert!(answer.contains("LB401"), "{answer}");
        for of_the_cluster in ["db/", "claim a", "pv-a", "/mnt"] {
            assert!(!answer.contains(of_the_cluster), "{of_the_cluster} in {answer}");
        }
    }
    let answer = audit.client().ask("/validate", &cordon()).await;
    assert_eq!(answer["auditAnnotations"]["claims-on-node"], "db/a, db/b, db/csi");
    let series = r#"latebind_admission_requests_total{hook="validate",decision="warned",code="LB401""#;
    let all = audit.probe("/metrics").await.1;
    assert!(all.contains(series), "{all}");
}

#[tokio::test]
async fn names_of_any_length_leave_whole_commands_and_what_cannot_be_read_is_left_alone() {
    let long = "n".repeat(253);
    let mut objects = vec![("Node", node(&long, &json!({})))];
    for number in 0..700 {
        objects.extend(bound(&format!("{number:0>250}"), &local(), ("kubernetes.io/hostname", &[&long])));
    }
    let served = served(facts(Unlisted::Absent, objects), AdmissionOptions::default()).await;
    let answer = served.client().ask("/validate", &deleted_node(&long)).await;
    let texts: Vec<String> = serde_json::from_value(answer["warnings"].clone()).unwrap();
    assert!(texts[0].starts_with("LB401: at least 500 claims have their volumes on nnn"), "{texts:#?}");
    assert!(texts.iter().all(|text| text.chars().count() <= 256), "{texts:#?}");
    for broken in [json!({ "object": null }), json!({ "object": { "spec": [] } }), json!({ "oldObject": null })] {
        let mut review = cordon();
        json_patch::merge(&mut review["request"], &broken);
        let answer = served.client().ask("/validate", &review).await;
        assert_eq!((&answer["allowed"], answer.get("warnings")), (&json!(true), None), "{answer}");
    }
}
