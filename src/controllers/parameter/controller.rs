//! Writes the parameter when what it holds has changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listing::LeftOut;
use super::metrics::ParameterMetrics;
use super::triggers::{Triggers, Whole};
use crate::crd::{
    AdmissionParameter, AdmissionParameterSpec, AdmissionParameterStatus, COMPLETE, PARAMETER, condition, set_condition,
};
use crate::facts::live::{LiveCluster, Observer};
use crate::kubernetes::api::{ApiError, before};
use crate::kubernetes::controller::{Controller, Follower, Reconciler, Turn};
use crate::kubernetes::lease::Leadership;
use crate::policy::Mode;

/// The longest time that one write, with the read before it, may take.
const WRITE: Duration = Duration::from_secs(5);
/// How often everything is looked at once more, and what is stored is read.
const RESYNC: Duration = Duration::from_secs(300);
/// Between two writes at least. With a write of 10 ms a change is stored within 50 ms of the one before.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// A pause is so many times as long as a write takes, so that writes have about a fifth of the time at most, however large the
/// parameter and however busy the API server is. Of the last two the shorter counts: one alone may have waited for a disk, and a
/// pause of four times that would hold up whoever comes next for nothing.
const PAUSE_PER_WRITE: u32 = 4;
/// The longest pause: a change is stored within 2 s even so.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How the parameter is kept.
pub struct ParameterOptions {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster. Pods must be watched for their anti-affinity.
    pub live: LiveCluster,
    /// What the policies are to do.
    pub mode: Mode,
    /// Schedulers that bind volumes.
    pub schedulers: Vec<String>,
    /// Leave to write; absent: nothing is written.
    pub leadership: Option<Leadership>,
}

/// Keeps the parameter of the admission policies.
pub struct Parameter {
    triggers: Arc<Triggers>,
    writer: Arc<Writer>,
    leadership: Option<Leadership>,
}

struct Writer {
    api: Api<AdmissionParameter>,
    triggers: Arc<Triggers>,
    mode: Mode,
    schedulers: Vec<String>,
    metrics: ParameterMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As this process last wrote or read it; absent while it is to be read first.
    stored: Option<AdmissionParameter>,
    /// When the next write may begin.
    next: Option<Instant>,
    /// How long the last write took.
    took: Option<Duration>,
}

impl State {
    /// Takes note of a write that has just ended, and of when the next one may begin.
    fn wrote(&mut self, took: Duration, now: Instant) {
        let usual = self.took.replace(took).map_or(took, |before| before.min(took));
        self.next = Some(now + (usual * PAUSE_PER_WRITE).clamp(LEAST_PAUSE, LONGEST_PAUSE));
    }
}

impl Parameter {
    /// Does nothing until [`Self::run`].
    #[must_use]
    pub fn new(options: ParameterOptions, registry: &mut Registry) -> Self {
        let ParameterOptions { client, live, mode, schedulers, leadership } = options;
        let metrics = ParameterMetrics::new();
        metrics.register(registry);
        let triggers = Arc::new(Triggers::new(live));
        let writer = Writer {
            api: Api::all(client),
            triggers: Arc::clone(&triggers),
            mode,
            schedulers,
            metrics,
            state: Mutex::default(),
        };
        Self { triggers, writer: Arc::new(writer), leadership }
    }

    /// Who is to hear of what the watches bring.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let triggers: Arc<Triggers> = Arc::clone(&self.triggers);
        triggers
    }

    /// Works until cancelled; a write under way is finished. The watches must run beside it. Until every first list has
    /// ended the parameter stays as it is: what is not known yet would be missing from it.
    pub async fn run(self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.triggers.live.synced()).await.is_none() {
            return;
        }
        let controller = Controller {
            name: "parameter",
            leadership: self.leadership,
            reconciler: self.writer,
            queue: Arc::clone(&self.triggers.queue),
            workers: 1,
            // A follower knows what to write when it begins to lead.
            follower: Follower::Looks,
            resync: RESYNC,
        };
        controller.run(stop).await;
    }
}

impl Reconciler for Writer {
    type Key = Whole;
    type Error = ApiError;

    async fn reconcile(&self, _: &Whole, turn: Turn) -> Result<Option<Duration>, ApiError> {
        let now = Instant::now();
        if let Some(pause) = self.state.lock().next.and_then(|next| next.checked_duration_since(now))
            && !pause.is_zero()
        {
            return Ok(Some(pause));
        }
        let (spec, left) = self.triggers.listed(|listing| listing.content(self.mode.as_str(), &self.schedulers));
        self.metrics.holds(&spec, &left);
        let Some(permit) = turn.permit else {
            // Who leads writes.
            self.state.lock().stored = None;
            return Ok(None);
        };
        let stored = self.state.lock().stored.take();
        let deadline = permit.end_before.min(now + WRITE);
        let mut written = self.write(stored, spec.clone(), &left, deadline).await;
        if written.as_ref().is_err_and(|error| error.is_not_found() || error.is_conflict()) {
            // Somebody deleted it, or wrote it: once more, on top of what is stored.
            written = self.write(None, spec, &left, deadline).await;
        }
        let took = now.elapsed();
        let mut state = self.state.lock();
        match written {
            Ok((stored, is_new)) => {
                state.stored = Some(stored);
                if is_new {
                    state.wrote(took, Instant::now());
                    self.metrics.wrote(true, turn.due.elapsed());
                }
                Ok(None)
            }
            Err(error) => {
                self.metrics.wrote(false, Duration::ZERO);
                Err(error)
            }
        }
    }

    fn enqueue_all(&self) {
        // Somebody else may have written it.
        self.state.lock().stored = None;
        self.triggers.everything();
    }

    fn longest_pause(&self) -> Duration {
        Duration::from_secs(30)
    }
}

impl Writer {
    /// What is stored then, and whether anything was written.
    async fn write(
        &self,
        stored: Option<AdmissionParameter>,
        spec: AdmissionParameterSpec,
        left: &LeftOut,
        deadline: Instant,
    ) -> Result<(AdmissionParameter, bool), ApiError> {
        let found = match stored {
            Some(stored) => Some(stored),
            None => before(deadline, self.api.get_opt(PARAMETER)).await?,
        };
        let (mut object, mut is_new) = match found {
            None => {
                let object = AdmissionParameter::new(PARAMETER, spec);
                (before(deadline, self.api.create(&PostParams::default(), &object)).await?, true)
            }
            Some(found) if found.spec == spec => (found, false),
            Some(mut found) => {
                // With its version: who else writes it makes this fail.
                found.spec = spec;
                (before(deadline, self.api.replace(PARAMETER, &PostParams::default(), &found)).await?, true)
            }
        };
        let mut conditions = object.status.clone().unwrap_or_default().conditions;
        let (holds, reason, message) = completeness(left);
        let known = condition(&conditions, COMPLETE).is_some_and(|known| {
            (known.status == "True", known.reason.as_str(), known.message.as_str()) == (holds, reason, message.as_str())
        });
        if !known {
            set_condition(&mut conditions, (COMPLETE, holds, reason, &message), None, Timestamp::now());
            let status = AdmissionParameterStatus { conditions };
            let patch = Patch::Merge(json!({ "status": status }));
            object = before(deadline, self.api.patch_status(PARAMETER, &PatchParams::default(), &patch)).await?;
            is_new = true;
        }
        Ok((object, is_new))
    }
}

/// Whether all fits, the reason in one word, and what a person is told.
fn completeness(left: &LeftOut) -> (bool, &'static str, String) {
    if left.is_nothing() {
        return (true, "EverythingFits", "all claims, classes and nodes that policies may know are listed".to_owned());
    }
    if left.pin_policies {
        let message = "no Pod is rewritten or refused by admission policies: which PinPolicies there are is not known, or they do not \
                       fit; the rescue loop follows them";
        return (false, "PinPolicies", message.to_owned());
    }
    if left.everything {
        let message = "no Pod is rewritten by policy: required anti-affinity with a namespace selector and a topology wider \
                       than a node may keep any Pod off any node, or what anti-affinity concerns does not fit; the rescue \
                       loop helps";
        return (false, "EveryNodeRepels", message.to_owned());
    }
    let message = format!(
        "left to the rescue loop, since they do not fit: {} claims, {} classes, {} nodes, all Pods of {} namespaces; nothing is \
         refused for a selector of nodes on {} nodes",
        left.claims, left.classes, left.nodes, left.namespaces, left.node_matches
    );
    (false, "TooMuch", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_write_alone_makes_no_long_pause() {
        let now = Instant::now();
        let mut state = State::default();
        for (took, pause) in [(5, 20), (10, 20), (300, 40), (300, 1200), (10, 40), (900, 40), (900, 2000)] {
            state.wrote(Duration::from_millis(took), now);
            assert_eq!(state.next, Some(now + Duration::from_millis(pause)), "after {took} ms");
        }
    }
}
