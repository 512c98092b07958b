//! What is counted about watches.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::pause::LONGEST_PAUSE;

/// The counts of one kind's watch.
#[derive(Clone, Debug)]
pub(super) struct WatchMetrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    kind: &'static str,
    began: Instant,
    events: AtomicU64,
    failures: AtomicU64,
    malformed: AtomicU64,
    /// Milliseconds after `began` at which the watch first failed without having been heard of since; 0 if it has.
    failing_since: AtomicU64,
    /// Milliseconds after `began` at which the API server last began to answer it; 0 if it has failed since.
    standing_since: AtomicU64,
}

impl WatchMetrics {
    pub fn new(kind: &'static str) -> Self {
        Self(Arc::new(Counts {
            kind,
            began: Instant::now(),
            events: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
            standing_since: AtomicU64::new(0),
        }))
    }

    pub fn kind(&self) -> &'static str {
        self.0.kind
    }

    pub fn heard(&self) {
        self.0.events.fetch_add(1, Ordering::Relaxed);
        self.0.failing_since.store(0, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        if self.has_settled() {
            self.0.failing_since.store(0, Ordering::Relaxed);
        }
        self.0.standing_since.store(0, Ordering::Relaxed);
        let now = self.now();
        // Fails when the watch has been failing for a while, which is what is to be kept.
        let _kept = self.0.failing_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The API server has begun to answer a watch. Whoever is watched may have nothing to say for hours.
    pub fn stands(&self) {
        // One that ended after a good life and began again was none that failed.
        if self.has_settled() {
            self.0.failing_since.store(0, Ordering::Relaxed);
        }
        self.0.standing_since.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// The watch has stood for as long as the longest pause between two that fail.
    fn has_settled(&self) -> bool {
        let since = self.0.standing_since.load(Ordering::Relaxed);
        since != 0 && self.0.began.elapsed().saturating_sub(Duration::from_millis(since)) >= LONGEST_PAUSE
    }

    pub fn malformed(&self) {
        self.0.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failing_for(&self) -> Duration {
        match self.0.failing_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            _ if self.has_settled() => Duration::ZERO,
            since => self.0.began.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }
}

/// Caches that have figures.
pub(crate) trait HasCacheStats: Debug + Send + Sync {
    /// A row a kind.
    fn figures(&self) -> Vec<CacheStats>;
}

/// Reads the caches when they are scraped, so that no figure can be out of step with them.
#[derive(Debug)]
pub(super) struct CacheCollector(pub Vec<Weak<dyn HasCacheStats>>);

/// Adds what is counted about watches to a registry that counts no others.
pub(crate) fn register(caches: Weak<dyn HasCacheStats>, registry: &mut Registry) {
    registry.register_collector(Box::new(CacheCollector(vec![caches])));
}

impl Collector for CacheCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rows: Vec<CacheStats> =
            self.0.iter().filter_map(Weak::upgrade).flat_map(|caches| caches.figures()).collect();
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&CacheStats) -> f64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for row in &rows {
                let metric = prometheus_client::metrics::gauge::ConstGauge::new(value(row));
                metric.encode(family.encode_family(&[("kind", row.metrics.kind())])?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        gauge("watch_synced", "1 once a kind's first list has ended", &|row| f64::from(u8::from(row.synced)))?;
        // Counts of objects stay far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        gauge("watch_objects", "Objects of a kind in memory", &|row| row.objects as f64)?;
        gauge("watch_failing_seconds", "For how long a watch has failed without standing since", &|row| {
            row.metrics.failing_for().as_secs_f64()
        })?;
        let mut counter = |name: &str, help: &str, value: &dyn Fn(&Counts) -> &AtomicU64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in &rows {
                let count = value(&row.metrics.0).load(Ordering::Relaxed);
                let metric = prometheus_client::metrics::counter::ConstCounter::new(count);
                metric.encode(family.encode_family(&[("kind", row.metrics.kind())])?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        counter("watch_events", "Events that a watch has brought", &|counts| &counts.events)?;
        counter("watch_failures", "Times a list or watch has failed", &|counts| &counts.failures)?;
        counter("watch_malformed_objects", "Objects that could not be read", &|counts| &counts.malformed)
    }
}

/// One kind's row in the metrics.
pub(crate) struct CacheStats {
    pub(super) metrics: WatchMetrics,
    pub(super) synced: bool,
    pub(super) objects: usize,
}
