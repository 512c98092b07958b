//! Evictions, and deletions of Nodes, that a drain policy holds up.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::patch::{DENIAL_CHARS, bounded};
use super::review::{Answer, Decision, Denial, Refusal, Request};
use super::subject::{AUDIT_CHARS, Admission, mode_of};
use crate::binding::{Code, Lookup, first_of};
use crate::drain::guard::{self, Guard, GuardVerdict, Later};
use crate::drain::policy::Approval;
use crate::drain::{ClaimsOnNode, claims_of};
use crate::model::{DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, EvictedPod, Node, PodOnNode, Text, Volume};
use crate::policy::Mode;

/// Accounts of Kubernetes' own controllers. Those that delete Nodes do so when the machine is gone, which no refusal brings back.
const KUBERNETES: &str = "system:serviceaccounts:kube-system";
/// Replicas that a refusal names.
const MOST_NAMES: usize = 3;
/// For how long the command approves that a refusal prints.
const APPROVED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// A Pod with claims that are on its node alone.
pub(super) struct HeldPod {
    pub(super) pod: Arc<PodOnNode>,
    pub(super) node: Arc<Node>,
    /// Names of the claims, and their volumes; not empty.
    pub(super) held: Vec<(Text, Arc<Volume>)>,
    /// What their policies come to.
    pub(super) guard: Option<Guard>,
}

impl HeldPod {
    /// The Pod that a request evicts; `Absent` where it leaves nothing behind.
    pub(super) fn of(request: &Request<'_>, admission: &Admission<'_>) -> Lookup<Self> {
        let view = admission.view;
        let pod = match view.pod_on_node(&request.namespace, &request.name) {
            Lookup::Found(pod) => pod,
            Lookup::Absent => return Lookup::Absent,
            Lookup::Unknown => return Lookup::Unknown,
        };
        // A drain leaves those of a DaemonSet.
        if !pod.uses_claims() || pod.metadata.controller().is_some_and(|owner| owner.kind == "DaemonSet") {
            return Lookup::Absent;
        }
        let Some(Lookup::Found(node)) = pod.node().map(|node| view.node(node)) else { return Lookup::Unknown };
        let Some(held) = claims_of(&pod, &node, view) else { return Lookup::Unknown };
        if held.is_empty() {
            return Lookup::Absent;
        }
        let claims = held.iter().map(|(name, _)| (pod.namespace(), name.as_str()));
        let guard = Guard::of(claims, &node, admission.now, view);
        Lookup::Found(Self { pod, node, held, guard })
    }

    fn asks_for_pod(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.asks_for_pod(&self.node))
    }
}

/// True for an eviction that hangs on how the Pod does.
pub(super) fn asks_for_pod(request: &Request<'_>, admission: &Admission<'_>) -> bool {
    let is_asked = &*request.operation == "CREATE" && !admission.exemptions.cover(request);
    is_asked
        && holds_up(request, admission)
        && HeldPod::of(request, admission).found().is_some_and(|it| it.asks_for_pod())
}

/// True where policies are kept to, for whoever asks.
fn holds_up(request: &Request<'_>, admission: &Admission<'_>) -> bool {
    let Some(options) = admission.guard else { return false };
    !request.is_by_one_of(&options.exempt_groups)
}

/// What a policy says about an eviction or a deletion.
pub(super) enum Judgement {
    /// It is answered so.
    Refused(Box<Answer>),
    /// It goes, and nothing is said.
    Silent,
    /// It goes; what the audit log keeps, and what is to be said about it.
    Allowed(BTreeMap<&'static str, String>, Vec<String>),
}

/// Judges an eviction.
pub(super) fn eviction(held: &HeldPod, request: &Request<'_>, admission: &Admission<'_>) -> Judgement {
    let Some(guard) = &held.guard else { return Judgement::Allowed(BTreeMap::new(), Vec::new()) };
    if !holds_up(request, admission) {
        return goes(guard, &GuardVerdict::Allowed);
    }
    let asked = held.asks_for_pod().then(|| admission.view.evicted_pod(&request.namespace, &request.name));
    let pod = match asked {
        Some(Lookup::Found(pod)) => Some(pod),
        // It is gone.
        Some(Lookup::Absent) => Some(Arc::new(EvictedPod::Idle)),
        Some(Lookup::Unknown) | None => None,
    };
    let verdict = guard::eviction(guard, &request.namespace, &held.node, pod.as_deref(), admission.view);
    let name = &*request.name;
    let by = by_whom(guard, admission.details);
    let (refusal, code, text) = match &verdict {
        GuardVerdict::Allowed | GuardVerdict::Approved(_) | GuardVerdict::NotKnown => return goes(guard, &verdict),
        GuardVerdict::Later(Later::Look) => {
            let text =
                format!("pod {name} is not evicted yet: too many others are looked at. Try again in some seconds");
            (Refusal::NotNow, Code::EvictionWaits, text)
        }
        GuardVerdict::Later(Later::Turn(ahead)) => {
            let ahead = if admission.details { ahead.as_str() } else { "another" };
            let text = format!(
                "pod {name} waits for its turn: {ahead} of the same StatefulSet goes from the node first. It goes by itself then; {by}"
            );
            (Refusal::NotNow, Code::EvictionWaits, text)
        }
        GuardVerdict::Later(Later::Replicas { set, wanted, awaited }) if admission.details => {
            let text = format!(
                "pod {name} waits until the other replicas of statefulset {set} are ready ({} of {wanted} are not: {}). It goes by \
                 itself then; {by}",
                awaited.len(),
                first_of(awaited, MOST_NAMES)
            );
            (Refusal::NotNow, Code::EvictionWaits, text)
        }
        GuardVerdict::Later(Later::Replicas { .. }) => {
            let text = format!(
                "pod {name} waits until the other replicas of its StatefulSet are ready. It goes by itself then; {by}"
            );
            (Refusal::NotNow, Code::EvictionWaits, text)
        }
        GuardVerdict::Denied => {
            let node = if admission.details { held.node.name() } else { "NODE" };
            let approve = approve_command(node, guard, admission.now);
            (
                Refusal::Forbidden,
                Code::EvictionDenied,
                format!("pod {name} keeps its data on its node; {by}. {approve}"),
            )
        }
    };
    refused(refusal, code, &text, guard, (request, admission))
}

/// Judges the deletion of a Node that has these claims.
pub(super) fn deletion(
    node: &Node,
    held: &ClaimsOnNode,
    request: &Request<'_>,
    admission: &Admission<'_>,
) -> Judgement {
    let claims = held.claims.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    let Some(guard) = Guard::of(claims, node, admission.now, admission.view) else {
        return Judgement::Allowed(BTreeMap::new(), Vec::new());
    };
    if !holds_up(request, admission) || request.is_by_one_of(&[KUBERNETES.to_owned()]) {
        return goes(&guard, &GuardVerdict::Allowed);
    }
    let verdict = guard::deletion(&guard, node);
    if verdict != GuardVerdict::Denied {
        return goes(&guard, &verdict);
    }
    let name = node.name();
    let by = by_whom(&guard, admission.details);
    let approve = approve_command(name, &guard, admission.now);
    let text = format!("node {name} is up, and claims have their volumes on it alone; {by}. {approve}");
    refused(Refusal::Forbidden, Code::EvictionDenied, &text, &guard, (request, admission))
}

fn refused(
    refusal: Refusal,
    code: Code,
    text: &str,
    guard: &Guard,
    (request, admission): (&Request<'_>, &Admission<'_>),
) -> Judgement {
    let mut audit = BTreeMap::from([("drain-policy", guard.chosen.policy.to_string())]);
    // Who tries latebind out in mode audit is not held up.
    if mode_of(admission.view, &request.namespace, admission.mode) == Mode::Audit {
        audit.insert("drain-refused", code.to_string());
        return Judgement::Allowed(audit, Vec::new());
    }
    let message = bounded(&format!("{code}: {text}"), DENIAL_CHARS);
    let decision = if refusal == Refusal::NotNow { Decision::Held } else { Decision::Denied };
    let denial = Some(Denial { message, refusal });
    Judgement::Refused(Box::new(Answer { code: Some(code), denial, audit, ..Answer::nothing(decision) }))
}

fn goes(guard: &Guard, verdict: &GuardVerdict) -> Judgement {
    if guard.is_silent() {
        return Judgement::Silent;
    }
    let (mut audit, mut texts) = (BTreeMap::new(), guard.chosen.unread.clone());
    if guard.chosen.by.is_some() {
        audit.insert("drain-policy", guard.chosen.policy.to_string());
    }
    match verdict {
        GuardVerdict::Approved(by) => {
            audit.insert("drain-approved-by", bounded(by, AUDIT_CHARS));
        }
        GuardVerdict::NotKnown => {
            audit.insert("drain-not-known", "true".to_owned());
            texts.push("its drain policy would hold it up, and what decides is not known: it goes".to_owned());
        }
        _ => {}
    }
    Judgement::Allowed(audit, texts)
}

/// Whose policy it is.
fn by_whom(guard: &Guard, details: bool) -> String {
    let policy = guard.chosen.policy;
    match &guard.chosen.by {
        Some(by) if details => format!("drain policy {policy} of {by}"),
        _ => format!("drain policy {policy}"),
    }
}

/// What to type to approve, and what was wrong with an approval that is there.
fn approve_command(node: &str, guard: &Guard, now: Timestamp) -> String {
    let until = now.checked_add(APPROVED_FOR).unwrap_or(now).strftime("%Y-%m-%dT%H:%M:%SZ");
    let why = match &guard.approval {
        Approval::Expired(_) => "The approval that is there holds no more. ",
        Approval::Unreadable => {
            "The approval that is there lacks who, or until when, or has a time that cannot be read. "
        }
        Approval::None | Approval::By(_) => "",
    };
    format!(
        "{why}To let it go, approve: kubectl annotate node {node} --overwrite {DRAIN_APPROVED_BY}=YOUR-NAME \
         {DRAIN_APPROVED_UNTIL}={until}"
    )
}
