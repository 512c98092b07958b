//! ResourceClaims of a Pod that names its node: devices that only the scheduler allocates.
//!
//! The kubelet prepares every entry of `spec.resourceClaims`, whether a container refers to it or not, and waits until its
//! ResourceClaim is allocated and reserved for the Pod. Once it is allocated, the controller manager reserves it for a Pod
//! that names its node; nobody but the scheduler allocates it.
//! Source: `pkg/kubelet/cm/dra/manager.go`, `prepareResources`; `pkg/controller/resourceclaim/controller.go`, `syncPod`.

use super::Lookup;
use super::asked::Asked;
use super::assume::Assumption;
use super::finding::{Code, FieldPath, Finding};
use super::place::Place;
use super::verdict::DeviceVerdict;
use crate::model::{Pod, PodResourceClaim, ResourceClaim};

/// One entry of a Pod's `spec.resourceClaims`.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Place in `spec.resourceClaims`.
    index: usize,
    /// Name of the entry.
    name: String,
    /// Name of the ResourceClaim; absent while it is to be made from a template.
    claim: Option<String>,
    state: DeviceState,
    /// What the state rests on besides the facts.
    pub assumed: Vec<Assumption>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceState {
    /// The controller manager has found that no ResourceClaim is needed.
    NotNeeded,
    /// The ResourceClaim, or its template, does not exist, or nothing is known of it.
    Missing,
    /// It was not made for this Pod.
    Foreign,
    /// Being deleted while not allocated, which the scheduler leaves alone.
    Deleting,
    /// Nobody has allocated it.
    NotAllocated,
    /// Allocated where the node has no access, and used by nobody else: the scheduler would allocate it anew.
    /// Source: `pkg/scheduler/framework/plugins/dynamicresources/dynamicresources.go`, `deallocateOrDeletePodClaims`.
    UnusedElsewhere,
    /// Allocated where the node has no access, for others that use it.
    Elsewhere,
    /// Allocated; whether the node has access is not known.
    MaybeElsewhere,
    /// Reserved for as many Pods as it can be.
    Full,
    /// Allocated, and reserved for the Pod or about to be.
    Allocated,
}

/// What every entry of the Pod stands for, in their order.
pub(super) fn devices(pod: &Pod, place: &Lookup<Place>, asked: &Asked<'_>) -> Vec<Device> {
    let entries = pod.spec.resource_claims.iter().enumerate();
    entries
        .map(|(index, entry)| {
            let (claim, state) = state_of(entry, pod, place, asked);
            Device { index, name: entry.name.to_string(), claim, state, assumed: asked.take_used() }
        })
        .collect()
}

fn state_of(
    entry: &PodResourceClaim,
    pod: &Pod,
    place: &Lookup<Place>,
    asked: &Asked<'_>,
) -> (Option<String>, DeviceState) {
    let of_claim = |name: &str, is_own: bool| match asked.resource_claim(pod.namespace(), name) {
        // Claims of a group's Pods belong to the group.
        Lookup::Found(claim) if is_own && pod.spec.scheduling_group.is_none() && !pod.controls(&claim.metadata) => {
            DeviceState::Foreign
        }
        Lookup::Found(claim) => of_claim(&claim, pod, place),
        Lookup::Absent | Lookup::Unknown => DeviceState::Missing,
    };
    if let Some(name) = &entry.resource_claim_name {
        return (Some(name.to_string()), of_claim(name, false));
    }
    let Some(template) = &entry.resource_claim_template_name else { return (None, DeviceState::Missing) };
    if let Some(made) = pod.status.resource_claim_statuses.iter().find(|made| made.name == entry.name) {
        let state = made.resource_claim_name.as_ref().map_or(DeviceState::NotNeeded, |name| of_claim(name, true));
        return (made.resource_claim_name.as_ref().map(String::from), state);
    }
    let exists = || Assumption::ResourceClaimTemplate { template: template.to_string() };
    let state = match asked.resource_claim_template(pod.namespace(), template) {
        Lookup::Found(_) => DeviceState::NotAllocated,
        Lookup::Unknown if asked.grant_storage(exists) => DeviceState::NotAllocated,
        Lookup::Absent | Lookup::Unknown => DeviceState::Missing,
    };
    (None, state)
}

fn of_claim(claim: &ResourceClaim, pod: &Pod, place: &Lookup<Place>) -> DeviceState {
    let Some(allocation) = &claim.status.allocation else {
        let goes = claim.metadata.deletion_timestamp.is_some();
        return if goes { DeviceState::Deleting } else { DeviceState::NotAllocated };
    };
    let has_access = match (&allocation.node_selector, place) {
        (None, _) => Some(true),
        (Some(selector), Lookup::Found(place)) => place.is_chosen_by(selector),
        (Some(_), Lookup::Absent | Lookup::Unknown) => None,
    };
    let uid = pod.metadata.uid.as_deref();
    let is_reserved = uid.is_some_and(|uid| claim.is_reserved_for(uid));
    let others = claim.status.reserved_for.iter().any(|user| Some(user.uid.as_str()) != uid);
    match has_access {
        Some(false) if others => DeviceState::Elsewhere,
        Some(false) => DeviceState::UnusedElsewhere,
        None => DeviceState::MaybeElsewhere,
        Some(true) if !is_reserved && claim.is_full() => DeviceState::Full,
        Some(true) => DeviceState::Allocated,
    }
}

impl Device {
    fn label(&self) -> String {
        match &self.claim {
            Some(claim) => format!("ResourceClaim {claim:?}"),
            None => format!("the ResourceClaim of {:?}", self.name),
        }
    }

    fn path(&self) -> FieldPath {
        FieldPath::new(&["spec", "resourceClaims", &self.index.to_string()])
    }

    /// What it means for the Pod, and what a person should know.
    pub fn judge(&self, node_name: &str) -> (DeviceVerdict, Option<Finding>) {
        let label = self.label();
        let stuck = Some(Code::ResourceClaims);
        let (says, code) = match self.state {
            DeviceState::NotNeeded => ("is not needed", None),
            DeviceState::Allocated => ("is allocated", None),
            DeviceState::Missing => ("is not known: it, or its template, may not exist yet", Some(Code::ClaimNotKnown)),
            DeviceState::MaybeElsewhere => {
                ("is allocated; whether the node can use its devices is not known", Some(Code::FactsNotKnown))
            }
            DeviceState::NotAllocated => {
                ("waits for the scheduler to allocate its devices", Some(Code::ResourceClaims))
            }
            DeviceState::UnusedElsewhere => {
                ("is allocated to devices that the node cannot use, until the scheduler chooses others", stuck)
            }
            DeviceState::Elsewhere => ("is allocated to devices that the node cannot use, and others use them", stuck),
            DeviceState::Full => ("is reserved for as many Pods as it can be, and this is none of them", stuck),
            DeviceState::Deleting => ("is being deleted and was never allocated", stuck),
            DeviceState::Foreign => ("exists, but the Pod does not own it", Some(Code::ForeignClaim)),
        };
        let message = match self.state {
            DeviceState::NotAllocated => {
                format!("nodeName {node_name:?} bypasses the scheduler, so {label} is never allocated")
            }
            _ => format!("{label} {says}"),
        };
        let finding = code.map(|code| code.at(self.path(), message).resting_on(&self.assumed));
        let verdict = DeviceVerdict {
            name: self.name.clone(),
            claim: self.claim.clone(),
            stuck: matches!(self.state, DeviceState::NotAllocated | DeviceState::UnusedElsewhere) || self.is_hopeless(),
            says: says.to_owned(),
            undecided: matches!(self.state, DeviceState::Missing | DeviceState::MaybeElsewhere),
        };
        (verdict, finding)
    }

    fn is_hopeless(&self) -> bool {
        matches!(self.state, DeviceState::Elsewhere | DeviceState::Full | DeviceState::Deleting | DeviceState::Foreign)
    }

    /// Why neither a rewrite nor the rescue loop helps the Pod.
    pub fn hopeless(&self) -> Option<Code> {
        let foreign = self.state == DeviceState::Foreign;
        self.is_hopeless().then_some(if foreign { Code::ForeignClaim } else { Code::ResourceClaims })
    }

    /// Why the scheduler would wait for the devices too. Whether one is free on the node is the scheduler's to find out: a Pod
    /// whose devices nobody has allocated waits either way.
    pub fn obstacle(&self) -> Option<Finding> {
        let (code, message) = match self.state {
            DeviceState::Missing => {
                (Code::DeclaredClaimBlocks, format!("{} would keep the scheduler waiting", self.label()))
            }
            DeviceState::MaybeElsewhere => {
                (Code::FactsNotKnown, format!("whether the node can use the devices of {} is not known", self.label()))
            }
            _ => return None,
        };
        Some(code.at(self.path(), message))
    }
}
