//! Starts the watches and the workers.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Disposed, Key, Options, PROMISE, Stores, UNSEEN, lock};
use super::events::Events;
use super::metrics::ProvisionMetrics;
use super::orphans::ASK;
use super::recent::Recent;
use super::volume::LOCAL_VOLUME;
use super::{claims, orphans, volumes};
use crate::cluster::live::{Change, Changed, LiveCluster, News, Observer};
use crate::crd::{Kept, LocalNode, LocalPool, LocalPoolSpec, LocalVolume, Parted, PoolNodes, PoolPath};
use crate::model::{Claim, Volume};
use crate::runtime::api::{ApiError, in_time};
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
    /// Writes events.
    writing: Task,
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
            disposed: Disposed::default(),
            promised: Recent::new(PROMISE),
            choosing: std::sync::Mutex::default(),
            pools_refilled: Notify::new(),
            waiting: std::sync::Mutex::default(),
            said: std::sync::Mutex::default(),
            asked: Recent::new(ASK),
            made: Recent::new(UNSEEN),
            unbound: std::sync::Mutex::default(),
            synced: AtomicBool::new(false),
        };
        Self { context: Arc::new(context), writing: Box::pin(writing), leadership }
    }

    /// Adds what is counted about all the watches of the process to its registry.
    pub fn register_watches(&self, registry: &mut Registry) {
        let stores: Weak<Stores> = Arc::downgrade(&self.context.stores);
        self.context.live.register_with(stores, registry);
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
        let Self { context, writing, leadership } = self;
        let mut running = tokio::task::JoinSet::new();
        for task in watch(&context).into_iter().chain([writing]) {
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
        if context.stores.pools.get(name).is_some() {
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
        // In a box: most workers have nothing to do at most times, and a look is 17 KiB of state.
        let looking = Box::pin(look(&self.context, key));
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

/// The watches that only the provisioner needs. They end when they are dropped.
fn watch(context: &Arc<Context>) -> [Task; 3] {
    let never = CancellationToken::new;
    let of_locals = Arc::clone(context);
    let locals = async move {
        let tell = |news| match news {
            News::Changed(change) => on_local(&of_locals, change),
            // Promises stay: an order that is under way may be younger than the list.
            News::Listed => of_locals.queue.now(Key::Everything),
        };
        of_locals.stores.locals.watch(of_locals.client.clone(), None, never(), tell).await;
    };
    let of_pools = Arc::clone(context);
    let pools = async move {
        let tell = |news| match news {
            News::Changed(change) if is_new(&change) => waiting_again(&of_pools.queue, &of_pools.live),
            News::Changed(_) => {}
            News::Listed => of_pools.pools_refilled.notify_one(),
        };
        of_pools.stores.pools.watch(of_pools.client.clone(), None, never(), tell).await;
    };
    let of_reports = Arc::clone(context);
    let reports = async move {
        let tell = |news: News<Kept<LocalNode>>| {
            if let News::Changed(change) = news
                && is_new(&change)
            {
                if let Some(report) = change.after {
                    of_reports.queue.now(Key::Report(report.name_any()));
                }
                waiting_again(&of_reports.queue, &of_reports.live);
            }
        };
        of_reports.stores.reports.watch(of_reports.client.clone(), None, never(), tell).await;
    };
    [Box::pin(locals), Box::pin(pools), Box::pin(reports)]
}

/// False for an object that a new list brought as it was.
fn is_new<K: Parted>(change: &Changed<Kept<K>>) -> bool {
    let version = |object: &Option<Arc<Kept<K>>>| object.as_ref().and_then(|it| it.resource_version());
    version(&change.before) != version(&change.after)
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
    fn changed(&self, change: Change) {
        let Context { queue, live, stores, synced, disposed, made, unbound, .. } = &*self.0;
        // What the first lists bring is looked at as a whole.
        if !synced.load(Ordering::Acquire) {
            return;
        }
        match change {
            Change::Claim(change) => {
                let gone = change.after.is_none();
                if let Some(claim) = change.after.or(change.before) {
                    if (gone || claim.volume_name().is_some())
                        && let Some(uid) = &claim.metadata.uid
                    {
                        lock(unbound).remove(uid.as_str());
                    }
                    on_claim(queue, stores, &claim, gone);
                }
            }
            Change::Volume(change) => {
                let gone = change.after.is_none();
                if let Some(volume) = change.after.or(change.before) {
                    made.remove(volume.name());
                    // Not sooner: as long as the cache shows the volume, its LocalVolume would be taken for lost and made
                    // again.
                    if let Some(name) = volume.metadata.annotation(LOCAL_VOLUME).filter(|_| gone) {
                        disposed.remove(name);
                    }
                    on_volume(queue, stores, &volume, gone);
                }
            }
            Change::Class(_) => waiting_again(queue, live),
            // Kubelets write their Nodes all the time; claims that wait for one look again by themselves.
            Change::Node(change) => {
                if let (Some(node), None) = (change.before, change.after) {
                    for local in stores.locals.all().iter().filter(|local| local.spec.node_name == node.name()) {
                        queue.now(Key::Local(local.name().to_owned()));
                    }
                }
            }
            Change::Pod(_) => {}
        }
    }
}

fn on_local(context: &Context, change: Changed<Kept<LocalVolume>>) {
    let Context { queue, disposed, promised, synced, .. } = context;
    let gone = change.after.is_none();
    let Some(local) = change.after.or(change.before) else { return };
    promised.remove(local.name());
    // Gone by the agent's hand, after an order. Any other end leaves the volume to have it made again.
    if gone && local.spec.disposal.is_some() {
        disposed.insert(local.name());
    }
    if local.spec.disposal.is_none() {
        disposed.remove(local.name());
    }
    // What the first list brings is looked at as a whole.
    if synced.load(Ordering::Acquire) {
        let claim = &local.spec.claim;
        queue.now(Key::Claim(claim.namespace.clone(), claim.name.clone()));
        queue.now(Key::Local(local.name().to_owned()));
        queue.now(Key::Volume(super::volume_name(&claim.uid)));
    }
}

fn on_claim(queue: &Queue<Key>, stores: &Stores, claim: &Claim, gone: bool) {
    queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    // A bound claim says nothing new about its directory before it goes.
    if claim.volume_name().is_none() || gone {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        for local in stores.locals.find(&uid) {
            queue.now(Key::Local(local.name().to_owned()));
        }
    }
}

fn on_volume(queue: &Queue<Key>, stores: &Stores, volume: &Volume, gone: bool) {
    queue.now(Key::Volume(volume.name().to_owned()));
    if volume.status.phase == "Released" || gone {
        let uid = volume.spec.claim_ref.as_ref().and_then(|reference| reference.uid.clone()).unwrap_or_default();
        for local in stores.locals.find(&uid) {
            queue.now(Key::Local(local.name().to_owned()));
        }
    }
}

/// Waits until every cache has been filled once.
async fn ready(context: &Context) {
    let stores = &context.stores;
    tokio::join!(context.live.synced(), stores.pools.synced(), stores.reports.synced(), stores.locals.synced());
}

/// Asks for a look at everything there is, and forgets what is kept about things that are not.
fn everything(context: &Context) {
    context.tidy();
    for claim in context.all_claims() {
        context.queue.now(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    }
    for local in context.stores.locals.all() {
        context.queue.now(Key::Local(local.name().to_owned()));
    }
    for volume in context.all_volumes() {
        context.queue.now(Key::Volume(volume.name().to_owned()));
    }
    for report in context.stores.reports.all() {
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
        Key::Report(name) => match context.stores.reports.get(name) {
            Some(report) => orphans::reconcile(context, report).await,
            None => Ok(None),
        },
    }
}
