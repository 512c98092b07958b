//! Pods that are there already and whose required anti-affinity keeps a Pod away from the node.
//!
//! `nodeName` ignores it, as it ignores the Pod's own. The scheduler honours both.
//! Source: `pkg/scheduler/framework/plugins/interpodaffinity/filtering.go`, `getExistingAntiAffinityCounts`.

use std::sync::Arc;

use super::place::{Place, among};
use super::{ClusterView, Lookup};
use crate::model::selector::{label_selector_matches, labels};
use crate::model::{HOSTNAME_LABEL, Labels, NAMESPACE_NAME_LABEL, Pod, PodAffinityTerm, PodOnNode, Text};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What Pods with required anti-affinity are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AntiAffinityIndex {
    /// They keep others away from their own node.
    Node(Text),
    /// From a wider topology, and Pods of this namespace.
    Namespace(Text),
    /// From a wider topology, and Pods of namespaces that are chosen by label.
    Anywhere,
}

/// Where a Pod with a node keeps others away; nothing for a Pod that does not.
#[must_use]
pub fn anti_affinity_of(pod: &PodOnNode) -> Vec<AntiAffinityIndex> {
    let Some(node) = pod.node() else { return Vec::new() };
    let mut found: Vec<AntiAffinityIndex> = Vec::new();
    for term in pod.terms() {
        if term.topology_key == HOSTNAME_LABEL {
            found.push(AntiAffinityIndex::Node(node.into()));
        } else if term.namespace_selector.is_some() {
            found.push(AntiAffinityIndex::Anywhere);
        } else if term.namespaces.is_empty() {
            found.push(AntiAffinityIndex::Namespace(pod.namespace().into()));
        } else {
            found.extend(term.namespaces.iter().cloned().map(AntiAffinityIndex::Namespace));
        }
    }
    let mut each = Vec::with_capacity(found.len());
    for index in found {
        if !each.contains(&index) {
            each.push(index);
        }
    }
    each
}

/// What a Pod of the namespace that names the node must look under.
#[must_use]
pub fn anti_affinity_around(namespace: &str, node_name: &str) -> [AntiAffinityIndex; 3] {
    [
        AntiAffinityIndex::Node(node_name.into()),
        AntiAffinityIndex::Namespace(namespace.into()),
        AntiAffinityIndex::Anywhere,
    ]
}

/// A Pod that keeps this one away from the place: one that does for certain before one of which that is not known, and
/// `Unknown` where there is only such a one, or which Pods there are is not known. Then it may be named.
pub(super) fn repels(pod: &Pod, place: &Place, view: &dyn ClusterView) -> (Lookup<()>, Option<Arc<PodOnNode>>) {
    let others = match view.repelling(pod.namespace(), place.name()) {
        Lookup::Found(others) => others,
        Lookup::Absent => return (Lookup::Absent, None),
        Lookup::Unknown => return (Lookup::Unknown, None),
    };
    let mut unsure = None;
    for other in others {
        if !other.keeps_others_away() || pod.is_described_by(&other.metadata) {
            continue;
        }
        match keeps_away(&other, pod, place, view) {
            Some(true) => return (Lookup::Found(()), Some(other)),
            Some(false) => {}
            None => unsure = unsure.or(Some(other)),
        }
    }
    if unsure.is_some() { (Lookup::Unknown, unsure) } else { (Lookup::Absent, None) }
}

/// Whether one of the other Pod's terms is about this one, and the place is in its topology; `None` where that is not known.
fn keeps_away(other: &PodOnNode, pod: &Pod, place: &Place, view: &dyn ClusterView) -> Option<bool> {
    if other.is_cut {
        return None;
    }
    let each = other.terms().iter().map(|term| match is_meant(term, other, pod, view) {
        Some(false) => Some(false),
        meant => match is_near(term, other, place, view) {
            Some(true) => meant,
            near => near,
        },
    });
    each.reduce(|left, right| match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    })
    .unwrap_or(Some(false))
}

/// Whether the term is about the Pod; `None` where the labels of its namespace decide, and are not known.
fn is_meant(term: &PodAffinityTerm, owner: &PodOnNode, pod: &Pod, view: &dyn ClusterView) -> Option<bool> {
    let selected = term
        .label_selector
        .as_ref()
        .is_some_and(|selector| label_selector_matches(selector, labels(pod.metadata.labels.as_ref())));
    if !selected {
        return Some(false);
    }
    let named = term.namespaces.iter().any(|name| name == pod.namespace());
    let own = term.namespaces.is_empty() && term.namespace_selector.is_none() && owner.namespace() == pod.namespace();
    match &term.namespace_selector {
        _ if named || own => Some(true),
        None => Some(false),
        Some(selector) => selects_namespace(selector, pod.namespace(), view),
    }
}

fn selects_namespace(selector: &LabelSelector, name: &str, view: &dyn ClusterView) -> Option<bool> {
    let is_empty = selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none();
    match view.namespace(name) {
        _ if is_empty => Some(true),
        Lookup::Found(namespace) => {
            // The API server gives every namespace a label with its name, which a manifest may leave out.
            let written = labels(namespace.metadata.labels.as_ref()).iter();
            let all = written.map(|(key, value)| (key.clone(), value.clone()));
            let all: Labels = all.chain([(NAMESPACE_NAME_LABEL.into(), name.into())]).collect();
            Some(label_selector_matches(selector, &all))
        }
        Lookup::Absent | Lookup::Unknown => None,
    }
}

/// Whether the place is in the topology of the term's owner; `None` where a label of one of the two is not known.
fn is_near(term: &PodAffinityTerm, owner: &PodOnNode, place: &Place, view: &dyn ClusterView) -> Option<bool> {
    let node_name = owner.node()?;
    if node_name == place.name() {
        // What is not known of a Node is taken to suit the Pod elsewhere, and here that would be a label that it lacks.
        let is_open = place.is_assumed() && term.topology_key != HOSTNAME_LABEL;
        return (!is_open).then(|| place.has_label(&term.topology_key));
    }
    let node = match view.node(node_name) {
        Lookup::Found(node) => node,
        // The scheduler counts Pods of Nodes that exist.
        Lookup::Absent => return Some(false),
        Lookup::Unknown => return None,
    };
    let Some(value) = node.label(&term.topology_key) else { return Some(false) };
    if place.is_assumed() {
        return None;
    }
    Some(place.satisfies(vec![vec![among(&term.topology_key, [value])]]))
}
