//! The arguments of `latebind run`, by role.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::cluster::ClusterArgs;
use crate::cli::duration::duration;
use crate::cli::input::RulesArgs;
use crate::cli::webhook::ProcessArgs;
use crate::crd::checked_base;
use crate::policy::Mode;
use crate::rancher;
use crate::tls::MinimumVersion;

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
    /// Fixes claims of Pods that are stuck already, keeps the webhook's certificates current, and provisions volumes.
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
    pub(super) role: Vec<Role>,

    #[command(flatten)]
    pub(super) cluster: ClusterArgs,

    /// Namespace that latebind runs in. Its Secrets are there, and its Pods are left alone.
    #[arg(short, long, value_name = "NAME", default_value = "latebind-system", env = "POD_NAMESPACE", hide_env = true)]
    pub(super) namespace: String,

    #[command(flatten)]
    pub(super) webhook: WebhookRole,

    #[command(flatten)]
    pub(super) controller: ControllerRole,

    #[command(flatten)]
    pub(super) agent: AgentRole,

    #[command(flatten)]
    pub(super) certificates: CertificateRole,

    #[command(flatten)]
    pub(super) rules: RulesArgs,

    /// Address to serve probes and metrics at, without TLS.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9444",
        env = "LATEBIND_METRICS_LISTEN",
        hide_env = true,
        help_heading = "Process"
    )]
    pub(super) metrics_listen: SocketAddr,

    #[command(flatten)]
    pub(super) process: ProcessArgs,
}

/// The webhook.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role webhook")]
pub(super) struct WebhookRole {
    /// Address to serve admission at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443", env = "LATEBIND_LISTEN", hide_env = true)]
    pub(super) listen: SocketAddr,

    /// What to do about a Pod that would wait forever: audit, warn, rewrite or deny. A namespace's label
    /// latebind.dev/mode can make it stricter there. The controller follows it too: in mode audit it only counts, in mode
    /// warn it only tells.
    #[arg(long, value_name = "MODE", default_value_t, env = "LATEBIND_MODE", hide_env = true)]
    pub(super) mode: Mode,

    /// A namespace that is left alone, by the controller too, besides kube-system and latebind's own; repeat it for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_EXEMPT_NAMESPACE", hide_env = true)]
    pub(super) exempt_namespace: Vec<String>,

    /// Do not ask the API server for what a Pod names and is not cached yet: its claims, its node, its namespace.
    #[arg(long, env = "LATEBIND_NO_LIVE_GET", hide_env = true)]
    pub(super) no_live_get: bool,

    /// Keep to drain policies (annotation latebind.dev/drain-policy): on or off. Off refuses no eviction.
    #[arg(long, value_name = "WHEN", default_value = "on", env = "LATEBIND_DRAIN_GUARD", hide_env = true)]
    pub(super) drain_guard: Switch,

    /// A group whose members no drain policy holds up; repeat it for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_DRAIN_EXEMPT_GROUP", hide_env = true)]
    pub(super) drain_exempt_group: Vec<String>,

    /// Server certificate in PEM, with intermediate ones; read again when it changes.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "LATEBIND_TLS_CERT", hide_env = true)]
    pub(super) tls_cert: Option<PathBuf>,

    /// Key of the server certificate in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "LATEBIND_TLS_KEY", hide_env = true)]
    pub(super) tls_key: Option<PathBuf>,

    /// The oldest TLS version that is accepted: 1.2 or 1.3.
    #[arg(long, value_name = "VERSION", default_value = "1.2", env = "LATEBIND_TLS_MIN_VERSION", hide_env = true)]
    pub(super) tls_min_version: MinimumVersion,

    /// Authorities in PEM: clients must present a certificate of one of them. Read at the start.
    #[arg(long, value_name = "FILE", env = "LATEBIND_CLIENT_CA", hide_env = true)]
    pub(super) client_ca: Option<PathBuf>,

    /// A name that the client's certificate must carry, as common or DNS name; repeat it for several.
    #[arg(
        long,
        value_name = "NAME",
        requires = "client_ca",
        value_delimiter = ',',
        env = "LATEBIND_CLIENT_NAME",
        hide_env = true
    )]
    pub(super) client_name: Vec<String>,
}

/// The controller.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role controller")]
pub(super) struct ControllerRole {
    /// Write nothing, and say in the log what would be written.
    #[arg(long, env = "LATEBIND_DRY_RUN", hide_env = true)]
    pub(super) dry_run: bool,

    /// Help Pods that are stuck already: on or off.
    #[arg(long, value_name = "WHEN", default_value = "on", env = "LATEBIND_RESCUE", hide_env = true)]
    pub(super) rescue: Switch,

    /// Keep AdmissionParameter latebind up to date, which is what the policies of profile policy know: on or off. Their
    /// definition must be installed.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "off",
        conflicts_with = "dry_run",
        env = "LATEBIND_POLICY_PARAMETER",
        hide_env = true
    )]
    pub(super) policy_parameter: Switch,

    /// A namespace whose Pods may get existing volumes of nodes with a NoSchedule taint that they do not tolerate; repeat it
    /// for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_TAINTED_NODES_FOR", hide_env = true)]
    pub(super) tainted_nodes_for: Vec<String>,

    /// What to do about claims whose node is gone: off, explain (tell it), or unbind (where a class or volume says so by annotation
    /// latebind.dev/lost-node-policy: keep the volume and have the claim made anew).
    #[arg(long, value_name = "WHAT", default_value = "explain", env = "LATEBIND_LOST_NODES", hide_env = true)]
    pub(super) lost_nodes: LostNodesSwitch,

    /// For how long a node must have been gone before a claim is let go, such as 10m.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, env = "LATEBIND_LOST_NODE_GRACE", hide_env = true)]
    pub(super) lost_node_grace: Duration,

    /// So many nodes may be gone at one time; while there are more, no claim is let go.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, env = "LATEBIND_MOST_LOST_NODES", hide_env = true)]
    pub(super) most_lost_nodes: usize,

    /// Or so many percent of all nodes, if that is more.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u8).range(0..=100),
        env = "LATEBIND_MOST_LOST_NODES_PERCENT",
        hide_env = true
    )]
    pub(super) most_lost_nodes_percent: u8,

    /// Namespace of the Lease by which one of several replicas leads; by default the one that latebind runs in.
    #[arg(long, value_name = "NAME", env = "LATEBIND_LEASE_NAMESPACE", hide_env = true)]
    pub(super) lease_namespace: Option<String>,

    /// Name of the Lease.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "latebind-controller",
        env = "LATEBIND_LEASE_NAME",
        hide_env = true
    )]
    pub(super) lease_name: String,

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
    pub(super) provisioner: Switch,

    /// Serve the classes and volumes of another provisioner too, such as rancher.io/local-path; repeat it for several.
    /// Refused while that provisioner runs. A webhook to which claims are sent must be told as well.
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "LATEBIND_ADOPT", hide_env = true)]
    pub(super) adopt: Vec<String>,

    /// Names of the ConfigMaps that an adopted provisioner is configured with. Classes and volumes whose configuration has
    /// scripts or a helper Pod template of somebody's own are not served; none are while one of these ConfigMaps is not
    /// there, since nobody knows what it said.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = rancher::CONFIG_MAP,
        env = "LATEBIND_ADOPT_CONFIG",
        hide_env = true
    )]
    pub(super) adopt_config: Vec<String>,

    /// What may be lost of an adopted provisioner: scripts (and helper Pod templates) that are not the stock ones; entries
    /// with a sharedFileSystemPath, whose classes are not served then either. See what there is with latebind import
    /// --check.
    #[arg(
        long,
        value_name = "WHAT",
        value_delimiter = ',',
        value_parser = super::super::import::loss,
        env = "LATEBIND_ACCEPT_LOST",
        hide_env = true
    )]
    pub(super) accept_lost: Vec<rancher::Loss>,

    /// A LocalPool that is made if there is none of that name, and a directory that it offers on every node.
    #[arg(long, value_name = "NAME=DIRECTORY", value_parser = pool, env = "LATEBIND_POOL", hide_env = true)]
    pub(super) pool: Option<(String, String)>,

    /// How long the agent of a node may leave an order unanswered before the scheduler is asked for another node.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1m",
        value_parser = duration,
        env = "LATEBIND_AGENT_PATIENCE",
        hide_env = true
    )]
    pub(super) agent_patience: Duration,

    /// Write the phase Bound of new volumes while the controller manager is behind, which lets it bind many claims
    /// sooner: one more write of ours for one less of its 20 a second.
    #[arg(long, env = "LATEBIND_MARK_BOUND", hide_env = true)]
    pub(super) mark_bound: bool,
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
pub(super) enum Switch {
    Off,
    On,
}

/// What is done about claims whose node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LostNodesSwitch {
    Off,
    Explain,
    Unbind,
}

/// The agent.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Role agent")]
pub(super) struct AgentRole {
    /// Name of the Node object that this process runs on.
    #[arg(long, value_name = "NAME", env = "NODE_NAME", hide_env = true)]
    pub(super) node_name: Option<String>,

    /// A directory of the node that volumes may be made beneath; repeat it for several. Pools cannot leave them.
    #[arg(long, value_name = "DIRECTORY", value_delimiter = ',', env = "LATEBIND_BASE_PATH", hide_env = true)]
    pub(super) base_path: Vec<String>,

    /// A directory of the node where volumes of others lie; repeat it for several. Nothing is written there: the agent
    /// looks whether a path that another volume names leads to a directory that is to be removed.
    #[arg(long, value_name = "DIRECTORY", value_delimiter = ',', env = "LATEBIND_OTHER_PATH", hide_env = true)]
    pub(super) other_path: Vec<String>,

    /// A directory of the node whose entries may be whole disks: mount points, devices or links to devices; repeat it for several.
    /// Pools say which of them are offered (`discover`).
    #[arg(long, value_name = "DIRECTORY", value_delimiter = ',', env = "LATEBIND_DISK_PATH", hide_env = true)]
    pub(super) disk_path: Vec<String>,

    /// The node's own root directory, such as /proc/1/root where the agent shares the node's processes. What a pool wants to
    /// be mounted (requireMount) must be what the node has at that path: the mounts of a container may be a copy, which
    /// neither sees a disk that is mounted later nor that one was unmounted. It takes the capability SYS_PTRACE.
    #[arg(long, value_name = "DIRECTORY", env = "LATEBIND_NODE_ROOT", hide_env = true)]
    pub(super) node_root: Option<std::path::PathBuf>,

    /// How many files and directories of deleted volumes are removed in a second, so that others can use the disk too.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 5_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        env = "LATEBIND_UNLINKS_PER_SECOND",
        hide_env = true
    )]
    pub(super) unlinks_per_second: u32,

    /// Remove directories of this cluster that no volume names any more: at most a tenth of the node's volumes an hour,
    /// and only after the controller has found no volume and no claim of theirs. They are reported either way.
    #[arg(long, env = "LATEBIND_REMOVE_ORPHANS", hide_env = true)]
    pub(super) remove_orphans: bool,

    /// How long such a directory must have been known before it may be removed.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        value_parser = duration,
        env = "LATEBIND_ORPHAN_AGE",
        hide_env = true
    )]
    pub(super) orphan_age: Duration,
}

/// Certificates.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Certificates")]
pub(super) struct CertificateRole {
    /// Secret of the server certificate: the webhook reads it, the controller writes it.
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert", env = "LATEBIND_TLS_SECRET", hide_env = true)]
    pub(super) tls_secret: Option<String>,

    /// Secret of the authority; with it the controller keeps authority, certificate and caBundle current.
    #[arg(long, value_name = "NAME", requires = "tls_secret", env = "LATEBIND_AUTHORITY_SECRET", hide_env = true)]
    pub(super) authority_secret: Option<String>,

    /// Name of both webhook configurations, into which the controller writes caBundle.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "zz-latebind",
        env = "LATEBIND_WEBHOOK_CONFIGURATION",
        hide_env = true
    )]
    pub(super) webhook_configuration: String,

    /// Service of the webhook, whose name the certificate carries.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "latebind-webhook",
        env = "LATEBIND_WEBHOOK_SERVICE",
        hide_env = true
    )]
    pub(super) webhook_service: String,

    /// How often certificates are looked at.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(super) certificate_check: Duration,

    /// Life of a server certificate. It is renewed when a third is left.
    #[arg(long, value_name = "TIME", default_value = "2160h", value_parser = duration)]
    pub(super) certificate_life: Duration,

    /// Life of the authority. It is replaced when a third is left.
    #[arg(long, value_name = "TIME", default_value = "8760h", value_parser = duration)]
    pub(super) authority_life: Duration,

    /// From the publication of a new authority until it signs.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) authority_settle: Duration,

    /// From then until the old authority is not trusted any more.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(super) authority_overlap: Duration,
}
