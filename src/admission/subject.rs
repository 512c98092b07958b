//! What a review is about, as far as it is looked at, and in which words it is answered.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::patch::bounded;
use super::review::{Answer, Decision, PolicyOutcome, Request, Reviewed, place_of};
use crate::binding::{ClusterView, Code, Finding, Lookup, PodVerdict, Remedy, Rules, Severity};
use crate::model::{Pod, WorkloadKind};
use crate::policy::{self, Exemptions, Mode, PinRequest, Requester, evaluate, mode_in};

/// Group of kubelets. They create mirror Pods only, and the admission plugin NodeRestriction refuses those that were
/// changed.
const NODES: &str = "system:nodes";
/// Longest value of an audit annotation, in characters: as long as the name of a Node may be.
pub(super) const AUDIT_CHARS: usize = 253;

/// What an answer depends on besides the request.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// What is known of the cluster.
    pub view: &'a dyn ClusterView,
    /// How decisions are made.
    pub rules: &'a Rules,
    /// Names of provisioners that are latebind's to serve: claims of their classes are told so when they are created.
    pub provisioners: &'a [String],
    /// How far they go where no PinPolicy and no label of the namespace says otherwise.
    pub mode: Mode,
    /// What they leave out.
    pub exemptions: &'a Exemptions,
    /// Whether answers name what is known of the cluster. Anybody who reaches the port may ask about anybody's claims.
    pub details: bool,
    /// How drain policies are kept to; nothing where nobody is held up by them.
    pub guard: Option<&'a GuardOptions>,
    /// The moment, by which exceptions of policies, and approvals, expire.
    pub now: Timestamp,
}

/// How drain policies are kept to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardOptions {
    /// Groups whose members they do not hold up.
    pub exempt_groups: Vec<String>,
}

impl Admission<'_> {
    /// What the policies say about a Pod. The requester is not known of Pods that a workload's controller will create.
    pub(super) fn decide(&self, pod: &Pod, requester: Option<&Requester>) -> policy::Decision {
        let request = PinRequest { pod, requester, mode: self.mode, now: self.now };
        evaluate(&request, self.view)
    }
}

/// The answer about what a policy of mode Off covers: nothing, but for the record.
pub(super) fn left_by_policy(decision: &policy::Decision) -> Answer {
    let audit = audit_of_policies(decision);
    Answer { audit, policy: PolicyOutcome::of(decision), ..Answer::nothing(Decision::Exempt) }
}

/// What the audit log keeps of the policies that had a say.
pub(super) fn audit_of_policies(decision: &policy::Decision) -> BTreeMap<&'static str, String> {
    let mut audit = BTreeMap::new();
    if !decision.is_of_policies() {
        return audit;
    }
    audit.insert("mode", decision.mode.map_or("off", Mode::as_str).to_owned());
    let mut keep = |key, text: String| {
        if !text.is_empty() {
            audit.insert(key, bounded(&text, AUDIT_CHARS));
        }
    };
    keep("policy", decision.policy().unwrap_or_default().to_owned());
    let of = |names: Vec<&str>| names.join(",");
    keep("policies-violated", of(decision.not_allowed.iter().map(|it| it.policy.as_str()).collect()));
    keep("policies-excepted", of(decision.excepted.iter().map(|it| it.policy.as_str()).collect()));
    // Policies that are not known at all have no name.
    keep("policies-not-known", of(decision.not_known.iter().map(|it| it.policy.as_deref().unwrap_or("*")).collect()));
    audit
}

impl Exemptions {
    /// True for what is left out, and for requests of kubelets. Mirror Pods and gated Pods are left out too.
    pub(super) fn cover(&self, request: &Request<'_>) -> bool {
        let groups = request.user_info.as_ref().and_then(|user| user.groups.as_deref()).unwrap_or_default();
        self.namespaces.contains(&*request.namespace) || groups.iter().any(|group| &**group == NODES)
    }
}

/// What a request is about, as far as it is looked at.
pub(super) enum Subject {
    Pod,
    Workload(WorkloadKind),
    Claim,
    Node,
    /// Of the Pod that the request names.
    Eviction,
    Other,
}

pub(super) fn subject(request: &Request<'_>) -> Subject {
    let kind = (&*request.kind.group, &*request.kind.kind);
    if !request.sub_resource.is_empty() {
        return if kind == ("policy", "Eviction") { Subject::Eviction } else { Subject::Other };
    }
    match kind {
        ("", "Pod") => Subject::Pod,
        ("", "Node") => Subject::Node,
        ("", "PersistentVolumeClaim") => Subject::Claim,
        (group, kind) => WorkloadKind::of(group, kind).map_or(Subject::Other, Subject::Workload),
    }
}

/// Why there is nothing to decide.
pub(super) enum Skip {
    Ignored,
    Exempt,
    /// Why the object cannot be read, quoting nothing of it.
    Unreadable(String),
}

impl Skip {
    pub(super) fn no_object() -> Self {
        Self::Unreadable("the request has no object".to_owned())
    }
}

impl From<serde_json::Error> for Skip {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(place_of(&error))
    }
}

impl From<Skip> for Answer {
    fn from(pass: Skip) -> Self {
        match pass {
            Skip::Ignored => Self::nothing(Decision::Ignored),
            Skip::Exempt => Self::nothing(Decision::Exempt),
            Skip::Unreadable(trouble) => Self { trouble: Some(trouble), ..Self::nothing(Decision::Unreadable) },
        }
    }
}

/// The Pod of a request that creates one, unless there is nothing to decide.
pub(super) fn created_pod<'a>(request: &'a Request<'_>, admission: &Admission<'_>) -> Result<&'a Pod, Skip> {
    if &*request.operation != "CREATE" {
        return Err(Skip::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Skip::Exempt);
    }
    let pod = match &request.object {
        Reviewed::Pod(pod) => pod,
        Reviewed::Broken(place) => return Err(Skip::Unreadable(place.clone())),
        // An object of another kind is not asked for here.
        Reviewed::None | Reviewed::Unread(_) => return Err(Skip::no_object()),
    };
    // Both are refused by the API server if they lose their node name, or gain their validity by losing it.
    if pod.is_mirror() || (pod.pinned_node().is_some() && !pod.spec.scheduling_gates.is_empty()) {
        return Err(Skip::Exempt);
    }
    Ok(pod)
}

/// The verdict in the words that the requester may hear.
pub(super) fn spoken(mut verdict: PodVerdict, admission: &Admission<'_>) -> PodVerdict {
    if !admission.details {
        // Who is refused by a policy must hear which one it was. Of its author's facts that tells nothing.
        let names_policy = |code| matches!(code, Code::NodeNotAllowed | Code::IgnoreNotAllowed);
        verdict.findings.iter_mut().filter(|finding| !names_policy(finding.code)).for_each(shorten);
    }
    verdict
}

/// Leaves of a finding what the request itself says: which code, and at which field.
pub(super) fn shorten(finding: &mut Finding) {
    let path = finding.path.to_string();
    let title = finding.code.title();
    finding.message = if path.is_empty() { title.to_owned() } else { format!("{title} ({path})") };
}

/// The verdict as it stands when nothing is changed at admission.
pub(super) fn unchanged(verdict: &PodVerdict) -> PodVerdict {
    let remedy = match &verdict.remedy {
        Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. } => Remedy::Leave,
        other => other.clone(),
    };
    PodVerdict { remedy, ..verdict.clone() }
}

/// Warned of, or nothing to say.
pub(super) fn said<'a>(mut findings: impl Iterator<Item = &'a Finding>) -> Decision {
    if findings.any(|finding| finding.severity > Severity::Info) { Decision::Warned } else { Decision::Clean }
}

/// Codes of findings, each once, in their order.
pub(super) fn codes<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for finding in findings {
        if !codes.contains(&finding.code.as_str()) {
            codes.push(finding.code.as_str());
        }
    }
    codes.join(",")
}

/// The mode for a namespace, by what is known of its labels.
pub(super) fn mode_of(view: &dyn ClusterView, namespace: &str, for_all: Mode) -> Mode {
    let Lookup::Found(object) = view.namespace(namespace) else { return for_all };
    mode_in(&object, for_all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::facts::{Fact, Facts, Unlisted};
    use crate::model::MODE_LABEL;

    #[test]
    fn a_namespace_can_only_be_stricter() {
        let mut facts = Facts::new(Unlisted::Absent);
        for (name, mode) in [("strict", "deny"), ("lax", "audit"), ("odd", "sometimes")] {
            let object = json!({"metadata": {"name": name, "labels": {MODE_LABEL: mode}}});
            facts.add(Fact::read("", "Namespace", &object).unwrap().unwrap());
        }
        for (namespace, expected) in
            [("strict", Mode::Deny), ("lax", Mode::Rewrite), ("odd", Mode::Rewrite), ("unknown", Mode::Rewrite)]
        {
            assert_eq!(mode_of(&facts, namespace, Mode::Rewrite), expected, "{namespace}");
        }
        assert_eq!(mode_of(&facts, "lax", Mode::Deny), Mode::Deny);
    }
}
