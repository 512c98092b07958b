//! Reports of policy engines: a list of objects, one for each namespace, that `kubectl apply` takes where their definitions are
//! installed, and that dashboards read.
//!
//! Sources: `openreports.io/v1alpha1` (github.com/openreports/reports-api) and, before it, `wgpolicyk8s.io/v1alpha2`
//! (github.com/kubernetes-sigs/wg-policy-prototypes). Their results have the same fields.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Object, Report, Reported, State, yaml};
use crate::binding::Severity;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportKinds {
    /// `Report` and `ClusterReport` of openreports.io/v1alpha1
    #[value(name = "openreports")]
    OpenReports,
    /// `PolicyReport` and `ClusterPolicyReport` of wgpolicyk8s.io/v1alpha2
    #[value(name = "policyreport")]
    PolicyReport,
}

impl ReportKinds {
    /// Version, and the kinds for a namespace and for the whole cluster.
    #[must_use]
    pub const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::OpenReports => ("openreports.io/v1alpha1", "Report", "ClusterReport"),
            Self::PolicyReport => ("wgpolicyk8s.io/v1alpha2", "PolicyReport", "ClusterPolicyReport"),
        }
    }
}

/// Name of each report, source and policy of each result, and the value of the label by which reports of ours are found.
pub(super) const LATEBIND: &str = "latebind";

/// Writes them. What belongs to no namespace, and what could not be read, stands in a report of the cluster.
pub(super) fn render(report: &Report, kinds: ReportKinds, out: &mut dyn Write) -> io::Result<()> {
    yaml::write(&json!({ "apiVersion": "v1", "kind": "List", "items": objects(report, kinds, usize::MAX) }), out)
}

/// The reports. What is worst comes first where not all of it has room.
pub(super) fn objects(report: &Report, kinds: ReportKinds, most: usize) -> Vec<Value> {
    let mut by_namespace: BTreeMap<&str, OfNamespace> = BTreeMap::new();
    for object in &report.objects {
        by_namespace.entry(&object.namespace).or_default().objects.push(object);
    }
    for finding in &report.findings {
        by_namespace.entry(&finding.object.namespace).or_default().add(finding);
    }
    for object in &report.not_judged {
        let said = result("skip", "", "It holds a nodeName and could not be judged", Some(object));
        let of = by_namespace.entry(&object.namespace).or_default();
        of.results.push(said);
        of.found.push(object);
    }
    for unread in &report.unread {
        let message = format!("{} could not be read: {}", unread.file, unread.message);
        by_namespace.entry("").or_default().results.push(result("error", "", &message, None));
    }
    by_namespace.into_iter().map(|(namespace, of)| of.into_object(namespace, kinds, most)).collect()
}

/// The report of a namespace of which there is nothing to say.
pub(super) fn empty(kinds: ReportKinds, namespace: &str) -> Value {
    OfNamespace::default().into_object(namespace, kinds, 0)
}

/// What there is to say of one namespace.
#[derive(Default)]
struct OfNamespace<'r> {
    objects: Vec<&'r Object>,
    results: Vec<Value>,
    /// Objects that do not pass: something is said of them.
    found: Vec<&'r Object>,
}

impl<'r> OfNamespace<'r> {
    fn add(&mut self, finding: &'r Reported) {
        let severity = match finding.severity {
            Severity::Error => "high",
            Severity::Warning => "medium",
            Severity::Info => "info",
        };
        let (outcome, reason) = match (&finding.state, finding.severity) {
            // It was rewritten, and does not stand.
            (State::Fixed, _) => return,
            (State::Ignored { reason }, _) => ("skip", Some(reason)),
            (State::Open, Severity::Error) => ("fail", None),
            (State::Open, Severity::Warning | Severity::Info) => ("warn", None),
        };
        let mut said = result(outcome, finding.code.as_str(), &finding.told(), Some(&finding.object));
        said["severity"] = json!(severity);
        said["scored"] = json!(outcome == "fail");
        said["properties"] = json!({ "help": finding.code.help_uri(), "path": finding.path.to_string() });
        if let Some(reason) = reason {
            said["properties"]["reason"] = json!(reason);
        }
        self.results.push(said);
        self.found.push(&finding.object);
    }

    fn into_object(mut self, namespace: &str, kinds: ReportKinds, most: usize) -> Value {
        let (version, kind, cluster_kind) = kinds.names();
        let count = |outcome: &str| self.results.iter().filter(|result| result["result"] == outcome).count();
        let found: std::collections::HashSet<*const Object> =
            self.found.iter().map(|object| std::ptr::from_ref(*object)).collect();
        let passed = self.objects.iter().filter(|object| !found.contains(&std::ptr::from_ref(**object))).count();
        let mut metadata = json!({ "name": LATEBIND, "labels": { "app.kubernetes.io/managed-by": LATEBIND } });
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        let summary = json!({
            "pass": passed, "fail": count("fail"), "warn": count("warn"), "error": count("error"), "skip": count("skip"),
        });
        if self.results.len() > most {
            self.results.sort_by_key(|result| order(&result["result"]));
            let more = self.results.len() - most;
            self.results.truncate(most);
            self.results.push(result("skip", "", &format!("{more} more results have no room in this report"), None));
        }
        json!({
            "apiVersion": version,
            "kind": if namespace.is_empty() { cluster_kind } else { kind },
            "metadata": metadata,
            "summary": summary,
            "results": self.results,
        })
    }
}

/// The worst first.
fn order(outcome: &Value) -> usize {
    ["fail", "error", "warn"].iter().position(|known| outcome == known).unwrap_or(usize::MAX)
}

fn result(outcome: &str, rule: &str, message: &str, object: Option<&Object>) -> Value {
    let mut result = json!({
        "source": LATEBIND, "policy": LATEBIND, "category": "Volume binding", "result": outcome, "message": message,
    });
    if !rule.is_empty() {
        result["rule"] = json!(rule);
    }
    if let Some(object) = object {
        result["resources"] = json!([object]);
    }
    result
}
