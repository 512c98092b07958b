//! What the loop remembers between two looks. Nothing of it is needed to be right: a restart loses all of it, and then some
//! things are asked for, or said, once more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::placement::Placement;
use super::recent::Recent;
use super::refusals::Refusals;
use super::remembered::{ClaimKey, RememberedClaims, doubled};
use crate::model::{Claim, Volume};

/// For how long a volume that was made counts as there without being seen. It may have been deleted before any watch
/// told of it.
pub(super) const CACHE_LAG: Duration = Duration::from_secs(5);
/// All volumes and claims are listed for the orphans of a node, so not more often than this for one node.
pub(super) const ORPHAN_CHECK: Duration = Duration::from_secs(60);
/// The same thing is not said again within this time.
const WARNING_REPEAT: Duration = Duration::from_secs(600);
/// When a claim that had to be refused is looked at again by itself, the first time, and at the longest.
const RECHECK: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// Shorter than the pause between two looks at everything, so that each of those asks again about every order that stands.
const PERMITTED: Duration = Duration::from_secs(60);

/// What is remembered. Every part is bounded: by age, or by the objects that there are.
pub(super) struct Memory {
    /// Locked from the choice of a path to its reservation.
    pub placement: Mutex<Placement>,
    /// What the API server would not write.
    pub refusals: Refusals,
    /// Volumes that were made and that the cache does not show yet: a claim that changes meanwhile needs no second one.
    created: Mutex<Recent<()>>,
    /// Nodes about whose orphans the API server was asked lately.
    orphans_checked: Mutex<Recent<()>>,
    /// Orders of disposal that live facts have permitted lately, by LocalVolume: the echo of our own write is no reason to ask
    /// for them again.
    permitted: Mutex<Recent<()>>,
    /// What was said lately, by what it was about.
    last_said: Mutex<Recent<()>>,
    /// Claims without a volume.
    claims: Mutex<RememberedClaims>,
    /// UIDs of the claims whose volumes this process makes or made, and that the controller manager has not bound yet. Kept
    /// only where phases are to be written.
    unbound: Mutex<HashSet<String>>,
    /// Since when a volume waits for being recorded, by name.
    unrecorded: Mutex<HashMap<String, Instant>>,
    /// LocalVolumes that a step is being taken about: a volume is not made from a directory while its removal is ordered.
    in_hand: Arc<Mutex<HashSet<String>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            placement: Mutex::default(),
            refusals: Refusals::default(),
            created: Mutex::new(Recent::new(CACHE_LAG)),
            orphans_checked: Mutex::new(Recent::new(ORPHAN_CHECK)),
            permitted: Mutex::new(Recent::new(PERMITTED)),
            last_said: Mutex::new(Recent::new(WARNING_REPEAT)),
            claims: Mutex::default(),
            unbound: Mutex::default(),
            unrecorded: Mutex::default(),
            in_hand: Arc::default(),
        }
    }
}

/// A LocalVolume that is in hand until this is dropped.
pub(super) struct InHand {
    all: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

impl Memory {
    /// Takes a LocalVolume in hand; nothing while somebody else has it.
    pub fn take_in_hand(&self, name: &str) -> Option<InHand> {
        let taken = self.in_hand.lock().insert(name.to_owned());
        taken.then(|| InHand { all: Arc::clone(&self.in_hand), name: name.to_owned() })
    }

    /// The volume was made.
    pub fn made(&self, volume: &str) {
        self.created.lock().insert(volume, ());
    }

    /// The cache tells of the volume.
    pub fn volume_seen(&self, volume: &str) {
        self.created.lock().remove(volume);
    }

    /// Whether the volume was made a moment ago.
    pub fn is_made(&self, volume: &str) -> bool {
        self.created.lock().contains(volume)
    }

    /// Whether the orphans of the node may be looked at now, and for how long not.
    pub fn check_orphans_now(&self, node: &str) -> Result<(), Duration> {
        let mut checked = self.orphans_checked.lock();
        if let Some(left) = checked.left(node) {
            return Err(left);
        }
        checked.insert(node, ());
        Ok(())
    }

    /// Live facts have permitted the order that stands in a LocalVolume.
    pub fn permitted(&self, local: &str) {
        self.permitted.lock().insert(local, ());
    }

    /// True for an order that was permitted a moment ago.
    pub fn is_permitted(&self, local: &str) -> bool {
        self.permitted.lock().left(local).is_some()
    }

    /// Nodes whose agents have been silent about a claim for longer than this.
    pub fn silent(&self, uid: &str, patience: Duration) -> BTreeSet<String> {
        let claims = self.claims.lock();
        let agents = claims.get(uid).into_iter().flat_map(|remembered| &remembered.agents);
        agents.filter(|(_, since)| since.elapsed() >= patience).map(|(node, _)| node.clone()).collect()
    }

    /// Notes that a claim waits for the agent of a node; an earlier note stays. For how long it has waited.
    pub fn wait_for_agent(&self, claim: &Claim, node: &str) -> Duration {
        let mut claims = self.claims.lock();
        // What the agent reports is a change that it waits for.
        let times = claims.times(claim).max(1);
        claims.refused(claim, times);
        claims.of(claim).agents.entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    /// For how long a claim has waited for the agent of a node.
    pub fn waited(&self, uid: &str, node: &str) -> Option<Duration> {
        self.claims.lock().get(uid)?.agents.get(node).map(Instant::elapsed)
    }

    /// The node was given back: should it be selected again, its agent has all its time once more.
    pub fn forget_node(&self, uid: &str, node: &str) {
        if let Some(remembered) = self.claims.lock().get_mut(uid) {
            remembered.agents.remove(node);
        }
    }

    /// Notes that a claim had to be refused. When it is to be looked at again, if nothing changes before.
    pub fn put_off(&self, claim: &Claim) -> Duration {
        let mut claims = self.claims.lock();
        let times = claims.times(claim).saturating_add(1);
        claims.refused(claim, times);
        doubled(RECHECK, times)
    }

    /// The claim waits for nothing any more but for what was begun for it.
    pub fn goes_on(&self, uid: &str) {
        self.claims.lock().goes_on(uid);
    }

    /// A node or its report has changed, for which all claims may have waited that were refused before.
    pub fn take_up_change(&self) {
        self.claims.lock().take_up_change();
    }

    /// The claims that are to be looked at now since something changed, and when the next one is.
    pub fn take_due(&self) -> (Vec<ClaimKey>, Option<Instant>) {
        self.claims.lock().take_due()
    }

    /// A person has changed something: those that wait begin anew, and are to be looked at now.
    pub fn begin_anew(&self) -> Vec<ClaimKey> {
        self.claims.lock().begin_anew()
    }

    /// Forgets what was kept about a claim that is served, or gone.
    pub fn forget(&self, uid: &str) {
        self.claims.lock().forget(uid);
    }

    /// Notes that the controller manager is to bind a claim soon; how many claims it is to bind now.
    ///
    /// `waits` is what the cache says of the claim once it is noted: of one that is gone already, nothing would ever tell
    /// again that it is not to be waited for.
    pub fn await_binding(&self, uid: &str, waits: impl FnOnce() -> bool) -> usize {
        self.unbound.lock().insert(uid.to_owned());
        if !waits() {
            self.bound(uid);
        }
        self.unbound.lock().len()
    }

    /// The claim is bound, or gone, or got no volume after all.
    pub fn bound(&self, uid: &str) {
        self.unbound.lock().remove(uid);
    }

    /// True for a warning that is not the last one about the claim.
    pub fn is_new_warning(&self, claim: &Claim, note: &str) -> bool {
        self.claims.lock().of(claim).last_warning.replace(note.to_owned()).as_deref() != Some(note)
    }

    /// True for what was not said about the same thing within the last minutes.
    pub fn is_news(&self, about: &str, note: &str) -> bool {
        let key = format!("{about}: {note}");
        let mut said = self.last_said.lock();
        let is_news = !said.contains(&key);
        if is_news {
            said.insert(&key, ());
        }
        is_news
    }

    /// How much longer a volume may wait for being recorded; nothing when it is time.
    pub fn record_later(&self, volume: &str, delay: Duration) -> Option<Duration> {
        let since = *self.unrecorded.lock().entry(volume.to_owned()).or_insert_with(Instant::now);
        delay.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// The volume is recorded.
    pub fn recorded(&self, volume: &str) {
        self.unrecorded.lock().remove(volume);
    }

    /// Drops what is kept about claims and volumes that are gone.
    pub fn tidy(&self, all: &[Arc<Claim>], volumes: &[Arc<Volume>]) {
        let claims: HashSet<&str> = all.iter().filter_map(|claim| claim.metadata.uid.as_deref()).collect();
        self.claims.lock().retain(&claims);
        let bound = all.iter().filter(|it| it.volume_name().is_some());
        let bound: HashSet<&str> = bound.filter_map(|it| it.metadata.uid.as_deref()).collect();
        self.unbound.lock().retain(|uid| claims.contains(uid.as_str()) && !bound.contains(uid.as_str()));
        let names: HashSet<&str> = volumes.iter().map(|volume| volume.name()).collect();
        self.unrecorded.lock().retain(|name, _| names.contains(name.as_str()));
        self.placement.lock().tidy();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_refused_again_and_again_is_looked_at_ever_more_rarely() {
        let memory = Memory::default();
        let claim: Claim =
            serde_json::from_value(json!({ "metadata": { "name": "c", "namespace": "n", "uid": "u" } })).unwrap();
        let pauses: Vec<u64> = (0..7).map(|_| memory.put_off(&claim).as_secs()).collect();
        assert_eq!(pauses, [15, 30, 60, 120, 240, 300, 300]);
        let due = |memory: &Memory| {
            memory.take_up_change();
            memory.take_due()
        };
        let next = Instant::now() + Duration::from_secs(30);
        assert_eq!(due(&memory), (Vec::new(), Some(next)), "however many reports come in");
        let key = ("n".to_owned(), "c".to_owned());
        assert_eq!(memory.begin_anew(), [key], "what a person changes is looked at at once");
        assert_eq!(memory.put_off(&claim).as_secs(), 15);
        memory.goes_on("u");
        assert_eq!(due(&memory), (Vec::new(), None));
        assert!(memory.wait_for_agent(&claim, "node").is_zero());
        assert_eq!(due(&memory).1, Some(Instant::now() + Duration::from_secs(1)), "its agent may report");
        memory.forget("u");
        assert!(memory.claims.lock().is_empty());
    }

    #[test]
    fn a_claim_that_is_gone_by_then_is_not_counted_as_waiting_for_the_controller_manager() {
        let memory = Memory::default();
        assert_eq!(memory.await_binding("here", || true), 1);
        // Its end is told after it was noted, and before it was looked at.
        let told = || {
            memory.bound("gone");
            true
        };
        assert_eq!(memory.await_binding("gone", told), 1);
        // It was told before: nobody tells it again.
        memory.bound("long gone");
        assert_eq!(memory.await_binding("long gone", || false), 1);
        memory.bound("here");
        assert!(memory.unbound.lock().is_empty());
    }
}
