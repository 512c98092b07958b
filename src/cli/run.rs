//! `latebind run`: the roles that a cluster runs.

#[cfg(target_os = "linux")]
mod agent;
mod arguments;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use tokio::task::JoinSet;

use self::arguments::{ControllerRole, LostNodesSwitch, Switch, WebhookRole};
pub use self::arguments::{Role, RunArgs};
use super::Exit;
use crate::admission::GuardOptions;
use crate::admission::service::AdmissionOptions;
use crate::binding::Assumptions;
use crate::controllers::volumes as provision;
use crate::drain::lost::Patience;
use crate::policy::{Exemptions, RescuePolicy};
use crate::rancher;
use crate::roles::webhook::Webhook;
use crate::roles::webhook::live::LiveWebhookOptions;
use crate::roles::{CertificateOptions, ControllerOptions, LostNodesTerms, RoleError, run_controller};
use crate::runtime::logs;
use crate::runtime::serve::ConnectionLimits;
use crate::runtime::shutdown::Shutdown;
use crate::tls::renewal::Lifetimes;
use crate::tls::store::CertificateObjects;
use crate::tls::{ClientCheck, PairFiles, ServingSource};

/// Runs the roles.
///
/// # Errors
/// When something that is needed is missing or wrong at the start, or a role ended by itself.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let process = &args.process;
    logs::init(process.log_format, &process.log)?;
    // One of the roles has probes and metrics.
    let first = [Role::Webhook, Role::Controller, Role::Agent].into_iter().find(|role| args.role.contains(role));
    let probes = |role| (first == Some(role)).then_some(args.metrics_listen);
    let runtime = runtime(&args.role)?;
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let client = args.cluster.client().await?;
        let mut roles: JoinSet<Result<(), RoleError>> = JoinSet::new();
        if args.role.contains(&Role::Webhook) {
            let webhook = Webhook::start_live(args.webhook_options(client.clone())?).await?;
            tracing::info!(address = %webhook.address(), metrics = %webhook.metrics_address(), "serving");
            let shutdown = shutdown.clone();
            roles.spawn(webhook.run(shutdown));
        }
        if args.role.contains(&Role::Controller) {
            let mut options = args.controller_options(client.clone(), probes(Role::Controller))?;
            if let Some(provisioner) = &mut options.provisioner {
                refuse_second_provisioner(&client, provisioner).await?;
                args.hold_back(&client, provisioner).await?;
            }
            roles.spawn(run_controller(options, shutdown.clone()));
        }
        if args.role.contains(&Role::Agent) {
            #[cfg(target_os = "linux")]
            roles.spawn(crate::roles::run_agent(args.agent_options(client, probes(Role::Agent))?, shutdown.clone()));
            #[cfg(not(target_os = "linux"))]
            bail!("--role agent: an agent runs on nodes with Linux only");
        }
        let mut outcome = Ok(());
        while let Some(ended) = roles.join_next().await {
            let ended = ended.map_err(anyhow::Error::from).and_then(|ended| Ok(ended?));
            // One role without the other is not what was asked for.
            shutdown.begin();
            outcome = outcome.and(ended);
        }
        tracing::info!("ended");
        outcome.map(|()| Exit::Clean)
    });
    // A disk that hangs may keep a thread forever.
    runtime.shutdown_background();
    outcome
}

/// Threads that run the loops of the controller: they wait for the API server most of the time, and each has its own part
/// of the heap.
const CONTROLLER_THREADS: usize = 2;

/// As many threads as the roles can use, on a node of any size.
fn runtime(roles: &[Role]) -> std::io::Result<tokio::runtime::Runtime> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = match roles {
        _ if roles.contains(&Role::Webhook) => available,
        _ if roles.contains(&Role::Controller) => available.min(CONTROLLER_THREADS),
        _ => 1,
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all();
    #[cfg(target_os = "linux")]
    if roles.contains(&Role::Agent) {
        builder.max_blocking_threads(crate::agent::BLOCKING_THREADS);
    }
    builder.build()
}

/// Two provisioners of one name would work against each other.
async fn refuse_second_provisioner(client: &Client, options: &provision::Options) -> anyhow::Result<()> {
    for name in &options.adopt {
        let rivals = provision::running_provisioners(client, name).await;
        let rivals = rivals.with_context(|| format!("cannot see whether {name} still runs"))?;
        if !rivals.is_empty() {
            bail!(
                "--adopt {name}: a provisioner of that name still runs, in {}; stop it first (on k3s: start the server \
                 with --disable=local-storage)",
                rivals.join(", ")
            );
        }
    }
    Ok(())
}

/// The least time for which a node must have been gone: a node that is made anew under its name is away for seconds.
const LEAST_GRACE: Duration = Duration::from_secs(1);

fn lost_nodes(given: &ControllerRole) -> anyhow::Result<Option<LostNodesTerms>> {
    if given.lost_node_grace < LEAST_GRACE {
        bail!("--lost-node-grace: 1s is the least");
    }
    let patience = Patience {
        grace: given.lost_node_grace,
        most_places: given.most_lost_nodes,
        most_percent: given.most_lost_nodes_percent.into(),
    };
    let may_unbind = given.lost_nodes == LostNodesSwitch::Unbind;
    Ok((given.lost_nodes != LostNodesSwitch::Off).then_some(LostNodesTerms { may_unbind, patience }))
}

impl RunArgs {
    /// Finds what adoption would lose. Such classes are not served until somebody says that it may be lost.
    async fn hold_back(&self, client: &Client, options: &mut provision::Options) -> anyhow::Result<()> {
        let given = &self.controller;
        // MicroK8s' provisioner has no ConfigMap.
        if options.adopt.iter().all(|name| name == rancher::MICROK8S) {
            return Ok(());
        }
        let found = provision::held_back(client, &given.adopt_config, &given.accept_lost).await;
        options.held_back =
            found.context("cannot see whether the provisioner that is adopted ran scripts of its own")?;
        for why in options.held_back.reasons() {
            tracing::warn!("its classes and volumes are not adopted: {why}");
        }
        Ok(())
    }

    fn webhook_options(&self, client: Client) -> anyhow::Result<LiveWebhookOptions> {
        let WebhookRole { listen, mode, .. } = self.webhook.clone();
        let certificate = match (&self.webhook.tls_cert, &self.webhook.tls_key, &self.certificates.tls_secret) {
            (Some(certificate), Some(key), _) => {
                ServingSource::Files(PairFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (_, _, Some(secret)) => ServingSource::secret(client.clone(), &self.namespace, secret),
            _ => bail!(
                "the webhook needs a certificate: name a Secret by --tls-secret, or files by --tls-cert and --tls-key"
            ),
        };
        let names = self.webhook.client_name.clone();
        let clients = self.webhook.client_ca.as_ref().map(|path| ClientCheck::from_file(path, names)).transpose()?;
        let exemptions = self.exemptions();
        let guard = (self.webhook.drain_guard == Switch::On)
            .then(|| GuardOptions { exempt_groups: self.webhook.drain_exempt_group.clone() });
        let rules = self.rules.rules(Assumptions::default());
        let mut provisioners = AdmissionOptions::default().provisioners;
        // Of MicroK8s only old volumes are served.
        provisioners.extend(self.controller.adopt.iter().filter(|name| *name != rancher::MICROK8S).cloned());
        Ok(LiveWebhookOptions {
            listen,
            metrics_listen: self.metrics_listen,
            client,
            live_get: !self.webhook.no_live_get,
            certificate,
            look_every: self.look_every()?,
            minimum_version: self.webhook.tls_min_version,
            // Whoever reaches the port is told no more than which code: what is known is for those who may know it.
            admission: AdmissionOptions {
                rules,
                provisioners,
                mode,
                exemptions,
                details: clients.is_some(),
                guard,
                ..AdmissionOptions::default()
            },
            clients,
            limits: ConnectionLimits::webhook(),
            shutdown_delay: self.process.shutdown_delay,
            drain_timeout: self.process.drain_timeout,
        })
    }

    /// What no role looks at.
    fn exemptions(&self) -> Exemptions {
        let mut exemptions = Exemptions::default();
        exemptions.namespaces.extend(self.webhook.exempt_namespace.iter().cloned());
        exemptions.namespaces.insert(self.namespace.clone());
        exemptions
    }

    fn look_every(&self) -> anyhow::Result<Duration> {
        let every = self.certificates.certificate_check;
        if every < Duration::from_millis(100) {
            bail!("--certificate-check: 100ms is the least");
        }
        Ok(every)
    }

    fn controller_options(&self, client: Client, probes: Option<SocketAddr>) -> anyhow::Result<ControllerOptions> {
        let given = self.controller.clone();
        Ok(ControllerOptions {
            client,
            dry_run: given.dry_run,
            rules: self.rules.rules(Assumptions::default()),
            policy: RescuePolicy {
                enabled: given.rescue == Switch::On,
                mode: self.webhook.mode,
                exemptions: self.exemptions(),
                tainted_nodes_for: given.tainted_nodes_for.into_iter().collect(),
            },
            lease: (given.lease_namespace.unwrap_or_else(|| self.namespace.clone()), given.lease_name),
            metrics_listen: probes,
            certificates: self.certificates_kept()?,
            policy_parameter: given.policy_parameter == Switch::On,
            lost_nodes: lost_nodes(&self.controller)?,
            provisioner: self.provisioner()?,
        })
    }

    fn provisioner(&self) -> anyhow::Result<Option<provision::Options>> {
        let given = &self.controller;
        let adopt: BTreeSet<String> = given.adopt.iter().cloned().collect();
        if given.provisioner == Switch::Off {
            if !adopt.is_empty() {
                bail!("--adopt is of no use without --provisioner=on");
            }
            return Ok(None);
        }
        for name in &adopt {
            rancher::adoptable(name).map_err(|why| anyhow::anyhow!("--adopt {name}: {why}"))?;
        }
        let agent_patience = given.agent_patience;
        let pool = given.pool.clone();
        let mark_bound = given.mark_bound;
        Ok(Some(provision::Options { adopt, agent_patience, pool, mark_bound, ..provision::Options::default() }))
    }

    fn certificates_kept(&self) -> anyhow::Result<Option<CertificateOptions>> {
        let given = &self.certificates;
        let (Some(authority), Some(serving)) = (&given.authority_secret, &given.tls_secret) else { return Ok(None) };
        let span = |life: Duration| time::Duration::try_from(life).context("a time is too long");
        let (service, namespace) = (&given.webhook_service, &self.namespace);
        let terms = Lifetimes {
            names: vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")],
            authority_life: span(given.authority_life)?,
            leaf_life: span(given.certificate_life)?,
            settle: span(given.authority_settle)?,
            overlap: span(given.authority_overlap)?,
        };
        terms.check()?;
        let places = CertificateObjects {
            namespace: namespace.clone(),
            authority: authority.clone(),
            serving: serving.clone(),
            configuration: given.webhook_configuration.clone(),
        };
        Ok(Some(CertificateOptions { places, terms, every: self.look_every()? }))
    }
}
