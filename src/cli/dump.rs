//! `latebind dump`: what a diagnosis looks at, as files that can be handed on.

mod cut;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueHint};
use serde_json::{Value, json};

use super::Exit;
use super::cluster::ConnectArgs;
use super::snapshot::{List, Snapshot};
use crate::report::style::{Style, clean};

/// Group of the index file's object.
pub(super) const GROUP: &str = "latebind.dev";
/// Its kind.
pub(super) const KIND: &str = "Dump";

const EXAMPLES: &str = "\
Examples:
  # what is needed to diagnose one namespace, and then do it
  latebind dump -n team-a -o dump
  latebind diagnose --from dump

  # the whole cluster, to attach to an issue
  latebind dump -A -o dump && tar czf dump.tgz dump

Exit codes: 0 everything was read, 2 a flag is wrong or the directory is not empty, 3 the cluster cannot be reached or
refuses everything, 5 some kinds could not be read; the rest was written";

/// Write what a diagnosis looks at into a directory, for latebind diagnose --from
///
/// Pods, claims, volumes, classes, Nodes, events, Leases and the objects of latebind, as lists of the API server. Of each object
/// only the fields that a diagnosis reads are written: no environment, command or arguments of containers, no parameters of
/// classes and drivers, no annotation that is not about volumes. Secrets and ConfigMaps are never read. Events are written as
/// they are: look at their messages before you hand the dump on.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DumpArgs {
    /// The namespace; by default the one of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// The directory to write to. It is made, or must be empty.
    #[arg(short, long, value_name = "DIR", default_value = "latebind-dump", value_hint = ValueHint::DirPath)]
    output: PathBuf,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs it.
pub fn run(args: &DumpArgs) -> anyhow::Result<Exit> {
    let directory = &args.output;
    let found = std::fs::read_dir(directory);
    if found.is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{}: the directory is not empty; name another one with -o", directory.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let snapshot = runtime.block_on(async {
        let client = args.connect.client().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let scope = (!args.all_namespaces).then_some(namespace);
        Ok::<_, anyhow::Error>(Snapshot::read(&client, scope.as_deref()).await?)
    })?;
    let objects = write(&snapshot, directory)?;
    let style = Style::of_stderr();
    for missing in &snapshot.not_read {
        writeln!(anstream::stderr(), "{} {}", style.warning("not read:"), clean(&missing.why))?;
    }
    let shown = directory.display().to_string();
    writeln!(anstream::stdout(), "{objects} objects in {}; latebind diagnose --from {}", clean(&shown), clean(&shown))?;
    let is_whole = snapshot.not_read.is_empty() && snapshot.lists.iter().all(|list| list.is_whole);
    Ok(if is_whole { Exit::Clean } else { Exit::Partial })
}

/// Writes the lists and the index. Answers how many objects.
fn write(snapshot: &Snapshot, directory: &Path) -> anyhow::Result<usize> {
    for list in snapshot.lists.iter().filter(|list| !list.objects.is_empty() || list.namespace.is_some()) {
        let folder =
            list.namespace.as_ref().map_or_else(|| directory.to_owned(), |namespace| directory.join(namespace));
        file(&folder, &format!("{}.json", list.kind.plural), &of_list(list))?;
    }
    file(directory, "dump.json", &index(snapshot))?;
    Ok(snapshot.lists.iter().map(|list| list.objects.len()).sum())
}

fn file(folder: &Path, name: &str, object: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(object)? + "\n";
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// A list as the API server writes it, but for what is cut. The version says that it holds everything, so that a part has none.
fn of_list(list: &List) -> Value {
    let is_everything = list.is_whole && list.about.is_none();
    let version = if is_everything { list.resource_version.as_str() } else { "" };
    let items: Vec<Value> = list.objects.iter().map(|object| cut::cut(&list.kind.kind, object)).collect();
    json!({
        "apiVersion": list.kind.api_version,
        "kind": format!("{}List", list.kind.kind),
        "metadata": {"resourceVersion": version},
        "items": items,
    })
}

/// When the dump was taken, of what it holds everything, and what could not be read.
fn index(snapshot: &Snapshot) -> Value {
    let named = |list: &&List| json!({"group": list.kind.group, "kind": list.kind.kind});
    let everywhere = snapshot.lists.iter().filter(|list| list.is_whole && list.namespace.is_none());
    let not_read = snapshot.not_read.iter();
    let not_read = not_read.map(|it| json!({"group": it.kind.group, "kind": it.kind.kind, "why": it.why}));
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": KIND,
        "metadata": {"name": "dump"},
        "latebind": env!("CARGO_PKG_VERSION"),
        "taken": snapshot.taken.to_string(),
        "everywhere": everywhere.map(|list| named(&list)).collect::<Vec<_>>(),
        "clusterEvents": snapshot.lists.iter().any(|list| list.about.is_some() && list.is_whole),
        "notRead": not_read.collect::<Vec<_>>(),
    })
}
