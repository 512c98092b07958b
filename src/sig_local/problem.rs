//! What is wrong with a configuration, by the key that is to be changed.

use std::fmt;

/// Why a configuration is not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Text of a key that is not YAML.
    #[error("{place} is not YAML: {problem}")]
    Yaml {
        /// The key.
        place: String,
        /// What the parser says.
        problem: String,
    },
    /// Something that cannot be used.
    #[error("{place} is `{value}`, and should be {expected}")]
    Value {
        /// The key.
        place: String,
        /// What it is, or the beginning of it.
        value: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// Something that has to be there.
    #[error("{place} is missing: {expected}")]
    Missing {
        /// The key.
        place: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// One key in two spellings, or one object with two contents.
    #[error("{place} is given twice, and differs: give it once")]
    Twice {
        /// The key or the object.
        place: String,
    },
    /// More than a LocalPool holds.
    #[error("{place} has {count} entries, and a LocalPool holds at most {most}: make several")]
    TooMany {
        /// The key.
        place: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// Two classes that would offer the same disks.
    #[error("{one} and {other} overlap: a disk would be offered twice; give each class a directory of its own")]
    Overlap {
        /// Key and directory of one class.
        one: String,
        /// Key and directory of the other.
        other: String,
    },
}

impl Problem {
    /// A value that cannot be used, cut to a length that can be read.
    pub(super) fn value(place: &str, value: &str, expected: &'static str) -> Self {
        Self::Value { place: place.to_owned(), value: value.chars().take(64).collect(), expected }
    }
}

/// Everything that is wrong with an input, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            write!(f, "{line_end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
