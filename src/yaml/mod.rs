//! One YAML or JSON document as a tree that knows where each key and value stands.
//!
//! Values are read as kubectl reads them (YAML 1.1 booleans and octal numbers included), so that what is decided here
//! is decided about the object that the API server would get. Reading for values alone ([`Document::value`]) is the
//! fast path; positions ([`Document::located`]) are asked for only where something is to be reported or edited.

mod documents;
pub mod fix;
mod scalar;
mod tree;

use std::fmt;
use std::ops::Range;

use serde::Serialize;
use serde_json::Value;

pub use documents::{Document, documents};
pub use scalar::ScalarStyle;
pub use tree::AliasBudget;

use crate::binding::FieldPath;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Offset in bytes from the start of the file.
    pub byte: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// From one place in a file up to another, which is not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Span {
    /// The first character.
    pub start: Position,
    /// The character after the last.
    pub end: Position,
}

impl Span {
    /// Offsets in bytes from the start of the file.
    #[must_use]
    pub const fn bytes(&self) -> Range<usize> {
        self.start.byte..self.end.byte
    }

    /// The text of the span in its file; empty when the file is another one.
    #[must_use]
    pub fn of<'text>(&self, file: &'text str) -> &'text str {
        file.get(self.bytes()).unwrap_or_default()
    }
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct SyntaxError {
    /// Where reading stopped.
    pub position: Position,
    /// What is wrong, and what to do where that is not plain.
    pub message: String,
}

/// A value of a document, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// From the first character of the value to its end. A block mapping or sequence ends with its last value.
    pub span: Span,
    /// The value comes from an alias or a merge key: its text stands elsewhere and serves more than one place.
    pub aliased: bool,
    /// The value.
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A string, number, boolean or null.
    Scalar {
        /// The value, as kubectl reads it.
        value: Value,
        /// How it is written.
        style: ScalarStyle,
    },
    /// A sequence.
    Sequence {
        /// Its items.
        items: Vec<Located>,
        /// Written in brackets.
        flow: bool,
    },
    /// A mapping.
    Mapping {
        /// Its entries, in the order of the text; those of merge keys last.
        entries: Vec<Entry>,
        /// Written in braces.
        flow: bool,
    },
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key, without quotes.
    pub key: String,
    /// Where the key stands, quotes included.
    pub key_span: Span,
    /// The value.
    pub value: Located,
}

impl Entry {
    /// From the key to the end of the value.
    #[must_use]
    pub const fn span(&self) -> Span {
        Span { start: self.key_span.start, end: self.value.span.end }
    }
}

/// What stands at a path of a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot<'tree> {
    /// The mapping entry; absent for items of sequences and for the document itself.
    pub entry: Option<&'tree Entry>,
    /// The value.
    pub value: &'tree Located,
    /// How many steps of the path were found; all of them for [`Located::find`].
    pub depth: usize,
}

impl Spot<'_> {
    /// The whole entry, or the value where there is no key.
    #[must_use]
    pub fn span(&self) -> Span {
        self.entry.map_or(self.value.span, Entry::span)
    }

    /// True when the text of the value, or of something around it, serves more than one place.
    #[must_use]
    pub const fn is_aliased(&self) -> bool {
        self.value.aliased
    }
}

impl Located {
    /// What stands at the path, if all of it exists.
    #[must_use]
    pub fn find(&self, path: &FieldPath) -> Option<Spot<'_>> {
        let spot = self.nearest(path);
        (spot.depth == path.0.len()).then_some(spot)
    }

    /// What stands at the path or, where the path ends early, at the last step of it that exists.
    #[must_use]
    pub fn nearest(&self, path: &FieldPath) -> Spot<'_> {
        let mut spot = Spot { entry: None, value: self, depth: 0 };
        for step in &path.0 {
            let Some(next) = spot.value.step(step) else { break };
            spot = Spot { depth: spot.depth + 1, ..next };
        }
        spot
    }

    /// The value of a key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.step(key).map(|spot| spot.value)
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { value, .. } => value.as_str(),
            Content::Sequence { .. } | Content::Mapping { .. } => None,
        }
    }

    /// The value without positions.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::Sequence { items, .. } => items.iter().map(Self::to_value).collect(),
            Content::Mapping { entries, .. } => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect())
            }
        }
    }

    fn step(&self, step: &str) -> Option<Spot<'_>> {
        match &self.content {
            Content::Scalar { .. } => None,
            Content::Sequence { items, .. } => {
                let value = items.get(step.parse::<usize>().ok()?)?;
                Some(Spot { entry: None, value, depth: 0 })
            }
            Content::Mapping { entries, .. } => {
                let entry = entries.iter().find(|entry| entry.key == step)?;
                Some(Spot { entry: Some(entry), value: &entry.value, depth: 0 })
            }
        }
    }
}
