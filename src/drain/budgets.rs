//! What PodDisruptionBudgets hold back: `kubectl drain` waits, for as long as it was told to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{DrainFacts, Outcome, PodPlan};
use crate::model::{Budget, Pod};

/// Pods of one budget that a drain cannot evict all at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// Namespace of the budget and its Pods.
    pub namespace: String,
    /// Names of the budgets: one, or several that select one Pod, which is then evicted by nobody.
    pub budgets: Vec<String>,
    /// How many of its Pods the drain would evict.
    pub pods: usize,
    /// How many may be evicted now.
    pub allowed: usize,
    /// The drain goes on by itself: what is made in place of an evicted Pod can start elsewhere, and lets the next one go.
    pub ends_by_itself: bool,
}

/// What budgets hold back of the Pods that a drain would evict.
pub(super) fn held_back(facts: &DrainFacts<'_>, plans: &[PodPlan]) -> Vec<HeldBack> {
    let outcomes: BTreeMap<(&str, &str), Outcome> =
        plans.iter().map(|plan| ((plan.namespace.as_str(), plan.pod.as_str()), plan.outcome)).collect();
    let mut all: BTreeMap<(&str, Vec<&str>), HeldBack> = BTreeMap::new();
    for pod in &facts.pods {
        let Some(outcome) = outcomes.get(&(pod.namespace(), pod.display_name())) else { continue };
        let asked = asked(pod, facts.budgets.as_deref().unwrap_or_default());
        if *outcome == Outcome::Stays || asked.is_empty() {
            continue;
        }
        let names: Vec<&str> = asked.iter().map(|budget| budget.name()).collect();
        // The API server evicts no Pod of several budgets.
        let allowed = if let [budget] = asked.as_slice() { budget.status.disruptions_allowed } else { 0 };
        let allowed = usize::try_from(allowed).unwrap_or_default();
        let held = all.entry((pod.namespace(), names.clone())).or_insert_with(|| HeldBack {
            namespace: pod.namespace().to_owned(),
            budgets: names.into_iter().map(str::to_owned).collect(),
            pods: 0,
            allowed,
            ends_by_itself: allowed > 0,
        });
        held.pods += 1;
        held.ends_by_itself &= *outcome == Outcome::StartsElsewhere;
    }
    all.into_values().filter(|held| held.pods > held.allowed).collect()
}

fn asked<'a>(pod: &Pod, budgets: &[&'a Budget]) -> Vec<&'a Budget> {
    let mut asked: Vec<&Budget> = budgets.iter().copied().filter(|budget| budget.protects(pod)).collect();
    asked.sort_by_key(|budget| budget.name());
    asked
}
