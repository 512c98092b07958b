//! `latebind webhook`: admission over TLS from manifests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use time::OffsetDateTime;

use super::Exit;
use super::duration::duration;
use super::input::{AssumeArgs, RulesArgs};
use crate::admission::Exemptions;
use crate::admission::service::{AdmissionOptions, View};
use crate::binding::Assumptions;
use crate::facts::files::{directory_fingerprint, load_directory};
use crate::policy::Mode;
use crate::roles::webhook::{CertificateSource, Webhook, WebhookOptions};
use crate::runtime::logs::{self, LogFormat};
use crate::runtime::reload::{LoadError, Source};
use crate::runtime::serve::ConnectionLimits;
use crate::runtime::shutdown::Shutdown;
use crate::tls::{Authority, MinimumVersion, PairFiles};

const EXAMPLES: &str = "\
Examples:
  # Serve what is in ./manifests, and write the certificate that clients must trust:
  latebind webhook --objects manifests --ca-out ca.pem

  # Ask it, as an API server would:
  curl --cacert ca.pem --data @review.json https://127.0.0.1:9443/mutate

  # For an API server elsewhere, which calls it by name:
  latebind webhook --objects manifests --listen 0.0.0.0:9443 --tls-san build-7.example --ca-out ca.pem

  # With a certificate that somebody else renews:
  latebind webhook --objects manifests --tls-cert tls.crt --tls-key tls.key";

/// Serve admission over TLS from a directory of manifests, without a cluster.
///
/// An API server calls /mutate and /validate at the listen address; put what --ca-out writes, in base64, into caBundle
/// of the webhook configuration. /livez, /readyz and /metrics are at the metrics address, without TLS.
///
/// What the manifests do not say is not known, and no Pod is rewritten on a guess: --assume-node=schedulable and the other
/// flags of that kind say what is to be taken for granted.
///
/// The manifests and the certificate files are read again when they change. What is broken is left aside, and the last
/// good version stays in use: the log, /readyz?verbose and the metric latebind_reloads_total say so.
///
/// SIGTERM or Ctrl-C ends it politely, a second one at once.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WebhookArgs {
    /// Directory of manifests that are the facts: classes, claims, volumes, nodes.
    #[arg(long, value_name = "DIR", env = "LATEBIND_OBJECTS", hide_env = true)]
    objects: PathBuf,

    /// Address to serve admission at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443", env = "LATEBIND_LISTEN", hide_env = true)]
    listen: SocketAddr,

    /// Address to serve probes and metrics at, without TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9444",
        env = "LATEBIND_METRICS_LISTEN",
        hide_env = true
    )]
    metrics_listen: SocketAddr,

    /// What to do about a Pod that would wait forever: audit, warn, rewrite or deny.
    #[arg(long, value_name = "MODE", default_value_t, env = "LATEBIND_MODE", hide_env = true, help_heading = "Rules")]
    mode: Mode,

    /// A namespace that is left alone; repeat it for several.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "kube-system",
        value_delimiter = ',',
        env = "LATEBIND_EXEMPT_NAMESPACE",
        hide_env = true,
        help_heading = "Rules"
    )]
    exempt_namespace: Vec<String>,

    #[command(flatten)]
    rules: RulesArgs,

    #[command(flatten)]
    assume: AssumeArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The server certificate.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
struct TlsArgs {
    /// Server certificate in PEM, with intermediate ones; read again when it changes. Without it latebind makes its own.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "LATEBIND_TLS_CERT", hide_env = true)]
    tls_cert: Option<PathBuf>,

    /// Key of the server certificate in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "LATEBIND_TLS_KEY", hide_env = true)]
    tls_key: Option<PathBuf>,

    /// Where to write the certificate of latebind's own authority, which clients must trust.
    #[arg(long, value_name = "FILE", conflicts_with = "tls_cert", env = "LATEBIND_CA_OUT", hide_env = true)]
    ca_out: Option<PathBuf>,

    /// One more DNS name or IP address of the server, for its own certificate; repeat it for several.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        conflicts_with = "tls_cert",
        env = "LATEBIND_TLS_SAN",
        hide_env = true
    )]
    tls_san: Vec<String>,

    /// The oldest TLS version that is accepted: 1.2 or 1.3.
    #[arg(long, value_name = "VERSION", default_value = "1.2", env = "LATEBIND_TLS_MIN_VERSION", hide_env = true)]
    tls_min_version: MinimumVersion,
}

/// The process.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Process")]
pub(super) struct ProcessArgs {
    /// How long to serve on after the signal to end, unready, so that clients find another server.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0s",
        value_parser = duration,
        env = "LATEBIND_SHUTDOWN_DELAY",
        hide_env = true
    )]
    pub shutdown_delay: Duration,

    /// How long requests under way may take to end after that.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "20s",
        value_parser = duration,
        env = "LATEBIND_DRAIN_TIMEOUT",
        hide_env = true
    )]
    pub drain_timeout: Duration,

    /// Form of the log: text or json.
    #[arg(long, value_name = "FORM", default_value = "text", env = "LATEBIND_LOG_FORMAT", hide_env = true)]
    pub log_format: LogFormat,

    /// Least level of the log, or a list of target=level.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "LATEBIND_LOG", hide_env = true)]
    pub log: String,
}

/// A directory of manifests as a source of facts.
struct Objects {
    directory: PathBuf,
}

impl Source for Objects {
    type Loaded = Arc<View>;

    fn fingerprint(&self) -> Result<u64, LoadError> {
        Ok(directory_fingerprint(&self.directory)?)
    }

    fn load(&self) -> Result<Arc<View>, LoadError> {
        let loaded = load_directory(&self.directory)?;
        tracing::info!(directory = %self.directory.display(), objects = loaded.objects, "read manifests");
        Ok(loaded.view)
    }
}

impl TlsArgs {
    fn certificate(self, listen: SocketAddr) -> anyhow::Result<(CertificateSource, MinimumVersion)> {
        let Self { tls_cert, tls_key, ca_out, tls_san, tls_min_version } = self;
        if let (Some(certificate), Some(key)) = (tls_cert, tls_key) {
            return Ok((CertificateSource::Files(PairFiles { certificate, key }), tls_min_version));
        }
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !listen.ip().is_unspecified() {
            names.push(listen.ip().to_string());
        }
        names.extend(tls_san);
        names.sort_unstable();
        names.dedup();
        let authority = Authority::new(&names, OffsetDateTime::now_utc())?;
        if let Some(path) = &ca_out {
            authority.write_pem(path).with_context(|| format!("cannot write {}", path.display()))?;
            tracing::info!(file = %path.display(), names = names.join(" "), "wrote the authority's certificate");
        } else {
            tracing::warn!("no client can trust the certificate: write its authority to a file by --ca-out");
        }
        Ok((CertificateSource::Own(Box::new(authority)), tls_min_version))
    }
}

/// Runs it until a signal ends it.
///
/// # Errors
/// When something that is needed is missing or broken at the start, or requests were dropped at the end.
pub fn run(args: &WebhookArgs) -> anyhow::Result<Exit> {
    let WebhookArgs { objects, listen, metrics_listen, mode, exempt_namespace, rules, assume, tls, process } =
        args.clone();
    let ProcessArgs { shutdown_delay, drain_timeout, log_format, log } = process;
    logs::init(log_format, &log)?;
    let (certificate, minimum_version) = tls.certificate(listen)?;
    let exemptions = Exemptions { namespaces: exempt_namespace.into_iter().collect() };
    let options = WebhookOptions {
        listen,
        metrics_listen,
        facts: Objects { directory: objects },
        certificate,
        minimum_version,
        admission: AdmissionOptions {
            rules: rules.rules(assume.assumptions(Assumptions::default())),
            mode,
            exemptions,
            ..AdmissionOptions::default()
        },
        limits: ConnectionLimits::webhook(),
        shutdown_delay,
        drain_timeout,
    };
    // As many threads as the process may use cores, which a container or taskset may limit.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let webhook = Webhook::start(options).await?;
        tracing::info!(address = %webhook.address(), metrics = %webhook.metrics_address(), %mode, "serving");
        webhook.run(shutdown).await?;
        tracing::info!("ended");
        Ok(Exit::Clean)
    })
}
