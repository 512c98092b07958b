//! The role `controller`: stuck claims, volumes and certificates, under one Lease.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio_util::sync::CancellationToken;

use super::process::{Process, RoleError};
use crate::binding::Rules;
use crate::controllers::lost_nodes::{LostNodes, LostNodesOptions};
use crate::controllers::parameter::{Parameter, ParameterOptions};
use crate::controllers::policies::{Policies, PoliciesOptions};
use crate::controllers::rescue::{Rescue, RescueOptions};
use crate::controllers::volumes::{Options as ProvisionerOptions, Provisioner};
use crate::drain::lost::Patience;
use crate::facts::live::{LiveCluster, Observer, WatchedPods};
use crate::kubernetes::lease::{Contender, Leadership, LeaseTerms};
use crate::policy::RescuePolicy;
use crate::runtime::readiness::Part;
use crate::runtime::shutdown::Shutdown;
use crate::tls::renewal::Lifetimes;
use crate::tls::store::{CertificateObjects, Renewal, RenewalMetrics};

/// How long work under way may take to end: one write of 5 s, and giving the Lease back.
const DRAIN: Duration = Duration::from_secs(15);

/// How the controller is set up.
pub struct ControllerOptions {
    /// The cluster.
    pub client: Client,
    /// Write nothing.
    pub dry_run: bool,
    /// How decisions are made.
    pub rules: Rules,
    /// How far the rescue loop goes where.
    pub policy: RescuePolicy,
    /// Namespace and name of the Lease by which one of several replicas leads.
    pub lease: (String, String),
    /// Where probes and scrapes connect; nowhere when another role of the process has them.
    pub metrics_listen: Option<SocketAddr>,
    /// What is kept of certificates; nothing where somebody else does.
    pub certificates: Option<CertificateOptions>,
    /// Keep the parameter of the admission policies.
    pub policy_parameter: bool,
    /// What is done about claims whose node is gone; nothing where absent.
    pub lost_nodes: Option<LostNodesTerms>,
    /// How volumes are provisioned; not at all where absent.
    pub provisioner: Option<ProvisionerOptions>,
}

/// What is done about claims whose node is gone.
#[derive(Clone, Copy, Debug)]
pub struct LostNodesTerms {
    /// Claims may be let go, where a policy says so.
    pub may_unbind: bool,
    /// How patient it is.
    pub patience: Patience,
}

/// Which certificates are kept current.
pub struct CertificateOptions {
    /// Where they are.
    pub places: CertificateObjects,
    /// For how long they last.
    pub terms: Lifetimes,
    /// How often they are looked at.
    pub every: Duration,
}

/// Runs it until the shutdown begins.
///
/// # Errors
/// When an address is taken, an essential task has died, or work under way did not end in time.
pub async fn run_controller(options: ControllerOptions, shutdown: Shutdown) -> Result<(), RoleError> {
    let ControllerOptions {
        client,
        dry_run,
        rules,
        policy,
        lease,
        metrics_listen,
        certificates,
        policy_parameter,
        lost_nodes,
        provisioner,
    } = options;
    let (namespace, name) = lease;
    let mut process = Process::new(metrics_listen).await?;
    let watched = if policy_parameter { WatchedPods::PendingAndOnNodes } else { WatchedPods::Pending };
    let live = LiveCluster::new(watched);
    let identity = identity();
    let contender = (!dry_run).then(|| {
        let terms = LeaseTerms::new(namespace.clone(), name.clone(), identity.clone());
        Contender::new(client.clone(), terms)
    });
    if let Some(contender) = &contender {
        contender.register(&mut process.registry);
    }
    let leadership = contender.as_ref().map(Contender::leadership);
    let shared = Shared { client: client.clone(), live: live.clone(), leadership: leadership.clone() };
    let mut observers = vec![shared.spawn_policies(&mut process, &rules, &policy)];
    if policy_parameter {
        observers.push(shared.spawn_parameter(&mut process, &rules, &policy));
    }
    if let Some(terms) = lost_nodes {
        observers.push(shared.spawn_lost_nodes(&mut process, terms, &policy, &identity));
    }
    let rescue = RescueOptions {
        client: client.clone(),
        live: live.clone(),
        rules,
        policy,
        leadership: leadership.clone(),
        instance: identity.clone(),
    };
    let rescue = Rescue::new(rescue, &mut process.registry);
    let metrics = process.metrics_address().map(tracing::field::display);
    tracing::info!(identity, dry_run, lease = format!("{namespace}/{name}"), metrics, "running");

    let facts = process.readiness.part("facts");
    let contender = contender.map(|contender| contender.telling(process.readiness.part("lease")));
    observers.push(rescue.observer());
    match provisioner {
        Some(options) => {
            let registry = &mut process.registry;
            let provisioner = Provisioner::new(client.clone(), live.clone(), options, leadership.clone(), registry);
            rescue.ask_provisioner(provisioner.started());
            provisioner.register_watches(registry);
            observers.push(provisioner.observer());
            spawn_provisioner(&mut process, provisioner);
        }
        None => live.register(&mut process.registry),
    }
    if let Some(options) = certificates.filter(|_| !dry_run) {
        spawn_renewal(&mut process, client.clone(), options, &identity, leadership);
    }
    spawn_facts(&mut process, client, &live, observers, facts);
    let stop = process.stop.clone();
    process.spawn("lease", async move {
        match contender {
            Some(contender) => contender.run(stop).await,
            None => stop.cancelled().await,
        }
    });
    let stop = process.stop.clone();
    process.spawn("rescue", rescue.run(stop));
    process.run_until_shutdown(&shutdown, std::future::ready, DRAIN).await
}

/// What every loop of the role works with.
struct Shared {
    client: Client,
    live: LiveCluster,
    leadership: Option<Leadership>,
}

impl Shared {
    /// Starts the loop that writes the status of PinPolicies, and gives who is to hear of changes. Like all loops it does
    /// nothing before the watches have brought their first lists.
    fn spawn_policies(&self, process: &mut Process, rules: &Rules, policy: &RescuePolicy) -> Arc<dyn Observer> {
        let options = PoliciesOptions {
            client: self.client.clone(),
            live: self.live.clone(),
            rules: rules.clone(),
            policy: policy.clone(),
            leadership: self.leadership.clone(),
        };
        let policies = Policies::new(options, &mut process.registry);
        let observer = policies.observer();
        let stop = process.stop.clone();
        process.spawn("policies", policies.run(stop));
        observer
    }

    /// The same for the loop that sees to claims whose node is gone.
    fn spawn_lost_nodes(
        &self,
        process: &mut Process,
        terms: LostNodesTerms,
        policy: &RescuePolicy,
        identity: &str,
    ) -> Arc<dyn Observer> {
        // It has a switch of its own.
        let policy = RescuePolicy { enabled: true, ..policy.clone() };
        let LostNodesTerms { may_unbind, patience } = terms;
        let options = LostNodesOptions {
            client: self.client.clone(),
            live: self.live.clone(),
            may_unbind,
            patience,
            policy,
            leadership: self.leadership.clone(),
            instance: identity.to_owned(),
        };
        let lost_nodes = LostNodes::new(options, &mut process.registry);
        let observer = lost_nodes.observer();
        let stop = process.stop.clone();
        process.spawn("lost nodes", lost_nodes.run(stop));
        observer
    }

    /// The same for the loop that keeps the parameter of the admission policies.
    fn spawn_parameter(&self, process: &mut Process, rules: &Rules, policy: &RescuePolicy) -> Arc<dyn Observer> {
        let options = ParameterOptions {
            client: self.client.clone(),
            live: self.live.clone(),
            mode: policy.mode,
            schedulers: rules.schedulers.clone(),
            leadership: self.leadership.clone(),
        };
        let parameter = Parameter::new(options, &mut process.registry);
        let observer = parameter.observer();
        let stop = process.stop.clone();
        process.spawn("parameter", parameter.run(stop));
        observer
    }
}

fn spawn_provisioner(process: &mut Process, provisioner: Provisioner) {
    let (part, stop) = (process.readiness.part("provisioner"), process.stop.clone());
    process.spawn("provisioner", async move {
        Box::pin(provisioner.run(|| part.ready(), stop)).await;
        // Dropped, the part says that this task has died.
        drop(part);
    });
}

fn spawn_renewal(
    process: &mut Process,
    client: Client,
    options: CertificateOptions,
    identity: &str,
    leadership: Option<Leadership>,
) {
    let CertificateOptions { places, terms, every } = options;
    let metrics = RenewalMetrics::default();
    metrics.register(&mut process.registry);
    let renewal = Renewal::new(client, places, terms, identity, metrics);
    let stop = process.stop.clone();
    process.spawn("certificates", async move { renewal.run(every, leadership, stop).await });
}

/// Starts the watches, and what says that their first lists are read.
fn spawn_facts(
    process: &mut Process,
    client: Client,
    live: &LiveCluster,
    observers: Vec<Arc<dyn Observer>>,
    facts: Part,
) {
    let (watched, stop) = (live.clone(), process.stop.clone());
    process.spawn("watches", async move {
        if let Err(error) = watched.run(client, Arc::new(observers), stop).await {
            tracing::error!(%error, "a watch ended");
        }
    });
    let (live, stop) = (live.clone(), process.stop.clone());
    process.spawn("sync", report_when_synced(live, facts, stop));
}

async fn report_when_synced(live: LiveCluster, facts: Part, stop: CancellationToken) {
    if stop.run_until_cancelled(live.synced()).await.is_some() {
        facts.ready();
        tracing::info!("all facts are read");
    }
    // Dropped, the part would say that this task has died.
    stop.cancelled().await;
    drop(facts);
}

/// A name that no other process has, and that tells a person which Pod it is.
fn identity() -> String {
    let named = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let host = if named.is_empty() { "latebind".to_owned() } else { named };
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!("{host}_{random:016x}")
}
