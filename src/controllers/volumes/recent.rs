//! What counts for a while: entries that end by their age, whether or not anybody takes them out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Entries by name, each of which counts for the same time from when it was noted. A step costs the same however many
/// there are, and there are never more than were noted within that time.
#[derive(Debug)]
pub(super) struct Recent<V> {
    lasts: Duration,
    entries: HashMap<String, (Instant, V)>,
    /// When each was noted, the oldest first. One that was taken out, or noted again, is passed over.
    noted: VecDeque<(Instant, String)>,
}

impl<V: Clone> Recent<V> {
    pub fn new(lasts: Duration) -> Self {
        Self { lasts, entries: HashMap::new(), noted: VecDeque::new() }
    }

    /// Notes an entry; one that is there begins anew. Returns what has ended.
    pub fn insert(&mut self, name: &str, value: V) -> Vec<V> {
        let ended = self.expire();
        let now = Instant::now();
        self.entries.insert(name.to_owned(), (now, value));
        self.noted.push_back((now, name.to_owned()));
        ended
    }

    /// Takes out what has ended.
    pub fn expire(&mut self) -> Vec<V> {
        let mut ended = Vec::new();
        while self.noted.front().is_some_and(|(since, _)| since.elapsed() >= self.lasts) {
            let Some((since, name)) = self.noted.pop_front() else { break };
            if self.entries.get(&name).is_some_and(|(noted, _)| *noted == since) {
                ended.extend(self.entries.remove(&name).map(|(_, value)| value));
            }
        }
        ended
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        self.entries.remove(name).map(|(_, value)| value)
    }

    /// For how much longer an entry counts; `None` for what is not there or has ended.
    pub fn left(&self, name: &str) -> Option<Duration> {
        let left = self.lasts.checked_sub(self.entries.get(name)?.0.elapsed());
        left.filter(|left| !left.is_zero())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.left(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_by_their_age_and_by_hand() {
        let mut recent = Recent::new(Duration::from_secs(60));
        recent.insert("a", 1);
        recent.insert("b", 2);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(recent.left("a"), Some(Duration::from_secs(1)));
        recent.insert("b", 3);
        recent.insert("c", 4);
        assert_eq!(recent.remove("c"), Some(4));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!recent.contains("a") && recent.contains("b") && !recent.contains("c"));
        assert_eq!(recent.insert("d", 5), [1], "what was noted again has not ended, and what was taken out is gone");
        assert_eq!((recent.entries.len(), recent.noted.len()), (2, 3), "b, c and d were noted within the time");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((recent.expire(), recent.noted.len()), (vec![3, 5], 0));
    }
}
