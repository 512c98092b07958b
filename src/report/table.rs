//! For people: grouped by file, aligned, the fix as a diff, a summary at the end.

use std::io::{self, Write};

use super::{Counts, Report, Reported, State};
use crate::binding::Severity;
use crate::report::style::{Style, clean, columns};

/// Writes it.
pub(super) fn render(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let mut from = 0;
    while let Some(first) = report.findings.get(from) {
        let file = &first.object.file;
        let count = report.findings[from..].iter().take_while(|finding| finding.object.file == *file).count();
        writeln!(out, "{}", style.strong(&clean(file)))?;
        file_findings(&report.findings[from..from + count], style, out)?;
        writeln!(out)?;
        from += count;
    }
    // Where findings do not name it: what a verdict of "nothing" rests on.
    let named = |assumption: &&String| report.findings.iter().any(|finding| finding.assumptions.contains(assumption));
    let unnamed: Vec<&String> = report.assumptions.iter().filter(|assumption| !named(assumption)).collect();
    if !unnamed.is_empty() {
        writeln!(out, "Assumed, since the input does not say:")?;
        for assumption in unnamed {
            writeln!(out, "  {}", clean(assumption))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", summary(&report.counts(), report.unread.len(), style))
}

fn file_findings(findings: &[Reported], style: Style, out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    let lines = columns(&rows, |row, column, cell| match (column, &findings[row].state) {
        (1, State::Open) => style.severity(findings[row].severity, cell),
        (0, _) | (_, State::Ignored { .. }) => style.faint(cell),
        (1, State::Fixed) => style.good(cell),
        _ => cell.to_owned(),
    });
    for (finding, line) in findings.iter().zip(lines) {
        writeln!(out, "  {line}")?;
        writeln!(out, "        {}", clean(&finding.message))?;
        for assumption in &finding.assumptions {
            writeln!(out, "        {}", style.faint(&format!("assumed: {}", clean(assumption))))?;
        }
        if let Some(reason) = finding.ignored() {
            writeln!(out, "        {}", style.faint(&format!("ignored: {}", clean(reason))))?;
        }
        if let Some(not_fixed) = finding.not_fixed.as_ref().filter(|_| finding.is_open()) {
            writeln!(out, "        {}", style.warning(&format!("not rewritten: {}", clean(not_fixed))))?;
        }
        if let Some(fix) = &finding.fix {
            for line in fix.diff.lines() {
                writeln!(out, "        {}", style.diff_line(&clean(line)))?;
            }
        }
    }
    Ok(())
}

fn row(finding: &Reported) -> Vec<String> {
    let word = match finding.state {
        State::Open => finding.severity.as_str(),
        State::Ignored { .. } => "ignored",
        State::Fixed => "fixed",
    };
    vec![
        format!("{}:{}", finding.start.line, finding.start.column),
        word.to_owned(),
        finding.code.as_str().to_owned(),
        clean(&finding.object.reference()).into_owned(),
    ]
}

fn summary(counts: &Counts, unread: usize, style: Style) -> String {
    let mut parts = Vec::new();
    let mut part = |count: usize, severity: Severity, one: &str, many: &str| {
        if count > 0 {
            parts.push(style.severity(severity, &format!("{count} {}", if count == 1 { one } else { many })));
        }
    };
    part(counts.errors, Severity::Error, "error", "errors");
    part(counts.warnings, Severity::Warning, "warning", "warnings");
    part(counts.infos, Severity::Info, "note", "notes");
    if parts.is_empty() && counts.not_judged == 0 {
        parts.push(style.good("nothing to complain of"));
    } else if parts.is_empty() {
        parts.push("nothing found".to_owned());
    }
    if counts.fixed > 0 {
        parts.push(style.good(&format!("{} fixed", counts.fixed)));
    }
    if counts.ignored > 0 {
        parts.push(format!("{} ignored", counts.ignored));
    }
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut text =
        format!("{} in {} of {}", parts.join(", "), plural(counts.objects, "object"), plural(counts.files, "file"));
    if counts.not_judged > 0 {
        let (subject, were) = match counts.not_judged {
            1 => ("object holds", "was"),
            _ => ("objects hold", "were"),
        };
        text += &style.warning(&format!("; {} {subject} a nodeName and {were} not judged", counts.not_judged));
    }
    if unread > 0 {
        text += &style.error(&format!("; {} could not be read", plural(unread, "document")));
    }
    let hint = match (counts.fixable, counts.errors + counts.warnings + counts.infos) {
        (0, 0) => "",
        (0, _) => "\n`latebind explain CODE` says more",
        (1, _) => "\n`latebind lint --fix` fixes one of them; `latebind explain CODE` says more",
        (fixable, _) => {
            return format!("{text}\n`latebind lint --fix` fixes {fixable} of them; `latebind explain CODE` says more");
        }
    };
    text + hint
}
