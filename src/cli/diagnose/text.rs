//! A diagnosis for people.

use std::fmt::Write as _;

use crate::binding::Severity;
use crate::diagnosis::{Cause, Diagnosis};
use crate::report::style::{Style, clean, columns, wrap};

/// Width of paragraphs; longer lines are hard to read.
const WIDTH: usize = 96;

/// Everything about one object.
pub(in crate::cli) fn whole(diagnosis: &Diagnosis, style: Style) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    let subject = &diagnosis.subject;
    let place = if subject.namespace.is_empty() { String::new() } else { format!(" -n {}", subject.namespace) };
    let age = diagnosis.age_seconds.map(|age| format!(", {} old", ago(age))).unwrap_or_default();
    let state = style.severity(diagnosis.severity, state(diagnosis.cause));
    let reference = style.strong(&clean(&format!("{}{place}", subject.reference())));
    line(&format!("{reference}{age}: {state}, {}", style.strong(diagnosis.cause.as_str())));
    line("");
    for part in wrap(&clean(&diagnosis.summary), WIDTH) {
        line(&part);
    }
    if !diagnosis.chain.is_empty() {
        line("");
        let rows: Vec<Vec<String>> = diagnosis
            .chain
            .iter()
            .map(|link| vec![clean(&link.object).into_owned(), clean(&link.says).into_owned()])
            .collect();
        let paint =
            |_: usize, column: usize, cell: &str| if column == 0 { style.strong(cell) } else { cell.to_owned() };
        for row in columns(&rows, paint) {
            line(&format!("  {row}"));
        }
    }
    if !diagnosis.evidence.is_empty() {
        line("");
        line(&style.strong("Evidence:"));
        for told in &diagnosis.evidence {
            let at = told.at.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
            line(&format!("  {}{}: {}", clean(&told.from), style.faint(&clean(&at)), clean(&told.says)));
        }
    }
    if !diagnosis.not_known.is_empty() {
        line("");
        line(&style.strong("Not known:"));
        for missing in &diagnosis.not_known {
            line(&format!("  {}", clean(missing)));
        }
    }
    if !diagnosis.next.is_empty() {
        line("");
        line(&style.strong("Next:"));
        for step in &diagnosis.next {
            line(&format!("  {}", style.faint(&format!("# {}", clean(&step.why)))));
            line(&format!("  {}", clean(&step.command)));
        }
    }
    text
}

/// What it means for the object, in a word.
fn state(cause: Cause) -> &'static str {
    match (cause, cause.severity()) {
        (Cause::NotKnown, _) => "not known",
        (Cause::Healthy | Cause::Starting, _) => "not blocked",
        (_, Severity::Error) => "blocked",
        (_, Severity::Warning | Severity::Info) => "waiting, as it should",
    }
}

/// A row for each object that does not move.
pub(super) fn table(diagnoses: &[Diagnosis], not_known: &[String], style: Style) -> String {
    if diagnoses.is_empty() && not_known.is_empty() {
        return "Nothing that was looked at is blocked.\n".to_owned();
    }
    if diagnoses.is_empty() {
        return format!("Nothing that is known is blocked.\n{}", missing(not_known.iter(), style));
    }
    let header = ["AGE", "NAMESPACE", "OBJECT", "CAUSE", ""].map(str::to_owned).to_vec();
    let row = |diagnosis: &Diagnosis| {
        let subject = &diagnosis.subject;
        vec![
            diagnosis.age_seconds.map_or_else(|| "-".to_owned(), ago),
            clean(if subject.namespace.is_empty() { "-" } else { &subject.namespace }).into_owned(),
            clean(&subject.reference()).into_owned(),
            diagnosis.cause.to_string(),
            diagnosis.cause.title().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(diagnoses.iter().map(row)).collect();
    let paint = |row: usize, column: usize, cell: &str| match (row.checked_sub(1), column) {
        (None, _) => style.strong(cell),
        (Some(row), 3) => style.severity(diagnoses[row].severity, cell),
        _ => cell.to_owned(),
    };
    let mut text = columns(&rows, paint).iter().map(|line| line.trim_end().to_owned() + "\n").collect::<String>();
    text.push_str(&missing(not_known.iter().chain(diagnoses.iter().flat_map(|diagnosis| &diagnosis.not_known)), style));
    // What an event is about may be of a kind that is not asked for by name.
    let is_asked_for = |kind: &str| matches!(kind, "Pod" | "PersistentVolumeClaim" | "PersistentVolume" | "Node");
    if let Some(first) =
        diagnoses.iter().map(|diagnosis| &diagnosis.subject).find(|subject| is_asked_for(&subject.kind))
    {
        let flag = if first.namespace.is_empty() { String::new() } else { format!(" -n {}", first.namespace) };
        let command = format!("latebind diagnose {}{flag}", first.reference());
        let hint = style.faint("More about one of them, and what to type next:");
        let _infallible = writeln!(text, "\n{hint} {}", clean(&command));
    }
    text
}

/// What is not known, each once.
fn missing<'a>(all: impl Iterator<Item = &'a String>, style: Style) -> String {
    let mut named: Vec<&String> = Vec::new();
    for missing in all {
        if !named.contains(&missing) {
            named.push(missing);
        }
    }
    let lines: String = named.iter().map(|missing| "  ".to_owned() + &clean(missing) + "\n").collect();
    if lines.is_empty() { lines } else { format!("\n{}\n{lines}", style.strong("Not known:")) }
}

/// A time in the two largest units that say something.
fn ago(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        assert_eq!(ago(59), "59s");
        assert_eq!(ago(125), "2m5s");
        assert_eq!(ago(7_260), "2h1m");
        assert_eq!(ago(200_000), "2d7h");
    }
}
