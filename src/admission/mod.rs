//! AdmissionReview in, AdmissionReview out.
//!
//! [`respond`] is a pure function of the bytes that the API server sends, what is known of the cluster, and what the
//! administrator chose. [`service`] puts it behind HTTP, [`server`] behind TLS.

mod body;
pub mod facts;
pub mod live;
pub mod metrics;
pub mod mutate;
pub mod patch;
pub mod review;
pub mod server;
pub mod service;
pub mod validate;

use std::collections::BTreeSet;

use crate::binding::{ClusterView, Finding, PodVerdict, Remedy, Rules, Severity};
use crate::model::{Pod, Text, WorkloadKind};
use crate::policy::Mode;
use review::{Answer, Decision, Request, ReviewError, Reviewed};

/// Group of kubelets. They create mirror Pods only, and the admission plugin NodeRestriction refuses those that were
/// changed.
const NODES: &str = "system:nodes";
/// Longest value of an audit annotation, in characters: as long as the name of a Node may be.
const AUDIT_CHARS: usize = 253;

/// The two webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// May change a Pod.
    Mutate,
    /// May refuse an object.
    Validate,
}

impl Hook {
    /// The word for it, which is also its path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// What is not looked at, besides kubelets' requests, mirror Pods and gated Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemptions {
    /// Namespaces.
    pub namespaces: BTreeSet<String>,
}

impl Default for Exemptions {
    fn default() -> Self {
        Self { namespaces: BTreeSet::from(["kube-system".to_owned()]) }
    }
}

impl Exemptions {
    fn cover(&self, request: &Request<'_>) -> bool {
        let groups = request.user_info.as_ref().and_then(|user| user.groups.as_deref()).unwrap_or_default();
        self.namespaces.contains(&*request.namespace) || groups.iter().any(|group| &**group == NODES)
    }
}

/// What an answer depends on besides the request.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// What is known of the cluster.
    pub view: &'a dyn ClusterView,
    /// How decisions are made.
    pub rules: &'a Rules,
    /// How far they go.
    pub mode: Mode,
    /// What they leave out.
    pub exemptions: &'a Exemptions,
}

/// The answer to one review.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The bytes that the API server gets.
    pub json: Vec<u8>,
    /// What they say.
    pub answer: Answer,
    /// UID of the request.
    pub uid: String,
    /// True when nothing will be stored.
    pub dry_run: bool,
}

/// Answers the bytes of one review.
///
/// # Errors
/// When the bytes are no review that can be answered. An object that cannot be read is no error: it is allowed as it is.
pub fn respond(hook: Hook, body: &[u8], admission: &Admission<'_>) -> Result<Reply, ReviewError> {
    respond_to(hook, &Request::parse(body)?, admission)
}

/// Answers one review that has been parsed.
///
/// # Errors
/// When the answer cannot be written.
pub fn respond_to(hook: Hook, request: &Request<'_>, admission: &Admission<'_>) -> Result<Reply, ReviewError> {
    let answer = match hook {
        Hook::Mutate => mutate::mutate(request, admission),
        Hook::Validate => validate::validate(request, admission),
    };
    let json = answer.to_json(&request.uid)?;
    Ok(Reply { json, answer, uid: request.uid.to_string(), dry_run: request.is_dry_run() })
}

/// What a request is about, as far as it is looked at.
enum Matter {
    Pod,
    Workload(WorkloadKind),
    Claim,
    Other,
}

fn matter(request: &Request<'_>) -> Matter {
    if !request.sub_resource.is_empty() {
        return Matter::Other;
    }
    match (&*request.kind.group, &*request.kind.kind) {
        ("", "Pod") => Matter::Pod,
        ("", "PersistentVolumeClaim") => Matter::Claim,
        (group, kind) => WorkloadKind::of(group, kind).map_or(Matter::Other, Matter::Workload),
    }
}

/// Why there is nothing to decide.
enum Pass {
    Ignored,
    Exempt,
    /// Why the object cannot be read, quoting nothing of it.
    Unreadable(String),
}

impl Pass {
    fn no_object() -> Self {
        Self::Unreadable("the request has no object".to_owned())
    }
}

impl From<serde_json::Error> for Pass {
    fn from(error: serde_json::Error) -> Self {
        // The error's own text may quote the object.
        let (class, line, column) = (error.classify(), error.line(), error.column());
        Self::Unreadable(format!("{class:?} error at line {line}, column {column}"))
    }
}

impl From<Pass> for Answer {
    fn from(pass: Pass) -> Self {
        match pass {
            Pass::Ignored => Self::nothing(Decision::Ignored),
            Pass::Exempt => Self::nothing(Decision::Exempt),
            Pass::Unreadable(trouble) => Self { trouble: Some(trouble), ..Self::nothing(Decision::Unreadable) },
        }
    }
}

/// The request's namespace is the one that the API server has authorized.
fn set_namespace(namespace: &mut Option<Text>, of_request: &str) {
    if !of_request.is_empty() && namespace.as_deref() != Some(of_request) {
        *namespace = Some(of_request.into());
    }
}

/// The Pod of a request that creates one, unless there is nothing to decide.
fn created_pod<'a>(request: &'a Request<'_>, admission: &Admission<'_>) -> Result<&'a Pod, Pass> {
    if &*request.operation != "CREATE" {
        return Err(Pass::Ignored);
    }
    if admission.exemptions.cover(request) {
        return Err(Pass::Exempt);
    }
    let pod = match &request.object {
        Reviewed::Pod(pod) => pod,
        Reviewed::None => return Err(Pass::no_object()),
        Reviewed::Unread(raw) => match serde_json::from_str::<Pod>(raw.get()) {
            Err(error) => return Err(error.into()),
            // It was tried before, and failed.
            Ok(_) => return Err(Pass::Unreadable("the object was not read".to_owned())),
        },
    };
    // Both are refused by the API server if they lose their node name, or gain their validity by losing it.
    if pod.is_mirror() || (pod.pinned_node().is_some() && !pod.spec.scheduling_gates.is_empty()) {
        return Err(Pass::Exempt);
    }
    Ok(pod)
}

/// The verdict as it stands when nothing is changed at admission.
fn unchanged(verdict: &PodVerdict) -> PodVerdict {
    let remedy = match &verdict.remedy {
        Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. } => Remedy::Leave,
        other => other.clone(),
    };
    PodVerdict { remedy, ..verdict.clone() }
}

/// Warned of, or nothing to say.
fn said<'a>(mut findings: impl Iterator<Item = &'a Finding>) -> Decision {
    if findings.any(|finding| finding.severity > Severity::Info) { Decision::Warned } else { Decision::Clean }
}

/// Codes of findings, each once, in their order.
fn codes<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for finding in findings {
        if !codes.contains(&finding.code.as_str()) {
            codes.push(finding.code.as_str());
        }
    }
    codes.join(",")
}
