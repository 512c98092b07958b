//! How far latebind may go with a Pod that it finds stuck.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What admission does with a finding, from the least to the most that the requester notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Mode {
    /// Nothing that the requester sees: audit annotations and metrics only.
    Audit,
    /// Warnings as well.
    Warn,
    /// Pods are rewritten where that is safe, with a warning; all others get a warning.
    #[default]
    Rewrite,
    /// Nothing is rewritten; what would wait for ever is refused.
    Deny,
}

impl Mode {
    /// Every mode, the least strict first.
    pub const ALL: [Self; 4] = [Self::Audit, Self::Warn, Self::Rewrite, Self::Deny];

    /// The mode as a word of the command line and of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Warn => "warn",
            Self::Rewrite => "rewrite",
            Self::Deny => "deny",
        }
    }

    /// The strictest of several modes; none when there are none.
    pub fn strictest(modes: impl IntoIterator<Item = Self>) -> Option<Self> {
        modes.into_iter().max()
    }
}

/// A text that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of audit, warn, rewrite, deny")]
pub struct ParseModeError(String);

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| ParseModeError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn every_mode_reads_back_what_it_prints() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(mode.to_string().to_uppercase().parse(), Ok(mode));
        }
        let refused = "off".parse::<Mode>().expect_err("no such mode");
        assert_eq!(refused.to_string(), "\"off\" is not one of audit, warn, rewrite, deny");
    }

    #[test]
    fn the_strictest_mode_wins() {
        assert_eq!(Mode::strictest([Mode::Warn, Mode::Deny, Mode::Audit]), Some(Mode::Deny));
        assert_eq!(Mode::strictest([Mode::Audit, Mode::Rewrite, Mode::Warn]), Some(Mode::Rewrite));
        assert_eq!(Mode::strictest([]), None);
    }
}
