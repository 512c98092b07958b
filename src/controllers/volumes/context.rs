//! What the reconcilers share: caches, interfaces to the API server, options. Nothing here changes by what they do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};

use super::events::Events;
use super::held_back::HeldBack;
use super::live_volumes::LiveVolumes;
use super::metrics::ProvisionMetrics;
use crate::binding::{ClusterView, Lookup};
use crate::crd::{Kept, LocalDisk, LocalNode, LocalPool, LocalVolume};
use crate::facts::live::{Cache, CacheStats, HasCacheStats, LiveCluster};
use crate::model::{Claim, Class, Node, Volume, Wire};
use crate::rancher::MICROK8S;
use crate::runtime::queue::Queue;
use crate::volumes::PROVISIONER;

/// How the controller works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Provisioner names of others whose classes and volumes are served too, such as `rancher.io/local-path`.
    pub adopt: BTreeSet<String>,
    /// Classes of theirs that are not served, because scripts would be lost.
    pub held_back: HeldBack,
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
            held_back: HeldBack::default(),
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
    pub fn handles(&self, provisioner: &str) -> bool {
        provisioner == PROVISIONER || self.adopt.contains(provisioner)
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// All there is.
    Everything,
    /// Claims that wait for something a change of a node, or of its report, may bring.
    Waiting,
    /// A claim: namespace and name.
    Claim(String, String),
    /// A LocalVolume.
    Local(String),
    /// A LocalDisk.
    Disk(String),
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
    pub disks: Cache<Kept<LocalDisk>>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            pools: Cache::new("localpools"),
            reports: Cache::new("localnodes"),
            locals: Cache::new("localvolumes"),
            disks: Cache::new("localdisks"),
        }
    }
}

impl HasCacheStats for Stores {
    fn figures(&self) -> Vec<CacheStats> {
        vec![self.pools.figures(), self.reports.figures(), self.locals.figures(), self.disks.figures()]
    }
}

/// Facts and interfaces. What is remembered is in [`Memory`](super::memory::Memory).
pub(crate) struct Context {
    pub client: Client,
    pub options: Options,
    pub live: LiveCluster,
    pub stores: Arc<Stores>,
    pub queue: Arc<Queue<Key>>,
    pub events: Events,
    pub metrics: ProvisionMetrics,
    /// Every volume as the API server lists it at that moment.
    pub live_volumes: LiveVolumes,
}

impl Context {
    pub(crate) fn class(&self, name: &str) -> Option<Arc<Class>> {
        self.live.class(name).found()
    }

    /// The class of a claim, if it is one of ours. Of MicroK8s only old volumes are served.
    pub(crate) fn class_of(&self, claim: &Claim) -> Option<Arc<Class>> {
        let ours = |class: &Arc<Class>| self.options.handles(&class.provisioner) && class.provisioner != MICROK8S;
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

    /// The Nodes among which is that of a volume of another provisioner, as far as they are known.
    pub(crate) fn nodes_of(&self, volume: &Volume) -> Vec<Arc<Node>> {
        match self.live.nodes_named_by(volume) {
            Lookup::Found(nodes) => nodes,
            Lookup::Absent | Lookup::Unknown => self.all_nodes(),
        }
    }

    pub(crate) fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.live.node(name).found()
    }

    /// Whether a Node exists.
    pub(crate) fn live_node(&self, name: &str) -> Lookup<()> {
        self.live.node(name).map(drop)
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
}
