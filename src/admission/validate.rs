//! The validating webhook: warnings about Pods, workloads and claims that would wait forever, or their refusal; and warnings
//! about what a drain or the loss of a node leaves behind.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

use serde_json::value::RawValue;

use super::drain;
use super::mutate::audit;
use super::patch::{DENIAL_CHARS, MOST_WARNINGS, bounded, warnings, workload_warnings};
use super::review::{Answer, Decision, Denial, PolicyOutcome, Refusal, Request, set_namespace};
use super::subject::{
    AUDIT_CHARS, Admission, Skip, Subject, codes, created_pod, left_by_policy, mode_of, said, shorten, spoken, subject,
    unchanged,
};
use crate::binding::{Code, Finding, PodVerdict, Severity, WorkloadVerdict, decide_workload, poisoned_claim};
use crate::model::{Claim, Workload, WorkloadKind};
use crate::policy::{self, Mode, judge};

/// Answers a request of the validating webhook.
///
/// Mode `Deny` refuses what would wait forever. An update is looked at only for what it makes worse, so that an object
/// that was there before can still be scaled, labelled and fixed.
#[must_use]
pub fn validate(request: &Request<'_>, admission: &Admission<'_>) -> Answer {
    let answer = match subject(request) {
        Subject::Pod => created_pod(request, admission).map(|pod| {
            let decision = admission.decide(pod, request.requester().as_ref());
            let verdict = judge(pod, admission.view, admission.rules, &decision);
            about_pod(&spoken(verdict, admission), &decision)
        }),
        Subject::Workload(kind) => {
            written(request, admission).and_then(|object| about_workload(kind, object, request, admission))
        }
        Subject::Claim if &*request.operation == "DELETE" => drain::about_deleted_claim(request, admission),
        Subject::Node => drain::about_node(request, admission),
        Subject::Eviction => drain::about_eviction(request, admission),
        Subject::Claim => written(request, admission).and_then(|object| about_claim(object, request, admission)),
        Subject::Other => Err(Skip::Ignored),
    };
    answer.unwrap_or_else(Answer::from)
}

/// The object of a request that creates or updates it, unless there is nothing to decide.
fn written<'a>(request: &Request<'a>, admission: &Admission<'_>) -> Result<&'a RawValue, Skip> {
    if !matches!(&*request.operation, "CREATE" | "UPDATE") {
        return Err(Skip::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    request.object.unread().ok_or_else(Skip::no_object)
}

fn about_pod(verdict: &PodVerdict, decision: &policy::Decision) -> Answer {
    let Some(mode) = decision.mode else { return left_by_policy(decision) };
    let findings: Vec<&Finding> = verdict.findings.iter().collect();
    let audit = audit(verdict, mode, decision);
    finish(&findings, verdict.is_stuck(), warnings(&unchanged(verdict)), audit, (mode, decision))
}

fn about_workload(
    kind: WorkloadKind,
    object: &RawValue,
    request: &Request<'_>,
    admission: &Admission<'_>,
) -> Result<Answer, Skip> {
    let read = |object: &RawValue| -> Result<(WorkloadVerdict, policy::Decision), Skip> {
        let mut workload = Workload::parse(kind, object.get())?;
        set_namespace(&mut workload.metadata.namespace, &request.namespace);
        // Its Pods will be created by its controller, under a name that depends on the cluster.
        let decision = workload.pod().map(|pod| admission.decide(&pod, None)).unwrap_or_default();
        let WorkloadVerdict { pods } = decide_workload(&workload, admission.view, &decision.rules(admission.rules));
        let pods = pods.into_iter().map(|(pod, verdict)| {
            let verdict = decision.apply(verdict, &pod, kind.template_path());
            (pod, spoken(verdict, admission))
        });
        Ok((WorkloadVerdict { pods: pods.collect() }, decision))
    };
    let (verdict, decision) = read(object)?;
    let Some(mode) = decision.mode else { return Ok(left_by_policy(&decision)) };
    let mut findings: Vec<&Finding> = Vec::new();
    let mut texts = Vec::new();
    for (_, pod) in &verdict.pods {
        findings.extend(&pod.findings);
        texts.extend(match mode {
            Mode::Rewrite => workload_warnings(pod),
            Mode::Audit | Mode::Warn | Mode::Deny => warnings(&unchanged(pod)),
        });
    }
    dedup(&mut findings);
    dedup(&mut texts);
    // One a replica would be too many.
    texts.truncate(MOST_WARNINGS);
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    // What has no finding makes nothing worse, whatever there was before.
    let before = request.old_object.filter(|_| !findings.is_empty()).and_then(|old| read(old).ok());
    if let Some((before, _)) = before {
        let earlier: HashSet<&Finding> = before.pods.iter().flat_map(|(_, pod)| &pod.findings).collect();
        if findings.iter().all(|finding| earlier.contains(finding)) {
            return Ok(Answer::nothing(Decision::Clean));
        }
    }
    let stuck = verdict.pods.iter().any(|(_, pod)| pod.is_stuck());
    let audit = verdict.pods.iter().map(|(_, pod)| audit(pod, mode, &decision)).find(|audit| !audit.is_empty());
    let mut audit = audit.unwrap_or_default();
    if !findings.is_empty() {
        audit.insert("findings", bounded(&codes(findings.iter().copied()), AUDIT_CHARS));
    }
    Ok(finish(&findings, stuck, texts, audit, (mode, &decision)))
}

fn about_claim(object: &RawValue, request: &Request<'_>, admission: &Admission<'_>) -> Result<Answer, Skip> {
    let claim: Claim = serde_json::from_str(object.get())?;
    let before = request.old_object.and_then(|old| serde_json::from_str::<Claim>(old.get()).ok());
    let was_selected = before.as_ref().is_some_and(|before| before.selected_node().is_some());
    let Some(mut finding) = poisoned_claim(&claim, admission.view).filter(|_| !was_selected) else {
        return Ok(Answer::nothing(Decision::Clean));
    };
    if !admission.details {
        shorten(&mut finding);
    }
    let text = bounded(&format!("{}: {}", finding.code, finding.message), 256);
    // A claim pins no Pod, so that no policy is about it.
    let mode = mode_of(admission.view, &request.namespace, admission.mode);
    let audit = BTreeMap::from([
        ("findings", finding.code.to_string()),
        ("mode", mode.to_string()),
        ("remedy", format!("hopeless {}", finding.code)),
    ]);
    Ok(finish(&[&finding], true, vec![text], audit, (mode, &policy::Decision::default())))
}

fn finish(
    findings: &[&Finding],
    stuck: bool,
    texts: Vec<String>,
    audit: BTreeMap<&'static str, String>,
    (mode, decision): (Mode, &policy::Decision),
) -> Answer {
    let mut answer = Answer {
        decision: said(findings.iter().copied()),
        code: findings.first().map(|finding| finding.code),
        audit,
        policy: PolicyOutcome::of(decision),
        ..Answer::default()
    };
    if mode != Mode::Audit {
        answer.warnings = texts;
    }
    let errors = || findings.iter().filter(|finding| finding.severity == Severity::Error);
    // What waits forever is refused for that, anything else for the node alone.
    let worst = errors().find(|finding| stuck || finding.code == Code::NodeNotAllowed);
    if mode == Mode::Deny
        && let Some(worst) = worst
    {
        let by = decision.policy().map(|policy| format!(" (PinPolicy {policy:?})")).unwrap_or_default();
        let message = format!("{}: {}{by}. {}", worst.code, worst.message, worst.code.next());
        answer.denial = Some(Denial { message: bounded(&message, DENIAL_CHARS), refusal: Refusal::Forbidden });
        answer.decision = Decision::Denied;
    }
    answer
}

/// Leaves the first of equal items.
fn dedup<T: Clone + Eq + Hash>(items: &mut Vec<T>) {
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(item.clone()));
}
