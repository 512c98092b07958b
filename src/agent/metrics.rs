//! What the agent counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::crd::{DiskReport, PathReport};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Paths {
    usable: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Order {
    operation: &'static str,
    result: &'static str,
}

/// The counts. Cloning gives another handle to them.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    paths: Family<Paths, Gauge>,
    volumes: Gauge,
    trash: Gauge,
    orphans: Gauge,
    orphans_held: Gauge,
    kept: Gauge,
    replaced: Gauge,
    disks_hung: Gauge,
    found: Family<Paths, Gauge>,
    quarantined: Gauge,
    orders: Family<Order, Counter>,
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let new = Self {
            paths: Family::default(),
            volumes: Gauge::default(),
            trash: Gauge::default(),
            orphans: Gauge::default(),
            orphans_held: Gauge::default(),
            kept: Gauge::default(),
            replaced: Gauge::default(),
            disks_hung: Gauge::default(),
            found: Family::default(),
            quarantined: Gauge::default(),
            orders: Family::default(),
        };
        // Zero is an answer too.
        for usable in ["true", "false"] {
            drop(new.paths.get_or_create(&Paths { usable }));
            drop(new.found.get_or_create(&Paths { usable }));
        }
        for operation in ["make", "dispose", "clean"] {
            for result in ["done", "failed"] {
                drop(new.orders.get_or_create(&Order { operation, result }));
            }
        }
        new
    }
}

impl AgentMetrics {
    /// Adds what is counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("agent_paths", "Paths that pools offer on this node", self.paths.clone());
        registry.register("agent_volumes", "LocalVolumes of this node", self.volumes.clone());
        registry.register("agent_trash_entries", "Directories of deleted volumes still on disk", self.trash.clone());
        registry.register("agent_orphans", "Directories of ours that no LocalVolume names", self.orphans.clone());
        registry.register(
            "agent_orphans_held",
            "Such directories that are due to be removed and wait, since too many are",
            self.orphans_held.clone(),
        );
        registry.register(
            "agent_kept",
            "Directories that stay for a claim of the same namespace and name",
            self.kept.clone(),
        );
        registry.register(
            "agent_node_replaced",
            "1 while the Node is another object than before and a disk of its volumes was not found",
            self.replaced.clone(),
        );
        registry.register(
            "agent_disks_hung",
            "Base paths whose disk does not answer: calls to it have not returned in time",
            self.disks_hung.clone(),
        );
        registry.register(
            "agent_whole_disks",
            "Entries of the directories in which pools look for whole disks, by whether they can be a volume",
            self.found.clone(),
        );
        registry.register(
            "agent_disks_quarantined",
            "Whole disks that could not be cleaned for so many times that a person has to look",
            self.quarantined.clone(),
        );
        registry.register(
            "agent_orders",
            "Directories made, found or taken away, and whole disks cleaned",
            self.orders.clone(),
        );
    }

    pub(super) fn ordered(&self, operation: &'static str, done: bool) {
        self.orders.get_or_create(&Order { operation, result: if done { "done" } else { "failed" } }).inc();
    }

    pub(super) fn held(&self, orphans: usize, replaced: bool) {
        self.orphans_held.set(whole(orphans));
        self.replaced.set(i64::from(replaced));
    }

    pub(super) fn kept(&self, directories: usize) {
        self.kept.set(whole(directories));
    }

    pub(super) fn hung(&self, bases: usize) {
        self.disks_hung.set(whole(bases));
    }

    pub(super) fn found_disks(&self, disks: &[DiskReport]) {
        for (wanted, usable) in [(true, "true"), (false, "false")] {
            let count = disks.iter().filter(|disk| disk.usable == wanted).count();
            self.found.get_or_create(&Paths { usable }).set(whole(count));
        }
    }

    pub(super) fn quarantined(&self, disks: usize) {
        self.quarantined.set(whole(disks));
    }

    /// Base paths whose disk does not answer.
    #[must_use]
    pub fn disks_hung(&self) -> i64 {
        self.disks_hung.get()
    }

    pub(super) fn looked(&self, paths: &[PathReport], left: &[PathReport], volumes: usize) {
        let gauge = |wanted: bool, usable| {
            let count = paths.iter().filter(|path| path.usable == wanted).count();
            self.paths.get_or_create(&Paths { usable }).set(whole(count));
        };
        gauge(true, "true");
        gauge(false, "false");
        self.volumes.set(whole(volumes));
        self.trash.set(paths.iter().chain(left).map(|path| path.trash).sum());
        self.orphans.set(paths.iter().map(|path| path.orphans).sum());
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
