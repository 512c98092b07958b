//! Probes and metrics of a process that serves nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::runtime::metrics::ServerMetrics;
use crate::runtime::probes;
use crate::runtime::readiness::Readiness;
use crate::runtime::serve::{ConnectionLimits, Server, Stages};

/// Where probes and scrapes connect; nothing where another role of the process has them.
pub struct Probing {
    listener: Option<TcpListener>,
    metrics: Arc<ServerMetrics>,
}

/// It serves.
pub struct Served {
    stages: Stages,
    task: Option<JoinHandle<()>>,
}

impl Probing {
    /// Takes the address.
    ///
    /// # Errors
    /// When somebody else has it.
    pub async fn bind(address: Option<SocketAddr>, registry: &mut Registry) -> anyhow::Result<Self> {
        let listener = match address {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address}; choose another --metrics-listen"))?,
            ),
        };
        let metrics = Arc::new(ServerMetrics::default());
        metrics.register(registry);
        Ok(Self { listener, metrics })
    }

    /// The address that was taken.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// Answers from now on.
    pub fn start(self, readiness: &Readiness, registry: Registry) -> Served {
        let stages = Stages::default();
        let task = self.listener.map(|listener| {
            let server = Server {
                listener,
                tls: None,
                router: probes::router(readiness.clone(), Arc::new(registry)),
                limits: ConnectionLimits::probes(),
                metrics: self.metrics,
                stages: stages.clone(),
            };
            tokio::spawn(server.run())
        });
        Served { stages, task }
    }
}

impl Served {
    /// Ends it.
    pub async fn end(self) {
        self.stages.draining.cancel();
        self.stages.dropping.cancel();
        if let Some(task) = self.task {
            drop(task.await);
        }
    }
}
