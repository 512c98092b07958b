//! Watches that end at once: a proxy or a server that closes each watch as soon as it stands, without an error.
//!
//! The library begins such a watch again at once, since nothing has failed, and asks thousands of times a second. So the
//! pauses between two watches of one kind are kept here, where every request goes by.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response};
use futures::future::BoxFuture;
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::metrics::WatchMetrics;
use super::pause::{nominal, pause};

/// When the last watch of one kind began, and how many of them in a row did not last.
#[derive(Clone, Debug, Default)]
pub(super) struct Pacing(Arc<Mutex<Pace>>);

#[derive(Debug, Default)]
struct Pace {
    /// When the last watch was answered; none where it failed, which is somebody else's to wait for.
    began: Option<Instant>,
    short: u32,
}

impl Pacing {
    /// A watch has failed, and a pause is made for that.
    pub fn failed(&self) {
        self.lock().began = None;
    }

    /// How long the next watch has to wait. One that did not last as long as the pause that would follow it counts as
    /// failed.
    fn before(&self, metrics: &WatchMetrics) -> Duration {
        let mut pace = self.lock();
        let Some(lived) = pace.began.take().map(|began| began.elapsed()) else { return Duration::ZERO };
        let next = pace.short.saturating_add(1);
        if lived >= nominal(next) {
            pace.short = 0;
            return Duration::ZERO;
        }
        pace.short = next;
        metrics.failed();
        if next == 8 {
            tracing::warn!(kind = metrics.kind(), "watches end as soon as they begin; is there a proxy in between?");
        }
        pause(next).saturating_sub(lived)
    }

    fn began(&self, metrics: &WatchMetrics) {
        self.lock().began = Some(Instant::now());
        metrics.stands();
    }

    fn lock(&self) -> MutexGuard<'_, Pace> {
        // No code that holds the lock can leave the pace half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same client, whose watches keep the pace.
pub(super) fn paced(client: Client, pacing: Pacing, metrics: WatchMetrics) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Paced { client, pacing, metrics }, namespace)
}

#[derive(Clone)]
struct Paced {
    client: Client,
    pacing: Pacing,
    metrics: WatchMetrics,
}

impl Service<Request<Body>> for Paced {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The client waits for its own turn in `send`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { client, pacing, metrics } = self.clone();
        let query = request.uri().query().unwrap_or_default();
        let watches = query.split('&').any(|part| matches!(part, "watch=true" | "watch=1"));
        Box::pin(async move {
            if !watches {
                return Ok(client.send(request).await?);
            }
            sleep(pacing.before(&metrics)).await;
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                pacing.began(&metrics);
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::facts::live::store::Store;
    use crate::facts::live::watching::keep;
    use crate::model::Node;
    use tokio_util::sync::CancellationToken;

    /// A server whose streaming list is whole and whose watches end after a while, without a word.
    fn server(lives: Duration, asked: &Arc<AtomicUsize>) -> Client {
        let asked = Arc::clone(asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = Arc::clone(&asked);
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                let first = request.uri().query().unwrap_or_default().contains("sendInitialEvents=true");
                let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Node","apiVersion":"v1","metadata":
                    {"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
                let text = if first { bookmark.replace('\n', "") + "\n" } else { String::new() };
                let body = futures::stream::once(async move {
                    if !first {
                        sleep(lives).await;
                    }
                    Ok::<_, std::io::Error>(axum::body::Bytes::from(text))
                });
                Ok::<_, tower::BoxError>(Response::new(axum::body::Body::from_stream(body)))
            }
        });
        Client::new(service, "default")
    }

    async fn watched_for(lives: Duration, time: Duration) -> (usize, Duration) {
        let asked = Arc::new(AtomicUsize::new(0));
        let (metrics, stop) = (WatchMetrics::new("nodes"), CancellationToken::new());
        let store = Arc::new(Store::<Node>::default());
        let task = {
            let (client, metrics, stop) = (server(lives, &asked), metrics.clone(), stop.clone());
            tokio::spawn(async move { keep(client, &store, None, metrics, stop, |_| {}).await })
        };
        sleep(time).await;
        stop.cancel();
        task.await.unwrap();
        (asked.load(Ordering::SeqCst), metrics.failing_for())
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_end_at_once_count_as_failed() {
        let (asked, failing) = watched_for(Duration::ZERO, Duration::from_secs(120)).await;
        // Half of 5 s at least between two of them, once the pauses have grown.
        assert!((20..70).contains(&asked), "{asked} requests in two minutes");
        assert!(failing > Duration::from_secs(60), "and that it fails is said: {failing:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_last_begin_anew_at_once() {
        let (asked, failing) = watched_for(Duration::from_secs(30), Duration::from_secs(305)).await;
        assert!((10..14).contains(&asked), "{asked} requests in five minutes");
        assert_eq!(failing, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_stands_again_fails_no_more_though_nothing_is_heard() {
        let metrics = WatchMetrics::new("nodes");
        metrics.failed();
        sleep(Duration::from_secs(20)).await;
        // Times are kept in whole milliseconds.
        let seconds = |time: Duration| (time + Duration::from_millis(2)).as_secs();
        assert_eq!(seconds(metrics.failing_for()), 20);
        metrics.stands();
        assert_eq!(seconds(metrics.failing_for()), 20, "it has to last first");
        sleep(Duration::from_secs(6)).await;
        assert_eq!(metrics.failing_for(), Duration::ZERO);
        metrics.failed();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seconds(metrics.failing_for()), 1, "a new failure begins anew");
    }
}
