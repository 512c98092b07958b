//! The role `agent`: the directories of one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::probing::Probing;
use crate::agent::{self, AgentMetrics, Caches};
use crate::runtime::readiness::Readiness;
use crate::runtime::shutdown::Shutdown;

/// How long orders under way may take to end: a few system calls and one call to the API server. What is cut short goes
/// on at the next start.
const DRAIN: Duration = Duration::from_secs(10);

/// How the agent is set up.
pub struct AgentSetup {
    /// The cluster.
    pub client: Client,
    /// Which node, and which directories.
    pub options: agent::Options,
    /// Where probes and scrapes connect; nowhere when another role of the process has them.
    pub metrics_listen: Option<SocketAddr>,
}

/// Runs it until the shutdown begins.
///
/// # Errors
/// When an address is taken, the agent has died, or work under way did not end in time.
pub async fn serve(setup: AgentSetup, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut registry = Registry::with_prefix("latebind");
    let probing = Probing::bind(setup.metrics_listen, &mut registry).await?;
    let metrics = AgentMetrics::default();
    metrics.register(&mut registry);
    let caches = Arc::<Caches>::default();
    caches.register(&mut registry);
    let readiness = Readiness::new();
    let orders = readiness.part("orders");
    let served = probing.start(&readiness, registry);

    tracing::info!(node = setup.options.node_name, bases = %setup.options.bases, "running");
    let stop = CancellationToken::new();
    let mut working = {
        let stop = stop.clone();
        tokio::spawn(async move {
            agent::run(setup.client, setup.options, caches, metrics, || orders.ready(), stop).await;
        })
    };
    let died = tokio::select! {
        () = shutdown.begun() => false,
        _ = &mut working => true,
    };
    readiness.stop();
    stop.cancel();
    let ended = died
        || tokio::select! {
            () = shutdown.aborted() => false,
            ended = tokio::time::timeout(DRAIN, working) => ended.is_ok(),
        };
    served.end().await;
    match (died, ended) {
        (true, _) => Err(anyhow!("the agent has ended; that is a bug, and the process cannot go on without it")),
        (_, true) => Ok(()),
        (_, false) => Err(anyhow!("work under way did not end in time and was dropped; it goes on at the next start")),
    }
}
