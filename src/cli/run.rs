//! `latebind run`: the roles that a cluster runs.

mod controller;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task::JoinSet;

use self::controller::{Certificates, ControllerSetup};
use super::Exit;
use super::input::RulesArgs;
use super::webhook::{ProcessArgs, duration};
use crate::admission::Exemptions;
use crate::admission::live::LiveSetup;
use crate::admission::server::Webhook;
use crate::admission::service::Choices;
use crate::policy::Mode;
use crate::runtime::logs;
use crate::runtime::serve::ConnectionLimits;
use crate::runtime::shutdown::Shutdown;
use crate::tls::renewal::Terms;
use crate::tls::store::Places;
use crate::tls::{ClientCheck, MinimumVersion, PairFiles, ServingSource};

const EXAMPLES: &str = "\
Examples:
  # What the Pods of the install manifest run:
  latebind run --role webhook --tls-secret latebind-webhook-tls
  latebind run --role controller --authority-secret latebind-ca --tls-secret latebind-webhook-tls

  # See what would be done about stuck claims in the cluster of your kubeconfig, and write nothing:
  latebind run --role controller --dry-run

  # A webhook on this machine for the cluster of the current kubeconfig, with a certificate of one's own:
  latebind run --role webhook --listen 192.0.2.7:9443 --tls-cert certs/tls.crt --tls-key certs/tls.key";

/// A connection to an API server that does not come about in this time is tried again.
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than a watch may be silent, so that only a dead connection ends by it.
const READ: Duration = Duration::from_secs(295);

/// A role of latebind in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Answers admission reviews.
    Webhook,
    /// Mends claims of Pods that are stuck already, and keeps the webhook's certificates current.
    Controller,
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
    let both = args.role.contains(&Role::Webhook) && args.role.contains(&Role::Controller);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
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
            let probes = (!both).then_some(args.metrics_listen);
            roles.spawn(controller::serve(args.controller_setup(client, probes)?, shutdown.clone()));
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

impl ClusterArgs {
    /// A client for it.
    ///
    /// # Errors
    /// When no cluster is configured.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = if self.kubeconfig.is_some() || self.context.is_some() {
            let kubeconfig = match &self.kubeconfig {
                Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
                None => Kubeconfig::read()?,
            };
            let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        } else {
            Config::infer().await.context("no cluster: neither a Pod's account nor a kubeconfig was found")?
        };
        // Retries are left to the loops, which know what is worth one.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(READ);
        Ok(Client::try_from(config)?)
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
        Ok(LiveSetup {
            listen,
            metrics_listen: self.metrics_listen,
            client,
            live_get: !self.webhook.no_live_get,
            certificate,
            look_every: self.look_every()?,
            minimum_version: self.webhook.tls_min_version,
            clients,
            choices: Choices { rules: self.rules.rules(), mode, exemptions, ..Choices::default() },
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
        })
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
