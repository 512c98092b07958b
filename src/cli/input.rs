//! Arguments that subcommands share: what to read, what to assume, and how to pin.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Exit;
use super::run::ClusterArgs;
use super::style::{Style, clean};
use crate::binding::{PinStyle, Rules};
use crate::cluster::assume::{AssumedBinding, AssumedNode, Assumptions};
use crate::cluster::manifests::{Input, Manifests, Request};
use crate::cluster::server::ServerFacts;

/// Which manifests to read.
#[derive(Clone, Debug, Args)]
pub struct InputArgs {
    /// Files and directories to look at; - is standard input.
    ///
    /// YAML with any number of documents, and JSON. Objects of the same input are the facts: a claim, class, volume or
    /// Node that is given is known.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", required = true, num_args = 1..)]
    pub filename: Vec<String>,

    /// Look into subdirectories too.
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// More objects that count as facts, and are not looked at themselves.
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., env = "LATEBIND_OBJECTS", hide_env = true)]
    pub objects: Vec<String>,

    /// Namespace of objects that name none.
    #[arg(
        short = 'n',
        long,
        value_name = "NAME",
        default_value = "default",
        env = "LATEBIND_NAMESPACE",
        hide_env = true
    )]
    pub namespace: String,
}

impl InputArgs {
    /// Reads the manifests, and tells on stderr what could not be read.
    ///
    /// # Errors
    /// When an input that was named cannot be read at all.
    pub fn read(&self) -> anyhow::Result<Manifests> {
        let request = Request {
            files: self.filename.iter().map(|name| Input::of(name)).collect(),
            objects: self.objects.iter().map(|name| Input::of(name)).collect(),
            recursive: self.recursive,
            namespace: Some(self.namespace.clone()),
        };
        let manifests = Manifests::read(&request)?;
        tell(&manifests).context("stderr")?;
        Ok(manifests)
    }
}

/// A cluster whose objects are facts too.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ServerArgs {
    /// Take facts from the cluster of your kubeconfig too: Nodes, volumes, classes, CSI objects, and the claims of the
    /// namespaces that are looked at. Nothing is written. Where an input has the same object, the cluster's counts; what
    /// neither has does not exist, so nothing needs to be assumed.
    #[arg(long)]
    pub server: bool,

    /// The kubeconfig file; otherwise KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME", requires = "server")]
    pub context: Option<String>,
}

impl ServerArgs {
    /// Adds what the cluster knows, and tells on stderr what could not be read of it.
    ///
    /// # Errors
    /// When the cluster cannot be reached, or refuses.
    pub fn add_to(&self, manifests: Manifests, mut namespaces: BTreeSet<String>) -> anyhow::Result<Manifests> {
        if !self.server {
            return Ok(manifests);
        }
        let cluster = ClusterArgs { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        namespaces.extend(manifests.namespaces());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let read = runtime.block_on(async {
            let client = cluster.client().await?;
            anyhow::Ok(ServerFacts::read(&client, &namespaces).await?)
        })?;
        let (style, mut stderr) = (Style::of_stderr(), anstream::stderr().lock());
        for problem in read.malformed.iter().take(MOST_NOTES) {
            writeln!(stderr, "{} the cluster's {}; it counts as absent", style.info("note:"), clean(problem))?;
        }
        Ok(manifests.within(read.facts))
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
pub struct AssumeArgs {
    /// How a StorageClass binds that is not in the input: delayed, immediate or unknown.
    #[arg(
        long,
        value_name = "HOW",
        default_value_t,
        env = "LATEBIND_ASSUME_BINDING_MODE",
        hide_env = true,
        help_heading = "Assumptions"
    )]
    pub assume_binding_mode: AssumedBinding,

    /// What a Node is that is not in the input: schedulable (ready, no taints, hostname label = name) or unknown.
    #[arg(
        long,
        value_name = "WHAT",
        default_value_t,
        env = "LATEBIND_ASSUME_NODE",
        hide_env = true,
        help_heading = "Assumptions"
    )]
    pub assume_node: AssumedNode,
}

impl AssumeArgs {
    /// The assumptions.
    #[must_use]
    pub const fn assumptions(&self) -> Assumptions {
        Assumptions { binding: self.assume_binding_mode, node: self.assume_node }
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
    /// The rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules { pin: self.pin, schedulers: self.scheduler.clone(), ..Rules::default() }
    }
}
