//! What counts for a while: entries that end by their age, whether or not anybody takes them out.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::context::lock;

/// Entries by name, each of which counts for the same time from when it was noted.
pub(crate) struct Recent<V> {
    lasts: Duration,
    noted: Mutex<HashMap<String, (Instant, V)>>,
}

impl<V: Clone> Recent<V> {
    pub(crate) fn new(lasts: Duration) -> Self {
        Self { lasts, noted: Mutex::default() }
    }

    /// Notes an entry; one that is there begins anew. What has ended goes, so there is never more than one time's worth.
    pub(crate) fn insert(&self, name: &str, value: V) {
        let mut noted = lock(&self.noted);
        noted.retain(|_, (since, _)| since.elapsed() < self.lasts);
        noted.insert(name.to_owned(), (Instant::now(), value));
    }

    pub(crate) fn remove(&self, name: &str) {
        lock(&self.noted).remove(name);
    }

    /// For how much longer an entry counts; `None` for what is not there or has ended.
    pub(crate) fn left(&self, name: &str) -> Option<Duration> {
        let left = self.lasts.checked_sub(lock(&self.noted).get(name)?.0.elapsed());
        left.filter(|left| !left.is_zero())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.left(name).is_some()
    }

    /// Those that count and are wanted.
    pub(crate) fn matching(&self, wanted: impl Fn(&V) -> bool) -> Vec<V> {
        let noted = lock(&self.noted);
        let counting = noted.values().filter(|(since, _)| since.elapsed() < self.lasts);
        counting.map(|(_, value)| value).filter(|value| wanted(value)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_by_their_age_and_by_hand() {
        let recent = Recent::new(Duration::from_secs(60));
        recent.insert("a", 1);
        recent.insert("b", 2);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(recent.left("a"), Some(Duration::from_secs(1)));
        recent.insert("b", 3);
        recent.insert("c", 4);
        recent.remove("c");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!recent.contains("a") && recent.contains("b") && !recent.contains("c"));
        assert_eq!(recent.matching(|_| true), [3], "one that has ended does not count, though nobody took it out");
        assert_eq!(recent.matching(|value| *value == 1), [0; 0]);
        recent.insert("d", 5);
        assert_eq!(lock(&recent.noted).len(), 2, "what has ended goes with the next one");
    }
}
