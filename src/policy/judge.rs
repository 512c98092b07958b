//! The verdict on a Pod as the policies leave it: what they add to the findings, and what they withhold.

use std::borrow::Cow;

use super::ignore;
use super::pins::Decision;
use super::{Mode, NotKnown};
use crate::binding::{ClusterView, Code, FieldPath, Finding, PodVerdict, Remedy, Rules, Severity, decide_pod};
use crate::model::{IGNORE, Pod};

/// Decides about a Pod as the policies let it be decided.
#[must_use]
pub fn judge(pod: &Pod, view: &dyn ClusterView, rules: &Rules, decision: &Decision) -> PodVerdict {
    decision.apply(decide_pod(pod, view, &decision.rules(rules)), pod, &[])
}

/// How much a finding about a policy of this mode matters.
const fn severity(mode: Mode) -> Severity {
    match mode {
        Mode::Audit => Severity::Info,
        Mode::Warn | Mode::Rewrite => Severity::Warning,
        Mode::Deny => Severity::Error,
    }
}

impl Decision {
    /// The rules, with the pin that a policy asks for.
    #[must_use]
    pub fn rules<'a>(&self, rules: &'a Rules) -> Cow<'a, Rules> {
        match self.pin {
            Some(pin) if pin != rules.pin => Cow::Owned(Rules { pin, ..rules.clone() }),
            _ => Cow::Borrowed(rules),
        }
    }

    /// A verdict with what the policies say: findings that the Pod may ignore are gone, those about policies are added, and
    /// nothing is tied to a node that is not allowed. `at` leads from the top of the object to the Pod in it.
    #[must_use]
    pub fn apply(&self, mut verdict: PodVerdict, pod: &Pod, at: &[&str]) -> PodVerdict {
        if !self.is_of_policies() {
            return verdict;
        }
        self.apply_ignores(&mut verdict, pod, at);
        verdict.findings.extend(self.finding_of_node(pod, at));
        verdict.findings.extend(self.finding_of_not_known(at));
        if self.withheld {
            withhold(&mut verdict);
        }
        verdict.findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.code));
        verdict
    }

    /// The Pod's annotation, where the policies let it count; and that it does not, where it would have made a difference.
    fn apply_ignores(&self, verdict: &mut PodVerdict, pod: &Pod, at: &[&str]) {
        let (Some(allowed), Some(text)) = (self.allows_ignore, pod.metadata.annotation(IGNORE)) else { return };
        let ignored = ignore::read(text).reasons;
        if !verdict.findings.iter().any(|finding| ignored.contains_key(&finding.code)) {
            return;
        }
        if allowed {
            verdict.findings.retain(|finding| !ignored.contains_key(&finding.code));
            // Whoever accepts that the Pod waits, wants nothing to be done about it.
            if ignored.contains_key(&Code::PinnedToDelayedClaim) || ignored.contains_key(&Code::ResourceClaims) {
                withhold(verdict);
            }
            return;
        }
        let path = FieldPath::new(&["metadata", "annotations", IGNORE]).beneath(at);
        let message = match self.policy() {
            Some(policy) => format!("{IGNORE} does not count: PinPolicy {policy:?} does not say allowIgnore"),
            None => format!("{IGNORE} does not count: a PinPolicy does not say allowIgnore"),
        };
        verdict.findings.push(Code::IgnoreNotAllowed.at(path, message));
    }

    fn finding_of_node(&self, pod: &Pod, at: &[&str]) -> Option<Finding> {
        let worst = self.not_allowed.first()?;
        let node = pod.pinned_node().unwrap_or_default();
        let more = match self.not_allowed.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let message = format!("PinPolicy {:?}{more} does not allow Pods to name node {node:?}", worst.policy);
        let finding = Code::NodeNotAllowed.at(FieldPath::new(&["spec", "nodeName"]).beneath(at), message);
        Some(Finding { severity: severity(worst.mode), ..finding })
    }

    fn finding_of_not_known(&self, at: &[&str]) -> Option<Finding> {
        let matters = |it: &&NotKnown| it.mode.is_some();
        let first = self.not_known.iter().filter(matters).max_by_key(|it| it.mode)?;
        let message = match &first.policy {
            Some(policy) => format!("{}, which PinPolicy {policy:?} asks for", first.what),
            None => first.what.clone(),
        };
        let finding = Code::PolicyNotKnown.at(FieldPath::new(&["spec", "nodeName"]).beneath(at), message);
        let severity = first.mode.map_or(Severity::Info, severity).min(Severity::Warning);
        Some(Finding { severity, ..finding })
    }
}

/// latebind does nothing for the Pod.
fn withhold(verdict: &mut PodVerdict) {
    if matches!(verdict.remedy, Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. } | Remedy::Rescue) {
        verdict.remedy = Remedy::Leave;
    }
}
