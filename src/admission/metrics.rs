//! Metrics of admission.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Hook;
use super::review::{Answer, Decision, PolicyOutcome};
use crate::binding::Code;

/// From a cached answer of a small Pod to the longest time that an API server waits, in seconds.
const BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    hook: &'static str,
    decision: &'static str,
    code: &'static str,
    dry_run: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    hook: &'static str,
    mode: &'static str,
    outcome: &'static str,
    dry_run: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabel {
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    hook: &'static str,
    status: u16,
}

/// What admission counts. Cloning gives another handle to the same counts.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    policies: Family<PolicyLabels, Counter>,
    duration: Family<HookLabel, Histogram>,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            refusals: Family::default(),
            policies: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl AdmissionMetrics {
    /// Puts the counts into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "admission_requests",
            "Reviews answered, by what was decided and the first finding",
            self.requests.clone(),
        );
        registry.register(
            "admission_refusals",
            "Requests that were no review that could be answered, by HTTP status",
            self.refusals.clone(),
        );
        registry.register(
            "policy_decisions",
            "Pods and workloads about which PinPolicies had, or may have had, a say, by the mode that held",
            self.policies.clone(),
        );
        registry.register_with_unit(
            "admission_duration",
            "From the last byte of a review to its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        // Alerts on a rate need the series from the beginning.
        for (decision, code) in [(Decision::Held, Code::EvictionWaits), (Decision::Denied, Code::EvictionDenied)] {
            drop(self.requests.get_or_create(&RequestLabels {
                hook: Hook::Validate.as_str(),
                decision: decision.as_str(),
                code: code.as_str(),
                dry_run: "false",
            }));
        }
        for hook in [Hook::Mutate, Hook::Validate] {
            drop(self.duration.get_or_create(&HookLabel { hook: hook.as_str() }));
        }
    }

    /// Counts an answer and the time that it took.
    pub fn answered(&self, hook: Hook, answer: &Answer, dry_run: bool, took: Duration) {
        let labels = RequestLabels {
            hook: hook.as_str(),
            decision: answer.decision.as_str(),
            code: answer.code.map_or("none", Code::as_str),
            dry_run: if dry_run { "true" } else { "false" },
        };
        self.requests.get_or_create(&labels).inc();
        if let Some(PolicyOutcome { mode, outcome }) = answer.policy {
            let (hook, dry_run) = (labels.hook, labels.dry_run);
            self.policies.get_or_create(&PolicyLabels { hook, mode, outcome, dry_run }).inc();
        }
        self.duration.get_or_create(&HookLabel { hook: hook.as_str() }).observe(took.as_secs_f64());
    }

    /// Counts a request that got no answer but an HTTP status.
    pub fn refused(&self, hook: Hook, status: u16) {
        self.refusals.get_or_create(&RefusalLabels { hook: hook.as_str(), status }).inc();
    }
}
