//! What to do about one claim now: `binding`'s verdict, and what has been tried before. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::{GAVE_UP, SELECTED_BY, SELECTIONS, Words};
use crate::binding::{
    ClaimRemedy, ClaimVerdict, ClusterView, Code, FieldPath, Finding, Lookup, Rules, Severity, decide_claim, decide_pod,
};
use crate::model::{Claim, NO_PROVISIONER, PROVISIONER, Pod, Text};

/// How often a node is selected for one Pod before it is given up: with the pauses between, for half an hour.
pub const MOST_SELECTIONS: u32 = 10;
/// The shortest and the longest time from when a provisioner gave a node back to when it is selected again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// For how long a provisioner must have failed before an order of a Pod that vanished is taken back.
const FAILING_LONG: Duration = Duration::from_secs(600);
/// How often a provisioner's events are looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the verdict does not know: what happened before.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// For how long the claim has been without the node that latebind selected.
    pub given_back_for: Duration,
    /// What the provisioner said, if it has been asked.
    pub words: Option<Words>,
    /// Whether anything has been made for the claim, where the provisioner is latebind's own.
    pub started: Option<bool>,
}

/// One write. Everything in it comes from the objects that were decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Order a volume for a node.
    SelectNode {
        /// The node.
        node: String,
        /// UID of the Pod for whose sake.
        pod_uid: String,
        /// The provisioner, where it runs outside of the controller manager.
        provisioner: Option<String>,
        /// Which time it is.
        count: u32,
        /// The node that was selected before, which must be gone.
        instead_of: Option<String>,
    },
    /// Reserve a volume.
    Prebind {
        /// The volume.
        volume: String,
    },
    /// Take an order back.
    Unselect {
        /// The node that was selected.
        node: String,
        /// The node must be gone.
        if_gone: bool,
    },
    /// Note that no node is selected any more for this Pod.
    GiveUp {
        /// UID of the Pod.
        pod_uid: String,
        /// Why.
        reason: String,
    },
}

impl Write {
    /// The name of its kind in metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::SelectNode { .. } => "select_node",
            Self::Prebind { .. } => "prebind",
            Self::Unselect { .. } => "unselect",
            Self::GiveUp { .. } => "give_up",
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes.
    Nothing,
    /// Nothing before this time has passed.
    Later(Duration),
    /// Read the provisioner's events and plan again.
    AskProvisioner,
    /// Write.
    Write(Write),
}

/// What to tell people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// Reason of the event, in the form that reasons have.
    pub reason: String,
    /// Text of the event.
    pub note: String,
    /// Something is wrong and needs a person.
    pub warning: bool,
}

/// A claim's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// Why the claim's Pod is stuck, if it is.
    pub stuck: Option<Code>,
    /// The Pod that names its node and waits for the claim.
    pub consumer: Option<Arc<Pod>>,
    /// What to tell people if this lasts: of a write, what it has done.
    pub report: Option<Report>,
}

impl Plan {
    const fn quiet() -> Self {
        Self { step: Step::Nothing, stuck: None, consumer: None, report: None }
    }
}

/// Plans for a claim.
#[must_use]
pub fn plan(claim: &Claim, view: &dyn ClusterView, rules: &Rules, past: &Past) -> Plan {
    let Lookup::Found(consumers) = view.consumers(claim.namespace(), claim.name()) else { return Plan::quiet() };
    let waiting = waiting(claim, &consumers);
    if claim.is_bound() {
        let told = waiting.iter().map(|(pod, index)| bound_elsewhere(pod, *index, view, rules));
        return told.into_iter().find(|plan| plan.stuck.is_some()).unwrap_or(Plan::quiet());
    }
    let verdict = decide_claim(claim, view, rules);
    // The Pod on whose behalf the verdict is, or else the first one that waits.
    let pod = match &verdict.consumer_uid {
        Some(uid) => waiting.iter().find(|(pod, _)| pod.metadata.uid.as_deref() == Some(uid.as_str())),
        None => waiting.first(),
    };
    let plan = pod.map_or(Plan::quiet(), |(pod, index)| for_pod(claim, pod, *index, &verdict, view, past));
    if plan.step != Step::Nothing {
        return plan;
    }
    match left_over(claim, &consumers, view, past) {
        Some(over) => Plan { step: over.step, report: over.report.or(plan.report), ..plan },
        None => plan,
    }
}

/// Pods that name their node, that their kubelet has acknowledged, and that mount the claim, with the place of its volume.
fn waiting(claim: &Claim, consumers: &[Arc<Pod>]) -> Vec<(Arc<Pod>, usize)> {
    let waits = |pod: &&Arc<Pod>| pod.is_live() && pod.is_acknowledged() && pod.pinned_node().is_some();
    let with_place = |pod: &Arc<Pod>| {
        let index = volume_index(pod, claim).filter(|index| pod.spec.mounts(&pod.spec.volumes[*index].name))?;
        Some((Arc::clone(pod), index))
    };
    consumers.iter().filter(waits).filter_map(with_place).collect()
}

/// The place of the Pod's volume that is the claim; an ephemeral volume's claim must be the Pod's own.
fn volume_index(pod: &Pod, claim: &Claim) -> Option<usize> {
    pod.spec.volumes.iter().position(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name == claim.name(),
        (None, Some(_)) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let mut owners = claim.metadata.owner_references.iter().flatten();
            claim.name() == format!("{name}-{}", volume.name)
                && owners.any(|owner| Some(owner.uid.as_str()) == pod.metadata.uid.as_deref())
        }
        (None, None) => false,
    })
}

/// A bound claim needs nothing, but a Pod whose node cannot reach its volume should be told.
fn bound_elsewhere(pod: &Arc<Pod>, index: usize, view: &dyn ClusterView, rules: &Rules) -> Plan {
    let decided = decide_pod(pod, view, rules);
    let name = &pod.spec.volumes[index].name;
    let volume = decided.volumes.iter().find(|volume| *name == volume.volume);
    let Some(ClaimRemedy::Hopeless { reason }) = volume.map(|volume| &volume.remedy) else { return Plan::quiet() };
    let report = decided.findings.iter().find(|finding| finding.code == *reason).map(tell);
    Plan { step: Step::Nothing, stuck: Some(*reason), consumer: Some(Arc::clone(pod)), report }
}

fn for_pod(
    claim: &Claim,
    pod: &Arc<Pod>,
    index: usize,
    verdict: &ClaimVerdict,
    view: &dyn ClusterView,
    past: &Past,
) -> Plan {
    let finding = |wanted: Option<Code>| {
        let place = index.to_string();
        let own = FieldPath::new(&["spec", "volumes", &place]);
        let of_code = |finding: &&Finding| wanted.is_none_or(|code| finding.code == code);
        let found = verdict.findings.iter().filter(of_code);
        found.clone().find(|finding| finding.path == own).or_else(|| found.into_iter().next())
    };
    let told = |step, stuck, finding: Option<&Finding>| Plan {
        step,
        stuck,
        consumer: Some(Arc::clone(pod)),
        report: finding.map(tell),
    };
    // The scheduler binds all of a Pod's claims or none: a volume is not tied to a node for a Pod that must wait anyway.
    let writes = matches!(verdict.remedy, ClaimRemedy::SelectNode { .. } | ClaimRemedy::Prebind { .. });
    if writes && let Some(missing) = verdict.findings.iter().find(|finding| finding.code == Code::NoVolumeFits) {
        return told(Step::Nothing, Some(missing.code), Some(missing));
    }
    match &verdict.remedy {
        ClaimRemedy::SelectNode { node } => select_node(claim, pod, node, view, past),
        ClaimRemedy::Prebind { volume } => {
            let text = format!("reserved volume {volume:?} for claim {:?}", claim.name());
            act(Write::Prebind { volume: volume.clone() }, Code::PinnedToDelayedClaim, pod, "VolumeReserved", text)
        }
        ClaimRemedy::Unselect => {
            let node = claim.selected_node().unwrap_or_default().to_owned();
            let text = format!("the class of claim {:?} has no provisioner, so no volume is ordered", claim.name());
            let if_gone = Some(node.as_str()) != pod.pinned_node();
            act(Write::Unselect { node, if_gone }, Code::PoisonedClaim, pod, "SelectedNodeRemoved", text)
        }
        ClaimRemedy::Wait => {
            let finding = finding(None);
            told(Step::Nothing, finding.map(|finding| finding.code), finding)
        }
        ClaimRemedy::Hopeless { reason } => told(Step::Nothing, Some(*reason), finding(Some(*reason))),
        ClaimRemedy::Leave => {
            let of_note = |finding: &&Finding| {
                finding.code == Code::WaitsForScheduler
                    || (finding.code == Code::SelectedElsewhere && finding.severity >= Severity::Warning)
            };
            let finding = verdict.findings.iter().find(of_note);
            told(Step::Nothing, finding.map(|finding| finding.code), finding)
        }
    }
}

fn act(write: Write, stuck: Code, pod: &Arc<Pod>, reason: &str, note: String) -> Plan {
    let report = Report { reason: reason.to_owned(), note, warning: false };
    Plan { step: Step::Write(write), stuck: Some(stuck), consumer: Some(Arc::clone(pod)), report: Some(report) }
}

fn tell(finding: &Finding) -> Report {
    Report {
        reason: format!("{:?}", finding.code),
        note: format!("{}: {}", finding.code, finding.message),
        warning: finding.severity > Severity::Info,
    }
}

/// Selects the Pod's node, the first time or again.
fn select_node(claim: &Claim, pod: &Arc<Pod>, node: &str, view: &dyn ClusterView, past: &Past) -> Plan {
    let pod_uid = Text::or_empty(pod.metadata.uid.as_ref());
    let class = claim.class_name().unwrap_or_default();
    let provisioner = view.class(class).found().map(|class| class.provisioner.clone()).and_then(external);
    let write = |count| Write::SelectNode {
        node: node.to_owned(),
        pod_uid: pod_uid.clone(),
        provisioner: provisioner.clone(),
        count,
        instead_of: claim.selected_node().map(str::to_owned),
    };
    let given_back = claim.selected_node().is_none() && claim.annotation(SELECTED_BY) == Some(pod_uid.as_str());
    if !given_back {
        let text = format!("ordered a volume of class {class:?} on node {node:?} for claim {:?}", claim.name());
        return act(write(1), Code::PinnedToDelayedClaim, pod, "SelectedNode", text);
    }
    if let Some(reason) = claim.annotation(GAVE_UP).and_then(|text| text.strip_prefix(pod_uid.as_str())) {
        let text = format!("no volume is ordered any more: {}; remove annotation {GAVE_UP} to go on", reason.trim());
        let report = Some(Report { reason: "GaveUp".to_owned(), note: text, warning: true });
        let stuck = Some(Code::PinnedToDelayedClaim);
        return Plan { step: Step::Nothing, stuck, consumer: Some(Arc::clone(pod)), report };
    }
    let Some(words) = &past.words else {
        let plan = Plan { step: Step::AskProvisioner, stuck: Some(Code::PinnedToDelayedClaim), ..Plan::quiet() };
        return Plan { consumer: Some(Arc::clone(pod)), ..plan };
    };
    let count = claim.annotation(SELECTIONS).and_then(|text| text.parse().ok()).unwrap_or(1_u32).max(1);
    let said = words.failure.as_deref().filter(|said| !said.is_empty()).unwrap_or("it did not say why");
    if count >= MOST_SELECTIONS {
        let reason = format!("the provisioner gave node {node:?} back {count} times; its last word: {}", cut(said));
        let text = format!("{reason}. Remove annotation {GAVE_UP} to go on");
        let mut plan = act(Write::GiveUp { pod_uid, reason }, Code::PinnedToDelayedClaim, pod, "GaveUp", text);
        if let Some(report) = &mut plan.report {
            report.warning = true;
        }
        return plan;
    }
    let pause = backoff(count);
    if past.given_back_for < pause {
        let report = Report {
            reason: "NodeGivenBack".to_owned(),
            note: format!("the provisioner gave node {node:?} back, it is asked again in a while: {}", cut(said)),
            warning: true,
        };
        let step = Step::Later(pause.saturating_sub(past.given_back_for));
        let stuck = Some(Code::PinnedToDelayedClaim);
        return Plan { step, stuck, consumer: Some(Arc::clone(pod)), report: Some(report) };
    }
    let text = format!("ordered a volume on node {node:?} for claim {:?} again, time {}", claim.name(), count + 1);
    act(write(count + 1), Code::PinnedToDelayedClaim, pod, "SelectedNode", text)
}

/// The provisioner, if it is one of its own process. Those built into Kubernetes go by other names when they migrate.
fn external(provisioner: String) -> Option<String> {
    let built_in = provisioner.starts_with("kubernetes.io/");
    debug_assert!(built_in || provisioner != NO_PROVISIONER);
    (!built_in && !provisioner.is_empty()).then_some(provisioner)
}

/// From when a node was given back for the nth time to when it is selected again.
fn backoff(count: u32) -> Duration {
    let (shortest, longest) = BACKOFF;
    shortest.saturating_mul(2_u32.saturating_pow(count.saturating_sub(1).min(16))).min(longest)
}

/// As much of a text as fits into an event, and no line breaks.
fn cut(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(400).collect()
}

/// An order that latebind gave for a Pod that is gone, and that would force later Pods to its node.
fn left_over(claim: &Claim, consumers: &[Arc<Pod>], view: &dyn ClusterView, past: &Past) -> Option<Plan> {
    let (owner, node) = (claim.annotation(SELECTED_BY)?, claim.selected_node()?);
    if claim.volume_name().is_some() || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let live = || consumers.iter().filter(|pod| pod.is_live());
    if live().any(|pod| pod.metadata.uid.as_deref() == Some(owner)) {
        return None;
    }
    let take_back = |if_gone| {
        let step = Step::Write(Write::Unselect { node: node.to_owned(), if_gone });
        let text = format!("the Pod for which node {node:?} was selected is gone, so the order is taken back");
        let report = Some(Report { reason: "SelectedNodeRemoved".to_owned(), note: text, warning: false });
        Some(Plan { step, report, ..Plan::quiet() })
    };
    if matches!(view.node(node), Lookup::Absent) {
        return take_back(true);
    }
    let class = view.class(claim.class_name().unwrap_or_default()).found()?;
    if class.provisioner == PROVISIONER {
        return if past.started == Some(false) { take_back(false) } else { None };
    }
    // Nobody suffers while no other Pod waits, and one that names the same node wants the order to stand.
    if !live().any(|pod| pod.pinned_node() != Some(node)) {
        return None;
    }
    let wait = |step| Some(Plan { step, ..Plan::quiet() });
    match &past.words {
        None => wait(Step::AskProvisioner),
        Some(words) if words.failure.is_some() && words.failing_for >= FAILING_LONG => take_back(false),
        Some(_) => wait(Step::Later(LOOK_AGAIN)),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
