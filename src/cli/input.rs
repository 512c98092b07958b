//! Arguments that subcommands share: what to read, what to assume, and how to pin.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Args, ValueHint};

use super::Exit;
use super::cluster::{ClusterArgs, RequestArgs};
use crate::binding::{AssumedBinding, AssumedNode, AssumedStorage, Assumptions, Cluster, PinStyle, Rules};
use crate::facts::Fact;
use crate::facts::files::{Input, Manifests, Object, Request, Subject};
use crate::facts::server::{ClaimsOf, ServerFacts, live_objects};
use crate::kubernetes::client;
use crate::policy::Requester;
use crate::report::style::{Style, clean};

/// Which manifests to read.
#[derive(Clone, Debug, Args)]
pub struct InputArgs {
    /// Files and directories to look at; - is standard input.
    ///
    /// YAML with any number of documents, and JSON. Objects of the same input are the facts: a claim, class, volume or
    /// Node that is given is known.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE|DIR|-",
        required_unless_present = "paths",
        group = "manifests",
        num_args = 1..,
        value_hint = ValueHint::AnyPath
    )]
    pub filename: Vec<String>,

    /// The same without -f.
    #[arg(value_name = "FILE|DIR|-", group = "manifests", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<String>,

    /// Look into subdirectories too.
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// More objects that count as facts, and are not looked at themselves.
    #[arg(
        long,
        value_name = "FILE|DIR",
        num_args = 1..,
        env = "LATEBIND_OBJECTS",
        hide_env = true,
        value_hint = ValueHint::AnyPath
    )]
    pub objects: Vec<String>,

    /// Namespace of objects that name none, and with --server the one that is looked at where no input is given. The
    /// default is the namespace of the context with --server, else default.
    #[arg(short = 'n', long, value_name = "NAME", env = "LATEBIND_NAMESPACE", hide_env = true)]
    pub namespace: Option<String>,

    /// PinPolicies to judge by, besides those of the input and of the cluster. A policy that an API server would refuse is
    /// an error.
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., value_hint = ValueHint::AnyPath, help_heading = "Policies")]
    pub policy: Vec<String>,

    /// Who creates the Pods that are given, for policies that ask for it: a user, or
    /// system:serviceaccount:NAMESPACE:NAME. Without it that is not known. Pods of workloads are created by their controller.
    #[arg(long, value_name = "USER", help_heading = "Policies")]
    pub requester: Option<String>,

    /// A group of that user; repeat it for several.
    #[arg(long, value_name = "GROUP", requires = "requester", help_heading = "Policies")]
    pub requester_group: Vec<String>,

    /// Every Node of the cluster is in the input: one that is not does not exist. A list of Nodes, as
    /// kubectl get nodes -o yaml writes it, says so by itself.
    #[arg(long)]
    pub nodes_complete: bool,
}

impl InputArgs {
    /// The manifests that are named, with -f or without.
    #[must_use]
    pub fn named(&self) -> &[String] {
        if self.filename.is_empty() { &self.paths } else { &self.filename }
    }

    /// Who creates the Pods that are given, if that is said.
    #[must_use]
    pub fn requester(&self) -> Option<Requester> {
        let user = self.requester.clone()?;
        let mut groups = self.requester_group.clone();
        // The API server adds these by itself.
        groups.push("system:authenticated".to_owned());
        let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        if let Some((namespace, _)) = account {
            groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
        }
        Some(Requester { user, groups })
    }

    /// The files of `--policy` hold policies: a wrong name would otherwise look like a cluster without any.
    fn check_policies(&self, manifests: &Manifests) -> anyhow::Result<()> {
        for name in &self.policy {
            let of_input = |file: &str| file == name || Path::new(file).starts_with(name);
            let mut objects = manifests.objects.iter().filter(|object| of_input(&object.origin.source().name));
            let is_policy =
                |object: &Object| matches!(&object.subject, Subject::Fact(it) if matches!(**it, Fact::PinPolicy(_)));
            if manifests.problems.iter().any(|problem| of_input(&problem.place.file)) {
                bail!("--policy {name}: there is something wrong with it, so nothing is judged");
            }
            if !objects.any(is_policy) {
                bail!("--policy {name}: there is no PinPolicy in it");
            }
        }
        Ok(())
    }

    /// Reads the manifests, and tells on stderr what could not be read. Where a cluster is asked, what it knows are facts
    /// too, and where no manifests are named, its own objects are what is looked at.
    ///
    /// # Errors
    /// When an input that was named cannot be read at all, the cluster cannot be reached, or it refuses.
    pub fn read(&self, server: &ServerArgs, mut namespaces: BTreeSet<String>) -> anyhow::Result<Manifests> {
        let session = server.open()?;
        let of_context = session.as_ref().map(|session| session.config.default_namespace.clone());
        let namespace = self.namespace.clone().or(of_context).unwrap_or_else(|| "default".to_owned());
        let live = self.named().is_empty() && namespaces.is_empty();
        let mut request = Request {
            files: self.named().iter().map(|name| Input::of(name)).collect(),
            objects: self.objects.iter().chain(&self.policy).map(|name| Input::of(name)).collect(),
            recursive: self.recursive,
            namespace: Some(namespace.clone()),
            nodes_complete: self.nodes_complete,
        };
        let Some(session) = session else {
            let manifests = Manifests::read(&request)?;
            tell(&manifests).context("stderr")?;
            self.check_policies(&manifests)?;
            return Ok(manifests);
        };
        session.runtime.block_on(async {
            let client = client::connect(session.config)?;
            let scope = if server.all_namespaces { None } else { Some(namespace.as_str()) };
            if live {
                let selected = live_objects(&client, scope, server.selector.as_deref()).await?;
                request.files = selected.into_iter().map(|(name, text)| Input::Text { name, text }).collect();
            }
            let manifests = Manifests::read(&request)?;
            tell(&manifests).context("stderr")?;
            self.check_policies(&manifests)?;
            namespaces.extend(manifests.namespaces());
            let scope = if live && scope.is_none() { ClaimsOf::All } else { ClaimsOf::Namespaces(namespaces) };
            let read = read_facts(&client, &scope).await?;
            Ok(manifests.within(read.facts))
        })
    }
}

/// Reads the facts of a cluster, and tells on stderr which objects could not be read.
///
/// # Errors
/// When the cluster cannot be reached, or refuses.
pub(super) async fn read_facts(client: &kube::Client, scope: &ClaimsOf) -> anyhow::Result<ServerFacts> {
    let read = ServerFacts::read(client, scope).await?;
    let (style, mut stderr) = (Style::of_stderr(), anstream::stderr().lock());
    for problem in read.malformed.iter().take(MOST_NOTES) {
        writeln!(stderr, "{} the cluster's {}; it counts as absent", style.info("note:"), clean(problem))?;
    }
    Ok(read)
}

/// A dump that is looked at instead of a cluster.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// Look at a dump, and contact nothing: a file, a directory with what is beneath it, or - for standard input.
    ///
    /// What latebind dump, kubectl get -o yaml, kubectl cluster-info dump --output-directory and support bundles write is read.
    #[arg(long, value_name = "DIR|FILE|-", value_hint = ValueHint::AnyPath, conflicts_with_all = ["server", "ClusterArgs", "RequestArgs"])]
    pub from: Option<String>,

    /// Every object of the kinds that the dump holds is in it: one that is not there does not exist.
    #[arg(long, requires = "from")]
    pub complete: bool,
}

/// A cluster whose objects are facts too.
#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "Cluster",
    mut_group("ClusterArgs", |group| group.requires("server")),
    mut_group("RequestArgs", |group| group.requires("server"))
)]
pub struct ServerArgs {
    /// Take facts from the cluster of your kubeconfig too: Nodes, volumes, classes, CSI objects, and the claims of the
    /// namespaces that are looked at. Nothing is written. Where an input has the same object, the cluster's counts; what
    /// neither has does not exist, so nothing needs to be assumed. Without -f the Pods and workloads of the cluster are
    /// looked at. With =ADDRESS it is the API server at that address.
    #[arg(short = 's', long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub server: Option<String>,

    /// Look at the Pods and workloads of all namespaces of the cluster.
    #[arg(short = 'A', long, requires = "server", conflicts_with = "manifests")]
    pub all_namespaces: bool,

    /// Look only at Pods and workloads of the cluster whose labels match, such as app=web,tier!=cache.
    #[arg(short = 'l', long, value_name = "SELECTOR", requires = "server", conflicts_with = "manifests")]
    pub selector: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    request: RequestArgs,
}

/// A cluster that is to be asked.
struct Session {
    runtime: tokio::runtime::Runtime,
    config: kube::Config,
}

impl ServerArgs {
    /// Where the cluster is, if one is to be asked. Nothing is sent yet.
    fn open(&self) -> anyhow::Result<Option<Session>> {
        let Some(address) = &self.server else { return Ok(None) };
        self.request.apply();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let address = (!address.is_empty()).then_some(address.as_str());
        let config = runtime.block_on(self.cluster.config(address))?;
        Ok(Some(Session { runtime, config }))
    }
}

/// A repository may hold hundreds of files that are no manifests.
const MOST_NOTES: usize = 5;

fn tell(manifests: &Manifests) -> std::io::Result<()> {
    let style = Style::of_stderr();
    let mut stderr = anstream::stderr().lock();
    for problem in &manifests.problems {
        writeln!(stderr, "{} {}", style.error("error:"), clean(&problem.to_string()))?;
    }
    for note in manifests.notes.iter().take(MOST_NOTES) {
        writeln!(stderr, "{} {}", style.info("note:"), clean(&note.to_string()))?;
    }
    if let Some(more @ 1..) = manifests.notes.len().checked_sub(MOST_NOTES) {
        writeln!(stderr, "{} {more} more like these", style.info("note:"))?;
    }
    Ok(())
}

/// The exit code for manifests of which some may not have been readable. That wins over findings: what was found may
/// not be all.
#[must_use]
pub fn exit_of(manifests: &Manifests, has_findings: bool) -> Exit {
    match (manifests.problems.is_empty(), manifests.objects.is_empty()) {
        (true, _) if has_findings => Exit::Findings,
        (true, _) => Exit::Clean,
        (false, true) => Exit::Input,
        (false, false) => Exit::Partial,
    }
}

/// What is assumed of objects that are not in the input. The output names each assumption that was used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Assumptions")]
pub struct AssumeArgs {
    /// The kind of cluster: k3s, kind, minikube, microk8s, docker-desktop, eks, gke or aks. Classes that are not in the
    /// input are taken as it ships them.
    #[arg(long, value_name = "KIND", env = "LATEBIND_ASSUME_CLUSTER", hide_env = true)]
    pub assume_cluster: Option<Cluster>,

    /// How a StorageClass binds that is not in the input: delayed, immediate or unknown.
    #[arg(long, value_name = "HOW", default_value_t, env = "LATEBIND_ASSUME_BINDING_MODE", hide_env = true)]
    pub assume_binding_mode: AssumedBinding,

    /// What a Node is that is not in the input: schedulable (ready, no taints, hostname label = name, and with what the
    /// Pod, its volumes and classes ask of it) or unknown. The Pods on it and near it, as far as they are not in the
    /// input, are then taken to let the Pod in. lint and simulate take it to be schedulable, the webhook and
    /// simulate --review to be unknown.
    #[arg(long, value_name = "WHAT", env = "LATEBIND_ASSUME_NODE", hide_env = true)]
    pub assume_node: Option<AssumedNode>,

    /// What volumes, capacities, drivers and ResourceClaimTemplates are that are not in the input: available (a volume
    /// fits, a driver has room, a template exists) or unknown. lint and simulate take them to be available, the webhook and simulate --review to be unknown.
    #[arg(long, value_name = "WHAT", env = "LATEBIND_ASSUME_STORAGE", hide_env = true)]
    pub assume_storage: Option<AssumedStorage>,
}

impl AssumeArgs {
    /// The assumptions, on top of those that the command makes by itself.
    #[must_use]
    pub fn assumptions(&self, by_itself: Assumptions) -> Assumptions {
        Assumptions {
            binding: self.assume_binding_mode,
            node: self.assume_node.unwrap_or(by_itself.node),
            storage: self.assume_storage.unwrap_or(by_itself.storage),
            cluster: self.assume_cluster,
        }
    }
}

/// How Pods are rewritten.
#[derive(Clone, Debug, Args)]
pub struct RulesArgs {
    /// By what a rewritten Pod is tied to its node: auto, hostname or name.
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        env = "LATEBIND_PIN",
        hide_env = true,
        help_heading = "Rules"
    )]
    pub pin: PinStyle,

    /// A scheduler that runs and binds volumes; repeat it for several.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default-scheduler",
        value_delimiter = ',',
        env = "LATEBIND_SCHEDULER",
        hide_env = true,
        help_heading = "Rules"
    )]
    pub scheduler: Vec<String>,
}

impl RulesArgs {
    /// The rules, with what is taken for granted.
    #[must_use]
    pub fn rules(&self, assume: Assumptions) -> Rules {
        Rules { pin: self.pin, schedulers: self.scheduler.clone(), assume }
    }
}
