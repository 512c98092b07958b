//! `latebind import`: other provisioners' configurations as ours.

mod live;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Exit;
use super::cluster::ClusterArgs;
use crate::model::is_object_name;
use crate::rancher::{Account, Import, Input, Loss, Outcome, Product, import_all};
use crate::report::style::{Style, clean};

/// Larger than any ConfigMap can be.
const MAX_BYTES: u64 = 4 << 20;

const EXAMPLES: &str = "\
Examples:
  # What would be kept, what changes and what would be lost, in the cluster of your kubeconfig:
  latebind import --check

  # From a cluster:
  kubectl -n local-path-storage get -o yaml configmap/local-path-config storageclass/local-path |
    latebind import rancher -f - > new.yaml

  # From a k3s cluster, before or after its server was started with --disable=local-storage:
  latebind import --assume-cluster k3s > new.yaml

  # From a bare config.json:
  latebind import rancher --config config.json -f class.yaml

Exit codes: 0 nothing is lost, 1 something is lost or there is nothing to import, 2 a flag or an input is wrong,
3 the cluster cannot be reached, or refuses";

/// Turn the configuration and classes of another provisioner into LocalPools and classes.
///
/// rancher's local-path provisioner, under whatever name it runs, as k3s, kind and minikube ship it too, and MicroK8s'
/// hostpath provisioner. Manifests go to standard output; what cannot be kept is named on standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// Whose configuration it is; each is known by what it looks like.
    #[arg(value_enum, default_value = "rancher", hide_default_value = true)]
    from: From,

    /// Manifests: the classes, and the ConfigMaps with config.json; Deployments tell which belongs to which, and volumes are
    /// looked at. `-` is standard input. Repeatable. Without any, the cluster of your kubeconfig is read; nothing is written.
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// The bare config.json, if no ConfigMap with it is among the files.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Classes of this provisioner are imported too: a name that was given to rancher's provisioner. Repeatable.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    adopt: Vec<String>,

    /// The node whose agent makes and removes the directories of a sharedFileSystemPath, which is the same on every node. Without
    /// it such a path is named as lost.
    #[arg(long, value_name = "NODE", value_parser = node_name)]
    shared_by: Option<String>,

    /// Only say what would be kept, what changes and what would be lost: a line each.
    #[arg(long)]
    check: bool,

    /// What may be lost: scripts (and helper Pod templates), parameters (of classes), entries (classes, ConfigMaps and
    /// entries of theirs). It is named all the same. Repeatable.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = loss)]
    accept_lost: Vec<Loss>,

    /// The kind of cluster: k3s, kind, minikube or microk8s. Where neither class nor configuration is found, both are taken
    /// as it ships them.
    #[arg(long, value_name = "KIND", value_parser = product)]
    assume_cluster: Option<Product>,

    /// The directory in place of the one that --assume-cluster ships, such as k3s' --default-local-storage-path.
    #[arg(long, value_name = "DIRECTORY", requires = "assume_cluster")]
    directory: Option<String>,

    #[command(flatten)]
    server: ClusterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    Rancher,
    Microk8s,
}

pub(super) fn loss(word: &str) -> Result<Loss, String> {
    let words = Loss::ALL.map(Loss::word).join(", ");
    Loss::ALL.into_iter().find(|loss| loss.word() == word).ok_or_else(|| format!("one of {words}"))
}

fn node_name(word: &str) -> Result<String, &'static str> {
    if is_object_name(word) { Ok(word.to_owned()) } else { Err("that is no name of a node") }
}

fn product(word: &str) -> Result<Product, String> {
    let words = Product::ALL.map(Product::name).join(", ");
    Product::ALL.into_iter().find(|product| product.name() == word).ok_or_else(|| format!("one of {words}"))
}

/// Runs it.
pub fn run(args: &ImportArgs) -> anyhow::Result<Exit> {
    // Both are told apart by their classes.
    let (From::Rancher | From::Microk8s) = args.from;
    let mut input = Input::adopting(args.adopt.iter().cloned());
    input.share_by(args.shared_by.clone());
    if let Some(path) = &args.config {
        input.add_config(&read(path)?);
    }
    for path in &args.filename {
        let shown = path.display();
        let manifests = read(path)?;
        for document in documents(&manifests).with_context(|| format!("{shown} is not YAML"))? {
            for object in flat(document) {
                input.add(object).with_context(|| shown.to_string())?;
            }
        }
    }
    if args.filename.is_empty() {
        live::read(&args.server, &mut input)?;
    }
    if let Some(product) = args.assume_cluster.filter(|_| input.has_nothing()) {
        for object in product.objects(args.directory.as_deref()) {
            input.add(object)?;
        }
    }
    let made = import_all(&input);
    let accepted: BTreeSet<Loss> = args.accept_lost.iter().copied().collect();
    if args.check {
        report(&made, &accepted)?;
    } else {
        write(&made)?;
    }
    let lost = made.lost(&accepted).count();
    Ok(if lost > 0 || made.pools.is_empty() { Exit::Findings } else { Exit::Clean })
}

/// The manifests, and what is to be said of them.
fn write(made: &Import) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    for pool in &made.pools {
        write!(out, "---\n{}", serde_saphyr::to_string(pool)?)?;
    }
    for class in &made.classes {
        write!(out, "---\n{}", serde_saphyr::to_string(class)?)?;
    }
    let (style, mut err) = (Style::of_stderr(), anstream::stderr());
    // What is lost stands last, where it is seen.
    let mut differ: Vec<&Account> = made.accounts.iter().filter(|it| it.outcome != Outcome::Kept).collect();
    differ.sort_by_key(|it| matches!(it.outcome, Outcome::Lost(_)));
    for account in differ {
        let text = clean(&account.to_string()).into_owned();
        match account.outcome {
            Outcome::Lost(loss) => {
                writeln!(err, "{} {text} (--accept-lost {})", style.error("lost:"), loss.word())?;
            }
            _ => writeln!(err, "{} {text}", style.info("note:"))?,
        }
    }
    if made.pools.is_empty() {
        writeln!(err, "{} there is nothing to import", style.error("error:"))?;
    }
    Ok(())
}

/// A line for each thing, and what the chart has to be told.
fn report(made: &Import, accepted: &BTreeSet<Loss>) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    let mut sorted: Vec<&Account> = made.accounts.iter().collect();
    sorted.sort_by_key(|account| account.outcome);
    for account in &sorted {
        let (place, note) = (clean(&account.place), clean(&account.note));
        let colon = if note.is_empty() { "" } else { ": " };
        writeln!(out, "{:<10}  {place}{colon}{note}", account.outcome.word())?;
    }
    let count = |word: &str| made.accounts.iter().filter(|account| account.outcome.word() == word).count();
    let counts = ["kept", "changed", "not needed", "left alone", "lost"].map(|word| format!("{} {word}", count(word)));
    writeln!(out, "{}", counts.join(", "))?;
    let left = made.lost(accepted).count();
    if left < count("lost") {
        writeln!(out, "{} of what is lost is accepted", count("lost") - left)?;
    }
    if made.pools.is_empty() {
        writeln!(out, "there is nothing to import")?;
        return Ok(());
    }
    let join = |names: Vec<&str>| clean(&names.join(",")).into_owned();
    let adopt = join(made.adopt.iter().map(String::as_str).collect());
    let bases = join(made.base_paths().into_iter().collect());
    writeln!(out, "chart values: --set provisioner.adopt={{{adopt}}} --set agent.basePaths={{{bases}}}")?;
    Ok(())
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    let shown = path.display();
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?)
    };
    let mut text = String::new();
    source.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{shown} has more than {MAX_BYTES} bytes: is it the right file?");
    }
    Ok(text)
}

fn documents(text: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    serde_saphyr::from_multiple(text)
}

/// A List as its items.
fn flat(document: Value) -> Vec<Value> {
    match document {
        Value::Object(mut object)
            if object.get("kind").and_then(Value::as_str).is_some_and(|it| it.ends_with("List")) =>
        {
            match object.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    }
}
