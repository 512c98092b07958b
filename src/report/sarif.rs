//! SARIF 2.1.0, within the limits of GitHub's code scanning.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Point, Report, Reported, State, fingerprints, harmless_json, uri};
use crate::binding::{Code, Severity};

/// GitHub refuses a run with more results.
const MOST_RESULTS: usize = 25_000;

/// Writes one run. What was fixed is not in it: the file no longer says so.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let (findings, left_out) = taken(report);
    let codes: BTreeSet<Code> = findings.iter().map(|found| found.code).collect();
    let codes: Vec<Code> = codes.into_iter().collect();
    let prints = fingerprints(findings.iter().copied());
    let results: Vec<Value> = findings.iter().zip(&prints).map(|(found, print)| result(found, print, &codes)).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "latebind",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": "https://latebind.dev",
                "rules": codes.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [invocation(report, left_out)],
            "results": results,
        }],
    });
    out.write_all(harmless_json(&log)?.as_bytes())
}

/// The findings that are written, and how many are not: the mildest.
fn taken(report: &Report) -> (Vec<&Reported>, usize) {
    let mut findings: Vec<&Reported> = report.findings.iter().filter(|found| found.state != State::Fixed).collect();
    let left_out = findings.len().saturating_sub(MOST_RESULTS);
    if left_out > 0 {
        findings.sort_by_key(|found| (!found.is_open(), std::cmp::Reverse(found.severity)));
        findings.truncate(MOST_RESULTS);
    }
    (findings, left_out)
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.as_str(),
        "name": format!("{code:?}"),
        "shortDescription": { "text": code.title() },
        "fullDescription": { "text": code.about() },
        "help": {
            "text": format!("{}\n\nWhat to do: {}", code.about(), code.next()),
            "markdown": format!("{}\n\n**What to do:** {}", markdown(code.about()), markdown(code.next())),
        },
        "helpUri": code.help_uri(),
        "defaultConfiguration": { "level": level(code.severity()) },
        "properties": { "tags": ["kubernetes", "storage", "scheduling"], "precision": "high" },
    })
}

fn result(found: &Reported, fingerprint: &str, codes: &[Code]) -> Value {
    let object = &found.object;
    let logical = json!({ "name": object.name, "fullyQualifiedName": object.reference(), "kind": "resource" });
    let mut result = json!({
        "ruleId": found.code.as_str(),
        "ruleIndex": codes.binary_search(&found.code).unwrap_or_default(),
        "level": level(found.severity),
        "message": { "text": format!("{}: {}", object.reference(), found.told()) },
        "locations": [{
            "physicalLocation": {
                "artifactLocation": artifact(&object.file),
                "region": region(found.start, found.end),
            },
            "logicalLocations": [logical],
        }],
        "partialFingerprints": { "latebindFinding/v1": fingerprint },
        "properties": { "path": found.path.to_string(), "assumptions": found.assumptions },
    });
    if let Some(reason) = found.ignored() {
        result["suppressions"] = json!([{ "kind": "inSource", "status": "accepted", "justification": reason }]);
    }
    if let Some(fix) = &found.fix {
        let replacements = fix.replacements.iter().map(|replacement| {
            json!({
                "deletedRegion": region(replacement.start, replacement.end),
                "insertedContent": { "text": replacement.text },
            })
        });
        result["fixes"] = json!([{
            "description": { "text": fix.description },
            "artifactChanges": [{
                "artifactLocation": artifact(&object.file),
                "replacements": replacements.collect::<Vec<_>>(),
            }],
        }]);
    }
    result
}

fn invocation(report: &Report, left_out: usize) -> Value {
    let mut notes: Vec<Value> = report
        .unread
        .iter()
        .map(|unread| {
            let mut location = json!({ "artifactLocation": artifact(&unread.file) });
            if let Some(at) = unread.at {
                location["region"] = region(at, at);
            }
            let message = json!({ "text": unread.message });
            json!({ "level": "error", "message": message, "locations": [{ "physicalLocation": location }] })
        })
        .collect();
    if left_out > 0 {
        let text = format!("{left_out} more findings are not in this file: code scanning takes {MOST_RESULTS} at most");
        notes.push(json!({ "level": "warning", "message": { "text": text } }));
    }
    for object in &report.not_judged {
        let text = format!("{} holds a nodeName and was not judged", object.reference());
        notes.push(json!({ "level": "note", "message": { "text": text } }));
    }
    for assumption in &report.assumptions {
        notes.push(json!({ "level": "note", "message": { "text": assumption } }));
    }
    json!({ "executionSuccessful": report.unread.is_empty(), "toolExecutionNotifications": notes })
}

fn artifact(file: &str) -> Value {
    let uri = uri(file);
    if uri.starts_with("file:") { json!({ "uri": uri }) } else { json!({ "uri": uri, "uriBaseId": "%SRCROOT%" }) }
}

fn region(start: Point, end: Point) -> Value {
    json!({
        "startLine": start.line.max(1),
        "startColumn": start.column.max(1),
        "endLine": end.line.max(start.line).max(1),
        "endColumn": end.column.max(1),
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

/// Text of ours in which nothing is taken for markup.
fn markdown(text: &str) -> String {
    let escaped =
        |character| matches!(character, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '{' | '}' | '#' | '|');
    let mut markdown = String::with_capacity(text.len());
    for character in text.chars() {
        if escaped(character) {
            markdown.push('\\');
        }
        markdown.push(character);
    }
    markdown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::FieldPath;

    #[test]
    fn the_mildest_are_left_out_beyond_the_limit() {
        let found = |code: Code, state: State| Reported {
            code,
            severity: code.severity(),
            message: String::new(),
            object: std::sync::Arc::default(),
            path: FieldPath::default(),
            assumptions: Vec::new(),
            start: Point::default(),
            end: Point::default(),
            state,
            fix: None,
            not_fixed: None,
        };
        let ignored = || State::Ignored { reason: "known".to_owned() };
        let mut findings = vec![found(Code::PinnedToDelayedClaim, ignored()); 5];
        findings.extend(vec![found(Code::ClaimNotMounted, State::Open); 5]);
        findings.extend(vec![found(Code::PinnedToDelayedClaim, State::Fixed); 5]);
        findings.extend(vec![found(Code::PinnedToDelayedClaim, State::Open); MOST_RESULTS - 3]);
        let report = Report { findings, ..Report::default() };
        let (taken, left_out) = taken(&report);
        assert_eq!((taken.len(), left_out), (MOST_RESULTS, 7));
        assert!(taken.iter().all(|found| found.is_open()));
        assert_eq!(taken.iter().filter(|found| found.severity == Severity::Info).count(), 3);
        assert!(invocation(&report, left_out).to_string().contains("7 more findings"));
    }
}
