//! Leadership by a Lease of the API server: of several replicas one writes.
//!
//! A holder renews well before others may take over, and stops by its own clock when it cannot. Others measure how long
//! the Lease has not changed by their own clocks, so that clocks need not agree. A write that a former holder had under
//! way may still arrive late; writes therefore carry preconditions of their own.
//! The scheme is that of `client-go/tools/leaderelection`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{ApiError, within};
use crate::runtime::readiness::Part;

/// Who holds a Lease, and how its times relate.
#[derive(Clone, Debug)]
pub struct LeaseTerms {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// What this process calls itself; no other may use it.
    pub identity: String,
    /// After this time without a renewal others take over.
    pub duration: Duration,
    /// After this time without a renewal the holder stops writing.
    pub renew_deadline: Duration,
    /// Time between renewals, and between looks of those who wait.
    pub retry: Duration,
}

impl LeaseTerms {
    /// Terms with the usual times: others take over 15 s after the last renewal at the earliest and 2 s later at the
    /// latest, and the holder has stopped 5 s before, which is the longest time that a write takes.
    #[must_use]
    pub fn new(namespace: String, name: String, identity: String) -> Self {
        Self {
            namespace,
            name,
            identity,
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Leave to write, until a moment of this process's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// No write may begin later.
    pub begin_before: Instant,
    /// No write may last longer: others may have taken over.
    pub end_before: Instant,
}

/// What is known of the own leadership. Cloning gives another handle to it.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Permit>>);

impl Leadership {
    /// Leave to write now, if this process leads.
    #[must_use]
    pub fn permit(&self) -> Option<Permit> {
        self.0.borrow().filter(|permit| Instant::now() < permit.begin_before)
    }

    /// The same where there may be none to wait for: then it never resolves.
    pub async fn changed_of(leadership: Option<&mut Self>) {
        match leadership {
            Some(leadership) => leadership.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until leadership is won, lost or renewed. Never resolves once nobody contends for the Lease any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Contends for a Lease.
#[derive(Debug)]
pub struct Contender {
    api: Api<Lease>,
    terms: LeaseTerms,
    permit: watch::Sender<Option<Permit>>,
    leads: Gauge,
    transitions: Counter,
    part: Option<Part>,
}

/// The Lease as it was last read, and when it was last seen to change.
struct Seen {
    version: String,
    at: Instant,
}

/// Why a Lease could not be had or kept.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("somebody else changed the Lease")]
    Conflict,
}

impl Contender {
    /// A contender that does nothing until [`Self::run`].
    #[must_use]
    pub fn new(client: Client, terms: LeaseTerms) -> Self {
        let api = Api::namespaced(client, &terms.namespace);
        Self {
            api,
            terms,
            permit: watch::Sender::new(None),
            leads: Gauge::default(),
            transitions: Counter::default(),
            part: None,
        }
    }

    /// Says in a readiness report when the Lease cannot be had. The process stays ready: it leads or it does not, and a
    /// restart would change nothing.
    #[must_use]
    pub fn telling(mut self, part: Part) -> Self {
        part.ready();
        self.part = Some(part);
        self
    }

    /// The own leadership, as it changes.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        Leadership(self.permit.subscribe())
    }

    /// Adds what is counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("leader", "1 while this process leads", self.leads.clone());
        registry.register("leader_acquisitions", "Times this process began to lead", self.transitions.clone());
    }

    /// Contends until cancelled, then gives the Lease back so that another need not wait for it to end.
    pub async fn run(self, stop: CancellationToken) {
        let me = Arc::new(self);
        if let Some(never) = stop.run_until_cancelled(me.contend()).await {
            match never {}
        }
        let leads = me.permit.borrow().is_some();
        me.lose("this process ends");
        if leads && let Err(error) = me.release().await {
            tracing::warn!(%error, "the Lease could not be given back; it ends by itself");
        }
    }

    async fn contend(&self) -> std::convert::Infallible {
        let mut seen: Option<Seen> = None;
        loop {
            let pause =
                if self.permit.borrow().is_some() { self.keep(&mut seen).await } else { self.wait(&mut seen).await };
            tokio::time::sleep(pause).await;
        }
    }

    /// One renewal; the time until the next.
    async fn keep(&self, seen: &mut Option<Seen>) -> Duration {
        let began = Instant::now();
        let Some(begin_before) = self.permit.borrow().map(|permit| permit.begin_before) else { return Duration::ZERO };
        let Some(left) = begin_before.checked_duration_since(began).filter(|left| !left.is_zero()) else {
            self.lose("it could not be renewed in time");
            return Duration::ZERO;
        };
        let version = seen.as_ref().map(|seen| seen.version.clone()).unwrap_or_default();
        match self.write(&version, &self.renewal(), left.min(self.terms.retry * 2)).await {
            Ok(lease) => {
                *seen = Some(Seen { version: lease.metadata.resource_version.unwrap_or_default(), at: began });
                self.hold(began);
                self.terms.retry
            }
            Err(LeaseError::Conflict) => match self.read().await {
                // Our own write may have arrived without its answer; or somebody put a label on the Lease.
                Ok(Some(lease)) if self.is_held_by_us(&lease) => {
                    *seen = Some(Seen { version: lease.metadata.resource_version.unwrap_or_default(), at: began });
                    Duration::ZERO
                }
                Ok(_) => {
                    *seen = None;
                    self.lose("another process has taken over");
                    self.terms.retry
                }
                Err(error) => {
                    tracing::warn!(%error, "the Lease could not be read");
                    self.terms.retry / 2
                }
            },
            Err(error) => {
                tracing::warn!(%error, "the Lease could not be renewed");
                self.terms.retry / 2
            }
        }
    }

    /// One look at a Lease that somebody else holds, and its taking over if it has ended; the time until the next.
    async fn wait(&self, seen: &mut Option<Seen>) -> Duration {
        let began = Instant::now();
        let outcome = match self.read().await {
            Ok(None) => self.create().await,
            Ok(Some(lease)) => {
                let version = lease.metadata.resource_version.clone().unwrap_or_default();
                if seen.as_ref().is_none_or(|seen| seen.version != version) {
                    *seen = Some(Seen { version: version.clone(), at: began });
                }
                let ends = seen.as_ref().map_or(began, |seen| seen.at + duration_of(&lease, self.terms.duration));
                if is_free(&lease) || self.is_held_by_us(&lease) || began >= ends {
                    let transitions = lease.spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
                    self.write(&version, &self.taking(transitions + 1), self.terms.retry * 2).await
                } else {
                    self.tell(None);
                    return self.terms.retry.min(ends - began);
                }
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(lease) => {
                *seen = Some(Seen { version: lease.metadata.resource_version.unwrap_or_default(), at: began });
                self.transitions.inc();
                tracing::info!(lease = self.terms.name, identity = self.terms.identity, "this process leads");
                self.hold(began);
            }
            Err(LeaseError::Conflict) => {}
            Err(error) => {
                tracing::warn!(%error, "the Lease could not be had");
                self.tell(Some(&error));
                return self.terms.retry;
            }
        }
        self.tell(None);
        self.terms.retry
    }

    fn tell(&self, error: Option<&LeaseError>) {
        let Some(part) = &self.part else { return };
        match error {
            None => part.ready(),
            Some(error) => part.ready_but(format!(
                "nobody may lead: Lease {}/{} could not be had: {error}",
                self.terms.namespace, self.terms.name
            )),
        }
    }

    /// Leads until the deadline counted from when the renewal was sent.
    fn hold(&self, began: Instant) {
        let permit =
            Permit { begin_before: began + self.terms.renew_deadline, end_before: began + self.terms.duration };
        self.leads.set(1);
        self.permit.send_replace(Some(permit));
    }

    fn lose(&self, why: &str) {
        self.leads.set(0);
        if self.permit.send_replace(None).is_some() {
            tracing::warn!(lease = self.terms.name, why, "this process leads no longer");
        }
    }

    fn is_held_by_us(&self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(self.terms.identity.as_str())
    }

    fn renewal(&self) -> Value {
        json!({"holderIdentity": self.terms.identity, "renewTime": now()})
    }

    fn taking(&self, transitions: i32) -> Value {
        let now = now();
        json!({
            "holderIdentity": self.terms.identity,
            "leaseDurationSeconds": self.terms.duration.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        Ok(within(self.terms.retry * 2, self.api.get_opt(&self.terms.name)).await?)
    }

    /// Makes a Lease that does not exist, such as one that somebody has deleted. A PUT, not a POST: its name stands in the
    /// request, so that an account may be allowed to make this one and no other. Of two who do so at one time the second
    /// is refused, since what it writes names no version.
    async fn create(&self) -> Result<Lease, LeaseError> {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.terms.name.clone());
        // Built from JSON like the patches: the same fields, the same times. The type accepts what `taking` writes.
        lease.spec = serde_json::from_value(self.taking(0)).ok();
        let params = PostParams::default();
        within(self.terms.retry * 2, self.api.replace(&self.terms.name, &params, &lease))
            .await
            .map_err(|error| if error.code() == Some(422) { LeaseError::Conflict } else { conflict(error) })
    }

    /// Changes the Lease if it still has the version.
    async fn write(&self, version: &str, spec: &Value, limit: Duration) -> Result<Lease, LeaseError> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        let params = PatchParams::default();
        within(limit, self.api.patch(&self.terms.name, &params, &patch)).await.map_err(conflict)
    }

    async fn release(&self) -> Result<(), LeaseError> {
        let Some(lease) = self.read().await?.filter(|lease| self.is_held_by_us(lease)) else { return Ok(()) };
        let version = lease.metadata.resource_version.unwrap_or_default();
        // A Lease of one second rather than none: the field must be positive.
        let free = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now()});
        self.write(&version, &free, self.terms.retry).await?;
        tracing::info!(lease = self.terms.name, "gave the Lease back");
        Ok(())
    }
}

fn now() -> String {
    // The API server wants exactly microseconds.
    format!("{:.6}", Timestamp::now())
}

fn is_free(lease: &Lease) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default().is_empty()
}

/// How long the Lease lasts, as its holder wrote it.
fn duration_of(lease: &Lease, otherwise: Duration) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(otherwise, Duration::from_secs)
}

fn conflict(error: ApiError) -> LeaseError {
    if error.is_conflict() || error.is_not_found() { LeaseError::Conflict } else { LeaseError::Api(error) }
}
