//! Claims whose node is gone: when that is certain, and when their claim may be made anew without the volume.
//!
//! No data is deleted. A claim is let go only where every Node is known, none of them reaches its volume, a live look says that the
//! node does not exist, that has been observed for the whole of the time of grace, and a Pod waits for it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::NodeSelectorTerm;

use super::policy::ChosenPolicy;
use crate::binding::{ClusterView, Kind, Lookup};
use crate::crd::LostNodePolicy;
use crate::model::selector::{place_labels, volume_reachable};
use crate::model::{Claim, Node, Pod, Volume};

/// Whether a node reaches a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// One does, or any could.
    Reached,
    /// None does that exists. These labels, key and value, named the nodes that did.
    Lost(Vec<(String, String)>),
    /// It is not known whether one does.
    NotKnown,
}

/// Operators whose meaning is known.
/// Source: `component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity.go`, `nodeSelectorRequirementsAsSelector`.
const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Whether a node reaches a volume. Only of one that asks for labels which tell nodes apart it is ever said that none does: that a
/// zone has no node now is no loss.
#[must_use]
pub fn reachability(volume: &Volume, view: &dyn ClusterView) -> Reachability {
    let labels = place_labels(volume);
    if labels.is_empty() {
        return Reachability::Reached;
    }
    // The values of such labels are mostly names, so that all but those of nodes that are gone are found without a walk.
    let named: Vec<Arc<Node>> = labels
        .iter()
        .flat_map(|(_, value)| {
            view.nodes_with_hostname(value).found().unwrap_or_default().into_iter().chain(view.node(value).found())
        })
        .collect();
    if named.iter().any(|node| volume_reachable(volume, node)) {
        return Reachability::Reached;
    }
    // It is there, and something else about it is not as the volume wants it.
    if !named.is_empty() {
        return Reachability::NotKnown;
    }
    let Lookup::Found(nodes) = view.all_nodes() else { return Reachability::NotKnown };
    if nodes.iter().any(|node| volume_reachable(volume, node)) {
        return Reachability::Reached;
    }
    // A cluster without Nodes, or with one that lacks the label, may be one whose Nodes have just begun to be told apart.
    let may_be =
        |node: &Arc<Node>| labels.iter().any(|(key, value)| node.label(key).is_none_or(|found| found == *value));
    if nodes.is_empty() || nodes.iter().any(may_be) || !view.knows_all(Kind::Nodes) || !is_understood(volume) {
        return Reachability::NotKnown;
    }
    Reachability::Lost(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// True where every requirement of its affinity is one whose meaning is known, and is about labels.
fn is_understood(volume: &Volume) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let of_term = |term: &NodeSelectorTerm| {
        let mut wanted = term.match_expressions.iter().flatten();
        term.match_fields.as_ref().is_none_or(Vec::is_empty)
            && wanted.all(|it| OPERATORS.contains(&it.operator.as_str()))
    };
    required.is_some_and(|required| required.node_selector_terms.iter().all(of_term))
}

/// How patient one is with nodes that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For how long a node must have been gone.
    pub grace: Duration,
    /// So many places may be gone at one time; of more none is given up.
    pub most_places: usize,
    /// So many percent of all places may be.
    pub most_percent: usize,
}

impl Patience {
    /// True where so many places are gone at one time that something else is the matter: no claim is let go then.
    #[must_use]
    pub const fn is_too_many(&self, gone: usize, nodes: usize) -> bool {
        let of_all = gone.saturating_add(nodes).saturating_mul(self.most_percent) / 100;
        let most = if of_all > self.most_places { of_all } else { self.most_places };
        gone > most
    }
}

/// What is known of a claim whose volume no node reaches.
#[derive(Clone, Debug)]
pub struct LostClaim<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// What is to be done about it.
    pub chosen: &'a ChosenPolicy<LostNodePolicy>,
    /// Why the controller lets no claim go here, whatever the policy says; nothing where it may.
    pub forbidden: Option<&'a str>,
    /// For how long it was observed.
    pub observed: Duration,
    /// How patient one is.
    pub patience: Patience,
    /// So many places are gone at one time that something else may be the matter.
    pub too_many: bool,
    /// Pods that wait for the claim.
    pub waiting: &'a [Arc<Pod>],
}

/// What is done about a claim whose volume no node reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostStep {
    /// Nothing: it is told, and why nothing else is done.
    Explain(String),
    /// Its time runs; what is left of it.
    Wait(Duration),
    /// Its time is over: it is let go if a live look agrees.
    Unbind {
        /// Who makes it anew first.
        remake: Remake,
        /// The Pod that waits for it.
        pod: String,
    },
}

/// Who makes the claim anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remake {
    /// Its StatefulSet.
    StatefulSet,
    /// We do.
    Controller,
}

/// Decides. The volume must be bound to the claim.
#[must_use]
pub fn decide(lost: &LostClaim<'_>) -> LostStep {
    let why = |why: &str| LostStep::Explain(why.to_owned());
    let (claim, chosen) = (lost.claim, lost.chosen);
    if chosen.policy == LostNodePolicy::Explain {
        return match &chosen.by {
            Some(by) => LostStep::Explain(format!("the policy of {by} is Explain")),
            None => why("no policy says otherwise"),
        };
    }
    if let Some(forbidden) = lost.forbidden {
        return why(forbidden);
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return why("the claim is being deleted");
    }
    let waiting = || lost.waiting.iter().filter(|pod| is_waiting(pod));
    let is_of_set = |pod: &&Arc<Pod>| {
        let mut volumes = pod.spec.volumes.iter();
        volumes.any(|volume| super::is_of_template(pod, &volume.name, claim.name()) && names(pod, volume, claim.name()))
    };
    // Where a Pod of a StatefulSet is among those that wait, that one's turn counts.
    let of_set = waiting().find(is_of_set);
    let Some(pod) = of_set.or_else(|| waiting().next()) else {
        return why("no Pod waits for it yet");
    };
    let owner = claim.metadata.owner_references.iter().flatten().next();
    let remake = match owner {
        _ if of_set.is_some() => Remake::StatefulSet,
        None => Remake::Controller,
        Some(owner) => {
            return LostStep::Explain(format!(
                "it belongs to a {}, and it is not known whether that makes it anew",
                owner.kind
            ));
        }
    };
    if lost.too_many {
        return why("so many nodes are gone at one time that something else may be the matter");
    }
    match lost.patience.grace.checked_sub(lost.observed).filter(|left| !left.is_zero()) {
        Some(left) => LostStep::Wait(left),
        None => LostStep::Unbind { remake, pod: pod.display_name().to_owned() },
    }
}

/// True for a Pod that waits for the scheduler. One that has a node is of the node that is gone, and is removed by Kubernetes.
fn is_waiting(pod: &Pod) -> bool {
    pod.is_live() && pod.pinned_node().is_none()
}

fn names(pod: &Pod, volume: &crate::model::PodVolume, claim: &str) -> bool {
    pod.claim_name(volume).is_some_and(|name| name == claim)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::{Fact, Facts, Unlisted};

    const HOST: &str = "kubernetes.io/hostname";

    fn nodes(all: &[Value]) -> Facts {
        let mut facts = Facts::new(Unlisted::Absent);
        for node in all {
            facts.add(Fact::read("", "Node", node).unwrap().unwrap());
        }
        facts
    }

    fn node(name: &str) -> Value {
        json!({ "metadata": { "name": name, "labels": { HOST: name, "topology.kubernetes.io/zone": "z", "csi/node": name } } })
    }

    fn volume(terms: &Value) -> Volume {
        let affinity = json!({ "required": { "nodeSelectorTerms": terms } });
        serde_json::from_value(json!({ "metadata": { "name": "pv" }, "spec": { "local": { "path": "/d" },
            "nodeAffinity": affinity, "claimRef": { "namespace": "db", "name": "data-pg-0", "uid": "c" } },
            "status": { "phase": "Bound" } }))
        .unwrap()
    }

    fn term(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] })
    }

    #[test]
    fn a_node_is_gone_when_all_are_known_and_none_reaches_the_volume() {
        let gone = volume(&json!([term(HOST, "In", &["a"])]));
        let of_several = volume(&json!([term(HOST, "In", &["a"]), term(HOST, "In", &["b"])]));
        let by_driver = volume(&json!([term("csi/node", "In", &["a"])]));
        let known = nodes(&[node("b"), node("c")]);
        let place = |key: &str| Reachability::Lost(vec![(key.to_owned(), "a".to_owned())]);
        assert_eq!(reachability(&gone, &known), place(HOST));
        assert_eq!(reachability(&by_driver, &known), place("csi/node"));
        assert_eq!(reachability(&of_several, &known), Reachability::Reached, "the other node is there");
        assert_eq!(reachability(&gone, &nodes(&[node("a"), node("b")])), Reachability::Reached);
    }

    /// B1 of the reference: what is not about one node is never lost, whatever nodes there are.
    #[test]
    fn what_many_nodes_could_reach_is_never_lost() {
        let known = nodes(&[node("b")]);
        for terms in [
            json!([term("topology.kubernetes.io/zone", "In", &["y"])]),
            json!([term("example.org/disk", "Exists", &[])]),
            json!([term(HOST, "NotIn", &["b"])]),
            json!([term(HOST, "In", &["a"]), term("topology.kubernetes.io/zone", "In", &["y"])]),
            json!([{}]),
            json!([]),
            json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["a"] }] }]),
        ] {
            assert_eq!(reachability(&volume(&terms), &known), Reachability::Reached, "{terms}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_loss() {
        let gone = volume(&json!([term(HOST, "In", &["a"])]));
        let unlabelled = json!({ "metadata": { "name": "new" } });
        let renamed = json!({ "metadata": { "name": "a", "labels": { HOST: "other" } } });
        let mut partial = Facts::new(Unlisted::Unknown);
        partial.add(Fact::read("", "Node", &node("b")).unwrap().unwrap());
        for (why, facts) in [
            ("no Nodes at all", nodes(&[])),
            ("a Node without the label", nodes(&[node("b"), unlabelled])),
            ("not all Nodes are known", partial),
            ("it is there by name", nodes(&[node("b"), renamed])),
        ] {
            assert_eq!(reachability(&gone, &facts), Reachability::NotKnown, "{why}");
        }
        let with_disk = json!({ "matchExpressions": [{ "key": HOST, "operator": "In", "values": ["a"] },
            { "key": "disk", "operator": "In", "values": ["ssd"] }] });
        let there = nodes(&[node("a"), node("b")]);
        assert_eq!(reachability(&volume(&json!([with_disk])), &there), Reachability::NotKnown, "it lost another label");
        let odd = json!({ "matchExpressions": [{ "key": HOST, "operator": "In", "values": ["a"] },
            { "key": "disk", "operator": "Near", "values": ["x"] }] });
        assert_eq!(reachability(&volume(&json!([odd])), &nodes(&[node("b")])), Reachability::NotKnown);
    }

    #[test]
    fn of_too_many_nodes_none_is_given_up() {
        let patience = Patience { grace: Duration::ZERO, most_places: 1, most_percent: 10 };
        for (gone, left, too_many) in [
            (0, 0, false),
            (1, 0, false),
            (1, 2, false),
            (2, 3, true),
            (2, 17, true),
            (2, 18, false),
            (5, 45, false),
            (6, 45, true),
        ] {
            assert_eq!(patience.is_too_many(gone, left), too_many, "{gone} of {}", gone + left);
        }
        let none = Patience { most_places: 0, most_percent: 0, ..patience };
        assert!(none.is_too_many(1, 1000) && !none.is_too_many(0, 5));
    }

    fn pod(change: &Value) -> Arc<Pod> {
        let owner =
            json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "s", "controller": true });
        let mut pod = json!({ "metadata": { "name": "pg-0", "namespace": "db", "ownerReferences": [owner] },
            "spec": { "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data-pg-0" } }] },
            "status": { "phase": "Pending" } });
        json_patch::merge(&mut pod, change);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn step(change: impl FnOnce(&mut LostClaim<'_>), claim: &Value, waiting: &[Arc<Pod>]) -> LostStep {
        let by = Some("class fast".to_owned());
        let chosen = ChosenPolicy { policy: LostNodePolicy::Unbind, by, unread: Vec::new() };
        step_by(&chosen, change, claim, waiting)
    }

    fn step_by(
        chosen: &ChosenPolicy<LostNodePolicy>,
        change: impl FnOnce(&mut LostClaim<'_>),
        claim: &Value,
        waiting: &[Arc<Pod>],
    ) -> LostStep {
        let mut object = json!({ "metadata": { "name": "data-pg-0", "namespace": "db", "uid": "c" },
            "spec": { "volumeName": "pv" }, "status": { "phase": "Bound" } });
        json_patch::merge(&mut object, claim);
        let claim: Claim = serde_json::from_value(object).unwrap();
        let patience = Patience { grace: Duration::from_secs(600), most_places: 1, most_percent: 10 };
        let observed = Duration::from_secs(600);
        let mut lost =
            LostClaim { claim: &claim, chosen, forbidden: None, observed, patience, too_many: false, waiting };
        change(&mut lost);
        decide(&lost)
    }

    fn unbind(remake: Remake) -> LostStep {
        LostStep::Unbind { remake, pod: "pg-0".to_owned() }
    }

    #[test]
    fn a_claim_is_let_go_once_its_time_is_over_and_a_pod_waits() {
        let waiting = [pod(&json!({}))];
        let nothing = json!({});
        assert_eq!(step(|_| {}, &nothing, &waiting), unbind(Remake::StatefulSet));
        let bare = [pod(&json!({ "metadata": { "ownerReferences": null } }))];
        assert_eq!(step(|_| {}, &nothing, &bare), unbind(Remake::Controller));
        // Whoever else waits for it, however named, changes nothing of whose turn it is.
        let backup = pod(&json!({ "metadata": { "name": "backup", "ownerReferences": null } }));
        let both = [backup, pod(&json!({}))];
        assert_eq!(step(|_| {}, &nothing, &both), unbind(Remake::StatefulSet));
        // A claim of a StatefulSet that deletes its claims belongs to it, and is made anew all the same.
        let owned = |kind: &str| json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": kind, "name": "o", "uid": "1", "controller": true }] } });
        assert_eq!(step(|_| {}, &owned("StatefulSet"), &waiting), unbind(Remake::StatefulSet));
        let early = |lost: &mut LostClaim<'_>| lost.observed = Duration::from_secs(599);
        assert_eq!(step(early, &nothing, &waiting), LostStep::Wait(Duration::from_secs(1)));
    }

    #[test]
    fn in_any_doubt_it_is_told_and_nothing_else() {
        let waiting = [pod(&json!({}))];
        let nothing = json!({});
        let explained = |step: LostStep, words: &str| {
            assert!(matches!(&step, LostStep::Explain(why) if why.contains(words)), "{words}: {step:?}");
        };
        let explain = ChosenPolicy { policy: LostNodePolicy::Explain, by: None, unread: Vec::new() };
        explained(step_by(&explain, |_| {}, &nothing, &waiting), "no policy says otherwise");
        explained(step(|lost| lost.forbidden = Some("it may not"), &nothing, &waiting), "it may not");
        explained(step(|lost| lost.too_many = true, &nothing, &waiting), "so many nodes are gone");
        explained(
            step(|_| {}, &json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), &waiting),
            "being deleted",
        );
        let of_operator = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Cluster", "name": "o", "uid": "1", "controller": true }] } });
        let other = [pod(&json!({ "metadata": { "ownerReferences": null } }))];
        explained(step(|_| {}, &of_operator, &other), "belongs to a Cluster");
        for idle in [
            vec![],
            vec![pod(&json!({ "spec": { "nodeName": "a" } }))],
            vec![pod(&json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }))],
            vec![pod(&json!({ "status": { "phase": "Failed" } }))],
        ] {
            explained(step(|_| {}, &nothing, &idle), "no Pod waits");
        }
    }
}
