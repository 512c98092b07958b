//! What is to be looked at, and when. A key is in it at most once, and never looked at by two at a time.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The queue. It has at most one entry a key, so it is bounded by the number of objects that are watched.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// Keys that wait, by the time at which they are due.
    order: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    /// Keys that are being looked at, and since when they are asked for again.
    running: HashMap<K, Option<Instant>>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State { order: BTreeSet::new(), due: HashMap::new(), running: HashMap::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn put(&mut self, key: K, due: Instant) {
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

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Has a key looked at now.
    pub fn now(&self, key: K) {
        self.at(key, Instant::now());
    }

    /// Has a key looked at from this moment on, or sooner if it is due sooner.
    pub fn at(&self, key: K, due: Instant) {
        let mut state = self.lock();
        if let Some(again) = state.running.get_mut(&key) {
            *again = Some(again.map_or(due, |sooner| sooner.min(due)));
            return;
        }
        state.put(key, due);
        drop(state);
        self.changed.notify_one();
    }

    /// The next key that is due, and since when.
    pub async fn next(&self) -> (K, Instant) {
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

    /// Ends a look; the key comes again after the time, or at once if it was asked for meanwhile.
    pub fn done(&self, key: K, again: Option<Duration>) {
        let mut state = self.lock();
        let changed = state.running.remove(&key).flatten();
        let again = again.map(|pause| Instant::now() + pause);
        let Some(due) = changed.into_iter().chain(again).min() else { return };
        state.put(key, due);
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::Queue;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_there_once_and_runs_once() {
        let queue = Queue::default();
        queue.now("a");
        queue.now("a");
        assert_eq!(queue.next().await.0, "a");
        assert!(timeout(SOON, queue.next()).await.is_err());
        // It changes while it is looked at: once more, but not before that look has ended.
        queue.now("a");
        queue.now("a");
        assert!(timeout(SOON, queue.next()).await.is_err());
        queue.done("a", None);
        assert_eq!(timeout(SOON, queue.next()).await.unwrap().0, "a");
        queue.done("a", None);
        assert!(timeout(SOON, queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_overtakes_a_pause_and_a_pause_ends() {
        let queue = Queue::default();
        queue.now("a");
        queue.next().await;
        queue.done("a", Some(Duration::from_secs(300)));
        assert!(timeout(Duration::from_secs(299), queue.next()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(2), queue.next()).await.unwrap().0, "a");
        queue.done("a", Some(Duration::from_secs(300)));
        queue.now("a");
        assert_eq!(timeout(SOON, queue.next()).await.unwrap().0, "a");
        queue.done("a", None);
        assert!(timeout(Duration::from_secs(600), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_at_the_sooner_of_two_moments() {
        let queue = Queue::default();
        let from_now = |seconds| tokio::time::Instant::now() + Duration::from_secs(seconds);
        queue.at("a", from_now(30));
        queue.at("a", from_now(20));
        queue.at("a", from_now(40));
        assert!(timeout(Duration::from_secs(19), queue.next()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(2), queue.next()).await.unwrap().0, "a");
        // The same while it is looked at, whatever pause that look asks for.
        queue.at("a", from_now(20));
        queue.at("a", from_now(10));
        queue.done("a", Some(Duration::from_secs(30)));
        assert!(timeout(Duration::from_secs(9), queue.next()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(2), queue.next()).await.unwrap().0, "a");
        queue.at("a", from_now(60));
        queue.done("a", Some(Duration::from_secs(5)));
        assert_eq!(timeout(Duration::from_secs(6), queue.next()).await.unwrap().0, "a");
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
            queue.now(name);
        }
        for task in waiting {
            timeout(SOON, task).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn many_hands_take_everything() {
        let queue = std::sync::Arc::new(Queue::default());
        let (taken, mut all) = tokio::sync::mpsc::channel(1_000);
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, taken) = (std::sync::Arc::clone(&queue), taken.clone());
                tokio::spawn(async move {
                    loop {
                        let (key, _) = queue.next().await;
                        taken.send(key).await.unwrap();
                        queue.done(key, None);
                    }
                })
            })
            .collect();
        for key in 0..1_000_u32 {
            queue.now(key);
        }
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 1_000 {
            seen.insert(timeout(Duration::from_secs(20), all.recv()).await.unwrap().unwrap());
        }
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
