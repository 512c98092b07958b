//! A webhook of a running cluster: facts from watch caches, a certificate that somebody else renews.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::{Service, Webhook};
use crate::admission::facts::AdmissionFacts;
use crate::admission::service::AdmissionOptions;
use crate::facts::live::{Fetcher, LiveCluster, WatchedPods};
use crate::roles::process::{Process, RoleError};
use crate::runtime::readiness::Part;
use crate::runtime::serve::ConnectionLimits;
use crate::tls::{ClientCheck, CurrentCertificate, MinimumVersion, ServingSource, keep, server_config};

/// How often the readiness report says which lists are still awaited.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How a webhook of a running cluster is set up.
pub struct LiveWebhookOptions {
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
    pub admission: AdmissionOptions,
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
    pub async fn start_live(options: LiveWebhookOptions) -> Result<Self, RoleError> {
        let mut process = Process::new(Some(options.metrics_listen)).await?;
        let cluster = LiveCluster::new(WatchedPods::OnNodes);
        cluster.register(&mut process.registry);
        let fetcher = options.live_get.then(|| Fetcher::new(options.client.clone(), cluster.clone()));
        let stop = process.stop.clone();
        process.spawn("watches", watch(cluster.clone(), options.client, stop.clone()));
        let part = process.readiness.part("caches");
        process.spawn("sync", report_caches(cluster.clone(), part, stop.clone()));
        let current = CurrentCertificate::none_yet();
        let part = process.readiness.part("certificate");
        let metrics = Arc::clone(&process.metrics);
        let following = keep::follow_certificate(
            options.certificate,
            Arc::clone(&current),
            options.look_every,
            part,
            metrics,
            stop,
        );
        process.spawn("certificate", following);
        let service = Service {
            listen: options.listen,
            tls: server_config(current, options.minimum_version, options.clients)?,
            admission: options.admission,
            limits: options.limits,
            shutdown_delay: options.shutdown_delay,
            drain_timeout: options.drain_timeout,
        };
        Self::assemble(service, AdmissionFacts::Live { cluster: Arc::new(cluster), fetcher }, process).await
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
async fn report_caches(cluster: LiveCluster, part: Part, stop: CancellationToken) {
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
