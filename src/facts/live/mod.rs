//! Facts from a running cluster: watch caches, and a live look at claims that they do not hold yet.

mod evicted;
mod fetch;
mod kinds;
mod metrics;
mod pacing;
mod pause;
mod store;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Weak};

use kube::Client;
use prometheus_client::registry::Registry;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::kinds::{VolumeIndex, hostnames};
pub(crate) use self::kinds::{disk_of_node, disk_of_volume, disk_with_mark, same_claim};
use self::metrics::{CacheCollector, WatchMetrics};
use self::store::Store;
use crate::binding::{ClusterView, Lookup, anti_affinity_around, default_class};
use crate::crd::{Kept, PinPolicy};
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, HOSTNAME_LABEL, Namespace, Node, Pod, PodOnNode, ResourceClaim,
    ResourceClaimTemplate, StorageCapacity, Text, VOLUME_NODE, Volume,
};

pub(crate) use self::evicted::replicas_beside;
pub use self::fetch::{FetchedView, Fetcher, Wanted};
#[cfg_attr(not(target_os = "linux"), allow(unused_imports, reason = "of the agent, which is on Linux only"))]
pub(crate) use self::metrics::{CacheStats, HasCacheStats, register};
pub use self::store::Changed;
pub(crate) use self::store::{CacheEvent, Cached, Key};

/// Which Pods are watched, and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchedPods {
    /// None: consumers of claims stay unknown.
    #[default]
    None,
    /// Those in phase `Pending`, wherever they are, as consumers of claims and of ResourceClaims: for the rescue loop.
    Pending,
    /// Those on a node, of which is kept where their required anti-affinity keeps others away and which claims they use, and
    /// ResourceClaims: for admission, which decides whether the scheduler could place a Pod, and says what an eviction leaves.
    OnNodes,
    /// Both: for a controller that tells policies of the API server what admission would know.
    PendingAndOnNodes,
}

impl WatchedPods {
    const fn pending(self) -> bool {
        matches!(self, Self::Pending | Self::PendingAndOnNodes)
    }

    const fn on_nodes(self) -> bool {
        matches!(self, Self::OnNodes | Self::PendingAndOnNodes)
    }
}

/// Pods that may keep others away, or use claims. Which do cannot be asked for.
const ON_NODES: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

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
    /// Of a PinPolicy.
    Policy(Changed<Kept<PinPolicy>>),
    /// Of a CSIDriver.
    Driver(Changed<CsiDriver>),
    /// Of a CSINode.
    DriverNode(Changed<CsiNode>),
    /// Of a Pod on a node with required anti-affinity, or with claims.
    PodOnNode(Changed<PodOnNode>),
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
        tell: impl FnMut(CacheEvent<K>),
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

    /// The same; not known before the first list has ended, nor while an object cannot be read that may be one of them.
    pub fn lookup(&self, index: &K::Index) -> Lookup<Vec<Arc<K>>> {
        self.store.find(index)
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

    pub fn figures(&self) -> CacheStats {
        CacheStats { metrics: self.metrics.clone(), synced: self.store.is_synced(), objects: self.store.len() }
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
    policies: Cache<Kept<PinPolicy>>,
    pods: Cache<Pod>,
    pods_on_nodes: Cache<PodOnNode>,
    resource_claims: Cache<ResourceClaim>,
    resource_claim_templates: Cache<ResourceClaimTemplate>,
}

impl HasCacheStats for Caches {
    fn figures(&self) -> Vec<CacheStats> {
        let mut rows = vec![
            self.nodes.figures(),
            self.claims.figures(),
            self.volumes.figures(),
            self.classes.figures(),
            self.drivers.figures(),
            self.driver_nodes.figures(),
            self.capacities.figures(),
            self.namespaces.figures(),
            self.policies.figures(),
        ];
        if self.pods_watched.pending() {
            rows.push(self.pods.figures());
        }
        if self.pods_watched.on_nodes() {
            rows.push(self.pods_on_nodes.figures());
        }
        if self.pods_watched != WatchedPods::None {
            rows.extend([self.resource_claims.figures(), self.resource_claim_templates.figures()]);
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
            policies: Cache::new("pinpolicies"),
            pods: Cache::new("pods"),
            // Of one resource. Where both are watched, metrics tell them apart.
            pods_on_nodes: Cache::new(if pods_watched.pending() { "pods on nodes" } else { "pods" }),
            resource_claims: Cache::new("resourceclaims"),
            resource_claim_templates: Cache::new("resourceclaimtemplates"),
        }))
    }

    /// Adds what is counted about the watches to a registry.
    pub fn register(&self, registry: &mut Registry) {
        metrics::register(self.figured(), registry);
    }

    /// The same, together with other watches of the process: a registry takes each metric once.
    pub(crate) fn register_with(&self, others: Weak<dyn HasCacheStats>, registry: &mut Registry) {
        registry.register_collector(Box::new(CacheCollector(vec![self.figured(), others])));
    }

    fn figured(&self) -> Weak<dyn HasCacheStats> {
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
                        if let CacheEvent::Changed(change) = news {
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
        watch!(drivers, None, |observer: &dyn Observer, change| observer.changed(Change::Driver(change)));
        watch!(driver_nodes, None, |observer: &dyn Observer, change| observer.changed(Change::DriverNode(change)));
        watch!(capacities, None, |_: &dyn Observer, _| {});
        watch!(namespaces, None, |_: &dyn Observer, _| {});
        watch!(policies, None, |observer: &dyn Observer, change| observer.changed(Change::Policy(change)));
        if self.0.pods_watched.pending() {
            let fields = Some("status.phase=Pending");
            watch!(pods, fields, |observer: &dyn Observer, change| observer.changed(Change::Pod(change)));
        }
        if self.0.pods_watched.on_nodes() {
            watch!(pods_on_nodes, Some(ON_NODES), |observer: &dyn Observer, change| {
                observer.changed(Change::PodOnNode(change));
            });
        }
        if self.0.pods_watched != WatchedPods::None {
            watch!(resource_claims, None, |_: &dyn Observer, _| {});
            watch!(resource_claim_templates, None, |_: &dyn Observer, _| {});
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
            caches.policies.store.subscribe(),
        ];
        if caches.pods_watched.pending() {
            parts.push(caches.pods.store.subscribe());
        }
        if caches.pods_watched.on_nodes() {
            parts.push(caches.pods_on_nodes.store.subscribe());
        }
        if caches.pods_watched != WatchedPods::None {
            parts.extend([caches.resource_claims.store.subscribe(), caches.resource_claim_templates.store.subscribe()]);
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

    /// The volumes that name this very path, as [`crate::model::plain_path`] has it, on whatever node.
    #[must_use]
    pub fn volumes_at(&self, path: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.0.volumes.store.find(&VolumeIndex::Path(path.into()))
    }

    /// The volumes that name a path and no LocalVolume of ours, and that may be on the node; no more than the limit.
    #[must_use]
    pub fn foreign_volumes_on(&self, node: &Node, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        let store = &self.0.volumes.store;
        let mut found = Vec::new();
        let label = node.label(HOSTNAME_LABEL).map(|value| VolumeIndex::ForeignOn(value.into()));
        for index in label.into_iter().chain([VolumeIndex::ForeignAnywhere]) {
            match store.find_some(&index, limit.saturating_sub(found.len())) {
                Lookup::Found(more) => found.extend(more),
                Lookup::Absent | Lookup::Unknown => return Lookup::Unknown,
            }
        }
        Lookup::Found(found)
    }

    /// Every class.
    #[must_use]
    pub fn classes(&self) -> Lookup<Vec<Arc<Class>>> {
        self.0.classes.store.all()
    }

    /// The Nodes that a volume may be on: by the name that its maker wrote down, or else by the hostnames that its affinity asks
    /// for, which may stand for names. Absent where it says neither, so that it may be on any.
    #[must_use]
    pub fn nodes_named_by(&self, volume: &Volume) -> Lookup<Vec<Arc<Node>>> {
        if let Some(name) = volume.metadata.annotation(VOLUME_NODE) {
            return match self.node(name) {
                Lookup::Found(node) => Lookup::Found(vec![node]),
                Lookup::Absent => Lookup::Found(Vec::new()),
                Lookup::Unknown => Lookup::Unknown,
            };
        }
        let Some(hostnames) = hostnames(volume) else { return Lookup::Absent };
        let mut found: BTreeMap<Text, Arc<Node>> = BTreeMap::new();
        for hostname in hostnames {
            let (Lookup::Found(carriers), by_name @ (Lookup::Found(_) | Lookup::Absent)) =
                (self.nodes_with_hostname(&hostname), self.node(&hostname))
            else {
                return Lookup::Unknown;
            };
            let all = carriers.into_iter().chain(by_name.found());
            found.extend(all.map(|node| (node.name().into(), node)));
        }
        Lookup::Found(found.into_values().collect())
    }

    /// How many Nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.0.nodes.len()
    }

    /// Every Node.
    #[must_use]
    pub fn nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        self.0.nodes.store.all()
    }

    /// A PinPolicy by name.
    #[must_use]
    pub fn policy(&self, name: &str) -> Lookup<Arc<Kept<PinPolicy>>> {
        self.0.policies.store.get(&Key::new("", name))
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

    fn repelling(&self, namespace: &str, node_name: &str) -> Lookup<Vec<Arc<PodOnNode>>> {
        let mut all = Vec::new();
        for index in anti_affinity_around(namespace, node_name) {
            match self.0.pods_on_nodes.store.find(&index) {
                Lookup::Found(found) => all.extend(found),
                Lookup::Absent | Lookup::Unknown => return Lookup::Unknown,
            }
        }
        Lookup::Found(all)
    }

    /// None where the API server has no such kind.
    fn policies(&self) -> Lookup<Vec<Arc<Kept<PinPolicy>>>> {
        self.0.policies.store.every()
    }

    fn all_nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        self.0.nodes.store.every()
    }

    fn volumes_asking_for(&self, key: &str, value: &str, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        self.0.volumes.store.find_some(&VolumeIndex::AsksFor(key.into(), value.into()), limit)
    }

    fn pod_on_node(&self, namespace: &str, name: &str) -> Lookup<Arc<PodOnNode>> {
        self.0.pods_on_nodes.store.get(&Key::new(namespace, name))
    }

    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        self.0.resource_claims.store.get(&Key::new(namespace, name))
    }

    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        self.0.resource_claim_templates.store.get(&Key::new(namespace, name))
    }
}
