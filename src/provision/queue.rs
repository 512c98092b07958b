//! A queue of what is to be looked at again: each key once, never in two hands, later if asked for.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The queue. It holds at most one entry a key, so it is bounded by the number of objects that are watched.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // No code that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a key to be looked at, as soon as may be.
    pub(crate) fn push(&self, key: K) {
        let mut state = self.state();
        state.forget(&key);
        state.enqueue(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Asks for a key to be looked at after a while, or sooner if that was asked for already.
    pub(crate) fn push_later(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.state();
        if state.queued.contains(&key) || state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        state.forget(&key);
        state.due.insert(key.clone(), at);
        state.later.insert((at, key));
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for a key. It is not handed out again before [`Queue::done`].
    pub(crate) async fn pop(&self) -> K {
        loop {
            let pause = {
                let mut state = self.state();
                state.promote();
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.later.first().map(|(at, _)| at.saturating_duration_since(Instant::now()))
            };
            match pause {
                // Whichever comes first; both lead to another look.
                Some(pause) => drop(tokio::time::timeout(pause, self.wake.notified()).await),
                None => self.wake.notified().await,
            }
        }
    }

    /// Gives a key back.
    pub(crate) fn done(&self, key: &K) {
        let mut state = self.state();
        state.running.remove(key);
        if state.again.remove(key) {
            state.enqueue(key.clone());
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn enqueue(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some(at) = self.due.remove(key) {
            self.later.remove(&(at, key.clone()));
        }
    }

    fn promote(&mut self) {
        let now = Instant::now();
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                return;
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.enqueue(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_in_one_hand_at_a_time_and_no_request_is_lost() {
        let queue = Queue::new();
        for _ in 0..3 {
            queue.push("a");
        }
        assert_eq!(queue.pop().await, "a");
        queue.push("a");
        queue.push("b");
        assert_eq!(queue.pop().await, "b", "a is still in hand");
        queue.done(&"a");
        assert_eq!(queue.pop().await, "a", "it was asked for meanwhile");
        queue.done(&"a");
        queue.push("c");
        assert_eq!(queue.pop().await, "c", "and only once");
    }

    #[tokio::test]
    async fn the_sooner_time_wins() {
        let queue = Queue::new();
        queue.push_later("late", Duration::from_secs(3600));
        queue.push_later("late", Duration::from_millis(1));
        queue.push_later("late", Duration::from_secs(3600));
        assert_eq!(queue.pop().await, "late");
        queue.done(&"late");
        queue.push_later("late", Duration::from_secs(3600));
        queue.push("late");
        assert_eq!(queue.pop().await, "late");
        assert!(queue.state().later.is_empty());
    }

    #[tokio::test]
    async fn many_hands_take_everything() {
        let queue = std::sync::Arc::new(Queue::new());
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, taken) = (std::sync::Arc::clone(&queue), std::sync::Arc::clone(&taken));
                tokio::spawn(async move {
                    loop {
                        let key: u32 = queue.pop().await;
                        taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        queue.done(&key);
                    }
                })
            })
            .collect();
        for key in 0..1_000 {
            queue.push(key);
        }
        tokio::time::timeout(Duration::from_secs(20), async {
            while taken.load(std::sync::atomic::Ordering::Relaxed) < 1_000 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        workers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
