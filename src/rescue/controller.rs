//! The loop: takes claims from the queue, plans, and carries the plan out. It decides nothing.

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SELECTED_BY;
use super::events::{Events, Senders, events};
use super::feed::Feed;
use super::metrics::RescueMetrics;
use super::plan::{Past, Plan, Report, Step, Write, plan};
use super::reservations::{Promised, Reservations};
use super::tracking::{ClaimKey, Tracking};
use super::writer::{Outcome, Writer};
use crate::binding::{ClusterView, Lookup, Rules};
use crate::cluster::live::{LiveCluster, Observer};
use crate::model::{Claim, Volume};
use crate::runtime::lease::{Leadership, Permit};
use crate::runtime::queue::Queue;

/// Claims that are worked on at a time. An API server of two cores stores about 500 small patches a second at 3 ms each
/// with this many under way; more only queue there, in front of everybody else's requests.
const WORKERS: usize = 8;
/// The longest time that one write, with the look before it, may take.
const WRITE: Duration = Duration::from_secs(5);
/// How often everything is looked at once more.
const SWEEP: Duration = Duration::from_secs(300);
/// For how long a provisioner's words are believed.
const WORDS: Duration = Duration::from_secs(50);

/// How a controller is set up.
pub struct Setup {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster; Pods must be watched.
    pub live: LiveCluster,
    /// The choices that every decision takes.
    pub rules: Rules,
    /// Leave to write; absent: write nothing, and say what would be written.
    pub leadership: Option<Leadership>,
    /// What this process calls itself in events.
    pub instance: String,
}

/// The rescue loop.
pub struct Controller {
    inner: Arc<Inner>,
    feed: Arc<Feed>,
    senders: Senders,
}

struct Inner {
    live: LiveCluster,
    rules: Rules,
    leadership: Option<Leadership>,
    queue: Arc<Queue<ClaimKey>>,
    tracking: Arc<Tracking>,
    reservations: Mutex<Reservations>,
    writer: Writer,
    events: Events,
    metrics: RescueMetrics,
    health: Mutex<Health>,
    started: OnceLock<Started>,
}

/// Tells of a claim, by its UID, whether latebind's own provisioner has made anything for it; `None` if nobody knows.
type Started = Box<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// How the API server has been answering. While it is unwell all workers pause together, so that their number, not that
/// of stuck claims, bounds the requests.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    pause_until: Option<Instant>,
}

impl Health {
    /// The longest pause: with 8 workers fewer than one request a second reaches an API server that stays away.
    const LONGEST: Duration = Duration::from_secs(10);

    fn note(&mut self, outcome: Outcome, began: Instant) {
        if outcome != Outcome::Unwell {
            *self = Self::default();
        } else if self.pause_until.is_none_or(|until| began >= until) {
            // Requests that were sent before the pause began are the same trouble, not more of it.
            self.failures = self.failures.saturating_add(1);
            let pause = Duration::from_millis(250).saturating_mul(2_u32.saturating_pow(self.failures.min(10)));
            self.pause_until = Some(Instant::now() + pause.min(Self::LONGEST));
        }
    }

    fn pause(&self) -> Option<Duration> {
        self.pause_until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

/// What was decided, with what the write needs.
struct Decided {
    plan: Plan,
    volume: Option<Arc<Volume>>,
    report: Option<Report>,
    look_again: Option<Duration>,
}

impl Controller {
    /// A controller that does nothing until [`Self::run`].
    #[must_use]
    pub fn new(setup: Setup, registry: &mut Registry) -> Self {
        let Setup { client, live, rules, leadership, instance } = setup;
        let (queue, tracking) = (Arc::new(Queue::default()), Arc::new(Tracking::default()));
        let metrics = RescueMetrics::new();
        metrics.register(registry, &tracking);
        let (events, senders) = events(client.clone(), instance, metrics.clone());
        let feed = Feed {
            live: live.clone(),
            queue: Arc::clone(&queue),
            tracking: Arc::clone(&tracking),
            open: AtomicBool::new(false),
        };
        let inner = Inner {
            live,
            rules,
            leadership,
            queue,
            tracking,
            reservations: Mutex::default(),
            writer: Writer::new(client),
            events,
            metrics,
            health: Mutex::default(),
            started: OnceLock::new(),
        };
        Self { inner: Arc::new(inner), feed: Arc::new(feed), senders }
    }

    /// Asks this from now on what latebind's own provisioner has begun. A second call changes nothing.
    pub fn ask_provisioner(&self, started: impl Fn(&str) -> Option<bool> + Send + Sync + 'static) {
        drop(self.inner.started.set(Box::new(started)));
    }

    /// Who is to hear of what the watches bring.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let feed: Arc<Feed> = Arc::clone(&self.feed);
        feed
    }

    /// Works until cancelled; a write under way is finished. The watches must run beside it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { inner, feed, senders } = self;
        if stop.run_until_cancelled(inner.live.synced()).await.is_none() {
            return;
        }
        let workers = join_all((0..WORKERS).map(|_| Arc::clone(&inner).work(&stop)));
        let sweeps = stop.run_until_cancelled(sweeps(&feed, inner.leadership.clone()));
        tokio::join!(workers, sweeps, senders.run(stop.clone()));
    }
}

/// Sweeps at the start, from time to time, and whenever this process begins to lead.
async fn sweeps(feed: &Feed, mut leadership: Option<Leadership>) {
    let mut leads = false;
    let mut again = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = again.tick() => feed.sweep(),
            () = Leadership::changed_of(leadership.as_mut()) => {
                let now = leadership.as_ref().is_some_and(|leadership| leadership.permit().is_some());
                if now && !leads {
                    feed.sweep();
                }
                leads = now;
            }
        }
    }
}

impl Inner {
    fn work(self: Arc<Self>, stop: &CancellationToken) -> impl Future<Output = ()> {
        let stop = stop.clone();
        async move {
            while let Some((key, due)) = stop.run_until_cancelled(self.queue.next()).await {
                let again = self.reconcile(&key, due).await;
                self.queue.done(key, again);
            }
        }
    }

    /// Looks at one claim; the time until it is to be looked at again whatever happens.
    async fn reconcile(&self, key: &ClaimKey, due: Instant) -> Option<Duration> {
        let claim = match self.live.claim(&key.0, &key.1) {
            Lookup::Found(claim) => claim,
            Lookup::Absent => {
                self.tracking.forget(key);
                return None;
            }
            Lookup::Unknown => return Some(Duration::from_secs(1)),
        };
        let decided = self.decide(key, &claim);
        // An own order outlives its Pod: what becomes of its node is still to be followed.
        let ordered = claim.annotation(SELECTED_BY).is_some() && claim.volume_name().is_none();
        if decided.plan.consumer.is_none() && decided.plan.step == Step::Nothing && !ordered {
            self.tracking.forget(key);
            return None;
        }
        if let Some(report) = &decided.report {
            self.tell(&claim, &decided.plan, report);
        }
        let next = match decided.plan.step.clone() {
            Step::Nothing => None,
            Step::Later(pause) => Some(pause),
            Step::AskProvisioner => {
                let words = self.writer.words(&claim, Instant::now() + WRITE).await;
                self.tracking.with(key, &claim, |tracked| tracked.words = Some((words, Instant::now())));
                Some(Duration::ZERO)
            }
            Step::Write(write) => self.carry_out(key, &claim, &decided, &write, due).await,
        };
        match (next, decided.look_again) {
            (Some(next), Some(look)) => Some(next.min(look)),
            (next, look) => next.or(look),
        }
    }

    /// Plans, and promises the volume that the plan reserves, before anybody else plans.
    fn decide(&self, key: &ClaimKey, claim: &Claim) -> Decided {
        let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
        reservations.settle(&self.live);
        self.tracking.with(key, claim, |tracked| {
            let now = Instant::now();
            let fresh = |read: &Instant| now.saturating_duration_since(*read) < WORDS;
            let past = Past {
                given_back_for: tracked.given_back.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
                words: tracked.words.as_ref().filter(|(_, read)| fresh(read)).map(|(words, _)| words.clone()),
                started: self.started.get().and_then(|started| started(claim.metadata.uid.as_deref()?)),
            };
            let view = Promised { view: &self.live, reservations: &reservations };
            let mut plan = plan(claim, &view, &self.rules, &past);
            let lags = tracked.written.is_some() && tracked.written == claim.metadata.resource_version;
            if lags {
                plan.step = Step::Nothing;
                plan.report = None;
            }
            let mut volume = None;
            if let Step::Write(Write::Prebind { volume: name }) = &plan.step {
                volume = self.live.volume(name).found();
                if let Some(volume) = &volume {
                    reservations.promise(volume, claim);
                }
            }
            let (report, look_again) = tracked.note(claim, &plan, now);
            Decided { plan, volume, report, look_again }
        })
    }

    async fn carry_out(
        &self,
        key: &ClaimKey,
        claim: &Claim,
        decided: &Decided,
        write: &Write,
        due: Instant,
    ) -> Option<Duration> {
        let volume = decided.volume.as_deref();
        let Some(leadership) = &self.leadership else {
            self.would_write(key, claim, write);
            return None;
        };
        let take_back = || {
            if let Some(volume) = volume {
                self.reservations.lock().unwrap_or_else(PoisonError::into_inner).release(volume.name());
            }
        };
        // Whoever leads sweeps when it begins to.
        let Some(Permit { end_before, .. }) = leadership.permit() else {
            take_back();
            return None;
        };
        if let Some(pause) = self.health.lock().unwrap_or_else(PoisonError::into_inner).pause() {
            take_back();
            return Some(pause);
        }
        let began = Instant::now();
        let outcome = self.writer.write(claim, volume, write, end_before.min(began + WRITE)).await;
        self.health.lock().unwrap_or_else(PoisonError::into_inner).note(outcome, began);
        self.metrics.wrote(write.kind(), outcome.as_str());
        if outcome != Outcome::Done {
            take_back();
        }
        let again = self.tracking.with(key, claim, |tracked| match outcome {
            Outcome::Done => {
                tracked.failures = 0;
                // A reserved volume changes, the claim does not: the promise stands for it.
                tracked.written = volume.is_none().then(|| claim.metadata.resource_version.clone()).flatten();
                None
            }
            Outcome::Gone => None,
            Outcome::Conflict | Outcome::Refused | Outcome::Unwell => {
                tracked.failures = tracked.failures.saturating_add(1);
                Some(retry_after(outcome, tracked.failures))
            }
        });
        match again {
            None if outcome == Outcome::Done => {
                self.metrics.took(due.elapsed());
                tracing::info!(
                    namespace = %key.0,
                    claim = %key.1,
                    write = write.kind(),
                    node = decided.plan.consumer.as_ref().and_then(|pod| pod.pinned_node()),
                    "wrote"
                );
                if let Some(report) = &decided.plan.report {
                    self.tell(claim, &decided.plan, report);
                }
            }
            None => {}
            Some(_) => self.metrics.will_retry(),
        }
        again
    }

    fn would_write(&self, key: &ClaimKey, claim: &Claim, write: &Write) {
        self.metrics.wrote(write.kind(), "dry_run");
        // Said once for this version of the claim; a promise stands until its volume changes.
        self.tracking.with(key, claim, |tracked| tracked.written.clone_from(&claim.metadata.resource_version));
        tracing::info!(namespace = %key.0, claim = %key.1, ?write, "would write");
    }

    fn tell(&self, claim: &Claim, plan: &Plan, report: &Report) {
        let may_write = self.leadership.as_ref().is_some_and(|leadership| leadership.permit().is_some());
        if may_write {
            self.events.tell(claim, plan.consumer.as_deref(), report);
        } else if self.leadership.is_none() {
            tracing::info!(
                namespace = claim.namespace(),
                claim = claim.name(),
                reason = report.reason,
                note = report.note,
                "would tell"
            );
        }
    }
}

/// When a write that failed for the nth time in a row is tried again.
fn retry_after(outcome: Outcome, failures: u32) -> Duration {
    let (first, longest) = match outcome {
        // The watch brings what has changed within milliseconds.
        Outcome::Conflict => (Duration::from_millis(50), Duration::from_secs(10)),
        // Rights and namespaces change by people's hands.
        Outcome::Refused => (Duration::from_secs(10), Duration::from_secs(300)),
        Outcome::Unwell | Outcome::Done | Outcome::Gone => (Duration::from_millis(500), Duration::from_secs(30)),
    };
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_stays_away_is_asked_ever_more_rarely() {
        let mut health = Health::default();
        let mut requests = 0;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            let began = Instant::now();
            // All workers send before the first answer comes.
            for _ in 0..WORKERS {
                requests += 1;
                health.note(Outcome::Unwell, began);
            }
            tokio::time::sleep(health.pause().unwrap()).await;
        }
        assert!(requests <= 8 * WORKERS, "{requests}");
        health.note(Outcome::Done, Instant::now());
        assert_eq!(health.pause(), None);
    }

    #[test]
    fn retries_have_a_longest_pause() {
        assert_eq!(retry_after(Outcome::Conflict, 1), Duration::from_millis(50));
        assert_eq!(retry_after(Outcome::Conflict, u32::MAX), Duration::from_secs(10));
        assert_eq!(retry_after(Outcome::Refused, u32::MAX), Duration::from_secs(300));
    }
}
