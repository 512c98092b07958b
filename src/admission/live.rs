//! A webhook of a running cluster: facts from watch caches, a certificate that somebody else renews.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::facts::AdmissionFacts;
use super::server::{Ground, ServeError, Service, Webhook};
use super::service::Choices;
use crate::cluster::live::{ClaimFetcher, LiveCluster, WatchedPods};
use crate::runtime::readiness::Part;
use crate::runtime::serve::ConnectionLimits;
use crate::tls::{ClientCheck, CurrentCertificate, MinimumVersion, ServingSource, keep, server_config};

/// How often the readiness report says which lists are still awaited.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How a webhook of a running cluster is set up.
pub struct LiveSetup {
    /// Where the API server connects.
    pub listen: SocketAddr,
    /// Where probes and scrapes connect, without TLS.
    pub metrics_listen: SocketAddr,
    /// The cluster.
    pub client: Client,
    /// Whether claims that are not cached are looked at.
    pub live_get: bool,
    /// Where the server certificate comes from.
    pub certificate: ServingSource,
    /// How often that is looked at.
    pub look_every: Duration,
    /// The oldest TLS version that is accepted.
    pub minimum_version: MinimumVersion,
    /// The check of client certificates.
    pub clients: Option<ClientCheck>,
    /// How reviews are answered.
    pub choices: Choices,
    /// What bounds connections.
    pub limits: ConnectionLimits,
    /// From the first signal to the end of accepting.
    pub shutdown_delay: Duration,
    /// Time for requests under way after that.
    pub drain_timeout: Duration,
}

impl Webhook {
    /// Listens at once. It becomes ready when every cache has its first list and there is a certificate.
    ///
    /// # Errors
    /// When an address cannot be listened on, or TLS cannot be set up.
    pub async fn start_live(setup: LiveSetup) -> Result<Self, ServeError> {
        let mut ground = Ground::new();
        let cluster = LiveCluster::new(WatchedPods::None);
        cluster.register(&mut ground.registry);
        let fetcher = setup.live_get.then(|| ClaimFetcher::new(setup.client.clone(), cluster.clone()));
        ground.background.spawn(watch(cluster.clone(), setup.client, ground.stop.clone()));
        ground.background.spawn(announce(cluster.clone(), ground.readiness.part("caches"), ground.stop.clone()));
        let current = CurrentCertificate::none_yet();
        ground.background.spawn(keep::keep(
            setup.certificate,
            Arc::clone(&current),
            setup.look_every,
            ground.readiness.part("certificate"),
            Arc::clone(&ground.metrics),
            ground.stop.clone(),
        ));
        let service = Service {
            listen: setup.listen,
            metrics_listen: setup.metrics_listen,
            tls: server_config(current, setup.minimum_version, setup.clients)?,
            choices: setup.choices,
            limits: setup.limits,
            shutdown_delay: setup.shutdown_delay,
            drain_timeout: setup.drain_timeout,
        };
        Self::assemble(service, AdmissionFacts::Live { cluster: Arc::new(cluster), fetcher }, ground).await
    }
}

async fn watch(cluster: LiveCluster, client: Client, stop: CancellationToken) {
    if let Err(error) = cluster.run(client, Arc::new(()), stop).await {
        // The task ends here, and with it the process: caches that nobody fills grow stale unseen.
        tracing::error!(%error, "a watch ended");
    }
}

/// Says when every cache is filled, and until then what is missing. A watch that breaks later leaves facts that are a
/// little old, which is better than none: the webhook stays ready.
async fn announce(cluster: LiveCluster, part: Part, stop: CancellationToken) {
    loop {
        let missing = cluster.not_synced();
        if missing.is_empty() {
            break;
        }
        part.not_ready(format!("waiting for the first list of {}", missing.join(", ")));
        tokio::select! {
            () = stop.cancelled() => return,
            () = cluster.synced() => {}
            () = tokio::time::sleep(TELL_EVERY) => {}
        }
    }
    part.ready();
    tracing::info!("every cache is filled");
    stop.cancelled().await;
}
