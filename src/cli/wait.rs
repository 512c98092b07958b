//! `latebind wait`: until nothing is in the way of a Pod or a claim.

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep};

use super::Exit;
use super::cluster::ConnectArgs;
use super::diagnose::{Asked, LOOK, for_cluster, subject, text};
use super::duration::duration;
use crate::diagnosis::{Cause, Diagnosis, NotFound};
use crate::report::style::{Style, clean};

const EXAMPLES: &str = "\
Examples:
  # in a pipeline: does the Pod get its volumes within a minute, and if not, why not?
  kubectl apply -f pod.yaml
  latebind wait pod/web -n team-a --for=unblocked --timeout=60s

Exit codes:
  0  nothing is in the way any more
  2  a flag is wrong
  3  the cluster cannot be reached, or refuses
  4  the time is up; what is in the way is printed, as latebind diagnose does";

/// Wait until nothing is in the way of a Pod or a claim, and say what is when the time is up
///
/// A Pod is unblocked when it has a node and all its claims are bound, or when it runs or has ended; a claim when it is bound. An
/// object that does not exist yet is waited for.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WaitArgs {
    /// What to wait for: pod/NAME or pvc/NAME.
    #[arg(value_name = "KIND/NAME")]
    object: String,

    /// The state to wait for.
    #[arg(long = "for", value_name = "STATE", default_value = "unblocked")]
    state: State,

    /// How long to wait, such as 60s or 5m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,

    /// The namespace; by default the one of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Nothing is in the way
    Unblocked,
}

impl State {
    const fn is_reached(self, cause: Cause) -> bool {
        match self {
            Self::Unblocked => matches!(cause, Cause::Healthy | Cause::Starting),
        }
    }
}

/// Runs it.
pub fn run(args: &WaitArgs) -> anyhow::Result<Exit> {
    let object = subject(&args.object)?;
    if !matches!(object.kind.as_str(), "Pod" | "PersistentVolumeClaim") {
        anyhow::bail!("{:?}: only a Pod or a claim can be waited for; write pod/NAME or pvc/NAME", args.object);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let asked = Asked { client, namespace, object };
        let end = Instant::now() + args.timeout;
        loop {
            let mut found = asked.look().await?;
            if let Ok(diagnosis) = &found
                && args.state.is_reached(diagnosis.cause)
            {
                writeln!(anstream::stdout(), "{} is not blocked: {}", args.object, clean(&diagnosis.summary))?;
                return Ok(Exit::Clean);
            }
            if Instant::now() + LOOK > end {
                if let Ok(diagnosis) = &mut found {
                    for_cluster(std::slice::from_mut(diagnosis), &args.connect);
                }
                tell(&args.object, args.timeout, &found)?;
                return Ok(Exit::TimedOut);
            }
            sleep(LOOK).await;
        }
    })
}

fn tell(object: &str, timeout: Duration, last: &Result<Diagnosis, NotFound>) -> std::io::Result<()> {
    let style = Style::of_stderr();
    let why = match last {
        Ok(_) => "is not unblocked".to_owned(),
        Err(NotFound::Absent) => "does not exist".to_owned(),
        Err(NotFound::Unknown(why)) => format!("was not found ({})", clean(why)),
    };
    writeln!(anstream::stderr(), "{} {} {why} after {timeout:?}", style.error("error:"), clean(object))?;
    if let Ok(diagnosis) = last {
        // Colours were decided on by the style, so the bytes go out as they are.
        std::io::stdout().lock().write_all(text::whole(diagnosis, Style::of_stdout()).as_bytes())?;
    }
    Ok(())
}
