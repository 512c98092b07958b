//! What a plan of a drain says, and which claims a retirement may let go.

use serde_json::{Value, json};

use super::*;
use crate::facts::{Fact, Facts, Unlisted};

fn node(name: &str, spec: &Value) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": spec, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }))
    .unwrap()
}

fn volume(name: &str, hosts: &[&str]) -> Fact {
    let terms = json!([{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": hosts }] }]);
    Fact::Volume(
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "local": { "path": "/d" },
            "persistentVolumeReclaimPolicy": "Delete", "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } } }))
        .unwrap(),
    )
}

fn claim(name: &str, volume: &str) -> Fact {
    let phase = if volume.is_empty() { "Pending" } else { "Bound" };
    Fact::Claim(
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "db" },
            "spec": { "volumeName": volume }, "status": { "phase": phase } }))
        .unwrap(),
    )
}

/// A Pod of a StatefulSet with these claims.
fn pod(claims: &[&str], change: &Value) -> Pod {
    let volume = |claim: &&str| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } });
    let volumes: Vec<Value> = claims.iter().map(volume).collect();
    let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "1", "controller": true });
    let mut pod = json!({ "metadata": { "name": "pg-0", "namespace": "db", "ownerReferences": [owner] },
        "spec": { "nodeName": "a", "volumes": volumes }, "status": { "phase": "Running" } });
    json_patch::merge(&mut pod, change);
    serde_json::from_value(pod).unwrap()
}

struct Case {
    others: Vec<Node>,
    facts: Vec<Fact>,
    unlisted: Unlisted,
    /// There are no other Nodes.
    are_all: bool,
}

impl Case {
    /// Three Nodes, and a volume on this one alone.
    fn whole() -> Self {
        let facts = vec![volume("v", &["a"]), claim("data", "v"), volume("net", &["a", "b", "c"]), claim("net", "net")];
        let others = vec![node("b", &json!({})), node("c", &json!({}))];
        Self { others, facts, unlisted: Unlisted::Absent, are_all: true }
    }

    fn plan(self, pod: &Pod) -> Option<PodPlan> {
        self.whole_plan(&[pod], None).pods.pop()
    }

    fn whole_plan(self, pods: &[&Pod], budgets: Option<&[Budget]>) -> DrainPlan {
        self.look(pods, budgets, |facts| plan(facts, vec![]))
    }

    fn look<T>(self, pods: &[&Pod], budgets: Option<&[Budget]>, look: impl FnOnce(&DrainFacts<'_>) -> T) -> T {
        let mut view = Facts::new(self.unlisted);
        for fact in self.facts {
            view.add(fact);
        }
        let this = node("a", &json!({}));
        let others = self.others.iter().collect();
        let budgets = budgets.map(|all| all.iter().collect());
        look(&DrainFacts {
            view: &view,
            node: &this,
            others,
            are_all: self.are_all,
            pods: pods.to_vec(),
            budgets,
            now: Timestamp::UNIX_EPOCH,
        })
    }

    fn outcome(self, pod: &Pod) -> (Outcome, String) {
        let plan = self.plan(pod).unwrap();
        (plan.outcome, plan.why)
    }
}

#[test]
fn a_volume_on_this_node_alone_holds_the_pod() {
    let plan = Case::whole().plan(&pod(&["data", "net"], &json!({}))).unwrap();
    assert_eq!((plan.outcome, plan.outcome.is_outage()), (Outcome::WaitsForThisNode, true));
    assert_eq!(plan.why, "volume v of claim data is on this node alone");
    assert_eq!(plan.controller.as_deref(), Some("statefulset/pg"));
    let held = HeldClaim {
        claim: "data".to_owned(),
        volume: "v".to_owned(),
        path: Some("/d".to_owned()),
        deleted_with_claim: true,
        made_anew: false,
    };
    assert_eq!(plan.held, [held], "the other volume is within reach of other nodes");
}

/// A case in which `pg-0` has a claim of a template on the node alone, and what is said of letting it go beside these Pods.
fn retired(change: impl FnOnce(&mut Case), class: &str, others: &[Pod]) -> Result<Vec<String>, String> {
    let mut case = Case::whole();
    let Fact::Claim(mut held) = claim("data-pg-0", "v") else { unreachable!("it is a claim") };
    held.spec.storage_class_name = Some("fast".into());
    case.facts.push(Fact::Claim(held));
    let class = json!({ "metadata": { "name": "fast" }, "provisioner": class });
    case.facts.push(Fact::read("storage.k8s.io", "StorageClass", &class).unwrap().unwrap());
    change(&mut case);
    let pod = pod(
        &[],
        &json!({ "spec": { "volumes": [
        { "name": "data", "persistentVolumeClaim": { "claimName": "data-pg-0" } }] } }),
    );
    let pods: Vec<&Pod> = std::iter::once(&pod).chain(others).collect();
    case.look(&pods, None, |facts| {
        let held = plan_pod(&pod, facts).held;
        assert_eq!((held.len(), held[0].made_anew), (1, true));
        let claims = retire::retirable(&pod, &held, facts)?;
        Ok(claims.into_iter().map(|(claim, volume)| format!("{} {volume}", claim.name())).collect())
    })
}

#[test]
fn a_claim_is_let_go_where_it_is_made_anew_for_a_pod_that_starts_elsewhere() {
    assert_eq!(retired(|_| {}, "example.com/local", &[]), Ok(vec!["data-pg-0 v".to_owned()]));
    let refused = |change: fn(&mut Case), class: &str, others: &[Pod]| retired(change, class, others).unwrap_err();
    let closed = refused(|case| case.others.iter_mut().for_each(|it| it.spec.unschedulable = true), "x.com/y", &[]);
    assert!(closed.contains("would start nowhere else"), "{closed}");
    let no_disk = refused(|_| {}, "kubernetes.io/no-provisioner", &[]);
    assert!(no_disk.contains("class fast has no free volume on another node"), "{no_disk}");
    // A backup that mounts the same claim would keep it, and the StatefulSet could make no other.
    let backup = json!({ "metadata": { "name": "backup" }, "spec": { "volumes": [
        { "name": "data", "persistentVolumeClaim": { "claimName": "data-pg-0" } }] } });
    let twice = refused(|_| {}, "x.com/y", &[pod(&[], &backup)]);
    assert!(twice.contains("claim data-pg-0 is used by pod backup too"), "{twice}");
    let mut leaving = pod(&[], &backup);
    leaving.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    assert!(retired(|_| {}, "x.com/y", &[leaving]).is_ok());
}

#[test]
fn data_that_latebind_archives_or_leaves_is_not_said_to_go() {
    let mut kept = Case::whole();
    let Some(Fact::Volume(volume)) = kept.facts.first_mut() else { unreachable!("it is a volume") };
    volume.metadata.annotations = serde_json::from_value(json!({ "latebind.dev/on-delete": "archive" })).unwrap();
    let plan = kept.plan(&pod(&["data"], &json!({}))).unwrap();
    assert!(!plan.held[0].deleted_with_claim, "{plan:?}");
}

#[test]
fn what_other_nodes_reach_starts_there_unless_they_take_no_pod_now() {
    let starts = Case::whole().outcome(&pod(&["net"], &json!({})));
    assert_eq!(starts, (Outcome::StartsElsewhere, "b, c can take it".to_owned()));
    let starts = Case::whole().outcome(&pod(&[], &json!({})));
    assert_eq!(starts.0, Outcome::StartsElsewhere, "no volume at all");
    let mut closed = Case::whole();
    closed.others[0].spec.unschedulable = true;
    closed.others[1] = node("c", &json!({ "taints": [{ "key": "team", "effect": "NoSchedule" }] }));
    let (outcome, why) = closed.outcome(&pod(&["net"], &json!({})));
    assert_eq!(outcome, Outcome::WaitsForOtherNodes);
    assert!(why.contains("node \"b\" is cordoned") && why.contains("taint team"), "{why}");
    let mut tainted = Case::whole();
    tainted.others = vec![node("c", &json!({ "taints": [{ "key": "team", "effect": "NoSchedule" }] }))];
    let tolerates = json!({ "spec": { "tolerations": [{ "key": "team", "operator": "Exists" }] } });
    assert_eq!(tainted.outcome(&pod(&["net"], &tolerates)).0, Outcome::StartsElsewhere);
}

#[test]
fn a_pod_of_this_node_by_its_own_selector_waits_for_it_too() {
    let here = json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": "a" } } });
    let (outcome, why) = Case::whole().outcome(&pod(&["net"], &here));
    assert_eq!(outcome, Outcome::WaitsForThisNode);
    assert_eq!(why, "its own node selector or affinity accepts no other node");
    let nowhere = json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": "gone" } } });
    assert_eq!(Case::whole().outcome(&pod(&["net"], &nowhere)).0, Outcome::StartsNowhere);
}

#[test]
fn volumes_that_no_node_reaches_together_let_the_pod_start_nowhere() {
    let mut apart = Case::whole();
    apart.facts.extend([volume("w", &["b"]), claim("other", "w")]);
    let (outcome, why) = apart.outcome(&pod(&["data", "other"], &json!({})));
    assert_eq!((outcome, why.as_str()), (Outcome::StartsNowhere, "volume v of claim data is on this node alone"));
    let (outcome, why) = Case::whole().outcome(&pod(&["gone"], &json!({})));
    assert_eq!((outcome, why.as_str()), (Outcome::StartsNowhere, "claim gone does not exist"));
    let mut lost = Case::whole();
    lost.facts.push(claim("old", "no-such-volume"));
    let (outcome, why) = lost.outcome(&pod(&["old"], &json!({})));
    assert_eq!((outcome, why.as_str()), (Outcome::StartsNowhere, "claim old has lost its volume no-such-volume"));
}

#[test]
fn what_is_not_known_is_neither_a_yes_nor_a_no() {
    let partial = |facts: Vec<Fact>| Case { facts, unlisted: Unlisted::Unknown, are_all: false, ..Case::whole() };
    let (outcome, why) = partial(vec![]).outcome(&pod(&["net"], &json!({})));
    assert_eq!((outcome, why.as_str()), (Outcome::NotKnown, "claim net is not known"));
    let (outcome, why) = partial(vec![claim("net", "net")]).outcome(&pod(&["net"], &json!({})));
    assert_eq!((outcome, why.as_str()), (Outcome::NotKnown, "volume net of claim net is not known"));
    // Another node may reach the volume.
    let plan = partial(vec![volume("v", &["a"]), claim("data", "v")]).plan(&pod(&["data"], &json!({}))).unwrap();
    assert_eq!((plan.outcome, plan.held), (Outcome::NotKnown, vec![]));
    // One that is known to take it is enough.
    let known = partial(vec![volume("net", &["a", "b"]), claim("net", "net")]);
    assert_eq!(known.outcome(&pod(&["net"], &json!({}))).0, Outcome::StartsElsewhere);
    // What is known holds the Pod, whatever else it has.
    let held = Case { are_all: true, ..partial(vec![volume("v", &["a"]), claim("data", "v")]) };
    assert_eq!(held.outcome(&pod(&["data", "net"], &json!({}))).0, Outcome::WaitsForThisNode);
}

#[test]
fn claims_that_go_with_the_pod_or_have_no_volume_yet_hold_nothing() {
    let ephemeral = json!({ "spec": { "volumes": [{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": {
        "spec": { "accessModes": ["ReadWriteOnce"] } } } }] } });
    let plan = Case::whole().plan(&pod(&[], &ephemeral)).unwrap();
    assert_eq!((plan.outcome, plan.deleted_claims), (Outcome::StartsElsewhere, vec!["pg-0-scratch".to_owned()]));
    let mut waiting = Case::whole();
    waiting.facts.push(claim("new", ""));
    assert_eq!(waiting.outcome(&pod(&["new"], &json!({}))).0, Outcome::StartsElsewhere);
}

#[test]
fn a_claim_that_is_being_deleted_goes_with_the_pod_and_only_a_template_makes_another() {
    let leaving = |name: &str| {
        let Fact::Claim(mut claim) = claim(name, "v") else { panic!() };
        claim.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        Fact::Claim(claim)
    };
    let mut by_hand = Case::whole();
    by_hand.facts.push(leaving("data"));
    let plan = by_hand.plan(&pod(&["data"], &json!({}))).unwrap();
    assert_eq!((plan.outcome, plan.why.as_str()), (Outcome::StartsNowhere, "claim data is being deleted"));
    assert_eq!((plan.deleted_claims, plan.held), (vec!["data".to_owned()], vec![]));
    let of_template = json!({ "spec": { "volumes": [
        { "name": "data", "persistentVolumeClaim": { "claimName": "data-pg-0" } }] } });
    let mut templated = Case::whole();
    templated.facts.push(leaving("data-pg-0"));
    let plan = templated.plan(&pod(&[], &of_template)).unwrap();
    assert_eq!((plan.outcome, plan.deleted_claims), (Outcome::StartsElsewhere, vec!["data-pg-0".to_owned()]));
    assert_eq!(Case::whole().outcome(&pod(&[], &of_template)).0, Outcome::StartsElsewhere, "it is made anew");
}

#[test]
fn a_drain_leaves_some_pods_and_ends_others_for_good() {
    let bare = json!({ "metadata": { "ownerReferences": null } });
    let plan = Case::whole().plan(&pod(&["data"], &bare)).unwrap();
    assert_eq!((plan.outcome, plan.held.len()), (Outcome::NotMadeAgain, 1), "its claim stays here");
    let daemon = json!({ "metadata": { "ownerReferences": [
        { "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "2", "controller": true }] } });
    assert_eq!(Case::whole().outcome(&pod(&["data"], &daemon)).0, Outcome::Stays);
    let fixed = json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } });
    assert_eq!(Case::whole().outcome(&pod(&[], &fixed)).0, Outcome::Stays);
    let ended = json!({ "status": { "phase": "Succeeded" } });
    assert!(Case::whole().plan(&pod(&["data"], &ended)).is_none());
    let leaving = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    assert!(Case::whole().plan(&pod(&["data"], &leaving)).is_none());
}

#[test]
fn budgets_hold_back_what_they_do_not_let_go_at_once() {
    let budget = |name: &str, allowed: i32| -> Budget {
        serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "db" }, "spec": { "selector": {} },
            "status": { "disruptionsAllowed": allowed } }))
        .unwrap()
    };
    let second = json!({ "metadata": { "name": "pg-1" } });
    let planned = |claims: &[&str], budgets: &[Budget]| {
        let pods = [pod(claims, &json!({})), pod(claims, &second)];
        Case::whole().whole_plan(&[&pods[0], &pods[1]], Some(budgets))
    };
    let held = |plan: &DrainPlan| -> Vec<(usize, usize, Option<bool>)> {
        plan.held_back.iter().map(|held| (held.allowed, held.pods, held.ends_by_itself)).collect()
    };
    let plan = planned(&["net"], &[budget("a", 2)]);
    assert_eq!((held(&plan), plan.is_harmful(), plan.not_looked_at.len()), (vec![], false, 3));
    let plan = planned(&["net"], &[budget("a", 1)]);
    assert_eq!((held(&plan), plan.is_harmful()), (vec![(1, 2, Some(true))], false), "one after the other");
    let plan = planned(&["net"], &[budget("a", 0)]);
    assert_eq!((held(&plan), plan.is_harmful()), (vec![(0, 2, Some(false))], true));
    let plan = planned(&["data"], &[budget("a", 1)]);
    assert_eq!(held(&plan), [(1, 2, Some(false))], "what is made in their place waits for the node");
    let plan = planned(&["net"], &[budget("b", 5), budget("a", 5)]);
    assert_eq!(held(&plan), [(0, 2, Some(false))], "the API server evicts no Pod of two budgets");
    assert_eq!(plan.held_back[0].budgets, ["a", "b"]);
    let (waits, starts) = (pod(&["data"], &json!({})), pod(&["net"], &second));
    let plan = Case::whole().whole_plan(&[&waits, &starts], Some(&[budget("a", 1)]));
    assert_eq!(held(&plan), [(1, 2, None)], "it hangs on which goes first");
    let partial = Case { facts: vec![], unlisted: Unlisted::Unknown, ..Case::whole() };
    let plan = partial.whole_plan(&[&waits, &starts], Some(&[budget("a", 1)]));
    assert_eq!(held(&plan), [(1, 2, None)], "what becomes of the Pods is not known");
    let plan = Case::whole().whole_plan(&[&pod(&["net"], &json!({}))], None);
    assert!(plan.not_looked_at.iter().any(|it| it.contains("PodDisruptionBudgets")), "{plan:?}");
}

#[test]
fn what_drain_policies_hold_up_is_planned() {
    let planned = |policy: &str, change: &Value| {
        let mut case = Case::whole();
        let Fact::Volume(mut held) = volume("v", &["a"]) else { unreachable!("it is a volume") };
        held.metadata =
            serde_json::from_value(json!({ "name": "v", "annotations": { "latebind.dev/drain-policy": policy } }))
                .unwrap();
        case.facts.push(Fact::Volume(held));
        let Fact::Claim(mut claim) = claim("data", "v") else { unreachable!("it is a claim") };
        let mut metadata = json!({ "name": "data", "namespace": "db" });
        json_patch::merge(&mut metadata, change);
        claim.metadata = serde_json::from_value(metadata).unwrap();
        case.facts.push(Fact::Claim(claim));
        let plan = case.whole_plan(&[&pod(&["data"], &json!({}))], None);
        let approval = plan.needs_approval();
        (plan.guarded.into_iter().map(|it| (it.policy, it.of, it.approved_by)).collect::<Vec<_>>(), approval)
    };
    let nothing = json!({});
    let of = "volume v".to_owned();
    assert_eq!(planned("Warn", &nothing), (vec![], false));
    assert_eq!(planned("Wait", &nothing), (vec![(DrainPolicy::Wait, of.clone(), None)], false));
    assert_eq!(planned("Deny", &nothing), (vec![(DrainPolicy::Deny, of.clone(), None)], true));
    let approved = json!({ "annotations": { "latebind.dev/drain-approved-by": "anna", "latebind.dev/drain-approved-until": "1970-01-01T00:00:01Z" } });
    assert_eq!(planned("Deny", &approved), (vec![(DrainPolicy::Deny, of, Some("anna".to_owned()))], false));
}

#[test]
fn what_a_node_says_of_its_maintenance_is_in_the_plan() {
    let of = |conditions: Value| {
        let node = json!({ "metadata": { "name": "a" }, "status": { "conditions": conditions } });
        maintenance(&serde_json::from_value(node).unwrap())
    };
    let one = |kind: &str, status: &str| json!({ "type": kind, "status": status });
    assert_eq!(
        of(json!([one("Ready", "True"), one("MaintenancePlanned", "True"), one("Drained", "False")])),
        ["MaintenancePlanned"]
    );
    assert!(of(json!([])).is_empty());
}
