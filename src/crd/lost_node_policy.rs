//! What is done about a claim whose node is gone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is done about a claim whose volume no node reaches any more, from the least on.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostNodePolicy {
    /// It is told.
    #[default]
    Explain,
    /// The volume is kept, and the claim made anew without it.
    Unbind,
}

impl LostNodePolicy {
    /// Every policy, from the least on.
    pub const ALL: [Self; 2] = [Self::Explain, Self::Unbind];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explain => "Explain",
            Self::Unbind => "Unbind",
        }
    }
}

impl fmt::Display for LostNodePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no policy for lost nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither Explain nor Unbind")]
pub struct NoLostNodePolicy;

impl FromStr for LostNodePolicy {
    type Err = NoLostNodePolicy;

    /// In any case, as drain policies are read.
    fn from_str(text: &str) -> Result<Self, NoLostNodePolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str().eq_ignore_ascii_case(text.trim())).ok_or(NoLostNodePolicy)
    }
}
