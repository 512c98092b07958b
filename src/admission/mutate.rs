//! The mutating webhook: a Pod that would wait for ever is rewritten, or its claim templates get their node.

use std::collections::BTreeMap;

use super::patch::{bounded, operations, warnings};
use super::review::{Answer, Decision, Request};
use super::{AUDIT_CHARS, Admission, Matter, codes, created_pod, matter, said, unchanged};
use crate::binding::{Pin, PodVerdict, Remedy, decide_pod};
use crate::model::Pod;
use crate::policy::Mode;

/// Answers a request of the mutating webhook. Only Pods that are created are ever changed, in mode `Rewrite` alone.
#[must_use]
pub fn mutate(request: &Request<'_>, admission: &Admission<'_>) -> Answer {
    if !matches!(matter(request), Matter::Pod) {
        return Answer::nothing(Decision::Ignored);
    }
    match created_pod(request, admission) {
        Ok(pod) => answer(pod, &decide_pod(pod, admission.view, admission.rules), admission.mode),
        Err(pass) => pass.into(),
    }
}

fn answer(pod: &Pod, verdict: &PodVerdict, mode: Mode) -> Answer {
    let mut answer = Answer {
        decision: said(verdict.findings.iter()),
        code: verdict.findings.first().map(|finding| finding.code),
        audit: audit(verdict, mode),
        ..Answer::default()
    };
    match mode {
        Mode::Audit => {}
        // What mode `Deny` refuses, it refuses in the validating webhook, when every other hook has had its say.
        Mode::Warn | Mode::Deny => answer.warnings = warnings(&unchanged(verdict)),
        Mode::Rewrite => {
            answer.patch = operations(pod, &verdict.remedy);
            answer.warnings = warnings(verdict);
            answer.decision = match &verdict.remedy {
                _ if answer.patch.is_empty() => answer.decision,
                Remedy::SelectInTemplate { .. } => Decision::Selected,
                _ => Decision::Rewritten,
            };
        }
    }
    if answer.decision == Decision::Rewritten
        && let Some(node) = &verdict.node
    {
        // The Pod's annotation of this name is the user's to change later; this record is not.
        answer.audit.insert("original-node-name", bounded(node, AUDIT_CHARS));
    }
    answer
}

/// What the audit log keeps about a Pod that names its node.
pub(super) fn audit(verdict: &PodVerdict, mode: Mode) -> BTreeMap<&'static str, String> {
    let mut audit = BTreeMap::new();
    if verdict.findings.is_empty() {
        return audit;
    }
    let remedy = match &verdict.remedy {
        Remedy::Leave => "leave".to_owned(),
        Remedy::Rewrite { pin: Pin::Hostname(value) } => format!("rewrite hostname={value}"),
        Remedy::Rewrite { pin: Pin::Name(name) } => format!("rewrite name={name}"),
        Remedy::SelectInTemplate { volumes } => format!("select-in-template {}", volumes.join(",")),
        Remedy::Rescue => "rescue".to_owned(),
        Remedy::Hopeless { reason } => format!("hopeless {reason}"),
    };
    audit.insert("remedy", bounded(&remedy, AUDIT_CHARS));
    audit.insert("findings", bounded(&codes(verdict.findings.iter()), AUDIT_CHARS));
    audit.insert("mode", mode.to_string());
    audit
}
