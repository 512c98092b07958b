//! The claims that a Pod declares, and the row of the truth table in which each of them stands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::asked::Asked;
use super::assume::Assumption;
use super::claim_state::{ClaimState, Delayed, Reach, Selected, claim_state};
use super::finding::{Code, FieldPath, Finding, Severity};
use super::migrated::kubelet_affinity;
use super::place::Place;
use super::row::Row;
use super::volume_choice::{choose, why_none_fits};
use super::{ClaimRemedy, ClusterView, Kind, Lookup, VolumeVerdict};
use crate::model::selector::{unmet, wanted};
use crate::model::{Claim, Class, Metadata, Pod, PodVolume, Text, Volume};

/// One volume of a Pod that is, or stands for, a claim.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
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
    /// Nobody has stored the claim yet, so that it has no status to tell of.
    pub is_new: bool,
    /// A Pod that the scheduler has yet to place and that uses the claim too.
    pub contested_by: Option<String>,
    /// What the state rests on besides the facts.
    pub assumed: Vec<Assumption>,
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

/// Every claim that the Pod declares, in the order of its volumes.
pub(super) fn declared_claims(pod: &Pod, node_name: &str, place: &Lookup<Place>, asked: &Asked<'_>) -> Vec<Declared> {
    let mounted = pod.spec.mounted_volumes();
    let mut declared: Vec<Declared> = pod
        .spec
        .volumes
        .iter()
        .enumerate()
        .filter_map(|(index, volume)| {
            let name = pod.claim_name(volume).map(|name| name.to_string());
            let mut is_new = false;
            let mut state_of = |claim: &Arc<Claim>| {
                is_new = !claim.is_stored() && claim.status.phase.is_empty();
                claim_state(claim, node_name, place, asked)
            };
            let (claim_name, from_template, state) = if let Some(source) = &volume.persistent_volume_claim {
                let state = asked.claim(pod.namespace(), &source.claim_name).found();
                let state = state.map_or(ClaimState::Missing, |claim| state_of(&claim));
                (name, false, state)
            } else if volume.ephemeral.is_some() {
                // Only a Pod that exists can own a claim; before that its template is all there is.
                let existing = pod.metadata.uid.as_ref().zip(name.as_deref());
                let existing = existing.and_then(|(_, name)| asked.claim(pod.namespace(), name).found());
                let from_template = existing.is_none();
                let state = match existing {
                    Some(claim) if pod.owns(&claim) => state_of(&claim),
                    Some(_) => ClaimState::Foreign,
                    None => state_of(&Arc::new(templated(pod, volume, name.as_deref()))),
                };
                (name, from_template, state)
            } else {
                return None;
            };
            let contested_by = claim_name.as_deref().filter(|_| volume.ephemeral.is_none() && !is_settled(&state));
            let contested_by = contested_by.and_then(|name| scheduled_consumer(pod, name, &**asked));
            Some(Declared {
                index,
                volume: volume.name.to_string(),
                claim_name,
                ephemeral: volume.ephemeral.is_some(),
                from_template,
                mounted: mounted.contains(volume.name.as_str()),
                is_new,
                contested_by,
                assumed: asked.take_used(),
                state,
                fit: Lookup::Absent,
            })
        })
        .collect();
    if let Lookup::Found(place) = place {
        // A poisoned claim is served too: a volume that is reserved for it is bound before its annotation is looked at.
        let served = |claim: &Declared, delayed: &Delayed| {
            claim.mounted && (delayed.selected == Selected::Nobody || !delayed.class.is_dynamic())
        };
        for (at, fit) in choose_among(&declared, place, &**asked, served) {
            declared[at].fit = fit;
        }
    }
    declared
}

/// True where no other consumer can change what becomes of the claim.
const fn is_settled(state: &ClaimState) -> bool {
    match state {
        ClaimState::Delayed(delayed) => !matches!(delayed.selected, Selected::Nobody),
        _ => true,
    }
}

/// Another live Pod that uses the claim and that the scheduler has yet to place.
fn scheduled_consumer(pod: &Pod, claim_name: &str, view: &dyn ClusterView) -> Option<String> {
    let consumers = view.consumers(pod.namespace(), claim_name).found()?;
    let is_the_schedulers =
        |other: &&Arc<Pod>| other.is_live() && other.pinned_node().is_none() && other.spec.scheduling_gates.is_empty();
    let mut others = consumers.iter().filter(is_the_schedulers);
    others.find(|other| !other.is_same(pod)).map(|other| other.display_name().to_owned())
}

/// The existing volumes that the scheduler would give to those delayed claims that are served, by place in `declared`.
pub(super) fn choose_among(
    declared: &[Declared],
    place: &Place,
    view: &dyn ClusterView,
    served: impl Fn(&Declared, &Delayed) -> bool,
) -> Vec<(usize, Lookup<Arc<Volume>>)> {
    let delayed = declared.iter().enumerate().filter_map(|(at, claim)| Some((at, claim, claim.delayed()?)));
    let served: Vec<(usize, &Declared, &Delayed)> =
        delayed.filter(|(_, claim, delayed)| served(claim, delayed)).collect();
    let mut claims: Vec<(&Claim, &Class)> = Vec::new();
    // A claim that the Pod names twice is still one claim.
    let mut known_by_name: HashMap<&str, usize> = HashMap::new();
    let places: Vec<(usize, usize)> = served
        .iter()
        .map(|(at, claim, delayed)| {
            let mut ask = || {
                claims.push((&*delayed.claim, &*delayed.class));
                claims.len() - 1
            };
            let known = match claim.claim_name.as_deref() {
                Some(name) => *known_by_name.entry(name).or_insert_with(ask),
                None => ask(),
            };
            (*at, known)
        })
        .collect();
    let chosen = choose(&claims, place, view);
    places.into_iter().map(|(at, known)| (at, chosen[known].clone())).collect()
}

/// For each declared claim whether an earlier volume of the Pod is the same one.
pub(super) fn repeated(declared: &[Declared]) -> Vec<bool> {
    let mut seen = HashSet::new();
    declared.iter().map(|claim| claim.claim_name.as_deref().is_some_and(|name| !seen.insert(name))).collect()
}

/// What one declared claim means for the Pod: a row of the truth table and what a person should know.
pub(super) fn judge(
    declared: &Declared,
    pod: &Pod,
    place: &Lookup<Place>,
    asked: &Asked<'_>,
) -> (VolumeVerdict, Option<Finding>) {
    let mut row = if declared.mounted {
        judge_mounted(declared, pod, place, asked)
    } else {
        let says = "is mounted by no container, so the kubelet ignores it".to_owned();
        Judged::quiet(Row::NotMounted, says, ClaimRemedy::Leave, Some(Code::ClaimNotMounted))
    };
    if row.stuck
        && let Some(other) = &declared.contested_by
        && !matches!(row.remedy, ClaimRemedy::Hopeless { .. })
    {
        row = row.contested(other);
    }
    let assumed = [declared.assumed.clone(), asked.take_used()].concat();
    let finding = row.code.map(|code| {
        let message = format!("{} {}", declared.label(), row.details.as_ref().unwrap_or(&row.says));
        let finding = code.at(declared.path(), message).resting_on(&assumed);
        Finding { severity: row.severity.unwrap_or(finding.severity), ..finding }
    });
    let verdict = VolumeVerdict {
        volume: declared.volume.clone(),
        claim: declared.claim_name.clone(),
        row: row.row,
        stuck: row.stuck,
        says: row.says,
        remedy: row.remedy,
        undecided: row.undecided,
    };
    for assumption in assumed {
        asked.note(assumption);
    }
    (verdict, finding)
}

/// What one claim means for the Pod.
struct Judged {
    row: Row,
    stuck: bool,
    undecided: bool,
    says: String,
    /// What the finding says instead, where that is longer.
    details: Option<String>,
    remedy: ClaimRemedy,
    code: Option<Code>,
    /// Where it is not that of the code.
    severity: Option<Severity>,
}

impl Judged {
    const fn new(row: Row, stuck: bool, says: String, remedy: ClaimRemedy, code: Option<Code>) -> Self {
        Self { row, stuck, undecided: false, says, details: None, remedy, code, severity: None }
    }

    const fn quiet(row: Row, says: String, remedy: ClaimRemedy, code: Option<Code>) -> Self {
        Self::new(row, false, says, remedy, code)
    }

    fn undecided(row: Row, says: String, remedy: ClaimRemedy, code: Code) -> Self {
        Self { undecided: true, ..Self::new(row, false, says, remedy, Some(code)) }
    }

    const fn hopeless(row: Row, says: String, reason: Code) -> Self {
        Self::new(row, true, says, ClaimRemedy::Hopeless { reason }, Some(reason))
    }

    const fn stuck(row: Row, says: String, remedy: ClaimRemedy, code: Option<Code>) -> Self {
        Self::new(row, true, says, remedy, code)
    }

    /// The scheduler places another Pod that uses the claim, and with it the claim's volume.
    fn contested(self, other: &str) -> Self {
        let says = format!(
            "is used by Pod {other:?} too, which the scheduler places: the volume goes where that one runs, and this Pod \
             waits forever if its node cannot reach it"
        );
        Self { undecided: true, says, remedy: ClaimRemedy::Leave, ..self }
    }

    fn with_details(self, details: Option<String>) -> Self {
        Self { details: details.map(|details| format!("{}: {details}", self.says)), ..self }
    }
}

fn judge_mounted(declared: &Declared, pod: &Pod, place: &Lookup<Place>, asked: &Asked<'_>) -> Judged {
    match &declared.state {
        ClaimState::Missing => {
            let says = "is not known: it may not exist yet".to_owned();
            let elsewhere =
                declared.claim_name.as_deref().and_then(|name| asked.claim_elsewhere(pod.namespace(), name));
            let elsewhere = elsewhere.map(|namespace| {
                format!("one of that name is in namespace {namespace:?}, the Pod is in {:?}", pod.namespace())
            });
            Judged::undecided(Row::Missing, says, ClaimRemedy::Wait, Code::ClaimNotKnown).with_details(elsewhere)
        }
        ClaimState::Foreign => {
            Judged::hopeless(Row::Foreign, "exists, but the Pod does not own it".to_owned(), Code::ForeignClaim)
        }
        ClaimState::Bound { volume, known, reach } => judge_bound(volume, known.as_deref(), *reach, place),
        ClaimState::Lost => Judged::hopeless(Row::Lost, "has lost its volume".to_owned(), Code::ClaimLost),
        ClaimState::Deleting => {
            Judged::hopeless(Row::Deleting, "is being deleted and was never bound".to_owned(), Code::ClaimDeleting)
        }
        ClaimState::NamesVolume { volume } => {
            let says = format!("names volume {volume:?} and is bound to it without the scheduler");
            Judged::quiet(Row::NamesVolume, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::Reserved { known, reach: Reach::No } => unreachable(known.name(), Some(known), place),
        ClaimState::Reserved { known, reach: Reach::Yes | Reach::Unknown } => {
            let says = format!("has volume {:?} reserved and is bound to it without the scheduler", known.name());
            Judged::quiet(Row::Reserved, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::MaybeReserved => {
            let says = "may have a volume reserved: which volumes exist is not known".to_owned();
            Judged::undecided(Row::Reserved, says, ClaimRemedy::Wait, Code::FactsNotKnown)
        }
        ClaimState::NoClass => {
            let says = "asks for a volume without a class and is bound without the scheduler".to_owned();
            Judged::quiet(Row::EmptyClass, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::NoDefaultClass => {
            let says = "names no class, and there is no default".to_owned();
            Judged::quiet(Row::NoClass, says, ClaimRemedy::Wait, Some(Code::NoClassYet))
        }
        ClaimState::ClassAbsent { class } => Judged::quiet(
            Row::ClassMissing,
            format!("names class {class:?}, which does not exist"),
            ClaimRemedy::Wait,
            Some(Code::NoClassYet),
        ),
        ClaimState::ClassUnknown { class } => {
            let class = class.as_ref().map_or("the default class".to_owned(), |class| format!("class {class:?}"));
            let says = format!("has {class}, whose binding mode is not known");
            let hint = "that of k3s and kind waits for the scheduler, and the Pod would wait forever there; say which \
                        cluster it is: --assume-cluster=k3s"
                .to_owned();
            Judged::undecided(Row::ClassMissing, says, ClaimRemedy::Wait, Code::ClassNotKnown).with_details(Some(hint))
        }
        ClaimState::Immediate { class } => {
            let says = format!("is not bound yet, but class {class:?} binds without the scheduler");
            Judged::quiet(Row::Immediate, says, ClaimRemedy::Leave, Some(Code::NotBoundImmediately))
        }
        ClaimState::Delayed(delayed) if delayed.class.is_dynamic() => judge_dynamic(declared, delayed, place),
        ClaimState::Delayed(delayed) => judge_static(declared, delayed, place, asked),
    }
}

fn unreachable(volume: &str, known: Option<&Volume>, place: &Lookup<Place>) -> Judged {
    let says = format!("belongs to volume {volume:?}, which the node cannot reach");
    let affinity = known.and_then(kubelet_affinity);
    let why = affinity.zip(place.as_ref().found()).map(|(affinity, place)| {
        if place.is_assumed() {
            format!("it wants {}, the Pod's own selectors exclude that", wanted(&affinity))
        } else {
            format!("it {}", unmet(&affinity, place.node()))
        }
    });
    Judged::hopeless(Row::BoundElsewhere, says, Code::BoundElsewhere).with_details(why)
}

fn judge_bound(volume: &str, known: Option<&Volume>, reach: Reach, place: &Lookup<Place>) -> Judged {
    match reach {
        Reach::Yes => Judged::quiet(Row::Bound, format!("is bound to {volume:?}"), ClaimRemedy::Leave, None),
        Reach::No => unreachable(volume, known, place),
        Reach::Unknown => {
            let says = format!("is bound to {volume:?}; whether the node can reach that volume is not known");
            let why = known.and_then(kubelet_affinity);
            let why = why.map(|affinity| format!("it wants {}, and the Node is not in the input", wanted(&affinity)));
            Judged::undecided(Row::Bound, says, ClaimRemedy::Leave, Code::VolumeNotKnown).with_details(why)
        }
    }
}

fn judge_static(declared: &Declared, delayed: &Delayed, place: &Lookup<Place>, asked: &Asked<'_>) -> Judged {
    let class = delayed.class.name();
    let fit = match &declared.fit {
        Lookup::Found(volume) => Some(ClaimRemedy::Prebind { volume: volume.name().to_owned() }),
        Lookup::Absent | Lookup::Unknown => None,
    };
    let row = |plain| if declared.ephemeral { Row::EphemeralStatic } else { plain };
    if delayed.selected != Selected::Nobody {
        let may_exist = matches!(delayed.selected, Selected::OtherNode(_) | Selected::UnknownNode(_));
        let otherwise = if may_exist { ClaimRemedy::Leave } else { ClaimRemedy::Unselect };
        let says = format!("carries a selected node, but class {class:?} has no provisioner that could act on it");
        return Judged::stuck(Row::SelectedStatic, says, fit.unwrap_or(otherwise), Some(Code::PoisonedClaim));
    }
    let why = || {
        let place = place.as_ref().found()?;
        why_none_fits(&delayed.claim, &delayed.class, place, &**asked)
    };
    let fitting = || Assumption::FittingVolume { class: class.to_owned() };
    match (fit, &declared.fit) {
        (Some(remedy), _) => {
            let says = format!("waits for the scheduler to choose a volume of class {class:?}");
            Judged::stuck(row(Row::StaticVolumeFits), says, remedy, None)
        }
        // Some volumes of the input are of the class, and none of these fits.
        (None, Lookup::Unknown) if !asked.knows_all(Kind::Volumes) && has_any(class, &**asked) => {
            asked.grant_storage(fitting);
            let says = format!("waits for a volume of class {class:?}, and none in the input fits on the node");
            let none = Judged::stuck(row(Row::StaticNoVolume), says, ClaimRemedy::Wait, Some(Code::NoVolumeFits));
            Judged { severity: Some(Severity::Warning), ..none.with_details(why()) }
        }
        (None, Lookup::Unknown) if !asked.knows_all(Kind::Volumes) && asked.grant_storage(fitting) => {
            let says = format!("waits for the scheduler to choose a volume of class {class:?}");
            Judged::stuck(row(Row::StaticVolumeFits), says, ClaimRemedy::Wait, None)
        }
        (None, Lookup::Unknown) => {
            let says = format!("waits for a volume of class {class:?}; which ones exist is not known");
            Judged::stuck(row(Row::StaticVolumeFits), says, ClaimRemedy::Wait, Some(Code::FactsNotKnown))
        }
        (None, Lookup::Found(_) | Lookup::Absent) => {
            let says = format!("waits for a volume of class {class:?}, and none that exists fits on the node");
            Judged::stuck(row(Row::StaticNoVolume), says, ClaimRemedy::Wait, Some(Code::NoVolumeFits))
                .with_details(why())
        }
    }
}

fn has_any(class_name: &str, view: &dyn ClusterView) -> bool {
    view.free_volumes_of_class(class_name).found().is_some_and(|volumes| !volumes.is_empty())
}

fn judge_dynamic(declared: &Declared, delayed: &Delayed, place: &Lookup<Place>) -> Judged {
    let class = delayed.class.name();
    let row = |plain| if declared.ephemeral { Row::Ephemeral } else { plain };
    match &delayed.selected {
        Selected::ThisNode => {
            return Judged::quiet(
                Row::SelectedHere,
                "has its volume on order for this node".to_owned(),
                ClaimRemedy::Leave,
                None,
            );
        }
        Selected::OtherNode(other) => {
            let says = format!("has its volume on order for node {other:?}");
            return Judged::quiet(Row::SelectedElsewhere, says, ClaimRemedy::Leave, Some(Code::SelectedElsewhere));
        }
        Selected::UnknownNode(other) => {
            let says = format!("has its volume on order for node {other:?}; whether that exists is not known");
            let why = "if it is gone, the volume is never made; --nodes-complete says that all Nodes are in the input";
            let row = Judged::undecided(Row::SelectedElsewhere, says, ClaimRemedy::Leave, Code::SelectedElsewhere);
            return row.with_details(Some(why.to_owned()));
        }
        Selected::Nobody | Selected::GoneNode(_) => {}
    }
    match &declared.fit {
        Lookup::Found(volume) if delayed.selected == Selected::Nobody => {
            let says = format!("waits for the scheduler to choose volume {:?} of class {class:?}", volume.name());
            return Judged::stuck(
                row(Row::DynamicVolumeFits),
                says,
                ClaimRemedy::Prebind { volume: volume.name().to_owned() },
                None,
            );
        }
        Lookup::Unknown => {
            // To order a new volume where one exists would be wrong for good.
            let says = format!("waits for a volume of class {class:?}; which ones exist is not known");
            return Judged::stuck(row(Row::Dynamic), says, ClaimRemedy::Wait, Some(Code::FactsNotKnown));
        }
        Lookup::Found(_) | Lookup::Absent => {}
    }
    let remedy = match place {
        Lookup::Found(place) if !place.is_allowed_by(&delayed.class.allowed_topologies) => {
            let says = format!("is of class {class:?}, which allows no volume on the node");
            return Judged::hopeless(row(Row::Dynamic), says, Code::TopologyExcluded);
        }
        Lookup::Found(place) => ClaimRemedy::SelectNode { node: place.name().to_owned() },
        Lookup::Absent | Lookup::Unknown => ClaimRemedy::Wait,
    };
    if let Selected::GoneNode(gone) = &delayed.selected {
        let says = format!("has its volume on order for node {gone:?}, which no longer exists");
        return Judged::stuck(Row::SelectedNodeGone, says, remedy, Some(Code::SelectedNodeGone));
    }
    let says = format!("waits for the scheduler, since class {class:?} is WaitForFirstConsumer");
    Judged::stuck(row(Row::Dynamic), says, remedy, None)
}
