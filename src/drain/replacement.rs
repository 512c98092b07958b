//! Where the Pod that is made in place of an evicted one can start.
//!
//! Looked at are the node affinity of volumes, the Pod's node selector and affinity, and cordons, conditions and taints of nodes.
//! Not looked at are room for CPU and memory, affinity between Pods, and topology spread: they let a Pod wait for others, a
//! volume for a node.

use super::held::is_alone;
use super::{BoundClaim, DrainFacts, Outcome, Storage};
use crate::binding::{listed, node_obstacles};
use crate::model::selector::{pod_accepts, volume_reachable};
use crate::model::{Node, Pod, Volume};

/// What becomes of the Pod that is made in place of this one, and why.
pub(super) fn outcome(pod: &Pod, storage: &Storage, facts: &DrainFacts<'_>) -> (Outcome, String) {
    if !storage.lost.is_empty() {
        return (Outcome::StartsNowhere, storage.lost.join(", "));
    }
    let reaches = |node: &Node| storage.bound.iter().all(|it| volume_reachable(&it.volume, node));
    let within_reach: Vec<&Node> = facts.others.iter().copied().filter(|node| reaches(node)).collect();
    let accepting: Vec<&Node> = within_reach.iter().copied().filter(|node| pod_accepts(&pod.spec, node)).collect();
    let (open, closed): (Vec<&Node>, Vec<&Node>) =
        accepting.iter().partition(|node| node_obstacles(pod, node).is_empty());
    if !accepting.is_empty() && !storage.not_known.is_empty() {
        return (Outcome::NotKnown, format!("{} is not known", storage.not_known.join(", ")));
    }
    if !open.is_empty() {
        let names: Vec<String> = open.iter().map(|node| node.name().to_owned()).collect();
        return (Outcome::StartsElsewhere, format!("{} can take it", listed(&names)));
    }
    if !facts.are_all {
        return (Outcome::NotKnown, "none of the Nodes that are known can take it, and there may be others".to_owned());
    }
    if !closed.is_empty() {
        let why = closed.iter().filter_map(|node| Some(node_obstacles(pod, node).into_iter().next()?.message));
        return (Outcome::WaitsForOtherNodes, listed(&why.collect::<Vec<_>>()));
    }
    let why = held_by(storage, &within_reach, facts);
    if reaches(facts.node) && pod_accepts(&pod.spec, facts.node) {
        (Outcome::WaitsForThisNode, why)
    } else {
        (Outcome::StartsNowhere, why)
    }
}

/// True for a volume that this node reaches, and no other one of a cluster whose Nodes are all known.
pub(super) fn is_on_this_node_alone(volume: &Volume, facts: &DrainFacts<'_>) -> bool {
    facts.are_all && is_alone(volume, facts.node, facts.others.iter().copied())
}

/// What keeps the Pod off every other node.
fn held_by(storage: &Storage, within_reach: &[&Node], facts: &DrainFacts<'_>) -> String {
    let alone: Vec<&BoundClaim> = storage.bound.iter().filter(|it| is_on_this_node_alone(&it.volume, facts)).collect();
    let named = |all: &[&BoundClaim]| {
        let one = |it: &&BoundClaim| format!("volume {} of claim {}", it.volume.name(), it.name);
        listed(&all.iter().map(one).collect::<Vec<_>>())
    };
    match (alone.as_slice(), within_reach) {
        ([], [_, ..]) => "its own node selector or affinity accepts no other node".to_owned(),
        ([], []) => format!("no other node reaches {} at once", named(&storage.bound.iter().collect::<Vec<_>>())),
        (one @ [_], _) => format!("{} is on this node alone", named(one)),
        (several, _) => format!("{} are on this node alone", named(several)),
    }
}
