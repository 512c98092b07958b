//! The role `webhook`: admission behind TLS, and what keeps its facts and its certificate current.

pub mod live;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::process::{Process, RoleError, listen};
use crate::admission::facts::{AdmissionFacts, CurrentView, View};
use crate::admission::metrics::AdmissionMetrics;
use crate::admission::service::{AdmissionOptions, router};
use crate::runtime::readiness::Part;
use crate::runtime::reload::{Follower, Source};
use crate::runtime::serve::{ConnectionLimits, Server, Stages};
use crate::runtime::shutdown::Shutdown;
use crate::tls::{Authority, Certificate, CurrentCertificate, MinimumVersion, PairFiles, server_config};

/// How often files are looked at. Kubelet itself takes up to a minute to bring a change of a Secret to a volume.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the age of our own certificate is looked at.
const RENEW_EVERY: Duration = Duration::from_secs(3600);
/// How long what keeps facts and certificate current may take to end: it writes nothing.
const DRAIN: Duration = Duration::from_secs(1);

/// Where the server certificate comes from.
pub enum CertificateSource {
    /// Our own authority, which renews it.
    Own(Box<Authority>),
    /// Files, which somebody else renews.
    Files(PairFiles),
}

/// How a webhook that serves from files is set up.
pub struct WebhookOptions<S> {
    /// Where the API server connects.
    pub listen: SocketAddr,
    /// Where probes and scrapes connect, without TLS.
    pub metrics_listen: SocketAddr,
    /// What is known of the cluster.
    pub facts: S,
    /// The server certificate.
    pub certificate: CertificateSource,
    /// The oldest TLS version that is accepted.
    pub minimum_version: MinimumVersion,
    /// How reviews are answered.
    pub admission: AdmissionOptions,
    /// What bounds connections.
    pub limits: ConnectionLimits,
    /// From the first signal to the end of accepting: time in which clients learn that this server is going.
    pub shutdown_delay: Duration,
    /// Time for requests under way after that.
    pub drain_timeout: Duration,
}

/// How a webhook listens, answers and ends.
struct Service {
    listen: SocketAddr,
    tls: rustls::ServerConfig,
    admission: AdmissionOptions,
    limits: ConnectionLimits,
    shutdown_delay: Duration,
    drain_timeout: Duration,
}

/// A webhook that listens, and is ready to serve.
pub struct Webhook {
    address: SocketAddr,
    metrics_address: SocketAddr,
    process: Process,
    server: Server,
    listening: Part,
    shutdown_delay: Duration,
    drain_timeout: Duration,
}

impl Webhook {
    /// Reads facts and certificate and listens. Nothing is answered before [`Self::run`].
    ///
    /// # Errors
    /// When anything that is needed is missing or broken: at the start there is no last good version.
    pub async fn start<S>(options: WebhookOptions<S>) -> Result<Self, RoleError>
    where
        S: Source<Loaded = Arc<View>>,
    {
        let mut process = Process::new(Some(options.metrics_listen)).await?;
        let facts = options.facts;
        let started = tokio::task::spawn_blocking(move || Follower::start("facts", facts)).await;
        let started = started.map_err(|_| RoleError::TaskEnded("facts"))?;
        let (follower, view) = started.map_err(RoleError::Facts)?;
        let view = CurrentView::new(view);
        let put = {
            let view = view.clone();
            move |next| view.replace(next)
        };
        let part = process.readiness.part("facts");
        let (metrics, stop) = (Arc::clone(&process.metrics), process.stop.clone());
        process.spawn("facts", follower.follow(LOOK_EVERY, part, metrics, stop, put));
        let part = process.readiness.part("certificate");
        let certificate = certificate(options.certificate, part, &mut process)?;
        let service = Service {
            listen: options.listen,
            tls: server_config(certificate, options.minimum_version, None)?,
            admission: options.admission,
            limits: options.limits,
            shutdown_delay: options.shutdown_delay,
            drain_timeout: options.drain_timeout,
        };
        Self::assemble(service, AdmissionFacts::Fixed(view), process).await
    }

    /// Listens. What keeps facts and certificate current runs already.
    async fn assemble(service: Service, facts: AdmissionFacts, mut process: Process) -> Result<Self, RoleError> {
        let metrics_address = process.metrics_address().unwrap_or(service.listen);
        let admission = AdmissionMetrics::default();
        admission.register(&mut process.registry);
        let listening = process.readiness.part("listener");
        let (listener, address) = listen(service.listen, "--listen").await?;
        let metrics = Arc::clone(&process.metrics);
        let server = Server {
            listener,
            tls: Some(TlsAcceptor::from(Arc::new(service.tls))),
            router: router(facts, service.admission, admission, Arc::clone(&metrics)),
            limits: service.limits,
            metrics,
            stages: Stages::default(),
        };
        let Service { shutdown_delay, drain_timeout, .. } = service;
        Ok(Self { address, metrics_address, process, server, listening, shutdown_delay, drain_timeout })
    }

    /// Where the API server connects.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where probes connect.
    #[must_use]
    pub const fn metrics_address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// Serves until the shutdown begins, and then as long as it takes to leave politely:
    /// unready at once, serving on for the delay, then finishing what is under way.
    ///
    /// # Errors
    /// When a part of the server ended by itself, or requests had to be dropped at the end.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RoleError> {
        let Self { mut process, server, listening, shutdown_delay, drain_timeout, .. } = self;
        let (stages, drained) = (server.stages.clone(), CancellationToken::new());
        let all_served = drained.clone();
        process.spawn("admission", async move {
            listening.ready();
            server.run().await;
            all_served.cancel();
            drop(listening);
        });
        let ended = shutdown.clone();
        let leave = |polite: bool| async move {
            stages.leaving.cancel();
            if !polite {
                stages.draining.cancel();
                stages.dropping.cancel();
                return false;
            }
            tokio::select! { () = sleep(shutdown_delay) => (), () = ended.aborted() => () }
            tracing::info!("draining");
            stages.draining.cancel();
            let finished = tokio::select! {
                drained = timeout(drain_timeout, drained.cancelled()) => drained.is_ok(),
                () = ended.aborted() => false,
            };
            stages.dropping.cancel();
            finished
        };
        process.run_until_shutdown(&shutdown, leave, DRAIN).await
    }
}

/// Gets the first certificate and starts what keeps it current.
fn certificate(
    source: CertificateSource,
    part: Part,
    process: &mut Process,
) -> Result<Arc<CurrentCertificate>, RoleError> {
    let (metrics, stop) = (Arc::clone(&process.metrics), process.stop.clone());
    let put = |current: &Arc<CurrentCertificate>| {
        let (current, metrics) = (Arc::clone(current), Arc::clone(&metrics));
        move |next: Certificate| {
            metrics.certificate_expires(next.expires());
            current.replace(next);
        }
    };
    match source {
        CertificateSource::Files(files) => {
            let (follower, first) = Follower::start("certificate", files).map_err(RoleError::Certificate)?;
            metrics.certificate_expires(first.expires());
            let current = CurrentCertificate::new(first);
            let put = put(&current);
            process.spawn("certificate", follower.follow(LOOK_EVERY, part, metrics, stop, put));
            Ok(current)
        }
        CertificateSource::Own(authority) => {
            let first = authority.issue(OffsetDateTime::now_utc())?;
            metrics.certificate_expires(first.expires());
            let current = CurrentCertificate::new(first.clone());
            process.spawn("certificate", renew(authority, first, part, stop, put(&current)));
            Ok(current)
        }
    }
}

async fn renew(
    authority: Box<Authority>,
    mut current: Certificate,
    part: Part,
    stop: CancellationToken,
    put: impl Fn(Certificate),
) {
    part.ready();
    while stop.run_until_cancelled(sleep(RENEW_EVERY)).await.is_some() {
        let now = OffsetDateTime::now_utc();
        if !Authority::is_due(&current, now) {
            continue;
        }
        match authority.issue(now) {
            Ok(next) => {
                put(next.clone());
                current = next;
                part.ready();
                tracing::info!("renewed the server certificate");
            }
            Err(error) => {
                tracing::error!(%error, "could not renew the server certificate");
                part.ready_but(format!("not renewed: {error}"));
            }
        }
    }
}
