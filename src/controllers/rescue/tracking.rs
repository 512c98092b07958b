//! What the loop remembers of claims between two looks. Losing it loses time, never correctness.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::plan::{Plan, Report};
use super::{ProvisionerReport, SELECTED_BY};
use crate::binding::Code;
use crate::model::{Claim, Text};

/// Namespace and name of a claim.
pub(super) type ClaimKey = (Text, Text);

/// For how long something must last before it is reported: a claim that is bound within a moment needs no event.
const LASTING: Duration = Duration::from_secs(3);

/// One claim.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub uid: Option<Text>,
    pub class: Option<Text>,
    /// The node of the Pod that waits for it.
    pub node: Option<Text>,
    /// Why the Pod is stuck, and since when.
    pub stuck: Option<(Code, Instant)>,
    /// When the claim was first seen without the node that latebind had selected.
    pub given_back: Option<Instant>,
    /// What its provisioner reported, and when that was read.
    pub provisioner: Option<(ProvisionerReport, Instant)>,
    /// The version of the claim on which a write was made; while it is current, the watch lags.
    pub written: Option<Text>,
    /// What has been reported to people. Only whether it is the same again counts, so its hash is enough: thousands of claims may
    /// wait, each with a text of its own.
    reported: Option<u64>,
    /// The reason that will be reported if it lasts, hashed too, and since when it does.
    not_yet_reported: Option<(u64, Instant)>,
}

impl Tracked {
    /// Takes note of a plan. Returns what is to be reported now, or after what time to look again.
    pub fn note(&mut self, claim: &Claim, plan: &Plan, now: Instant) -> (Option<Report>, Option<Duration>) {
        self.class = claim.class();
        self.node =
            plan.consumer.as_ref().filter(|pod| pod.pinned_node().is_some()).and_then(|pod| pod.spec.node_name.clone());
        self.stuck = match (plan.stuck, self.stuck) {
            (Some(code), Some((_, since))) => Some((code, since)),
            (Some(code), None) => Some((code, now)),
            (None, _) => None,
        };
        let writes = matches!(plan.step, super::plan::Step::Write(_));
        let Some(report) = plan.report.as_ref().filter(|_| !writes) else {
            self.not_yet_reported = None;
            return (None, None);
        };
        let (whole, reason) = (hash_of(report), hash_of(&report.reason));
        if self.reported == Some(whole) {
            return (None, None);
        }
        let since = match self.not_yet_reported {
            Some((waiting, since)) if waiting == reason => since,
            _ => {
                self.not_yet_reported = Some((reason, now));
                now
            }
        };
        let lasted = now.saturating_duration_since(since);
        if lasted < LASTING {
            return (None, Some(LASTING.saturating_sub(lasted)));
        }
        self.reported = Some(whole);
        (Some(report.clone()), None)
    }

    /// Follows whether the claim has lost the node that latebind selected.
    fn follow(&mut self, claim: &Claim, now: Instant) {
        let given_back = claim.annotation(SELECTED_BY).is_some() && claim.selected_node().is_none();
        match (given_back, self.given_back) {
            (true, None) => (self.given_back, self.provisioner) = (Some(now), None),
            (false, Some(_)) => (self.given_back, self.provisioner) = (None, None),
            _ => {}
        }
    }
}

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// All claims that Pods wait for, by name.
#[derive(Debug, Default)]
pub(super) struct Tracking(Mutex<HashMap<ClaimKey, Box<Tracked>>>);

impl Tracking {
    /// Looks at what is remembered of the claim; of another one of the same name nothing is.
    pub fn with<T>(&self, key: &ClaimKey, claim: &Claim, look: impl FnOnce(&mut Tracked) -> T) -> T {
        let mut claims = self.lock();
        let tracked = claims.entry(key.clone()).or_default();
        if tracked.uid != claim.metadata.uid {
            **tracked = Tracked { uid: claim.metadata.uid.clone(), ..Tracked::default() };
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

    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimKey, Box<Tracked>>> {
        self.0.lock()
    }
}
