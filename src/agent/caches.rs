//! What the agent knows of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use kube::ResourceExt;
use prometheus_client::registry::Registry;

use crate::crd::{DiskRule, Kept, LocalDisk, LocalPool, LocalVolume, PoolPath};
use crate::facts::live::{Cache, CacheStats, HasCacheStats, register};
use crate::model::Node;

/// What the agent knows of the cluster.
#[derive(Debug)]
pub struct Caches {
    /// The LocalVolumes of this node.
    pub(super) locals: Cache<Kept<LocalVolume>>,
    /// The LocalDisks of this node.
    pub(super) disks: Cache<Kept<LocalDisk>>,
    pub(super) pools: Cache<Kept<LocalPool>>,
    /// The Node alone.
    pub(super) nodes: Cache<Node>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            locals: Cache::new("localvolumes"),
            disks: Cache::new("localdisks"),
            pools: Cache::new("localpools"),
            nodes: Cache::new("nodes"),
        }
    }
}

impl HasCacheStats for Caches {
    fn figures(&self) -> Vec<CacheStats> {
        vec![self.locals.figures(), self.disks.figures(), self.pools.figures(), self.nodes.figures()]
    }
}

impl Caches {
    /// Adds what is counted about their watches to a registry.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let caches: Weak<Self> = Arc::downgrade(self);
        register(caches, registry);
    }

    /// UIDs of the LocalVolumes of this node.
    pub(super) fn volume_uids(&self) -> BTreeSet<String> {
        self.locals.all().iter().map(|local| local.uid().to_owned()).collect()
    }

    /// The rules by which pools look for disks on this node, by directory, each with the name of its pool. `None` before the Node is
    /// known.
    pub(super) fn disk_rules(&self, node: &str) -> Option<BTreeMap<String, Vec<(String, DiskRule)>>> {
        let node = self.nodes.get(node)?;
        let mut rules: BTreeMap<String, Vec<(String, DiskRule)>> = BTreeMap::new();
        for pool in self.pools.all() {
            for rule in pool.spec.disk_rules_on(&node) {
                rules.entry(rule.directory.clone()).or_default().push((pool.name_any(), rule.clone()));
            }
        }
        // By name, so that the same rule comes first each time.
        for of_directory in rules.values_mut() {
            of_directory.sort_by(|one, two| one.0.cmp(&two.0));
        }
        Some(rules)
    }

    /// What pools offer on this node, by path. `None` before the Node is known.
    pub(super) fn offered(&self, node: &str) -> Option<BTreeMap<String, PoolPath>> {
        let node = self.nodes.get(node)?;
        let mut paths: BTreeMap<String, PoolPath> = BTreeMap::new();
        for pool in self.pools.all() {
            for path in pool.spec.paths_on(&node) {
                // Two pools may share a path; the stricter one counts.
                let known = paths.entry(path.path.clone()).or_insert_with(|| path.clone());
                known.require_mount |= path.require_mount;
            }
        }
        Some(paths)
    }
}
