//! Admission behind TLS: one port for the API server, one for probes, and what keeps both current.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::metrics::AdmissionMetrics;
use super::service::{Choices, CurrentView, View, router};
use crate::runtime::metrics::ServerMetrics;
use crate::runtime::probes;
use crate::runtime::readiness::{Part, Readiness};
use crate::runtime::reload::{Follower, LoadError, Source};
use crate::runtime::serve::{ConnectionLimits, Server, Stages};
use crate::runtime::shutdown::Shutdown;
use crate::tls::{
    Authority, AuthorityError, Certificate, CurrentCertificate, MinimumVersion, PairFiles, server_config,
};

/// How often files are looked at. Kubelet itself takes up to a minute to bring a change of a Secret to a volume.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the age of our own certificate is looked at.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// Where the server certificate comes from.
pub enum CertificateSource {
    /// Our own authority, which renews it.
    Own(Box<Authority>),
    /// Files, which somebody else renews.
    Files(PairFiles),
}

/// How a webhook is set up.
pub struct Setup<S> {
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
    pub choices: Choices,
    /// What bounds connections.
    pub limits: ConnectionLimits,
    /// From the first signal to the end of accepting: time in which clients learn that this server is going.
    pub shutdown_delay: Duration,
    /// Time for requests under way after that.
    pub drain_timeout: Duration,
}

/// Why a webhook did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The facts could not be read.
    #[error("no facts: {0}")]
    Facts(LoadError),
    /// The certificate could not be read.
    #[error("no certificate: {0}")]
    Certificate(LoadError),
    /// No certificate could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A task that must run as long as the server does has ended.
    #[error("a task of the server ended: {0}")]
    TaskEnded(String),
    /// Requests were still under way when the time for them was over, or a second signal came.
    #[error("requests were still under way at the end")]
    Aborted,
}

/// A webhook that listens, and is ready to serve.
pub struct Webhook {
    address: SocketAddr,
    metrics_address: SocketAddr,
    server: Server,
    probes: Server,
    stages: Stages,
    readiness: Readiness,
    listening: Part,
    background: JoinSet<()>,
    stop_background: CancellationToken,
    shutdown_delay: Duration,
    drain_timeout: Duration,
}

impl Webhook {
    /// Reads facts and certificate and listens. Nothing is answered before [`Self::run`].
    ///
    /// # Errors
    /// When anything that is needed is missing or broken: at the start there is no last good version.
    pub async fn start<S>(setup: Setup<S>) -> Result<Self, ServeError>
    where
        S: Source<Loaded = Arc<View>>,
    {
        let (metrics, admission) = (Arc::new(ServerMetrics::default()), AdmissionMetrics::default());
        let mut registry = Registry::with_prefix("latebind");
        metrics.register(&mut registry);
        admission.register(&mut registry);
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let mut background = JoinSet::new();

        let facts = setup.facts;
        let started = tokio::task::spawn_blocking(move || Follower::start("facts", facts)).await;
        let started = started.map_err(|error| ServeError::TaskEnded(error.to_string()))?;
        let (follower, view) = started.map_err(ServeError::Facts)?;
        let view = CurrentView::new(view);
        let put = {
            let view = view.clone();
            move |next| view.replace(next)
        };
        background.spawn(follower.follow(LOOK_EVERY, readiness.part("facts"), metrics.clone(), stop.clone(), put));

        let part = readiness.part("certificate");
        let certificate = certificate(setup.certificate, part, &metrics, &stop, &mut background)?;
        let tls = TlsAcceptor::from(Arc::new(server_config(certificate, setup.minimum_version)?));

        let listening = readiness.part("listener");
        let (listener, address) = listen(setup.listen).await?;
        let (metrics_listener, metrics_address) = listen(setup.metrics_listen).await?;
        let stages = Stages::default();
        let server = Server {
            listener,
            tls: Some(tls),
            router: router(view, setup.choices, admission, Arc::clone(&metrics)),
            limits: setup.limits,
            metrics: Arc::clone(&metrics),
            stages: stages.clone(),
        };
        let probes = Server {
            listener: metrics_listener,
            tls: None,
            router: probes::router(readiness.clone(), Arc::new(registry)),
            limits: ConnectionLimits::probes(),
            metrics,
            stages: Stages::default(),
        };
        let (shutdown_delay, drain_timeout) = (setup.shutdown_delay, setup.drain_timeout);
        let stop_background = stop;
        Ok(Self {
            address,
            metrics_address,
            server,
            probes,
            stages,
            readiness,
            listening,
            background,
            stop_background,
            shutdown_delay,
            drain_timeout,
        })
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
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let Self { server, probes, stages, readiness, listening, mut background, .. } = self;
        let probe_stages = probes.stages.clone();
        let mut serving = tokio::spawn(server.run());
        let mut probing = tokio::spawn(probes.run());
        listening.ready();
        let ended = tokio::select! {
            () = shutdown.begun() => Ok(()),
            ended = &mut serving => Err(task_ended(ended)),
            ended = &mut probing => Err(task_ended(ended)),
            // One that never starts is never awaited: there are always the facts.
            Some(ended) = background.join_next() => Err(task_ended(ended)),
        };
        readiness.stop();
        stages.leaving.cancel();
        let result = if ended.is_ok() {
            let delay = sleep(self.shutdown_delay);
            tokio::select! { () = delay => (), () = shutdown.aborted() => () }
            tracing::info!("draining");
            stages.draining.cancel();
            let drained = tokio::select! {
                drained = timeout(self.drain_timeout, &mut serving) => drained.is_ok(),
                () = shutdown.aborted() => false,
            };
            if drained { Ok(()) } else { Err(ServeError::Aborted) }
        } else {
            ended
        };
        stages.draining.cancel();
        stages.dropping.cancel();
        self.stop_background.cancel();
        probe_stages.draining.cancel();
        probe_stages.dropping.cancel();
        background.shutdown().await;
        result
    }
}

fn task_ended(ended: Result<(), tokio::task::JoinError>) -> ServeError {
    ServeError::TaskEnded(ended.map_or_else(|error| error.to_string(), |()| "without an error".to_owned()))
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Gets the first certificate and starts what keeps it current.
fn certificate(
    source: CertificateSource,
    part: Part,
    metrics: &Arc<ServerMetrics>,
    stop: &CancellationToken,
    background: &mut JoinSet<()>,
) -> Result<Arc<CurrentCertificate>, ServeError> {
    let put = |current: &Arc<CurrentCertificate>| {
        let (current, metrics) = (Arc::clone(current), Arc::clone(metrics));
        move |next: Certificate| {
            metrics.certificate_expires(next.expires());
            current.replace(next);
        }
    };
    match source {
        CertificateSource::Files(files) => {
            let (follower, first) = Follower::start("certificate", files).map_err(ServeError::Certificate)?;
            metrics.certificate_expires(first.expires());
            let current = CurrentCertificate::new(first);
            let put = put(&current);
            background.spawn(follower.follow(LOOK_EVERY, part, Arc::clone(metrics), stop.clone(), put));
            Ok(current)
        }
        CertificateSource::Own(authority) => {
            let first = authority.issue(OffsetDateTime::now_utc())?;
            metrics.certificate_expires(first.expires());
            let current = CurrentCertificate::new(first.clone());
            background.spawn(renew(authority, first, part, stop.clone(), put(&current)));
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
