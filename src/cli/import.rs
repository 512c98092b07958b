//! `latebind import`: other provisioners' configurations as ours.

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::{Exit, style};
use crate::rancher::{Config, import};

/// Larger than any ConfigMap can be.
const MAX_BYTES: u64 = 4 << 20;

const EXAMPLES: &str = "\
Examples:
  # From a cluster:
  kubectl -n local-path-storage get -o yaml configmap/local-path-config storageclass/local-path |
    latebind import rancher -f - > new.yaml

  # From a bare config.json:
  latebind import rancher --config config.json -f class.yaml";

/// Translate the configuration of another provisioner.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    Rancher(RancherArgs),
}

/// Turn rancher's config.json and its classes into LocalPools and classes.
///
/// Manifests go to standard output; what cannot be kept is named on standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct RancherArgs {
    /// The bare config.json, if no ConfigMap with it is among the files.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Manifests: the classes, and the ConfigMap with config.json; `-` is standard input. Repeatable.
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
}

/// Runs it.
pub fn run(args: &ImportArgs) -> anyhow::Result<Exit> {
    let From::Rancher(args) = &args.from;
    let mut text = args.config.as_ref().map(read).transpose()?;
    let mut classes: Vec<StorageClass> = Vec::new();
    for path in &args.filename {
        let shown = path.display();
        let manifests = read(path)?;
        for document in documents(&manifests).with_context(|| format!("{shown} is not YAML"))? {
            for object in flat(document) {
                match object["kind"].as_str() {
                    Some("StorageClass") => {
                        let class = serde_json::from_value(object);
                        classes.push(class.with_context(|| format!("{shown}: a StorageClass cannot be read"))?);
                    }
                    Some("ConfigMap") if text.is_none() => {
                        text = object["data"]["config.json"].as_str().map(str::to_owned);
                    }
                    _ => {}
                }
            }
        }
    }
    let Some(text) = text else {
        bail!("there is no config.json: give --config, or the ConfigMap that holds it");
    };
    if classes.is_empty() {
        bail!("there is no StorageClass in the files: the pools take their names from them");
    }
    let made = import(&Config::parse(&text)?, &classes);
    let mut out = anstream::stdout().lock();
    for pool in &made.pools {
        write!(out, "---\n{}", serde_saphyr::to_string(pool)?)?;
    }
    for class in &made.classes {
        write!(out, "---\n{}", serde_saphyr::to_string(class)?)?;
    }
    for note in &made.notes {
        writeln!(anstream::stderr(), "note: {}", style::clean(note))?;
    }
    Ok(if made.pools.is_empty() { Exit::Findings } else { Exit::Clean })
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
