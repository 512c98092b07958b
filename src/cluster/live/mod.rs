//! Facts from a running cluster: watch caches, and a live look at claims that they do not hold yet.

mod fetch;
mod kinds;
mod metrics;
mod store;
mod watching;

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Weak};

use kube::Client;
use prometheus_client::registry::Registry;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::kinds::VolumeIndex;
use self::metrics::{CacheCollector, WatchMetrics};
use self::store::Store;
use crate::binding::{ClusterView, Lookup, default_class};
use crate::model::{Claim, Class, CsiDriver, CsiNode, Namespace, Node, Pod, StorageCapacity, Volume};

pub use self::fetch::{ClaimFetcher, FetchedClaims};
pub(crate) use self::kinds::declared_claims;
pub(crate) use self::metrics::{Figured, Figures, register};
pub use self::store::Changed;
pub(crate) use self::store::{Cached, Key, News};

/// Which Pods are watched. Only the rescue loop needs any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchedPods {
    /// None: consumers of claims stay unknown.
    #[default]
    None,
    /// Those in phase `Pending`, wherever they are.
    Pending,
}

/// A change of a kind that an observer may act on.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of a claim.
    Claim(Changed<Claim>),
    /// Of a volume.
    Volume(Changed<Volume>),
    /// Of a class.
    Class(Changed<Class>),
    /// Of a Node.
    Node(Changed<Node>),
    /// Of a Pod.
    Pod(Changed<Pod>),
}

/// Hears of every change after it is visible in the view. Called by the watch itself: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of a change.
    fn changed(&self, change: Change);
}

/// No one listens.
impl Observer for () {
    fn changed(&self, _: Change) {}
}

/// Several listen.
impl Observer for Vec<Arc<dyn Observer>> {
    fn changed(&self, change: Change) {
        for observer in self {
            observer.changed(change.clone());
        }
    }
}

/// The objects of one kind, and the watch that keeps them up to date.
pub(crate) struct Cache<K: Cached> {
    store: Store<K>,
    metrics: WatchMetrics,
}

impl<K: Cached> Debug for Cache<K> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("kind", &self.metrics.kind()).finish_non_exhaustive()
    }
}

impl<K: Cached> Cache<K> {
    /// `kind` is the plural that metrics carry.
    pub fn new(kind: &'static str) -> Self {
        Self { store: Store::default(), metrics: WatchMetrics::new(kind) }
    }

    /// Watches until cancelled, and tells of every change after it is visible here. `fields` selects objects.
    pub async fn watch(
        &self,
        client: Client,
        fields: Option<&str>,
        stop: CancellationToken,
        tell: impl FnMut(News<K>),
    ) {
        watching::keep(client, &self.store, fields, self.metrics.clone(), stop, tell).await;
    }

    /// An object of the whole cluster.
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.store.get(&Key::new("", name)).found()
    }

    /// Every object, in no order; none before the first list has ended.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.all().found().unwrap_or_default()
    }

    /// The objects with an index; none before the first list has ended.
    pub fn find(&self, index: &K::Index) -> Vec<Arc<K>> {
        self.store.find(index).found().unwrap_or_default()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Waits for the end of the first list.
    pub async fn synced(&self) {
        // The sender lives as long as the store, which `self` holds.
        let mut synced = self.store.subscribe();
        let _synced = synced.wait_for(|synced| *synced).await;
    }

    pub fn figures(&self) -> Figures {
        Figures { metrics: self.metrics.clone(), synced: self.store.is_synced(), objects: self.store.len() }
    }
}

struct Caches {
    pods_watched: WatchedPods,
    nodes: Cache<Node>,
    claims: Cache<Claim>,
    volumes: Cache<Volume>,
    classes: Cache<Class>,
    drivers: Cache<CsiDriver>,
    driver_nodes: Cache<CsiNode>,
    capacities: Cache<StorageCapacity>,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
}

impl Figured for Caches {
    fn figures(&self) -> Vec<Figures> {
        let mut rows = vec![
            self.nodes.figures(),
            self.claims.figures(),
            self.volumes.figures(),
            self.classes.figures(),
            self.drivers.figures(),
            self.driver_nodes.figures(),
            self.capacities.figures(),
            self.namespaces.figures(),
        ];
        if self.pods_watched != WatchedPods::None {
            rows.push(self.pods.figures());
        }
        rows
    }
}

impl Debug for Caches {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").field("pods", &self.pods_watched).finish_non_exhaustive()
    }
}

/// What watches say of a cluster. Cloning gives another handle to the same caches.
#[derive(Clone, Debug)]
pub struct LiveCluster(Arc<Caches>);

impl LiveCluster {
    /// Caches that are empty until [`Self::run`] fills them.
    #[must_use]
    pub fn new(pods_watched: WatchedPods) -> Self {
        Self(Arc::new(Caches {
            pods_watched,
            nodes: Cache::new("nodes"),
            claims: Cache::new("persistentvolumeclaims"),
            volumes: Cache::new("persistentvolumes"),
            classes: Cache::new("storageclasses"),
            drivers: Cache::new("csidrivers"),
            driver_nodes: Cache::new("csinodes"),
            capacities: Cache::new("csistoragecapacities"),
            namespaces: Cache::new("namespaces"),
            pods: Cache::new("pods"),
        }))
    }

    /// Adds what is counted about the watches to a registry.
    pub fn register(&self, registry: &mut Registry) {
        metrics::register(self.figured(), registry);
    }

    /// The same, together with other watches of the process: a registry takes each metric once.
    pub(crate) fn register_with(&self, others: Weak<dyn Figured>, registry: &mut Registry) {
        registry.register_collector(Box::new(CacheCollector(vec![self.figured(), others])));
    }

    fn figured(&self) -> Weak<dyn Figured> {
        // A plain `downgrade` of a clone: the trait object takes its place.
        let caches: Weak<Caches> = Arc::downgrade(&self.0);
        caches
    }

    /// Watches until cancelled.
    ///
    /// # Errors
    /// When a watch has panicked: the caches would grow stale unseen, so the process is to end.
    pub async fn run(
        &self,
        client: Client,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), JoinError> {
        let mut watches = JoinSet::new();
        macro_rules! watch {
            ($cache:ident, $fields:expr, $tell:expr) => {{
                let (caches, client, stop) = (Arc::clone(&self.0), client.clone(), stop.clone());
                #[allow(unused_variables)]
                let observer = Arc::clone(&observer);
                let tell = $tell;
                watches.spawn(async move {
                    let tell = |news| {
                        if let News::Changed(change) = news {
                            tell(&*observer, change);
                        }
                    };
                    caches.$cache.watch(client, $fields, stop, tell).await;
                });
            }};
        }
        watch!(nodes, None, |observer: &dyn Observer, change| observer.changed(Change::Node(change)));
        watch!(claims, None, |observer: &dyn Observer, change| observer.changed(Change::Claim(change)));
        watch!(volumes, None, |observer: &dyn Observer, change| observer.changed(Change::Volume(change)));
        watch!(classes, None, |observer: &dyn Observer, change| observer.changed(Change::Class(change)));
        watch!(drivers, None, |_: &dyn Observer, _| {});
        watch!(driver_nodes, None, |_: &dyn Observer, _| {});
        watch!(capacities, None, |_: &dyn Observer, _| {});
        watch!(namespaces, None, |_: &dyn Observer, _| {});
        if self.0.pods_watched == WatchedPods::Pending {
            let fields = Some("status.phase=Pending");
            watch!(pods, fields, |observer: &dyn Observer, change| observer.changed(Change::Pod(change)));
        }
        while let Some(ended) = watches.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Waits until every kind's first list has ended.
    pub async fn synced(&self) {
        let caches = &self.0;
        let mut parts = vec![
            caches.nodes.store.subscribe(),
            caches.claims.store.subscribe(),
            caches.volumes.store.subscribe(),
            caches.classes.store.subscribe(),
            caches.drivers.store.subscribe(),
            caches.driver_nodes.store.subscribe(),
            caches.capacities.store.subscribe(),
            caches.namespaces.store.subscribe(),
        ];
        if caches.pods_watched != WatchedPods::None {
            parts.push(caches.pods.store.subscribe());
        }
        for part in &mut parts {
            // The sender lives as long as the caches, which `self` holds.
            let _synced = part.wait_for(|synced| *synced).await;
        }
    }

    /// Kinds whose first list has not ended, for a readiness probe.
    #[must_use]
    pub fn not_synced(&self) -> Vec<&'static str> {
        self.0.figures().iter().filter(|row| !row.synced).map(|row| row.metrics.kind()).collect()
    }

    /// Every claim.
    #[must_use]
    pub fn claims(&self) -> Lookup<Vec<Arc<Claim>>> {
        self.0.claims.store.all()
    }

    /// Every volume.
    #[must_use]
    pub fn volumes(&self) -> Lookup<Vec<Arc<Volume>>> {
        self.0.volumes.store.all()
    }

    /// Every Node.
    #[must_use]
    pub fn nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        self.0.nodes.store.all()
    }

    /// Every Pod that is watched.
    #[must_use]
    pub fn pods(&self) -> Lookup<Vec<Arc<Pod>>> {
        self.0.pods.store.all()
    }
}

impl ClusterView for LiveCluster {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        self.0.claims.store.get(&Key::new(namespace, name))
    }

    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        self.0.classes.store.get(&Key::new("", name))
    }

    fn default_class(&self) -> Lookup<Arc<Class>> {
        match self.0.classes.store.all() {
            Lookup::Found(classes) => Lookup::found_or(default_class(&classes), Lookup::Absent),
            Lookup::Absent | Lookup::Unknown => Lookup::Unknown,
        }
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.0.nodes.store.get(&Key::new("", name))
    }

    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        self.0.nodes.store.find(&value.into())
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.0.volumes.store.get(&Key::new("", name))
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.0.volumes.store.find(&VolumeIndex::FreeOfClass(class_name.into()))
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.0.volumes.store.find(&VolumeIndex::Claim(namespace.into(), claim_name.into()))
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.0.namespaces.store.get(&Key::new("", name))
    }

    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.0.drivers.store.get(&Key::new("", name))
    }

    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.0.driver_nodes.store.get(&Key::new("", node_name))
    }

    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.0.capacities.store.find(&class_name.into())
    }

    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.0.pods.store.find(&(namespace.into(), claim_name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_counted_under_its_own_name() {
        let (live, mut registry) = (LiveCluster::new(WatchedPods::Pending), Registry::default());
        live.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let mut series: Vec<&str> = text.lines().filter(|line| line.starts_with("watch_synced{")).collect();
        assert!(series.contains(&"watch_synced{kind=\"persistentvolumeclaims\"} 0.0"), "{text}");
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), 9, "{series:?}");
        assert_eq!(live.not_synced().len(), 9);
    }
}
