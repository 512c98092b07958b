//! The role `controller`: stuck claims and certificates, under one Lease.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::probing::Probing;
use crate::binding::Rules;
use crate::cluster::live::{LiveCluster, Observer, WatchedPods};
use crate::provision::{self, Provisioner};
use crate::rescue::{Controller, Setup};
use crate::runtime::lease::{Contender, LeaseTerms};
use crate::runtime::readiness::{Part, Readiness};
use crate::runtime::shutdown::Shutdown;
use crate::tls::renewal::Terms;
use crate::tls::store::{Places, Renewal, RenewalMetrics};

/// How long work under way may take to end: one write of 5 s, and giving the Lease back.
const DRAIN: Duration = Duration::from_secs(15);

/// How the controller is set up.
pub struct ControllerSetup {
    /// The cluster.
    pub client: Client,
    /// Write nothing.
    pub dry_run: bool,
    /// How decisions are made.
    pub rules: Rules,
    /// Namespace and name of the Lease by which one of several replicas leads.
    pub lease: (String, String),
    /// Where probes and scrapes connect; nowhere when another role of the process has them.
    pub metrics_listen: Option<SocketAddr>,
    /// What is kept of certificates; nothing where somebody else does.
    pub certificates: Option<Certificates>,
    /// How volumes are provisioned; not at all where absent.
    pub provisioner: Option<provision::Options>,
}

/// Which certificates are kept current.
pub struct Certificates {
    /// Where they are.
    pub places: Places,
    /// For how long they last.
    pub terms: Terms,
    /// How often they are looked at.
    pub every: Duration,
}

/// Runs it until the shutdown begins.
///
/// # Errors
/// When an address is taken, an essential task has died, or work under way did not end in time.
pub async fn serve(setup: ControllerSetup, shutdown: Shutdown) -> anyhow::Result<()> {
    let ControllerSetup { client, dry_run, rules, lease, metrics_listen, certificates, provisioner } = setup;
    let (namespace, lease_name) = lease;
    let mut registry = Registry::with_prefix("latebind");
    let probing = Probing::bind(metrics_listen, &mut registry).await?;
    let metrics = probing.address().map(tracing::field::display);
    let live = LiveCluster::new(WatchedPods::Pending);
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
        rules,
        leadership: contender.as_ref().map(Contender::leadership),
        instance: identity.clone(),
    };
    let controller = Controller::new(setup, &mut registry);
    let renewal = certificates.filter(|_| !dry_run).map(|Certificates { places, terms, every }| {
        let metrics = RenewalMetrics::default();
        metrics.register(&mut registry);
        let leadership = contender.as_ref().map(Contender::leadership);
        (Renewal::new(client.clone(), places, terms, &identity, metrics), every, leadership)
    });

    let readiness = Readiness::new();
    let facts = readiness.part("facts");
    let provisioning = provisioner.map(|options| {
        let leadership = contender.as_ref().map(Contender::leadership);
        let provisioner = Provisioner::new(client.clone(), live.clone(), options, leadership, &mut registry);
        controller.ask_provisioner(provisioner.started());
        provisioner.register_watches(&mut registry);
        (provisioner, readiness.part("provisioner"))
    });
    if provisioning.is_none() {
        live.register(&mut registry);
    }
    let served = probing.start(&readiness, registry);

    let stop = CancellationToken::new();
    tracing::info!(identity, dry_run, lease = format!("{namespace}/{lease_name}"), metrics, "running");
    let observers: Vec<Arc<dyn Observer>> = std::iter::once(controller.observer())
        .chain(provisioning.as_ref().map(|(provisioner, _)| provisioner.observer()))
        .collect();
    let mut tasks = start(client, &live, (controller, Arc::new(observers)), contender, facts, &stop);
    if let Some((renewal, every, leadership)) = renewal {
        let stop = stop.clone();
        let renewing = async move {
            renewal.run(every, leadership, stop).await;
            Ok(())
        };
        tasks.push(("certificates", tokio::spawn(renewing)));
    }
    if let Some((provisioner, part)) = provisioning {
        let stop = stop.clone();
        let provisioning = async move {
            Box::pin(provisioner.run(|| part.ready(), stop)).await;
            // Dropped, the part would say that this task has died.
            drop(part);
            Ok(())
        };
        tasks.push(("provisioner", tokio::spawn(provisioning)));
    }
    let ended = until_the_end(tasks, &readiness, &stop, &shutdown).await;
    served.end().await;
    ended
}

/// Waits for the shutdown, or for a task that must not end, and then for all of them.
async fn until_the_end(
    mut tasks: Vec<Task>,
    readiness: &Readiness,
    stop: &CancellationToken,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
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
    match died {
        Some(name) => {
            Err(anyhow!("the task `{name}` has ended; that is a bug, and the process cannot go on without it"))
        }
        None if ended => Ok(()),
        None => Err(anyhow!("work under way did not end in time and was dropped")),
    }
}

/// Starts what runs as long as the process.
fn start(
    client: Client,
    live: &LiveCluster,
    (controller, observer): (Controller, Arc<dyn Observer>),
    contender: Option<Contender>,
    facts: Part,
    stop: &CancellationToken,
) -> Vec<Task> {
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
    vec![
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

async fn all_end(tasks: Vec<Task>) {
    for (name, task) in tasks {
        if !task.is_finished()
            && let Err(error) = task.await
        {
            tracing::error!(name, %error, "a task has died");
        }
    }
}

/// A name that no other process has, and that tells a person which Pod it is.
fn identity() -> String {
    let named = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let host = if named.is_empty() { "latebind".to_owned() } else { named };
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("{host}_{random:016x}")
}
