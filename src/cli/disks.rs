//! `latebind disks`: what is offered as a volume of its own, what is not and why; also of the machine that it is typed on.

mod table;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use self::table::{Row, rows, rows_of_machine};
use super::Exit;
use super::cluster::ConnectArgs;
use super::output::{self, Output};
use crate::agent::AllowedBases;
use crate::agent::static_disks::{DiskScope, Rule, look};
use crate::crd::{DiskRule, LocalDisk, LocalNode, VolumeMode};
use crate::kubernetes::api::{in_time, list_all};
use crate::model::is_object_name;
use crate::report::style::clean;

const EXAMPLES: &str = "\
Examples:
  # every disk that the agents have found, and what has become of it
  latebind disks

  # before there is an agent, on the machine itself: what would be offered of /mnt/disks?
  latebind disks --directory /mnt/disks

  # and which devices without a file system or partition?
  latebind disks --directory /dev/disk/by-id --block

  # one could not be cleaned five times; its cable is mended now
  latebind disks retry disk-0123456789abcdef0123456789abcdef

Exit codes:
  0  every disk that was found is offered or in use
  1  one is not offered, not at its place, or could not be cleaned
  2  a flag or an input is wrong
  3  the cluster cannot be reached, or refuses";

/// Say which disks are volumes of their own, which are not, and why
///
/// A LocalPool says where agents look for disks (`discover`). It reads and writes nothing but what it is told to retry.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct DisksArgs {
    #[command(subcommand)]
    command: Option<DisksCommand>,

    /// Only those of this node.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Look at this directory of the machine on which it is typed, instead of asking a cluster: mount points, devices and links to
    /// devices in it. It takes the rights of root. Repeatable.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "node")]
    directory: Vec<String>,

    /// With --directory: names of entries, as patterns.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', requires = "directory")]
    names: Vec<String>,

    /// With --directory: volumes of mode Block.
    #[arg(long, requires = "directory")]
    block: bool,

    /// How to print it: text, json or yaml, with =FILE to write it to a file; repeatable.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "text")]
    output: Vec<Output<Format>>,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum DisksCommand {
    /// Have a disk cleaned again that could not be, so many times that nobody tries any more
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
struct RetryArgs {
    /// The LocalDisk, as `latebind disks` has it.
    #[arg(value_name = "DISK")]
    disk: String,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

/// Runs it.
pub fn run(args: &DisksArgs) -> anyhow::Result<Exit> {
    if let Some(DisksCommand::Retry(retry)) = &args.command {
        return block_on(again(retry));
    }
    let rows = if args.directory.is_empty() { block_on(of_cluster(args))? } else { of_machine(args)? };
    output::print(&args.output, |format, style, out| {
        let text = match format {
            Format::Text => table::text(&rows, style),
            Format::Json => output::as_json(&table::object(&rows))?,
            Format::Yaml => output::as_yaml(&table::object(&rows))?,
        };
        out.extend(text.into_bytes());
        Ok(())
    })?;
    Ok(if rows.iter().all(Row::is_well) { Exit::Clean } else { Exit::Findings })
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn of_cluster(args: &DisksArgs) -> anyhow::Result<Vec<Row>> {
    if let Some(node) = args.node.as_ref().filter(|node| !is_object_name(node)) {
        bail!("{node:?} is not the name of a node");
    }
    let client: Client = args.connect.client().await?;
    let nodes = list_all(&Api::<LocalNode>::all(client.clone())).await.context("reading LocalNodes")?;
    let disks = list_all(&Api::<LocalDisk>::all(client.clone())).await.context("reading LocalDisks")?;
    let volumes: Api<PersistentVolume> = Api::all(client);
    let mut phases = std::collections::BTreeMap::new();
    for volume in in_time(volumes.list(&ListParams::default())).await.context("reading volumes")?.items {
        let phase = volume.status.and_then(|status| status.phase).unwrap_or_default();
        phases.insert(volume.metadata.name.unwrap_or_default(), phase);
    }
    let mut rows = rows(&nodes, &disks, &phases);
    if let Some(node) = &args.node {
        rows.retain(|row| row.node == *node);
    }
    Ok(rows)
}

fn of_machine(args: &DisksArgs) -> anyhow::Result<Vec<Row>> {
    let scope = DiskScope::new(AllowedBases::new(&args.directory).context("--directory")?);
    let volume_mode = if args.block { VolumeMode::Block } else { VolumeMode::Filesystem };
    let mut all = Vec::new();
    for directory in &args.directory {
        let rule =
            DiskRule { directory: directory.clone(), names: args.names.clone(), volume_mode, ..DiskRule::default() };
        all.extend(look(&scope, directory, &[Rule { pool: "", rule: &rule }]));
    }
    crate::agent::static_disks::mark_duplicates(&mut all);
    Ok(rows_of_machine(&all))
}

async fn again(args: &RetryArgs) -> anyhow::Result<Exit> {
    use std::io::Write as _;

    if !is_object_name(&args.disk) {
        bail!("{:?} is not the name of a LocalDisk", args.disk);
    }
    let disks: Api<LocalDisk> = Api::all(args.connect.client().await?);
    let disk = match in_time(disks.get(&args.disk)).await {
        Ok(disk) => disk,
        Err(error) if error.is_not_found() => bail!("there is no LocalDisk {}: `latebind disks` lists them", args.disk),
        Err(error) => return Err(error.into()),
    };
    let patch = json!({ "metadata": { "resourceVersion": disk.metadata.resource_version },
        "spec": { "retries": disk.spec.retries.saturating_add(1) } });
    in_time(disks.patch(&args.disk, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    writeln!(anstream::stdout(), "{} of node {} is tried again", clean(&disk.spec.path), clean(&disk.spec.node_name))?;
    Ok(Exit::Clean)
}
