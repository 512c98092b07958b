//! Starts the agent of one node.

use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bases::Bases;
use super::caches::Caches;
use super::calls::{DISK_WORKERS, ORDER_WORKERS};
use super::disk_changes;
use super::metrics::AgentMetrics;
use super::orders::Orders;
use super::reports::{self, Reports};
use super::state::{Agent, DiskTask, Options, StaticDiskTask};
use super::whole_disks::StaticDisks;
use crate::crd::{Kept, LocalDisk, LocalVolume};
use crate::facts::live::{CacheEvent, Changed};
use crate::kubernetes::api::in_time;
use crate::kubernetes::controller::{Controller, Follower, Reconciler};
use crate::model::{Namespace, Wire};
use crate::runtime::queue::Queue;

/// How soon the API server is asked again for what the agent cannot begin without.
const RETRY: Duration = Duration::from_secs(1);
/// Everything is looked at again this often, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(600);

/// Runs the agent until the token is cancelled; what is under way then is finished. `synced` is called when its orders
/// are read. What fails is tried again, forever.
pub async fn run(
    client: Client,
    options: Options,
    caches: Arc<Caches>,
    metrics: AgentMetrics,
    synced: impl FnOnce(),
    stop: CancellationToken,
) {
    let Some(cluster) = stop.run_until_cancelled(cluster_uid(&client)).await else { return };
    let agent = Arc::new(Agent::new(client, options, cluster, caches, metrics));
    // They end when this function does.
    let mut watches = JoinSet::new();
    watch(&mut watches, &agent);
    let filled = async {
        let Caches { locals, disks, pools, nodes } = &*agent.caches;
        tokio::join!(locals.synced(), disks.synced(), pools.synced(), nodes.synced());
        reports::remember(&agent).await;
    };
    if Box::pin(stop.run_until_cancelled(filled)).await.is_none() {
        return;
    }
    tracing::info!(
        node = agent.options.node_name,
        volumes = agent.caches.locals.len(),
        "the agent's caches are filled"
    );
    synced();
    let orders = controller("orders", Orders(Arc::clone(&agent)), &agent.queues.orders, ORDER_WORKERS);
    let disks = controller("disks", Bases::new(Arc::clone(&agent)), &agent.queues.disks, DISK_WORKERS);
    let static_disks = controller("static disks", StaticDisks::new(Arc::clone(&agent)), &agent.queues.static_disks, 1);
    let report = controller("report", Reports::new(Arc::clone(&agent)), &agent.queues.report, 1);
    // One of them that dies is noticed: the role ends with it.
    let stop = stop.child_token();
    tokio::join!(
        ended(orders.run(stop.clone()), &stop),
        ended(disks.run(stop.clone()), &stop),
        ended(static_disks.run(stop.clone()), &stop),
        ended(report.run(stop.clone()), &stop)
    );
}

/// An agent without one of its loops is none.
async fn ended(controller: impl Future<Output = ()>, stop: &CancellationToken) {
    controller.await;
    stop.cancel();
}

fn controller<R: Reconciler>(
    name: &'static str,
    reconciler: R,
    queue: &Arc<Queue<R::Key>>,
    workers: usize,
) -> Controller<R> {
    Controller {
        name,
        reconciler: Arc::new(reconciler),
        queue: Arc::clone(queue),
        workers,
        // No other process works on the disks of this node.
        leadership: None,
        follower: Follower::Waits,
        resync: RESYNC,
    }
}

/// Starts the watches. They end with the set.
fn watch(watches: &mut JoinSet<()>, agent: &Arc<Agent>) {
    let of_locals = Arc::clone(agent);
    watches.spawn(async move {
        let tell = |news: CacheEvent<Kept<LocalVolume>>| {
            let CacheEvent::Changed(Changed { before, after }) = news else { return };
            if let (Some(gone), None) = (&before, &after) {
                of_locals.attempts().forget(gone.uid());
            }
            if let Some(local) = after {
                of_locals.queues.orders.now(local.name().to_owned());
                if !of_locals.looks().contains_key(&local.spec.base) {
                    of_locals.queues.disks.now(DiskTask::Sweep(local.spec.base.clone()));
                    of_locals.look_soon(&local.spec.base);
                }
            }
        };
        let mine = format!("spec.nodeName={}", of_locals.options.node_name);
        of_locals.caches.locals.watch(of_locals.client.clone(), Some(&mine), CancellationToken::new(), tell).await;
    });
    let of_disks = Arc::clone(agent);
    watches.spawn(async move {
        let tell = |news: CacheEvent<Kept<LocalDisk>>| {
            let CacheEvent::Changed(Changed { before, after }) = news else { return };
            if let (Some(gone), None) = (&before, &after) {
                of_disks.attempts().forget(gone.uid());
            }
            if let Some(disk) = after.or(before) {
                of_disks.queues.static_disks.now(StaticDiskTask::Disk(disk.name().to_owned()));
            }
        };
        let mine = format!("spec.nodeName={}", of_disks.options.node_name);
        of_disks.caches.disks.watch(of_disks.client.clone(), Some(&mine), CancellationToken::new(), tell).await;
    });
    let of_mounts = Arc::clone(agent);
    watches.spawn(async move { disk_changes::follow(&of_mounts).await });
    let of_pools = Arc::clone(agent);
    watches.spawn(async move {
        let tell = |_| {
            of_pools.look_everywhere();
            of_pools.look_at_disks();
        };
        of_pools.caches.pools.watch(of_pools.client.clone(), None, CancellationToken::new(), tell).await;
    });
    let of_node = Arc::clone(agent);
    watches.spawn(async move {
        let tell = |_| {
            of_node.look_everywhere();
            of_node.look_at_disks();
        };
        let own = format!("metadata.name={}", of_node.options.node_name);
        of_node.caches.nodes.watch(of_node.client.clone(), Some(&own), CancellationToken::new(), tell).await;
    });
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
