//! `--fix`: from rewrites to files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use similar::TextDiff;

use super::check::{Checked, Rewrite};
use crate::binding::Pin;
use crate::cli::replace::replace_file;
use crate::facts::files::Source;
use crate::model::HOSTNAME_LABEL;
use crate::report::{Fix, Point, Replacement, State};
use crate::yaml::fix::{self, Edit, Target};

/// Lines around a change that are shown with it.
const CONTEXT: usize = 1;

/// What is to be done with rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Mode {
    /// Tell them with the findings.
    Propose,
    /// Show them as a diff.
    Diff,
    /// Write them.
    Write,
}

/// What was done.
#[derive(Debug, Default)]
pub(in crate::cli) struct Fixes {
    /// Text for standard output: rewritten standard input, or a diff.
    pub(in crate::cli) output: String,
    /// Standard output holds, or would hold, that text alone.
    pub(in crate::cli) stdout_is_taken: bool,
    /// Files that could not be written.
    pub(in crate::cli) failures: Vec<String>,
}

/// Adds fixes to the findings and, as the mode says, carries them out.
pub(in crate::cli) fn carry_out(checked: &mut Checked, stdin: Option<&Source>, mode: Mode) -> Fixes {
    let stdout_is_taken = mode == Mode::Diff || (mode == Mode::Write && stdin.is_some());
    let mut outcome = Fixes { stdout_is_taken, ..Fixes::default() };
    for refused in checked.refusals.iter().filter(|refused| refused.always || mode != Mode::Propose) {
        checked.findings[refused.finding].not_fixed = Some(refused.why.clone());
    }
    let rewrites = std::mem::take(&mut checked.rewrites);
    let files = by_file(&rewrites);
    for (source, rewrites) in &files {
        outcome.file(checked, source, rewrites, mode);
    }
    // A filter passes on what it leaves alone.
    if let Some(stdin) = stdin.filter(|_| mode == Mode::Write && files.iter().all(|(source, _)| source.path.is_some()))
    {
        outcome.output.push_str(&stdin.text);
    }
    outcome
}

/// Rewrites by the file that they are in. A file that was named twice is one file.
fn by_file(rewrites: &[Rewrite]) -> Vec<(Arc<Source>, Vec<&Rewrite>)> {
    let mut places: BTreeMap<Option<PathBuf>, usize> = BTreeMap::new();
    let mut files: Vec<(Arc<Source>, Vec<&Rewrite>)> = Vec::new();
    for rewrite in rewrites {
        let source = rewrite.origin.source();
        let real = source.path.as_ref().map(|path| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
        let place = *places.entry(real).or_insert_with(|| {
            files.push((Arc::clone(source), Vec::new()));
            files.len() - 1
        });
        files[place].1.push(rewrite);
    }
    files
}

fn target(rewrite: &Rewrite) -> Target {
    let document = rewrite.origin.document();
    let start = document.start.byte;
    Target { document: start..start + document.text().len(), spec: rewrite.spec.clone(), pin: rewrite.pin.clone() }
}

impl Fixes {
    fn file(&mut self, checked: &mut Checked, source: &Source, rewrites: &[&Rewrite], mode: Mode) {
        let mut targets: Vec<Target> = Vec::new();
        let places: Vec<usize> = rewrites
            .iter()
            .map(|rewrite| {
                let target = target(rewrite);
                targets.iter().position(|other| *other == target).unwrap_or_else(|| {
                    targets.push(target);
                    targets.len() - 1
                })
            })
            .collect();
        let fixed = fix::fix(&source.text, &targets);
        let lines = Lines::of(&source.text);
        for (rewrite, place) in rewrites.iter().zip(&places) {
            let finding = &mut checked.findings[rewrite.finding];
            match &fixed.targets[*place] {
                Ok(edits) => finding.fix = Some(lines.fix(&source.text, edits, &rewrite.pin)),
                Err(refusal) if mode != Mode::Propose => finding.not_fixed = Some(refusal.to_string()),
                Err(_) => {}
            }
        }
        let written = match mode {
            Mode::Propose => return,
            Mode::Diff => return self.output.push_str(&diff(source, &fixed.text)),
            Mode::Write => self.write(source, &fixed),
        };
        let done = rewrites.iter().zip(&places).filter(|(_, place)| fixed.targets[**place].is_ok());
        for (rewrite, _) in done {
            match &written {
                Ok(()) => {
                    let named = checked.findings[rewrite.findings.clone()].iter_mut();
                    named.filter(|finding| finding.is_open()).for_each(|finding| finding.state = State::Fixed);
                }
                Err(why) => checked.findings[rewrite.finding].not_fixed = Some(why.clone()),
            }
        }
    }

    fn write(&mut self, source: &Source, fixed: &fix::Fixed) -> Result<(), String> {
        let Some(path) = &source.path else {
            self.output.push_str(&fixed.text);
            return Ok(());
        };
        if !fixed.changed() {
            return Ok(());
        }
        replace_file(path, &source.text, &fixed.text).map_err(|error| {
            self.failures.push(error.to_string());
            error.to_string()
        })
    }
}

fn diff(source: &Source, after: &str) -> String {
    if source.text == after {
        return String::new();
    }
    let name = source.path.as_ref().map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let name = name.trim_start_matches("./");
    let diff = TextDiff::from_lines(source.text.as_str(), after);
    diff.unified_diff().context_radius(3).header(&format!("a/{name}"), &format!("b/{name}")).to_string()
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The place of a line in the list.
    fn line(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte).saturating_sub(1)
    }

    fn point(&self, text: &str, byte: usize) -> Point {
        let line = self.line(byte);
        let before = text.get(self.0[line]..byte).unwrap_or_default();
        Point { line: line + 1, column: before.trim_start_matches('\u{feff}').chars().count() + 1 }
    }

    fn fix(&self, text: &str, edits: &[Edit], pin: &Pin) -> Fix {
        let mut edits = edits.to_vec();
        edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
        let replacements = edits.iter().map(|edit| Replacement {
            start: self.point(text, edit.range.start),
            end: self.point(text, edit.range.end),
            bytes: edit.range.clone(),
            text: edit.text.clone(),
        });
        let description = match pin {
            Pin::Hostname(value) => format!("replace nodeName by nodeSelector {HOSTNAME_LABEL}: {value}"),
            Pin::Name(name) => format!("replace nodeName by required node affinity to the node named {name}"),
        };
        Fix { description, replacements: replacements.collect(), diff: self.diff(text, &edits) }
    }

    /// The changed lines and those around them. Only that part of the text is compared.
    fn diff(&self, text: &str, edits: &[Edit]) -> String {
        let (Some(first), Some(last)) = (edits.first(), edits.iter().map(|edit| edit.range.end).max()) else {
            return String::new();
        };
        let start = self.0[self.line(first.range.start).saturating_sub(CONTEXT)];
        let end = self.0.get(self.line(last) + 1 + CONTEXT).copied().unwrap_or(text.len());
        let before = &text[start..end];
        let shifted =
            |edit: &Edit| Edit { range: edit.range.start - start..edit.range.end - start, text: edit.text.clone() };
        let after = fix::apply(before, &edits.iter().map(shifted).collect::<Vec<_>>()).unwrap_or_default();
        let diff = TextDiff::from_lines(before, after.as_str());
        let mut lines = String::new();
        for group in diff.grouped_ops(CONTEXT) {
            for change in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
                lines.push_str(&change.tag().to_string());
                lines.push_str(change.value().trim_end_matches(['\n', '\r']));
                lines.push('\n');
            }
        }
        lines
    }
}
