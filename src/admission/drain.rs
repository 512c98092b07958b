//! Warnings about what stays behind: on a node that is cordoned, declared out of service or deleted, when a Pod is evicted, and
//! when a claim is deleted.
//!
//! They are answered from what is known. Only a drain policy refuses ([`super::guard`]). Where volumes or Nodes are not known,
//! nothing is said.

use std::collections::BTreeMap;

use super::guard::{self, HeldPod, Judgement};
use super::patch::{LONGEST_WARNING_CHARS, WARNING_CHARS, bounded};
use super::review::{Answer, Decision, Request};
use super::subject::{AUDIT_CHARS, Admission, Skip, mode_of};
use crate::binding::{Code, Lookup, first_of};
use crate::drain::{ClaimsOnNode, claims_on};
use crate::model::{Claim, Node, OUT_OF_SERVICE, Text};
use crate::policy::Mode;

/// Claims that a warning names.
const MOST_NAMES: usize = 3;
/// The code of what stays behind on a node, and a colon, come before the text.
const TEXT_CHARS: usize = WARNING_CHARS - "LB401: ".len();

/// What a request does to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Cordon,
    OutOfService,
    Delete,
}

impl Step {
    /// What the request does that leaves claims behind; nothing for any other change.
    fn of(request: &Request<'_>) -> Result<Option<Self>, Skip> {
        match &*request.operation {
            "DELETE" => Ok(Some(Self::Delete)),
            "UPDATE" => {
                let (Some(after), Some(before)) = (request.object.unread(), request.old_object) else {
                    return Err(Skip::no_object());
                };
                let (after, before): (Node, Node) =
                    (serde_json::from_str(after.get())?, serde_json::from_str(before.get())?);
                let is_out = |node: &Node| node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
                Ok(match () {
                    () if is_out(&after) && !is_out(&before) => Some(Self::OutOfService),
                    () if after.spec.unschedulable && !before.spec.unschedulable => Some(Self::Cordon),
                    () => None,
                })
            }
            _ => Ok(None),
        }
    }

    /// What comes of it, and what to type.
    fn advice(self, node: &str, (namespace, claim): (&str, &str), details: bool) -> String {
        match self {
            Self::Cordon => format!("what replaces their Pods waits for this node. Next: latebind plan drain {node}"),
            Self::OutOfService => {
                format!("the taint frees Pods, not claims: new Pods stay Pending. Next: latebind diagnose node/{node}")
            }
            Self::Delete if details => {
                format!("without it their Pods stay Pending. Next: latebind diagnose pvc/{claim} -n {namespace}")
            }
            Self::Delete => "without it their Pods stay Pending. Next: latebind audit -A".to_owned(),
        }
    }
}

/// A node is cordoned, declared out of service, or deleted.
pub(super) fn about_node(request: &Request<'_>, admission: &Admission<'_>) -> Result<Answer, Skip> {
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    let Some(step) = Step::of(request)? else { return Err(Skip::Ignored) };
    let name = &*request.name;
    // What is not known is not called clean.
    let Lookup::Found(node) = admission.view.node(name) else { return Err(Skip::Ignored) };
    let held = claims_on(&node, admission.view).ok_or(Skip::Ignored)?;
    let Some((namespace, claim)) = held.claims.first() else { return Ok(Answer::nothing(Decision::Clean)) };
    let (mut audit, remarks) = match step {
        Step::Delete => match guard::deletion(&node, &held, request, admission) {
            Judgement::Refused(answer) => return Ok(*answer),
            Judgement::Silent => return Ok(Answer::nothing(Decision::Clean)),
            Judgement::Allowed(audit, remarks) => (audit, remarks),
        },
        Step::Cordon | Step::OutOfService => (BTreeMap::new(), Vec::new()),
    };
    let what = if admission.details {
        told(&held, name)
    } else {
        "there are claims whose volumes are on this node alone".to_owned()
    };
    let advice = step.advice(name, (namespace, claim), admission.details);
    let names = if admission.details { named(&held, MOST_NAMES) } else { held.claims.len().to_string() };
    audit.insert("claims-on-node", names);
    let texts = [what, advice].into_iter().chain(remarks).collect();
    Ok(warned(texts, audit, admission.mode, Some(Code::LeftPendingByDrain)))
}

/// A Pod is evicted.
pub(super) fn about_eviction(request: &Request<'_>, admission: &Admission<'_>) -> Result<Answer, Skip> {
    if &*request.operation != "CREATE" {
        return Err(Skip::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    let (namespace, name) = (&*request.namespace, &*request.name);
    let evicted = match HeldPod::of(request, admission) {
        Lookup::Found(evicted) => evicted,
        Lookup::Absent => return Ok(Answer::nothing(Decision::Clean)),
        Lookup::Unknown => return Err(Skip::Ignored),
    };
    let (mut audit, remarks) = match guard::eviction(&evicted, request, admission) {
        Judgement::Refused(answer) => return Ok(*answer),
        Judgement::Silent => return Ok(Answer::nothing(Decision::Clean)),
        Judgement::Allowed(audit, remarks) => (audit, remarks),
    };
    let HeldPod { pod, node, held, .. } = evicted;
    // In place of others nothing is made.
    if pod.metadata.controller().is_none() {
        let decision = if remarks.is_empty() { Decision::Clean } else { Decision::Warned };
        let mode = mode_of(admission.view, namespace, admission.mode);
        return Ok(Answer { decision, ..warned(remarks, audit, mode, None) });
    }
    let Some((claim, _)) = held.first() else { return Ok(Answer::nothing(Decision::Clean)) };
    let claims = if admission.details { format!("{namespace}/{claim}") } else { held.len().to_string() };
    audit.insert("claims-on-node", bounded(&claims, AUDIT_CHARS));
    let node_name = if admission.details { node.name() } else { "its node" };
    let until = match (node.spec.unschedulable, admission.details) {
        (true, true) => format!("stays Pending until: kubectl uncordon {node_name}"),
        (true, false) => "stays Pending until its node takes Pods again".to_owned(),
        (false, _) => format!("can start on {node_name} alone"),
    };
    let what = format!("what replaces pod {name} {until}");
    let why = format!("{what} (there is the volume of claim {claim})");
    let text = if admission.details && why.chars().count() <= TEXT_CHARS { why } else { what };
    let mode = mode_of(admission.view, namespace, admission.mode);
    let texts = std::iter::once(text).chain(remarks).collect();
    Ok(warned(texts, audit, mode, Some(Code::LeftPendingByDrain)))
}

/// A claim is deleted, whose volume is a path of a node. What else is deleted with its claim, people know of.
pub(super) fn about_deleted_claim(request: &Request<'_>, admission: &Admission<'_>) -> Result<Answer, Skip> {
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    let clean = || Ok(Answer::nothing(Decision::Clean));
    let claim: Claim = match request.old_object {
        Some(object) => serde_json::from_str(object.get())?,
        None => return Err(Skip::no_object()),
    };
    let Some(name) = claim.volume_name() else { return clean() };
    let Lookup::Found(volume) = admission.view.volume(name) else { return clean() };
    // Whoever knows the claim's UID may read the claim, and is told all.
    let is_of_claim = volume.claim_uid().is_some() && volume.is_claimed_by(&claim);
    let Some(path) = volume.path().filter(|_| is_of_claim && volume.loses_data_on_release()) else { return clean() };
    let mode = mode_of(admission.view, &request.namespace, admission.mode);
    let audit = BTreeMap::from([("deletes-data-of", bounded(name, AUDIT_CHARS))]);
    let what =
        format!("data in {path} is deleted with claim {}. While a Pod uses it, this keeps the data:", claim.name());
    let keep = format!(r#"kubectl patch pv {name} -p '{{"spec":{{"persistentVolumeReclaimPolicy":"Retain"}}}}'"#);
    Ok(warned(vec![what, keep], audit, mode, None))
}

/// The names of the first claims, and how many more there are.
fn named(held: &ClaimsOnNode, most: usize) -> String {
    let one = |(namespace, name): &(Text, Text)| format!("{namespace}/{name}");
    bounded(&first_of(&held.claims.iter().map(one).collect::<Vec<_>>(), most), AUDIT_CHARS)
}

/// Which claims are on the node alone, with as many names as there is room for.
fn told(held: &ClaimsOnNode, node: &str) -> String {
    let count = held.claims.len();
    let least = if held.are_all { "" } else { "at least " };
    let counted = match count {
        1 => format!("{least}1 claim has its volume on {node} alone"),
        _ => format!("{least}{count} claims have their volumes on {node} alone"),
    };
    let with_names = (1..=MOST_NAMES).rev().map(|most| format!("{counted}: {}", named(held, most)));
    with_names.into_iter().find(|text| text.chars().count() <= TEXT_CHARS).unwrap_or(counted)
}

fn warned(texts: Vec<String>, audit: BTreeMap<&'static str, String>, mode: Mode, code: Option<Code>) -> Answer {
    let prefix = code.map(|code| format!("{code}: ")).unwrap_or_default();
    let mut texts = texts.into_iter();
    let first = texts.next().map(|text| format!("{prefix}{text}"));
    let warnings = first.into_iter().chain(texts).map(|text| bounded(&text, LONGEST_WARNING_CHARS));
    let warnings = if mode == Mode::Audit { Vec::new() } else { warnings.collect() };
    Answer { code, warnings, audit, ..Answer::nothing(Decision::Warned) }
}
