//! What the API server refuses to write, as a quota or a policy has it: tried again ever more rarely, and by few at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::context::Key;
use crate::kubernetes::api::ApiError;

/// The longest time between two attempts of a group. An administrator who lifts a quota waits no longer than this for the
/// first of the claims, which brings the others with it.
const LONGEST: Duration = Duration::from_secs(10);
/// Letters of what the API server said that are kept: an event holds a thousand bytes.
const LONGEST_REASON: usize = 600;
/// For how long a turn is kept for the one that has waited longest, which may be gone.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// What is refused as a rule is refused to all objects of a namespace alike, so these share one health: while their writes
/// are refused, one of them tries, and the others wait. A namespace cannot make another one wait.
///
/// It holds keys of objects that exist and whose last look failed.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, Group>>);

/// What was refused to one key.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// When last.
    last: Instant,
    /// The HTTP status.
    pub code: Option<u16>,
    /// What the API server said, as far as an event holds it.
    pub why: String,
}

/// The objects of one namespace that were refused something; none is empty.
#[derive(Debug)]
struct Group {
    keys: HashMap<Key, Refusal>,
    /// The same, who has waited longest first.
    by_age: BTreeSet<(Instant, Key)>,
    /// Those of which nobody has heard yet.
    unreported: HashSet<Key>,
    /// Attempts in a row that were refused; 0 after one that was not, when everybody may try.
    refused: u32,
    /// Before this moment nobody tries who was refused before.
    next: Instant,
    /// Who tries.
    trying: Option<Key>,
}

impl Group {
    fn new(now: Instant) -> Self {
        Self {
            keys: HashMap::new(),
            by_age: BTreeSet::new(),
            unreported: HashSet::new(),
            refused: 0,
            next: now,
            trying: None,
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Refusal> {
        let refusal = self.keys.remove(key)?;
        self.by_age.remove(&(refusal.last, key.clone()));
        self.unreported.remove(key);
        Some(refusal)
    }
}

/// The namespace of a claim. All other objects are of the cluster.
fn group(key: &Key) -> &str {
    match key {
        Key::Claim(namespace, _) => namespace,
        Key::Everything | Key::Waiting | Key::Local(_) | Key::Disk(_) | Key::Volume(_) | Key::Report(_) => "",
    }
}

/// From when a write of a group was refused for the nth time in a row to the next.
fn pause(refused: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(refused.saturating_sub(1).min(16))).min(LONGEST)
}

/// True for a write that the API server answered with a no of its own, or of a webhook that it asked. What has changed
/// meanwhile, is not there or cannot be reached is something else.
pub(super) fn is_refusal(error: &ApiError) -> bool {
    error.code().is_some_and(|code| matches!(code, 400 | 401 | 402 | 403 | 405 | 406 | 410..=428 | 430..=500))
}

impl Refusals {
    /// For how long the key has to wait, while another one of its group tries. Whoever was not refused before does not
    /// wait. When it is this one's turn, the others wait for it.
    pub fn must_wait(&self, key: &Key) -> Option<Duration> {
        let mut groups = self.0.lock();
        let group = groups.get_mut(group(key))?;
        let last = group.keys.get(key)?.last;
        if group.refused == 0 {
            return None;
        }
        let now = Instant::now();
        if let Some(left) = group.next.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return Some(left);
        }
        let longest = group.by_age.first().map(|(last, _)| *last);
        if longest.is_some_and(|longest| longest < last) && now < group.next + KEPT_FOR {
            return Some(KEPT_FOR);
        }
        group.next = now + pause(group.refused);
        group.trying = Some(key.clone());
        None
    }

    /// Takes note of a refusal. Of whom a person should hear now: of nobody after the first one, which may be over before
    /// anybody reads of it, and then once of each in the group that was refused, and again when the status is another.
    pub fn refused(&self, key: &Key, error: &ApiError) -> Vec<(Key, Refusal)> {
        let mut groups = self.0.lock();
        let now = Instant::now();
        let why: String = error.to_string().chars().take(LONGEST_REASON).collect();
        let group = groups.entry(group(key).to_owned()).or_insert_with(|| Group::new(now));
        let refusal = Refusal { last: now, code: error.code(), why };
        let code = refusal.code;
        let before = group.keys.insert(key.clone(), refusal);
        if let Some(before) = &before {
            group.by_age.remove(&(before.last, key.clone()));
        }
        group.by_age.insert((now, key.clone()));
        if before.as_ref().is_none_or(|before| before.code != code) {
            group.unreported.insert(key.clone());
        }
        // What others sent before they were told to wait is the same trouble, not more of it.
        if group.refused == 0 || group.trying.as_ref() == Some(key) {
            group.refused = group.refused.saturating_add(1);
            group.next = now + pause(group.refused);
            group.trying = None;
        }
        if before.is_none() && group.refused < 2 {
            return Vec::new();
        }
        let unreported = std::mem::take(&mut group.unreported);
        unreported.into_iter().filter_map(|key| group.keys.get(&key).cloned().map(|refusal| (key, refusal))).collect()
    }

    /// Takes note of a look that was not refused. The keys of its group that may try at once, if it was refused before.
    pub fn settled(&self, key: &Key) -> Vec<Key> {
        let mut groups = self.0.lock();
        let Some(found) = groups.get_mut(group(key)) else { return Vec::new() };
        if found.remove(key).is_none() {
            return Vec::new();
        }
        if found.keys.is_empty() {
            groups.remove(group(key));
            return Vec::new();
        }
        let was_refused = std::mem::take(&mut found.refused) > 0;
        found.trying = None;
        // All others have heard already when the one before this one was not refused either: with thousands that are served
        // one after another, each would call all that are left.
        if was_refused { found.keys.keys().cloned().collect() } else { Vec::new() }
    }

    /// The object is gone.
    pub fn forget(&self, key: &Key) {
        let mut groups = self.0.lock();
        if let Some(found) = groups.get_mut(group(key)) {
            found.remove(key);
            if found.keys.is_empty() {
                groups.remove(group(key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(namespace: &str, number: usize) -> Key {
        Key::Claim(namespace.to_owned(), format!("c{number}"))
    }

    fn no() -> ApiError {
        answer(403)
    }

    fn answer(code: u16) -> ApiError {
        let status = serde_json::from_value(serde_json::json!({"code": code, "status": "Failure"})).unwrap();
        kube::Error::Api(Box::new(status)).into()
    }

    /// Plays so many seconds in which every key that may try does, each tenth of a second; how many attempts that is.
    async fn attempts(refusals: &Refusals, keys: &[Key], seconds: u32, accepted: impl Fn(&Key) -> bool) -> usize {
        let mut attempts = 0;
        for _ in 0..seconds * 10 {
            for key in keys {
                if refusals.must_wait(key).is_none() {
                    attempts += 1;
                    let _told =
                        if accepted(key) { refusals.settled(key).len() } else { refusals.refused(key, &no()).len() };
                }
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        attempts
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_claims_that_are_refused_try_one_at_a_time_and_ever_more_rarely() {
        let (refusals, keys) = (Refusals::default(), (0..50).map(|number| claim("a", number)).collect::<Vec<_>>());
        assert!(keys.iter().all(|key| refusals.must_wait(key).is_none()), "who was never refused does not wait");
        assert!(keys.iter().all(|key| refusals.refused(key, &no()).is_empty()), "the first may be over at once");
        // After 1, 2, 4 and 8 s, and then every 10 s.
        let first = attempts(&refusals, &keys, 60, |_| false).await;
        assert!((6..=9).contains(&first), "{first}");
        let later = attempts(&refusals, &keys, 600, |_| false).await;
        assert!((55..=65).contains(&later), "{later}");
        let other = claim("b", 0);
        assert_eq!(refusals.must_wait(&other), None, "another namespace is not held up");
        assert!(refusals.refused(&other, &no()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_were_refused_hear_of_it_once_and_nobody_else() {
        let (refusals, keys) = (Refusals::default(), (0..50).map(|number| claim("a", number)).collect::<Vec<_>>());
        for key in &keys {
            assert!(refusals.refused(key, &no()).is_empty());
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(refusals.must_wait(&keys[0]), None);
        let told = refusals.refused(&keys[0], &no());
        assert_eq!(told.iter().map(|(key, _)| key).collect::<HashSet<_>>(), keys.iter().collect());
        assert!(refusals.refused(&keys[1], &no()).is_empty(), "it has heard of it");
        let later = claim("a", 50);
        assert_eq!(refusals.refused(&later, &no()).len(), 1, "one that came later hears of it alone");
        assert_eq!(refusals.refused(&keys[0], &answer(422)).len(), 1, "another answer is another matter");
        assert!(refusals.refused(&claim("b", 0), &no()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_accepted_brings_the_others() {
        let (refusals, keys) = (Refusals::default(), (0..50).map(|number| claim("a", number)).collect::<Vec<_>>());
        for key in &keys {
            refusals.refused(key, &no());
        }
        attempts(&refusals, &keys, 60, |_| false).await;
        let accepted = attempts(&refusals, &keys, 12, |_| true).await;
        assert!(accepted >= 50, "{accepted}");
        assert!(refusals.0.lock().is_empty(), "nothing is kept of them");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_are_accepted_one_after_another_call_each_other_once() {
        let (refusals, keys) = (Refusals::default(), (0..1_000).map(|number| claim("a", number)).collect::<Vec<_>>());
        for key in &keys {
            refusals.refused(key, &no());
        }
        assert_eq!(refusals.settled(&keys[0]).len(), keys.len() - 1, "the first brings the others");
        assert_eq!(refusals.settled(&keys[1]).len(), 0, "they have heard");
        refusals.refused(&keys[2], &no());
        assert!(refusals.must_wait(&keys[3]).is_some(), "it is refused again");
        assert_eq!(refusals.settled(&keys[4]).len(), keys.len() - 3, "and over again");
        let called: usize = keys.iter().map(|key| refusals.settled(key).len()).sum();
        assert_eq!((called, refusals.0.lock().is_empty()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_are_refused_forever_do_not_keep_others_of_the_namespace_from_trying() {
        let (refusals, keys) = (Refusals::default(), (0..10).map(|number| claim("a", number)).collect::<Vec<_>>());
        for key in &keys {
            refusals.refused(key, &no());
        }
        // Whoever comes first each time does not take every turn.
        let tried = Mutex::new(std::collections::HashSet::new());
        let accepted = |key: &Key| {
            tried.lock().insert(key.clone());
            false
        };
        attempts(&refusals, &keys, 200, accepted).await;
        assert_eq!(tried.lock().len(), keys.len());
    }

    #[test]
    fn what_is_answered_with_a_no_is_a_refusal() {
        let of = |code| is_refusal(&answer(code));
        assert!([400, 403, 422, 500].into_iter().all(of));
        assert!(![404, 409, 429, 502, 503, 504].into_iter().any(of) && !is_refusal(&ApiError::Late));
    }
}
