use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::controllers::rescue::{GAVE_UP, SELECTED_BY, SELECTIONS};
use crate::facts::{Fact, Facts, Unlisted};
use crate::policy::{Exemptions, Mode};

const SELECTED_NODE: &str = crate::model::SELECTED_NODE;

fn fact(group: &str, kind: &str, object: &Value) -> Fact {
    Fact::read(group, kind, object).unwrap().unwrap()
}

/// A cluster with nodes `n` and `m`, and a dynamic class of each kind of provisioner.
fn facts(pods: &[Value]) -> Facts {
    let mut facts = Facts::new(Unlisted::Absent);
    for name in ["n", "m"] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        facts.add(fact("", "Node", &node));
    }
    for (name, provisioner) in [("disk", "example.com/disk"), ("own", PROVISIONER), ("old", "kubernetes.io/aws-ebs")] {
        let class = json!({
            "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
        });
        facts.add(fact("storage.k8s.io", "StorageClass", &class));
    }
    for pod in pods {
        facts.add(fact("", "Pod", pod));
    }
    facts
}

fn pod(name: &str, node: Option<&str>) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "nodeName": node,
            "containers": [{"volumeMounts": [{"name": "v"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
        },
        "status": {"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"},
    })
}

fn claim(class: &str, annotations: &Value) -> Claim {
    serde_json::from_value(json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "u", "resourceVersion": "1", "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class},
        "status": {"phase": "Pending"},
    }))
    .unwrap()
}

fn planned(pods: &[Value], claim: &Claim, past: &Past) -> Plan {
    let mut facts = facts(pods);
    facts.add(Fact::Claim(claim.clone()));
    plan(claim, &facts, &Rules::default(), past)
}

fn failed(message: &str, failing_for: u64) -> Past {
    let provisioner = ProvisionerReport {
        failure: Some(message.to_owned()),
        failed_at: None,
        failing_for: Duration::from_secs(failing_for),
        is_there: true,
    };
    Past { provisioner: Some(provisioner), ..Past::default() }
}

fn selection(plan: &Plan) -> (&str, u32, Option<&str>) {
    match &plan.step {
        Step::Write(Write::SelectNode { node, count, provisioner, .. }) => (node, *count, provisioner.as_deref()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_provisioner_is_named_only_where_it_is_external() {
    let pods = [pod("p", Some("n"))];
    let external = planned(&pods, &claim("disk", &json!({})), &Past::default());
    assert_eq!(selection(&external), ("n", 1, Some("example.com/disk")));
    let built_in = planned(&pods, &claim("old", &json!({})), &Past::default());
    assert_eq!(selection(&built_in), ("n", 1, None));
}

#[test]
fn a_node_given_back_is_asked_about_waited_for_and_ordered_again() {
    let pods = [pod("p", Some("n"))];
    let marked = claim("disk", &json!({SELECTED_BY: "uid-p n"}));
    assert_eq!(planned(&pods, &marked, &Past::default()).step, Step::AskProvisioner);
    let waiting = planned(&pods, &marked, &failed("full\nup", 0));
    assert_eq!(waiting.step, Step::Later(Duration::from_secs(10)));
    let note = waiting.report.unwrap().note;
    assert!(note.contains("full up"), "{note}");
    let later = Past { given_back_for: Duration::from_secs(10), ..failed("full", 0) };
    assert_eq!(selection(&planned(&pods, &marked, &later)).1, 2);
}

#[test]
fn pauses_double_to_five_minutes_and_the_tenth_time_is_the_last() {
    let pods = [pod("p", Some("n"))];
    let pauses: Vec<u64> = (1..MOST_SELECTIONS)
        .map(|count| {
            let marked = claim("disk", &json!({SELECTED_BY: "uid-p", SELECTIONS: count.to_string()}));
            match planned(&pods, &marked, &failed("full", 0)).step {
                Step::Later(pause) => pause.as_secs(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300, 300]);
    let last = claim("disk", &json!({SELECTED_BY: "uid-p", SELECTIONS: "10"}));
    let plan = planned(&pods, &last, &failed("full", 0));
    assert!(matches!(plan.step, Step::Write(Write::GiveUp { .. })), "{:?}", plan.step);
    assert!(plan.report.unwrap().warning);
    // Nonsense by somebody else's hand counts as the first time.
    let nonsense = claim("disk", &json!({SELECTED_BY: "uid-p", SELECTIONS: "many"}));
    assert_eq!(planned(&pods, &nonsense, &failed("full", 0)).step, Step::Later(Duration::from_secs(10)));
}

#[test]
fn who_was_given_up_stays_so_and_a_new_pod_begins_anew() {
    let annotations = json!({SELECTED_BY: "uid-p", SELECTIONS: "10", GAVE_UP: "uid-p it was full"});
    let given_up = planned(&[pod("p", Some("n"))], &claim("disk", &annotations), &Past::default());
    assert_eq!(given_up.step, Step::Nothing);
    assert!(given_up.report.unwrap().note.contains("it was full"));
    let other = planned(&[pod("q", Some("n"))], &claim("disk", &annotations), &Past::default());
    assert_eq!(selection(&other), ("n", 1, Some("example.com/disk")));
}

fn ordered_for(class: &str, node: &str) -> Claim {
    claim(class, &json!({SELECTED_NODE: node, SELECTED_BY: format!("uid-vanished {node}")}))
}

fn is_taken_back(plan: &Plan) -> bool {
    matches!(plan.step, Step::Write(Write::Unselect { .. }))
}

#[test]
fn an_order_for_a_node_that_is_gone_is_taken_back_after_a_look() {
    let plan = planned(&[], &ordered_for("disk", "gone"), &Past::default());
    assert_eq!(plan.step, Step::Write(Write::Unselect { node: "gone".into(), if_gone: true, if_ours: false }));
    // The scheduler's own order is not ours to take back.
    let foreign = claim("disk", &json!({SELECTED_NODE: "gone"}));
    assert_eq!(planned(&[], &foreign, &Past::default()).step, Step::Nothing);
}

#[test]
fn an_order_for_a_vanished_pod_stands_while_it_may_be_served() {
    let ordered = ordered_for("disk", "n");
    let waiting = [pod("unplaced", None)];
    assert_eq!(planned(&[], &ordered, &failed("full", 3600)).step, Step::Nothing);
    // A Pod on the same node wants it to stand.
    assert_eq!(planned(&[pod("p", Some("n"))], &ordered, &failed("full", 3600)).step, Step::Nothing);
    assert_eq!(planned(&waiting, &ordered, &Past::default()).step, Step::AskProvisioner);
    let quiet = Past { provisioner: Some(ProvisionerReport::default()), ..Past::default() };
    assert_eq!(planned(&waiting, &ordered, &quiet).step, Step::Later(Duration::from_secs(60)));
    assert_eq!(planned(&waiting, &ordered, &failed("full", 599)).step, Step::Later(Duration::from_secs(60)));
    assert!(is_taken_back(&planned(&waiting, &ordered, &failed("full", 600))));
    assert!(is_taken_back(&planned(&[pod("p", Some("m"))], &ordered, &failed("full", 600))));
}

#[test]
fn an_own_order_is_taken_back_at_once_if_nothing_was_begun() {
    let ordered = ordered_for("own", "n");
    let started = |started| Past { started, ..Past::default() };
    assert_eq!(planned(&[], &ordered, &started(None)).step, Step::Nothing);
    assert_eq!(planned(&[], &ordered, &started(Some(true))).step, Step::Nothing);
    let taken_back = planned(&[], &ordered, &started(Some(false)));
    assert_eq!(taken_back.step, Step::Write(Write::Unselect { node: "n".into(), if_gone: false, if_ours: true }));
    // Its Pod is there: nothing has vanished.
    let own = claim("own", &json!({SELECTED_NODE: "n", SELECTED_BY: "uid-p n"}));
    assert_eq!(planned(&[pod("p", Some("n"))], &own, &started(Some(false))).step, Step::Nothing);
}

#[test]
fn a_node_that_the_scheduler_selected_stays_whatever_mark_is_left() {
    let failing = failed("full", 3600);
    // The provisioner gave our node back, the Pod went, and the scheduler selected another one for the next Pod.
    for mark in ["uid-vanished m", "uid-vanished", "uid-vanished ", ""] {
        for class in ["own", "disk"] {
            let selected = claim(class, &json!({SELECTED_NODE: "n", SELECTED_BY: mark}));
            let past = Past { started: Some(false), ..failing.clone() };
            let plan = planned(&[pod("unplaced", None)], &selected, &past);
            assert!(!is_taken_back(&plan), "{class} {mark:?}");
        }
        let gone = claim("disk", &json!({SELECTED_NODE: "gone", SELECTED_BY: mark}));
        assert!(!is_taken_back(&planned(&[], &gone, &failing)), "{mark:?}");
    }
}

#[test]
fn a_pod_that_the_scheduler_is_to_place_is_named() {
    let plan = planned(&[pod("p", Some("n")), pod("unplaced", None)], &claim("disk", &json!({})), &Past::default());
    assert_eq!((plan.step, plan.stuck), (Step::Nothing, Some(Code::WaitsForScheduler)));
    assert!(plan.report.unwrap().note.contains("unplaced"));
    // Where nobody is pinned, nobody is told: the claim simply waits for the scheduler.
    let ordinary = planned(&[pod("unplaced", None)], &claim("disk", &json!({})), &Past::default());
    assert_eq!((ordinary.step, ordinary.report), (Step::Nothing, None));
}

/// The plan for a Pod on node `n`, for which a static volume is there, as far as a policy lets it go.
fn planned_within(policy: &RescuePolicy, labels: &Value, taint: Option<&str>, tolerated: bool) -> Plan {
    let mut pod = pod("a", Some("n"));
    if tolerated {
        pod["spec"]["tolerations"] = json!([{"key": "team", "operator": "Exists"}]);
    }
    let mut facts = Facts::new(Unlisted::Absent);
    let taints: Vec<Value> =
        taint.iter().map(|key| json!({"key": key, "value": "b", "effect": "NoSchedule"})).collect();
    let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}},
        "spec": {"unschedulable": true, "taints": taints}});
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"storageClassName": "fixed", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "local": {"path": "/mnt/disk"}}, "status": {"phase": "Available"}});
    let class = json!({"metadata": {"name": "fixed"}, "provisioner": NO_PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer"});
    facts.add(fact("", "Node", &node));
    facts.add(fact("", "PersistentVolume", &volume));
    facts.add(fact("storage.k8s.io", "StorageClass", &class));
    facts.add(fact("", "Namespace", &json!({"metadata": {"name": "d", "labels": labels}})));
    facts.add(fact("", "Pod", &pod));
    let claim = claim("fixed", &json!({}));
    facts.add(Fact::Claim(claim.clone()));
    plan_within(policy, &claim, &facts, &Rules::default(), &Past::default())
}

#[test]
fn the_policy_says_whether_a_plan_is_carried_out() {
    let reserve = Step::Write(Write::Prebind { volume: "disk".to_owned() });
    let in_mode = |mode| RescuePolicy { mode, ..RescuePolicy::default() };
    let plan = planned_within(&RescuePolicy::default(), &json!({}), None, false);
    assert_eq!(plan.step, reserve);
    let told = planned_within(&in_mode(Mode::Warn), &json!({}), None, false);
    assert_eq!(told.step, Step::Nothing);
    assert!(told.report.is_some_and(|report| report.note.contains("prebind would help")));
    let counted = planned_within(&in_mode(Mode::Audit), &json!({}), None, false);
    assert_eq!((counted.step, counted.report), (Step::Nothing, None));
    assert!(counted.stuck.is_some(), "it is counted");
    for label in ["latebind.dev/webhook", "latebind.dev/rescue"] {
        let left = planned_within(&RescuePolicy::default(), &json!({label: "disabled"}), None, false);
        assert_eq!((left.step, left.report, left.stuck), (Step::Nothing, None, None), "{label}");
    }
    let exempt = RescuePolicy {
        exemptions: Exemptions { namespaces: BTreeSet::from(["d".to_owned()]) },
        ..RescuePolicy::default()
    };
    assert_eq!(planned_within(&exempt, &json!({}), None, false).step, Step::Nothing);
    let off = RescuePolicy { enabled: false, ..RescuePolicy::default() };
    assert_eq!(planned_within(&off, &json!({}), None, false).step, Step::Nothing);
}

#[test]
fn a_disk_of_a_node_that_is_tainted_for_others_stays_theirs() {
    let reserve = Step::Write(Write::Prebind { volume: "disk".to_owned() });
    let policy = RescuePolicy::default();
    let refused = planned_within(&policy, &json!({}), Some("team"), false);
    assert_eq!(refused.step, Step::Nothing);
    let note = refused.report.unwrap().note;
    assert!(note.contains("team:NoSchedule") && note.contains("rescue.taintedNodesFor"), "{note}");
    assert_eq!(planned_within(&policy, &json!({}), Some("team"), true).step, reserve, "the Pod tolerates it");
    let cordon = Some("node.kubernetes.io/unschedulable");
    assert_eq!(
        planned_within(&policy, &json!({}), cordon, false).step,
        reserve,
        "a cordon is nobody's claim to a node"
    );
    let allowed = RescuePolicy { tainted_nodes_for: BTreeSet::from(["d".to_owned()]), ..policy };
    assert_eq!(planned_within(&allowed, &json!({}), Some("team"), false).step, reserve);
}
