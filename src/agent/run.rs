//! Starts the agent of one node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::base::AllowedBases;
use super::metrics::AgentMetrics;
use super::orphans::Orphans;
use super::{orders, reports};
use crate::cluster::live::{Cache, Changed, Figured, Figures, News, register};
use crate::crd::{Kept, LocalPool, LocalVolume};
use crate::model::{Namespace, Node, Wire};
use crate::runtime::api::in_time;
use crate::runtime::queue::Queue;

/// How soon something is tried again after the API server failed.
const RETRY: Duration = Duration::from_secs(1);
/// Orders that are followed at once. More would only wait for the same disk.
const WORKERS: usize = 8;

/// Threads for what waits for disks: one a worker, one that looks for the report, one that empties the trash, and two for
/// the process around it, such as for names to be resolved while disks hang.
pub const BLOCKING_THREADS: usize = WORKERS + 4;

/// How the agent works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the Node object.
    pub node_name: String,
    /// What it may work beneath.
    pub bases: AllowedBases,
    /// How fast the trash is emptied, in files and directories a second.
    pub unlinks_per_second: usize,
    /// Directories of ours that no volume names are removed when they have been known for so long; never where absent.
    pub remove_orphans: Option<Duration>,
}

/// What the agent knows of the cluster.
#[derive(Debug)]
pub struct Caches {
    /// The LocalVolumes of this node.
    pub(super) locals: Cache<Kept<LocalVolume>>,
    pub(super) pools: Cache<Kept<LocalPool>>,
    /// The Node alone.
    nodes: Cache<Node>,
}

impl Default for Caches {
    fn default() -> Self {
        Self { locals: Cache::new("localvolumes"), pools: Cache::new("localpools"), nodes: Cache::new("nodes") }
    }
}

impl Figured for Caches {
    fn figures(&self) -> Vec<Figures> {
        vec![self.locals.figures(), self.pools.figures(), self.nodes.figures()]
    }
}

impl Caches {
    /// Adds what is counted about their watches to a registry.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let caches: Weak<Self> = Arc::downgrade(self);
        register(caches, registry);
    }
}

pub(super) struct Agent {
    pub client: Client,
    pub options: Options,
    /// UID of the namespace `kube-system`: what tells clusters apart.
    pub cluster: String,
    pub caches: Arc<Caches>,
    pub report: Notify,
    pub sweep: Notify,
    pub metrics: AgentMetrics,
    conditions: Mutex<Vec<Condition>>,
    orphans: Mutex<Orphans>,
    /// UID of the Node whose disks were confirmed last; empty at first.
    confirmed: Mutex<String>,
    /// Bases that may hold trash although no pool and no volume names them any more.
    trashed: Mutex<BTreeSet<String>>,
}

impl Agent {
    pub(super) fn node(&self) -> Option<Arc<Node>> {
        self.caches.nodes.get(&self.options.node_name)
    }

    pub(super) fn locals(&self) -> Vec<Arc<Kept<LocalVolume>>> {
        self.caches.locals.all()
    }

    pub(super) fn node_uid(&self) -> String {
        self.node().and_then(|node| node.metadata.uid.as_ref().map(String::from)).unwrap_or_default()
    }

    pub(super) fn report_soon(&self) {
        self.report.notify_one();
    }

    /// Something was moved to the trash of this base.
    pub(super) fn sweep_soon(&self, base: &str) {
        self.trashed().insert(base.to_owned());
        self.sweep.notify_one();
        self.report_soon();
    }

    pub(super) fn trashed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.trashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn orphans(&self) -> MutexGuard<'_, Orphans> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn confirmed(&self) -> MutexGuard<'_, String> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn keep_conditions(&self, conditions: &[Condition]) {
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner) = conditions.to_vec();
    }
}

/// Runs the agent until the token is cancelled; what is under way then is finished. `synced` is called when its orders
/// are read. What fails is tried again, for ever.
pub async fn run(
    client: Client,
    options: Options,
    caches: Arc<Caches>,
    metrics: AgentMetrics,
    synced: impl FnOnce(),
    stop: CancellationToken,
) {
    let Some(cluster) = stop.run_until_cancelled(cluster_uid(&client)).await else { return };
    let queue = Arc::new(Queue::<String>::default());
    let wake = Arc::new(Notify::new());
    let mut running = tokio::task::JoinSet::new();
    watch(&mut running, &client, &options.node_name, &caches, &queue, &wake);
    let agent = Arc::new(Agent {
        client,
        options,
        cluster,
        caches,
        report: Notify::new(),
        sweep: Notify::new(),
        metrics,
        conditions: Mutex::default(),
        orphans: Mutex::default(),
        confirmed: Mutex::default(),
        trashed: Mutex::default(),
    });
    let filled = async {
        let Caches { locals, pools, nodes } = &*agent.caches;
        tokio::join!(locals.synced(), pools.synced(), nodes.synced());
        reports::remember(&agent).await;
    };
    if stop.run_until_cancelled(filled).await.is_none() {
        return;
    }
    tracing::info!(
        node = agent.options.node_name,
        volumes = agent.caches.locals.len(),
        "the agent's caches are filled"
    );
    let forward = Arc::clone(&agent);
    running.spawn(async move {
        loop {
            wake.notified().await;
            forward.report_soon();
        }
    });
    running.spawn(reports::report_for_ever(Arc::clone(&agent)));
    running.spawn(reports::sweep_for_ever(Arc::clone(&agent)));
    synced();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(Arc::clone(&agent), Arc::clone(&queue), stop.clone()));
    }
    while workers.join_next().await.is_some() {}
}

/// Starts the watches. They end with the set.
fn watch(
    running: &mut tokio::task::JoinSet<()>,
    client: &Client,
    node: &str,
    caches: &Arc<Caches>,
    queue: &Arc<Queue<String>>,
    wake: &Arc<Notify>,
) {
    let (all, client_of_locals, push) = (Arc::clone(caches), client.clone(), Arc::clone(queue));
    let mine = format!("spec.nodeName={node}");
    running.spawn(async move {
        let tell = |news: News<Kept<LocalVolume>>| {
            if let News::Changed(Changed { after: Some(local), .. }) = news {
                push.now(local.name().to_owned());
            }
        };
        all.locals.watch(client_of_locals, Some(&mine), CancellationToken::new(), tell).await;
    });
    let (all, client_of_pools, changed) = (Arc::clone(caches), client.clone(), Arc::clone(wake));
    running.spawn(async move {
        all.pools.watch(client_of_pools, None, CancellationToken::new(), |_| changed.notify_one()).await;
    });
    let (all, client, changed) = (Arc::clone(caches), client.clone(), Arc::clone(wake));
    let own = format!("metadata.name={node}");
    running.spawn(async move {
        all.nodes.watch(client, Some(&own), CancellationToken::new(), |_| changed.notify_one()).await;
    });
}

async fn work(agent: Arc<Agent>, queue: Arc<Queue<String>>, stop: CancellationToken) {
    while let Some((name, _)) = stop.run_until_cancelled(queue.next()).await {
        let again = turn(&agent, &name).await;
        queue.done(name, again);
    }
}

async fn turn(agent: &Arc<Agent>, name: &str) -> Option<Duration> {
    let local = agent.caches.locals.get(name)?;
    match orders::follow_order(agent, local).await {
        Ok(again) => again,
        Err(error) => {
            if !error.is_conflict() {
                tracing::warn!(volume = name, %error, "trying again");
            }
            Some(RETRY)
        }
    }
}

/// The UID of the namespace that every cluster has, and keeps.
async fn cluster_uid(client: &Client) -> String {
    let namespaces: Api<Wire<Namespace>> = Api::all(client.clone());
    loop {
        match in_time(namespaces.get("kube-system")).await {
            Ok(namespace) => {
                if let Some(uid) = namespace.object.metadata.uid {
                    return uid.into();
                }
            }
            Err(error) => tracing::warn!(%error, "the cluster does not say who it is, asking again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
