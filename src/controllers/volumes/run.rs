//! Starts the watches and the loop.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Options, Stores};
use super::events::Events;
use super::live_volumes::LiveVolumes;
use super::metrics::ProvisionMetrics;
use super::reconciler::Volumes;
use super::triggers::Triggers;
use crate::crd::{LocalPool, LocalPoolSpec, PoolNodes, PoolPath};
use crate::facts::live::{LiveCluster, Observer};
use crate::kubernetes::api::in_time;
use crate::kubernetes::controller::{Controller, Follower};
use crate::kubernetes::lease::Leadership;

/// The shortest and the longest time between two attempts to make the pool of the installation.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Everything is looked at again this often, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(300);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The provisioner. It does nothing until [`Provisioner::run`].
pub struct Provisioner {
    volumes: Arc<Volumes>,
    /// Writes events.
    writing: Task,
    leadership: Option<Leadership>,
}

impl Provisioner {
    /// A provisioner that writes while `leadership` allows it; without one it must be the only one of the cluster.
    ///
    /// Claims, volumes, classes, Nodes and Pods are those of `live`, which is to tell [`Provisioner::observer`]. Where it
    /// watches no Pods, no claim is decided about that a Pod which names its node could have a say in.
    #[must_use]
    pub fn new(
        client: Client,
        live: LiveCluster,
        options: Options,
        leadership: Option<Leadership>,
        registry: &mut Registry,
    ) -> Self {
        let metrics = ProvisionMetrics::new();
        metrics.register(registry);
        let (events, writing) = Events::start(client.clone());
        let context = Context {
            client,
            options,
            live,
            stores: Arc::default(),
            queue: Arc::default(),
            events,
            metrics,
            live_volumes: LiveVolumes::default(),
        };
        Self { volumes: Arc::new(Volumes::new(context)), writing: Box::pin(writing), leadership }
    }

    /// Adds what is counted about all the watches of the process to its registry.
    pub fn register_watches(&self, registry: &mut Registry) {
        let stores: Weak<Stores> = Arc::downgrade(&self.volumes.context.stores);
        self.volumes.context.live.register_with(stores, registry);
    }

    /// What is to hear of every change of the facts.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(Triggers(Arc::clone(&self.volumes)))
    }

    /// Tells of a claim, by its UID, whether anything has been made for it. `None` while nobody knows.
    pub fn started(&self) -> impl Fn(&str) -> Option<bool> + Send + Sync + 'static {
        let volumes = Arc::downgrade(&self.volumes);
        move |uid| volumes.upgrade()?.started(uid)
    }

    /// Works until `stop` is cancelled; what is under way then is finished. `synced` is called when all facts are read.
    pub async fn run(self, synced: impl FnOnce(), stop: CancellationToken) {
        let Self { volumes, writing, leadership } = self;
        let mut running = tokio::task::JoinSet::new();
        for task in watch(&volumes).into_iter().chain([writing]) {
            running.spawn(task);
        }
        if stop.run_until_cancelled(ready(&volumes.context)).await.is_none() {
            return;
        }
        volumes.synced.store(true, Ordering::Release);
        tracing::info!("the provisioner's caches are filled");
        synced();
        let controller = Controller {
            name: "volumes",
            reconciler: Arc::clone(&volumes),
            queue: Arc::clone(&volumes.context.queue),
            workers: volumes.context.options.workers,
            leadership: leadership.clone(),
            follower: Follower::Waits,
            resync: RESYNC,
        };
        // The facts move on while the last looks end; each call in them has a deadline.
        tokio::select! {
            () = controller.run(stop.clone()) => {}
            () = keep_pool(&volumes, leadership) => {}
        }
    }
}

/// Makes the pool that the options name: when this process begins to lead, and when the definitions were made anew. In
/// between a person may delete it. Never ends.
async fn keep_pool(volumes: &Volumes, leadership: Option<Leadership>) {
    loop {
        make_pool(&volumes.context, leadership.clone()).await;
        volumes.pools_refilled.notified().await;
    }
}

async fn make_pool(context: &Context, mut leadership: Option<Leadership>) {
    let Some((name, path)) = &context.options.pool else { return };
    let entry =
        PoolNodes { paths: vec![PoolPath { path: path.clone(), ..PoolPath::default() }], ..PoolNodes::default() };
    let pool = LocalPool::new(name, LocalPoolSpec { nodes: vec![entry], ..LocalPoolSpec::default() });
    let pools: Api<LocalPool> = Api::all(context.client.clone());
    let (mut pause, longest) = RETRY;
    loop {
        if let Some(leadership) = &mut leadership
            && leadership.permit().is_none()
        {
            leadership.changed().await;
            continue;
        }
        if context.stores.pools.get(name).is_some() {
            return;
        }
        match in_time(pools.create(&PostParams::default(), &pool)).await {
            Ok(_) => return tracing::info!(pool = name, path, "there was no such pool, it was made"),
            Err(error) if error.is_conflict() => return,
            Err(error) => tracing::warn!(pool = name, %error, "the pool cannot be made, trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(longest);
    }
}

/// The watches that only the provisioner needs. They end when they are dropped.
fn watch(volumes: &Arc<Volumes>) -> [Task; 4] {
    let never = CancellationToken::new;
    let of_locals = Arc::clone(volumes);
    let locals = async move {
        let (triggers, context) = (Triggers(Arc::clone(&of_locals)), &of_locals.context);
        context.stores.locals.watch(context.client.clone(), None, never(), |news| triggers.local(news)).await;
    };
    let of_pools = Arc::clone(volumes);
    let pools = async move {
        let (triggers, context) = (Triggers(Arc::clone(&of_pools)), &of_pools.context);
        context.stores.pools.watch(context.client.clone(), None, never(), |news| triggers.pool(news)).await;
    };
    let of_reports = Arc::clone(volumes);
    let reports = async move {
        let (triggers, context) = (Triggers(Arc::clone(&of_reports)), &of_reports.context);
        context.stores.reports.watch(context.client.clone(), None, never(), |news| triggers.report(news)).await;
    };
    let of_disks = Arc::clone(volumes);
    let disks = async move {
        let (triggers, context) = (Triggers(Arc::clone(&of_disks)), &of_disks.context);
        context.stores.disks.watch(context.client.clone(), None, never(), |news| triggers.disk(news)).await;
    };
    [Box::pin(locals), Box::pin(pools), Box::pin(reports), Box::pin(disks)]
}

/// Waits until every cache has been filled once.
async fn ready(context: &Context) {
    let stores = &context.stores;
    let (pools, reports) = (stores.pools.synced(), stores.reports.synced());
    tokio::join!(context.live.synced(), pools, reports, stores.locals.synced(), stores.disks.synced());
}
