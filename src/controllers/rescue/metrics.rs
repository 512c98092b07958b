//! What the rescue loop counts.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::tracking::Tracking;

/// From a write in a quiet cluster to one that had to wait for a new leader, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    result: &'static str,
}

/// The counts. Cloning gives another handle to them.
#[derive(Clone, Debug)]
pub(super) struct RescueMetrics {
    writes: Family<WriteLabels, Counter>,
    retries: Counter,
    events: Family<EventLabel, Counter>,
    delay: Histogram,
}

impl RescueMetrics {
    pub fn new() -> Self {
        Self {
            writes: Family::default(),
            retries: Counter::default(),
            events: Family::default(),
            delay: Histogram::new(BUCKETS),
        }
    }

    pub fn register(&self, registry: &mut Registry, tracking: &Arc<Tracking>) {
        registry.register("rescue_writes", "Writes to claims and volumes, by kind and result", self.writes.clone());
        registry.register("rescue_retries", "Writes that will be tried again", self.retries.clone());
        registry.register("rescue_events", "Events, by whether they were stored", self.events.clone());
        registry.register_with_unit(
            "rescue_delay",
            "From the change that made a write due to the write's end",
            Unit::Seconds,
            self.delay.clone(),
        );
        // Alerts on a rate need the series from the beginning.
        for kind in ["select_node", "prebind", "unselect", "give_up"] {
            drop(self.writes.get_or_create(&WriteLabels { kind, result: "done" }));
        }
        registry.register_collector(Box::new(StuckCollector(Arc::downgrade(tracking))));
    }

    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&WriteLabels { kind, result }).inc();
    }

    pub fn will_retry(&self) {
        self.retries.inc();
    }

    pub fn event(&self, result: &'static str) {
        self.events.get_or_create(&EventLabel { result }).inc();
    }

    pub fn took(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }
}

/// Counts what is stuck when it is scraped.
#[derive(Debug)]
struct StuckCollector(Weak<Tracking>);

impl Collector for StuckCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(tracking) = self.0.upgrade() else { return Ok(()) };
        let (counts, oldest) = tracking.stuck();
        let help = "Claims that a Pod that names its node waits for in vain, by finding";
        let mut family = encoder.encode_descriptor("rescue_stuck_claims", help, None, MetricType::Gauge)?;
        for (code, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(family.encode_family(&[("finding", code.as_str())])?)?;
        }
        let age = oldest.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let help = "For how long the oldest of them has been seen to wait";
        let family =
            encoder.encode_descriptor("rescue_oldest_stuck_claim", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(age).encode(family)
    }
}
