//! `/livez`, `/readyz` and `/metrics`, on a plain port of their own so that trouble with TLS or load restarts nobody.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use super::readiness::Readiness;

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What the routes answer from.
#[derive(Clone, Debug)]
struct Probes {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// The routes.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Probes { readiness, registry })
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

async fn metrics(State(probes): State<Probes>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &probes.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
