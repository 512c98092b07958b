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
    /// Whether the drain ends by itself as the budget stands now: with each replacement that is ready the next Pod may go. Nothing
    /// where that is not known.
    pub ends_by_itself: Option<bool>,
}

/// What budgets hold back of the Pods that a drain would evict.
pub(super) fn held_back(facts: &DrainFacts<'_>, plans: &[PodPlan]) -> Vec<HeldBack> {
    let outcomes: BTreeMap<(&str, &str), Outcome> =
        plans.iter().map(|plan| ((plan.namespace.as_str(), plan.pod.as_str()), plan.outcome)).collect();
    let mut all: BTreeMap<(&str, Vec<&str>), Asked> = BTreeMap::new();
    for pod in &facts.pods {
        let Some(outcome) = outcomes.get(&(pod.namespace(), pod.display_name())) else { continue };
        let asked = asked(pod, facts.budgets.as_deref().unwrap_or_default());
        if *outcome == Outcome::Stays || asked.is_empty() {
            continue;
        }
        // The API server evicts no Pod of several budgets.
        let allowed = if let [budget] = asked.as_slice() { budget.status.disruptions_allowed } else { 0 };
        let names = asked.iter().map(|budget| budget.name()).collect();
        let of_budgets = all.entry((pod.namespace(), names)).or_default();
        of_budgets.allowed = usize::try_from(allowed).unwrap_or_default();
        of_budgets.pods += 1;
        of_budgets.outages += usize::from(outcome.is_outage());
        of_budgets.not_known += usize::from(*outcome == Outcome::NotKnown);
    }
    let held = all.into_iter().filter(|(_, asked)| asked.pods > asked.allowed);
    held.map(|((namespace, budgets), asked)| HeldBack {
        namespace: namespace.to_owned(),
        ends_by_itself: asked.ends_by_itself(budgets.len()),
        budgets: budgets.into_iter().map(str::to_owned).collect(),
        pods: asked.pods,
        allowed: asked.allowed,
    })
    .collect()
}

/// The Pods of the same budgets.
#[derive(Default)]
struct Asked {
    pods: usize,
    allowed: usize,
    /// Pods in whose place nothing runs.
    outages: usize,
    /// Pods of which that is not known.
    not_known: usize,
}

impl Asked {
    /// An eviction in whose place nothing runs is never made up for. Which Pods go first is not known.
    fn ends_by_itself(&self, budgets: usize) -> Option<bool> {
        if budgets > 1 || self.allowed == 0 || self.outages > self.allowed {
            return Some(false);
        }
        (self.outages + self.not_known < self.allowed).then_some(true)
    }
}

fn asked<'a>(pod: &Pod, budgets: &[&'a Budget]) -> Vec<&'a Budget> {
    let mut asked: Vec<&Budget> = budgets.iter().copied().filter(|budget| budget.protects(pod)).collect();
    asked.sort_by_key(|budget| budget.name());
    asked
}
