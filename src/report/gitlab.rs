//! Code Quality of GitLab: a JSON array, shown in merge requests.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Report, Reported, fingerprints, harmless_json};
use crate::binding::Severity;

/// Writes it.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let prints = fingerprints(report.open());
    let issues: Vec<Value> = report.open().zip(&prints).map(|(finding, print)| issue(finding, print)).collect();
    out.write_all(harmless_json(&issues)?.as_bytes())
}

fn issue(finding: &Reported, fingerprint: &str) -> Value {
    let object = &finding.object;
    json!({
        "type": "issue",
        "check_name": finding.code.as_str(),
        "description": format!("{}: {}: {}", finding.code, object.reference(), finding.told()),
        "content": { "body": format!("{}\n\n{}", finding.code.about(), finding.code.next()) },
        "categories": ["Bug Risk"],
        "fingerprint": fingerprint,
        "severity": match finding.severity {
            Severity::Error => "critical",
            Severity::Warning => "minor",
            Severity::Info => "info",
        },
        // Paths must be relative to the repository and must not begin with `./`.
        "location": {
            "path": object.file.trim_start_matches("./"),
            "lines": { "begin": finding.start.line, "end": finding.end.line },
        },
    })
}
