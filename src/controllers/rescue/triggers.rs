//! From what the watches bring to which claims are to be looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SELECTED_BY;
use super::tracking::{ClaimKey, Tracking};
use crate::binding::ClusterView;
use crate::crd::{Kept, PinPolicy};
use crate::facts::live::{Change, Changed, LiveCluster, Observer};
use crate::model::{Claim, Class, Node, Pod, Text, Volume};
use crate::runtime::queue::Queue;

/// Puts claims into the queue when something changes that their plan reads.
pub(super) struct Triggers {
    pub live: LiveCluster,
    pub queue: Arc<Queue<ClaimKey>>,
    pub tracking: Arc<Tracking>,
    /// False until the first lists have ended: what they bring is swept up in one go.
    pub open: AtomicBool,
}

impl Triggers {
    /// Looks at every claim that may need something: at the start, and again from time to time in case a change was
    /// missed.
    pub fn enqueue_all(&self) {
        self.open.store(true, Ordering::Release);
        let mut keys: HashSet<ClaimKey> = self.tracking.keys(|_| true).into_iter().collect();
        for pod in self.live.pods().found().into_iter().flatten() {
            if pod.pinned_node().is_some() {
                keys.extend(claims_of(&pod));
            }
        }
        for claim in self.live.claims().found().into_iter().flatten() {
            if claim.annotation(SELECTED_BY).is_some() && claim.volume_name().is_none() {
                keys.insert(key_of(&claim));
            }
        }
        for key in keys {
            self.queue.now(key);
        }
    }

    fn claim(&self, change: &Changed<Claim>) {
        let Some(claim) = change.after.as_ref().or(change.before.as_ref()) else { return };
        let key = key_of(claim);
        let waited_for = || {
            let consumers = self.live.consumers(&key.0, &key.1).found().unwrap_or_default();
            consumers.iter().any(|pod| pod.pinned_node().is_some())
        };
        let marked = claim.annotation(SELECTED_BY).is_some() && claim.volume_name().is_none();
        if marked || self.tracking.contains(&key) || waited_for() {
            self.queue.now(key);
        }
    }

    fn pod(&self, change: &Changed<Pod>) {
        for pod in change.before.iter().chain(&change.after) {
            let pinned = pod.pinned_node().is_some();
            for key in claims_of(pod) {
                let marked = || {
                    let claim = self.live.claim(&key.0, &key.1).found();
                    claim.is_some_and(|claim| claim.annotation(SELECTED_BY).is_some())
                };
                if pinned || self.tracking.contains(&key) || marked() {
                    self.queue.now(key);
                }
            }
        }
    }

    fn volume(&self, change: &Changed<Volume>) {
        for volume in change.before.iter().chain(&change.after) {
            if let Some(reference) = &volume.spec.claim_ref {
                let text = |text: &Option<Text>| text.clone().unwrap_or_default();
                let key = (text(&reference.namespace), text(&reference.name));
                if self.tracking.contains(&key) {
                    self.queue.now(key);
                }
            }
        }
        // Only a volume that is to be had, and was not a moment ago, helps claims that wait for one.
        let to_be_had = |volume: &Arc<Volume>| volume.spec.claim_ref.is_none() && volume.status.phase == "Available";
        if let Some(volume) = change.after.as_ref().filter(|volume| to_be_had(volume)) {
            let class = volume.class_name();
            let waiting = self.tracking.keys(|tracked| tracked.class.as_deref() == Some(class));
            for key in waiting {
                self.queue.now(key);
            }
        }
    }

    fn class(&self, change: &Changed<Class>) {
        let name = change.after.as_ref().or(change.before.as_ref()).and_then(|class| class.metadata.name.clone());
        let concerned = self.tracking.keys(|tracked| tracked.class.is_none() || tracked.class == name);
        for key in concerned {
            self.queue.now(key);
        }
    }

    fn node(&self, change: &Changed<Node>) {
        if let (Some(before), Some(after)) = (&change.before, &change.after)
            && before.metadata.labels == after.metadata.labels
            && before.spec.taints == after.spec.taints
        {
            // A heartbeat: nodes report every few seconds.
            return;
        }
        let Some(node) = change.after.as_ref().or(change.before.as_ref()) else { return };
        let gone = change.after.is_none();
        let concerned = self.tracking.keys(|tracked| gone || tracked.node.as_deref() == Some(node.name()));
        for key in concerned {
            self.queue.now(key);
        }
    }
}

impl Observer for Triggers {
    fn changed(&self, change: Change) {
        if !self.open.load(Ordering::Acquire) {
            return;
        }
        match change {
            Change::Claim(change) => self.claim(&change),
            Change::Pod(change) => self.pod(&change),
            Change::Volume(change) => self.volume(&change),
            Change::Class(change) => self.class(&change),
            Change::Node(change) => self.node(&change),
            // A policy may cover any Pod, and changes when an administrator writes it.
            Change::Policy(change) if has_new_spec(&change) => self.enqueue_all(),
            Change::Policy(_) | Change::Driver(_) | Change::DriverNode(_) | Change::PodOnNode(_) => {}
        }
    }
}

/// False where only the status is new.
fn has_new_spec(change: &Changed<Kept<PinPolicy>>) -> bool {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => before.spec != after.spec,
        _ => true,
    }
}

fn key_of(claim: &Claim) -> ClaimKey {
    (claim.metadata.namespace.clone().unwrap_or_default(), claim.metadata.name.clone().unwrap_or_default())
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = ClaimKey> + '_ {
    pod.claim_names().map(|name| (pod.metadata.namespace.clone().unwrap_or_default(), name))
}
