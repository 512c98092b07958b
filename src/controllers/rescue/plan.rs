//! What to do about one claim now: `binding`'s verdict, and what has been tried before. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::{GAVE_UP, ProvisionerReport, SELECTIONS};
use crate::binding::{
    ClaimRemedy, ClaimVerdict, ClusterView, Code, FieldPath, Finding, Lookup, Rules, Severity, decide_claim, decide_pod,
};
use crate::model::selector::untolerated;
use crate::model::{Claim, NO_PROVISIONER, PROVISIONER, Pod, Text};
use crate::policy::{Decision, Mode, Reach, RescuePolicy};

/// How often a node is selected for one Pod before it is given up: with the pauses between, for half an hour.
pub const MOST_SELECTIONS: u32 = 10;
/// The shortest and the longest time from when a provisioner gave a node back to when it is selected again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// For how long a provisioner must have failed before an order of a Pod that vanished is taken back.
const FAILING_LONG: Duration = Duration::from_secs(600);
/// When a claim is looked at again whose namespace or node has not been read yet.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How often a provisioner's events are looked at meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the verdict does not know: what happened before.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// For how long the claim has been without the node that latebind selected.
    pub given_back_for: Duration,
    /// What the provisioner reported, if its events have been read.
    pub provisioner: Option<ProvisionerReport>,
    /// Whether anything has been made for the claim, where the provisioner is latebind's own.
    pub started: Option<bool>,
    /// The moment, by which exceptions of policies expire.
    pub now: Timestamp,
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
        /// It must be latebind that selected it, as the API server knows. What the scheduler selected stays.
        if_ours: bool,
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
    const fn not_stuck() -> Self {
        Self { step: Step::Nothing, stuck: None, consumer: None, report: None }
    }
}

/// Plans for a claim as far as the administrator lets the loop go where it is.
#[must_use]
pub fn plan_within(policy: &RescuePolicy, claim: &Claim, view: &dyn ClusterView, rules: &Rules, past: &Past) -> Plan {
    let namespace = claim.namespace();
    let not_yet = || Plan { step: Step::Later(UNKNOWN), ..Plan::not_stuck() };
    let Some(in_namespace) = policy.reach(namespace, &view.namespace(namespace)) else { return not_yet() };
    if in_namespace == Reach::Leave {
        return Plan::not_stuck();
    }
    let plan = plan(claim, view, rules, past);
    let (reach, decision) = match &plan.consumer {
        // An order that is taken back is latebind's own.
        None => (in_namespace, Decision::default()),
        Some(pod) => match policy.reach_for(pod, view, past.now) {
            None => return not_yet(),
            Some(found) => found,
        },
    };
    match reach {
        Reach::Leave => Plan::not_stuck(),
        Reach::Count => Plan { step: Step::Nothing, report: None, ..plan },
        Reach::Tell => told_only(plan, &decision),
        Reach::Write if policy.tainted_nodes_for.contains(namespace) => plan,
        Reach::Write => without_disks_of_others(plan, view),
    }
}

/// Of a plan what may be told.
#[must_use]
pub fn told_only(plan: Plan, decision: &Decision) -> Plan {
    let report = match &plan.step {
        Step::Write(write) => Some(Report {
            reason: "RescueWithheld".to_owned(),
            note: format!("{} would help; {}", write.kind().replace('_', " "), why_withheld(decision)),
            warning: true,
        }),
        _ => plan.report,
    };
    Plan { step: Step::Nothing, report, ..plan }
}

/// Why a write is withheld that would help.
fn why_withheld(decision: &Decision) -> String {
    let names =
        |policy: &Option<String>| policy.as_ref().map(|name| format!("PinPolicy {name:?}: ")).unwrap_or_default();
    let not_allowed = decision.not_allowed.iter().find(|it| it.mode >= Mode::Rewrite);
    match (not_allowed, decision.not_known.first(), decision.policy()) {
        (Some(it), _, _) => format!("PinPolicy {:?} does not allow the Pod's node", it.policy),
        (None, Some(it), _) => format!("nothing is written while it is not known: {}{}", names(&it.policy), it.what),
        (None, None, Some(policy)) => format!("nothing is written in mode warn, which PinPolicy {policy:?} asks for"),
        (None, None, None) => "nothing is written in mode warn".to_owned(),
    }
}

/// An existing volume of a node that keeps Pods away by a taint is somebody else's, as the node is: a Pod that names the
/// node gets around the taint, and must not get the disk by that. A cordon and the node's condition say nothing of whose
/// it is.
fn without_disks_of_others(plan: Plan, view: &dyn ClusterView) -> Plan {
    let Step::Write(Write::Prebind { volume }) = &plan.step else { return plan };
    let Some(pod) = &plan.consumer else { return Plan { step: Step::Nothing, report: None, ..plan } };
    let Some(Lookup::Found(node)) = pod.pinned_node().map(|name| view.node(name)) else {
        return Plan { step: Step::Later(UNKNOWN), report: None, ..plan };
    };
    let whose = |taint: &&k8s_openapi::api::core::v1::Taint| !taint.key.starts_with("node.kubernetes.io/");
    let taints: Vec<_> = node.spec.taints.iter().filter(whose).cloned().collect();
    let Some(taint) = untolerated(&pod.spec, &taints, "NoSchedule") else { return plan };
    let words = format!(
        "volume {volume:?} is not reserved: node {:?} has the taint {}:NoSchedule, which the Pod does not tolerate; add a \
         toleration, or let namespaces have such volumes by rescue.taintedNodesFor",
        node.name(),
        taint.key
    );
    Plan {
        step: Step::Nothing,
        report: Some(Report { reason: "TaintedNode".to_owned(), note: words, warning: true }),
        ..plan
    }
}

/// Plans for a claim.
#[must_use]
pub fn plan(claim: &Claim, view: &dyn ClusterView, rules: &Rules, past: &Past) -> Plan {
    let Lookup::Found(consumers) = view.consumers(claim.namespace(), claim.name()) else { return Plan::not_stuck() };
    let waiting = waiting(claim, &consumers);
    if claim.is_bound() {
        let plans = waiting.iter().map(|(pod, index)| bound_elsewhere(pod, *index, view, rules));
        return plans.into_iter().find(|plan| plan.stuck.is_some()).unwrap_or(Plan::not_stuck());
    }
    let verdict = decide_claim(claim, view, rules);
    // The Pod on whose behalf the verdict is, or else the first one that waits.
    let pod = match &verdict.consumer_uid {
        Some(uid) => waiting.iter().find(|(pod, _)| pod.metadata.uid.as_deref() == Some(uid.as_str())),
        None => waiting.first(),
    };
    let plan = pod.map_or(Plan::not_stuck(), |(pod, index)| for_pod(claim, pod, *index, &verdict, view, past));
    if plan.step != Step::Nothing {
        return plan;
    }
    match stale_order(claim, &consumers, view, past) {
        Some(over) => Plan { step: over.step, report: over.report.or(plan.report), ..plan },
        None => plan,
    }
}

/// Pods that name their node, that their kubelet has acknowledged, and that mount the claim, with the place of its volume.
fn waiting(claim: &Claim, consumers: &[Arc<Pod>]) -> Vec<(Arc<Pod>, usize)> {
    let waits = |pod: &&Arc<Pod>| pod.is_live() && pod.is_acknowledged() && pod.pinned_node().is_some();
    let with_place = |pod: &Arc<Pod>| {
        let index = pod.volume_of(claim).filter(|index| pod.spec.mounts(&pod.spec.volumes[*index].name))?;
        Some((Arc::clone(pod), index))
    };
    consumers.iter().filter(waits).filter_map(with_place).collect()
}

/// A bound claim needs nothing, but a Pod whose node cannot reach its volume should be told.
fn bound_elsewhere(pod: &Arc<Pod>, index: usize, view: &dyn ClusterView, rules: &Rules) -> Plan {
    let decided = decide_pod(pod, view, rules);
    let name = &pod.spec.volumes[index].name;
    let volume = decided.volumes.iter().find(|volume| *name == volume.volume);
    let Some(ClaimRemedy::Hopeless { reason }) = volume.map(|volume| &volume.remedy) else { return Plan::not_stuck() };
    let report = decided.findings.iter().find(|finding| finding.code == *reason).map(report_of);
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
    let waits = |step, stuck, finding: Option<&Finding>| Plan {
        step,
        stuck,
        consumer: Some(Arc::clone(pod)),
        report: finding.map(report_of),
    };
    // The scheduler binds all of a Pod's claims or none: a volume is not tied to a node for a Pod that must wait anyway.
    let writes = matches!(verdict.remedy, ClaimRemedy::SelectNode { .. } | ClaimRemedy::Prebind { .. });
    if writes && let Some(missing) = verdict.findings.iter().find(|finding| finding.code == Code::NoVolumeFits) {
        return waits(Step::Nothing, Some(missing.code), Some(missing));
    }
    match &verdict.remedy {
        ClaimRemedy::SelectNode { node } => select_node(claim, pod, node, view, past),
        ClaimRemedy::Prebind { volume } => {
            let text = format!("reserved volume {volume:?} for claim {:?}", claim.name());
            write_plan(
                Write::Prebind { volume: volume.clone() },
                Code::PinnedToDelayedClaim,
                pod,
                "VolumeReserved",
                text,
            )
        }
        ClaimRemedy::Unselect => {
            let node = claim.selected_node().unwrap_or_default().to_owned();
            let text = format!("the class of claim {:?} has no provisioner, so no volume is ordered", claim.name());
            let if_gone = Some(node.as_str()) != pod.pinned_node();
            let write = Write::Unselect { node, if_gone, if_ours: false };
            write_plan(write, Code::PoisonedClaim, pod, "SelectedNodeRemoved", text)
        }
        ClaimRemedy::Wait => {
            let finding = finding(None);
            waits(Step::Nothing, finding.map(|finding| finding.code), finding)
        }
        ClaimRemedy::Hopeless { reason } => waits(Step::Nothing, Some(*reason), finding(Some(*reason))),
        ClaimRemedy::Leave => {
            let of_note = |finding: &&Finding| {
                finding.code == Code::WaitsForScheduler
                    || (finding.code == Code::SelectedElsewhere && finding.severity >= Severity::Warning)
            };
            let finding = verdict.findings.iter().find(of_note);
            waits(Step::Nothing, finding.map(|finding| finding.code), finding)
        }
    }
}

fn write_plan(write: Write, stuck: Code, pod: &Arc<Pod>, reason: &str, note: String) -> Plan {
    let report = Report { reason: reason.to_owned(), note, warning: false };
    Plan { step: Step::Write(write), stuck: Some(stuck), consumer: Some(Arc::clone(pod)), report: Some(report) }
}

fn report_of(finding: &Finding) -> Report {
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
    let is_of_pod = claim.selection_mark().is_some_and(|mark| mark.pod_uid == pod_uid);
    let given_back = claim.selected_node().is_none() && is_of_pod;
    if !given_back {
        let text = format!("ordered a volume of class {class:?} on node {node:?} for claim {:?}", claim.name());
        return write_plan(write(1), Code::PinnedToDelayedClaim, pod, "SelectedNode", text);
    }
    if let Some(reason) = claim.annotation(GAVE_UP).and_then(|text| text.strip_prefix(pod_uid.as_str())) {
        let text = format!("no volume is ordered any more: {}; remove annotation {GAVE_UP} to go on", reason.trim());
        let report = Some(Report { reason: "GaveUp".to_owned(), note: text, warning: true });
        let stuck = Some(Code::PinnedToDelayedClaim);
        return Plan { step: Step::Nothing, stuck, consumer: Some(Arc::clone(pod)), report };
    }
    let Some(provisioner) = &past.provisioner else {
        let plan = Plan { step: Step::AskProvisioner, stuck: Some(Code::PinnedToDelayedClaim), ..Plan::not_stuck() };
        return Plan { consumer: Some(Arc::clone(pod)), ..plan };
    };
    let count = claim.annotation(SELECTIONS).and_then(|text| text.parse().ok()).unwrap_or(1_u32).max(1);
    let failure = provisioner.failure.as_deref().filter(|text| !text.is_empty()).unwrap_or("it did not say why");
    if count >= MOST_SELECTIONS {
        let reason =
            format!("the provisioner gave node {node:?} back {count} times; its last message: {}", cut(failure));
        let text = format!("{reason}. Remove annotation {GAVE_UP} to go on");
        let mut plan = write_plan(Write::GiveUp { pod_uid, reason }, Code::PinnedToDelayedClaim, pod, "GaveUp", text);
        if let Some(report) = &mut plan.report {
            report.warning = true;
        }
        return plan;
    }
    let pause = backoff(count);
    if past.given_back_for < pause {
        let report = Report {
            reason: "NodeGivenBack".to_owned(),
            note: format!("the provisioner gave node {node:?} back, it is asked again in a while: {}", cut(failure)),
            warning: true,
        };
        let step = Step::Later(pause.saturating_sub(past.given_back_for));
        let stuck = Some(Code::PinnedToDelayedClaim);
        return Plan { step, stuck, consumer: Some(Arc::clone(pod)), report: Some(report) };
    }
    let text = format!("ordered a volume on node {node:?} for claim {:?} again, time {}", claim.name(), count + 1);
    write_plan(write(count + 1), Code::PinnedToDelayedClaim, pod, "SelectedNode", text)
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
fn stale_order(claim: &Claim, consumers: &[Arc<Pod>], view: &dyn ClusterView, past: &Past) -> Option<Plan> {
    let (mark, node) = (claim.selection_mark()?, claim.selected_node()?);
    // The mark outlives a selection that was taken back. Another node was selected by somebody else.
    if mark.node != Some(node) {
        return None;
    }
    if claim.volume_name().is_some() || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let live = || consumers.iter().filter(|pod| pod.is_live());
    if live().any(|pod| pod.metadata.uid.as_deref() == Some(mark.pod_uid)) {
        return None;
    }
    let take_back = |if_gone| {
        let step = Step::Write(Write::Unselect { node: node.to_owned(), if_gone, if_ours: !if_gone });
        let text = format!("the Pod for which node {node:?} was selected is gone, so the order is taken back");
        let report = Some(Report { reason: "SelectedNodeRemoved".to_owned(), note: text, warning: false });
        Some(Plan { step, report, ..Plan::not_stuck() })
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
    let wait = |step| Some(Plan { step, ..Plan::not_stuck() });
    match &past.provisioner {
        None => wait(Step::AskProvisioner),
        Some(provisioner) if provisioner.failure.is_some() && provisioner.failing_for >= FAILING_LONG => {
            take_back(false)
        }
        Some(_) => wait(Step::Later(LOOK_AGAIN)),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
