//! The claims that a Pod declares, and the row of the truth table in which each of them stands.

use std::sync::Arc;

use super::claim_state::{ClaimState, Delayed, Reach, Selected, claim_state};
use super::finding::{Code, FieldPath, Finding};
use super::selector::topology_allows;
use super::volume_choice::choose;
use super::{ClaimRemedy, ClusterView, Lookup, VolumeVerdict};
use crate::model::{Claim, Metadata, Node, Pod, PodVolume, Text, Volume};

/// One volume of a Pod that is, or stands for, a claim.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    /// Place in `spec.volumes`.
    pub index: usize,
    /// Name of the volume in the Pod.
    pub volume: String,
    /// Name of the claim; absent for an ephemeral volume of a Pod without a name.
    pub claim_name: Option<String>,
    pub ephemeral: bool,
    /// The claim will be made from the Pod's own template.
    pub from_template: bool,
    pub mounted: bool,
    pub state: ClaimState,
    /// The existing volume that the scheduler would give to a delayed claim on the Pod's node, if any.
    pub fit: Lookup<Arc<Volume>>,
}

impl Declared {
    /// How messages name the claim.
    pub fn label(&self) -> String {
        match &self.claim_name {
            Some(name) => format!("claim {name:?}"),
            None => format!("the claim of ephemeral volume {:?}", self.volume),
        }
    }

    pub fn path(&self) -> FieldPath {
        let index = self.index.to_string();
        FieldPath::new(&["spec", "volumes", &index])
    }

    /// True when both volumes of the Pod are one claim.
    pub fn is_same_claim(&self, other: &Self) -> bool {
        self.index == other.index || (self.claim_name.is_some() && self.claim_name == other.claim_name)
    }

    /// The claim, if it is delayed.
    pub const fn delayed(&self) -> Option<&Delayed> {
        if let ClaimState::Delayed(delayed) = &self.state { Some(delayed) } else { None }
    }
}

/// The claim that a generic ephemeral volume's template would make.
fn templated(pod: &Pod, volume: &PodVolume, name: Option<&str>) -> Claim {
    let template = volume
        .ephemeral
        .as_ref()
        .and_then(|source| source.volume_claim_template.as_deref().cloned())
        .unwrap_or_default();
    let written = template.metadata.and_then(|metadata| metadata.annotations).unwrap_or_default();
    let metadata = Metadata {
        name: name.map(Text::from),
        namespace: pod.metadata.namespace.clone(),
        annotations: Some(written),
        ..Metadata::default()
    };
    Claim { metadata, spec: template.spec, ..Claim::default() }
}

/// True when the Pod is the controller of the claim, as it is of those of its own ephemeral volumes.
pub(super) fn is_owned_by(claim: &Claim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == pod.metadata.uid.as_deref())
}

/// Every claim that the Pod declares, in the order of its volumes.
pub(super) fn declared_claims(
    pod: &Pod,
    node_name: &str,
    node: &Lookup<Arc<Node>>,
    view: &dyn ClusterView,
) -> Vec<Declared> {
    let mut declared: Vec<Declared> = pod
        .spec
        .volumes
        .iter()
        .enumerate()
        .filter_map(|(index, volume)| {
            let state_of = |claim: &Arc<Claim>| claim_state(claim, node_name, node, view);
            let (claim_name, from_template, state) = if let Some(source) = &volume.persistent_volume_claim {
                let state = view.claim(pod.namespace(), &source.claim_name).found();
                let state = state.map_or(ClaimState::Missing, |claim| state_of(&claim));
                (Some(source.claim_name.to_string()), false, state)
            } else if volume.ephemeral.is_some() {
                let pod_name = pod.metadata.name.as_deref().filter(|name| !name.is_empty());
                let name = pod_name.map(|pod_name| format!("{pod_name}-{}", volume.name));
                // Only a Pod that exists can own a claim; before that its template is all there is.
                let existing = pod.metadata.uid.as_ref().zip(name.as_deref());
                let existing = existing.and_then(|(_, name)| view.claim(pod.namespace(), name).found());
                let from_template = existing.is_none();
                let state = match existing {
                    Some(claim) if is_owned_by(&claim, pod) => state_of(&claim),
                    Some(_) => ClaimState::Foreign,
                    None => state_of(&Arc::new(templated(pod, volume, name.as_deref()))),
                };
                (name, from_template, state)
            } else {
                return None;
            };
            Some(Declared {
                index,
                volume: volume.name.to_string(),
                claim_name,
                ephemeral: volume.ephemeral.is_some(),
                from_template,
                mounted: pod.spec.mounts(&volume.name),
                state,
                fit: Lookup::Absent,
            })
        })
        .collect();
    if let Lookup::Found(node) = node {
        // A poisoned claim is served too: a volume that is reserved for it is bound before its annotation is looked at.
        let served = |claim: &Declared, delayed: &Delayed| {
            claim.mounted && (delayed.selected == Selected::Nobody || !delayed.class.is_dynamic())
        };
        for (place, fit) in choose_among(&declared, node, view, served) {
            declared[place].fit = fit;
        }
    }
    declared
}

/// The existing volumes that the scheduler would give to those delayed claims that are served, by place in `declared`.
pub(super) fn choose_among(
    declared: &[Declared],
    node: &Node,
    view: &dyn ClusterView,
    served: impl Fn(&Declared, &Delayed) -> bool,
) -> Vec<(usize, Lookup<Arc<Volume>>)> {
    let delayed = declared.iter().enumerate().filter_map(|(place, claim)| Some((place, claim, claim.delayed()?)));
    let served: Vec<(usize, &Declared, &Delayed)> =
        delayed.filter(|(_, claim, delayed)| served(claim, delayed)).collect();
    let mut asked: Vec<(&Declared, &Delayed)> = Vec::new();
    // A claim that the Pod names twice is still one claim.
    let places: Vec<(usize, usize)> = served
        .iter()
        .map(|(place, claim, delayed)| {
            let known = asked.iter().position(|(other, _)| other.is_same_claim(claim));
            let known = known.unwrap_or_else(|| {
                asked.push((claim, delayed));
                asked.len() - 1
            });
            (*place, known)
        })
        .collect();
    let claims: Vec<(&Claim, &str)> =
        asked.iter().map(|(_, delayed)| (&*delayed.claim, delayed.class.name())).collect();
    let chosen = choose(&claims, node, view);
    places.into_iter().map(|(place, known)| (place, chosen[known].clone())).collect()
}

/// What one declared claim means for the Pod: a row of the truth table and what a person should know.
pub(super) fn judge(declared: &Declared, node: &Lookup<Arc<Node>>) -> (VolumeVerdict, Option<Finding>) {
    let row = if declared.mounted {
        judge_mounted(declared, node)
    } else {
        let says = "no container mounts it, so the kubelet ignores it".to_owned();
        Row { number: 27, stuck: false, says, remedy: ClaimRemedy::Leave, code: Some(Code::ClaimNotMounted) }
    };
    let finding = row.code.map(|code| code.at(declared.path(), format!("{} {}", declared.label(), row.says)));
    let verdict = VolumeVerdict {
        volume: declared.volume.clone(),
        claim: declared.claim_name.clone(),
        row: row.number,
        stuck: row.stuck,
        says: row.says,
        remedy: row.remedy,
    };
    (verdict, finding)
}

struct Row {
    number: u8,
    stuck: bool,
    says: String,
    remedy: ClaimRemedy,
    code: Option<Code>,
}

impl Row {
    const fn quiet(number: u8, says: String, remedy: ClaimRemedy, code: Option<Code>) -> Self {
        Self { number, stuck: false, says, remedy, code }
    }

    const fn hopeless(number: u8, says: String, reason: Code) -> Self {
        Self { number, stuck: true, says, remedy: ClaimRemedy::Hopeless { reason }, code: Some(reason) }
    }

    const fn stuck(number: u8, says: String, remedy: ClaimRemedy, code: Option<Code>) -> Self {
        Self { number, stuck: true, says, remedy, code }
    }
}

fn judge_mounted(declared: &Declared, node: &Lookup<Arc<Node>>) -> Row {
    let unreachable = |volume: &str| {
        let says = format!("belongs to volume {volume:?}, which the node cannot reach");
        Row::hopeless(3, says, Code::BoundElsewhere)
    };
    match &declared.state {
        ClaimState::Missing => {
            Row::quiet(1, "is not known: it may not exist yet".to_owned(), ClaimRemedy::Wait, Some(Code::ClaimNotKnown))
        }
        ClaimState::Foreign => Row::hopeless(23, "exists, but the Pod does not own it".to_owned(), Code::ForeignClaim),
        ClaimState::Bound { volume, reach } => match reach {
            Reach::Yes => Row::quiet(2, format!("is bound to {volume:?}"), ClaimRemedy::Leave, None),
            Reach::No => unreachable(volume),
            Reach::Unknown => Row::quiet(
                2,
                format!("is bound to {volume:?}; whether the node can reach that volume is not known"),
                ClaimRemedy::Leave,
                Some(Code::VolumeNotKnown),
            ),
        },
        ClaimState::Lost => Row::hopeless(20, "has lost its volume".to_owned(), Code::ClaimLost),
        ClaimState::Deleting => {
            Row::hopeless(19, "is being deleted and was never bound".to_owned(), Code::ClaimDeleting)
        }
        ClaimState::NamesVolume { volume } => {
            let says = format!("names volume {volume:?} and is bound to it without the scheduler");
            Row::quiet(18, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::Reserved { volume, reach: Reach::No } => unreachable(volume),
        ClaimState::Reserved { volume, reach: Reach::Yes | Reach::Unknown } => {
            let says = format!("has volume {volume:?} reserved and is bound to it without the scheduler");
            Row::quiet(17, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::MaybeReserved => {
            let says = "may have a volume reserved: which volumes exist is not known".to_owned();
            Row::quiet(17, says, ClaimRemedy::Wait, Some(Code::FactsNotKnown))
        }
        ClaimState::NoClass => {
            let says = "asks for a volume without a class and is bound without the scheduler".to_owned();
            Row::quiet(9, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::NoDefaultClass => {
            let says = "names no class, and there is no default".to_owned();
            Row::quiet(10, says, ClaimRemedy::Wait, Some(Code::NoClassYet))
        }
        ClaimState::ClassAbsent { class } => Row::quiet(
            11,
            format!("names class {class:?}, which does not exist"),
            ClaimRemedy::Wait,
            Some(Code::NoClassYet),
        ),
        ClaimState::ClassUnknown { class } => {
            let class = class.as_ref().map_or("the default class".to_owned(), |class| format!("class {class:?}"));
            let says = format!("has {class}, whose binding mode is not known");
            Row::quiet(11, says, ClaimRemedy::Wait, Some(Code::ClassNotKnown))
        }
        ClaimState::Immediate { class } => {
            let says = format!("is not bound yet, but class {class:?} binds without the scheduler");
            Row::quiet(8, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::Delayed(delayed) if delayed.class.is_dynamic() => judge_dynamic(declared, delayed, node),
        ClaimState::Delayed(delayed) => judge_static(declared, delayed),
    }
}

fn judge_static(declared: &Declared, delayed: &Delayed) -> Row {
    let class = delayed.class.name();
    let fit = match &declared.fit {
        Lookup::Found(volume) => Some(ClaimRemedy::Prebind { volume: volume.name().to_owned() }),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let row = |plain| if declared.ephemeral { 24 } else { plain };
    if delayed.selected != Selected::Nobody {
        let otherwise =
            if matches!(delayed.selected, Selected::OtherNode(_)) { ClaimRemedy::Leave } else { ClaimRemedy::Unselect };
        let says = format!("carries a selected node, but class {class:?} has no provisioner that could act on it");
        return Row::stuck(14, says, fit.unwrap_or(otherwise), Some(Code::PoisonedClaim));
    }
    match (fit, &declared.fit) {
        (Some(remedy), _) => {
            let says = format!("waits for the scheduler to choose a volume of class {class:?}");
            Row::stuck(row(6), says, remedy, None)
        }
        (None, Lookup::Unknown) => {
            let says = format!("waits for a volume of class {class:?}; which ones exist is not known");
            Row::stuck(row(6), says, ClaimRemedy::Wait, Some(Code::FactsNotKnown))
        }
        (None, _) => {
            let says = format!("waits for a volume of class {class:?}, and none that exists fits on the node");
            Row::stuck(row(7), says, ClaimRemedy::Wait, Some(Code::NoVolumeFits))
        }
    }
}

fn judge_dynamic(declared: &Declared, delayed: &Delayed, node: &Lookup<Arc<Node>>) -> Row {
    let class = delayed.class.name();
    let row = |plain| if declared.ephemeral { 23 } else { plain };
    match &delayed.selected {
        Selected::ThisNode => {
            return Row::quiet(13, "has its volume on order for this node".to_owned(), ClaimRemedy::Leave, None);
        }
        Selected::OtherNode(other) => {
            let says = format!("has its volume on order for node {other:?}");
            return Row::quiet(15, says, ClaimRemedy::Leave, Some(Code::SelectedElsewhere));
        }
        Selected::Nobody | Selected::GoneNode(_) => {}
    }
    match &declared.fit {
        Lookup::Found(volume) if delayed.selected == Selected::Nobody => {
            let says = format!("waits for the scheduler to choose volume {:?} of class {class:?}", volume.name());
            return Row::stuck(row(5), says, ClaimRemedy::Prebind { volume: volume.name().to_owned() }, None);
        }
        Lookup::Unknown => {
            // To order a new volume where one exists would be wrong for good.
            let says = format!("waits for a volume of class {class:?}; which ones exist is not known");
            return Row::stuck(row(4), says, ClaimRemedy::Wait, Some(Code::FactsNotKnown));
        }
        Lookup::Found(_) | Lookup::Absent => {}
    }
    let remedy = match node {
        Lookup::Found(node) if !topology_allows(&delayed.class.allowed_topologies, node) => {
            let says = format!("is of class {class:?}, which allows no volume on the node");
            return Row::hopeless(row(4), says, Code::TopologyExcluded);
        }
        Lookup::Found(node) => ClaimRemedy::SelectNode { node: node.name().to_owned() },
        Lookup::Absent | Lookup::Unknown => ClaimRemedy::Wait,
    };
    if let Selected::GoneNode(gone) = &delayed.selected {
        let says = format!("has its volume on order for node {gone:?}, which no longer exists");
        return Row::stuck(16, says, remedy, Some(Code::SelectedNodeGone));
    }
    let says = format!("waits for the scheduler, since class {class:?} is WaitForFirstConsumer");
    Row::stuck(row(4), says, remedy, None)
}
