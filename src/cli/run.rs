//! `latebind run`: the roles that a cluster runs.

mod agent;
mod arguments;
mod controller;
mod probing;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::JoinSet;

use self::agent::AgentSetup;
pub use self::arguments::{Role, RunArgs};
use self::arguments::{Switch, WebhookRole};
use self::controller::{Certificates, ControllerSetup};
use super::Exit;
use crate::admission::Exemptions;
use crate::admission::live::LiveSetup;
use crate::admission::server::Webhook;
use crate::admission::service::Choices;
use crate::agent::{AllowedBases, BLOCKING_THREADS};
use crate::runtime::serve::ConnectionLimits;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{client, logs};
use crate::tls::renewal::Terms;
use crate::tls::store::Places;
use crate::tls::{ClientCheck, PairFiles, ServingSource};
use crate::{provision, rancher};

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The kubeconfig file; otherwise KUBECONFIG, ~/.kube/config, or the account of the Pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub(super) context: Option<String>,
}

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
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let client = args.cluster.client().await?;
        let mut roles = JoinSet::new();
        if args.role.contains(&Role::Webhook) {
            let webhook = Webhook::start_live(args.webhook_setup(client.clone())?).await?;
            tracing::info!(address = %webhook.address(), metrics = %webhook.metrics_address(), "serving");
            let shutdown = shutdown.clone();
            roles.spawn(async move { Ok::<(), anyhow::Error>(webhook.run(shutdown).await?) });
        }
        if args.role.contains(&Role::Controller) {
            let setup = args.controller_setup(client.clone(), probes(Role::Controller))?;
            if let Some(options) = &setup.provisioner {
                alone(&client, options).await?;
            }
            roles.spawn(controller::serve(setup, shutdown.clone()));
        }
        if args.role.contains(&Role::Agent) {
            roles.spawn(agent::serve(args.agent_setup(client, probes(Role::Agent))?, shutdown.clone()));
        }
        let mut outcome = Ok(());
        while let Some(ended) = roles.join_next().await {
            let ended = ended.map_err(anyhow::Error::from).and_then(|ended| ended);
            // One role without the other is not what was asked for.
            shutdown.begin();
            outcome = outcome.and(ended);
        }
        tracing::info!("ended");
        outcome.map(|()| Exit::Clean)
    })
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
    if roles.contains(&Role::Agent) {
        builder.max_blocking_threads(BLOCKING_THREADS);
    }
    builder.build()
}

/// Two provisioners of one name would work against each other.
async fn alone(client: &Client, options: &provision::Options) -> anyhow::Result<()> {
    for name in &options.adopt {
        let looking = tokio::time::timeout(client::CONNECT, rancher::rivals(client, name));
        let rivals = looking.await.context("the API server did not answer in time")?;
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

impl ClusterArgs {
    /// A client for it.
    ///
    /// # Errors
    /// When no cluster is configured.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = if self.kubeconfig.is_some() || self.context.is_some() {
            let kubeconfig = match &self.kubeconfig {
                Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
                None => Kubeconfig::read()?,
            };
            let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        } else {
            Config::infer().await.context("no cluster: neither a Pod's account nor a kubeconfig was found")?
        };
        Ok(client::connect(config)?)
    }
}

impl RunArgs {
    fn webhook_setup(&self, client: Client) -> anyhow::Result<LiveSetup> {
        let WebhookRole { listen, mode, exempt_namespace, .. } = self.webhook.clone();
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
        let mut exemptions = Exemptions::default();
        exemptions.namespaces.extend(exempt_namespace);
        exemptions.namespaces.insert(self.namespace.clone());
        let mut rules = self.rules.rules();
        // Of MicroK8s only old volumes are served.
        rules.provisioners.extend(self.controller.adopt.iter().filter(|name| *name != rancher::MICROK8S).cloned());
        Ok(LiveSetup {
            listen,
            metrics_listen: self.metrics_listen,
            client,
            live_get: !self.webhook.no_live_get,
            certificate,
            look_every: self.look_every()?,
            minimum_version: self.webhook.tls_min_version,
            clients,
            choices: Choices { rules, mode, exemptions, ..Choices::default() },
            limits: ConnectionLimits::webhook(),
            shutdown_delay: self.process.shutdown_delay,
            drain_timeout: self.process.drain_timeout,
        })
    }

    fn look_every(&self) -> anyhow::Result<Duration> {
        let every = self.certificates.certificate_check;
        if every < Duration::from_millis(100) {
            bail!("--certificate-check: 100ms is the least");
        }
        Ok(every)
    }

    fn controller_setup(&self, client: Client, probes: Option<SocketAddr>) -> anyhow::Result<ControllerSetup> {
        let given = self.controller.clone();
        Ok(ControllerSetup {
            client,
            dry_run: given.dry_run,
            rules: self.rules.rules(),
            lease: (given.lease_namespace.unwrap_or_else(|| self.namespace.clone()), given.lease_name),
            metrics_listen: probes,
            certificates: self.certificates_kept()?,
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
        if let Some(name) = adopt.iter().find(|name| !rancher::ADOPTABLE.contains(&name.as_str())) {
            bail!("--adopt {name}: only {} can be adopted", rancher::ADOPTABLE.join(" and "));
        }
        let agent_patience = given.agent_patience;
        let pool = given.pool.clone();
        let mark_bound = given.mark_bound;
        Ok(Some(provision::Options { adopt, agent_patience, pool, mark_bound, ..provision::Options::default() }))
    }

    fn agent_setup(&self, client: Client, metrics_listen: Option<SocketAddr>) -> anyhow::Result<AgentSetup> {
        let given = &self.agent;
        let Some(node_name) = given.node_name.clone().filter(|name| !name.is_empty()) else {
            bail!("the agent must know its node: give --node-name, or NODE_NAME from spec.nodeName of its Pod");
        };
        if given.base_path.is_empty() {
            bail!("the agent needs a directory to make volumes in: give --base-path");
        }
        let bases = AllowedBases::new(&given.base_path).context("--base-path")?;
        let unlinks_per_second = usize::try_from(given.unlinks_per_second)?;
        let remove_orphans = given.remove_orphans.then_some(given.orphan_age);
        let options = crate::agent::Options { node_name, bases, unlinks_per_second, remove_orphans };
        Ok(AgentSetup { client, options, metrics_listen })
    }

    fn certificates_kept(&self) -> anyhow::Result<Option<Certificates>> {
        let given = &self.certificates;
        let (Some(authority), Some(serving)) = (&given.authority_secret, &given.tls_secret) else { return Ok(None) };
        let span = |life: Duration| time::Duration::try_from(life).context("a time is too long");
        let (service, namespace) = (&given.webhook_service, &self.namespace);
        let terms = Terms {
            names: vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")],
            authority_life: span(given.authority_life)?,
            leaf_life: span(given.certificate_life)?,
            settle: span(given.authority_settle)?,
            overlap: span(given.authority_overlap)?,
        };
        terms.check()?;
        let places = Places {
            namespace: namespace.clone(),
            authority: authority.clone(),
            serving: serving.clone(),
            configuration: given.webhook_configuration.clone(),
        };
        Ok(Some(Certificates { places, terms, every: self.look_every()? }))
    }
}
