//! `/livez`, `/readyz` and `/metrics`, on a plain port of their own so that trouble with TLS or load restarts nobody.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::metrics::{Bound, ServerMetrics};
use super::readiness::Readiness;

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Scrapes that are written at one time, each on a thread of the blocking pool so that a probe never waits for one: two
/// Prometheus servers, and as many again at the moment of a roll-out. More are told to come again.
const SCRAPES: usize = 4;

/// What the routes answer from.
#[derive(Clone, Debug)]
struct Probes {
    readiness: Readiness,
    registry: Arc<Registry>,
    metrics: Arc<ServerMetrics>,
    scrapes: Arc<Semaphore>,
}

/// The routes.
pub fn router(readiness: Readiness, registry: Registry, metrics: Arc<ServerMetrics>) -> Router {
    let (registry, scrapes) = (Arc::new(registry), Arc::new(Semaphore::new(SCRAPES)));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Probes { readiness, registry, metrics, scrapes })
}

async fn readyz(State(probes): State<Probes>, RawQuery(query): RawQuery) -> Response {
    let report = probes.readiness.report();
    let verbose =
        query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key.starts_with("verbose=")));
    if report.ready {
        if verbose { report.text.into_response() } else { "ok\n".into_response() }
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, report.text).into_response()
    }
}

async fn scrape(State(probes): State<Probes>) -> Response {
    let Ok(permit) = Arc::clone(&probes.scrapes).try_acquire_owned() else {
        probes.metrics.shed(Bound::scrapes);
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at one time\n").into_response();
    };
    let registry = Arc::clone(&probes.registry);
    let written = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode(&mut text, &registry);
        drop(permit);
        written.map(|()| text).map_err(|error| error.to_string())
    });
    match written.await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
