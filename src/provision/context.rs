//! What the loops share: caches, interfaces to the API server, options.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};
use tokio::sync::Notify;

use super::PROVISIONER;
use super::events::Events;
use super::metrics::ProvisionMetrics;
use super::recent::Recent;
use crate::binding::ClusterView;
use crate::cluster::live::{Cache, Figured, Figures, LiveCluster};
use crate::crd::{Kept, LocalNode, LocalPool, LocalVolume};
use crate::model::{Claim, Class, Node, Text, Volume, Wire, reference};
use crate::rancher::MICROK8S;
use crate::runtime::queue::Queue;

/// How the controller works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Provisioner names of others whose classes and volumes are served too, such as `rancher.io/local-path`.
    pub adopt: BTreeSet<String>,
    /// How long an agent may leave an order unanswered before another node is tried.
    pub agent_patience: Duration,
    /// A pool that is made when there is none of that name: its name and its path on every node.
    pub pool: Option<(String, String)>,
    /// Writes the phase `Bound` of new volumes while the controller manager is behind with it.
    pub mark_bound: bool,
    /// How many objects are worked on at once.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        // Each worker mostly waits for the API server, and has a connection of its own meanwhile. A claim takes three
        // requests of some milliseconds, so 16 make more volumes than any controller manager binds.
        Self {
            adopt: BTreeSet::new(),
            agent_patience: Duration::from_secs(60),
            pool: None,
            mark_bound: false,
            workers: 16,
        }
    }
}

impl Options {
    /// True for the provisioner names that are served.
    #[must_use]
    pub fn serves(&self, provisioner: &str) -> bool {
        provisioner == PROVISIONER || self.adopt.contains(provisioner)
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// All there is.
    Everything,
    /// A claim: namespace and name.
    Claim(String, String),
    /// A LocalVolume.
    Local(String),
    /// A PersistentVolume.
    Volume(String),
    /// The report of a node.
    Report(String),
}

/// What only the provisioner watches. The rest it shares with the other loops.
#[derive(Debug)]
pub(crate) struct Stores {
    pub pools: Cache<Kept<LocalPool>>,
    pub reports: Cache<Kept<LocalNode>>,
    pub locals: Cache<Kept<LocalVolume>>,
}

impl Default for Stores {
    fn default() -> Self {
        Self { pools: Cache::new("localpools"), reports: Cache::new("localnodes"), locals: Cache::new("localvolumes") }
    }
}

impl Figured for Stores {
    fn figures(&self) -> Vec<Figures> {
        vec![self.pools.figures(), self.reports.figures(), self.locals.figures()]
    }
}

pub(crate) struct Context {
    pub client: Client,
    pub options: Options,
    pub live: LiveCluster,
    pub stores: Arc<Stores>,
    pub queue: Arc<Queue<Key>>,
    pub events: Events,
    pub metrics: ProvisionMetrics,
    pub disposed: Disposed,
    /// Orders that the cache does not show yet, so that two claims do not take the same room.
    pub promised: Recent<LocalVolume>,
    /// Held from the choice of a path to its promise.
    pub choosing: Mutex<()>,
    /// The pools were read anew.
    pub pools_refilled: Notify,
    /// Since when a claim waits for the agent of a node.
    pub waiting: Mutex<HashMap<(String, String), Instant>>,
    /// The last warning about each claim, so that the same one is not written every few seconds.
    pub said: Mutex<HashMap<String, String>>,
    /// Nodes about whose orphans the API server was asked lately.
    pub asked: Recent<()>,
    /// Volumes that were made and that the cache does not show yet: a claim that changes meanwhile needs no second one.
    pub made: Recent<()>,
    /// UIDs of the claims whose volumes this process makes or made, and that the controller manager has not bound yet. Kept
    /// only where phases are to be written.
    pub unbound: Mutex<HashSet<String>>,
    /// All facts have been read once.
    pub synced: AtomicBool,
}

/// For how long a volume that was made counts as there without being seen. It may have been deleted before any watch
/// told of it.
pub(crate) const UNSEEN: Duration = Duration::from_secs(5);

/// For how long an order counts that no watch told of. It takes a request and an event to be seen; a LocalVolume that was
/// gone before is the only one that never is.
pub(crate) const PROMISE: Duration = Duration::from_secs(60);

/// LocalVolumes whose agent has followed the order of disposal. Lost at a restart; then they are made again from
/// their volumes, disposed of again, which finds nothing, and arrive here.
#[derive(Default)]
pub(crate) struct Disposed(Mutex<BTreeSet<String>>);

impl Disposed {
    pub(crate) fn insert(&self, name: &str) {
        lock(&self.0).insert(name.to_owned());
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        lock(&self.0).contains(name)
    }

    fn retain(&self, keep: impl FnMut(&String) -> bool) {
        lock(&self.0).retain(keep);
    }

    pub(crate) fn remove(&self, name: &str) {
        lock(&self.0).remove(name);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold stays usable whatever happened to another holder.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    pub(crate) fn class(&self, name: &str) -> Option<Arc<Class>> {
        self.live.class(name).found()
    }

    /// The class of a claim, if it is one of ours. Of MicroK8s only old volumes are served.
    pub(crate) fn class_of(&self, claim: &Claim) -> Option<Arc<Class>> {
        let ours = |class: &Arc<Class>| self.options.serves(&class.provisioner) && class.provisioner != MICROK8S;
        self.class(claim.class_name()?).filter(ours)
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<Arc<Claim>> {
        self.live.claim(namespace, name).found()
    }

    /// Every claim; none before the first list has ended, and nothing is decided before.
    pub(crate) fn all_claims(&self) -> Vec<Arc<Claim>> {
        self.live.claims().found().unwrap_or_default()
    }

    /// The same of volumes.
    pub(crate) fn all_volumes(&self) -> Vec<Arc<Volume>> {
        self.live.volumes().found().unwrap_or_default()
    }

    /// The same of Nodes.
    pub(crate) fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.live.nodes().found().unwrap_or_default()
    }

    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.live.node(name).found()
    }

    pub(crate) fn local(&self, name: &str) -> Option<Arc<Kept<LocalVolume>>> {
        self.stores.locals.get(name)
    }

    pub(crate) fn volume(&self, name: &str) -> Option<Arc<Volume>> {
        self.live.volume(name).found()
    }

    pub(crate) fn claims(&self, namespace: &str) -> Api<Wire<Claim>> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn locals(&self) -> Api<LocalVolume> {
        Api::all(self.client.clone())
    }

    pub(crate) fn volumes(&self) -> Api<Wire<Volume>> {
        Api::all(self.client.clone())
    }

    pub(crate) fn new_volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// The LocalVolumes of a node, those included that were ordered a moment ago.
    pub(crate) fn locals_on(&self, node: &str) -> Vec<Arc<Kept<LocalVolume>>> {
        // Before the cache: an order that the cache takes over in between must not be missing in both.
        let promised = self.promised.matching(|local| local.spec.node_name == node);
        let mut unseen: HashMap<_, _> = promised.into_iter().map(|it| (it.name().to_owned(), it)).collect();
        let mut found = self.stores.locals.all();
        found.retain(|local| local.spec.node_name == node);
        // One list tells both what is there and what is missing: asked again, the cache may know more.
        for local in &found {
            unseen.remove(local.name());
        }
        found.extend(unseen.into_values().map(|it| Arc::new(it.into())));
        found
    }

    /// Whether anything has been made for a claim. `None` while the facts have not been read.
    pub(crate) fn started(&self, uid: &str) -> Option<bool> {
        if !self.synced.load(Ordering::Acquire) {
            return None;
        }
        let ordered = !self.promised.matching(|local| local.spec.claim.uid == uid).is_empty();
        let made = || !self.stores.locals.find(&uid.into()).is_empty();
        Some(ordered || made() || self.volume(&super::volume_name(uid)).is_some())
    }

    /// Notes that the controller manager is to bind a claim soon; how many claims it is to bind now.
    pub(crate) fn await_binding(&self, uid: &str) -> usize {
        let mut unbound = lock(&self.unbound);
        unbound.insert(uid.to_owned());
        unbound.len()
    }

    /// Warns about a claim, once for each thing that there is to say.
    pub(crate) fn refuse(&self, claim: &Claim, note: String) {
        let uid = Text::or_empty(claim.metadata.uid.as_ref());
        let repeated = lock(&self.said).get(&uid).is_some_and(|before| *before == note);
        if !repeated {
            self.metrics.refused();
            self.events.warning(reference(claim), "ProvisioningFailed", &note);
            lock(&self.said).insert(uid, note);
        }
    }

    /// Drops what was kept about claims and volumes that are gone.
    pub(crate) fn tidy(&self) {
        let all = self.all_claims();
        let claims: BTreeSet<Text> = all.iter().filter_map(|claim| claim.metadata.uid.clone()).collect();
        lock(&self.said).retain(|uid, _| claims.contains(uid.as_str()));
        lock(&self.waiting).retain(|(uid, _), _| claims.contains(uid.as_str()));
        let bound: HashSet<Text> =
            all.iter().filter(|it| it.volume_name().is_some()).filter_map(|it| it.metadata.uid.clone()).collect();
        lock(&self.unbound).retain(|uid| claims.contains(uid.as_str()) && !bound.contains(uid.as_str()));
        let owners: BTreeSet<Text> =
            self.all_volumes().iter().filter_map(|volume| volume.spec.claim_ref.as_ref()?.uid.clone()).collect();
        self.disposed.retain(|name| owners.iter().any(|uid| name.starts_with(uid.as_str())));
    }

    /// Forgets what was kept about a claim that is served, or gone.
    pub(crate) fn forget(&self, uid: &str) {
        lock(&self.said).remove(uid);
        lock(&self.waiting).retain(|(claim, _), _| claim != uid);
    }
}
