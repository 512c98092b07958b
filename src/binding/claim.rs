//! Entry point for a claim, for the rescue loop.

use std::sync::Arc;

use super::finding::{Code, FieldPath, Finding};
use super::pod::decide_pod;
use super::{ClaimRemedy, ClaimVerdict, ClusterView, Lookup, Rules};
use crate::model::{Claim, Pod, SELECTED_NODE};

/// Decides what the rescue loop may do for a claim now.
///
/// It acts on behalf of the earliest Pod that names its node, mounts the claim and has been acknowledged by its kubelet,
/// and only when the scheduler has no say: no Pod that it has yet to place uses the claim, and no earlier Pod names
/// another node.
#[must_use]
pub fn decide_claim(claim: &Claim, view: &dyn ClusterView, rules: &Rules) -> ClaimVerdict {
    if claim.is_bound() {
        return verdict(ClaimRemedy::Leave, None, Vec::new());
    }
    let Lookup::Found(consumers) = view.consumers(claim.namespace(), claim.name()) else {
        let message = format!("which Pods use claim {:?} is not known", claim.name());
        return verdict(ClaimRemedy::Wait, None, vec![Code::FactsNotKnown.at(FieldPath::default(), message)]);
    };
    let mut live: Vec<(&Arc<Pod>, String)> =
        consumers.iter().filter(|pod| pod.is_live()).filter_map(|pod| Some((pod, volume_of(pod, claim)?))).collect();
    live.sort_by_key(|(pod, _)| order(pod));
    let pinned = |(pod, volume): &(&Arc<Pod>, String)| pod.pinned_node().is_some() && pod.spec.mounts(volume);
    if !live.iter().any(pinned) {
        return verdict(ClaimRemedy::Leave, None, Vec::new());
    }
    let unplaced =
        |(pod, _): &&(&Arc<Pod>, String)| pod.pinned_node().is_none() && pod.spec.scheduling_gates.is_empty();
    if let Some((waiting, _)) = live.iter().find(unplaced) {
        let message =
            format!("Pod {:?} uses claim {:?} and is the scheduler's to place", waiting.display_name(), claim.name());
        let finding = Code::WaitsForScheduler.at(FieldPath::default(), message);
        return verdict(ClaimRemedy::Leave, None, vec![finding]);
    }
    live.retain(pinned);
    let Some((pod, volume)) = live.iter().find(|(pod, _)| pod.is_acknowledged()) else {
        return verdict(ClaimRemedy::Wait, None, Vec::new());
    };
    let earlier = live.iter().take_while(|(other, _)| !Arc::ptr_eq(other, pod));
    if let Some((rival, _)) = earlier.into_iter().find(|(other, _)| other.pinned_node() != pod.pinned_node()) {
        let node = rival.pinned_node().unwrap_or_default();
        let message =
            format!("the earlier Pod {:?} on node {node:?} uses claim {:?} too", rival.display_name(), claim.name());
        let finding = Code::SharedAcrossNodes.at(FieldPath::default(), message);
        return verdict(ClaimRemedy::Wait, Some(pod), vec![finding]);
    }
    let decided = decide_pod(pod, view, rules);
    let remedy = decided.volumes.iter().find(|decided| decided.volume == *volume).map(|decided| decided.remedy.clone());
    verdict(remedy.unwrap_or(ClaimRemedy::Leave), Some(pod), decided.findings)
}

/// What is wrong with a claim that has a selected node while its class has nobody to act on it: row 14 of the truth table,
/// whatever Pods there are.
#[must_use]
pub fn poisoned_claim(claim: &Claim, view: &dyn ClusterView) -> Option<Finding> {
    let selected = claim.selected_node()?;
    if claim.is_bound() || claim.volume_name().is_some() {
        return None;
    }
    let Lookup::Found(class) = view.class(claim.class_name()?) else { return None };
    if class.is_dynamic() || !class.is_delayed() {
        return None;
    }
    let message = format!(
        "selected-node {selected:?} on claim {:?}: class {:?} has no provisioner, so it is never bound",
        claim.name(),
        class.name()
    );
    Some(Code::PoisonedClaim.at(FieldPath::new(&["metadata", "annotations", SELECTED_NODE]), message))
}

fn verdict(remedy: ClaimRemedy, consumer: Option<&Pod>, findings: Vec<Finding>) -> ClaimVerdict {
    ClaimVerdict {
        remedy,
        consumer: consumer.map(|pod| format!("{}/{}", pod.namespace(), pod.display_name())),
        consumer_uid: consumer.and_then(|pod| pod.metadata.uid.as_ref().map(String::from)),
        findings,
    }
}

/// Creation time and UID: the order in which consumers have their say.
fn order(pod: &Pod) -> (Option<String>, Option<String>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|created| created.0.to_string());
    (created, pod.metadata.uid.as_deref().map(str::to_owned))
}

/// Name of the Pod's volume that is the claim.
fn volume_of(pod: &Pod, claim: &Claim) -> Option<String> {
    pod.volume_of(claim).map(|place| pod.spec.volumes[place].name.to_string())
}
