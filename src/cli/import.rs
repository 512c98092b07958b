//! `latebind import`: other provisioners' configurations as ours.

mod live;
mod print;
mod sig_local;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::Exit;
use super::cluster::ClusterArgs;
use crate::model::is_object_name;
use crate::rancher::{Input, Loss, Product, import_all};

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

  # What becomes of the disks of sig-storage-local-static-provisioner, in the cluster of your kubeconfig:
  latebind import sig-local --check

Exit codes: 0 nothing is lost, 1 something is lost or there is nothing to import, 2 a flag or an input is wrong,
3 the cluster cannot be reached, or refuses";

/// Turn the configuration and classes of another provisioner into LocalPools and classes.
///
/// rancher's local-path provisioner, under whatever name it runs, as k3s, kind and minikube ship it too, and MicroK8s'
/// hostpath provisioner; with `sig-local`, sig-storage-local-static-provisioner for whole disks. Manifests go to standard output; what cannot be kept is named on standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// Whose configuration it is. rancher's and MicroK8s' are known by what they look like.
    #[arg(value_enum, default_value = "rancher", hide_default_value = true)]
    from: From,

    /// Manifests: the classes, and the ConfigMaps with config.json; Deployments tell which belongs to which, and volumes are
    /// looked at. For sig-local the ConfigMaps with storageClassMap, and DaemonSets, which tell the nodes. `-` is standard input. Repeatable. Without any, the cluster of your kubeconfig is read; nothing is written.
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
    SigLocal,
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
    let accepted: BTreeSet<Loss> = args.accept_lost.iter().copied().collect();
    match args.from {
        From::SigLocal => {
            of_rancher_alone(args)?;
            let cluster = args.filename.is_empty().then_some(&args.server);
            sig_local::run(objects(&args.filename)?, cluster, args.check, &accepted)
        }
        // Both are told apart by their classes.
        From::Rancher | From::Microk8s => rancher(args, &accepted),
    }
}

fn rancher(args: &ImportArgs, accepted: &BTreeSet<Loss>) -> anyhow::Result<Exit> {
    let mut input = Input::adopting(args.adopt.iter().cloned());
    input.share_by(args.shared_by.clone());
    if let Some(path) = &args.config {
        input.add_config(&read(path)?);
    }
    for (shown, object) in objects(&args.filename)? {
        input.add(object).context(shown)?;
    }
    if args.filename.is_empty() {
        live::rancher(&args.server, &mut input)?;
    }
    if let Some(product) = args.assume_cluster.filter(|_| input.has_nothing()) {
        for object in product.objects(args.directory.as_deref()) {
            input.add(object)?;
        }
    }
    let made = import_all(&input);
    if args.check {
        let bases = made.base_paths();
        let values = [
            print::list_flag("provisioner.adopt", made.adopt.iter().map(String::as_str)),
            print::list_flag("agent.basePaths", bases.into_iter()),
        ];
        print::check(&made.accounts, accepted, (!made.pools.is_empty()).then(|| values.join(" ")).as_deref())?;
    } else {
        print::manifests(&made.pools, &made.classes)?;
        print::differences(&made.accounts, made.pools.is_empty())?;
    }
    let lost = made.lost(accepted).count();
    Ok(if lost > 0 || made.pools.is_empty() { Exit::Findings } else { Exit::Clean })
}

/// Refuses flags that say nothing about disks.
fn of_rancher_alone(args: &ImportArgs) -> anyhow::Result<()> {
    let given = [
        ("--config", args.config.is_some()),
        ("--adopt", !args.adopt.is_empty()),
        ("--shared-by", args.shared_by.is_some()),
        ("--assume-cluster", args.assume_cluster.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => bail!("{flag} is for rancher's and MicroK8s' provisioners: leave it out with sig-local"),
        None => Ok(()),
    }
}

/// The objects of the files, each with the name of its file.
fn objects(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Value)>> {
    let mut objects = Vec::new();
    for path in files {
        let shown = path.display().to_string();
        let manifests = read(path)?;
        let documents = documents(&manifests).with_context(|| format!("{shown} is not YAML"))?;
        objects.extend(documents.into_iter().flat_map(flat).map(|object| (shown.clone(), object)));
    }
    Ok(objects)
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
