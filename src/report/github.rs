//! Workflow commands of GitHub Actions: annotations on the lines of a change.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{Report, Reported, uri};
use crate::binding::{Code, Severity};
use crate::report::style::clean;

/// GitHub shows so many annotations of each type and step, and drops the others.
const MOST: usize = 10;

/// Writes them. Where there are more of a type than are shown, the last one says how many, and the others follow as lines
/// of the log.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        let found: Vec<&Reported> = report.open().filter(|finding| finding.severity == severity).collect();
        let shown = if found.len() > MOST { MOST - 1 } else { found.len() };
        for finding in &found[..shown] {
            annotate(finding, out)?;
        }
        let rest = &found[shown..];
        let Some(first) = rest.first() else { continue };
        let (file, line) = (property(&path(&first.object.file)), first.start.line);
        let title = property(&format!("{} more findings", rest.len()));
        let message = message(&format!("{}. The log lists them.", by_code(rest)));
        writeln!(out, "::{} file={file},line={line},title={title}::{message}", command(severity))?;
        for finding in rest {
            // A line that starts with a word is no command, whatever it goes on with.
            let line = format!("{} {} {}: {}", severity.as_str(), finding.code, finding.place(), finding.told());
            writeln!(out, "{}", clean(&line))?;
        }
    }
    for unread in &report.unread {
        let line = unread.at.map_or(1, |at| at.line);
        let file = property(&path(&unread.file));
        writeln!(out, "::error file={file},line={line},title=Cannot be read::{}", message(&unread.message))?;
    }
    Ok(())
}

fn annotate(finding: &Reported, out: &mut dyn Write) -> io::Result<()> {
    let (start, end) = (finding.start, finding.end);
    write!(out, "::{} file={},line={}", command(finding.severity), property(&path(&finding.object.file)), start.line)?;
    // Columns are shown for annotations of one line only.
    if start.line == end.line {
        write!(out, ",col={},endColumn={}", start.column, end.column)?;
    } else {
        write!(out, ",endLine={}", end.line)?;
    }
    let title = format!("{} {}", finding.code, finding.code.title());
    let text = format!("{}: {}\n{}", finding.object.reference(), finding.told(), finding.code.next());
    writeln!(out, ",title={}::{}", property(&title), message(&text))
}

fn by_code(findings: &[&Reported]) -> String {
    let mut counts: BTreeMap<Code, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.code).or_default() += 1;
    }
    counts.iter().map(|(code, count)| format!("{count} x {code}")).collect::<Vec<_>>().join(", ")
}

/// The file relative to the workspace, where it is.
fn path(file: &str) -> String {
    if uri(file).starts_with("file:") { file.to_owned() } else { file.trim_start_matches("./").to_owned() }
}

const fn command(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "notice",
    }
}

/// Text behind the `::` of a command. Line breaks of ours stay line breaks, those of names are written out.
fn message(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(clean).collect();
    lines.join("\n").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Text of a property of a command.
fn property(text: &str) -> String {
    clean(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace(':', "%3A").replace(',', "%2C")
}
