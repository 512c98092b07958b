//! One watch a kind: its cache, and a call for everything that changed.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;

use futures::StreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// What happened.
pub(crate) enum Change<'a, K> {
    /// The object came or changed.
    Applied(&'a K),
    /// The object went; this is how it was last.
    Deleted(&'a K),
    /// The cache was filled anew: anything may have come, changed or gone.
    Refilled,
}

/// Watches a kind. The future never ends; it must be polled for the cache to move.
pub(crate) fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    on: impl Fn(Change<'_, K>) + Send + 'static,
) -> (Store<K>, impl Future<Output = ()> + Send)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Debug + Send + Sync,
{
    let (reader, writer) = reflector::store();
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let events = watcher(api, config)
        .default_backoff()
        // Half of a small object's size, and nobody here reads it.
        .modify(|object| object.meta_mut().managed_fields = None)
        .reflect(writer);
    let all = async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => on(Change::Applied(&object)),
                Ok(watcher::Event::Delete(object)) => on(Change::Deleted(&object)),
                // The cache takes the list over as a whole when it is complete.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(watcher::Event::InitDone) => on(Change::Refilled),
                Err(error) => tracing::warn!(kind, %error, "the watch broke off, it is started again"),
            }
        }
    };
    (reader, all)
}
