//! What an audit looks for beyond the decisions about Pods: volumes whose node is gone, Pods that a drain would leave Pending,
//! Pods of StatefulSets without a volume.
//!
//! All of it is about objects that exist. What is not known is no finding, and no reason to say that there is none: the caller
//! has read every Node, volume, claim and Pod that is asked for here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;

use super::finding::{Code, FieldPath, Finding, Severity};
use super::workload::most_ordinals;
use super::{ClusterView, Kind, Lookup};
use crate::model::selector::{volume_selector_matches, wanted};
use crate::model::{Claim, Node, Pod, Volume, Workload, WorkloadKind};

/// Names that a message lists before it only counts.
const MOST_NAMES: usize = 3;

/// Which Nodes can reach a volume.
#[derive(Clone, Debug)]
enum Reach {
    /// Its node affinity, or that it has none, leaves a choice.
    Several,
    /// This one alone.
    One(Arc<Node>),
    /// None that exists.
    None,
}

/// Every Node of a cluster, by the node affinities that have been asked for.
///
/// Volumes of one node have the same affinity, so that each is held against the Nodes once, however many volumes have it.
#[derive(Debug)]
pub struct Risks {
    nodes: Vec<Arc<Node>>,
    /// There is nothing besides what is known.
    are_all: bool,
    by_affinity: RefCell<HashMap<String, Reach>>,
}

impl Risks {
    /// Of the Nodes that are known, and whether no object is missing from what is known. Where one may be, no volume is said to
    /// be out of reach, nor to be on one node alone, and no claim to be missing.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = Arc<Node>>, are_all: bool) -> Self {
        Self { nodes: nodes.into_iter().collect(), are_all, by_affinity: RefCell::default() }
    }

    fn reach(&self, affinity: &NodeSelector) -> Reach {
        // A selector is plain text and lists, which always become JSON.
        let key = serde_json::to_string(affinity).unwrap_or_default();
        let find = || {
            let mut found = self.nodes.iter().filter(|node| volume_selector_matches(affinity, node));
            match (found.next(), found.next()) {
                (None, _) => Reach::None,
                (Some(node), None) => Reach::One(Arc::clone(node)),
                (Some(_), Some(_)) => Reach::Several,
            }
        };
        self.by_affinity.borrow_mut().entry(key).or_insert_with(find).clone()
    }

    /// What threatens who uses a claim, whatever names its Pods.
    #[must_use]
    pub fn of_claim(&self, claim: &Claim, view: &dyn ClusterView) -> Vec<Finding> {
        if claim.status.phase == "Lost" {
            let volume = claim.volume_name().unwrap_or("(none)");
            let message = format!("claim {} has lost its volume {volume}", claim.name());
            return vec![Code::ClaimLost.at(FieldPath::new(&["spec", "volumeName"]), message)];
        }
        let Some(name) = claim.volume_name().filter(|_| claim.is_bound()) else { return Vec::new() };
        let Lookup::Found(volume) = view.volume(name) else { return Vec::new() };
        let Some(affinity) = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) else {
            return Vec::new();
        };
        let Lookup::Found(pods) = view.consumers(claim.namespace(), claim.name()) else { return Vec::new() };
        let live: Vec<&Pod> = pods.iter().map(AsRef::as_ref).filter(|pod| pod.is_live()).collect();
        if !self.are_all || !view.knows_all(Kind::Nodes) {
            return Vec::new();
        }
        match self.reach(affinity) {
            Reach::None => vec![node_gone(claim, &volume, affinity, &live)],
            Reach::One(node) => left_by_drain(claim, &volume, &node, &live).into_iter().collect(),
            Reach::Several => Vec::new(),
        }
    }

    /// Pods of a StatefulSet that have no volume while others of it have.
    #[must_use]
    pub fn of_workload(&self, workload: &Workload, view: &dyn ClusterView) -> Vec<Finding> {
        let Some(pod) = workload.pod().filter(|_| workload.kind == WorkloadKind::StatefulSet) else {
            return Vec::new();
        };
        let ordinals = usize::try_from(workload.replicas).unwrap_or(usize::MAX).min(most_ordinals(workload, &pod));
        let of_template = |(place, template): (usize, &Claim)| {
            let (mut bound, mut lacking) = (0, Vec::new());
            for ordinal in (workload.first_ordinal..=u32::MAX).take(ordinals) {
                let name = workload.claim_name(template, ordinal);
                match self.state(workload.namespace(), &name, view) {
                    State::Bound => bound += 1,
                    State::Without(why) => lacking.push(format!("claim {name} {why}")),
                    State::NotStarted => {}
                }
            }
            if bound == 0 || lacking.is_empty() {
                return None;
            }
            let count = lacking.len();
            let mut message = format!(
                "{count} of {} Pods of statefulset {} {} no volume for template {}, {bound} {}: ",
                workload.replicas,
                workload.name(),
                if count == 1 { "has" } else { "have" },
                template.name(),
                if bound == 1 { "has one" } else { "have one" },
            );
            message += &listed(&lacking);
            let path = FieldPath::new(&["spec", "volumeClaimTemplates", &place.to_string()]);
            Some(Code::OrdinalWithoutVolume.at(path, message))
        };
        workload.claim_templates.iter().enumerate().filter_map(of_template).collect()
    }

    fn state(&self, namespace: &str, claim_name: &str, view: &dyn ClusterView) -> State {
        match view.claim(namespace, claim_name) {
            Lookup::Found(claim) if claim.is_bound() => State::Bound,
            Lookup::Found(claim) if claim.status.phase == "Lost" => State::Without("has lost its volume"),
            Lookup::Found(_) => State::Without("is not bound"),
            // The controller makes the claims of a Pod before the Pod.
            Lookup::Absent if self.are_all => match view.consumers(namespace, claim_name) {
                Lookup::Found(pods) if pods.iter().any(|pod| pod.is_live()) => State::Without("does not exist"),
                _ => State::NotStarted,
            },
            Lookup::Absent | Lookup::Unknown => State::NotStarted,
        }
    }
}

/// What is known of the volume of one ordinal.
enum State {
    Bound,
    /// It has none, and why.
    Without(&'static str),
    /// Nothing was made for it yet, or it is not known.
    NotStarted,
}

fn node_gone(claim: &Claim, volume: &Volume, affinity: &NodeSelector, live: &[&Pod]) -> Finding {
    let wants = wanted(affinity);
    let wants = if wants.is_empty() { String::new() } else { format!(" (it wants {wants})") };
    let used = match live {
        [] => "no Pod uses it now".to_owned(),
        pods => format!("{} cannot start again", names(pods)),
    };
    let message = format!(
        "claim {} is bound to volume {}, which no Node of the cluster can reach{wants}; {used}",
        claim.name(),
        volume.name()
    );
    let found = Code::VolumeNodeGone.at(FieldPath::new(&["spec", "volumeName"]), message);
    if live.is_empty() { Finding { severity: Severity::Warning, ..found } } else { found }
}

/// A drain leaves Pods of DaemonSets where they are.
fn left_by_drain(claim: &Claim, volume: &Volume, node: &Node, live: &[&Pod]) -> Option<Finding> {
    let evicted: Vec<&Pod> = live
        .iter()
        .copied()
        .filter(|pod| pod.pinned_node() == Some(node.name()))
        .filter(|pod| pod.metadata.controller().is_none_or(|owner| owner.kind != "DaemonSet"))
        .collect();
    if evicted.is_empty() {
        return None;
    }
    let mut message = if node.spec.unschedulable {
        format!("node {} is cordoned; once evicted, ", node.name())
    } else {
        format!("drained from node {}, ", node.name())
    };
    // Writing to a String cannot fail.
    let _infallible = write!(
        message,
        "{} cannot start on another one: volume {} of claim {} is on that node alone",
        names(&evicted),
        volume.name(),
        claim.name(),
    );
    let found = Code::LeftPendingByDrain.at(FieldPath::new(&["spec", "volumeName"]), message);
    Some(if node.spec.unschedulable { Finding { severity: Severity::Warning, ..found } } else { found })
}

fn names(pods: &[&Pod]) -> String {
    let one = |pod: &&Pod| match pod.metadata.controller() {
        Some(owner) => format!("pod {} of {} {}", pod.display_name(), owner.kind.to_lowercase(), owner.name),
        None => format!("pod {}", pod.display_name()),
    };
    listed(&pods.iter().map(one).collect::<Vec<_>>())
}

/// Names for a sentence: the first few, and how many more there are.
#[must_use]
pub fn listed(names: &[String]) -> String {
    first_of(names, MOST_NAMES)
}

/// The same with at most so many names.
#[must_use]
pub fn first_of(names: &[String], most: usize) -> String {
    let shown = names.iter().take(most).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::{Fact, Facts, Unlisted};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn known(unlisted: Unlisted, facts: Vec<Fact>) -> Facts {
        let mut all = Facts::new(unlisted);
        for fact in facts {
            all.add(fact);
        }
        all
    }

    fn node(name: &str, cordoned: bool) -> Node {
        read(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {"unschedulable": cordoned}}))
    }

    fn volume(name: &str, hosts: &[&str]) -> Volume {
        read(json!({"metadata": {"name": name}, "spec": {"local": {"path": "/d"}, "nodeAffinity": {"required": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": hosts}]}]}}}}))
    }

    fn claim(name: &str, volume: &str, phase: &str) -> Claim {
        read(
            json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"volumeName": volume}, "status": {"phase": phase}}),
        )
    }

    fn pod(name: &str, node: &str, claim: &str, owner: Option<&str>) -> Pod {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|kind| json!({"apiVersion": "apps/v1", "kind": kind, "name": "db", "uid": "1", "controller": true}))
            .collect();
        read(json!({"metadata": {"name": name, "namespace": "a", "ownerReferences": owners}, "spec": {"nodeName": node,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}, "status": {"phase": "Running"}}))
    }

    fn found(facts: Vec<Fact>, claim: &Claim) -> Vec<(Code, Severity, String)> {
        let all = known(Unlisted::Absent, facts);
        let risks = Risks::new(all.nodes().cloned(), true);
        let found = risks.of_claim(claim, &all).into_iter();
        found.map(|finding| (finding.code, finding.severity, finding.message)).collect()
    }

    #[test]
    fn a_drain_is_told_of_pods_whose_volume_no_other_node_reaches() {
        let data = claim("data", "v", "Bound");
        let facts = |hosts: &[&str], cordoned, owner| {
            vec![
                Fact::Node(node("n1", cordoned)),
                Fact::Node(node("n2", false)),
                Fact::Volume(volume("v", hosts)),
                Fact::Pod(pod("db-0", "n1", "data", owner)),
            ]
        };
        let told = found(facts(&["n1"], false, Some("StatefulSet")), &data);
        let expected = "drained from node n1, pod db-0 of statefulset db cannot start on another one: volume v of claim \
                        data is on that node alone";
        assert_eq!(told, [(Code::LeftPendingByDrain, Severity::Info, expected.to_owned())]);
        let told = found(facts(&["n1"], true, None), &data);
        assert_eq!(told[0].1, Severity::Warning, "the drain has begun: {told:?}");
        assert!(told[0].2.starts_with("node n1 is cordoned; once evicted, pod db-0 cannot start"), "{told:?}");
        assert_eq!(found(facts(&["n1", "n2"], false, None), &data), [], "another node reaches it");
        assert_eq!(found(facts(&["n1"], false, Some("DaemonSet")), &data), [], "a drain leaves it there");
        let mut ended = facts(&["n1"], false, None);
        ended.pop();
        assert_eq!(found(ended, &data), [], "nobody uses it");
    }

    #[test]
    fn a_volume_that_no_node_reaches_is_told_only_where_all_nodes_are_known() {
        let data = claim("data", "v", "Bound");
        let facts = || vec![Fact::Node(node("n2", false)), Fact::Volume(volume("v", &["n1"]))];
        let told = found(facts(), &data);
        assert_eq!((told[0].0, told[0].1), (Code::VolumeNodeGone, Severity::Warning), "{told:?}");
        let mut used = facts();
        used.push(Fact::Pod(pod("db-0", "n1", "data", None)));
        let told = found(used, &data);
        assert_eq!((told[0].0, told[0].1), (Code::VolumeNodeGone, Severity::Error), "{told:?}");
        assert!(told[0].2.contains("pod db-0 cannot start again") && told[0].2.contains("n1"), "{told:?}");
        // A part of a cluster: the node may be in the rest.
        let part = known(Unlisted::Unknown, facts());
        assert_eq!(Risks::new(part.nodes().cloned(), true).of_claim(&data, &part), []);
        // A Node that could not be read may be the one.
        let unread = known(Unlisted::Absent, facts());
        assert_eq!(Risks::new(unread.nodes().cloned(), false).of_claim(&data, &unread), []);
        assert_eq!(found(vec![], &data), [], "a volume that is not known");
    }

    #[test]
    fn what_is_lost_is_told_and_what_waits_is_not() {
        assert_eq!(found(vec![], &claim("data", "v", "Lost"))[0].0, Code::ClaimLost);
        assert_eq!(found(vec![], &claim("data", "", "Pending")), []);
    }

    #[test]
    fn ordinals_without_a_volume_are_told_beside_those_that_have_one() {
        let template = json!({"metadata": {"name": "data"}, "spec": {}});
        let set = json!({"metadata": {"name": "db", "namespace": "a"}, "spec": {"replicas": 4, "serviceName": "db",
            "template": {"metadata": {}, "spec": {"containers": []}}, "volumeClaimTemplates": [template]}});
        let set = Workload::read(WorkloadKind::StatefulSet, &set).unwrap();
        let told = |facts: Vec<Fact>| {
            let all = known(Unlisted::Absent, facts);
            let found = Risks::new([], true).of_workload(&set, &all);
            found.into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        let of = |ordinal: usize, phase: &str| {
            let volume = if phase == "Pending" { "" } else { "v" };
            Fact::Claim(claim(&format!("data-db-{ordinal}"), volume, phase))
        };
        let some = vec![
            of(0, "Bound"),
            of(1, "Pending"),
            of(2, "Lost"),
            Fact::Pod(pod("db-3", "n1", "data-db-3", Some("StatefulSet"))),
        ];
        let expected = "3 of 4 Pods of statefulset db have no volume for template data, 1 has one: claim data-db-1 is not \
                        bound, claim data-db-2 has lost its volume, claim data-db-3 does not exist";
        assert_eq!(told(some), [expected]);
        // A claim that could not be read is not missing.
        let mut unread = known(Unlisted::Absent, vec![of(0, "Bound")]);
        unread.add(Fact::Pod(pod("db-3", "n1", "data-db-3", Some("StatefulSet"))));
        assert_eq!(Risks::new([], false).of_workload(&set, &unread), []);
        assert_eq!(told(vec![of(0, "Bound"), of(1, "Bound")]), Vec::<String>::new(), "the others were not made yet");
        assert_eq!(told(vec![of(0, "Pending"), of(1, "Pending")]), Vec::<String>::new(), "it has not begun");
    }

    #[test]
    fn an_affinity_is_held_against_the_nodes_once() {
        let risks = Risks::new((0..100).map(|n| Arc::new(node(&format!("n{n}"), false))), true);
        for n in 0..1_000 {
            let of = volume(&format!("v{n}"), &[&format!("n{}", n % 10)]);
            let affinity = of.spec.node_affinity.unwrap().required.unwrap();
            assert!(matches!(risks.reach(&affinity), Reach::One(_)));
        }
        assert_eq!(risks.by_affinity.borrow().len(), 10);
    }
}
