//! `latebind simulate`: what admission would answer.

mod case;
mod text;

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Exit;
use super::input::{AssumeArgs, InputArgs, RulesArgs, ServerArgs, exit_of};
use super::output::{self, Output};
use crate::admission::Exemptions;
use crate::admission::review::Request;
use crate::binding::Assumptions;
use crate::facts::files::Manifests;
use crate::policy::Mode;
use crate::report::style::{Style, clean_json};
use case::{Case, Simulator};

const EXAMPLES: &str = "\
Examples:
  # is this Pod stuck, why, and what would admission do about it?
  latebind simulate -f pod.yaml --objects storageclasses.yaml

  # the same with what the cluster of your kubeconfig knows
  latebind simulate -f pod.yaml --server

  # a chart, when its classes are known to wait for their first consumer
  helm template my-chart | latebind simulate -f - --assume-binding-mode=delayed

  # only what changes, and the JSON Patch in a file
  latebind simulate -f pod.yaml -o diff -o patch=patch.json

  # which policy decides, and why
  latebind simulate -f pod.yaml --policy policy.yaml --requester jane

  # replay a recorded AdmissionReview: the bytes that /mutate would send
  latebind simulate --review review.json --objects facts.yaml -o json

Exit codes:
  0  admission would let everything in, changed or not
  1  admission would refuse something (--mode=deny, or a policy)
  2  a flag or an input is wrong
  5  some of the input could not be read; the rest was looked at";

/// Say what admission would answer for each Pod and workload
///
/// For each Pod, and for the Pods that each workload makes: which claims it waits for and why, what admission would do
/// about it, the warnings that kubectl would print, and the Pod after it. The decision is the one that the webhook
/// takes; nothing is contacted, unless --server says so. What is not in the input is assumed only as the flags say, and
/// every assumption that was used is named.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("filename", |filename| filename.required_unless_present_any(["review", "server", "paths"])))]
pub struct SimulateArgs {
    #[command(flatten)]
    input: InputArgs,

    /// A recorded AdmissionReview to answer (JSON or YAML; - is standard input). -f and --objects are the facts.
    #[arg(long, value_name = "FILE|-")]
    review: Option<String>,

    /// Which webhook answers the review.
    #[arg(long, value_name = "HOOK", default_value = "mutate", requires = "review")]
    hook: Hook,

    /// How far admission goes: audit, warn, rewrite or deny.
    #[arg(long, value_name = "MODE", default_value_t, env = "LATEBIND_MODE", hide_env = true)]
    mode: Mode,

    /// What to print: summary, patch, diff, yaml or json, with =FILE to write it to a file; repeatable.
    ///
    /// patch is a JSON Patch for each Pod, diff and yaml show the Pod after it. json is everything; with --review it is
    /// the very answer that the API server would get.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "summary")]
    output: Vec<Output<Format>>,

    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    assume: AssumeArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

/// The webhook that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hook {
    Mutate,
    Validate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Summary,
    Patch,
    Diff,
    Yaml,
    Json,
}

/// Runs it.
pub fn run(args: &SimulateArgs) -> anyhow::Result<Exit> {
    let review = args.review.as_deref().map(|name| Ok::<_, anyhow::Error>((name, read_review(name)?))).transpose()?;
    let namespaces = review.iter().filter_map(|(_, bytes)| Some(Request::parse(bytes).ok()?.namespace.to_string()));
    let manifests = args.input.read(&args.server, namespaces.collect())?;
    // A replay gives what the webhook would send with the same flags, and that takes nothing for granted by itself.
    let by_itself = if review.is_some() { Assumptions::default() } else { Assumptions::in_order() };
    let rules = args.rules.rules(args.assume.assumptions(by_itself));
    let exemptions = Exemptions::default();
    let requester = args.input.requester();
    let asker = Simulator {
        facts: manifests.facts(),
        rules: &rules,
        mode: args.mode,
        exemptions: &exemptions,
        requester: requester.as_ref(),
        now: Timestamp::now(),
    };
    match &review {
        Some((name, bytes)) => replay(args, name, bytes, &manifests, &asker),
        None => simulate(args, &manifests, &asker),
    }
}

fn simulate(args: &SimulateArgs, manifests: &Manifests, asker: &Simulator<'_>) -> anyhow::Result<Exit> {
    let mut cases = Vec::new();
    for object in manifests.checked() {
        cases.extend(asker.object(object)?);
    }
    output::print(&args.output, |format, style, out| {
        out.extend(render(&cases, format, style)?.into_bytes());
        Ok(())
    })?;
    Ok(exit_of(manifests, cases.iter().any(Case::is_denied)))
}

fn render(cases: &[Case], format: Format, style: Style) -> anyhow::Result<String> {
    Ok(match format {
        Format::Summary => text::summary(cases, style),
        Format::Patch => text::patches(cases)?,
        Format::Diff => text::diffs(cases, style)?,
        Format::Yaml => text::objects(cases)?,
        Format::Json => {
            let items: Vec<Value> = cases.iter().map(Case::to_json).collect();
            let list = json!({"apiVersion": "latebind.dev/v1alpha1", "kind": "SimulationList", "items": items});
            clean_json(&serde_json::to_string_pretty(&list)?).into_owned() + "\n"
        }
    })
}

fn replay(
    args: &SimulateArgs,
    name: &str,
    bytes: &[u8],
    manifests: &Manifests,
    asker: &Simulator<'_>,
) -> anyhow::Result<Exit> {
    let hook = match args.hook {
        Hook::Mutate => crate::admission::Hook::Mutate,
        Hook::Validate => crate::admission::Hook::Validate,
    };
    let (case, answer) = asker.review(name, hook, bytes)?;
    let denied = case.is_denied();
    let cases = [case];
    output::print(&args.output, |format, style, out| {
        match format {
            // A terminal gets the same JSON with escapes, everything else the bytes.
            Format::Json if std::io::stdout().is_terminal() => {
                out.extend(clean_json(&String::from_utf8_lossy(&answer)).bytes());
                out.push(b'\n');
            }
            Format::Json => out.extend(&answer),
            _ => out.extend(render(&cases, format, style)?.into_bytes()),
        }
        Ok(())
    })?;
    Ok(exit_of(manifests, denied))
}

/// The bytes of a review. YAML, as people keep it for tests, is turned into the JSON that an API server sends.
fn read_review(name: &str) -> anyhow::Result<Vec<u8>> {
    /// What the server accepts as well.
    const LARGEST: u64 = 7 << 20;
    let mut bytes = Vec::new();
    let input: Box<dyn Read> = if name == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(name).with_context(|| name.to_owned())?)
    };
    input.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| name.to_owned())?;
    if bytes.len() as u64 > LARGEST {
        bail!("{name}: larger than {} MiB, which the server refuses too (413)", LARGEST >> 20);
    }
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_json {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).with_context(|| name.to_owned())?;
    let found = crate::yaml::documents(&text);
    let [document] = found.as_slice() else {
        bail!("{name}: one AdmissionReview is needed, and there are {} documents", found.len())
    };
    let value = document.value(&mut crate::yaml::AliasBudget::default());
    let value = value.map_err(|error| anyhow::anyhow!("{name}:{error}"))?;
    Ok(serde_json::to_vec(&value)?)
}
