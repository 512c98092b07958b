//! Which claims are to be looked at, and when. A claim is in it at most once, and never looked at by two at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Namespace and name of a claim.
pub(super) type ClaimKey = (String, String);

/// A queue as long as there are claims.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Claims that wait, by the time at which they are due.
    order: BTreeSet<(Instant, ClaimKey)>,
    due: HashMap<ClaimKey, Instant>,
    /// Claims that are being looked at, and whether they changed meanwhile.
    running: HashMap<ClaimKey, Option<Instant>>,
}

impl State {
    fn put(&mut self, key: ClaimKey, due: Instant) {
        if let Some(earlier) = self.due.get(&key) {
            if *earlier <= due {
                return;
            }
            self.order.remove(&(*earlier, key.clone()));
        }
        self.due.insert(key.clone(), due);
        self.order.insert((due, key));
    }
}

impl Queue {
    /// Has a claim looked at now.
    pub fn now(&self, key: ClaimKey) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(again) = state.running.get_mut(&key) {
            again.get_or_insert(now);
            return;
        }
        state.put(key, now);
        drop(state);
        self.changed.notify_one();
    }

    /// The next claim that is due, and since when.
    pub async fn next(&self) -> (ClaimKey, Instant) {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                let now = Instant::now();
                match state.order.first().cloned() {
                    Some((due, key)) if due <= now => {
                        state.order.remove(&(due, key.clone()));
                        state.due.remove(&key);
                        state.running.insert(key.clone(), None);
                        let more = state.order.first().is_some_and(|(due, _)| *due <= now);
                        drop(state);
                        if more {
                            self.changed.notify_one();
                        }
                        return (key, due);
                    }
                    Some((due, _)) => Some(due),
                    None => None,
                }
            };
            match wait {
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Ends a look; the claim comes again after the time, or at once if it changed meanwhile.
    pub fn done(&self, key: ClaimKey, again: Option<Duration>) {
        let mut state = self.lock();
        let changed = state.running.remove(&key).flatten();
        let due = changed.or_else(|| again.map(|pause| Instant::now() + pause));
        let Some(due) = due else { return };
        state.put(key, due);
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{ClaimKey, Queue};

    fn key(name: &str) -> ClaimKey {
        ("ns".to_owned(), name.to_owned())
    }

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_there_once_and_runs_once() {
        let queue = Queue::default();
        queue.now(key("a"));
        queue.now(key("a"));
        assert_eq!(queue.next().await.0, key("a"));
        assert!(timeout(SOON, queue.next()).await.is_err());
        // It changes while it is looked at: once more, but not before that look has ended.
        queue.now(key("a"));
        queue.now(key("a"));
        assert!(timeout(SOON, queue.next()).await.is_err());
        queue.done(key("a"), None);
        assert_eq!(timeout(SOON, queue.next()).await.unwrap().0, key("a"));
        queue.done(key("a"), None);
        assert!(timeout(SOON, queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_overtakes_a_pause_and_a_pause_ends() {
        let queue = Queue::default();
        queue.now(key("a"));
        queue.next().await;
        queue.done(key("a"), Some(Duration::from_secs(300)));
        assert!(timeout(Duration::from_secs(299), queue.next()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(2), queue.next()).await.unwrap().0, key("a"));
        queue.done(key("a"), Some(Duration::from_secs(300)));
        queue.now(key("a"));
        assert_eq!(timeout(SOON, queue.next()).await.unwrap().0, key("a"));
        queue.done(key("a"), None);
        assert!(timeout(Duration::from_secs(600), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn several_who_wait_all_get_work() {
        let queue = std::sync::Arc::new(Queue::default());
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                tokio::spawn(async move { queue.next().await.0 })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c", "d"] {
            queue.now(key(name));
        }
        for task in waiting {
            timeout(SOON, task).await.unwrap().unwrap();
        }
    }
}
