//! The loop: takes claims from the queue, plans, and carries the plan out. It decides nothing.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SELECTED_BY;
use super::events::Events;
use super::metrics::RescueMetrics;
use super::plan::{Past, Plan, Report, Step, Write, plan_within};
use super::reservations::{Promised, Reservations};
use super::tracking::{ClaimKey, Tracking};
use super::triggers::Triggers;
use super::writer::{Writer, result_name};
use crate::binding::{ClusterView, Lookup, Rules};
use crate::facts::live::{LiveCluster, Observer};
use crate::kubernetes::api::{ApiError, Failure};
use crate::kubernetes::controller::{Controller, Follower, Reconciler, Turn};
use crate::kubernetes::lease::{Leadership, Permit};
use crate::model::{Claim, Volume};
use crate::policy::RescuePolicy;

/// Claims that are worked on at a time. An API server of two cores stores about 500 small patches a second at 3 ms each
/// with this many under way; more only queue there, in front of everybody else's requests.
const WORKERS: usize = 8;
/// The longest time that one write, with the live look before it, may take.
const WRITE: Duration = Duration::from_secs(5);
/// How often everything is looked at once more.
const RESYNC: Duration = Duration::from_secs(300);
/// For how long a provisioner's report is believed.
const REPORT_TTL: Duration = Duration::from_secs(50);

/// How the rescue loop is set up.
pub struct RescueOptions {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster; Pods must be watched.
    pub live: LiveCluster,
    /// The choices that every decision takes.
    pub rules: Rules,
    /// How far it goes where.
    pub policy: RescuePolicy,
    /// Leave to write; absent: write nothing, and say what would be written.
    pub leadership: Option<Leadership>,
    /// What this process calls itself in events.
    pub instance: String,
}

/// The rescue loop.
pub struct Rescue {
    claims: Arc<Claims>,
    triggers: Arc<Triggers>,
    senders: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What is done with claims.
struct Claims {
    live: LiveCluster,
    rules: Rules,
    policy: RescuePolicy,
    leadership: Option<Leadership>,
    triggers: Arc<Triggers>,
    tracking: Arc<Tracking>,
    reservations: Mutex<Reservations>,
    writer: Writer,
    events: Events,
    metrics: RescueMetrics,
    started: OnceLock<Started>,
}

/// Tells of a claim, by its UID, whether latebind's own provisioner has made anything for it; `None` if nobody knows.
type Started = Box<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// What was decided, with what the write needs.
struct Decided {
    plan: Plan,
    volume: Option<Arc<Volume>>,
    report: Option<Report>,
    look_again: Option<Duration>,
}

impl Rescue {
    /// A loop that does nothing until [`Self::run`].
    #[must_use]
    pub fn new(options: RescueOptions, registry: &mut Registry) -> Self {
        let RescueOptions { client, live, rules, policy, leadership, instance } = options;
        let tracking = Arc::new(Tracking::default());
        let metrics = RescueMetrics::new();
        metrics.register(registry, &tracking);
        let (events, senders) = Events::new(client.clone(), instance, metrics.clone());
        let triggers = Arc::new(Triggers {
            live: live.clone(),
            queue: Arc::default(),
            tracking: Arc::clone(&tracking),
            open: AtomicBool::new(false),
        });
        let claims = Claims {
            live,
            rules,
            policy,
            leadership,
            triggers: Arc::clone(&triggers),
            tracking,
            reservations: Mutex::default(),
            writer: Writer::new(client, false),
            events,
            metrics,
            started: OnceLock::new(),
        };
        Self { claims: Arc::new(claims), triggers, senders: Box::pin(senders) }
    }

    /// Asks this from now on what latebind's own provisioner has begun. A second call changes nothing.
    pub fn ask_provisioner(&self, started: impl Fn(&str) -> Option<bool> + Send + Sync + 'static) {
        drop(self.claims.started.set(Box::new(started)));
    }

    /// Who is to hear of what the watches bring.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let triggers: Arc<Triggers> = Arc::clone(&self.triggers);
        triggers
    }

    /// Works until cancelled; a write under way is finished. The watches must run beside it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { claims, triggers, senders } = self;
        if stop.run_until_cancelled(claims.live.synced()).await.is_none() {
            return;
        }
        let controller = Controller {
            name: "rescue",
            leadership: claims.leadership.clone(),
            reconciler: claims,
            queue: Arc::clone(&triggers.queue),
            workers: WORKERS,
            // A follower counts what is stuck too, and is warm when it begins to lead.
            follower: Follower::Looks,
            resync: RESYNC,
        };
        tokio::join!(controller.run(stop.clone()), stop.run_until_cancelled(senders));
    }
}

impl Reconciler for Claims {
    type Key = ClaimKey;
    type Error = ApiError;

    async fn reconcile(&self, key: &ClaimKey, turn: Turn) -> Result<Option<Duration>, ApiError> {
        let claim = match self.live.claim(&key.0, &key.1) {
            Lookup::Found(claim) => claim,
            Lookup::Absent => {
                self.tracking.forget(key);
                return Ok(None);
            }
            Lookup::Unknown => return Ok(Some(Duration::from_secs(1))),
        };
        let decided = self.decide(key, &claim);
        // An own order outlives its Pod: what becomes of its node is still to be followed.
        let ordered = claim.annotation(SELECTED_BY).is_some() && claim.volume_name().is_none();
        if decided.plan.consumer.is_none() && decided.plan.step == Step::Nothing && !ordered {
            self.tracking.forget(key);
            return Ok(None);
        }
        if let Some(report) = &decided.report {
            self.report(&claim, &decided.plan, report);
        }
        let next = match decided.plan.step.clone() {
            Step::Nothing => None,
            Step::Later(pause) => Some(pause),
            Step::AskProvisioner => {
                let report = self.writer.provisioner_report(&claim, Instant::now() + WRITE).await;
                self.tracking.with(key, &claim, |tracked| tracked.provisioner = Some((report, Instant::now())));
                Some(Duration::ZERO)
            }
            Step::Write(write) => {
                self.carry_out(key, &claim, &decided, &write, turn).await?;
                None
            }
        };
        Ok(match (next, decided.look_again) {
            (Some(next), Some(look)) => Some(next.min(look)),
            (next, look) => next.or(look),
        })
    }

    fn enqueue_all(&self) {
        self.triggers.enqueue_all();
    }

    fn will_retry(&self) {
        self.metrics.will_retry();
    }
}

impl Claims {
    /// Plans, and promises the volume that the plan reserves, before anybody else plans.
    fn decide(&self, key: &ClaimKey, claim: &Claim) -> Decided {
        let mut reservations = self.reservations.lock();
        reservations.settle(&self.live);
        self.tracking.with(key, claim, |tracked| {
            let now = Instant::now();
            let fresh = |read: &Instant| now.saturating_duration_since(*read) < REPORT_TTL;
            let past = Past {
                given_back_for: tracked.given_back.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
                provisioner: tracked
                    .provisioner
                    .as_ref()
                    .filter(|(_, read)| fresh(read))
                    .map(|(report, _)| report.clone()),
                started: self.started.get().and_then(|started| started(claim.metadata.uid.as_deref()?)),
                now: Timestamp::now(),
            };
            let view = Promised { view: &self.live, reservations: &reservations };
            let mut plan = plan_within(&self.policy, claim, &view, &self.rules, &past);
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
        turn: Turn,
    ) -> Result<(), ApiError> {
        let volume = decided.volume.as_deref();
        if self.leadership.is_none() {
            self.would_write(key, claim, write);
            return Ok(());
        }
        let take_back = || {
            if let Some(volume) = volume {
                self.reservations.lock().release(volume.name());
            }
        };
        // Whoever leads looks at everything when it begins to.
        let Some(Permit { end_before, .. }) = turn.permit else {
            take_back();
            return Ok(());
        };
        let written = self.writer.write(claim, volume, write, end_before.min(Instant::now() + WRITE)).await;
        self.metrics.wrote(write.kind(), result_name(&written));
        let is_as_planned = match written {
            Ok(is_as_planned) => is_as_planned,
            Err(error) => {
                take_back();
                return if error.failure() == Failure::NotFound { Ok(()) } else { Err(error) };
            }
        };
        self.tracking.with(key, claim, |tracked| {
            // A reserved volume changes, the claim does not: the promise stands for it.
            tracked.written = volume.is_none().then(|| claim.metadata.resource_version.clone()).flatten();
        });
        self.metrics.took(turn.due.elapsed());
        tracing::info!(
            namespace = %key.0,
            claim = %key.1,
            write = write.kind(),
            node = decided.plan.consumer.as_ref().and_then(|pod| pod.pinned_node()),
            "wrote"
        );
        if let Some(report) = decided.plan.report.as_ref().filter(|_| is_as_planned) {
            self.report(claim, &decided.plan, report);
        }
        Ok(())
    }

    fn would_write(&self, key: &ClaimKey, claim: &Claim, write: &Write) {
        self.metrics.wrote(write.kind(), "dry_run");
        // Said once for this version of the claim; a promise stands until its volume changes.
        self.tracking.with(key, claim, |tracked| tracked.written.clone_from(&claim.metadata.resource_version));
        tracing::info!(namespace = %key.0, claim = %key.1, ?write, "would write");
    }

    fn report(&self, claim: &Claim, plan: &Plan, report: &Report) {
        let may_write = self.leadership.as_ref().is_some_and(|leadership| leadership.permit().is_some());
        if may_write {
            self.events.report(claim, plan.consumer.as_deref(), report);
        } else if self.leadership.is_none() {
            tracing::info!(
                namespace = claim.namespace(),
                claim = claim.name(),
                reason = report.reason,
                note = report.note,
                "would report"
            );
        }
    }
}
