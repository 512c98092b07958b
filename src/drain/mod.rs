//! What a drain of a node does to its Pods: which of them start on another node, which wait for this one, and what holds them.
//!
//! A drain evicts Pods. What made a Pod makes another in its place, and the scheduler places that one where the node affinity of
//! its volumes, its own selectors and the nodes' taints let it. A local volume lets it go nowhere. Everything here is pure. That
//! no other node will do is said only where all Nodes are known, and that one will do only where all of the Pod's claims and
//! volumes are.

mod budgets;
mod held;
mod replacement;
pub mod retire;

use std::sync::Arc;

use serde::Serialize;

pub use self::budgets::HeldBack;
pub use self::held::{ClaimsOnNode, HeldClaim, claims_of, claims_on};
use crate::binding::{ClusterView, Lookup};
use crate::model::{Budget, Node, Pod, Volume};

/// What is known of a node that is to be drained.
pub struct DrainFacts<'a> {
    /// Claims and volumes.
    pub view: &'a dyn ClusterView,
    /// The node.
    pub node: &'a Node,
    /// The other Nodes that are known.
    pub others: Vec<&'a Node>,
    /// There are no others.
    pub are_all: bool,
    /// The Pods of the node.
    pub pods: Vec<&'a Pod>,
    /// All PodDisruptionBudgets; nothing where they are not known.
    pub budgets: Option<Vec<&'a Budget>>,
}

/// What becomes of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// What is made in its place starts nowhere, not even on this node.
    StartsNowhere,
    /// What is made in its place stays Pending until this node takes Pods again.
    WaitsForThisNode,
    /// What is made in its place stays Pending until one of some other nodes takes Pods, or this one again.
    WaitsForOtherNodes,
    /// Nothing makes it again.
    NotMadeAgain,
    /// Something that decides is not known.
    NotKnown,
    /// What is made in its place can start on another node.
    StartsElsewhere,
    /// The drain leaves it where it is.
    Stays,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StartsNowhere => "StartsNowhere",
            Self::WaitsForThisNode => "WaitsForThisNode",
            Self::WaitsForOtherNodes => "WaitsForOtherNodes",
            Self::NotMadeAgain => "NotMadeAgain",
            Self::NotKnown => "NotKnown",
            Self::StartsElsewhere => "StartsElsewhere",
            Self::Stays => "Stays",
        }
    }

    /// True where the drain takes away what runs, and nothing runs in its place.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        matches!(self, Self::StartsNowhere | Self::WaitsForThisNode | Self::WaitsForOtherNodes | Self::NotMadeAgain)
    }
}

/// What becomes of one Pod, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// `kind/name` of what made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Why, in words.
    pub why: String,
    /// Its claims that are on this node alone.
    pub held: Vec<HeldClaim>,
    /// Claims that are deleted once it is gone, with their data: those of its generic ephemeral volumes, and those that are
    /// being deleted already.
    pub deleted_claims: Vec<String>,
}

/// What a drain of a node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainPlan {
    /// Name of the node.
    pub node: String,
    /// It takes no Pods already.
    pub cordoned: bool,
    /// What becomes of each of its Pods that still run, by namespace and name.
    pub pods: Vec<PodPlan>,
    /// What PodDisruptionBudgets keep from being evicted at once.
    pub held_back: Vec<HeldBack>,
    /// What may be missing, in words.
    pub not_known: Vec<String>,
    /// What is not looked at, and may make a Pod wait all the same, or the drain.
    pub not_looked_at: Vec<&'static str>,
}

impl DrainPlan {
    /// How many Pods come to this.
    #[must_use]
    pub fn count(&self, is: impl Fn(Outcome) -> bool) -> usize {
        self.pods.iter().filter(|pod| is(pod.outcome)).count()
    }

    /// True where a drain takes down what runs, or does not end by itself as budgets stand now.
    #[must_use]
    pub fn is_harmful(&self) -> bool {
        self.count(Outcome::is_outage) > 0 || self.held_back.iter().any(|held| held.ends_by_itself == Some(false))
    }
}

/// What a drain does. Pods that have ended or are being deleted are left out. `not_known` is what the caller could not read.
#[must_use]
pub fn plan(facts: &DrainFacts<'_>, not_known: Vec<String>) -> DrainPlan {
    let live = facts.pods.iter().filter(|pod| pod.is_live());
    let mut pods: Vec<PodPlan> = live.map(|pod| plan_pod(pod, facts)).collect();
    pods.sort_by(|one, other| (&one.namespace, &one.pod).cmp(&(&other.namespace, &other.pod)));
    let held_back = budgets::held_back(facts, &pods);
    let mut not_looked_at = vec!["room for CPU and memory", "affinity between Pods", "topology spread"];
    if facts.budgets.is_none() {
        not_looked_at.push("PodDisruptionBudgets, which are not known");
    }
    DrainPlan {
        node: facts.node.name().to_owned(),
        cordoned: facts.node.spec.unschedulable,
        pods,
        held_back,
        not_known,
        not_looked_at,
    }
}

fn plan_pod(pod: &Pod, facts: &DrainFacts<'_>) -> PodPlan {
    let storage = Storage::of(pod, facts.view);
    let owner = pod.metadata.controller();
    let (outcome, why) = match owner.map(|owner| owner.kind.as_str()) {
        _ if pod.is_mirror() => (Outcome::Stays, "its node's kubelet runs it from a file".to_owned()),
        Some("DaemonSet") => (Outcome::Stays, "it is of a DaemonSet".to_owned()),
        None => (Outcome::NotMadeAgain, "no controller makes another in its place".to_owned()),
        Some(_) => replacement::outcome(pod, &storage, facts),
    };
    let is_held = |it: &&BoundClaim| replacement::is_on_this_node_alone(&it.volume, facts);
    PodPlan {
        namespace: pod.namespace().to_owned(),
        pod: pod.display_name().to_owned(),
        controller: owner.map(|owner| format!("{}/{}", owner.kind.to_lowercase(), owner.name)),
        outcome,
        why,
        held: storage.bound.iter().filter(is_held).map(BoundClaim::held).collect(),
        deleted_claims: storage.deleted,
    }
}

/// A claim of a Pod that has a volume.
struct BoundClaim {
    name: String,
    volume: Arc<Volume>,
    /// Its StatefulSet makes it again.
    is_made_anew: bool,
}

impl BoundClaim {
    fn held(&self) -> HeldClaim {
        HeldClaim {
            claim: self.name.clone(),
            volume: self.volume.name().to_owned(),
            path: self.volume.path().map(str::to_owned),
            deleted_with_claim: self.volume.loses_data_on_release(),
            made_anew: self.is_made_anew,
        }
    }
}

/// What a Pod has of volumes that outlive it.
#[derive(Default)]
struct Storage {
    bound: Vec<BoundClaim>,
    /// Claims whose volume is gone.
    lost: Vec<String>,
    /// What is not known, in words.
    not_known: Vec<String>,
    /// Claims that go with the Pod.
    deleted: Vec<String>,
}

impl Storage {
    fn of(pod: &Pod, view: &dyn ClusterView) -> Self {
        let mut storage = Self::default();
        for volume in &pod.spec.volumes {
            let Some(name) = pod.claim_name(volume).map(|name| name.to_string()) else { continue };
            if volume.ephemeral.is_some() {
                storage.deleted.push(name);
                continue;
            }
            let is_made_anew = is_of_template(pod, &volume.name, &name);
            let claim = match view.claim(pod.namespace(), &name) {
                Lookup::Found(claim) => claim,
                Lookup::Absent if is_made_anew => continue,
                Lookup::Absent => {
                    storage.lost.push(format!("claim {name} does not exist"));
                    continue;
                }
                Lookup::Unknown => {
                    storage.not_known.push(format!("claim {name}"));
                    continue;
                }
            };
            if claim.metadata.deletion_timestamp.is_some() {
                if !is_made_anew {
                    storage.lost.push(format!("claim {name} is being deleted"));
                }
                storage.deleted.push(name);
                continue;
            }
            // One that is not bound is bound to a volume wherever the scheduler places what is made in the Pod's place.
            let Some(volume) = claim.volume_name().filter(|_| claim.is_bound() || claim.status.phase == "Lost") else {
                continue;
            };
            match view.volume(volume) {
                Lookup::Found(volume) => storage.bound.push(BoundClaim { name, volume, is_made_anew }),
                Lookup::Absent => storage.lost.push(format!("claim {name} has lost its volume {volume}")),
                Lookup::Unknown => storage.not_known.push(format!("volume {volume} of claim {name}")),
            }
        }
        storage
    }
}

/// True for a claim that the Pod's StatefulSet has made from a template, and makes again where it is gone.
/// Source: `pkg/controller/statefulset/stateful_set_utils.go`, `getPersistentVolumeClaimName`.
fn is_of_template(pod: &Pod, volume: &str, claim: &str) -> bool {
    let of_set = pod.metadata.controller().is_some_and(|owner| owner.kind == "StatefulSet");
    of_set && claim.strip_prefix(volume).and_then(|rest| rest.strip_prefix('-')) == Some(pod.display_name())
}

#[cfg(test)]
mod tests {
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
        let owner =
            json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "1", "controller": true });
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
            let facts =
                vec![volume("v", &["a"]), claim("data", "v"), volume("net", &["a", "b", "c"]), claim("net", "net")];
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
            look(&DrainFacts { view: &view, node: &this, others, are_all: self.are_all, pods: pods.to_vec(), budgets })
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
        let shares = json!({ "metadata": { "name": "backup" }, "spec": { "volumes": [
            { "name": "data", "persistentVolumeClaim": { "claimName": "data-pg-0" } }] } });
        let shared = refused(|_| {}, "x.com/y", &[pod(&[], &shares)]);
        assert!(shared.contains("claim data-pg-0 is used by pod backup too"), "{shared}");
        let mut leaving = pod(&[], &shares);
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
}
