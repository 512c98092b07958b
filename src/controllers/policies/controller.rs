//! The loop: looks at a policy when it is written, when an exception expires, and once a minute. It decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::tally::{Looking, status};
use crate::binding::{ClusterView, Lookup, Rules};
use crate::crd::{PinPolicy, PinPolicyStatus};
use crate::facts::live::{Change, LiveCluster, Observer};
use crate::kubernetes::api::{ApiError, Failure, in_time};
use crate::kubernetes::controller::{Controller, Follower, Reconciler, Turn};
use crate::kubernetes::lease::Leadership;
use crate::policy::{RescuePolicy, is_expired};
use crate::runtime::queue::Queue;

/// Policies that are looked at at a time. A look takes a walk over the Pods that start just now, and one write.
const WORKERS: usize = 2;
/// How often each is looked at again: Pods come and go without anybody telling.
const RESYNC: Duration = Duration::from_secs(60);
/// When a policy is looked at again that cannot be read.
const UNKNOWN: Duration = Duration::from_secs(10);

/// How the loop is set up.
pub struct PoliciesOptions {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster; Pods must be watched.
    pub live: LiveCluster,
    /// How decisions are made.
    pub rules: Rules,
    /// What holds where no policy has a say.
    pub policy: RescuePolicy,
    /// Leave to write; absent: write nothing, and say what would be written.
    pub leadership: Option<Leadership>,
}

/// The loop that keeps the status of policies.
pub struct Policies {
    written: Arc<Written>,
}

struct Written {
    options: PoliciesOptions,
    queue: Arc<Queue<String>>,
    /// Violations by policy, as many as there are policies.
    violations: Mutex<HashMap<String, i64>>,
    total: Gauge<i64, AtomicI64>,
}

impl Policies {
    /// A loop that does nothing until [`Self::run`].
    #[must_use]
    pub fn new(options: PoliciesOptions, registry: &mut Registry) -> Self {
        let total = Gauge::default();
        registry.register(
            "policy_violations",
            "Pods that wait for a claim and that a PinPolicy would not admit, one for each policy and Pod; of the leader",
            total.clone(),
        );
        let written = Written { options, queue: Arc::default(), violations: Mutex::default(), total };
        Self { written: Arc::new(written) }
    }

    /// Who is to hear of what the watches bring.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let observer: Arc<Written> = Arc::clone(&self.written);
        observer
    }

    /// Works until cancelled; a write under way is finished. The watches must run beside it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { written } = self;
        if stop.run_until_cancelled(written.options.live.synced()).await.is_none() {
            return;
        }
        let controller = Controller {
            name: "policies",
            leadership: written.options.leadership.clone(),
            queue: Arc::clone(&written.queue),
            reconciler: written,
            workers: WORKERS,
            follower: Follower::Waits,
            resync: RESYNC,
        };
        controller.run(stop).await;
    }
}

impl Observer for Written {
    fn changed(&self, change: Change) {
        let Change::Policy(change) = change else { return };
        let is_new = match (&change.before, &change.after) {
            // A status is our own.
            (Some(before), Some(after)) => before.metadata.generation != after.metadata.generation,
            _ => true,
        };
        if let Some(policy) = change.after.as_ref().or(change.before.as_ref()).filter(|_| is_new) {
            self.queue.now(policy.name().to_owned());
        }
    }
}

impl Reconciler for Written {
    type Key = String;
    type Error = ApiError;

    async fn reconcile(&self, name: &String, turn: Turn) -> Result<Option<Duration>, ApiError> {
        let PoliciesOptions { live, rules, policy: rescue, leadership, .. } = &self.options;
        let policy = match live.policy(name) {
            Lookup::Found(policy) => policy,
            Lookup::Absent => {
                self.count(name, None);
                return Ok(None);
            }
            Lookup::Unknown => return Ok(Some(UNKNOWN)),
        };
        let Lookup::Found(pods) = live.pods() else { return Ok(Some(UNKNOWN)) };
        let now = Timestamp::now();
        let (status, changed) = {
            let looking = Looking { view: live, rules, mode: rescue.mode, exemptions: &rescue.exemptions, now };
            status(&policy, &pods, &looking)
        };
        self.count(name, Some(status.total_violations));
        if changed && leadership.is_none() {
            tracing::info!(policy = %name, violations = status.total_violations, "would write the status of a policy");
        } else if changed && turn.permit.is_some() {
            self.write(&policy, &status).await?;
        }
        Ok(next_expiry(&policy, now))
    }

    fn enqueue_all(&self) {
        for policy in self.options.live.policies().found().into_iter().flatten() {
            self.queue.now(policy.name().to_owned());
        }
    }
}

impl Written {
    async fn write(&self, policy: &PinPolicy, status: &PinPolicyStatus) -> Result<(), ApiError> {
        let api: Api<PinPolicy> = Api::all(self.options.client.clone());
        let mut whole = json!(status);
        // A list that is left out would keep what it had.
        whole["violations"] = json!(status.violations);
        let patch = json!({
            "metadata": { "uid": policy.metadata.uid, "resourceVersion": policy.metadata.resource_version },
            "status": whole,
        });
        let written = in_time(api.patch_status(policy.name(), &PatchParams::default(), &Patch::Merge(&patch))).await;
        match written {
            Ok(_) => Ok(()),
            Err(error) if error.failure() == Failure::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn count(&self, name: &str, violations: Option<i64>) {
        let mut all = self.violations.lock();
        match violations {
            Some(violations) => drop(all.insert(name.to_owned(), violations)),
            None => drop(all.remove(name)),
        }
        self.total.set(all.values().sum());
    }
}

/// How long until an exception expires: its condition changes then.
fn next_expiry(policy: &PinPolicy, now: Timestamp) -> Option<Duration> {
    let ahead = policy.spec.exceptions.iter().filter(|exception| !is_expired(exception, now));
    let next = ahead.map(|exception| exception.expires_at.0).min()?;
    // Not before that second, however the clocks round.
    Duration::try_from(next.duration_since(now)).ok().map(|left| left + Duration::from_millis(10))
}
