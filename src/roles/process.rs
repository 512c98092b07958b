//! What every role does alike: probes and metrics, tasks that must not end, and an end in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::runtime::metrics::ServerMetrics;
use crate::runtime::probes;
use crate::runtime::readiness::Readiness;
use crate::runtime::reload::LoadError;
use crate::runtime::serve::{ConnectionLimits, OwnThread, Server, Stages};
use crate::runtime::shutdown::Shutdown;
use crate::tls::AuthorityError;

/// Why a role did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
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
    #[error("cannot listen on {address}: {source}; choose another address by {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that says which.
        flag: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system has no thread for probes.
    #[error("cannot start a thread for probes: {0}")]
    Thread(io::Error),
    /// A task that must run as long as the process does has ended.
    #[error("the task `{0}` has ended; that is a bug, and the process cannot go on without it")]
    TaskEnded(&'static str),
    /// Requests were still under way when the time for them was over, or a second signal came.
    #[error("requests were still under way at the end")]
    Aborted,
    /// The same of work.
    #[error("work under way did not end in time and was dropped; it goes on at the next start")]
    Unfinished,
}

/// A listener, and the address that it has.
pub(super) async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), RoleError> {
    let failed = |source| RoleError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

type Task = (&'static str, JoinHandle<()>);

/// What a role is put together from, and how it ends.
pub struct Process {
    /// What is counted.
    pub registry: Registry,
    /// What is counted about connections, part of the registry.
    pub metrics: Arc<ServerMetrics>,
    /// What the probes say.
    pub readiness: Readiness,
    /// Cancelled when the tasks are to end.
    pub stop: CancellationToken,
    tasks: Vec<Task>,
    probes: Option<(TcpListener, SocketAddr)>,
}

impl Process {
    /// A process without tasks, that has taken the address for probes and metrics: none where another role of the process
    /// has them.
    ///
    /// # Errors
    /// When somebody else has the address.
    pub async fn new(metrics_listen: Option<SocketAddr>) -> Result<Self, RoleError> {
        let probes = match metrics_listen {
            Some(address) => Some(listen(address, "--metrics-listen").await?),
            None => None,
        };
        let mut registry = Registry::with_prefix("latebind");
        let metrics = Arc::new(ServerMetrics::default());
        metrics.register(&mut registry);
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        Ok(Self { registry, metrics, readiness, stop, tasks: Vec::new(), probes })
    }

    /// The address for probes and metrics.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(|(_, address)| *address)
    }

    /// Starts a task that must run until [`Self::stop`], and that then ends by itself.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push((name, tokio::spawn(task)));
    }

    /// Runs until the shutdown begins or a task ends, and then ends in order: unready at once; whoever is served leaves,
    /// as `leave` has it; the tasks end, in no more than `drain`; probes answer until the last moment.
    ///
    /// `leave` is told whether there is time to be polite, and answers whether all was finished.
    ///
    /// # Errors
    /// When a task ended by itself, or something had to be dropped at the end.
    pub async fn run_until_shutdown<L>(
        self,
        shutdown: &Shutdown,
        leave: impl FnOnce(bool) -> L,
        drain: Duration,
    ) -> Result<(), RoleError>
    where
        L: Future<Output = bool>,
    {
        let Self { registry, metrics, readiness, stop, mut tasks, probes } = self;
        let probes = match probes {
            Some((listener, _)) => Some(start_probes(listener, &readiness, registry, metrics)?),
            None => None,
        };
        let probes_ended = async {
            match &probes {
                Some(probes) => probes.ended().await,
                None => std::future::pending().await,
            }
        };
        let died = tokio::select! {
            () = shutdown.begun() => None,
            name = first_to_end(&mut tasks) => Some(name),
            () = probes_ended => Some("probes"),
        };
        readiness.stop();
        let left = leave(died.is_none()).await;
        stop.cancel();
        let finished = tokio::select! {
            () = shutdown.aborted() => false,
            ended = tokio::time::timeout(drain, all_end(&mut tasks)) => ended.is_ok(),
        };
        for (_, task) in &tasks {
            task.abort();
        }
        if let Some(probes) = probes {
            probes.end().await;
        }
        match died {
            Some(name) => Err(RoleError::TaskEnded(name)),
            None if !left => Err(RoleError::Aborted),
            None if !finished => Err(RoleError::Unfinished),
            None => Ok(()),
        }
    }
}

/// Waits until a task ends that is to run as long as the process.
async fn first_to_end(tasks: &mut Vec<Task>) -> &'static str {
    if tasks.is_empty() {
        std::future::pending::<()>().await;
    }
    let (ended, index, _) = futures::future::select_all(tasks.iter_mut().map(|(_, task)| task)).await;
    let (name, _) = tasks.remove(index);
    match ended {
        Ok(()) => tracing::error!(name, "a task has ended"),
        Err(error) => tracing::error!(name, %error, "a task has died"),
    }
    name
}

async fn all_end(tasks: &mut [Task]) {
    for (name, task) in tasks {
        if let Err(error) = task.await {
            tracing::error!(name, %error, "a task has died");
        }
    }
}

/// Serves probes and metrics, on a thread of their own.
fn start_probes(
    listener: TcpListener,
    readiness: &Readiness,
    registry: Registry,
    metrics: Arc<ServerMetrics>,
) -> Result<OwnThread, RoleError> {
    let server = Server {
        listener,
        tls: None,
        router: probes::router(readiness.clone(), registry, Arc::clone(&metrics)),
        limits: ConnectionLimits::probes(),
        metrics,
        stages: Stages::default(),
    };
    OwnThread::start(server).map_err(RoleError::Thread)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);

    async fn process() -> Process {
        Process::new(None).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_ends_when_it_is_told_to_and_its_tasks_have_ended() {
        let mut process = process().await;
        let (stop, readiness) = (process.stop.clone(), process.readiness.clone());
        process.spawn("work", async move { stop.cancelled().await });
        let shutdown = Shutdown::new();
        shutdown.begin();
        assert!(process.run_until_shutdown(&shutdown, ready, DRAIN).await.is_ok());
        assert!(!readiness.report().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_by_itself_ends_the_role() {
        let mut process = process().await;
        let stop = process.stop.clone();
        process.spawn("work", async move { stop.cancelled().await });
        process.spawn("watches", async {});
        let ended = process.run_until_shutdown(&Shutdown::new(), |polite| ready(!polite), DRAIN).await;
        assert!(matches!(ended, Err(RoleError::TaskEnded("watches"))), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_dropped_and_said() {
        let mut process = process().await;
        process.spawn("work", std::future::pending());
        let shutdown = Shutdown::new();
        shutdown.begin();
        let ended = process.run_until_shutdown(&shutdown, ready, DRAIN).await;
        assert!(matches!(ended, Err(RoleError::Unfinished)), "{ended:?}");
    }
}
