//! Starts the watches and the workers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::api::ApiError;
use super::context::{Context, Disposed, Key, Options, Stores};
use super::events::Events;
use super::follow::{Change, follow};
use super::queue::Queue;
use super::{claims, volumes};
use crate::crd::LocalVolume;
use crate::model::{Claim, Volume};

/// How soon something is tried again after the API server failed or refused a write.
const RETRY: Duration = Duration::from_secs(1);
/// Everything is looked at again this often, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(300);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the controller until the token is cancelled. Only one process of a cluster may do so at a time.
///
/// # Errors
/// When a cache cannot be kept any more.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) -> Result<(), kube::Error> {
    let queue = Arc::new(Queue::new());
    let disposed = Arc::new(Disposed::default());
    let (events, writing) = Events::start(client.clone());
    let (stores, mut tasks) = watch(&client, &queue, &disposed);
    tasks.push(Box::pin(writing));
    let workers = options.workers;
    let context = Arc::new(Context {
        client,
        options,
        stores,
        queue: Arc::clone(&queue),
        events,
        disposed,
        promised: std::sync::Mutex::default(),
        waiting: std::sync::Mutex::default(),
        said: std::sync::Mutex::default(),
    });
    let mut running = tokio::task::JoinSet::new();
    for task in tasks {
        running.spawn(task);
    }
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = ready(&context.stores) => {}
    }
    tracing::info!("the provisioner's caches are filled");
    for _ in 0..workers {
        let context = Arc::clone(&context);
        running.spawn(async move {
            loop {
                work(&context).await;
            }
        });
    }
    let resync = Arc::clone(&context);
    running.spawn(async move {
        loop {
            tokio::time::sleep(RESYNC).await;
            resync.queue.push(Key::Everything);
        }
    });
    everything(&context);
    shutdown.cancelled().await;
    Ok(())
}

fn watch(client: &Client, queue: &Arc<Queue<Key>>, disposed: &Arc<Disposed>) -> (Stores, Vec<Task>) {
    fn config() -> watcher::Config {
        watcher::Config::default()
    }
    let mut tasks: Vec<Task> = Vec::new();
    let push = Arc::clone(queue);
    let (locals, task) = {
        let disposed = Arc::clone(disposed);
        follow(Api::<LocalVolume>::all(client.clone()), config(), move |change| on_local(&push, &disposed, &change))
    };
    tasks.push(Box::pin(task));
    let push = Arc::clone(queue);
    let known = locals.clone();
    let (claims, task) =
        follow(Api::<Claim>::all(client.clone()), config(), move |change| on_claim(&push, &known, &change));
    tasks.push(Box::pin(task));
    let push = Arc::clone(queue);
    let known = locals.clone();
    let (volumes, task) =
        follow(Api::<Volume>::all(client.clone()), config(), move |change| on_volume(&push, &known, &change));
    tasks.push(Box::pin(task));

    let waiting = |claims: &Store<Claim>| {
        let (queue, claims) = (Arc::clone(queue), claims.clone());
        move || {
            for claim in claims.state().iter().filter(|claim| claim.volume_name().is_none()) {
                queue.push(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
            }
        }
    };
    let again = waiting(&claims);
    let (classes, task) = follow(Api::all(client.clone()), config(), move |_| again());
    tasks.push(Box::pin(task));
    let again = waiting(&claims);
    let (pools, task) = follow(Api::all(client.clone()), config(), move |_| again());
    tasks.push(Box::pin(task));
    let again = waiting(&claims);
    let (reports, task) = follow(Api::all(client.clone()), config(), move |_| again());
    tasks.push(Box::pin(task));
    // Kubelets write their Nodes all the time; claims that wait for one look again by themselves.
    let (nodes, task) = follow(Api::all(client.clone()), config(), |_| {});
    tasks.push(Box::pin(task));
    (Stores { claims, classes, volumes, nodes, pools, reports, locals }, tasks)
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
        Change::Refilled => return queue.push(Key::Everything),
    };
    if local.spec.disposal.is_none() {
        disposed.remove(local.name());
    }
    let claim = &local.spec.claim;
    queue.push(Key::Claim(claim.namespace.clone(), claim.name.clone()));
    queue.push(Key::Local(local.name().to_owned()));
    queue.push(Key::Volume(super::volume_name(&claim.uid)));
}

fn on_claim(queue: &Queue<Key>, locals: &Store<LocalVolume>, change: &Change<'_, Claim>) {
    let (Change::Applied(claim) | Change::Deleted(claim)) = change else { return queue.push(Key::Everything) };
    queue.push(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    // A bound claim says nothing new about its directory before it goes.
    if claim.volume_name().is_none() || matches!(change, Change::Deleted(_)) {
        for local in locals.state() {
            if claim.metadata.uid.as_deref() == Some(local.spec.claim.uid.as_str()) {
                queue.push(Key::Local(local.name().to_owned()));
            }
        }
    }
}

fn on_volume(queue: &Queue<Key>, locals: &Store<LocalVolume>, change: &Change<'_, Volume>) {
    let (Change::Applied(volume) | Change::Deleted(volume)) = change else { return queue.push(Key::Everything) };
    queue.push(Key::Volume(volume.name().to_owned()));
    if volume.status.phase == "Released" || matches!(change, Change::Deleted(_)) {
        let uid = volume.spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref());
        for local in locals.state() {
            if uid == Some(local.spec.claim.uid.as_str()) {
                queue.push(Key::Local(local.name().to_owned()));
            }
        }
    }
}

/// Waits until every cache has been filled once.
async fn ready(stores: &Stores) {
    let all = tokio::join!(
        stores.claims.wait_until_ready(),
        stores.classes.wait_until_ready(),
        stores.volumes.wait_until_ready(),
        stores.nodes.wait_until_ready(),
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
    for claim in context.stores.claims.state() {
        context.queue.push(Key::Claim(claim.namespace().to_owned(), claim.name().to_owned()));
    }
    for local in context.stores.locals.state() {
        context.queue.push(Key::Local(local.name().to_owned()));
    }
    for volume in context.stores.volumes.state() {
        context.queue.push(Key::Volume(volume.name().to_owned()));
    }
}

async fn work(context: &Context) {
    let key = context.queue.pop().await;
    let again = match look(context, &key).await {
        Ok(again) => again,
        Err(error) => {
            if !error.is_conflict() {
                tracing::warn!(?key, %error, "trying again");
            }
            Some(RETRY)
        }
    };
    context.queue.done(&key);
    if let Some(delay) = again {
        context.queue.push_later(key, delay);
    }
}

async fn look(context: &Context, key: &Key) -> Result<Option<Duration>, ApiError> {
    match key {
        Key::Everything => {
            everything(context);
            Ok(None)
        }
        Key::Claim(namespace, name) => match context.stores.claims.get(&ObjectRef::new(name).within(namespace)) {
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
    }
}
