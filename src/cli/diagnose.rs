//! `latebind diagnose`: why a Pod, a claim, a volume or a node does not move, and what to type next.

mod material;
pub(super) mod text;
mod webhook;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client};
use serde_json::json;

pub(super) use self::material::Material;
use super::Exit;
use super::cluster::ConnectArgs;
use super::input::DumpArgs;
use super::output::{self, Output};
use super::snapshot::Snapshot;
use crate::binding::Severity;
use crate::diagnosis::{Cause, Diagnosis, NotFound, Subject, diagnose, not_surveyed, survey};
use crate::kubernetes::api::if_found;
use crate::report::style::{Style, clean};

const EXAMPLES: &str = "\
Examples:
  # why does this Pod not start?
  latebind diagnose pod/web -n team-a

  # why is this claim Pending; who keeps this volume; what waits on this node?
  latebind diagnose pvc/data
  latebind diagnose pv/pvc-0d6c
  latebind diagnose node/node-a

  # everything that does not move, the oldest first
  latebind diagnose -A

  # and again whenever the answer changes
  latebind diagnose pod/web --watch

  # the same of a dump, without a cluster
  latebind dump -A -o dump
  latebind diagnose --from dump
  kubectl cluster-info dump --all-namespaces --output-directory=info && latebind diagnose --from info

Exit codes:
  0  nothing is blocked; what waits, waits as it should
  1  something is blocked, and the cause is named
  2  a flag or an input is wrong, or there is no such object
  3  the cluster cannot be reached, or refuses
  5  what decides is not known, or some of the input could not be read";

/// How often a cluster is looked at again: some fifteen lists each time.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// Say why a Pod, a claim, a volume or a node does not move, and what to type next
///
/// One cause, from the Pod to its claim, the claim's class, the node and whoever makes the volume: a short text, the lines that
/// speak for it, and the next command. It reads and writes nothing. What you may not read, and what a dump does not hold, is
/// named as not known: nothing is concluded from it. Without an object, everything that does not move is listed, the oldest
/// first. docs/diagnose.md has the causes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DiagnoseArgs {
    /// What to look at: pod/NAME, pvc/NAME, pv/NAME or node/NAME; everything that does not move where it is left out.
    #[arg(value_name = "KIND/NAME")]
    object: Option<String>,

    /// The namespace; by default the one of the context, and of a dump all.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Look at all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "object"])]
    all_namespaces: bool,

    #[command(flatten)]
    dump: DumpArgs,

    /// Look again every five seconds, and print the answer whenever it is another, until it is interrupted.
    #[arg(short, long, conflicts_with = "from")]
    watch: bool,

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

/// Runs it.
pub fn run(args: &DiagnoseArgs) -> anyhow::Result<Exit> {
    let object = args.object.as_deref().map(subject).transpose()?;
    match &args.dump.from {
        Some(name) => {
            let told = args.of_dump(name, object)?;
            args.print(&told)?;
            Ok(exit(&told))
        }
        None => args.of_cluster(object.as_ref()),
    }
}

/// What there is to tell.
struct Told {
    diagnoses: Vec<Diagnosis>,
    /// Of a list, what it may lack.
    not_known: Vec<String>,
    /// Some of the input could not be read.
    is_partial: bool,
}

impl Told {
    /// What makes it another answer: neither ages nor counts of events.
    fn essence(&self) -> Vec<(Subject, Cause, String)> {
        let one = |it: &Diagnosis| (it.subject.clone(), it.cause, it.summary.clone());
        let mut all: Vec<_> = self.diagnoses.iter().map(one).collect();
        all.sort();
        all
    }
}

fn list(told: &Told) -> serde_json::Value {
    json!({
        "apiVersion": "latebind.dev/v1alpha1",
        "kind": "DiagnosisList",
        "latebind": env!("CARGO_PKG_VERSION"),
        "notKnown": told.not_known,
        "items": told.diagnoses,
    })
}

fn exit(told: &Told) -> Exit {
    let any = |is: fn(&Diagnosis) -> bool| told.diagnoses.iter().any(is);
    if told.is_partial || any(|it| it.cause == Cause::NotKnown) {
        Exit::Partial
    } else if any(|it| it.severity == Severity::Error) {
        Exit::Findings
    } else if told.not_known.is_empty() {
        Exit::Clean
    } else {
        // That nothing is blocked can be said only of what is known.
        Exit::Partial
    }
}

/// Kind and name of `pod/web`.
pub(super) fn subject(text: &str) -> anyhow::Result<Subject> {
    let (kind, name) = text
        .split_once('/')
        .filter(|(_, name)| !name.is_empty())
        .with_context(|| format!("{text:?} names no object; write pod/NAME, pvc/NAME, pv/NAME or node/NAME"))?;
    let kind = match kind.to_lowercase().as_str() {
        "pod" | "pods" | "po" => "Pod",
        "pvc" | "persistentvolumeclaim" | "persistentvolumeclaims" => "PersistentVolumeClaim",
        "pv" | "persistentvolume" | "persistentvolumes" => "PersistentVolume",
        "node" | "nodes" | "no" => "Node",
        _ => bail!("{kind:?} is none of pod, pvc, pv and node"),
    };
    Ok(Subject::new(kind, "", name))
}

impl DiagnoseArgs {
    /// What a dump says.
    fn of_dump(&self, name: &str, object: Option<Subject>) -> anyhow::Result<Told> {
        let (material, is_partial) = Material::of_dump(name, self.namespace.clone(), self.dump.complete)?;
        let scope = self.namespace.as_deref();
        let not_known = if object.is_none() { not_surveyed(&material.known(), scope) } else { Vec::new() };
        let diagnoses = match object {
            None => survey(&material.known(), scope),
            Some(subject) => {
                let namespace = self.namespace.clone().unwrap_or_else(|| material.namespace_of(&subject));
                vec![found(&Subject { namespace, ..subject }, &material)?]
            }
        };
        Ok(Told { diagnoses, not_known, is_partial })
    }

    fn print(&self, told: &Told) -> anyhow::Result<()> {
        let is_one = self.object.is_some();
        output::print(&self.output, |format, style, out| {
            match format {
                Format::Text if is_one => {
                    out.extend(told.diagnoses.iter().flat_map(|one| text::whole(one, style).into_bytes()));
                }
                Format::Text => out.extend(text::table(&told.diagnoses, &told.not_known, style).into_bytes()),
                Format::Json => out.extend(output::as_json(&list(told))?.into_bytes()),
                Format::Yaml => out.extend(output::as_yaml(&list(told))?.into_bytes()),
            }
            Ok(())
        })
    }

    /// What a cluster says: once, or whenever it is something else.
    fn of_cluster(&self, object: Option<&Subject>) -> anyhow::Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = self.connect.client().await?;
            let mut told = self.look(&client, object).await?;
            self.print(&told)?;
            if !self.watch {
                return Ok(exit(&told));
            }
            // One that stays the same is told once.
            let mut last_error = String::new();
            loop {
                tokio::time::sleep(LOOK).await;
                match self.look(&client, object).await {
                    Ok(now) => {
                        last_error.clear();
                        if now.essence() != told.essence() {
                            self.print_next(&now)?;
                            told = now;
                        }
                    }
                    // What can't be seen for a while may be seen again; what was told last stands.
                    Err(error) => {
                        let error = format!("{error:#}");
                        if error != last_error {
                            writeln!(anstream::stderr(), "{} {}", Style::of_stderr().error("error:"), clean(&error))?;
                        }
                        last_error = error;
                    }
                }
            }
        })
    }

    /// A line between two answers for people; documents of YAML have their own.
    fn print_next(&self, told: &Told) -> anyhow::Result<()> {
        let on_stdout = self.output.iter().find(|output| output.file.is_none());
        match on_stdout.map(|output| output.format) {
            Some(Format::Text) => {
                let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
                writeln!(std::io::stdout(), "\n---- {now}\n")?;
            }
            Some(Format::Yaml) => writeln!(std::io::stdout(), "---")?,
            Some(Format::Json) | None => {}
        }
        self.print(told)
    }

    async fn look(&self, client: &Client, object: Option<&Subject>) -> anyhow::Result<Told> {
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let scope = self.scope(object, namespace.clone(), client).await?;
        let snapshot = Snapshot::read(client, scope.as_deref()).await?;
        let mut material = Material::of_snapshot(&snapshot);
        material.add_anti_affinity(client).await;
        let is_partial = material.tell_problems()?;
        let scope = scope.as_deref();
        let not_known = if object.is_none() { not_surveyed(&material.known(), scope) } else { Vec::new() };
        let mut diagnoses = match object {
            None => survey(&material.known(), scope),
            Some(subject) => {
                let is_namespaced = matches!(subject.kind.as_str(), "Pod" | "PersistentVolumeClaim");
                let namespace = if is_namespaced { namespace } else { String::new() };
                vec![found(&Subject { namespace, ..subject.clone() }, &material)?]
            }
        };
        webhook::explain(&mut diagnoses, client, &material).await;
        for_cluster(&mut diagnoses, &self.connect);
        Ok(Told { diagnoses, not_known, is_partial })
    }

    /// The namespace to read; none for all.
    async fn scope(&self, object: Option<&Subject>, own: String, client: &Client) -> anyhow::Result<Option<String>> {
        let Some(subject) = object else { return Ok((!self.all_namespaces).then_some(own)) };
        match subject.kind.as_str() {
            "Node" => Ok(None),
            "PersistentVolume" => {
                let api: Api<PersistentVolume> = Api::all(client.clone());
                let volume = if_found(api.get(&subject.name)).await?;
                let claim = volume.and_then(|volume| volume.spec?.claim_ref);
                Ok(Some(claim.and_then(|claim| claim.namespace).unwrap_or(own)))
            }
            _ => Ok(Some(own)),
        }
    }
}

/// Commands are for the cluster that was looked at.
pub(super) fn for_cluster(diagnoses: &mut [Diagnosis], connect: &ConnectArgs) {
    for step in diagnoses.iter_mut().flat_map(|diagnosis| &mut diagnosis.next) {
        step.command = connect.for_cluster(&step.command);
    }
}

/// An object of a namespace that is looked at again and again.
pub(super) struct Asked {
    pub client: Client,
    pub namespace: String,
    pub object: Subject,
}

impl Asked {
    /// What is diagnosed of it now.
    pub async fn look(&self) -> anyhow::Result<Result<Diagnosis, NotFound>> {
        let snapshot = Snapshot::read(&self.client, Some(&self.namespace)).await?;
        let mut material = Material::of_snapshot(&snapshot);
        material.add_anti_affinity(&self.client).await;
        let subject = Subject { namespace: self.namespace.clone(), ..self.object.clone() };
        Ok(diagnose(&subject, &material.known()))
    }
}

fn found(subject: &Subject, material: &Material) -> anyhow::Result<Diagnosis> {
    let reference = subject.reference();
    let place =
        if subject.namespace.is_empty() { String::new() } else { format!(" in namespace {:?}", subject.namespace) };
    diagnose(subject, &material.known()).map_err(|error| match error {
        NotFound::Absent => anyhow::anyhow!("there is no {reference}{place}"),
        NotFound::Unknown(why) => anyhow::anyhow!("{reference}{place} was not found: {why}"),
    })
}
