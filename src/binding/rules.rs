//! What an administrator may choose about decisions.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::assume::Assumptions;

/// By what a rewritten Pod is tied to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinStyle {
    /// The hostname label where it alone leads to the node, else the node's name.
    #[default]
    Auto,
    /// The hostname label or not at all.
    Hostname,
    /// The node's name.
    Name,
}

/// A text that names no pin style.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of auto, hostname, name")]
pub struct ParsePinStyleError(String);

impl FromStr for PinStyle {
    type Err = ParsePinStyleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "hostname" => Ok(Self::Hostname),
            "name" => Ok(Self::Name),
            _ => Err(ParsePinStyleError(text.chars().take(64).collect())),
        }
    }
}

/// The choices that every decision takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How Pods are pinned.
    pub pin: PinStyle,
    /// Names of schedulers that run and bind volumes.
    pub schedulers: Vec<String>,
    /// What is taken for granted of objects that are not among the facts; nothing by default.
    pub assume: Assumptions,
}

impl Default for Rules {
    fn default() -> Self {
        Self { pin: PinStyle::Auto, schedulers: vec!["default-scheduler".to_owned()], assume: Assumptions::default() }
    }
}
