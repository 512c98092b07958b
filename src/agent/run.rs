//! Starts the agent of one node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::base::AllowedBases;
use super::metrics::AgentMetrics;
use super::orphans::Orphans;
use super::{orders, reports};
use crate::crd::{LocalPool, LocalVolume};
use crate::model::{Namespace, Node, Wire};
use crate::runtime::api::in_time;
use crate::runtime::follow::{Change, follow};
use crate::runtime::queue::Queue;

/// How soon something is tried again after the API server failed.
const RETRY: Duration = Duration::from_secs(1);
/// Orders that are followed at once. More would only wait for the same disk.
const WORKERS: usize = 8;

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

pub(super) struct Agent {
    pub client: Client,
    pub options: Options,
    /// UID of the namespace `kube-system`: what tells clusters apart.
    pub cluster: String,
    pub locals: Store<LocalVolume>,
    pub pools: Store<LocalPool>,
    nodes: Store<Wire<Node>>,
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
    pub(super) fn node(&self) -> Option<Arc<Wire<Node>>> {
        self.nodes.get(&ObjectRef::new(&self.options.node_name))
    }

    pub(super) fn node_uid(&self) -> String {
        self.node().and_then(|node| node.object.metadata.uid.as_ref().map(String::from)).unwrap_or_default()
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
    metrics: AgentMetrics,
    synced: impl FnOnce(),
    stop: CancellationToken,
) {
    let Some(cluster) = stop.run_until_cancelled(cluster_uid(&client)).await else { return };
    let queue = Arc::new(Queue::<String>::default());
    let push = Arc::clone(&queue);
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", options.node_name));
    let (locals, orders) = follow(Api::<LocalVolume>::all(client.clone()), mine, move |change| match change {
        Change::Applied(local) => push.now(local.name().to_owned()),
        Change::Deleted(_) => {}
        // The empty name stands for all.
        Change::Refilled => push.now(String::new()),
    });
    let wake = Arc::new(Notify::new());
    let pool_change = Arc::clone(&wake);
    let (pools, pooling) =
        follow(Api::<LocalPool>::all(client.clone()), watcher::Config::default(), move |_| pool_change.notify_one());
    let own = watcher::Config::default().fields(&format!("metadata.name={}", options.node_name));
    let node_change = Arc::clone(&wake);
    let (nodes, noding) = follow(Api::<Wire<Node>>::all(client.clone()), own, move |_| node_change.notify_one());

    let agent = Arc::new(Agent {
        client,
        options,
        cluster,
        locals,
        pools,
        nodes,
        report: Notify::new(),
        sweep: Notify::new(),
        metrics,
        conditions: Mutex::default(),
        orphans: Mutex::default(),
        confirmed: Mutex::default(),
        trashed: Mutex::default(),
    });
    let mut running = tokio::task::JoinSet::new();
    running.spawn(orders);
    running.spawn(pooling);
    running.spawn(noding);
    let filled = async {
        // An error says that the watch was dropped, which only happens when this whole function is.
        drop(tokio::join!(
            agent.locals.wait_until_ready(),
            agent.pools.wait_until_ready(),
            agent.nodes.wait_until_ready()
        ));
        reports::remember(&agent).await;
    };
    if stop.run_until_cancelled(filled).await.is_none() {
        return;
    }
    tracing::info!(node = agent.options.node_name, volumes = agent.locals.len(), "the agent's caches are filled");
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

async fn work(agent: Arc<Agent>, queue: Arc<Queue<String>>, stop: CancellationToken) {
    while let Some((name, _)) = stop.run_until_cancelled(queue.next()).await {
        let again = turn(&agent, &queue, &name).await;
        queue.done(name, again);
    }
}

async fn turn(agent: &Arc<Agent>, queue: &Queue<String>, name: &str) -> Option<Duration> {
    if name.is_empty() {
        for local in agent.locals.state() {
            queue.now(local.name().to_owned());
        }
        return None;
    }
    let local = agent.locals.get(&ObjectRef::new(name))?;
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
