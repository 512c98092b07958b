//! Markdown: a table for a comment on a pull request.

use std::io::{self, Write};

use super::{Report, Reported, State};
use crate::report::style::clean;

/// Writes it.
pub(super) fn render(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let counts = report.counts();
    writeln!(out, "### latebind lint")?;
    writeln!(out)?;
    writeln!(
        out,
        "{} errors, {} warnings, {} notes in {} objects of {} files",
        counts.errors, counts.warnings, counts.infos, counts.objects, counts.files
    )?;
    if counts.errors + counts.warnings + counts.infos > 0 {
        writeln!(out)?;
        writeln!(out, "| | finding | object | place | |")?;
        writeln!(out, "| --- | --- | --- | --- | --- |")?;
        report.open().try_for_each(|finding| row(finding, out))?;
    }
    report.open().try_for_each(|finding| fix(finding, out))?;
    for object in &report.not_judged {
        writeln!(out)?;
        writeln!(out, "Not judged, but holds a `nodeName`: {} in {}", text(&object.reference()), text(&object.file))?;
    }
    for unread in &report.unread {
        writeln!(out)?;
        writeln!(out, "Could not be read: {}: {}", text(&unread.file), text(&unread.message))?;
    }
    Ok(())
}

fn row(finding: &Reported, out: &mut dyn Write) -> io::Result<()> {
    let assumed = finding.assumptions.iter().map(|assumption| format!("*assumed:* {}", text(assumption)));
    let not_fixed = finding.not_fixed.iter().map(|why| format!("*not rewritten:* {}", text(why)));
    let says: Vec<String> = std::iter::once(text(&finding.message)).chain(assumed).chain(not_fixed).collect();
    let says = says.join("<br>");
    writeln!(
        out,
        "| {} | [{}]({}) | {} | {} | {says} |",
        finding.severity.as_str(),
        finding.code,
        finding.code.help_uri(),
        text(&finding.object.reference()),
        text(&finding.place())
    )
}

fn fix(finding: &Reported, out: &mut dyn Write) -> io::Result<()> {
    let Some(fix) = finding.fix.as_ref().filter(|_| finding.state == State::Open) else { return Ok(()) };
    writeln!(out)?;
    writeln!(out, "<details><summary>{}</summary>", text(&format!("{}: {}", finding.place(), fix.description)))?;
    writeln!(out)?;
    // A fence is closed by one that is as long, so ours is longer than any within.
    let diff: Vec<String> = fix.diff.lines().map(|line| clean(line).into_owned()).collect();
    let longest = diff.iter().map(|line| longest_run(line)).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    writeln!(out, "{fence}diff")?;
    diff.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    writeln!(out, "{fence}")?;
    writeln!(out)?;
    writeln!(out, "</details>")
}

fn longest_run(line: &str) -> usize {
    line.split(|character| character != '`').map(str::len).max().unwrap_or_default()
}

/// Text of the input in which nothing is taken for markup, a mention or a column.
fn text(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    for character in clean(raw).chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            // A mention would tell somebody.
            '@' => text.push_str("&#64;"),
            '|' => text.push_str("&#124;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '~' | '!' => {
                text.push('\\');
                text.push(character);
            }
            character => text.push(character),
        }
    }
    text
}
