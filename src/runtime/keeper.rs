//! The process around certificate renewal: probes, metrics, the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::metrics::ServerMetrics;
use super::probes;
use super::readiness::Readiness;
use super::serve::{ConnectionLimits, Server, Stages};
use super::shutdown::Shutdown;
use crate::tls::renewal::Terms;
use crate::tls::store::{Places, Renewal, RenewalMetrics};

/// How it is set up.
pub struct KeeperSetup {
    /// The cluster.
    pub client: Client,
    /// Where probes and scrapes connect; nowhere when another role of the process has them.
    pub probes: Option<SocketAddr>,
    /// How often certificates are looked at.
    pub every: Duration,
    /// Where they are.
    pub places: Places,
    /// For how long they last.
    pub terms: Terms,
}

/// Why it did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The address of the probes could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The task ended.
    #[error("the renewal of certificates ended by itself: {0}")]
    Ended(String),
}

/// Keeps certificates current, and answers probes meanwhile.
pub struct CertificateKeeper {
    renewal: Renewal,
    every: Duration,
    readiness: Readiness,
    probes: Option<Server>,
}

impl CertificateKeeper {
    /// Listens for probes.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(setup: KeeperSetup) -> Result<Self, KeeperError> {
        let (server, renewals) = (Arc::new(ServerMetrics::default()), RenewalMetrics::default());
        let mut registry = Registry::with_prefix("latebind");
        server.register(&mut registry);
        renewals.register(&mut registry);
        let readiness = Readiness::new();
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
        let instance = instance.unwrap_or_else(|_| format!("pid-{}", std::process::id()));
        let renewal = Renewal::new(setup.client, setup.places, setup.terms, &instance, renewals);
        let probes = match setup.probes {
            None => None,
            Some(address) => {
                let failed = |source| KeeperError::Listen { address, source };
                Some(Server {
                    listener: TcpListener::bind(address).await.map_err(failed)?,
                    tls: None,
                    router: probes::router(readiness.clone(), Arc::new(registry)),
                    limits: ConnectionLimits::probes(),
                    metrics: server,
                    stages: Stages::default(),
                })
            }
        };
        Ok(Self { renewal, every: setup.every, readiness, probes })
    }

    /// Runs until the shutdown begins.
    ///
    /// # Errors
    /// When renewal ended by itself.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), KeeperError> {
        let Self { renewal, every, readiness, probes } = self;
        let part = readiness.part("renewal");
        let stages = probes.as_ref().map(|server| server.stages.clone()).unwrap_or_default();
        let probing = probes.map(|server| tokio::spawn(server.run()));
        let stop = stages.dropping.clone();
        let mut task = tokio::spawn(async move { renewal.run(every, stop).await });
        part.ready();
        let outcome = tokio::select! {
            () = shutdown.begun() => Ok(()),
            ended = &mut task => {
                Err(KeeperError::Ended(ended.map_or_else(|error| error.to_string(), |()| "without an error".to_owned())))
            }
        };
        readiness.stop();
        stages.draining.cancel();
        stages.dropping.cancel();
        if outcome.is_ok() {
            // A write under way has its own timeout.
            drop(task.await);
        }
        if let Some(probing) = probing {
            drop(probing.await);
        }
        outcome
    }
}
