//! How far latebind may go with a Pod that names its node: one answer for admission, the rescue loop and the offline
//! commands. The flags, the namespace's labels, and the PinPolicies of the cluster (`pins`).

mod ignore;
mod judge;
mod matching;
mod pins;
#[cfg(test)]
mod pins_tests;
mod request;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::binding::{ClusterView, Code, Lookup};
use crate::model::{IGNORE, MODE_LABEL, Namespace, Pod, RESCUE_LABEL, WEBHOOK_LABEL};

pub use ignore::{Ignores, read as read_ignores};
pub use judge::judge;
pub use matching::{is_expired, selects};
pub use pins::{DecidedBy, Decision, Excepted, NotAllowed, NotKnown, evaluate, evaluate_one};
pub use request::{PinRequest, Requester};

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
    /// Nothing is rewritten; what would wait forever is refused.
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
}

/// The mode for a namespace: what its label asks for, if that is stricter than the mode for all.
///
/// Who may label a namespace may thereby not get around what the administrator chose.
#[must_use]
pub fn mode_in(namespace: &Namespace, for_all: Mode) -> Mode {
    asked_by(namespace).map_or(for_all, |asked| asked.max(for_all))
}

/// The mode that the namespace's label asks for. A word that is no mode is as good as none.
fn asked_by(namespace: &Namespace) -> Option<Mode> {
    namespace.metadata.label(MODE_LABEL).and_then(|word| word.parse::<Mode>().ok())
}

/// The same, by what is known of the namespace.
fn namespace_mode(namespace: &Lookup<Arc<Namespace>>) -> Option<Mode> {
    match namespace {
        Lookup::Found(namespace) => asked_by(namespace),
        Lookup::Absent | Lookup::Unknown => None,
    }
}

/// What is not looked at by anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemptions {
    /// Namespaces.
    pub namespaces: BTreeSet<String>,
}

impl Default for Exemptions {
    fn default() -> Self {
        Self { namespaces: BTreeSet::from(["kube-system".to_owned()]) }
    }
}

/// What an administrator chose about the rescue loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescuePolicy {
    /// It does anything at all.
    pub enabled: bool,
    /// The mode for all namespaces.
    pub mode: Mode,
    /// What it leaves alone.
    pub exemptions: Exemptions,
    /// Namespaces whose Pods may get existing volumes of nodes with a taint that they do not tolerate.
    pub tainted_nodes_for: BTreeSet<String>,
}

impl Default for RescuePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: Mode::default(),
            exemptions: Exemptions::default(),
            tainted_nodes_for: BTreeSet::new(),
        }
    }
}

/// How far the rescue loop goes, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing is looked at.
    Leave,
    /// What is stuck is counted.
    Count,
    /// And told, as events.
    Tell,
    /// And helped.
    Write,
}

impl RescuePolicy {
    /// How far the loop goes in a namespace of this name; none while what its labels say is not known.
    #[must_use]
    pub fn reach(&self, name: &str, namespace: &Lookup<Arc<Namespace>>) -> Option<Reach> {
        if !self.enabled || self.exemptions.namespaces.contains(name) {
            return Some(Reach::Leave);
        }
        // A claim of a namespace that is not there is one whose namespace has not been read yet.
        let Lookup::Found(namespace) = namespace else { return None };
        let is_disabled = |label| namespace.metadata.label(label) == Some("disabled");
        if is_disabled(WEBHOOK_LABEL) || is_disabled(RESCUE_LABEL) {
            return Some(Reach::Leave);
        }
        Some(Reach::in_mode(Some(mode_in(namespace, self.mode))))
    }

    /// How far the loop goes for a Pod, by the policies that cover it; none while it is not known which there are. Who
    /// created the Pod is not known any more.
    #[must_use]
    pub fn reach_for(&self, pod: &Pod, view: &dyn ClusterView, now: Timestamp) -> Option<(Reach, Decision)> {
        if matches!(view.policies(), Lookup::Unknown) {
            return None;
        }
        let decision = evaluate(&PinRequest { pod, requester: None, mode: self.mode, now }, view);
        let reach = Reach::in_mode(decision.least);
        let accepted = || pod.metadata.annotation(IGNORE).map(read_ignores).unwrap_or_default().reasons;
        let reach = match decision.allows_ignore {
            Some(true) if accepted().contains_key(&Code::PinnedToDelayedClaim) => Reach::Leave,
            _ if decision.withheld => reach.min(Reach::Tell),
            _ => reach,
        };
        Some((reach, decision))
    }
}

impl Reach {
    /// As far as admission goes.
    const fn in_mode(mode: Option<Mode>) -> Self {
        match mode {
            None => Self::Leave,
            Some(Mode::Audit) => Self::Count,
            Some(Mode::Warn) => Self::Tell,
            Some(Mode::Rewrite | Mode::Deny) => Self::Write,
        }
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
    use serde_json::json;

    use super::*;

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
    fn the_rescue_loop_goes_as_far_as_admission_would() {
        let namespace = |labels: serde_json::Value| -> Lookup<Arc<Namespace>> {
            Lookup::Found(Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels}})).unwrap(),
            ))
        };
        let policy = |mode| RescuePolicy { mode, ..RescuePolicy::default() };
        let plain = namespace(json!({}));
        for (mode, expected) in [
            (Mode::Audit, Reach::Count),
            (Mode::Warn, Reach::Tell),
            (Mode::Rewrite, Reach::Write),
            (Mode::Deny, Reach::Write),
        ] {
            assert_eq!(policy(mode).reach("a", &plain), Some(expected), "{mode}");
        }
        let rewrite = policy(Mode::Rewrite);
        for label in ["latebind.dev/webhook", "latebind.dev/rescue"] {
            assert_eq!(rewrite.reach("a", &namespace(json!({label: "disabled"}))), Some(Reach::Leave), "{label}");
            assert_eq!(rewrite.reach("a", &namespace(json!({label: "enabled"}))), Some(Reach::Write), "{label}");
        }
        let stricter = namespace(json!({"latebind.dev/mode": "warn"}));
        assert_eq!(policy(Mode::Audit).reach("a", &stricter), Some(Reach::Tell));
        assert_eq!(rewrite.reach("a", &stricter), Some(Reach::Write), "a label makes it stricter, never laxer");
        assert_eq!(rewrite.reach("kube-system", &plain), Some(Reach::Leave));
        let off = RescuePolicy { enabled: false, ..RescuePolicy::default() };
        assert_eq!(off.reach("a", &plain), Some(Reach::Leave));
        for missing in [Lookup::Unknown, Lookup::Absent] {
            assert_eq!(rewrite.reach("a", &missing), None, "what is not known permits nothing");
        }
    }
}
