//! Entry point for a Pod.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::asked::Asked;
use super::assume::Assumption;
use super::claim_state::Selected;
use super::declared::{Declared, declared_claims, judge};
use super::device::{Device, devices};
use super::finding::{Code, FieldPath, Finding, Severity};
use super::obstacle::{obstacles, rejection};
use super::place::Place;
use super::{
    ClaimRemedy, ClusterView, DeviceVerdict, Kind, Lookup, Pin, PinStyle, PodVerdict, Remedy, Rules, VolumeVerdict,
};
use crate::model::{NAMESPACE_NODE_SELECTOR, Pod};

/// Claims of one Pod that are looked at. A node holds a few dozen volumes of any driver (the largest limit that a cloud
/// publishes is 128), so twice that is more than any Pod can use; and with it a decision takes a millisecond at most.
pub const MOST_CLAIMS: usize = 256;
/// Required node affinity terms of one Pod that are looked at: a rewrite adds to each of them, and its patch is to stay
/// smaller than what the API server accepts.
pub const MOST_TERMS: usize = 256;

/// Decides about a Pod that is about to be created, or exists.
///
/// A Pod that names no node, a mirror Pod, a gated Pod, and one that has ended or is being deleted are left alone. A
/// decision that would need a fact that is [`Lookup::Unknown`] is never a rewrite, unless [`Rules::assume`] takes it for
/// granted; the findings say what is missing, or what they rest on.
#[must_use]
pub fn decide_pod(pod: &Pod, view: &dyn ClusterView, rules: &Rules) -> PodVerdict {
    let claims = pod.spec.volumes.iter().filter(|volume| volume.is_claim()).count() + pod.spec.resource_claims.len();
    if let Some(verdict) = without_looking(pod, claims) {
        return verdict;
    }
    let Some(node_name) = pod.pinned_node() else { return PodVerdict::not_pinned() };
    let asked = Asked::new(view, rules.assume);
    // A Pod without claims rests on no fact, nor on an assumption that would have to be named.
    let place = if claims > 0 { asked.place(node_name, &pod.spec) } else { Lookup::Unknown };
    let declared = declared_claims(pod, node_name, &place, &asked);
    let devices = devices(pod, &place, &asked);
    let (mut volumes, mut findings, mut assumptions) = (Vec::new(), Vec::new(), Vec::new());
    for claim in &declared {
        let (volume, finding) = judge(claim, pod, &place, &asked);
        volumes.push(volume);
        findings.extend(finding);
        findings.extend(shared_across_nodes(pod, claim, view));
        assumptions.push(asked.take_used());
    }
    let (of_devices, told): (Vec<DeviceVerdict>, Vec<_>) = devices.iter().map(|device| device.judge(node_name)).unzip();
    findings.extend(told.into_iter().flatten());
    let waits_for_devices = of_devices.iter().any(|device| device.stuck);
    let remedy = if waits_for_devices || volumes.iter().any(|volume| volume.stuck) {
        let stuck = Stuck {
            pod,
            node_name,
            place: &place,
            declared: &declared,
            devices: &devices,
            assumed: &assumptions,
            asked: &asked,
            rules,
        };
        let (remedy, used) = stuck.remedy_and_assumptions(&mut volumes, &mut findings);
        assumptions.push(used);
        if waits_for_devices { without_rescue(remedy, &mut volumes) } else { remedy }
    } else {
        Remedy::Leave
    };
    assumptions.extend(devices.into_iter().map(|device| device.assumed));
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    let assumptions: BTreeSet<Assumption> = assumptions.into_iter().flatten().collect();
    PodVerdict {
        node: Some(node_name.to_owned()),
        remedy,
        volumes,
        devices: of_devices,
        findings,
        assumptions: assumptions.into_iter().collect(),
    }
}

/// The verdict on a Pod that declares so many claims of any kind, where none of them is looked at.
pub(super) fn without_looking(pod: &Pod, claims: usize) -> Option<PodVerdict> {
    let Some(node_name) = pod.pinned_node() else { return Some(PodVerdict::not_pinned()) };
    let findings = left_alone(pod, node_name, claims)?;
    Some(PodVerdict { node: Some(node_name.to_owned()), findings, ..PodVerdict::not_pinned() })
}

/// What is found about a Pod that is left alone whatever its claims are; `claims` is how many of any kind it declares.
fn left_alone(pod: &Pod, node_name: &str, claims: usize) -> Option<Vec<Finding>> {
    if pod.is_mirror() || !pod.is_live() {
        return Some(Vec::new());
    }
    if !pod.spec.scheduling_gates.is_empty() {
        let message = format!("the Pod names node {node_name:?} and has scheduling gates");
        return Some(vec![Code::Gated.at(FieldPath::new(&["spec", "schedulingGates"]), message)]);
    }
    too_large(pod, claims).map(|finding| vec![finding])
}

/// The rescue loop allocates no devices: without a rewrite the Pod cannot start, and its claims are tied to no node.
fn without_rescue(remedy: Remedy, volumes: &mut [VolumeVerdict]) -> Remedy {
    let given_up = give_up(volumes, Code::ResourceClaims);
    match remedy {
        Remedy::Rescue | Remedy::SelectInTemplate { .. } => given_up,
        Remedy::Rewrite { .. } | Remedy::Leave | Remedy::Hopeless { .. } => remedy,
    }
}

/// Says that a Pod is larger than what is looked at.
fn too_large(pod: &Pod, claims: usize) -> Option<Finding> {
    if claims > MOST_CLAIMS {
        let message =
            format!("the Pod declares {claims} claims; of a Pod with more than {MOST_CLAIMS} none is looked at");
        return Some(Code::TooLarge.at(FieldPath::new(&["spec", "volumes"]), message));
    }
    let terms = pod.spec.required_node_affinity().map_or(0, |required| required.node_selector_terms.len());
    (claims > 0 && terms > MOST_TERMS).then(|| {
        let message = format!(
            "the Pod has {terms} required node affinity terms; one with more than {MOST_TERMS} is not looked at"
        );
        Code::TooLarge.at(FieldPath::new(&["spec", "affinity", "nodeAffinity"]), message)
    })
}

/// Another live Pod that names another node and shares an unbound claim, the volume of which only one node can reach.
fn shared_across_nodes(pod: &Pod, claim: &Declared, view: &dyn ClusterView) -> Option<Finding> {
    let delayed = claim.delayed()?;
    let of_many = delayed.claim.spec.access_modes.iter().any(|mode| mode.ends_with("Many"));
    if claim.ephemeral || !claim.mounted || (of_many && !delayed.class.shares_on_one_node()) {
        return None;
    }
    let consumers = view.consumers(pod.namespace(), claim.claim_name.as_deref()?).found()?;
    let elsewhere =
        |other: &&Arc<Pod>| other.is_live() && other.pinned_node().is_some_and(|node| Some(node) != pod.pinned_node());
    let other = consumers.iter().filter(elsewhere).find(|other| !other.is_same(pod))?;
    let node = other.pinned_node().unwrap_or_default();
    let message = format!("Pod {:?} on node {node:?} uses {} too", other.display_name(), claim.label());
    Some(Code::SharedAcrossNodes.at(claim.path(), message))
}

/// A Pod at least one of whose claims or ResourceClaims keeps it waiting forever.
struct Stuck<'a> {
    pod: &'a Pod,
    node_name: &'a str,
    place: &'a Lookup<Place>,
    declared: &'a [Declared],
    devices: &'a [Device],
    /// What the verdict on each of them rests on.
    assumed: &'a [Vec<Assumption>],
    asked: &'a Asked<'a>,
    rules: &'a Rules,
}

impl Stuck<'_> {
    /// The remedy, and what it rests on; each finding that it adds names that too.
    fn remedy_and_assumptions(
        &self,
        volumes: &mut [VolumeVerdict],
        findings: &mut Vec<Finding>,
    ) -> (Remedy, Vec<Assumption>) {
        let before = findings.len();
        let remedy = self.remedy(volumes, findings);
        let added = findings.split_off(before);
        if let Lookup::Found(place) = self.place
            && !added.is_empty()
            && let Some(assumption) = place.assumption()
        {
            self.asked.note(assumption);
        }
        let used = self.asked.take_used();
        findings.extend(added.into_iter().map(|finding| finding.resting_on(&used)));
        // A rewrite for the sake of devices alone rests on the same.
        if matches!(remedy, Remedy::Rewrite { .. }) {
            for finding in findings.iter_mut().filter(|finding| finding.code == Code::ResourceClaims) {
                *finding = finding.clone().resting_on(&used);
            }
        }
        (remedy, used)
    }

    fn remedy(&self, volumes: &mut [VolumeVerdict], findings: &mut Vec<Finding>) -> Remedy {
        findings.extend(self.deadlock(volumes));
        let place = match self.place {
            Lookup::Found(place) => place,
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
        if let Some(finding) = rejection(self.pod, place) {
            let reason = finding.code;
            findings.push(finding);
            return give_up(volumes, reason);
        }
        let hopeless = volumes.iter().find_map(|volume| match volume.remedy {
            ClaimRemedy::Hopeless { reason } => Some(reason),
            _ => None,
        });
        if let Some(reason) = hopeless.or_else(|| self.devices.iter().find_map(Device::hopeless)) {
            return give_up(volumes, reason);
        }
        let mut against = obstacles(self.pod, place, self.declared, self.asked, self.rules);
        against.extend(self.devices.iter().filter_map(Device::obstacle));
        let pin = pin(self.pod, place, self.asked, self.rules.pin);
        if against.is_empty()
            && let Ok(pin) = pin
        {
            findings.extend(self.preemption());
            return Remedy::Rewrite { pin };
        }
        findings.extend(not_yet_reported(against, findings));
        findings.extend(pin.err());
        self.fallback_remedy(volumes)
    }

    /// What still helps a Pod that keeps its node name.
    fn fallback_remedy(&self, volumes: &[VolumeVerdict]) -> Remedy {
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
        let waiting: Vec<(&Declared, &Vec<Assumption>)> = self
            .declared
            .iter()
            .zip(volumes)
            .zip(self.assumed)
            .filter(|((claim, volume), _)| volume.stuck && claim.delayed().is_some())
            .map(|((claim, _), assumed)| (claim, assumed))
            .collect();
        let (first, _) = waiting.first()?;
        let class = first.delayed().map(|delayed| delayed.class.name()).unwrap_or_default();
        let never: Vec<String> =
            waiting.iter().filter(|(claim, _)| claim.contested_by.is_none()).map(|(claim, _)| claim.label()).collect();
        let message = match (never.len(), &first.contested_by) {
            (0, Some(other)) => format!(
                "nodeName {:?} bypasses the scheduler, so {} (class {class:?}, WaitForFirstConsumer) is bound where the \
                 scheduler places Pod {other:?}, which uses it too, and if that is another node, for this Pod never",
                self.node_name,
                first.label(),
            ),
            (count, _) => format!(
                "nodeName {:?} bypasses the scheduler, so {} (class {class:?}, WaitForFirstConsumer) {} never bound",
                self.node_name,
                never.join(" and "),
                if count == 1 { "is" } else { "are" },
            ),
        };
        let finding = Code::PinnedToDelayedClaim.at(FieldPath::new(&["spec", "nodeName"]), message);
        Some(waiting.iter().fold(finding, |finding, (_, assumed)| finding.resting_on(assumed)))
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
fn not_yet_reported(against: Vec<Finding>, said: &[Finding]) -> Vec<Finding> {
    let paths: HashSet<&FieldPath> =
        said.iter().filter(|other| other.severity > Severity::Info).map(|other| &other.path).collect();
    let spoken = |finding: &Finding| {
        let of_claim = finding.path.0.get(1).is_some_and(|field| field != "nodeName");
        of_claim
            && matches!(finding.code, Code::DeclaredClaimBlocks | Code::FactsNotKnown)
            && paths.contains(&finding.path)
    };
    against.into_iter().filter(|finding| !spoken(finding)).collect()
}

/// How the Pod is tied to the node, or why it cannot be in the style asked for.
fn pin(pod: &Pod, place: &Place, asked: &Asked<'_>, style: PinStyle) -> Result<Pin, Finding> {
    let by_name = || Pin::Name(place.name().to_owned());
    if style == PinStyle::Name {
        return Ok(by_name());
    }
    // The admission plugin PodNodeSelector answers 403 to a selector that contradicts the namespace's own.
    let free = match asked.namespace(pod.namespace()) {
        Lookup::Found(namespace) => {
            let annotations = namespace.metadata.annotations.as_ref();
            !annotations.is_some_and(|annotations| annotations.contains_key(NAMESPACE_NODE_SELECTOR))
        }
        Lookup::Absent => true,
        Lookup::Unknown => false,
    };
    let hostname = if free { own_hostname(place, asked) } else { None };
    match hostname {
        Some(value) => Ok(Pin::Hostname(value)),
        None if style == PinStyle::Auto => Ok(by_name()),
        None => {
            let message = format!("node {:?} has no hostname label of its own that may be used here", place.name());
            Err(Code::NoUsableHostname.at(FieldPath::new(&["spec", "nodeName"]), message))
        }
    }
}

/// The hostname label that alone leads to the Node, if there is one.
pub(super) fn own_hostname(place: &Place, asked: &Asked<'_>) -> Option<String> {
    let hostname = place.hostname()?;
    let Lookup::Found(carriers) = asked.nodes_with_hostname(&hostname) else { return None };
    if carriers.iter().any(|carrier| carrier.name() != place.name()) {
        return None;
    }
    // A label that is the node's own name is what every kubelet writes unless it is told otherwise. One that differs may
    // be the name of another Node, and with it that Node's label.
    let certain = asked.knows_all(Kind::Nodes) || hostname == place.name();
    let only = || Assumption::OnlyHostname { node: place.name().to_owned(), hostname: hostname.clone() };
    (certain || asked.grant_node(only)).then_some(hostname)
}
