//! What the provisioner counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From an agent that answers at once to one that is away for as long as it may, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

/// What is done about whole disks.
const DISK_OPERATIONS: [&str; 6] = ["found", "published", "withdrawn", "ordered", "let", "settled"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// The counts. Cloning gives another handle to them.
#[derive(Clone, Debug)]
pub(super) struct ProvisionMetrics {
    done: Family<Operation, Counter>,
    disks: Family<Operation, Counter>,
    refusals: Counter,
    retries: Counter,
    delay: Histogram,
}

impl ProvisionMetrics {
    pub fn new() -> Self {
        let new = Self {
            done: Family::default(),
            disks: Family::default(),
            refusals: Counter::default(),
            retries: Counter::default(),
            delay: Histogram::new(BUCKETS),
        };
        // Zero is an answer too.
        for operation in [
            "ordered",
            "taken_back",
            "made",
            "marked_bound",
            "disposed",
            "removed",
            "recovered",
            "orphan_ordered",
            "orphan_kept",
        ] {
            drop(new.done.get_or_create(&Operation { operation }));
        }
        for operation in DISK_OPERATIONS {
            drop(new.disks.get_or_create(&Operation { operation }));
        }
        new
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "provision_operations",
            "Directories ordered or taken back, volumes made, phases written in the controller manager's stead, directories disposed of, volumes removed, lost orders made again, removals \
             of directories without a volume ordered or declined",
            self.done.clone(),
        );
        registry.register(
            "disk_operations",
            "Whole disks found, offered as a volume, taken back since they are not at their place, ordered to be cleaned, let go after \
             it, and free again",
            self.disks.clone(),
        );
        registry.register("provision_refusals", "Warnings about claims that get no volume", self.refusals.clone());
        registry.register("provision_retries", "Attempts that the API server failed or refused", self.retries.clone());
        registry.register_with_unit(
            "provision_delay",
            "From the order of a directory to its volume",
            Unit::Seconds,
            self.delay.clone(),
        );
    }

    /// A directory was ordered: a new one, or one that an earlier claim has left.
    pub fn ordered(&self, takes_back: bool) {
        self.count(if takes_back { "taken_back" } else { "ordered" });
    }

    /// The phase of a volume was written.
    pub fn marked(&self) {
        self.count("marked_bound");
    }

    /// A volume was made; the directory was ordered this long ago, if this process ordered it.
    pub fn made(&self, since: Option<Duration>) {
        self.count("made");
        if let Some(since) = since {
            self.delay.observe(since.as_secs_f64());
        }
    }

    pub fn disposed(&self) {
        self.count("disposed");
    }

    pub fn removed(&self) {
        self.count("removed");
    }

    pub fn recovered(&self) {
        self.count("recovered");
    }

    pub fn orphan(&self, ordered: bool) {
        self.count(if ordered { "orphan_ordered" } else { "orphan_kept" });
    }

    pub fn refused(&self) {
        self.refusals.inc();
    }

    pub fn retried(&self) {
        self.retries.inc();
    }

    /// One of [`DISK_OPERATIONS`].
    pub fn disk(&self, operation: &'static str) {
        self.disks.get_or_create(&Operation { operation }).inc();
    }

    fn count(&self, operation: &'static str) {
        self.done.get_or_create(&Operation { operation }).inc();
    }
}
