//! What the loop remembers of claims between two looks. Losing it loses time, never correctness.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Plan, Report};
use super::{SELECTED_BY, Words};
use crate::binding::Code;
use crate::model::{Claim, Text};

/// Namespace and name of a claim.
pub(super) type ClaimKey = (String, String);

/// For how long something must last before people are told: a claim that is bound within a moment needs no event.
const LASTING: Duration = Duration::from_secs(3);

/// One claim.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub uid: Option<Text>,
    pub class: Option<String>,
    /// The node of the Pod that waits for it.
    pub node: Option<String>,
    /// Why the Pod is stuck, and since when.
    pub stuck: Option<(Code, Instant)>,
    /// When the claim was first seen without the node that latebind had selected.
    pub given_back: Option<Instant>,
    /// What its provisioner said, and when that was read.
    pub words: Option<(Words, Instant)>,
    /// The version of the claim on which a write was made; while it is current, the watch lags.
    pub written: Option<Text>,
    /// Writes that failed in a row.
    pub failures: u32,
    /// What people have been told.
    told: Option<Report>,
    /// What they will be told if it lasts.
    telling: Option<(String, Instant)>,
}

impl Tracked {
    /// Takes note of a plan. Returns what people are to be told now, or after what time to look again.
    pub fn note(&mut self, claim: &Claim, plan: &Plan, now: Instant) -> (Option<Report>, Option<Duration>) {
        self.class = claim.class_name().map(str::to_owned);
        self.node = plan.consumer.as_ref().and_then(|pod| pod.pinned_node()).map(str::to_owned);
        self.stuck = match (plan.stuck, self.stuck) {
            (Some(code), Some((_, since))) => Some((code, since)),
            (Some(code), None) => Some((code, now)),
            (None, _) => None,
        };
        let writes = matches!(plan.step, super::plan::Step::Write(_));
        let Some(report) = plan.report.as_ref().filter(|_| !writes) else {
            self.telling = None;
            return (None, None);
        };
        if self.told.as_ref() == Some(report) {
            return (None, None);
        }
        let since = match &self.telling {
            Some((reason, since)) if *reason == report.reason => *since,
            _ => {
                self.telling = Some((report.reason.clone(), now));
                now
            }
        };
        let lasted = now.saturating_duration_since(since);
        if lasted < LASTING {
            return (None, Some(LASTING.saturating_sub(lasted)));
        }
        self.told = Some(report.clone());
        (Some(report.clone()), None)
    }

    /// Follows whether the claim has lost the node that latebind selected.
    fn follow(&mut self, claim: &Claim, now: Instant) {
        let given_back = claim.annotation(SELECTED_BY).is_some() && claim.selected_node().is_none();
        match (given_back, self.given_back) {
            (true, None) => (self.given_back, self.words) = (Some(now), None),
            (false, Some(_)) => (self.given_back, self.words) = (None, None),
            _ => {}
        }
    }
}

/// All claims that Pods wait for, by name.
#[derive(Debug, Default)]
pub(super) struct Tracking(Mutex<HashMap<ClaimKey, Tracked>>);

impl Tracking {
    /// Looks at what is remembered of the claim; of another one of the same name nothing is.
    pub fn with<T>(&self, key: &ClaimKey, claim: &Claim, look: impl FnOnce(&mut Tracked) -> T) -> T {
        let mut claims = self.lock();
        let tracked = claims.entry(key.clone()).or_default();
        if tracked.uid != claim.metadata.uid {
            *tracked = Tracked { uid: claim.metadata.uid.clone(), ..Tracked::default() };
        }
        tracked.follow(claim, Instant::now());
        look(tracked)
    }

    /// Forgets a claim.
    pub fn forget(&self, key: &ClaimKey) {
        self.lock().remove(key);
    }

    /// True for a claim that is remembered.
    pub fn contains(&self, key: &ClaimKey) -> bool {
        self.lock().contains_key(key)
    }

    /// The claims that something is true of.
    pub fn keys(&self, which: impl Fn(&Tracked) -> bool) -> Vec<ClaimKey> {
        self.lock().iter().filter(|(_, tracked)| which(tracked)).map(|(key, _)| key.clone()).collect()
    }

    /// How many claims are stuck by reason, and since when the oldest is.
    pub fn stuck(&self) -> (HashMap<Code, usize>, Option<Instant>) {
        let claims = self.lock();
        let mut counts = HashMap::new();
        let stuck = claims.values().filter_map(|tracked| tracked.stuck);
        stuck.clone().for_each(|(code, _)| *counts.entry(code).or_default() += 1);
        (counts, stuck.map(|(_, since)| since).min())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimKey, Tracked>> {
        // No code that holds the lock can leave an entry half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
