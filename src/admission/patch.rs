//! From a verdict to what the API server is told: a JSON Patch and warnings.

use std::collections::HashSet;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Value, json};

use crate::binding::{Code, Finding, Pin, PodVerdict, Remedy, Severity};
use crate::model::selector::is_empty_term;
use crate::model::{Claim, HOSTNAME_LABEL, ORIGINAL_NODE_NAME, Pod, SELECTED_NODE};

/// Longest warning that the API documentation calls safe, in characters.
pub(super) const WARNING_CHARS: usize = 120;
/// What the API server cuts a warning to when all of them together are too long.
pub(super) const LONGEST_WARNING_CHARS: usize = 256;
/// Longest message of a denial, in characters.
pub(super) const DENIAL_CHARS: usize = 1024;
/// Keeps all warnings of a review beneath the API server's total of 4096 characters.
pub(super) const MOST_WARNINGS: usize = 12;

/// The operations that carry out a remedy on the Pod that it was decided for; none when admission has nothing to do.
///
/// Every operation applies for certain. One that did not would make the API server reject the Pod, whatever
/// `failurePolicy` says (`apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go`): nothing is removed that is
/// not there, nothing is added beneath a parent that is not there, nothing is tested.
#[must_use]
pub fn operations(pod: &Pod, remedy: &Remedy) -> Patch {
    let mut operations = Vec::new();
    match (remedy, pod.pinned_node()) {
        (Remedy::Rewrite { pin }, Some(node_name)) => {
            operations.push(remove(&["spec", "nodeName"]));
            match pin {
                Pin::Hostname(value) => select_hostname(pod, value, &mut operations),
                Pin::Name(name) => require_name(pod, name, &mut operations),
            }
            remember(pod, node_name, &mut operations);
        }
        (Remedy::SelectInTemplate { volumes }, Some(node_name)) => {
            let named: HashSet<&str> = volumes.iter().map(String::as_str).collect();
            for (index, volume) in pod.spec.volumes.iter().enumerate() {
                if named.contains(volume.name.as_str()) {
                    operations.extend(select_in_template(pod, index, node_name));
                }
            }
        }
        _ => {}
    }
    Patch(operations)
}

fn pointer(path: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().copied())
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: pointer(path), value })
}

fn remove(path: &[&str]) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: pointer(path) })
}

fn select_hostname(pod: &Pod, value: &str, operations: &mut Vec<PatchOperation>) {
    match &pod.spec.node_selector {
        None => operations.push(add(&["spec", "nodeSelector"], json!({ HOSTNAME_LABEL: value }))),
        Some(selector) if selector.contains_key(HOSTNAME_LABEL) => {}
        Some(_) => operations.push(add(&["spec", "nodeSelector", HOSTNAME_LABEL], json!(value))),
    }
}

/// Terms are alternatives, so the requirement goes into each of them. An empty term matches nothing and would begin to
/// match if it got one.
fn require_name(pod: &Pod, name: &str, operations: &mut Vec<PatchOperation>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let requirement = json!({"key": "metadata.name", "operator": "In", "values": [name]});
    let terms = json!({"nodeSelectorTerms": [{"matchFields": [requirement]}]});
    let Some(affinity) = &pod.spec.affinity else {
        operations.push(add(&["spec", "affinity"], json!({"nodeAffinity": {REQUIRED: terms}})));
        return;
    };
    let Some(node_affinity) = &affinity.node_affinity else {
        operations.push(add(&["spec", "affinity", "nodeAffinity"], json!({REQUIRED: terms})));
        return;
    };
    let Some(required) = &node_affinity.required else {
        operations.push(add(&["spec", "affinity", "nodeAffinity", REQUIRED], terms));
        return;
    };
    for (place, term) in required.node_selector_terms.iter().enumerate().filter(|(_, term)| !is_empty_term(term)) {
        let place = place.to_string();
        let at = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms", &place, "matchFields"];
        match &term.match_fields {
            None => operations.push(add(&at, json!([requirement]))),
            Some(fields) => {
                let already = fields.iter().any(|field| {
                    field.key == "metadata.name"
                        && field.operator == "In"
                        && field.values.as_deref() == Some(std::slice::from_ref(&name.to_owned()))
                });
                if !already {
                    operations.push(add(&[&at[..], &["-"]].concat(), requirement.clone()));
                }
            }
        }
    }
}

/// Keeps the name in an annotation. A value that the user brought is overwritten: it would be a false record.
fn remember(pod: &Pod, node_name: &str, operations: &mut Vec<PatchOperation>) {
    operations.push(match &pod.metadata.annotations {
        None => add(&["metadata", "annotations"], json!({ ORIGINAL_NODE_NAME: node_name })),
        Some(_) => add(&["metadata", "annotations", ORIGINAL_NODE_NAME], json!(node_name)),
    });
}

/// Gives a claim annotations of one value. Those that it has already stay as they are.
#[must_use]
pub(super) fn annotate(claim: &Claim, keys: &[&str], value: &str) -> Patch {
    Patch(match &claim.metadata.annotations {
        None => {
            let all: serde_json::Map<String, Value> =
                keys.iter().map(|key| ((*key).to_owned(), json!(value))).collect();
            vec![add(&["metadata", "annotations"], Value::Object(all))]
        }
        Some(known) => {
            let missing = keys.iter().filter(|key| !known.contains_key(key));
            missing.map(|key| add(&["metadata", "annotations", key], json!(value))).collect()
        }
    })
}

fn select_in_template(pod: &Pod, index: usize, node_name: &str) -> Option<PatchOperation> {
    let template = pod.spec.volumes[index].ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let index = index.to_string();
    let at = ["spec", "volumes", &index, "ephemeral", "volumeClaimTemplate", "metadata"];
    let annotations = json!({ SELECTED_NODE: node_name });
    Some(match template.metadata.as_ref().map(|metadata| &metadata.annotations) {
        None => add(&at, json!({ "annotations": annotations })),
        Some(None) => add(&[&at[..], &["annotations"]].concat(), annotations),
        Some(Some(_)) => add(&[&at[..], &["annotations", SELECTED_NODE]].concat(), json!(node_name)),
    })
}

/// What the person at kubectl reads: one warning a finding that matters, the deadlock first, with what was done about it.
#[must_use]
pub fn warnings(verdict: &PodVerdict) -> Vec<String> {
    warnings_that_say(verdict, |remedy| match remedy {
        Remedy::Rewrite { pin: Pin::Hostname(_) } => "rewritten to a nodeSelector",
        Remedy::Rewrite { pin: Pin::Name(_) } => "rewritten to node affinity",
        Remedy::SelectInTemplate { .. } => "its volume is ordered for that node",
        Remedy::Rescue => "left to latebind's rescue loop",
        Remedy::Leave | Remedy::Hopeless { .. } => "left as it is",
    })
}

/// The same for a workload whose Pods are changed, not it.
#[must_use]
pub fn workload_warnings(verdict: &PodVerdict) -> Vec<String> {
    warnings_that_say(verdict, |remedy| match remedy {
        Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. } => "fixed when its Pod is created",
        Remedy::Rescue => "left to latebind's rescue loop",
        Remedy::Leave | Remedy::Hopeless { .. } => "left as it is",
    })
}

fn warnings_that_say(verdict: &PodVerdict, done: fn(&Remedy) -> &'static str) -> Vec<String> {
    let shown = verdict.findings.iter().filter(|finding| finding.severity > Severity::Info);
    shown.take(MOST_WARNINGS).map(|finding| warning(finding, verdict, done(&verdict.remedy))).collect()
}

fn warning(finding: &Finding, verdict: &PodVerdict, done: &str) -> String {
    if finding.code == Code::ResourceClaims {
        return bounded(&format!("{}: {}: {done}", finding.code, finding.message), LONGEST_WARNING_CHARS);
    }
    if finding.code != Code::PinnedToDelayedClaim {
        return bounded(&format!("{}: {}", finding.code, finding.message), LONGEST_WARNING_CHARS);
    }
    // A Pod may be stuck for other reasons too, such as a claim that is bound elsewhere.
    let waits = verdict.volumes.iter().find(|volume| volume.waits_for_scheduler());
    let claim = waits.and_then(|volume| volume.claim.as_deref());
    let bound =
        if waits.is_some_and(|volume| volume.undecided) { "binds where another Pod runs" } else { "would never bind" };
    let named = claim.map(|claim| format!("LB001: nodeName bypasses the scheduler; claim {claim:?} {bound}: {done}"));
    match named {
        Some(warning) if warning.chars().count() <= WARNING_CHARS => warning,
        _ => format!("LB001: nodeName bypasses the scheduler; a claim would never bind: {done}"),
    }
}

/// Cut to a length, without the control characters for which the API server would drop the warning.
pub(super) fn bounded(text: &str, most_chars: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '?' } else { c });
    let mut cut: String = clean.clone().take(most_chars).collect();
    if clean.count() > most_chars {
        cut.pop();
        cut.push('…');
    }
    cut
}
