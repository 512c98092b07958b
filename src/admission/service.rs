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
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::body::{BodyBudget, BodyLimits, BufferedBody};
use super::facts::AdmissionFacts;
use super::metrics::AdmissionMetrics;
use super::respond::{Hook, Reply, respond_to};
use super::review::{Decision, Request as Review, ReviewError};
use super::subject::{Admission, GuardOptions};
use crate::binding::Rules;
use crate::model::PROVISIONER;
use crate::policy::{Exemptions, Mode};
use crate::runtime::metrics::{Bound, ServerMetrics};

/// Longest life of a request: the longest `timeoutSeconds` that a webhook configuration can ask for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Reviews up to this size are answered where they are read: they take a millisecond at most. Larger ones go to a thread
/// of the blocking pool, a few at a time, so that small ones never wait for them.
const SMALL: usize = 64 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub use super::facts::{CurrentView, View};

/// What an administrator chose about admission.
#[derive(Clone, Debug)]
pub struct AdmissionOptions {
    /// How decisions are made.
    pub rules: Rules,
    /// Names of provisioners that are latebind's to serve: claims of their classes are told so when they are created.
    pub provisioners: Vec<String>,
    /// How far they go.
    pub mode: Mode,
    /// What they leave out.
    pub exemptions: Exemptions,
    /// What bounds request bodies.
    pub bodies: BodyLimits,
    /// Whether answers name what is known of the cluster.
    pub details: bool,
    /// How drain policies are kept to; nothing where nobody is held up by them.
    pub guard: Option<GuardOptions>,
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            provisioners: vec![PROVISIONER.to_owned()],
            mode: Mode::default(),
            exemptions: Exemptions::default(),
            bodies: BodyLimits::reviews(),
            details: true,
            guard: Some(GuardOptions::default()),
        }
    }
}

struct Service {
    facts: AdmissionFacts,
    options: AdmissionOptions,
    bodies: BodyBudget,
    metrics: AdmissionMetrics,
    server: Arc<ServerMetrics>,
    /// Large reviews that are read and decided at one time.
    large: Arc<Semaphore>,
}

/// One thread in two, so that there is always one for small reviews.
fn large_at_one_time() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| (threads.get() / 2).max(1))
}

/// The routes. A panic ends its own request with status 500 and nothing else.
pub fn router(
    facts: AdmissionFacts,
    options: AdmissionOptions,
    metrics: AdmissionMetrics,
    server: Arc<ServerMetrics>,
) -> Router {
    let panics = Arc::clone(&server);
    let large = Arc::new(Semaphore::new(large_at_one_time()));
    let service = Arc::new(Service { facts, bodies: BodyBudget::new(options.bodies), options, metrics, server, large });
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
    let decided =
        if body.bytes.len() <= SMALL { small(&service, hook, &body).await } else { large(&service, hook, body).await };
    match decided {
        Ok(reply) => {
            service.metrics.answered(hook, &reply.answer, reply.dry_run, begun.elapsed());
            log(hook, &reply);
            ([(CONTENT_TYPE, JSON)], reply.json).into_response()
        }
        Err(error) => service.refuse(hook, StatusCode::BAD_REQUEST, &error),
    }
}

async fn small(service: &Service, hook: Hook, body: &BufferedBody) -> Result<Reply, ReviewError> {
    let request = Review::parse(&body.bytes)?;
    let view = service.facts.view();
    // Taken out first: what borrows the view is not to be held while something is awaited.
    let missing = service.facts.missing(&request, &service.admission(&*view));
    let view = match missing {
        Some(missing) => service.facts.view_with(missing).await,
        None => view,
    };
    respond_to(hook, &request, &service.admission(&*view))
}

/// The same away from the threads that serve. What is missing is looked at in between, while nothing is held but the body,
/// which is then read once more.
async fn large(service: &Arc<Service>, hook: Hook, body: BufferedBody) -> Result<Reply, ReviewError> {
    let body = Arc::new(body);
    let first = {
        let (service, body) = (Arc::clone(service), Arc::clone(&body));
        move || {
            let request = Review::parse(&body.bytes)?;
            let view = service.facts.view();
            let admission = service.admission(&*view);
            match service.facts.missing(&request, &admission) {
                Some(missing) => Ok(Err(missing)),
                None => respond_to(hook, &request, &admission).map(Ok),
            }
        }
    };
    let missing = match service.compute(first).await? {
        Ok(reply) => return Ok(reply),
        Err(missing) => missing,
    };
    let view = service.facts.view_with(missing).await;
    let again = Arc::clone(service);
    service.compute(move || respond_to(hook, &Review::parse(&body.bytes)?, &again.admission(&*view))).await
}

impl Service {
    fn admission<'a>(&'a self, view: &'a View) -> Admission<'a> {
        let AdmissionOptions { rules, provisioners, exemptions, guard, mode, details, bodies: _ } = &self.options;
        let (mode, details, guard, now) = (*mode, *details, guard.as_ref(), Timestamp::now());
        Admission { view, rules, provisioners, mode, exemptions, details, guard, now }
    }

    /// Runs what takes milliseconds of CPU on a thread where it holds up nobody. Who waits for a place holds a body, so
    /// their number is bounded by the room for bodies. A panic goes on here.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.large).acquire_owned().await.ok();
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            // Held by the work, not by who waits for it: a client that goes away makes no room for another.
            drop(permit);
            done
        });
        match done.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is being shut down, and nothing is answered any more.
                Err(_) => std::future::pending().await,
            },
        }
    }

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
        Decision::Rewritten
        | Decision::Selected
        | Decision::Announced
        | Decision::Held
        | Decision::Denied
        | Decision::Warned => {
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
