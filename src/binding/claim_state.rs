//! In which row of the truth table one claim of a pinned Pod stands.

use std::sync::Arc;

use super::Lookup;
use super::asked::Asked;
use super::migrated::kubelet_affinity;
use super::place::Place;
use super::volume_choice::reserved_for;
use crate::model::{Claim, Class, Volume};

/// Whether the Pod's node can reach a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Yes,
    No,
    /// The volume, or the node, is not known.
    Unknown,
}

/// For which node a claim's volume was ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    Nobody,
    /// The Pod's own node.
    ThisNode,
    /// Another node, which exists.
    OtherNode(String),
    /// Another node, of which it is not known whether it exists.
    UnknownNode(String),
    /// A node that does not exist.
    GoneNode(String),
}

/// A claim of a `WaitForFirstConsumer` class that nothing has bound yet.
#[derive(Clone, Debug)]
pub(super) struct Delayed {
    /// The claim, as it is or as it would be made.
    pub claim: Arc<Claim>,
    pub class: Arc<Class>,
    pub selected: Selected,
}

/// What is known of a claim, as far as it matters to a Pod that names its node.
#[derive(Clone, Debug)]
pub(super) enum ClaimState {
    /// It belongs to something else than the Pod whose ephemeral volume it has the name of.
    Foreign,
    /// It does not exist, or nothing is known of it: the answer must not tell which.
    Missing,
    Bound {
        volume: String,
        /// The volume, if it is known.
        known: Option<Arc<Volume>>,
        reach: Reach,
    },
    Lost,
    /// Being deleted while unbound.
    Deleting,
    /// It names its volume and is bound without the scheduler.
    NamesVolume {
        volume: String,
    },
    /// A volume is reserved for it and is bound without the scheduler.
    Reserved {
        known: Arc<Volume>,
        reach: Reach,
    },
    /// Volumes are not known, so one may be reserved for it.
    MaybeReserved,
    /// `storageClassName: ""`: only an existing volume without a class will do, without the scheduler.
    NoClass,
    /// No class named, and no default class.
    NoDefaultClass,
    ClassAbsent {
        class: String,
    },
    /// The class is not in these files; `None` when it is the default class that is not known.
    ClassUnknown {
        class: Option<String>,
    },
    Immediate {
        class: String,
    },
    Delayed(Delayed),
}

/// What happens to claims that name no class.
fn class_of(claim: &Claim, asked: &Asked<'_>) -> Result<Arc<Class>, ClaimState> {
    let absent = |class: &str| ClaimState::ClassAbsent { class: class.to_owned() };
    let unknown = |class: &str| ClaimState::ClassUnknown { class: Some(class.to_owned()) };
    match claim.class_name() {
        Some("") => Err(ClaimState::NoClass),
        Some(name) => match asked.class(name) {
            Lookup::Found(class) => Ok(class),
            Lookup::Absent => Err(absent(name)),
            Lookup::Unknown => Err(unknown(name)),
        },
        // A stored claim without a class was created when there was no default; a later default is filled in by the
        // controller manager, in a write of its own that brings the decision back here.
        None if claim.is_stored() => Err(ClaimState::NoDefaultClass),
        None => match asked.default_class() {
            Lookup::Found(class) => Ok(class),
            Lookup::Absent => Err(ClaimState::NoDefaultClass),
            Lookup::Unknown => Err(ClaimState::ClassUnknown { class: None }),
        },
    }
}

fn reach(volume: &Volume, place: &Lookup<Place>) -> Reach {
    let affinity = kubelet_affinity(volume);
    match place {
        Lookup::Found(place) => match place.reaches(affinity.as_deref()) {
            Some(true) => Reach::Yes,
            Some(false) => Reach::No,
            None => Reach::Unknown,
        },
        Lookup::Absent | Lookup::Unknown if affinity.is_none() => Reach::Yes,
        Lookup::Absent | Lookup::Unknown => Reach::Unknown,
    }
}

/// Where the claim stands for a Pod that names the node.
pub(super) fn claim_state(claim: &Arc<Claim>, node_name: &str, place: &Lookup<Place>, asked: &Asked<'_>) -> ClaimState {
    if claim.status.phase == "Lost" {
        return ClaimState::Lost;
    }
    if claim.is_bound() {
        let volume = claim.volume_name().unwrap_or_default();
        let known = asked.volume(volume).found();
        let reach = known.as_ref().map_or(Reach::Unknown, |volume| reach(volume, place));
        return ClaimState::Bound { volume: volume.to_owned(), known, reach };
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return ClaimState::Deleting;
    }
    if let Some(volume) = claim.volume_name() {
        return ClaimState::NamesVolume { volume: volume.to_owned() };
    }
    match reserved_for(claim, &**asked) {
        Lookup::Found(known) => {
            let reach = reach(&known, place);
            return ClaimState::Reserved { known, reach };
        }
        Lookup::Unknown => return ClaimState::MaybeReserved,
        Lookup::Absent => {}
    }
    let class = match class_of(claim, asked) {
        Ok(class) => class,
        Err(state) => return state,
    };
    if !class.is_delayed() {
        return ClaimState::Immediate { class: class.name().to_owned() };
    }
    let selected = match claim.selected_node() {
        None => Selected::Nobody,
        Some(selected) if selected == node_name => Selected::ThisNode,
        Some(selected) => match asked.node(selected) {
            Lookup::Absent => Selected::GoneNode(selected.to_owned()),
            Lookup::Found(_) => Selected::OtherNode(selected.to_owned()),
            Lookup::Unknown => Selected::UnknownNode(selected.to_owned()),
        },
    };
    ClaimState::Delayed(Delayed { claim: Arc::clone(claim), class, selected })
}
