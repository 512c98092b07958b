//! Keeps one store up to date: list, watch, and again after whatever goes wrong.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Config, Error, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::metrics::WatchMetrics;
use super::pacing::{Pacing, paced};
use super::pause::pause;
use super::store::{CacheEvent, Cached, Outcome, Store};
use crate::kubernetes::api::is_served;
use crate::model::OrMalformed;

/// After this many failures in a row a watch begins anew, with a list: the version that it holds on to may be one that
/// the API server refuses with an HTTP error, which the library's watcher would repeat forever.
const FAILURES_BEFORE_NEW_LIST: u32 = 8;
/// Pause before a kind is asked for again that the API server does not serve: an administrator may turn it on.
const NOT_SERVED_PAUSE: Duration = Duration::from_secs(60);
/// A watch is ended by the server after this many seconds, and given up 5 s later if that answer never comes.
const WATCH_SECONDS: u32 = 240;

/// Watches one kind until cancelled, and tells of every change.
pub(super) async fn keep<K: Cached>(
    client: Client,
    store: &Store<K>,
    fields: Option<&str>,
    metrics: WatchMetrics,
    stop: CancellationToken,
    mut tell: impl FnMut(CacheEvent<K>),
) {
    let pacing = Pacing::default();
    let client = paced(client, pacing.clone(), metrics.clone());
    let mut streaming = true;
    let mut failures = 0_u32;
    // Ends only by cancellation: each turn is one watcher, from list to whatever made it useless.
    loop {
        let api: Api<OrMalformed<K>> = Api::all(client.clone());
        let mut events = pin!(watcher(api, config(streaming, fields)));
        loop {
            let Some(Some(event)) = stop.run_until_cancelled(events.next()).await else { return };
            match event {
                Ok(event) => {
                    failures = 0;
                    take(store, event, &metrics, &mut tell);
                }
                Err(error) if K::MAY_BE_MISSING && is_not_served::<K>(&client, &error).await => {
                    store.not_served();
                    if stop.run_until_cancelled(tokio::time::sleep(NOT_SERVED_PAUSE)).await.is_none() {
                        return;
                    }
                    break;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    metrics.failed();
                    pacing.failed();
                    if streaming && lacks_streaming_lists(&error) {
                        tracing::debug!(kind = metrics.kind(), "the API server has no streaming lists");
                        streaming = false;
                        break;
                    }
                    report(&metrics, failures, &error);
                    let pause = pause(failures);
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    if failures.is_multiple_of(FAILURES_BEFORE_NEW_LIST) {
                        break;
                    }
                }
            }
        }
    }
}

fn take<K: Cached>(
    store: &Store<K>,
    event: watcher::Event<OrMalformed<K>>,
    metrics: &WatchMetrics,
    tell: &mut impl FnMut(CacheEvent<K>),
) {
    metrics.heard();
    match store.apply(event) {
        Outcome::Changed(change) => change.into_iter().map(CacheEvent::Changed).for_each(tell),
        Outcome::Listed(gone) => gone.into_iter().map(CacheEvent::Changed).chain([CacheEvent::Listed]).for_each(tell),
        Outcome::Cut { name, change } => {
            metrics.malformed();
            tracing::warn!(kind = metrics.kind(), %name, "an object is too large, and in part not known");
            tell(CacheEvent::Changed(change));
        }
        Outcome::Malformed { name, error, gone } => {
            metrics.malformed();
            tracing::warn!(kind = metrics.kind(), %name, error, "an object could not be read and counts as not known");
            gone.into_iter().map(CacheEvent::Changed).for_each(tell);
        }
    }
}

fn config(streaming: bool, fields: Option<&str>) -> Config {
    let config = Config::default().timeout(WATCH_SECONDS);
    let config = if streaming { config.streaming_lists() } else { config };
    match fields {
        Some(fields) => config.fields(fields),
        None => config,
    }
}

/// True for the answer of an API server that refuses `sendInitialEvents`: an invalid request.
fn lacks_streaming_lists(error: &Error) -> bool {
    match error {
        Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 422),
        Error::WatchError(status) => matches!(status.code, 400 | 422),
        _ => false,
    }
}

/// True where the API server has no such kind. Whoever has no right to it is refused before that is looked at, and finds out
/// by what everybody may ask: which kinds there are.
async fn is_not_served<K: Cached>(client: &Client, error: &Error) -> bool {
    match error {
        Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 404 || (status.code == 403 && is_served::<K::Kind>(client).await == Some(false))
        }
        _ => false,
    }
}

fn report(metrics: &WatchMetrics, failures: u32, error: &Error) {
    // A watch that ends and begins again is everyday life; one that does not is worth a line.
    if failures == 2 || failures.is_multiple_of(16) {
        tracing::warn!(kind = metrics.kind(), failures, error = %describe(error), "watching fails");
    } else {
        tracing::debug!(kind = metrics.kind(), failures, error = %describe(error), "watching failed");
    }
}

/// The error without the object that an API server may have put into its answer.
fn describe(error: &Error) -> String {
    let text = error.to_string();
    text.chars().take(300).collect()
}
