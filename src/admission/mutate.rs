//! The mutating webhook: a Pod that would wait forever is rewritten, or its claim templates get their node. A claim
//! whose volume is latebind's to make is told so, which spares the controller manager a write.

use std::collections::BTreeMap;

use super::patch::{annotate, bounded, operations, warnings};
use super::review::{Answer, Decision, PolicyOutcome, Request};
use super::subject::{
    AUDIT_CHARS, Admission, Skip, Subject, audit_of_policies, codes, created_pod, left_by_policy, said, spoken,
    subject, unchanged,
};
use crate::binding::{Lookup, Pin, PodVerdict, Remedy};
use crate::model::{CLAIM_PROVISIONER, Claim, Pod};
use crate::policy::{self, Mode, judge};

/// Answers a request of the mutating webhook. Only what is created is ever changed: Pods in mode `Rewrite` alone, claims
/// in every mode, since the chart calls for claims only where the administrator asks for it.
#[must_use]
pub fn mutate(request: &Request<'_>, admission: &Admission<'_>) -> Answer {
    let answered = match subject(request) {
        Subject::Pod => created_pod(request, admission).map(|pod| {
            let decision = admission.decide(pod, request.requester().as_ref());
            let verdict = judge(pod, admission.view, admission.rules, &decision);
            answer(pod, &spoken(verdict, admission), &decision)
        }),
        Subject::Claim => created_claim(request, admission).map(|claim| announce(&claim, admission)),
        Subject::Workload(_) | Subject::Node | Subject::Eviction | Subject::Other => Err(Skip::Ignored),
    };
    answered.unwrap_or_else(Answer::from)
}

fn created_claim(request: &Request<'_>, admission: &Admission<'_>) -> Result<Claim, Skip> {
    if &*request.operation != "CREATE" {
        return Err(Skip::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    let object = request.object.unread().ok_or_else(Skip::no_object)?;
    Ok(serde_json::from_str(object.get())?)
}

/// Tells a new claim who makes its volume, if that is certain: its class is known, and its provisioner ours.
///
/// A claim without a class is left alone. The API server gives it the default class before it calls webhooks, so there
/// was none. What a claim says already, whatever it is, stays.
fn announce(claim: &Claim, admission: &Admission<'_>) -> Answer {
    let class = claim.class_name().filter(|name| !name.is_empty() && claim.volume_name().is_none());
    let Some(Lookup::Found(class)) = class.map(|name| admission.view.class(name)) else {
        return Answer::nothing(Decision::Clean);
    };
    if !admission.provisioners.iter().any(|ours| class.provisioner == *ours) {
        return Answer::nothing(Decision::Clean);
    }
    let patch = annotate(claim, &CLAIM_PROVISIONER, &class.provisioner);
    if patch.is_empty() {
        return Answer::nothing(Decision::Clean);
    }
    let audit = BTreeMap::from([("provisioner", bounded(&class.provisioner, AUDIT_CHARS))]);
    Answer { patch, audit, ..Answer::nothing(Decision::Announced) }
}

fn answer(pod: &Pod, verdict: &PodVerdict, decision: &policy::Decision) -> Answer {
    let Some(mode) = decision.mode else { return left_by_policy(decision) };
    let mut answer = Answer {
        decision: said(verdict.findings.iter()),
        code: verdict.findings.first().map(|finding| finding.code),
        audit: audit(verdict, mode, decision),
        policy: PolicyOutcome::of(decision),
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
pub(super) fn audit(verdict: &PodVerdict, mode: Mode, decision: &policy::Decision) -> BTreeMap<&'static str, String> {
    let mut audit = audit_of_policies(decision);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::{Exemptions, Hook, respond};
    use crate::binding::Rules;
    use crate::facts::{Fact, Facts, Unlisted};
    use crate::model::{BETA_CLASS, PROVISIONER};

    const GA: &str = CLAIM_PROVISIONER[0];
    const BETA: &str = CLAIM_PROVISIONER[1];

    /// The object after the answer to a review that is changed from the creation of a claim of class `ours`.
    fn answered(mode: Mode, change: &Value) -> (Value, Decision) {
        let mut facts = Facts::new(Unlisted::Unknown);
        for (name, provisioner) in [("ours", "local.latebind.dev"), ("theirs", "example.org/disk")] {
            let class = json!({ "metadata": { "name": name }, "provisioner": provisioner });
            facts.add(Fact::read("storage.k8s.io", "StorageClass", &class).unwrap().unwrap());
        }
        let mut review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "1", "kind": { "group": "", "version": "v1", "kind": "PersistentVolumeClaim" },
            "namespace": "ns", "operation": "CREATE",
            "object": { "metadata": { "name": "c" }, "spec": { "storageClassName": "ours" } },
        } });
        for (pointer, value) in change.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            review["request"].pointer_mut(parent).unwrap()[key] = value.clone();
        }
        let (rules, exemptions) = (Rules::default(), Exemptions::default());
        let provisioners = [PROVISIONER.to_owned()];
        let admission = Admission {
            view: &facts,
            rules: &rules,
            provisioners: &provisioners,
            mode,
            exemptions: &exemptions,
            details: true,
            guard: None,
            now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        };
        let reply = respond(Hook::Mutate, review.to_string().as_bytes(), &admission).unwrap();
        let mut object = review["request"]["object"].clone();
        json_patch::patch(&mut object, &reply.answer.patch).unwrap();
        (object["metadata"]["annotations"].clone(), reply.answer.decision)
    }

    #[test]
    fn a_new_claim_of_our_class_is_told_who_makes_its_volume() {
        let both = json!({ GA: "local.latebind.dev", BETA: "local.latebind.dev" });
        for mode in [Mode::Rewrite, Mode::Audit, Mode::Deny] {
            assert_eq!(answered(mode, &json!({})), (both.clone(), Decision::Announced));
        }
        let (annotations, _) = answered(Mode::Rewrite, &json!({ "/object/metadata/annotations": null }));
        assert_eq!(annotations, both);
        let more = json!({ "/object/metadata/annotations": { "a": "b", BETA: "other" } });
        let (annotations, decision) = answered(Mode::Rewrite, &more);
        assert_eq!(annotations, json!({ "a": "b", GA: "local.latebind.dev", BETA: "other" }), "what is there stays");
        assert_eq!(decision, Decision::Announced);
        let old = json!({ "/object/spec": {}, "/object/metadata/annotations": { BETA_CLASS: "ours" } });
        assert_eq!(answered(Mode::Rewrite, &old).0[GA], "local.latebind.dev");
    }

    #[test]
    fn every_other_claim_is_left_as_it_is() {
        for (change, expected) in [
            (json!({ "/object/spec/storageClassName": "theirs" }), Decision::Clean),
            (json!({ "/object/spec/storageClassName": "unknown" }), Decision::Clean),
            (json!({ "/object/spec/storageClassName": "" }), Decision::Clean),
            (json!({ "/object/spec/storageClassName": null }), Decision::Clean),
            (json!({ "/object/spec/volumeName": "by-hand" }), Decision::Clean),
            (json!({ "/object/metadata/annotations": { BETA_CLASS: "theirs" } }), Decision::Clean),
            (json!({ "/object/metadata/annotations": { GA: "x", BETA: "x" } }), Decision::Clean),
            (json!({ "/operation": "UPDATE" }), Decision::Ignored),
            (json!({ "/subResource": "status" }), Decision::Ignored),
            (json!({ "/namespace": "kube-system" }), Decision::Exempt),
            (json!({ "/object/spec": 1 }), Decision::Unreadable),
            (json!({ "/object": null }), Decision::Unreadable),
        ] {
            let (annotations, decision) = answered(Mode::Rewrite, &change);
            assert_eq!(decision, expected, "{change}");
            let before = change.get("/object/metadata/annotations").cloned().unwrap_or(Value::Null);
            assert_eq!(annotations, before, "{change}");
        }
    }
}
