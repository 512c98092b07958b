//! `latebind run`: the roles that a cluster runs.

mod agent;
mod controller;
mod probing;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::JoinSet;

use self::agent::AgentSetup;
use self::controller::{Certificates, ControllerSetup};
use super::Exit;
use super::input::RulesArgs;
use super::webhook::{ProcessArgs, duration};
use crate::admission::Exemptions;
use crate::admission::live::LiveSetup;
use crate::admission::server::Webhook;
use crate::admission::service::Choices;
use crate::agent::{AllowedBases, BLOCKING_THREADS};
use crate::crd::checked_base;
use crate::policy::Mode;
use crate::runtime::serve::ConnectionLimits;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{client, logs};
use crate::tls::renewal::Terms;
use crate::tls::store::Places;
use crate::tls::{ClientCheck, MinimumVersion, PairFiles, ServingSource};
use crate::{provision, rancher};

const EXAMPLES: &str = "\
Examples:
  # What the Pods of the install manifest run:
  latebind run --role webhook --tls-secret latebind-webhook-tls
  latebind run --role controller --authority-secret latebind-ca --tls-secret latebind-webhook-tls

  # See what would be done about stuck claims in the cluster of your kubeconfig, and write nothing:
  latebind run --role controller --dry-run

  # Local volumes: the controller decides, and an agent on each node makes the directories:
  latebind run --role controller --provisioner=on
  latebind run --role agent --node-name node-a --base-path /var/lib/latebind

  # A webhook on this machine for the cluster of the current kubeconfig, with a certificate of one's own:
  latebind run --role webhook --listen 192.0.2.7:9443 --tls-cert certs/tls.crt --tls-key certs/tls.key";

/// A role of latebind in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Answers admission reviews.
    Webhook,
    /// Mends claims of Pods that are stuck already, keeps the webhook's certificates current, and provisions volumes.
    Controller,
    /// Makes and removes the directories of local volumes on one node.
    Agent,
}

/// Run one or more roles against a cluster, until a signal ends them.
///
/// Inside of a Pod the cluster is the Pod's; elsewhere it is the one of the kubeconfig. /livez, /readyz and /metrics are
/// at the metrics address, without TLS.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// What to run; repeat it for several roles in one process, which then needs the rights of all of them.
    #[arg(long, value_name = "ROLE", required = true, value_delimiter = ',', env = "LATEBIND_ROLE", hide_env = true)]
    role: Vec<Role>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// Namespace that latebind runs in. Its Secrets are there, and its Pods are left alone.
    #[arg(short, long, value_name = "NAME", default_value = "latebind-system", env = "POD_NAMESPACE", hide_env = true)]
    namespace: String,

    #[command(flatten)]
    webhook: WebhookRole,

    #[command(flatten)]
    controller: ControllerRole,

    #[command(flatten)]
    agent: AgentRole,

    #[command(flatten)]
    certificates: CertificateRole,

    #[command(flatten)]
    rules: RulesArgs,

    /// Address to serve probes and metrics at, without TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9444",
        env = "LATEBIND_METRICS_LISTEN",
        hide_env = true,
        help_heading = "Process"
    )]
    metrics_listen: SocketAddr,

    #[command(flatten)]
    process: ProcessArgs,
}

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

/// The webhook.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role webhook")]
struct WebhookRole {
    /// Address to serve admission at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443", env = "LATEBIND_LISTEN", hide_env = true)]
    listen: SocketAddr,

    /// What to do about a Pod that would wait for ever: audit, warn, rewrite or deny. A namespace's label
    /// latebind.dev/mode can make it stricter there.
    #[arg(long, value_name = "MODE", default_value_t, env = "LATEBIND_MODE", hide_env = true)]
    mode: Mode,

    /// A namespace that is left alone besides kube-system and latebind's own; repeat it for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_EXEMPT_NAMESPACE", hide_env = true)]
    exempt_namespace: Vec<String>,

    /// Do not ask the API server for claims that are not cached yet.
    #[arg(long, env = "LATEBIND_NO_LIVE_GET", hide_env = true)]
    no_live_get: bool,

    /// Server certificate in PEM, with intermediate ones; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "LATEBIND_TLS_CERT", hide_env = true)]
    tls_cert: Option<PathBuf>,

    /// Key of the server certificate in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "LATEBIND_TLS_KEY", hide_env = true)]
    tls_key: Option<PathBuf>,

    /// The oldest TLS version that is accepted: 1.2 or 1.3.
    #[arg(long, value_name = "VERSION", default_value = "1.2", env = "LATEBIND_TLS_MIN_VERSION", hide_env = true)]
    tls_min_version: MinimumVersion,

    /// Authorities in PEM: clients must present a certificate of one of them. Read at the start.
    #[arg(long, value_name = "FILE", env = "LATEBIND_CLIENT_CA", hide_env = true)]
    client_ca: Option<PathBuf>,

    /// A name that the client's certificate must carry, as common or DNS name; repeat it for several.
    #[arg(
        long,
        value_name = "NAME",
        requires = "client_ca",
        value_delimiter = ',',
        env = "LATEBIND_CLIENT_NAME",
        hide_env = true
    )]
    client_name: Vec<String>,
}

/// The controller.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role controller")]
struct ControllerRole {
    /// Write nothing, and say in the log what would be written.
    #[arg(long, env = "LATEBIND_DRY_RUN", hide_env = true)]
    dry_run: bool,

    /// Namespace of the Lease by which one of several replicas leads; by default the one that latebind runs in.
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

    /// Make volumes for claims of classes whose provisioner is local.latebind.dev: on or off. The agents and the
    /// definitions of latebind.dev must be installed.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "off",
        conflicts_with = "dry_run",
        env = "LATEBIND_PROVISIONER",
        hide_env = true
    )]
    provisioner: Switch,

    /// Serve the classes and volumes of another provisioner too, such as rancher.io/local-path; repeat it for several.
    /// Refused while that provisioner runs. A webhook to which claims are sent must be told as well.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_ADOPT", hide_env = true)]
    adopt: Vec<String>,

    /// A LocalPool that is made if there is none of that name, and a directory that it offers on every node.
    #[arg(long, value_name = "NAME=DIRECTORY", value_parser = pool, env = "LATEBIND_POOL", hide_env = true)]
    pool: Option<(String, String)>,

    /// How long the agent of a node may leave an order unanswered before the scheduler is asked for another node.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1m",
        value_parser = duration,
        env = "LATEBIND_AGENT_PATIENCE",
        hide_env = true
    )]
    agent_patience: Duration,

    /// Write the phase Bound of new volumes while the controller manager is behind, which lets it bind many claims
    /// sooner: one more write of ours for one less of its 20 a second.
    #[arg(long, env = "LATEBIND_MARK_BOUND", hide_env = true)]
    mark_bound: bool,
}

/// Reads `NAME=DIRECTORY`.
fn pool(text: &str) -> Result<(String, String), String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=DIRECTORY, such as local=/var/lib/latebind")?;
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("`{name}` is not the name of an object"));
    }
    checked_base(path).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), path.to_owned()))
}

/// A part that runs or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    Off,
    On,
}

/// The agent.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role agent")]
struct AgentRole {
    /// Name of the Node object that this process runs on.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", hide_env = true)]
    node_name: Option<String>,

    /// A directory of the node that volumes may be made beneath; repeat it for several. Pools cannot leave them.
    #[arg(long, value_name = "DIRECTORY", value_delimiter = ',', env = "LATEBIND_BASE_PATH", hide_env = true)]
    base_path: Vec<String>,

    /// How many files and directories of deleted volumes are removed in a second, so that others can use the disk too.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 5_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        env = "LATEBIND_UNLINKS_PER_SECOND",
        hide_env = true
    )]
    unlinks_per_second: u32,

    /// Remove directories of this cluster that no volume names any more: at most a tenth of the node's volumes an hour,
    /// and only after the controller has found no volume and no claim of theirs. They are reported either way.
    #[arg(long, env = "LATEBIND_REMOVE_ORPHANS", hide_env = true)]
    remove_orphans: bool,

    /// How long such a directory must have been known before it may be removed.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        value_parser = duration,
        env = "LATEBIND_ORPHAN_AGE",
        hide_env = true
    )]
    orphan_age: Duration,
}

/// Certificates.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
struct CertificateRole {
    /// Secret of the server certificate: the webhook reads it, the controller writes it.
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert", env = "LATEBIND_TLS_SECRET", hide_env = true)]
    tls_secret: Option<String>,

    /// Secret of the authority; with it the controller keeps authority, certificate and caBundle current.
    #[arg(long, value_name = "NAME", requires = "tls_secret", env = "LATEBIND_AUTHORITY_SECRET", hide_env = true)]
    authority_secret: Option<String>,

    /// Name of both webhook configurations, into which the controller writes caBundle.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "zz-latebind",
        env = "LATEBIND_WEBHOOK_CONFIGURATION",
        hide_env = true
    )]
    webhook_configuration: String,

    /// Service of the webhook, whose name the certificate carries.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "latebind-webhook",
        env = "LATEBIND_WEBHOOK_SERVICE",
        hide_env = true
    )]
    webhook_service: String,

    /// How often certificates are looked at.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    certificate_check: Duration,

    /// Life of a server certificate. It is renewed when a third is left.
    #[arg(long, value_name = "TIME", default_value = "2160h", value_parser = duration)]
    certificate_life: Duration,

    /// Life of the authority. It is replaced when a third is left.
    #[arg(long, value_name = "TIME", default_value = "8760h", value_parser = duration)]
    authority_life: Duration,

    /// From the publication of a new authority until it signs.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    authority_settle: Duration,

    /// From then until the old authority is not trusted any more.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    authority_overlap: Duration,
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
