//! What an eviction does that leaves a volume behind.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the eviction of a Pod whose volume is on its node alone, from the least strict on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrainPolicy {
    /// It goes, and nothing is said.
    Allow,
    /// It goes, and a warning says what stays behind.
    #[default]
    Warn,
    /// It goes once all other replicas of its StatefulSet are ready.
    Wait,
    /// It goes once somebody has approved.
    Deny,
}

impl DrainPolicy {
    /// Every policy, from the least strict on.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Warn, Self::Wait, Self::Deny];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Warn => "Warn",
            Self::Wait => "Wait",
            Self::Deny => "Deny",
        }
    }
}

impl fmt::Display for DrainPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no drain policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of Allow, Warn, Wait and Deny")]
pub struct NoDrainPolicy;

impl FromStr for DrainPolicy {
    type Err = NoDrainPolicy;

    /// In any case: a policy that somebody writes in small letters is not to be without effect.
    fn from_str(text: &str) -> Result<Self, NoDrainPolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str().eq_ignore_ascii_case(text.trim())).ok_or(NoDrainPolicy)
    }
}
