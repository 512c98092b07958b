//! `latebind run`: the long-running roles in a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::binding::Rules;
use crate::cluster::live::{LiveCluster, WatchedPods};
use crate::rescue::{Controller, Setup};
use crate::runtime::lease::{Contender, LeaseTerms};
use crate::runtime::logs::{self, LogFormat};
use crate::runtime::metrics::ServerMetrics;
use crate::runtime::probes;
use crate::runtime::readiness::{Part, Readiness};
use crate::runtime::serve::{ConnectionLimits, Server, Stages};
use crate::runtime::shutdown::Shutdown;

/// Namespace of the Lease where neither a flag nor the Pod's own namespace says otherwise.
const NAMESPACE: &str = "latebind-system";
/// A connection to an API server that does not come about in this time is tried again.
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than a watch may be silent, so that only a dead connection ends by it.
const READ: Duration = Duration::from_secs(295);
/// How long work under way may take to end: one write of 5 s, and giving the Lease back.
const DRAIN: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
Examples:
  # See what would be done in the cluster of your kubeconfig, and write nothing:
  latebind run --role controller --dry-run

  # In a Pod, as one of several replicas:
  latebind run --role controller --metrics-listen 0.0.0.0:9444";

/// Run a role of latebind in a cluster until a signal ends it.
///
/// The controller mends claims of Pods that name their node and are stuck already: it selects the node of a claim whose
/// volume is still to be made, or reserves a volume that exists. Of several replicas one writes; a Lease says which.
///
/// SIGTERM or Ctrl-C ends it politely, a second one at once.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// What to do: controller.
    #[arg(long, value_name = "ROLE", required = true, env = "LATEBIND_ROLE", hide_env = true)]
    role: Vec<Role>,

    /// Kubeconfig file; by default $KUBECONFIG, ~/.kube/config, or the Pod's own service account.
    #[arg(long, value_name = "FILE", env = "LATEBIND_KUBECONFIG", hide_env = true)]
    kubeconfig: Option<PathBuf>,

    /// Write nothing, and say in the log what would be written.
    #[arg(long, env = "LATEBIND_DRY_RUN", hide_env = true)]
    dry_run: bool,

    /// Namespace of the Lease by which one of several replicas leads; by default that of the Pod.
    #[arg(long, value_name = "NAME", env = "LATEBIND_LEASE_NAMESPACE", hide_env = true)]
    lease_namespace: Option<String>,

    /// Name of the Lease.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "latebind-controller",
        env = "LATEBIND_LEASE_NAME",
        hide_env = true
    )]
    lease_name: String,

    /// Address to serve probes and metrics at, without TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9444",
        env = "LATEBIND_METRICS_LISTEN",
        hide_env = true
    )]
    metrics_listen: SocketAddr,

    /// Form of the log: text or json.
    #[arg(
        long,
        value_name = "FORM",
        default_value = "text",
        env = "LATEBIND_LOG_FORMAT",
        hide_env = true,
        help_heading = "Process"
    )]
    log_format: LogFormat,

    /// Least level of the log, or a list of target=level.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "LATEBIND_LOG",
        hide_env = true,
        help_heading = "Process"
    )]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Mends claims of Pods that are stuck already
    Controller,
}

/// Runs the roles until a signal ends them.
///
/// # Errors
/// When the cluster cannot be reached at the start, an address is taken, or an essential task has died.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    logs::init(args.log_format, &args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args.clone()))
}

async fn serve(args: RunArgs) -> anyhow::Result<Exit> {
    let RunArgs { role, kubeconfig, dry_run, lease_namespace, lease_name, metrics_listen, .. } = args;
    tracing::debug!(?role, "roles");
    let shutdown = Shutdown::on_signals()?;
    let config = config(kubeconfig).await?;
    let namespace = lease_namespace.unwrap_or_else(own_namespace);
    let client = Client::try_from(config).context("cannot make a client of the API server")?;
    let listener = TcpListener::bind(metrics_listen)
        .await
        .with_context(|| format!("cannot listen on {metrics_listen}; choose another --metrics-listen"))?;
    let address = listener.local_addr()?;

    let mut registry = Registry::with_prefix("latebind");
    let server_metrics = Arc::new(ServerMetrics::default());
    server_metrics.register(&mut registry);
    let live = LiveCluster::new(WatchedPods::Pending);
    live.register(&mut registry);
    let identity = identity();
    let contender = (!dry_run).then(|| {
        let terms = LeaseTerms::new(namespace.clone(), lease_name.clone(), identity.clone());
        Contender::new(client.clone(), terms)
    });
    if let Some(contender) = &contender {
        contender.register(&mut registry);
    }
    let setup = Setup {
        client: client.clone(),
        live: live.clone(),
        rules: Rules::default(),
        leadership: contender.as_ref().map(Contender::leadership),
        instance: identity.clone(),
    };
    let controller = Controller::new(setup, &mut registry);

    let readiness = Readiness::new();
    let facts = readiness.part("facts");
    let stages = Stages::default();
    let probes = Server {
        listener,
        tls: None,
        router: probes::router(readiness.clone(), Arc::new(registry)),
        limits: ConnectionLimits::probes(),
        metrics: server_metrics,
        stages: stages.clone(),
    };
    let probing = tokio::spawn(probes.run());

    let stop = CancellationToken::new();
    tracing::info!(metrics = %address, identity, dry_run, lease = format!("{namespace}/{lease_name}"), "running");
    let mut tasks = start(client, &live, controller, contender, facts, &stop);
    let died = tokio::select! {
        () = shutdown.begun() => None,
        name = first_to_end(&mut tasks) => Some(name),
    };
    readiness.stop();
    stop.cancel();
    let ended = tokio::select! {
        () = shutdown.aborted() => false,
        ended = tokio::time::timeout(DRAIN, all_end(tasks)) => ended.is_ok(),
    };
    stages.draining.cancel();
    stages.dropping.cancel();
    drop(probing.await);
    match died {
        Some(name) => {
            Err(anyhow!("the task `{name}` has ended; that is a bug, and the process cannot go on without it"))
        }
        None if ended => {
            tracing::info!("ended");
            Ok(Exit::Clean)
        }
        None => Err(anyhow!("work under way did not end in time and was dropped")),
    }
}

/// Starts what runs as long as the process.
fn start(
    client: Client,
    live: &LiveCluster,
    controller: Controller,
    contender: Option<Contender>,
    facts: Part,
    stop: &CancellationToken,
) -> [Task; 4] {
    let observer = controller.observer();
    let watching = {
        let (live, stop) = (live.clone(), stop.clone());
        async move { Ok(live.run(client, observer, stop).await?) }
    };
    let syncing = {
        let (live, stop) = (live.clone(), stop.clone());
        async move {
            if stop.run_until_cancelled(live.synced()).await.is_some() {
                facts.ready();
                tracing::info!("all facts are read");
            }
            // Dropped, the part would say that this task has died.
            stop.cancelled().await;
            drop(facts);
            Ok(())
        }
    };
    let leading = {
        let stop = stop.clone();
        async move {
            match contender {
                Some(contender) => contender.run(stop).await,
                None => stop.cancelled().await,
            }
            Ok(())
        }
    };
    let working = {
        let stop = stop.clone();
        async move {
            controller.run(stop).await;
            Ok(())
        }
    };
    [
        ("watches", tokio::spawn(watching)),
        ("sync", tokio::spawn(syncing)),
        ("lease", tokio::spawn(leading)),
        ("rescue", tokio::spawn(working)),
    ]
}

type Task = (&'static str, tokio::task::JoinHandle<anyhow::Result<()>>);

/// Waits until a task ends that is to run as long as the process.
async fn first_to_end(tasks: &mut [Task]) -> &'static str {
    let (ended, index, _) = futures::future::select_all(tasks.iter_mut().map(|(_, task)| task)).await;
    let name = tasks[index].0;
    match ended {
        Ok(Ok(())) => tracing::error!(name, "a task has ended"),
        Ok(Err(error)) => tracing::error!(name, %error, "a task has died"),
        Err(error) => tracing::error!(name, %error, "a task has died"),
    }
    name
}

async fn all_end(tasks: [Task; 4]) {
    for (name, task) in tasks {
        if !task.is_finished()
            && let Err(error) = task.await
        {
            tracing::error!(name, %error, "a task has died");
        }
    }
}

/// How to reach the API server. Retries are left to the loops, which know what is worth one.
async fn config(kubeconfig: Option<PathBuf>) -> anyhow::Result<Config> {
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("{} names no cluster that can be reached", path.display()))?
        }
        None => Config::infer().await.context(
            "no cluster is configured: give --kubeconfig, set $KUBECONFIG, or run in a Pod with a service account",
        )?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Ok(config)
}

/// The namespace of the Pod that this process runs in.
fn own_namespace() -> String {
    let of_account = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
    let named = std::env::var("POD_NAMESPACE").ok().or(of_account).map(|name| name.trim().to_owned());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned())
}

/// A name that no other process has, and that tells a person which Pod it is.
fn identity() -> String {
    let named = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let host = if named.is_empty() { "latebind".to_owned() } else { named };
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("{host}_{random:016x}")
}
