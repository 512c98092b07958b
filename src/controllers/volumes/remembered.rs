//! What is kept of claims without a volume, and which of them wait for something that a change of a node, or of its report, may
//! bring.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Claim, Text};

/// How soon after it was refused a claim is looked at again since a node or its report changed: nodes report all the time.
const RECHECK_ON_CHANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Namespace and name.
pub(super) type ClaimKey = (String, String);

/// What is kept of a claim.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    key: ClaimKey,
    /// Since when it waits for the agents of nodes.
    pub agents: BTreeMap<String, Instant>,
    /// The last warning about it.
    pub last_warning: Option<String>,
    /// How often in a row it was refused, and when last; nothing of a claim that waits for nothing.
    refused: Option<(u32, Instant)>,
}

/// Claims by UID. With thousands of nodes something changes all the time, so a change walks none of those that wait: each is
/// taken up once after it was refused, and handed out once when its pause is over.
#[derive(Debug, Default)]
pub(super) struct RememberedClaims {
    all: HashMap<String, Remembered>,
    /// Claims that were refused since the last change that was taken up.
    unchanged: HashSet<String>,
    /// Claims for which something has changed, by when they are to be looked at.
    due: BTreeSet<(Instant, String)>,
}

/// The first time, doubled for each time after it.
pub(super) fn doubled((first, longest): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1).min(16))).min(longest)
}

/// When a claim that was refused is looked at since something changed.
fn due((times, since): (u32, Instant)) -> Instant {
    if times == 0 { since } else { since + doubled(RECHECK_ON_CHANGE, times) }
}

impl RememberedClaims {
    /// What is kept of a claim, by its UID.
    pub fn get(&self, uid: &str) -> Option<&Remembered> {
        self.all.get(uid)
    }

    pub fn get_mut(&mut self, uid: &str) -> Option<&mut Remembered> {
        self.all.get_mut(uid)
    }

    /// The same of one of which nothing need be kept yet.
    pub fn of(&mut self, claim: &Claim) -> &mut Remembered {
        let remembered = self.all.entry(Text::or_empty(claim.metadata.uid.as_ref())).or_default();
        if remembered.key.1.is_empty() {
            remembered.key = (claim.namespace().to_owned(), claim.name().to_owned());
        }
        remembered
    }

    /// How often in a row a claim was refused.
    pub fn times(&self, claim: &Claim) -> u32 {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        self.all.get(uid).and_then(|remembered| remembered.refused).map_or(0, |(times, _)| times)
    }

    /// Notes that a claim was refused for the nth time in a row, or waits as if it were.
    pub fn refused(&mut self, claim: &Claim, times: u32) {
        let uid = Text::or_empty(claim.metadata.uid.as_ref());
        self.goes_on(&uid);
        self.of(claim).refused = Some((times, Instant::now()));
        self.unchanged.insert(uid);
    }

    /// The claim waits for nothing any more.
    pub fn goes_on(&mut self, uid: &str) {
        let refused = self.all.get_mut(uid).and_then(|remembered| remembered.refused.take());
        if let Some(refused) = refused
            && !self.unchanged.remove(uid)
        {
            self.due.remove(&(due(refused), uid.to_owned()));
        }
    }

    pub fn forget(&mut self, uid: &str) {
        self.goes_on(uid);
        self.all.remove(uid);
    }

    /// Keeps what is kept of these claims only.
    pub fn retain(&mut self, uids: &HashSet<&str>) {
        self.all.retain(|uid, _| uids.contains(uid.as_str()));
        self.unchanged.retain(|uid| uids.contains(uid.as_str()));
        self.due.retain(|(_, uid)| uids.contains(uid.as_str()));
    }

    /// Takes up a change: whoever was refused before it is to be looked at again once the pause is over.
    pub fn take_up_change(&mut self) {
        for uid in self.unchanged.drain() {
            if let Some(refused) = self.all.get(&uid).and_then(|remembered| remembered.refused) {
                self.due.insert((due(refused), uid));
            }
        }
    }

    /// Claims for which something has changed and whose pause is over, each once; and when the next one's is.
    pub fn take_due(&mut self) -> (Vec<ClaimKey>, Option<Instant>) {
        let now = Instant::now();
        let mut taken = Vec::new();
        while let Some((due, _)) = self.due.first() {
            if *due > now {
                return (taken, Some(*due));
            }
            let first = self.due.pop_first();
            taken.extend(first.and_then(|(_, uid)| self.all.get(&uid)).map(|remembered| remembered.key.clone()));
        }
        (taken, None)
    }

    /// All that wait begin anew, and are to be looked at now.
    pub fn begin_anew(&mut self) -> Vec<ClaimKey> {
        self.due.clear();
        let mut waiting = Vec::new();
        for (uid, remembered) in &mut self.all {
            if let Some((times, _)) = &mut remembered.refused {
                *times = 0;
                self.unchanged.insert(uid.clone());
                waiting.push(remembered.key.clone());
            }
        }
        waiting
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.unchanged.is_empty() && self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(number: usize) -> Claim {
        let metadata = json!({ "name": format!("c{number}"), "namespace": "n", "uid": format!("u{number}") });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn of_thousands_that_wait_each_is_handed_out_once_however_many_nodes_report() {
        const WAITING: usize = 5_000;
        let mut claims = RememberedClaims::default();
        for number in 0..WAITING {
            claims.refused(&claim(number), 5);
        }
        let (mut handed_out, mut taken_up) = (0, 0);
        // Five changes a second, for a minute.
        for _ in 0..300 {
            tokio::time::advance(Duration::from_millis(200)).await;
            taken_up += claims.unchanged.len();
            claims.take_up_change();
            handed_out += claims.take_due().0.len();
        }
        assert_eq!((taken_up, handed_out), (WAITING, WAITING));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_nobody_is_looked_at_and_with_one_not_before_the_pause_is_over() {
        let mut claims = RememberedClaims::default();
        claims.refused(&claim(0), 3);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(claims.take_due(), (Vec::new(), None));
        claims.refused(&claim(1), 3);
        claims.take_up_change();
        let key = |number: usize| ("n".to_owned(), format!("c{number}"));
        let next = Instant::now() + Duration::from_secs(4);
        assert_eq!(claims.take_due(), (vec![key(0)], Some(next)), "the first one's has been for long");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(claims.take_due(), (vec![key(1)], None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_on_or_is_gone_is_not_handed_out() {
        let mut claims = RememberedClaims::default();
        (0..3).for_each(|number| claims.refused(&claim(number), 1));
        claims.take_up_change();
        (3..6).for_each(|number| claims.refused(&claim(number), 1));
        claims.goes_on("u0");
        claims.forget("u1");
        claims.goes_on("u3");
        claims.forget("u4");
        claims.retain(&["u0", "u2", "u3"].into());
        claims.take_up_change();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(claims.take_due(), (vec![("n".to_owned(), "c2".to_owned())], None));
        claims.retain(&HashSet::new());
        assert!(claims.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_person_changes_has_all_looked_at_now_and_their_pauses_begin_anew() {
        let mut claims = RememberedClaims::default();
        claims.refused(&claim(0), 9);
        claims.take_up_change();
        claims.refused(&claim(1), 9);
        assert_eq!(claims.begin_anew().len(), 2);
        assert_eq!(claims.times(&claim(0)), 0);
        claims.take_up_change();
        assert_eq!(claims.take_due().0.len(), 2, "at once, should something else change before they were looked at");
    }
}
