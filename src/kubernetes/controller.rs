//! The loop of every controller: takes keys from a queue, has each looked at, and tries again what failed.
//!
//! What is done with a key is the business of a [`Reconciler`]. How many are looked at at a time, who may write, when
//! everything is looked at again and when a failure is tried again is the same for all of them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{ApiError, Failure};
use super::lease::{Leadership, Permit};
use crate::runtime::queue::Queue;

/// What a controller does with the objects that it is responsible for.
pub trait Reconciler: Send + Sync + 'static {
    /// What one object is known by.
    type Key: Clone + Eq + Hash + Ord + fmt::Debug + Send + Sync + 'static;
    /// Why a look failed.
    type Error: ReconcileError;

    /// Looks at one object and does what is to be done. Returns after what time to look again, whatever happens.
    ///
    /// # Errors
    /// What is to be tried again.
    fn reconcile(
        &self,
        key: &Self::Key,
        turn: Turn,
    ) -> impl Future<Output = Result<Option<Duration>, Self::Error>> + Send;

    /// Puts every key there is into the queue.
    fn enqueue_all(&self);

    /// Keys of one group share the workers of that group: what hangs in one group delays no other. All keys are one
    /// group where nothing else is said. There must be a bound on the number of groups.
    fn group(&self, _key: &Self::Key) -> Option<Arc<str>> {
        None
    }

    /// The longest time after which what failed is tried again.
    fn longest_pause(&self) -> Duration {
        Duration::MAX
    }

    /// Takes note that a key will be tried again.
    fn will_retry(&self) {}
}

/// Why a look failed, as far as the loop needs to know it.
pub trait ReconcileError: fmt::Display + From<ApiError> + Send + 'static {
    /// What the failure means for when to try again.
    fn failure(&self) -> Failure;

    /// True when the API server as a whole does not answer: everybody should ask less for a while.
    fn is_unavailable(&self) -> bool;
}

impl ReconcileError for ApiError {
    fn failure(&self) -> Failure {
        self.failure()
    }

    fn is_unavailable(&self) -> bool {
        self.is_unavailable()
    }
}

/// The circumstances of one look.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Since when the key has been due.
    pub due: Instant,
    /// Leave to write. Absent without a Lease, and while another process leads.
    pub permit: Option<Permit>,
}

/// What a process does that does not hold the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follower {
    /// Nothing. No look of the leader lasts longer than its permit.
    Waits,
    /// It looks too, so as to know what it would do, and writes nothing: it heeds [`Turn::permit`].
    Looks,
}

/// A controller, ready to run.
pub struct Controller<R: Reconciler> {
    /// Its name in logs.
    pub name: &'static str,
    /// What it does.
    pub reconciler: Arc<R>,
    /// The keys that are due. Watches put them in.
    pub queue: Arc<Queue<R::Key>>,
    /// How many keys of a group are looked at at a time.
    pub workers: usize,
    /// Leave to write; absent where no other process could write the same.
    pub leadership: Option<Leadership>,
    /// What happens without that leave.
    pub follower: Follower,
    /// How often everything is looked at again, whatever the watches say.
    pub resync: Duration,
}

struct Running<R: Reconciler> {
    controller: Controller<R>,
    /// Failures in a row of the keys that failed last and wait to be tried again: no more than the queue holds.
    failures: Mutex<HashMap<R::Key, u32>>,
    health: Mutex<Health>,
    /// Something was passed over for want of leave to write.
    missed: AtomicBool,
}

impl<R: Reconciler> Controller<R> {
    /// Works until `stop` is cancelled; looks under way are finished. Everything is looked at first, so the facts must
    /// have been read before, and the watches must go on meanwhile.
    pub async fn run(self, stop: CancellationToken) {
        let running = Arc::new(Running {
            controller: self,
            failures: Mutex::default(),
            health: Mutex::default(),
            missed: AtomicBool::new(false),
        });
        let mut workers = JoinSet::new();
        let ended = tokio::select! {
            ended = running.hand_out(&mut workers, &stop) => ended,
            () = running.resync() => Ok(()),
        };
        if ended.is_err() {
            // It has panicked. A controller that ends is noticed, one that passes over a key is not.
            return tracing::error!(controller = running.controller.name, "a worker has died");
        }
        while workers.join_next().await.is_some() {}
    }
}

/// A worker has panicked.
struct WorkerDied;

impl<R: Reconciler> Running<R> {
    /// Gives each key that is due to a worker of its group, until `stop`.
    async fn hand_out(
        self: &Arc<Self>,
        workers: &mut JoinSet<Option<Arc<str>>>,
        stop: &CancellationToken,
    ) -> Result<(), WorkerDied> {
        let mut groups = Groups::new(self.controller.workers);
        loop {
            let next = async {
                self.until_available().await;
                if groups.is_any_ready() { None } else { Some(self.controller.queue.next().await) }
            };
            let work = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(ended) = workers.join_next(), if !workers.is_empty() => {
                    groups.leave(ended.map_err(|_| WorkerDied)?);
                    None
                }
                next = next => match next {
                    Some((key, due)) => {
                        let group = self.controller.reconciler.group(&key);
                        groups.enter(group, Due { key, due })
                    }
                    None => groups.ready(),
                },
            };
            if let Some((group, Due { key, due })) = work {
                let running = Arc::clone(self);
                workers.spawn(async move {
                    let again = running.turn(&key, due).await;
                    running.controller.queue.done(key, again);
                    group
                });
            }
        }
    }

    /// Has everything looked at: at first, from time to time, and when this process begins to lead.
    async fn resync(&self) {
        let Controller { reconciler, leadership, resync, .. } = &self.controller;
        let mut leadership = leadership.clone();
        let mut leads = false;
        let mut again = tokio::time::interval(*resync);
        loop {
            tokio::select! {
                _ = again.tick() => reconciler.enqueue_all(),
                () = Leadership::changed_of(leadership.as_mut()) => {
                    let now = leadership.as_ref().is_some_and(|leadership| leadership.permit().is_some());
                    if now && (self.missed.swap(false, Ordering::AcqRel) || !leads) {
                        reconciler.enqueue_all();
                    }
                    leads = now;
                }
            }
        }
    }

    /// One look; the time until the next.
    async fn turn(&self, key: &R::Key, due: Instant) -> Option<Duration> {
        let Controller { reconciler, leadership, follower, .. } = &self.controller;
        let permit = leadership.as_ref().and_then(Leadership::permit);
        if leadership.is_some() && permit.is_none() && *follower == Follower::Waits {
            // Whoever begins to lead looks at everything.
            self.missed.store(true, Ordering::Release);
            self.failures.lock().remove(key);
            return None;
        }
        let began = Instant::now();
        // In a box: the state of a look may be large, and two branches below hold it.
        let looking = Box::pin(reconciler.reconcile(key, Turn { due, permit }));
        let looked = match permit {
            Some(permit) if *follower == Follower::Waits => {
                tokio::time::timeout_at(permit.end_before, looking).await.unwrap_or(Err(ApiError::Late.into()))
            }
            _ => looking.await,
        };
        match looked {
            Ok(again) => {
                self.failures.lock().remove(key);
                again
            }
            Err(error) => Some(self.failed(key, &error, began)),
        }
    }

    /// Takes note of a look that failed; the time until the next.
    fn failed(&self, key: &R::Key, error: &R::Error, began: Instant) -> Duration {
        let Controller { name, reconciler, .. } = &self.controller;
        if error.is_unavailable() {
            self.health.lock().failed(began);
        }
        let failures = {
            let mut all = self.failures.lock();
            let failures = all.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let pause = pause_after(error.failure(), failures).min(reconciler.longest_pause());
        if error.failure() == Failure::Conflict {
            tracing::debug!(controller = name, ?key, %error, ?pause, "trying again");
        } else {
            tracing::warn!(controller = name, ?key, %error, ?pause, "trying again");
        }
        reconciler.will_retry();
        pause
    }

    /// Waits while the API server is left alone.
    async fn until_available(&self) {
        loop {
            let pause = self.health.lock().pause();
            let Some(pause) = pause else { return };
            tokio::time::sleep(pause).await;
        }
    }
}

/// A key, and since when it has been due.
struct Due<K> {
    key: K,
    due: Instant,
}

type Work<K> = (Option<Arc<str>>, Due<K>);

/// Who works for which group. It holds a key at most once, as the queue does.
struct Groups<K> {
    /// How many keys of a group are looked at at a time.
    workers: usize,
    /// The groups that have work.
    busy: HashMap<Option<Arc<str>>, Group<K>>,
    /// Keys whose group has a worker for them.
    ready: VecDeque<Work<K>>,
}

struct Group<K> {
    working: usize,
    waiting: VecDeque<Due<K>>,
}

impl<K> Groups<K> {
    fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), busy: HashMap::new(), ready: VecDeque::new() }
    }

    /// The key, if its group has a worker for it now. Otherwise it waits for one.
    fn enter(&mut self, group: Option<Arc<str>>, due: Due<K>) -> Option<Work<K>> {
        let entry = self.busy.entry(group.clone()).or_insert_with(|| Group { working: 0, waiting: VecDeque::new() });
        if entry.working >= self.workers {
            entry.waiting.push_back(due);
            return None;
        }
        entry.working += 1;
        Some((group, due))
    }

    /// A worker of this group has ended its look, and takes the key that has waited longest.
    fn leave(&mut self, group: Option<Arc<str>>) {
        let Some(entry) = self.busy.get_mut(&group) else { return };
        if let Some(due) = entry.waiting.pop_front() {
            self.ready.push_back((group, due));
        } else {
            entry.working = entry.working.saturating_sub(1);
            if entry.working == 0 {
                self.busy.remove(&group);
            }
        }
    }

    fn is_any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn ready(&mut self) -> Option<Work<K>> {
        self.ready.pop_front()
    }
}

/// When a key that failed for the nth time in a row is tried again.
fn pause_after(failure: Failure, failures: u32) -> Duration {
    let (first, longest) = match failure {
        // The watch brings what has changed within milliseconds.
        Failure::Conflict | Failure::NotFound => (Duration::from_millis(50), Duration::from_secs(10)),
        // Rights, quotas and namespaces change by people's hands.
        Failure::Refused => (Duration::from_secs(1), Duration::from_secs(60)),
        Failure::Unavailable => (Duration::from_millis(500), Duration::from_secs(30)),
    };
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(longest)
}

/// How the API server has been answering. While it is away all workers pause together, so that their number, not that of
/// the keys, bounds the requests.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    pause_until: Option<Instant>,
}

impl Health {
    /// The longest pause: with 16 workers fewer than two requests a second reach an API server that stays away.
    const LONGEST: Duration = Duration::from_secs(10);
    /// After so long without a failure the next one is a new trouble.
    const FORGOTTEN: Duration = Duration::from_secs(30);

    /// Takes note of a failure of a look that began then.
    fn failed(&mut self, began: Instant) {
        let now = Instant::now();
        if self.pause_until.is_some_and(|until| now.saturating_duration_since(until) > Self::FORGOTTEN) {
            *self = Self::default();
        }
        // What was sent before the pause began is the same trouble, not more of it.
        if self.pause_until.is_none_or(|until| began >= until) {
            self.failures = self.failures.saturating_add(1);
            let pause = Duration::from_millis(250).saturating_mul(2_u32.saturating_pow(self.failures.min(10)));
            self.pause_until = Some(now + pause.min(Self::LONGEST));
        }
    }

    fn pause(&self) -> Option<Duration> {
        self.pause_until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const WORKERS: usize = 8;

    /// Fails a number of times, then succeeds.
    struct Failing {
        queue: Arc<Queue<u32>>,
        fails: u32,
        error: fn() -> ApiError,
        looks: AtomicU32,
        retries: AtomicU32,
    }

    impl Reconciler for Failing {
        type Key = u32;
        type Error = ApiError;

        async fn reconcile(&self, _: &u32, _: Turn) -> Result<Option<Duration>, ApiError> {
            let look = self.looks.fetch_add(1, Ordering::SeqCst);
            if look < self.fails { Err((self.error)()) } else { Ok(None) }
        }

        fn enqueue_all(&self) {
            (0..20).for_each(|key| self.queue.now(key));
        }

        fn will_retry(&self) {
            self.retries.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn failing(fails: u32, error: fn() -> ApiError) -> Arc<Failing> {
        let (looks, retries) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Failing { queue: Arc::default(), fails, error, looks, retries })
    }

    fn controller(reconciler: &Arc<Failing>, resync: Duration) -> Controller<Failing> {
        let (queue, reconciler) = (Arc::clone(&reconciler.queue), Arc::clone(reconciler));
        let (leadership, follower) = (None, Follower::Waits);
        Controller { name: "test", reconciler, queue, workers: WORKERS, leadership, follower, resync }
    }

    async fn run_for(reconciler: &Arc<Failing>, resync: Duration, time: Duration) -> u32 {
        let stop = CancellationToken::new();
        let running = tokio::spawn(controller(reconciler, resync).run(stop.clone()));
        tokio::time::sleep(time).await;
        stop.cancel();
        running.await.unwrap();
        reconciler.looks.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_until_it_succeeds() {
        let reconciler = failing(3, || ApiError::Stale);
        let looks = run_for(&reconciler, Duration::from_secs(3_600), Duration::from_secs(60)).await;
        assert_eq!(looks, 20 + 3);
        assert_eq!(reconciler.retries.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_looked_at_from_time_to_time() {
        let looks = run_for(&failing(0, || ApiError::Stale), Duration::from_secs(60), Duration::from_secs(150)).await;
        assert_eq!(looks, 3 * 20);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_stays_away_is_asked_ever_more_rarely() {
        let never = failing(u32::MAX, || ApiError::Late);
        let looks = run_for(&never, Duration::from_secs(3_600), Duration::from_secs(30)).await;
        assert!(looks <= 8 * u32::try_from(WORKERS).unwrap(), "{looks}");
        // Of those who look one after another, one meets the trouble and all wait: a look every 10 s in the end.
        let looks =
            run_for(&failing(20, || ApiError::Late), Duration::from_secs(3_600), Duration::from_secs(600)).await;
        assert_eq!(looks, 20 + 20, "all 20 succeed in the end");
    }

    /// Keys below ten never come to an end.
    struct Hanging {
        queue: Arc<Queue<u32>>,
        most: AtomicU32,
        working: AtomicU32,
        done: AtomicU32,
    }

    impl Reconciler for Hanging {
        type Key = u32;
        type Error = ApiError;

        async fn reconcile(&self, key: &u32, _: Turn) -> Result<Option<Duration>, ApiError> {
            if *key < 10 {
                std::future::pending::<()>().await;
            }
            let working = self.working.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(working, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.working.fetch_sub(1, Ordering::SeqCst);
            self.done.fetch_add(1, Ordering::SeqCst);
            Ok(None)
        }

        fn enqueue_all(&self) {
            (0..50).for_each(|key| self.queue.now(key));
        }

        fn group(&self, key: &u32) -> Option<Arc<str>> {
            Some(if *key < 10 { "hung" } else { "good" }.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_hangs_delays_no_other() {
        let reconciler = Arc::new(Hanging {
            queue: Arc::default(),
            most: AtomicU32::new(0),
            working: AtomicU32::new(0),
            done: AtomicU32::new(0),
        });
        let controller = Controller {
            name: "test",
            queue: Arc::clone(&reconciler.queue),
            reconciler: Arc::clone(&reconciler),
            workers: WORKERS,
            leadership: None,
            follower: Follower::Waits,
            resync: Duration::from_secs(3_600),
        };
        let running = tokio::spawn(controller.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        assert_eq!(reconciler.done.load(Ordering::SeqCst), 40);
        assert_eq!(reconciler.most.load(Ordering::SeqCst), u32::try_from(WORKERS).unwrap());
        running.abort();
    }

    #[test]
    fn retries_have_a_longest_pause() {
        assert_eq!(pause_after(Failure::Conflict, 1), Duration::from_millis(50));
        assert_eq!(pause_after(Failure::Conflict, u32::MAX), Duration::from_secs(10));
        assert_eq!(pause_after(Failure::Refused, u32::MAX), Duration::from_secs(60));
    }
}
