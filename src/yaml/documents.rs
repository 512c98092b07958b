//! The documents of a file, each of which can be read when the others are broken.

use serde_json::Value;
use serde_json::value::RawValue;

use super::tree::{self, AliasBudget};
use super::{Located, Position, SyntaxError};

/// One document of a file: a part of its text that holds more than comments.
#[derive(Clone, Copy, Debug)]
pub struct Document<'text> {
    text: &'text str,
    /// Place among the documents of the file, from 0.
    pub index: usize,
    /// Where its text starts.
    pub start: Position,
}

impl<'text> Document<'text> {
    /// The document's text, with its `---` line.
    #[must_use]
    pub const fn text(&self) -> &'text str {
        self.text
    }

    /// A document whose text was cut out of a file before.
    #[must_use]
    pub const fn cut(text: &'text str, index: usize, start: Position) -> Self {
        Self { text, index, start }
    }

    /// The document's value; `null` where it holds nothing.
    ///
    /// # Errors
    /// When the text is not YAML, gives a key twice, nests too deep, or its aliases exceed the budget.
    pub fn value(&self, budget: &mut AliasBudget) -> Result<Value, SyntaxError> {
        Ok(tree::read(self.text, self.start, budget)?.unwrap_or(Value::Null))
    }

    /// The document's value with positions; nothing where it holds nothing.
    ///
    /// # Errors
    /// As for [`Self::value`].
    pub fn located(&self, budget: &mut AliasBudget) -> Result<Option<Located>, SyntaxError> {
        tree::read(self.text, self.start, budget)
    }
}

/// Cuts a file into its documents: YAML at lines that start with `---` or `...`, JSON after each value.
///
/// A line of YAML that starts so ends whatever stands before it, even within a block scalar or quotes (YAML 1.2.2,
/// rule `c-forbidden`), so that a broken document never swallows the next one. A byte order mark is skipped.
#[must_use]
pub fn documents(file: &str) -> Vec<Document<'_>> {
    let body = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut cutter =
        Cutter { rest: body, start: Position { line: 1, column: 1, byte: file.len() - body.len() }, found: Vec::new() };
    if body.trim_start().starts_with('{') && cutter.cut_json() {
        return cutter.found;
    }
    cutter.cut_yaml();
    cutter.found
}

struct Cutter<'text> {
    rest: &'text str,
    start: Position,
    found: Vec<Document<'text>>,
}

impl Cutter<'_> {
    /// Takes JSON values for as long as there are any; false when the text does not even start with one.
    fn cut_json(&mut self) -> bool {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if self.rest.is_empty() {
                return true;
            }
            let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<&RawValue>();
            match values.next() {
                Some(Ok(value)) if value.get().starts_with('{') => {
                    let length = values.byte_offset();
                    self.take(length);
                }
                _ if self.found.is_empty() => return false,
                // What follows is not JSON: as YAML it may be a document of its own, or gives the error.
                _ => {
                    self.cut_yaml();
                    return true;
                }
            }
        }
    }

    fn cut_yaml(&mut self) {
        while !self.rest.is_empty() {
            let (length, skip) = next_cut(self.rest);
            self.take(length);
            self.advance(skip);
        }
    }

    fn take(&mut self, length: usize) {
        let text = &self.rest[..length];
        if holds_content(text) {
            self.found.push(Document { text, index: self.found.len(), start: self.start });
        }
        self.advance(length);
    }

    fn advance(&mut self, length: usize) {
        let passed = &self.rest[..length];
        match passed.rfind('\n') {
            Some(last_break) => {
                self.start.line += passed.bytes().filter(|byte| *byte == b'\n').count();
                self.start.column = 1 + passed[last_break + 1..].chars().count();
            }
            None => self.start.column += passed.chars().count(),
        }
        self.start.byte += length;
        self.rest = &self.rest[length..];
    }
}

/// Length of the first document, and of the end marker after it.
fn next_cut(text: &str) -> (usize, usize) {
    let mut from = 0;
    // Directives stand before the `---` of the document that they belong to.
    let mut only_directives = true;
    loop {
        let line = text[from..].split_inclusive('\n').next().unwrap_or_default();
        if line.is_empty() {
            return (text.len(), 0);
        }
        if is_marker(line, "...") {
            return (from, line.len());
        }
        if is_marker(line, "---") && !only_directives {
            return (from, 0);
        }
        if !only_directives {
            from += line.len();
            // From here on only lines that may be markers matter.
            from += next_marker_line(&text[from..]);
            continue;
        }
        let content = line.trim();
        only_directives = content.is_empty() || content.starts_with('#') || line.starts_with('%');
        from += line.len();
    }
}

/// Offset of the next line that starts with `---` or `...`, or of the end.
fn next_marker_line(text: &str) -> usize {
    if text.starts_with("---") || text.starts_with("...") {
        return 0;
    }
    let dashes = text.find("\n---").map(|found| found + 1);
    let within = &text[..dashes.unwrap_or(text.len())];
    within.find("\n...").map(|found| found + 1).or(dashes).unwrap_or(text.len())
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// False for text that holds only comments, blank lines and a `---`.
fn holds_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim();
        let line = line.strip_prefix("---").map_or(line, str::trim_start);
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    })
}
