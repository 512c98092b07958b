//! What is counted about the parameter.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::listing::LeftOut;
use crate::crd::AdmissionParameterSpec;

/// From a write in a quiet cluster to one that had to wait for a new leader, in seconds.
const BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The counts. Cloning gives another handle to them.
#[derive(Clone, Debug)]
pub(super) struct ParameterMetrics {
    entries: Family<KindLabel, Gauge>,
    left_out: Family<KindLabel, Gauge>,
    writes: Family<ResultLabel, Counter>,
    delay: Histogram,
}

impl ParameterMetrics {
    pub fn new() -> Self {
        Self {
            entries: Family::default(),
            left_out: Family::default(),
            writes: Family::default(),
            delay: Histogram::new(BUCKETS),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "policy_parameter_entries",
            "What the parameter of the admission policies holds, by kind",
            self.entries.clone(),
        );
        registry.register(
            "policy_parameter_left_out",
            "What does not fit into the parameter of the admission policies, by kind; left to the rescue loop",
            self.left_out.clone(),
        );
        registry.register(
            "policy_parameter_writes",
            "Writes of the parameter of the admission policies, by result",
            self.writes.clone(),
        );
        registry.register_with_unit(
            "policy_parameter_delay",
            "From the change that made a write of the parameter due to the write's end",
            Unit::Seconds,
            self.delay.clone(),
        );
        // Alerts on a rate need the series from the beginning.
        for result in ["done", "failed"] {
            drop(self.writes.get_or_create(&ResultLabel { result }));
        }
        self.holds(&AdmissionParameterSpec::default(), &LeftOut::default());
    }

    pub fn holds(&self, spec: &AdmissionParameterSpec, left: &LeftOut) {
        let claims: usize = spec.claims.values().map(std::collections::BTreeMap::len).sum();
        let held = [
            ("claims", claims),
            ("classes", spec.classes.len()),
            ("nodes", spec.nodes.len()),
            ("policies", spec.policies.len()),
        ];
        let left = [
            ("claims", left.claims),
            ("classes", left.classes),
            ("nodes", left.nodes),
            ("namespaces", left.namespaces),
            ("node_matches", left.node_matches),
            ("everything", usize::from(left.everything)),
            ("policies", usize::from(left.pin_policies)),
        ];
        let set = |family: &Family<KindLabel, Gauge>, kind, count| {
            family.get_or_create(&KindLabel { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for (kind, count) in held {
            set(&self.entries, kind, count);
        }
        for (kind, count) in left {
            set(&self.left_out, kind, count);
        }
    }

    pub fn wrote(&self, done: bool, delay: Duration) {
        let result = if done { "done" } else { "failed" };
        self.writes.get_or_create(&ResultLabel { result }).inc();
        if done {
            self.delay.observe(delay.as_secs_f64());
        }
    }
}
