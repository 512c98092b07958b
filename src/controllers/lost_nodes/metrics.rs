//! What is counted about nodes that are gone.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From the least grace to a day, in seconds.
const BUCKETS: [f64; 9] = [30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// The counts. Cloning gives another handle to them.
#[derive(Clone, Debug)]
pub(super) struct LostNodesMetrics {
    pub places: Gauge<i64, AtomicI64>,
    pub claims: Gauge<i64, AtomicI64>,
    pub held: Gauge<i64, AtomicI64>,
    unbound: Family<ResultLabel, Counter>,
    pub delay: Histogram,
    pub events_dropped: Counter,
}

impl LostNodesMetrics {
    pub fn new() -> Self {
        let metrics = Self {
            places: Gauge::default(),
            claims: Gauge::default(),
            held: Gauge::default(),
            unbound: Family::default(),
            delay: Histogram::new(BUCKETS),
            events_dropped: Counter::default(),
        };
        // Alerts on a rate need the series from the beginning.
        for result in ["done", "failed", "disagreed"] {
            drop(metrics.unbound.get_or_create(&ResultLabel { result }));
        }
        metrics
    }

    pub fn register(&self, registry: &mut Registry) {
        let places = "Nodes that bound volumes ask for and that do not exist; of the leader";
        registry.register("lost_nodes", places, self.places.clone());
        registry.register(
            "lost_claims",
            "Bound claims whose volume no node reaches; of the leader",
            self.claims.clone(),
        );
        let held = "1 while so many nodes are gone at one time that no claim is let go; of the leader";
        registry.register("lost_nodes_held", held, self.held.clone());
        let unbound = "Claims that were let go since their node is gone, by result; disagreed: a live look found the node or another claim";
        registry.register("lost_claims_unbound", unbound, self.unbound.clone());
        registry.register_with_unit(
            "lost_claim_release",
            "For how long the node of a claim had been observed to be gone when the claim was let go",
            Unit::Seconds,
            self.delay.clone(),
        );
        registry.register(
            "lost_nodes_events_dropped",
            "Events about lost nodes that were not stored",
            self.events_dropped.clone(),
        );
    }

    pub fn unbound(&self, result: &'static str) {
        self.unbound.get_or_create(&ResultLabel { result }).inc();
    }
}
