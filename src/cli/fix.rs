//! `latebind fix`: what the rescue loop would write for a stuck Pod's claims, once, with the user's own rights.

use std::io::Write as _;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::Exit;
use super::ask::agreed;
use super::cluster::ConnectArgs;
use super::diagnose::{Material, subject};
use super::snapshot::Snapshot;
use crate::controllers::rescue::Writer;
use crate::controllers::rescue::plan::{Past, Plan, Step, Write, plan, told_only};
use crate::diagnosis::{Kind, Known, ProvisionerReport, Subject};
use crate::kubernetes::api::{Failure, deadline};
use crate::model::{Claim, SELECTED_NODE};
use crate::policy::Mode;
use crate::report::style::{Style, clean, wrap};

const EXAMPLES: &str = "\
Examples:
  # show what would be written for the claims of a stuck Pod, and why that is safe
  latebind fix pod/web -n team-a --dry-run=client

  # have the API server check it too, and then do it
  latebind fix pod/web -n team-a --dry-run=server
  latebind fix pod/web -n team-a --yes

Exit codes:
  0  written, or nothing has to be; with --dry-run, it could be
  1  nothing may be written, and the reason is printed
  2  a flag is wrong, there is no such object, or nobody said yes
  3  the cluster cannot be reached, or refuses the write";

/// Width of paragraphs.
const WIDTH: usize = 96;
/// The pauses that the rescue loop makes are over when a person asks.
const LONG_AGO: Duration = Duration::from_secs(24 * 60 * 60);

/// Start a Pod that is stuck, as the rescue loop would: order a volume for its node, or reserve one
///
/// The decision is that of the rescue loop, taken once, and carried out with your own rights. It shows what it writes and why that
/// is safe, and asks before it does. It writes to claims and volumes only, never to Pods, and deletes nothing. Every write fails if
/// what was decided on has changed meanwhile. Where nothing may be written, it says why.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FixArgs {
    /// What to fix: pod/NAME, with all its claims, or pvc/NAME.
    #[arg(value_name = "KIND/NAME")]
    object: String,

    /// Write nothing: only show it (client), or have the API server check it too (server).
    #[arg(long, value_name = "HOW", default_value = "none")]
    dry_run: DryRun,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Write even where the cluster does not let you list its PinPolicies, one of which may not allow the Pod's node.
    #[arg(long)]
    accept_unknown_policies: bool,

    /// The namespace; by default the one of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

/// What is to be done about one claim.
struct Proposal {
    claim: Claim,
    plan: Plan,
}

impl Proposal {
    /// Takes the write away where a PinPolicy does not allow the node that the Pod names, or may not: the rescue loop would
    /// not write either. How far it goes of itself, the mode, is nothing to a person.
    fn withhold(&mut self, known: &Known<'_>, accept_unknown: bool) {
        let (Step::Write(_), Some(pod)) = (&self.plan.step, &self.plan.consumer) else { return };
        let decision = known.policies_on(pod);
        let is_forbidden = decision.not_allowed.iter().any(|it| it.mode >= Mode::Rewrite);
        if !decision.withheld || (accept_unknown && !is_forbidden) {
            return;
        }
        self.plan = told_only(self.plan.clone(), &decision);
        if let Some(report) = self.plan.report.as_mut().filter(|_| !is_forbidden) {
            report.note.push_str("; --accept-unknown-policies writes all the same");
        }
    }
}

/// Runs it.
pub fn run(args: &FixArgs) -> anyhow::Result<Exit> {
    let object = subject(&args.object)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let snapshot = Snapshot::read(&client, Some(&namespace)).await?;
        let mut material = Material::of_snapshot(&snapshot);
        material.add_anti_affinity(&client).await;
        let known = material.known();
        let object = Subject { namespace: namespace.clone(), ..object };
        // First: what was not read is neither missing nor bound.
        let decides = [Kind::Pods, Kind::Claims, Kind::Volumes, Kind::Nodes, Kind::Classes];
        if let Some(missing) = decides.into_iter().find_map(|kind| {
            let is_namespaced = matches!(kind, Kind::Pods | Kind::Claims);
            known.missing(kind, if is_namespaced { &namespace } else { "" })
        }) {
            return refuse(&[format!("what decides is not known: {missing}")]);
        }
        let (claims, absent) = claims_of(&object, &known)?;
        if let Some(name) = absent.first() {
            return refuse(&[format!(
                "there is no pvc/{name} in namespace {namespace:?}, and {} uses it",
                args.object
            )]);
        }
        let unbound: Vec<Claim> = claims.into_iter().filter(|claim| !claim.is_bound()).collect();
        if unbound.is_empty() {
            writeln!(anstream::stdout(), "{}: its claims are bound; there is nothing to write", clean(&args.object))?;
            return Ok(Exit::Clean);
        }
        let mut proposals: Vec<Proposal> = unbound.into_iter().map(|claim| propose(claim, &known)).collect();
        for proposal in &mut proposals {
            proposal.withhold(&known, args.accept_unknown_policies);
        }
        let (writes, rest): (Vec<&Proposal>, Vec<&Proposal>) =
            proposals.iter().partition(|proposal| matches!(proposal.plan.step, Step::Write(_)));
        if writes.is_empty() {
            return refuse(&rest.iter().map(|proposal| why_not(proposal)).collect::<Vec<_>>());
        }
        for proposal in &writes {
            show(proposal)?;
        }
        args.carry_out(&Writer::new(client, args.dry_run == DryRun::Server), &writes, &known).await
    })
}

/// The claims that are to be fixed, and the names of those that a Pod uses and that do not exist.
fn claims_of(object: &Subject, known: &Known<'_>) -> anyhow::Result<(Vec<Claim>, Vec<String>)> {
    let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
    let claim = |name: &str| known.claim(namespace, name).found().map(|claim| (*claim).clone());
    match object.kind.as_str() {
        "Pod" => {
            let Some(pod) = known.record.pod(namespace, name) else {
                bail!("there is no pod/{name} in namespace {namespace:?}");
            };
            let (mut found, mut absent) = (Vec::new(), Vec::new());
            for name in pod.claim_names() {
                match claim(&name) {
                    Some(claim) => found.push(claim),
                    None => absent.push(name.to_string()),
                }
            }
            Ok((found, absent))
        }
        "PersistentVolumeClaim" => match claim(name) {
            Some(claim) => Ok((vec![claim], Vec::new())),
            None => bail!("there is no pvc/{name} in namespace {namespace:?}"),
        },
        _ => bail!("only a Pod or a claim can be fixed; write pod/NAME or pvc/NAME"),
    }
}

/// What the rescue loop would do. A person who asks has waited long enough.
fn propose(claim: Claim, known: &Known<'_>) -> Proposal {
    let events =
        known.record.events("PersistentVolumeClaim", claim.namespace(), claim.name(), claim.metadata.uid.as_deref());
    let now = known.record.as_of().unwrap_or_default();
    let provisioner = Some(ProvisionerReport::read(&events, now));
    let past = Past { given_back_for: LONG_AGO, provisioner, started: None, now };
    let plan = plan(&claim, known.view, known.rules, &past);
    Proposal { claim, plan }
}

/// Why nothing is written for a claim.
fn why_not(proposal: &Proposal) -> String {
    let name = proposal.claim.name();
    let told = proposal.plan.report.as_ref().map(|report| report.note.clone());
    let otherwise = || {
        "no Pod that names its node, and that its kubelet has acknowledged, waits for it; latebind diagnose says what it waits for"
            .to_owned()
    };
    format!("pvc/{name}: {}", told.unwrap_or_else(otherwise))
}

fn refuse(reasons: &[String]) -> anyhow::Result<Exit> {
    let style = Style::of_stderr();
    for reason in reasons {
        writeln!(anstream::stderr(), "{} {}", style.warning("nothing is written:"), clean(reason))?;
    }
    Ok(Exit::Findings)
}

/// What is written, and why it is safe.
fn show(proposal: &Proposal) -> std::io::Result<()> {
    let Step::Write(write) = &proposal.plan.step else { return Ok(()) };
    let (claim, namespace) = (proposal.claim.name(), proposal.claim.namespace());
    let pod = proposal.plan.consumer.as_ref().map(|pod| pod.display_name().to_owned()).unwrap_or_default();
    let unchanged = "The write fails if the object has changed since it was read.";
    let (what, why) = match write {
        Write::SelectNode { node, .. } => (
            format!(
                "pvc/{claim} -n {namespace}: annotation {SELECTED_NODE}={node}, which orders a volume for that node"
            ),
            format!(
                "The claim has no volume. Pod {pod:?} names node {node:?}, which exists and which the class allows, and the kubelet \
                 there has acknowledged it. No Pod that the scheduler has yet to place uses the claim. {unchanged}"
            ),
        ),
        Write::Prebind { volume } => (
            format!(
                "pv/{volume}: spec.claimRef names pvc/{claim} of namespace {namespace}, which reserves the volume for it"
            ),
            format!(
                "The volume is Available, fits the claim and is reached from the node that Pod {pod:?} names: the scheduler would \
                 choose the same. {unchanged}"
            ),
        ),
        Write::Unselect { node, .. } => (
            format!("pvc/{claim} -n {namespace}: annotation {SELECTED_NODE}={node} is removed"),
            format!("Nobody can act on it: the class has no provisioner, or the node is gone. {unchanged}"),
        ),
        Write::GiveUp { reason, .. } => {
            (format!("pvc/{claim} -n {namespace}: a note that no node is selected any more"), reason.clone())
        }
    };
    let (style, mut stdout) = (Style::of_stdout(), std::io::stdout().lock());
    writeln!(stdout, "{}", style.strong(&clean(&what)))?;
    for line in wrap(&clean(&why), WIDTH - 2) {
        writeln!(stdout, "  {line}")?;
    }
    Ok(())
}

impl FixArgs {
    async fn carry_out(&self, writer: &Writer, proposals: &[&Proposal], known: &Known<'_>) -> anyhow::Result<Exit> {
        if self.dry_run == DryRun::Client {
            writeln!(anstream::stdout(), "Nothing was written (--dry-run=client).")?;
            return Ok(Exit::Clean);
        }
        if self.dry_run == DryRun::None && !self.yes && !agreed("Write this?", "say --yes, or --dry-run")? {
            return Ok(Exit::Input);
        }
        for Proposal { claim, plan } in proposals {
            let Step::Write(write) = &plan.step else { continue };
            let volume = match write {
                Write::Prebind { volume } => known.record.volume(volume),
                _ => None,
            };
            match writer.write(claim, volume.map(AsRef::as_ref), write, Instant::now() + deadline()).await {
                Ok(_) => {}
                Err(error) if error.failure() == Failure::Conflict => {
                    return refuse(&[format!("pvc/{}: it has changed meanwhile; run the command again", claim.name())]);
                }
                Err(error) => return Err(anyhow::Error::from(error).context(format!("pvc/{}", claim.name()))),
            }
        }
        let told = if self.dry_run == DryRun::Server {
            "The API server would accept it; nothing was written (--dry-run=server).".to_owned()
        } else {
            format!("Written. latebind wait {} says when nothing is in the way any more.", clean(&self.object))
        };
        writeln!(anstream::stdout(), "{told}")?;
        Ok(Exit::Clean)
    }
}
