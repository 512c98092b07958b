//! `latebind drain`: empties a node for a reboot, or for good.

pub mod conditions;
mod evict;
pub mod facts;
mod retire;
pub mod text;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use self::conditions::Progress;
use self::evict::{Evicted, Evictions};
use self::facts::DrainMaterial;
use self::retire::{Retired, Retirement};
use super::Exit;
use super::ask::agreed;
use super::cluster::ConnectArgs;
use super::duration::duration;
use crate::drain::guard::RETIRE;
use crate::drain::retire::retirable;
use crate::drain::{DrainFacts, DrainPlan, Outcome};
use crate::kubernetes::api::in_time;
use crate::model::{DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_INTENT, Pod, RETIRED, is_object_name};
use crate::report::style::{Style, clean};

const EXAMPLES: &str = "\
Examples:
  # node-a is rebooted: its Pods go, and start again on it with their data
  latebind drain node-a --for=reboot
  latebind uncordon node-a

  # node-a goes for good: Pods of StatefulSets start elsewhere, empty, one after another; their data is kept
  latebind drain node-a --for=retire --dry-run
  latebind drain node-a --for=retire

  # what drain policies hold up goes too, in your name
  latebind drain node-a --for=reboot --approve

Exit codes:
  0  done; with --dry-run, it could be
  1  Pods are left on the node, and the reasons are printed
  2  a flag is wrong, there is no such node, or nobody said yes
  3  the cluster cannot be reached, or refuses
  4  the time is up; run it again to go on
  5  what decides is not known";

/// Empty a node: for a reboot, after which everything starts on it again, or for good
///
/// It cordons the node and evicts its Pods, as kubectl drain does, with your own rights: PodDisruptionBudgets are respected, and
/// Pods of DaemonSets stay. With --for=retire the claims of StatefulSets' Pods that are on this node alone are let go, one Pod
/// after another: the volume is kept (reclaim policy Retain), the Pod evicted and its claim deleted; the StatefulSet makes both anew
/// on another node, with an empty volume, and the next Pod follows once that one is ready. No data is deleted. What ends midway is
/// gone on with by running it again. docs/drain.md has the whole.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(after_help = EXAMPLES)]
pub struct DrainArgs {
    /// The node.
    #[arg(value_name = "NODE")]
    node: String,

    /// What for: reboot, after which the Pods start on the node again; or retire, after which it is not needed any more.
    #[arg(long = "for", value_name = "INTENT")]
    intent: Intent,

    /// Change nothing: only say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Evict Pods too that no controller makes again.
    #[arg(long)]
    force: bool,

    /// Evict Pods too that have an emptyDir, whose data goes with them.
    #[arg(long)]
    delete_emptydir_data: bool,

    /// Approve, in your name and until --timeout is over, of evictions that drain policies hold up.
    #[arg(long)]
    approve: bool,

    /// How long it may take, such as 30m. What is left then is gone on with by running it again.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    timeout: Duration,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Intent {
    /// The node comes back with its data
    Reboot,
    /// The node goes for good
    Retire,
}

impl Intent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Retire => RETIRE,
        }
    }
}

/// What is to be done with the Pods of the node.
#[derive(Debug, Default)]
struct Work {
    evicted: Vec<Evicted>,
    retired: Vec<Retired>,
    /// Pods that stay where they are, as `namespace/name`, and why.
    left: Vec<(String, String)>,
}

/// Runs it.
pub fn run(args: &DrainArgs) -> anyhow::Result<Exit> {
    if !is_object_name(&args.node) {
        bail!("{:?} is not the name of a node", args.node);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let material = DrainMaterial::of_cluster(&client, &args.node).await?;
        let mut work = material.planned(|facts, plan| args.work(facts, &plan, material.with_files()))?;
        // A Pod is evicted whatever becomes of it; a claim is let go only where all is known that decides.
        let mut missing: Vec<String> = material.missing_pods().map(str::to_owned).into_iter().collect();
        if args.intent == Intent::Retire {
            missing.extend(material.missing());
        }
        if !missing.is_empty() {
            return not_known(&missing);
        }
        // The first of a StatefulSet goes last, as when its template changes.
        work.retired.sort_by_key(|pod| (pod.namespace.clone(), std::cmp::Reverse(pod.ordinal())));
        if args.intent == Intent::Retire {
            work.retired.extend(retire::cut_short(&client, &args.node, &work.retired).await?);
        }
        show(args, &work)?;
        if args.dry_run {
            writeln!(anstream::stdout(), "Nothing was changed (--dry-run).")?;
            return Ok(if work.left.is_empty() { Exit::Clean } else { Exit::Findings });
        }
        if !args.yes && !agreed("Do this?", "say --yes, or --dry-run")? {
            return Ok(Exit::Input);
        }
        args.carry_out(&client, &work).await
    })
}

fn not_known(missing: &[String]) -> anyhow::Result<Exit> {
    let style = Style::of_stderr();
    let missing = missing.join("; ");
    writeln!(anstream::stderr(), "{} what decides is not known: {}", style.error("nothing is done:"), clean(&missing))?;
    Ok(Exit::Partial)
}

impl DrainArgs {
    /// What is to be done with each Pod.
    fn work(&self, facts: &DrainFacts<'_>, plan: &DrainPlan, with_files: &BTreeSet<(String, String)>) -> Work {
        let mut work = Work::default();
        for planned in plan.pods.iter().filter(|pod| pod.outcome != Outcome::Stays) {
            let is_it = |pod: &&&Pod| pod.namespace() == planned.namespace && pod.display_name() == planned.pod;
            let Some(pod) = facts.pods.iter().find(is_it) else { continue };
            let has_files = with_files.contains(&(planned.namespace.clone(), planned.pod.clone()));
            let name = format!("{}/{}", planned.namespace, planned.pod);
            if planned.outcome == Outcome::NotMadeAgain && !self.force {
                work.left.push((
                    name,
                    "no controller makes another in its place: --force evicts it all the same".to_owned(),
                ));
            } else if has_files && !self.delete_emptydir_data {
                let why = "it has an emptyDir, whose data goes with it: --delete-emptydir-data evicts it all the same";
                work.left.push((name, why.to_owned()));
            } else if self.intent == Intent::Reboot || planned.held.is_empty() {
                work.evicted.push(Evicted::new(pod));
            } else {
                match retirable(pod, &planned.held, facts).and_then(|claims| Retired::new(pod, &claims)) {
                    Ok(retired) => work.retired.push(retired),
                    Err(why) => work.left.push((name, why)),
                }
            }
        }
        work
    }

    async fn carry_out(&self, client: &Client, work: &Work) -> anyhow::Result<Exit> {
        let end = Instant::now() + self.timeout;
        self.cordon(client).await?;
        self.tell(client, Progress::Begun).await?;
        let mut evictions = Evictions::new(client.clone(), end);
        let mut is_on_time = evictions.all(&work.evicted).await?;
        let retirement = Retirement::new(client.clone(), self.node.clone());
        for retired in &work.retired {
            is_on_time = is_on_time && retirement.carry_out(retired, &mut evictions, end).await?;
        }
        let is_left = !work.left.is_empty() || evictions.refused() > 0;
        if !is_on_time {
            self.tell(client, Progress::TimedOut).await?;
            let style = Style::of_stderr();
            writeln!(anstream::stderr(), "{} the time is up; run it again to go on", style.error("error:"))?;
            return Ok(Exit::TimedOut);
        }
        self.tell(client, if is_left { Progress::Left } else { Progress::Done }).await?;
        let mut stdout = anstream::stdout();
        let name = clean(&self.node);
        match (self.intent, is_left) {
            (_, true) => writeln!(stdout, "node/{name}: some Pods are left on it, as said above")?,
            (Intent::Reboot, false) => {
                writeln!(stdout, "node/{name} can be rebooted. Afterwards: latebind uncordon {name}")?;
            }
            (Intent::Retire, false) => writeln!(stdout, "node/{name} runs nothing any more that another node could")?,
        }
        if !work.retired.is_empty() {
            writeln!(stdout, "Its data is kept: kubectl get pv -l {RETIRED}")?;
        }
        Ok(if is_left { Exit::Findings } else { Exit::Clean })
    }

    async fn tell(&self, client: &Client, progress: Progress) -> std::io::Result<()> {
        conditions::tell(client, &self.node, self.intent.as_str(), progress).await
    }

    async fn cordon(&self, client: &Client) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(client.clone());
        let mut annotations = json!({ DRAIN_INTENT: self.intent.as_str() });
        let approved = if self.approve { Some(self.approval(client).await?) } else { None };
        if let Some((by, until)) = &approved {
            annotations[DRAIN_APPROVED_BY] = json!(by);
            annotations[DRAIN_APPROVED_UNTIL] = json!(until);
        }
        let patch = json!({ "metadata": { "annotations": annotations }, "spec": { "unschedulable": true } });
        in_time(nodes.patch(&self.node, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        writeln!(anstream::stdout(), "node/{} is cordoned", clean(&self.node))?;
        if let Some((by, until)) = approved {
            writeln!(anstream::stdout(), "{} approves of its evictions until {until}", clean(&by))?;
        }
        Ok(())
    }

    /// Who approves, as the API server knows them, and until when.
    async fn approval(&self, client: &Client) -> anyhow::Result<(String, String)> {
        let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
        let review = in_time(reviews.create(&PostParams::default(), &SelfSubjectReview::default())).await;
        let user = review
            .context("cannot see who you are, which an approval says")?
            .status
            .and_then(|status| status.user_info);
        let by = user
            .and_then(|user| user.username)
            .context("the API server does not say who you are, which an approval says")?;
        let span = SignedDuration::try_from(self.timeout).context("--timeout is too long")?;
        let until = Timestamp::now().checked_add(span).context("--timeout is too long")?;
        Ok((by, until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
    }
}

/// What is done, before anybody is asked.
fn show(args: &DrainArgs, work: &Work) -> std::io::Result<()> {
    let (style, mut out) = (Style::of_stdout(), String::new());
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            out.push_str(&style.strong(title));
            for line in lines {
                out.push_str("\n  ");
                out.push_str(&clean(&line));
            }
            out.push('\n');
        }
    };
    section("Evicts:", work.evicted.iter().map(|pod| format!("pod/{} -n {}", pod.name, pod.namespace)).collect());
    let starts_empty = work.retired.iter().flat_map(|pod| {
        let one = |held: &retire::HeldVolume| {
            format!(
                "pod/{} -n {}: claim {} is made anew, its data stays here in volume {} (Retain)",
                pod.name, pod.namespace, held.claim, held.volume
            )
        };
        pod.held.iter().map(one).collect::<Vec<_>>()
    });
    section("Starts elsewhere with empty volumes, one after another:", starts_empty.collect());
    section("Left on the node:", work.left.iter().map(|(pod, why)| format!("{pod}: {why}")).collect());
    if out.is_empty() {
        out = format!("node/{} runs no Pod that a drain evicts\n", clean(&args.node));
    }
    // Colours were decided on by the style.
    std::io::stdout().lock().write_all(out.as_bytes())
}
