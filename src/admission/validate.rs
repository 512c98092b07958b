//! The validating webhook: warnings about Pods, workloads and claims that would wait for ever, or their refusal.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::mutate::audit;
use super::patch::{bounded, warnings, workload_warnings};
use super::review::{Answer, Decision, Denial, Request, Reviewed};
use super::{AUDIT_CHARS, Admission, Matter, Pass, codes, created_pod, matter, said, set_namespace, unchanged};
use crate::binding::{
    Code, FieldPath, Finding, Lookup, PodVerdict, Severity, WorkloadVerdict, decide_pod, decide_workload,
};
use crate::model::{Claim, SELECTED_NODE, Workload, WorkloadError, WorkloadKind};
use crate::policy::Mode;

/// Longest message of a denial, in characters.
const DENIAL_CHARS: usize = 1024;

/// Answers a request of the validating webhook.
///
/// Mode `Deny` refuses what would wait for ever. An update is looked at only for what it makes worse, so that an object
/// that was there before can still be scaled, labelled and mended.
#[must_use]
pub fn validate(request: &Request<'_>, admission: &Admission<'_>) -> Answer {
    let answer = match matter(request) {
        Matter::Pod => created_pod(request, admission)
            .map(|pod| about_pod(&decide_pod(pod, admission.view, admission.rules), admission.mode)),
        Matter::Workload(kind) => {
            written(request, admission).and_then(|object| about_workload(kind, object, request, admission))
        }
        Matter::Claim => written(request, admission).and_then(|object| about_claim(object, request, admission)),
        Matter::Other => Err(Pass::Ignored),
    };
    answer.unwrap_or_else(Answer::from)
}

/// The object of a request that creates or updates it, unless there is nothing to decide.
fn written<'a>(request: &Request<'a>, admission: &Admission<'_>) -> Result<&'a RawValue, Pass> {
    if !matches!(&*request.operation, "CREATE" | "UPDATE") {
        return Err(Pass::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Pass::Exempt);
    }
    match request.object {
        Reviewed::Unread(object) => Ok(object),
        Reviewed::None | Reviewed::Pod(_) => Err(Pass::no_object()),
    }
}

fn about_pod(verdict: &PodVerdict, mode: Mode) -> Answer {
    let findings: Vec<&Finding> = verdict.findings.iter().collect();
    finish(&findings, verdict.is_stuck(), warnings(&unchanged(verdict)), audit(verdict, mode), mode)
}

fn about_workload(
    kind: WorkloadKind,
    object: &RawValue,
    request: &Request<'_>,
    admission: &Admission<'_>,
) -> Result<Answer, Pass> {
    let read = |object: &RawValue| -> Result<WorkloadVerdict, Pass> {
        let value: Value = serde_json::from_str(object.get())?;
        // The error's text may quote the object, its path does not.
        let mut workload = Workload::read(kind, &value).map_err(|WorkloadError::Field { path, .. }| {
            Pass::Unreadable(format!("a field of a wrong type in {path}"))
        })?;
        set_namespace(&mut workload.metadata.namespace, &request.namespace);
        Ok(decide_workload(&workload, admission.view, admission.rules))
    };
    let verdict = read(object)?;
    let mut findings: Vec<&Finding> = Vec::new();
    let mut texts = Vec::new();
    for (_, pod) in &verdict.pods {
        findings.extend(&pod.findings);
        texts.extend(match admission.mode {
            Mode::Rewrite => workload_warnings(pod),
            Mode::Audit | Mode::Warn | Mode::Deny => warnings(&unchanged(pod)),
        });
    }
    dedup(&mut findings);
    dedup(&mut texts);
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
    let before = request.old_object.and_then(|old| read(old).ok());
    if let Some(before) = before {
        let mut earlier = before.pods.iter().flat_map(|(_, pod)| &pod.findings).collect::<Vec<_>>();
        dedup(&mut earlier);
        if findings.iter().all(|finding| earlier.contains(finding)) {
            return Ok(Answer::nothing(Decision::Clean));
        }
    }
    let stuck = verdict.pods.iter().any(|(_, pod)| pod.is_stuck());
    let audit = verdict.pods.iter().map(|(_, pod)| audit(pod, admission.mode)).find(|audit| !audit.is_empty());
    let mut audit = audit.unwrap_or_default();
    if !audit.is_empty() {
        audit.insert("findings", bounded(&codes(findings.iter().copied()), AUDIT_CHARS));
    }
    Ok(finish(&findings, stuck, texts, audit, admission.mode))
}

fn about_claim(object: &RawValue, request: &Request<'_>, admission: &Admission<'_>) -> Result<Answer, Pass> {
    let claim: Claim = serde_json::from_str(object.get())?;
    let before = request.old_object.and_then(|old| serde_json::from_str::<Claim>(old.get()).ok());
    let was_selected = before.as_ref().is_some_and(|before| before.selected_node().is_some());
    let Some(finding) = poisoned(&claim, admission).filter(|_| !was_selected) else {
        return Ok(Answer::nothing(Decision::Clean));
    };
    let text = bounded(&format!("{}: {}", finding.code, finding.message), 256);
    let audit = BTreeMap::from([
        ("findings", finding.code.to_string()),
        ("mode", admission.mode.to_string()),
        ("remedy", format!("hopeless {}", finding.code)),
    ]);
    Ok(finish(&[&finding], true, vec![text], audit, admission.mode))
}

/// A claim with a selected node whose class has nobody to act on it: row 14 of the truth table.
fn poisoned(claim: &Claim, admission: &Admission<'_>) -> Option<Finding> {
    let selected = claim.selected_node()?;
    if claim.is_bound() || claim.volume_name().is_some() {
        return None;
    }
    let Lookup::Found(class) = admission.view.class(claim.class_name()?) else { return None };
    if class.is_dynamic() || !class.is_delayed() {
        return None;
    }
    let message = format!(
        "selected-node {selected:?} on claim {:?}: class {:?} has no provisioner, so it is never bound",
        claim.name(),
        class.name()
    );
    Some(Code::PoisonedClaim.at(FieldPath::new(&["metadata", "annotations", SELECTED_NODE]), message))
}

fn finish(
    findings: &[&Finding],
    stuck: bool,
    texts: Vec<String>,
    audit: BTreeMap<&'static str, String>,
    mode: Mode,
) -> Answer {
    let mut answer = Answer {
        decision: said(findings.iter().copied()),
        code: findings.first().map(|finding| finding.code),
        audit,
        ..Answer::default()
    };
    if mode != Mode::Audit {
        answer.warnings = texts;
    }
    if mode == Mode::Deny
        && stuck
        && let Some(worst) = findings.first().filter(|finding| finding.severity == Severity::Error)
    {
        let message = format!("{}: {}. {}", worst.code, worst.message, worst.code.next());
        answer.denial = Some(Denial { message: bounded(&message, DENIAL_CHARS) });
        answer.decision = Decision::Denied;
    }
    answer
}

fn dedup<T: PartialEq>(items: &mut Vec<T>) {
    let mut place = 0;
    while place < items.len() {
        if items[..place].contains(&items[place]) {
            items.remove(place);
        } else {
            place += 1;
        }
    }
}
