//! `latebind plan drain`: which Pods of a node start elsewhere, and which wait for it.

use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use kube::Client;
use kube::api::{ApiResource, ListParams};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::text;
use crate::binding::{self, ClusterView, LayeredView, Lookup};
use crate::cli::Exit;
use crate::cli::cluster::ConnectArgs;
use crate::cli::diagnose::Material;
use crate::cli::input::DumpArgs;
use crate::cli::output::{self, Output};
use crate::cli::snapshot::{MOST_OBJECTS, Snapshot};
use crate::diagnosis::{Kind, Known};
use crate::drain::{DrainFacts, DrainPlan, Outcome, plan};
use crate::facts::server::list_objects;
use crate::model::{Claim, Pod, is_object_name};

const EXAMPLES: &str = "\
Examples:
  # before node-a is rebooted or retired: what starts elsewhere, and what waits for it?
  latebind plan drain node-a

  # does a drain take anything down?
  latebind plan drain node-a -o json=plan.json || echo 'yes'

  # the same of a dump, without a cluster
  latebind dump -A -o dump
  latebind plan drain node-a --from dump

Exit codes:
  0  whatever is evicted can start on another node
  1  a Pod would stay Pending, or would not be made again, or a PodDisruptionBudget keeps it from being evicted
  2  a flag or an input is wrong, or there is no such node
  3  the cluster cannot be reached, or refuses
  5  what decides is not known, or some of the input could not be read";

/// Say what a drain of a node does to its Pods: which start on another node, which wait for this one, and what holds them
///
/// kubectl drain evicts Pods, and does not tell that a local volume keeps what is made in their place Pending until the node is
/// back. It reads and writes nothing. What you may not read, and what a dump does not hold, is named as not known.
/// docs/drain.md has the outcomes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DrainArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    dump: DumpArgs,

    /// How to print it: text, json or yaml, with =FILE to write it to a file; repeatable.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "text")]
    output: Vec<Output<Format>>,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

/// The plan with what its readers know it by.
fn object(plan: &DrainPlan) -> anyhow::Result<Value> {
    let mut object = json!({
        "apiVersion": "latebind.dev/v1alpha1",
        "kind": "DrainPlan",
        "latebind": env!("CARGO_PKG_VERSION"),
    });
    json_patch::merge(&mut object, &serde_json::to_value(plan)?);
    Ok(object)
}

fn exit(plan: &DrainPlan, is_partial: bool) -> Exit {
    // That nothing is taken down can be said only of what is known.
    let is_unsure = is_partial || !plan.not_known.is_empty() || plan.count(|it| it == Outcome::NotKnown) > 0;
    match (is_unsure, plan.is_harmful()) {
        (true, _) => Exit::Partial,
        (false, true) => Exit::Findings,
        (false, false) => Exit::Clean,
    }
}

/// Runs it.
pub fn run(args: &DrainArgs) -> anyhow::Result<Exit> {
    if !is_object_name(&args.node) {
        bail!("{:?} is not the name of a node", args.node);
    }
    let (plan, is_partial) = if let Some(name) = &args.dump.from {
        args.of_dump(name)?
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(args.of_cluster())?
    };
    output::print(&args.output, |format, style, out| {
        let text = match format {
            Format::Text => text::whole(&plan, style, |command| args.connect.for_kubectl(command)),
            Format::Json => output::as_json(&object(&plan)?)?,
            Format::Yaml => output::as_yaml(&object(&plan)?)?,
        };
        out.extend(text.into_bytes());
        Ok(())
    })?;
    Ok(exit(&plan, is_partial))
}

impl DrainArgs {
    fn of_dump(&self, name: &str) -> anyhow::Result<(DrainPlan, bool)> {
        let (material, is_partial) = Material::of_dump(name, None, self.dump.complete)?;
        let known = material.known();
        let here = known.record.pods().filter(|pod| pod.pinned_node() == Some(&self.node));
        let pods = PodsOfNode { known: here.cloned().collect(), missing: known.missing(Kind::Pods, "") };
        Ok((planned(&self.node, &material, pods, is_partial)?, is_partial))
    }

    async fn of_cluster(&self) -> anyhow::Result<(DrainPlan, bool)> {
        let client = self.connect.client().await?;
        let material = Material::of_snapshot(&Snapshot::of_storage(&client).await?);
        let is_partial = material.tell_problems()?;
        let pods = PodsOfNode::read(&client, &self.node).await?;
        Ok((planned(&self.node, &material, pods, is_partial)?, is_partial))
    }
}

/// The Pods of a node.
struct PodsOfNode {
    known: Vec<Arc<Pod>>,
    /// Why there may be more.
    missing: Option<String>,
}

impl PodsOfNode {
    async fn read(client: &Client, node: &str) -> anyhow::Result<Self> {
        let kind = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let read = list_objects(client, &kind, None, params, MOST_OBJECTS).await?;
        let mut missing = (!read.is_whole).then(|| "there are too many Pods, and only the first were read".to_owned());
        let mut known = Vec::with_capacity(read.objects.len());
        for object in read.objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            match Pod::deserialize(&serde_json::to_value(object)?) {
                Ok(pod) => known.push(Arc::new(pod)),
                Err(error) => missing = Some(format!("pod/{name} could not be read: {error}")),
            }
        }
        Ok(Self { known, missing })
    }
}

/// The facts of decisions, which do not tell that a claim is absent, with what lists tell of claims.
struct WithLists<'a>(Known<'a>);

impl LayeredView for WithLists<'_> {
    fn beneath(&self) -> &dyn ClusterView {
        self.0.view
    }

    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        self.0.claim(namespace, name)
    }
}

fn planned(name: &str, material: &Material, here: PodsOfNode, is_partial: bool) -> anyhow::Result<DrainPlan> {
    let known = material.known();
    let node = match known.node(name) {
        Lookup::Found(node) => node,
        Lookup::Absent => bail!("there is no node/{name}"),
        Lookup::Unknown => {
            let why = known.missing(Kind::Nodes, "").unwrap_or_default();
            bail!("node/{name} was not found: {why}")
        }
    };
    let with_lists = WithLists(known);
    let facts = DrainFacts {
        // Of what could not all be read nothing is absent.
        view: if is_partial { known.view } else { &with_lists },
        node: &node,
        others: known.record.nodes().map(AsRef::as_ref).filter(|other| other.name() != name).collect(),
        // A Node that could not be read may be the one that would do.
        are_all: known.view.knows_all(binding::Kind::Nodes) && !is_partial,
        pods: here.known.iter().map(AsRef::as_ref).collect(),
        budgets: known.record.knows(Kind::Budgets, "").then(|| known.record.budgets().iter().collect()),
    };
    let mut plan = plan(&facts, here.missing.into_iter().collect());
    // Kinds of which all that is asked for was found are not missed.
    if plan.count(|it| it == Outcome::NotKnown) > 0 {
        plan.not_known
            .extend([Kind::Nodes, Kind::Volumes, Kind::Claims].into_iter().filter_map(|kind| known.missing(kind, "")));
    }
    Ok(plan)
}
