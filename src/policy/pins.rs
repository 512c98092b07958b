//! What the PinPolicies of a cluster say about one Pod that names its node: how far latebind goes with it, which policy
//! decides that and why. Pure: the moment is a part of the question.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::jiff::Timestamp;

use super::matching::{Covers, Truth, allows, covers};
use super::request::PinRequest;
use super::{Mode, namespace_mode};
use crate::binding::{ClusterView, Lookup, PinStyle};
use crate::crd::{PinBy, PinPolicy, PolicyMode};

/// What decides the mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DecidedBy {
    /// `--mode`: no policy covers the Pod.
    #[default]
    Flag,
    /// The label of the namespace, which is stricter than everything else.
    NamespaceLabel,
    /// The strictest of the policies that cover the Pod.
    Policy(String),
    /// Something that is not known: the least strict of what may be, and nothing that a policy may forbid.
    NotKnown,
}

/// A policy that would cover the Pod, were it not for an exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excepted {
    /// The policy.
    pub policy: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub expires_at: Timestamp,
}

/// A policy that does not allow the Pod's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// The policy.
    pub policy: String,
    /// Its mode, as far as the namespace's label does not make it stricter.
    pub mode: Mode,
}

/// Something about a policy that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKnown {
    /// The policy; absent where the policies themselves are not known.
    pub policy: Option<String>,
    /// How far it would go.
    pub mode: Option<Mode>,
    /// What is not known.
    pub what: String,
}

/// The answer about one Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How far admission goes; `None` leaves the Pod alone.
    pub mode: Option<Mode>,
    /// The least strict mode that may be right: the same as `mode` where everything is known.
    pub least: Option<Mode>,
    /// What decided the mode.
    pub decided_by: DecidedBy,
    /// The policies that cover the Pod, by name, and the mode that each says.
    pub covering: Vec<(String, Option<Mode>)>,
    /// The policies that would, but for an exception.
    pub excepted: Vec<Excepted>,
    /// The policies that cover it and do not allow its node, the strictest first.
    pub not_allowed: Vec<NotAllowed>,
    /// What is not known.
    pub not_known: Vec<NotKnown>,
    /// latebind ties nothing to the Pod's node: a policy of mode Rewrite or Deny does not allow it, or may not.
    pub withheld: bool,
    /// By what the Pod is tied to its node, if a policy says so.
    pub pin: Option<PinStyle>,
    /// Whether `latebind.dev/ignore` counts; absent where no policy has a say.
    pub allows_ignore: Option<bool>,
}

const fn mode_of(mode: PolicyMode) -> Option<Mode> {
    match mode {
        PolicyMode::Off => None,
        PolicyMode::Audit => Some(Mode::Audit),
        PolicyMode::Warn => Some(Mode::Warn),
        PolicyMode::Rewrite => Some(Mode::Rewrite),
        PolicyMode::Deny => Some(Mode::Deny),
    }
}

const fn style(pin: PinBy) -> PinStyle {
    match pin {
        PinBy::Auto => PinStyle::Auto,
        PinBy::Hostname => PinStyle::Hostname,
        PinBy::Name => PinStyle::Name,
    }
}

/// What the policies of the view say about the Pod. A Pod that names no node is nobody's business.
///
/// Of the policies that cover the Pod the strictest wins, and takes the place of `--mode`. The namespace's label can only
/// make it stricter. What is not known never refuses and never rewrites: see [`Decision::least`].
#[must_use]
pub fn evaluate(request: &PinRequest<'_>, view: &dyn ClusterView) -> Decision {
    let label = namespace_mode(&view.namespace(request.pod.namespace()));
    let raised = |mode: Option<Mode>| mode.max(label);
    let flag = Some(request.mode);
    let mut decision = Decision { mode: raised(flag), least: raised(flag), ..Decision::default() };
    let by_label = |mode: Option<Mode>| label > mode;
    if by_label(flag) {
        decision.decided_by = DecidedBy::NamespaceLabel;
    }
    let Some(node) = request.pod.pinned_node() else { return decision };
    let policies = match view.policies() {
        Lookup::Found(policies) => policies,
        Lookup::Absent => return decision,
        Lookup::Unknown => {
            decision.least = None;
            decision.mode = decision.mode.min(Some(Mode::Warn));
            decision.decided_by = DecidedBy::NotKnown;
            decision.withheld = true;
            let what = "which PinPolicies there are is not known".to_owned();
            decision.not_known.push(NotKnown { policy: None, mode: Some(Mode::Warn), what });
            return decision;
        }
    };
    let mut policies: Vec<&PinPolicy> = policies.iter().map(|policy| &***policy).collect();
    policies.sort_by_key(|policy| policy.name());
    for policy in policies {
        decision.add(policy, request, node, raised, view);
    }
    decision.settle(flag, raised, by_label);
    decision
}

/// What one policy alone says about the Pod, whatever others say: [`Decision::covering`], [`Decision::not_allowed`] and
/// [`Decision::not_known`]. The namespace's label is left aside.
#[must_use]
pub fn evaluate_one(policy: &PinPolicy, request: &PinRequest<'_>, view: &dyn ClusterView) -> Decision {
    let mut decision = Decision::default();
    if let Some(node) = request.pod.pinned_node() {
        decision.add(policy, request, node, |mode| mode, view);
    }
    decision
}

impl Decision {
    /// Takes in what one policy says.
    fn add(
        &mut self,
        policy: &PinPolicy,
        request: &PinRequest<'_>,
        node: &str,
        raised: impl Fn(Option<Mode>) -> Option<Mode>,
        view: &dyn ClusterView,
    ) {
        let (name, spec) = (policy.name().to_owned(), &policy.spec);
        let mode = raised(mode_of(spec.mode));
        let covered = match covers(spec, request, view) {
            Covers::No => return,
            Covers::Excepted(place) => {
                let exception = &spec.exceptions[place];
                let (reason, expires_at) = (exception.reason.clone(), exception.expires_at.0);
                self.excepted.push(Excepted { policy: name, reason, expires_at });
                return;
            }
            Covers::Yes => true,
            Covers::Unknown(what) => {
                self.not_known.push(NotKnown { policy: Some(name.clone()), mode, what });
                false
            }
        };
        let allowed = spec.allowed_nodes.as_ref().map_or(Truth::Yes, |nodes| allows(nodes, node, view));
        // What may be forbidden is not done either.
        self.withheld |= allowed != Truth::Yes && mode >= Some(Mode::Rewrite);
        match (allowed, mode) {
            (Truth::No, Some(mode)) if covered => self.not_allowed.push(NotAllowed { policy: name.clone(), mode }),
            (Truth::Unknown(what), Some(_)) if covered => {
                self.not_known.push(NotKnown { policy: Some(name.clone()), mode, what });
            }
            _ => {}
        }
        let ignores = self.allows_ignore.unwrap_or(true) && spec.allow_ignore;
        self.allows_ignore = Some(ignores);
        if covered {
            // Only a policy of mode Rewrite has it; of several the first by name.
            self.pin = self.pin.or(spec.pin.map(style));
            self.covering.push((name, mode_of(spec.mode)));
        }
    }

    /// The mode, from what all policies say together.
    fn settle(
        &mut self,
        flag: Option<Mode>,
        raised: impl Fn(Option<Mode>) -> Option<Mode>,
        by_label: impl Fn(Option<Mode>) -> bool,
    ) {
        self.not_allowed.sort_by(|left, right| right.mode.cmp(&left.mode).then_with(|| left.policy.cmp(&right.policy)));
        let strictest = self.covering.iter().map(|(_, mode)| *mode).max();
        let certain = raised(strictest.unwrap_or(flag));
        if strictest.is_none() {
            self.allows_ignore = None;
        }
        // Each policy of which it is not known whether it covers the Pod may, or may not.
        let covering: BTreeSet<&str> = self.covering.iter().map(|(name, _)| name.as_str()).collect();
        let open = self.not_known.iter().filter(|it| it.policy.as_deref().is_none_or(|name| !covering.contains(name)));
        let possible: BTreeSet<Option<Mode>> = std::iter::once(certain)
            .chain(open.map(|it| if strictest.is_some() { certain.max(it.mode) } else { it.mode }))
            .collect();
        self.least = possible.first().copied().unwrap_or(certain);
        if possible.len() > 1 {
            self.mode = self.least.min(Some(Mode::Warn));
            self.decided_by = DecidedBy::NotKnown;
            return;
        }
        self.mode = certain;
        let winner = self.covering.iter().find(|(_, mode)| Some(*mode) == strictest);
        self.decided_by = match winner {
            _ if by_label(strictest.unwrap_or(flag)) => DecidedBy::NamespaceLabel,
            Some((name, _)) => DecidedBy::Policy(name.clone()),
            None => DecidedBy::Flag,
        };
    }

    /// The name of the policy that decides.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match &self.decided_by {
            DecidedBy::Policy(name) => Some(name),
            DecidedBy::Flag | DecidedBy::NamespaceLabel | DecidedBy::NotKnown => None,
        }
    }

    /// True when a policy has, or may have, a say about the Pod.
    #[must_use]
    pub fn is_of_policies(&self) -> bool {
        !(self.covering.is_empty() && self.excepted.is_empty() && self.not_known.is_empty())
    }

    /// What to tell a person, one sentence a line: what decides, and then everything that bears on it.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.to_string()];
        let others = self.covering.iter().filter(|(name, _)| Some(name.as_str()) != self.policy());
        lines.extend(others.map(|(name, mode)| format!("PinPolicy {name:?} covers it too, mode {}", word(*mode))));
        lines.extend(
            self.not_allowed.iter().map(|it| {
                format!("PinPolicy {:?} (mode {}) does not allow the node that it names", it.policy, it.mode)
            }),
        );
        lines.extend(
            self.excepted.iter().map(|it| {
                format!("PinPolicy {:?} does not cover it until {}: {}", it.policy, it.expires_at, it.reason)
            }),
        );
        lines.extend(self.not_known.iter().map(|it| match &it.policy {
            Some(policy) => format!("PinPolicy {policy:?} (mode {}): {}", word(it.mode), it.what),
            None => it.what.clone(),
        }));
        if self.withheld {
            lines.push("latebind ties nothing to that node".to_owned());
        }
        lines
    }
}

/// A mode as a word; `off` is none.
fn word(mode: Option<Mode>) -> &'static str {
    mode.map_or("off", Mode::as_str)
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = word(self.mode);
        match &self.decided_by {
            DecidedBy::Flag => write!(f, "mode {mode}, by --mode: no PinPolicy covers the Pod"),
            DecidedBy::NamespaceLabel => write!(f, "mode {mode}, by the namespace's label latebind.dev/mode"),
            DecidedBy::NotKnown => write!(f, "mode {mode}: whether a PinPolicy covers the Pod is not known"),
            DecidedBy::Policy(name) if self.covering.len() == 1 => {
                write!(f, "mode {mode}, by PinPolicy {name:?}, the only one that covers the Pod")
            }
            DecidedBy::Policy(name) => {
                write!(
                    f,
                    "mode {mode}, by PinPolicy {name:?}, the strictest of {} that cover the Pod",
                    self.covering.len()
                )
            }
        }
    }
}
