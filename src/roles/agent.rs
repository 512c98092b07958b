//! The role `agent`: the directories of one node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use super::process::{Process, RoleError};
use crate::agent::{self, AgentMetrics, Caches};
use crate::runtime::shutdown::Shutdown;

/// How long orders under way may take to end: a few system calls and one call to the API server. What is cut short goes
/// on at the next start.
const DRAIN: Duration = Duration::from_secs(10);

/// How the agent is set up.
pub struct AgentOptions {
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
pub async fn run_agent(options: AgentOptions, shutdown: Shutdown) -> Result<(), RoleError> {
    let AgentOptions { client, options, metrics_listen } = options;
    let mut process = Process::new(metrics_listen).await?;
    let metrics = AgentMetrics::default();
    metrics.register(&mut process.registry);
    let caches = Arc::<Caches>::default();
    caches.register(&mut process.registry);
    let orders = process.readiness.part("orders");
    tracing::info!(node = options.node_name, bases = %options.bases, "running");
    let stop = process.stop.clone();
    process.spawn("agent", async move {
        Box::pin(agent::run(client, options, caches, metrics, || orders.ready(), stop)).await;
        drop(orders);
    });
    process.run_until_shutdown(&shutdown, std::future::ready, DRAIN).await
}
