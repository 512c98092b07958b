//! Starts the watches and the workers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::PostParams;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Disposed, Key, Options, Promised, Stores, lock};
use super::events::Events;
use super::metrics::ProvisionMetrics;
use super::volume::LOCAL_VOLUME;
use super::{claims, orphans, volumes};
use crate::cluster::live::{Change as Moved, LiveCluster, Observer};
use crate::crd::{LocalNode, LocalPool, LocalPoolSpec, LocalVolume, PoolNodes, PoolPath};
use crate::model::{Claim, Volume};
use crate::runtime::api::{ApiError, in_time};
use crate::runtime::follow::{Change, follow};
use crate::runtime::lease::Leadership;
use crate::runtime::queue::Queue;

/// How soon something is tried again after the API server failed or refused a write.
const RETRY: Duration = Duration::from_secs(1);
/// Everything is looked at again this often, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(300);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The provisioner. It does nothing until [`Provisioner::run`].
pub struct Provisioner {
    context: Arc<Context>,
    tasks: Vec<Task>,
    leadership: Option<Leadership>,
}

impl Provisioner {
    /// A provisioner that writes while `leadership` allows it; without one it must be the only one of the cluster.
    ///
    /// Claims, volumes, classes and Nodes are those of `live`, which is to tell [`Provisioner::observer`].
    #[must_use]
    pub fn new(
        client: Client,
        live: LiveCluster,
        options: Options,
        leadership: Option<Leadership>,
        registry: &mut Registry,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let disposed = Arc::new(Disposed::default());
        let (promised, pools_refilled) = (Arc::default(), Arc::default());
        let metrics = ProvisionMetrics::new();
        metrics.register(registry);
        let (events, writing) = Events::start(client.clone());
        let (stores, mut tasks) = watch(&client, &live, &queue, &disposed, &promised, &pools_refilled);
        tasks.push(Box::pin(writing));
        let context = Context {
            client,
            options,
            live,
            stores,
            queue,
            events,
            metrics,
            disposed,
            promised,
            choosing: std::sync::Mutex::default(),
            pools_refilled,
            waiting: std::sync::Mutex::default(),
            said: std::sync::Mutex::default(),
            asked: std::sync::Mutex::default(),
            made: std::sync::Mutex::default(),
            synced: AtomicBool::new(false),
        };
        Self { context: Arc::new(context), tasks, leadership }
    }

    /// What is to hear of every change of the facts.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(Feed(Arc::clone(&self.context)))
    }

    /// Tells of a claim, by its UID, whether anything has been made for it. `None` while nobody knows.
    pub fn started(&self) -> impl Fn(&str) -> Option<bool> + Send + Sync + 'static {
        let context = Arc::downgrade(&self.context);
        move |uid| context.upgrade()?.started(uid)
    }

    /// Works until `stop` is cancelled; what is under way then is finished. `synced` is called when all facts are read.
    pub async fn run(self, synced: impl FnOnce(), stop: CancellationToken) {
        let Self { context, tasks, leadership } = self;
        let mut running = tokio::task::JoinSet::new();
        for task in tasks {
            running.spawn(task);
        }
        if stop.run_until_cancelled(ready(&context)).await.is_none() {
            return;
        }
        context.synced.store(true, Ordering::Release);
        tracing::info!("the provisioner's caches are filled");
        synced();
        let missed = Arc::new(AtomicBool::new(false));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..context.options.workers {
            let worker =
                Worker { context: Arc::clone(&context), leadership: leadership.clone(), missed: Arc::clone(&missed) };
            workers.spawn(worker.work(stop.clone()));
        }
        let first = keep_pool(&context, leadership.clone());
        stop.run_until_cancelled(Box::pin(async { tokio::join!(first, resync(&context, leadership, &missed)) })).await;
        // The facts must move on while the last looks end; each call in them has a deadline.
        while workers.join_next().await.is_some() {}
    }
}

/// Makes the pool that the options name: when this process begins to lead, and when the definitions were made anew. In
/// between a person may delete it.
async fn keep_pool(context: &Context, leadership: Option<Leadership>) {
    loop {
        make_pool(context, leadership.clone()).await;
        context.pools_refilled.notified().await;
    }
}

async fn make_pool(context: &Context, mut leadership: Option<Leadership>) {
    let Some((name, path)) = &context.options.pool else { return };
    let entry =
        PoolNodes { paths: vec![PoolPath { path: path.clone(), ..PoolPath::default() }], ..PoolNodes::default() };
    let pool = LocalPool::new(name, LocalPoolSpec { nodes: vec![entry], ..LocalPoolSpec::default() });
    let pools: Api<LocalPool> = Api::all(context.client.clone());
    loop {
        if let Some(leadership) = &mut leadership
            && leadership.permit().is_none()
        {
            leadership.changed().await;
            continue;
        }
        if context.stores.pools.get(&ObjectRef::new(name)).is_some() {
            return;
        }
        match in_time(pools.create(&PostParams::default(), &pool)).await {
            Ok(_) => return tracing::info!(pool = name, path, "there was no such pool, it was made"),
            Err(error) if error.is_conflict() => return,
            Err(error) => tracing::warn!(pool = name, %error, "the pool cannot be made, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Has everything looked at: at first, from time to time, and when this process begins to lead.
async fn resync(context: &Context, mut leadership: Option<Leadership>, missed: &AtomicBool) {
    everything(context);
    let mut leads = false;
    let mut again = tokio::time::interval(RESYNC);
    again.reset();
    loop {
        tokio::select! {
            _ = again.tick() => everything(context),
            () = Leadership::changed_of(leadership.as_mut()) => {
                let now = leadership.as_ref().is_some_and(|leadership| leadership.permit().is_some());
                if now && (missed.swap(false, Ordering::AcqRel) || !leads) {
                    everything(context);
                }
                leads = now;
            }
        }
    }
}

struct Worker {
    context: Arc<Context>,
    leadership: Option<Leadership>,
    /// Something was passed over for want of leave to write.
    missed: Arc<AtomicBool>,
}

impl Worker {
    async fn work(self, stop: CancellationToken) {
        let queue = &self.context.queue;
        while let Some((key, _)) = stop.run_until_cancelled(queue.next()).await {
            let again = self.turn(&key).await;
            queue.done(key, again);
        }
    }

    async fn turn(&self, key: &Key) -> Option<Duration> {
        let looking = look(&self.context, key);
        let looked = match &self.leadership {
            None => looking.await,
            Some(leadership) => {
                let Some(permit) = leadership.permit() else {
                    // Whoever begins to lead looks at everything.
                    self.missed.store(true, Ordering::Release);
                    return None;
                };
                tokio::time::timeout_at(permit.end_before, looking).await.unwrap_or(Err(ApiError::Late))
            }
        };
        looked.unwrap_or_else(|error| {
            if !error.is_conflict() {
                tracing::warn!(?key, %error, "trying again");
                self.context.metrics.retried();
            }
            Some(RETRY)
        })
    }
}

fn watch(
    client: &Client,
    live: &LiveCluster,
    queue: &Arc<Queue<Key>>,
    disposed: &Arc<Disposed>,
    promised: &Arc<Promised>,
    pools_refilled: &Arc<Notify>,
) -> (Stores, Vec<Task>) {
    fn config() -> watcher::Config {
        watcher::Config::default()
    }
    let mut tasks: Vec<Task> = Vec::new();
    let push = Arc::clone(queue);
    let (locals, task) = {
        let (disposed, promised) = (Arc::clone(disposed), Arc::clone(promised));
        follow(Api::<LocalVolume>::all(client.clone()), config(), move |change| {
            match &change {
                Change::Applied(local) | Change::Deleted(local) => drop(lock(&promised).remove(local.name())),
                Change::Refilled => lock(&promised).clear(),
            }
            on_local(&push, &disposed, &change);
        })
    };
    tasks.push(Box::pin(task));
    let waiting = || {
        let (queue, live) = (Arc::clone(queue), live.clone());
        move || waiting_again(&queue, &live)
    };
    let again = waiting();
    let refilled = Arc::clone(pools_refilled);
    let (pools, task) = follow(Api::all(client.clone()), config(), move |change| {
        if matches!(change, Change::Refilled) {
            refilled.notify_one();
        }
        again();
    });
    tasks.push(Box::pin(task));
    let again = waiting();
    let push = Arc::clone(queue);
    let (reports, task) = follow(Api::<LocalNode>::all(client.clone()), config(), move |change| {
        match &change {
            Change::Applied(report) => push.now(Key::Report(report.name_any())),
            Change::Deleted(_) => {}
            Change::Refilled => push.now(Key::Everything),
        }
        again();
    });
    tasks.push(Box::pin(task));
    (Stores { pools, reports, locals }, tasks)
}

/// Has every claim without a volume looked at.
fn waiting_again(queue: &Queue<Key>, live: &LiveCluster) {
    for claim in live.claims().found().iter().flatten().filter(|claim| claim.volume_name().is_none()) {
        queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    }
}

/// Puts what the shared facts tell of into the queue.
struct Feed(Arc<Context>);

impl Observer for Feed {
    fn changed(&self, change: Moved) {
        let Context { queue, live, stores, synced, disposed, made, .. } = &*self.0;
        // What the first lists bring is looked at as a whole.
        if !synced.load(Ordering::Acquire) {
            return;
        }
        match change {
            Moved::Claim(change) => {
                let gone = change.after.is_none();
                if let Some(claim) = change.after.or(change.before) {
                    on_claim(queue, &stores.locals, &claim, gone);
                }
            }
            Moved::Volume(change) => {
                let gone = change.after.is_none();
                if let Some(volume) = change.after.or(change.before) {
                    lock(made).remove(volume.name());
                    // Not sooner: as long as the cache shows the volume, its LocalVolume would be taken for lost and made
                    // again.
                    if let Some(name) = volume.metadata.annotation(LOCAL_VOLUME).filter(|_| gone) {
                        disposed.remove(name);
                    }
                    on_volume(queue, &stores.locals, &volume, gone);
                }
            }
            Moved::Class(_) => waiting_again(queue, live),
            // Kubelets write their Nodes all the time; claims that wait for one look again by themselves.
            Moved::Node(change) => {
                if let (Some(node), None) = (change.before, change.after) {
                    for local in stores.locals.state().iter().filter(|local| local.spec.node_name == node.name()) {
                        queue.now(Key::Local(local.name().to_owned()));
                    }
                }
            }
            Moved::Pod(_) => {}
        }
    }
}

fn on_local(queue: &Queue<Key>, disposed: &Disposed, change: &Change<'_, LocalVolume>) {
    let local = match change {
        Change::Applied(local) => local,
        Change::Deleted(local) => {
            // Gone by the agent's hand, after an order. Any other end leaves the volume to have it made again.
            if local.spec.disposal.is_some() {
                disposed.insert(local.name());
            }
            local
        }
        Change::Refilled => return queue.now(Key::Everything),
    };
    if local.spec.disposal.is_none() {
        disposed.remove(local.name());
    }
    let claim = &local.spec.claim;
    queue.now(Key::Claim(claim.namespace.clone(), claim.name.clone()));
    queue.now(Key::Local(local.name().to_owned()));
    queue.now(Key::Volume(super::volume_name(&claim.uid)));
}

fn on_claim(queue: &Queue<Key>, locals: &Store<LocalVolume>, claim: &Claim, gone: bool) {
    queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    // A bound claim says nothing new about its directory before it goes.
    if claim.volume_name().is_none() || gone {
        for local in locals.state() {
            if claim.metadata.uid.as_deref() == Some(local.spec.claim.uid.as_str()) {
                queue.now(Key::Local(local.name().to_owned()));
            }
        }
    }
}

fn on_volume(queue: &Queue<Key>, locals: &Store<LocalVolume>, volume: &Volume, gone: bool) {
    queue.now(Key::Volume(volume.name().to_owned()));
    if volume.status.phase == "Released" || gone {
        let uid = volume.spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref());
        for local in locals.state() {
            if uid == Some(local.spec.claim.uid.as_str()) {
                queue.now(Key::Local(local.name().to_owned()));
            }
        }
    }
}

/// Waits until every cache has been filled once.
async fn ready(context: &Context) {
    let stores = &context.stores;
    let all = tokio::join!(
        context.live.synced(),
        stores.pools.wait_until_ready(),
        stores.reports.wait_until_ready(),
        stores.locals.wait_until_ready(),
    );
    // An error says that the watch was dropped, which only happens when this whole function is.
    drop(all);
}

/// Asks for a look at everything there is, and forgets what is kept about things that are not.
fn everything(context: &Context) {
    context.tidy();
    for claim in context.all_claims() {
        context.queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    }
    for local in context.stores.locals.state() {
        context.queue.now(Key::Local(local.name().to_owned()));
    }
    for volume in context.all_volumes() {
        context.queue.now(Key::Volume(volume.name().to_owned()));
    }
    for report in context.stores.reports.state() {
        context.queue.now(Key::Report(report.name_any()));
    }
}

async fn look(context: &Context, key: &Key) -> Result<Option<Duration>, ApiError> {
    match key {
        Key::Everything => {
            everything(context);
            Ok(None)
        }
        Key::Claim(namespace, name) => match context.claim(namespace, name) {
            Some(claim) => claims::reconcile(context, claim).await,
            None => Ok(None),
        },
        Key::Local(name) => match context.local(name) {
            Some(local) => volumes::reconcile_local(context, local).await,
            None => Ok(None),
        },
        Key::Volume(name) => match context.volume(name) {
            Some(volume) => volumes::reconcile_volume(context, volume).await,
            None => Ok(None),
        },
        Key::Report(name) => match context.stores.reports.get(&ObjectRef::new(name)) {
            Some(report) => orphans::reconcile(context, report).await,
            None => Ok(None),
        },
    }
}
