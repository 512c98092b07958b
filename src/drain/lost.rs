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
pub enum Whereabouts {
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
pub fn whereabouts(volume: &Volume, view: &dyn ClusterView) -> Whereabouts {
    let labels = place_labels(volume);
    if labels.is_empty() {
        return Whereabouts::Reached;
    }
    let Lookup::Found(nodes) = view.all_nodes() else { return Whereabouts::NotKnown };
    if nodes.iter().any(|node| volume_reachable(volume, node)) {
        return Whereabouts::Reached;
    }
    // A cluster without Nodes, or with one that lacks the label, may be one whose Nodes have just begun to be told apart.
    let may_be = |node: &Arc<Node>| labels.iter().any(|(key, _)| node.label(key).is_none());
    if nodes.is_empty() || nodes.iter().any(may_be) || !view.knows_all(Kind::Nodes) || !is_understood(volume) {
        return Whereabouts::NotKnown;
    }
    Whereabouts::Lost(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// True where every requirement of its affinity is one whose meaning is known, and is about labels.
fn is_understood(volume: &Volume) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let of_term = |term: &NodeSelectorTerm| {
        let mut wanted = term.match_expressions.iter().flatten();
        term.match_fields.as_ref().is_none_or(Vec::is_empty) && wanted.all(|it| OPERATORS.contains(&it.operator.as_str()))
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
    /// Its volume.
    pub volume: &'a Volume,
    /// What is to be done about it.
    pub chosen: &'a ChosenPolicy<LostNodePolicy>,
    /// The controller may let claims go at all.
    pub may_unbind: bool,
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
    Unbind(Remake),
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
    if !lost.may_unbind {
        return why("the controller was not started with --lost-nodes=unbind");
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return why("the claim is being deleted");
    }
    // A scheduled Pod is one of the node that is gone, and is removed by Kubernetes.
    let Some(pod) = lost.waiting.iter().find(|pod| pod.is_live() && pod.pinned_node().is_none()) else {
        return why("no Pod waits for it");
    };
    let is_of_template = pod
        .spec
        .volumes
        .iter()
        .any(|volume| super::is_of_template(pod, &volume.name, claim.name()) && names(pod, volume, claim.name()));
    let owner = claim.metadata.owner_references.iter().flatten().next();
    let remake = match owner {
        _ if is_of_template => Remake::StatefulSet,
        None => Remake::Controller,
        Some(owner) => {
            return LostStep::Explain(format!("it belongs to a {}, and it is not known whether that makes it anew", owner.kind));
        }
    };
    if lost.too_many {
        return why("so many nodes are gone at one time that something else may be the matter");
    }
    match lost.patience.grace.checked_sub(lost.observed).filter(|left| !left.is_zero()) {
        Some(left) => LostStep::Wait(left),
        None => LostStep::Unbind(remake),
    }
}

fn names(pod: &Pod, volume: &crate::model::PodVolume, claim: &str) -> bool {
    pod.claim_name(volume).is_some_and(|name| name == claim)
}
