//! Entry point for a Pod.

use std::sync::Arc;

use super::claim_state::Selected;
use super::declared::{Declared, declared_claims, judge};
use super::finding::{Code, FieldPath, Finding, Severity};
use super::obstacle::{obstacles, rejection};
use super::view::own_hostname;
use super::{ClaimRemedy, ClusterView, Lookup, Pin, PinStyle, PodVerdict, Remedy, Rules, VolumeVerdict};
use crate::model::{NAMESPACE_NODE_SELECTOR, Node, Pod};

/// Decides about a Pod that is about to be created, or exists.
///
/// A Pod that names no node, a mirror Pod and a gated Pod are left alone. A decision that would need a fact that is
/// [`Lookup::Unknown`] is never a rewrite; the findings say what is missing.
#[must_use]
pub fn decide_pod(pod: &Pod, view: &dyn ClusterView, rules: &Rules) -> PodVerdict {
    let Some(node_name) = pod.pinned_node() else { return PodVerdict::not_pinned() };
    let left = |findings| PodVerdict {
        node: Some(node_name.to_owned()),
        remedy: Remedy::Leave,
        volumes: Vec::new(),
        findings,
    };
    if pod.is_mirror() {
        return left(Vec::new());
    }
    if !pod.spec.scheduling_gates.is_empty() {
        let message = format!("the Pod names node {node_name:?} and has scheduling gates");
        return left(vec![Code::Gated.at(FieldPath::new(&["spec", "schedulingGates"]), message)]);
    }
    let needs_node = pod.spec.volumes.iter().any(|volume| {
        // A Pod without claims rests on no fact, nor on an assumption that would have to be named.
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    });
    let node = if needs_node { view.node(node_name) } else { Lookup::Unknown };
    let declared = declared_claims(pod, node_name, &node, view);
    let (mut volumes, mut findings) = (Vec::new(), Vec::new());
    for claim in &declared {
        let (volume, finding) = judge(claim, &node);
        volumes.push(volume);
        findings.extend(finding);
        findings.extend(shared_across_nodes(pod, claim, view));
    }
    if !pod.spec.resource_claims.is_empty() {
        let message = "the Pod's resource claims are allocated by the scheduler, which nodeName bypasses".to_owned();
        findings.push(Code::ResourceClaims.at(FieldPath::new(&["spec", "resourceClaims"]), message));
    }
    let remedy = if volumes.iter().any(|volume| volume.stuck) {
        let stuck = Stuck { pod, node_name, node: &node, declared: &declared, view, rules };
        stuck.remedy(&mut volumes, &mut findings)
    } else {
        Remedy::Leave
    };
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    PodVerdict { node: Some(node_name.to_owned()), remedy, volumes, findings }
}

/// True for two reads of one Pod.
pub(super) fn is_same(left: &Pod, right: &Pod) -> bool {
    match (&left.metadata.uid, &right.metadata.uid) {
        (Some(left), Some(right)) => left == right,
        _ => left.metadata.name == right.metadata.name && left.namespace() == right.namespace(),
    }
}

/// Another live Pod that names another node and shares an unbound claim, the volume of which only one node can reach.
fn shared_across_nodes(pod: &Pod, claim: &Declared, view: &dyn ClusterView) -> Option<Finding> {
    let delayed = claim.delayed()?;
    let modes = &delayed.claim.spec.access_modes;
    if claim.ephemeral || !claim.mounted || modes.iter().any(|mode| mode.ends_with("Many")) {
        return None;
    }
    let consumers = view.consumers(pod.namespace(), claim.claim_name.as_deref()?).found()?;
    let elsewhere =
        |other: &&Arc<Pod>| other.is_live() && other.pinned_node().is_some_and(|node| Some(node) != pod.pinned_node());
    let other = consumers.iter().filter(elsewhere).find(|other| !is_same(other, pod))?;
    let node = other.pinned_node().unwrap_or_default();
    let message = format!("Pod {:?} on node {node:?} uses {} too", other.display_name(), claim.label());
    Some(Code::SharedAcrossNodes.at(claim.path(), message))
}

/// A Pod at least one of whose claims keeps it waiting for ever.
struct Stuck<'a> {
    pod: &'a Pod,
    node_name: &'a str,
    node: &'a Lookup<Arc<Node>>,
    declared: &'a [Declared],
    view: &'a dyn ClusterView,
    rules: &'a Rules,
}

impl Stuck<'_> {
    fn remedy(&self, volumes: &mut [VolumeVerdict], findings: &mut Vec<Finding>) -> Remedy {
        findings.extend(self.deadlock(volumes));
        let node = match self.node {
            Lookup::Found(node) => node,
            Lookup::Unknown => {
                let message = format!("node {:?} is not known, so nothing is rewritten", self.node_name);
                findings.push(Code::NodeNotKnown.at(FieldPath::new(&["spec", "nodeName"]), message));
                return Remedy::Leave;
            }
            Lookup::Absent => {
                let message = format!("node {:?} does not exist", self.node_name);
                findings.push(Code::NodeNotFound.at(FieldPath::new(&["spec", "nodeName"]), message));
                return give_up(volumes, Code::NodeNotFound);
            }
        };
        if let Some(finding) = rejection(self.pod, node) {
            let reason = finding.code;
            findings.push(finding);
            return give_up(volumes, reason);
        }
        let hopeless = volumes.iter().find_map(|volume| match volume.remedy {
            ClaimRemedy::Hopeless { reason } => Some(reason),
            _ => None,
        });
        if let Some(reason) = hopeless {
            return give_up(volumes, reason);
        }
        let against = obstacles(self.pod, node, self.declared, self.view, self.rules);
        let pin = pin(self.pod, node, self.view, self.rules.pin);
        if against.is_empty()
            && let Ok(pin) = pin
        {
            findings.extend(self.preemption());
            return Remedy::Rewrite { pin };
        }
        findings.extend(unsaid(against, findings));
        findings.extend(pin.err());
        self.without_rewrite(volumes)
    }

    /// What still helps a Pod that keeps its node name.
    fn without_rewrite(&self, volumes: &[VolumeVerdict]) -> Remedy {
        let in_template: Vec<String> = self
            .declared
            .iter()
            .zip(volumes)
            .filter(|(claim, volume)| {
                let ordered = matches!(volume.remedy, ClaimRemedy::SelectNode { .. });
                let unordered = claim.delayed().is_some_and(|delayed| delayed.selected == Selected::Nobody);
                claim.from_template && ordered && unordered
            })
            .map(|(claim, _)| claim.volume.clone())
            .collect();
        if !in_template.is_empty() {
            return Remedy::SelectInTemplate { volumes: in_template };
        }
        let writes = |volume: &VolumeVerdict| {
            matches!(
                volume.remedy,
                ClaimRemedy::SelectNode { .. } | ClaimRemedy::Prebind { .. } | ClaimRemedy::Unselect
            )
        };
        if volumes.iter().any(writes) { Remedy::Rescue } else { Remedy::Leave }
    }

    /// The deadlock itself, when it is one: a delayed claim and no scheduler.
    fn deadlock(&self, volumes: &[VolumeVerdict]) -> Option<Finding> {
        let waiting: Vec<String> = self
            .declared
            .iter()
            .zip(volumes)
            .filter(|(claim, volume)| volume.stuck && claim.delayed().is_some())
            .map(|(claim, _)| claim.label())
            .collect();
        if waiting.is_empty() {
            return None;
        }
        let classes: Vec<&str> = self.declared.iter().filter_map(Declared::delayed).map(|d| d.class.name()).collect();
        let class = classes.first().copied().unwrap_or_default();
        let message = format!(
            "nodeName {:?} bypasses the scheduler, so {} (class {class:?}, WaitForFirstConsumer) {} never bound",
            self.node_name,
            waiting.join(" and "),
            if waiting.len() == 1 { "is" } else { "are" },
        );
        Some(Code::PinnedToDelayedClaim.at(FieldPath::new(&["spec", "nodeName"]), message))
    }

    fn preemption(&self) -> Option<Finding> {
        let spec = &self.pod.spec;
        let class = spec.priority_class_name.as_deref().filter(|name| !name.is_empty());
        let high = spec.priority.map_or(class.is_some(), |priority| priority > 0);
        if !high || spec.preemption_policy.as_deref() == Some("Never") {
            return None;
        }
        let message = "the scheduler may evict Pods of lower priority to place this one".to_owned();
        Some(Code::MayPreempt.at(FieldPath::new(&["spec", "nodeName"]), message))
    }
}

/// A Pod that cannot start gets nothing written for it: that would only tie its claims to a node for nothing.
fn give_up(volumes: &mut [VolumeVerdict], reason: Code) -> Remedy {
    for volume in volumes.iter_mut().filter(|volume| volume.stuck) {
        if !matches!(volume.remedy, ClaimRemedy::Hopeless { .. }) {
            volume.remedy = ClaimRemedy::Hopeless { reason };
        }
    }
    Remedy::Hopeless { reason }
}

/// Obstacles without those whose claim has already been spoken of as a warning or an error.
fn unsaid(against: Vec<Finding>, said: &[Finding]) -> Vec<Finding> {
    let spoken = |finding: &Finding| {
        let same_claim = |other: &&Finding| other.path == finding.path && other.severity > Severity::Info;
        matches!(finding.code, Code::DeclaredClaimBlocks | Code::FactsNotKnown)
            && said.iter().any(|other| same_claim(&other))
    };
    against.into_iter().filter(|finding| !spoken(finding)).collect()
}

/// How the Pod is tied to the node, or why it cannot be in the style asked for.
fn pin(pod: &Pod, node: &Node, view: &dyn ClusterView, style: PinStyle) -> Result<Pin, Finding> {
    let by_name = || Pin::Name(node.name().to_owned());
    if style == PinStyle::Name {
        return Ok(by_name());
    }
    // The admission plugin PodNodeSelector answers 403 to a selector that contradicts the namespace's own.
    let free = match view.namespace(pod.namespace()) {
        Lookup::Found(namespace) => {
            let annotations = namespace.metadata.annotations.as_ref();
            !annotations.is_some_and(|annotations| annotations.contains_key(NAMESPACE_NODE_SELECTOR))
        }
        Lookup::Absent => true,
        Lookup::Unknown => false,
    };
    let hostname = own_hostname(node, view).filter(|_| free);
    match hostname {
        Some(value) => Ok(Pin::Hostname(value)),
        None if style == PinStyle::Auto => Ok(by_name()),
        None => {
            let message = format!("node {:?} has no hostname label of its own that may be used here", node.name());
            Err(Code::NoUsableHostname.at(FieldPath::new(&["spec", "nodeName"]), message))
        }
    }
}
