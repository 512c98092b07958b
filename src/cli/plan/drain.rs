//! `latebind plan drain`: which Pods of a node start elsewhere, and which wait for it.

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::Exit;
use crate::cli::cluster::ConnectArgs;
use crate::cli::drain::facts::DrainMaterial;
use crate::cli::drain::text;
use crate::cli::input::DumpArgs;
use crate::cli::output::{self, Output};
use crate::drain::{DrainPlan, Outcome};
use crate::model::is_object_name;

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
  1  a Pod would stay Pending, or would not be made again, or a PodDisruptionBudget or a drain policy keeps it from being evicted
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
    let material = if let Some(dump) = &args.dump.from {
        DrainMaterial::of_dump(&args.node, dump, args.dump.complete)?
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { DrainMaterial::of_cluster(&args.connect.client().await?, &args.node).await })?
    };
    let (plan, is_partial) = (material.planned(|_, plan| plan)?, material.is_partial);
    output::print(&args.output, |format, style, out| {
        let text = match format {
            Format::Text => text::whole(&plan, style, |command| args.connect.for_cluster(command)),
            Format::Json => output::as_json(&object(&plan)?)?,
            Format::Yaml => output::as_yaml(&object(&plan)?)?,
        };
        out.extend(text.into_bytes());
        Ok(())
    })?;
    Ok(exit(&plan, is_partial))
}
