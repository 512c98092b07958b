//! Admission behind HTTP: `/mutate` and `/validate`.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use super::facts::{AdmissionFacts, mode_of};
use super::metrics::AdmissionMetrics;
use super::review::{Decision, Request as Review, ReviewError};
use super::{Admission, Exemptions, Hook, Reply, respond_to};
use crate::binding::Rules;
use crate::policy::Mode;
use crate::runtime::metrics::{Bound, ServerMetrics};

/// Longest life of a request: the longest `timeoutSeconds` that a webhook configuration can ask for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub use super::facts::{CurrentView, View};

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
    facts: AdmissionFacts,
    choices: Choices,
    bodies: Bodies,
    metrics: AdmissionMetrics,
    server: Arc<ServerMetrics>,
}

/// The routes. A panic ends its own request with status 500 and nothing else.
pub fn router(
    facts: AdmissionFacts,
    choices: Choices,
    metrics: AdmissionMetrics,
    server: Arc<ServerMetrics>,
) -> Router {
    let panics = Arc::clone(&server);
    let service = Arc::new(Service { facts, bodies: Bodies::new(choices.bodies), choices, metrics, server });
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
    match decide(&service, hook, &body.bytes).await {
        Ok(reply) => {
            service.metrics.answered(hook, &reply.answer, reply.dry_run, begun.elapsed());
            log(hook, &reply);
            ([(CONTENT_TYPE, JSON)], reply.json).into_response()
        }
        Err(error) => service.refuse(hook, StatusCode::BAD_REQUEST, &error),
    }
}

async fn decide(service: &Service, hook: Hook, body: &[u8]) -> Result<Reply, ReviewError> {
    let request = Review::parse(body)?;
    let choices = &service.choices;
    let view = service.facts.view_for(&request, &choices.exemptions).await;
    let mode = mode_of(&*view, &request.namespace, choices.mode);
    let admission = Admission { view: &*view, rules: &choices.rules, mode, exemptions: &choices.exemptions };
    respond_to(hook, &request, &admission)
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
        Decision::Rewritten | Decision::Selected | Decision::Announced | Decision::Denied | Decision::Warned => {
            tracing::debug!(
                hook,
                uid = ?reply.uid,
                dry_run,
                decision,
                code = answer.code.map(crate::binding::Code::as_str),
                "answered"
            );
        }
        Decision::Ignored | Decision::Exempt | Decision::Clean => {
            tracing::trace!(hook, uid = ?reply.uid, dry_run, decision, "answered");
        }
    }
}
