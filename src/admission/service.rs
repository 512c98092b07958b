//! Admission behind HTTP: `/mutate` and `/validate`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::body::{Bodies, BodyLimits};
use super::metrics::AdmissionMetrics;
use super::review::Decision;
use super::{Admission, Exemptions, Hook, Reply, respond};
use crate::binding::{ClusterView, Rules};
use crate::policy::Mode;
use crate::runtime::metrics::{Bound, ServerMetrics};

/// Longest life of a request: the longest `timeoutSeconds` that a webhook configuration can ask for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Facts that several threads may ask.
pub type View = dyn ClusterView + Send + Sync;

/// The facts in use, and their replacement while requests are answered. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct CurrentView(Arc<ArcSwap<Arc<View>>>);

impl CurrentView {
    /// Starts with some facts.
    #[must_use]
    pub fn new(first: Arc<View>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// Puts others in their place. A review that is under way ends with those that it began with.
    pub fn replace(&self, next: Arc<View>) {
        self.0.store(Arc::new(next));
    }
}

impl fmt::Debug for CurrentView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentView")
    }
}

/// What an administrator chose about admission.
#[derive(Clone, Debug)]
pub struct Choices {
    /// How decisions are made.
    pub rules: Rules,
    /// How far they go.
    pub mode: Mode,
    /// What they leave out.
    pub exemptions: Exemptions,
    /// What bounds request bodies.
    pub bodies: BodyLimits,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            mode: Mode::default(),
            exemptions: Exemptions::default(),
            bodies: BodyLimits::reviews(),
        }
    }
}

struct Service {
    view: CurrentView,
    choices: Choices,
    bodies: Bodies,
    metrics: AdmissionMetrics,
    server: Arc<ServerMetrics>,
}

/// The routes. A panic ends its own request with status 500 and nothing else.
pub fn router(view: CurrentView, choices: Choices, metrics: AdmissionMetrics, server: Arc<ServerMetrics>) -> Router {
    let panics = Arc::clone(&server);
    let service = Arc::new(Service { view, bodies: Bodies::new(choices.bodies), choices, metrics, server });
    Router::new()
        .route("/mutate", post(|State(service), request| review(service, Hook::Mutate, request)))
        .route("/validate", post(|State(service), request| review(service, Hook::Validate, request)))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /mutate and /validate\n"))
        .with_state(service)
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .layer(CatchPanicLayer::custom(move |_: Box<dyn Any + Send>| {
            panics.panicked();
            (StatusCode::INTERNAL_SERVER_ERROR, "latebind failed on this request; its log says where\n").into_response()
        }))
}

async fn review(service: Arc<Service>, hook: Hook, request: Request<Body>) -> Response {
    let body = match service.bodies.read(request).await {
        Ok(body) => body,
        Err(error) => {
            let status = error.status();
            if status == StatusCode::SERVICE_UNAVAILABLE {
                service.server.shed(Bound::bodies);
            }
            return service.refuse(hook, status, &error);
        }
    };
    let begun = Instant::now();
    let view = service.view.0.load();
    let choices = &service.choices;
    let admission =
        Admission { view: &***view, rules: &choices.rules, mode: choices.mode, exemptions: &choices.exemptions };
    match respond(hook, &body.bytes, &admission) {
        Ok(reply) => {
            service.metrics.answered(hook, &reply.answer, reply.dry_run, begun.elapsed());
            log(hook, &reply);
            ([(CONTENT_TYPE, JSON)], reply.json).into_response()
        }
        Err(error) => service.refuse(hook, StatusCode::BAD_REQUEST, &error),
    }
}

impl Service {
    fn refuse(&self, hook: Hook, status: StatusCode, error: &dyn std::error::Error) -> Response {
        self.metrics.refused(hook, status.as_u16());
        tracing::debug!(hook = hook.as_str(), status = status.as_u16(), "no answer");
        let mut response = (status, format!("{error}\n")).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn log(hook: Hook, reply: &Reply) {
    let (answer, hook) = (&reply.answer, hook.as_str());
    let (decision, dry_run) = (answer.decision.as_str(), reply.dry_run);
    // The UID leads to the API server's audit log, which has the object.
    match answer.decision {
        Decision::Unreadable => tracing::warn!(
            hook,
            uid = ?reply.uid,
            dry_run,
            trouble = answer.trouble.as_deref(),
            "an object that cannot be read is left to the API server"
        ),
        Decision::Rewritten | Decision::Selected | Decision::Denied | Decision::Warned => tracing::debug!(
            hook,
            uid = ?reply.uid,
            dry_run,
            decision,
            code = answer.code.map(crate::binding::Code::as_str),
            "answered"
        ),
        Decision::Ignored | Decision::Exempt | Decision::Clean => {
            tracing::trace!(hook, uid = ?reply.uid, dry_run, decision, "answered");
        }
    }
}
