//! A `FindingList` as JSON: versioned, for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::{AuditCounts, Counts, Report, Reported, Unread, harmless_json};

/// The list as it is written; also the value behind YAML.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FindingList<'r> {
    api_version: &'static str,
    kind: &'static str,
    latebind: &'static str,
    summary: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<AuditCounts>,
    assumptions: &'r [String],
    unread: &'r [Unread],
    not_judged: Vec<&'r super::Object>,
    items: &'r [Reported],
}

impl<'r> FindingList<'r> {
    /// The list of a report.
    pub(super) fn of(report: &'r Report) -> Self {
        Self {
            api_version: "latebind.dev/v1alpha1",
            kind: "FindingList",
            latebind: env!("CARGO_PKG_VERSION"),
            summary: report.counts(),
            audit: report.audit,
            assumptions: &report.assumptions,
            unread: &report.unread,
            not_judged: report.not_judged.iter().map(AsRef::as_ref).collect(),
            items: &report.findings,
        }
    }
}

/// Writes it.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(harmless_json(&FindingList::of(report))?.as_bytes())
}
