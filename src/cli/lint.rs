//! `latebind lint`: findings in manifests, and `--fix`, which fixes some of them.

pub(super) mod check;
pub(super) mod fixing;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};

use anyhow::bail;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use super::Exit;
use super::input::{AssumeArgs, InputArgs, RulesArgs, ServerArgs, exit_of};
use super::output::{self, Output};
use crate::binding::{Assumptions, Severity};
use crate::facts::files::Manifests;
use crate::report::style::{Style, clean};
use crate::report::{Format, Point, Report, Unread};

const EXAMPLES: &str = "\
Examples:
  # every manifest of a directory and beneath it
  latebind lint -R -f manifests/

  # what a chart renders, with the facts of the cluster of your kubeconfig
  helm template my-chart | latebind lint -f - --server

  # the Pods and workloads that are in that cluster, and what to type for those that are stuck
  latebind lint --server -A

  # for people here and for code scanning there
  latebind lint -f manifests/ -o table -o sarif=findings.sarif

  # hold it against the policies of the cluster, or against one that is being written
  latebind lint -f pod.yaml --server
  latebind lint -f pod.yaml --policy policy.yaml

  # show how nodeName would be rewritten, then do it
  latebind lint -f pod.yaml --fix --diff
  latebind lint -f pod.yaml --fix

To accept a finding, annotate the object or its template:
  latebind.dev/ignore: \"LB001: the claim is bound by hand\"";

/// Look for Pods and workloads that would wait forever.
///
/// Reads Pods, Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, ReplicationControllers, PodTemplates
/// and lists of them, and Pod templates of any other kind: a mapping that has containers and volumes is judged as a Pod,
/// in custom resources and in the YAML of ConfigMaps. What names a node and could not be judged is counted. Claims, classes, volumes and Nodes of the same input are the facts, and are looked at too.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, mut_arg("filename", |it| it.required_unless_present_any(["server", "paths"])))]
pub struct LintArgs {
    #[command(flatten)]
    input: InputArgs,

    /// How to print what was found: table, json, yaml, sarif, junit, github, gitlab, markdown, openreports or policyreport,
    /// with =FILE to write it to a file. Repeat it for several. The default is table.
    #[arg(short, long, value_name = "FORMAT[=FILE]")]
    output: Vec<Output<Format>>,

    /// Rewrite nodeName in the files where that is safe, and touch nothing else. Standard input is rewritten to standard
    /// output.
    #[arg(long, requires = "manifests", help_heading = "Fix")]
    fix: bool,

    /// With --fix: show what would be rewritten as a unified diff, and write nothing.
    #[arg(long, requires = "fix", help_heading = "Fix")]
    diff: bool,

    /// The severity from which on findings make the exit code 1.
    #[arg(
        long,
        value_name = "SEVERITY",
        default_value = "error",
        env = "LATEBIND_FAIL_ON",
        hide_env = true,
        help_heading = "Exit code"
    )]
    fail_on: FailOn,

    /// Exit with 0 whatever is found. Input that cannot be read still fails.
    #[arg(long, conflicts_with = "warn_exit_code", help_heading = "Exit code")]
    exit_zero: bool,

    /// The exit code for warnings that do not make it 1.
    #[arg(long, value_name = "N", help_heading = "Exit code")]
    warn_exit_code: Option<u8>,

    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    assume: AssumeArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

/// From which severity on findings make the exit code 1.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FailOn {
    Error,
    Warning,
    Info,
    Never,
}

impl FailOn {
    pub(super) const fn severity(self) -> Option<Severity> {
        match self {
            Self::Error => Some(Severity::Error),
            Self::Warning => Some(Severity::Warning),
            Self::Info => Some(Severity::Info),
            Self::Never => None,
        }
    }
}

/// Runs it.
pub fn run(args: &LintArgs) -> anyhow::Result<Exit> {
    args.check_outputs()?;
    let manifests = args.input.read(&args.server, BTreeSet::new())?;
    let rules = args.rules.rules(args.assume.assumptions(Assumptions::in_order()));
    let requester = args.input.requester();
    let judge = check::Judge {
        view: manifests.facts(),
        rules: &rules,
        requester: requester.as_ref(),
        now: Timestamp::now(),
        risks: None,
    };
    let mut checked = check::check(&manifests, &judge);
    let stdin = manifests.checked().map(|object| object.origin.source()).find(|source| source.path.is_none());
    let outcome = fixing::carry_out(&mut checked, stdin.map(AsRef::as_ref), args.mode());
    let report = Report {
        findings: checked.findings,
        objects: checked.objects,
        assumptions: checked.assumptions.iter().map(ToString::to_string).collect(),
        unread: unread(&manifests),
        not_judged: checked.not_judged,
        fail_on: args.fail_on.severity().filter(|_| !args.exit_zero),
        audit: None,
    };
    write_out(&outcome.output, args.diff)?;
    args.print(&report, outcome.stdout_is_taken)?;
    for failure in &outcome.failures {
        writeln!(anstream::stderr(), "{} {}", Style::of_stderr().error("error:"), clean(failure))?;
    }
    if !outcome.failures.is_empty() {
        return Ok(Exit::Input);
    }
    Ok(args.exit(&manifests, &report))
}

/// Writes a diff or a rewritten manifest. A diff that goes to a terminal is coloured and steers nothing; elsewhere it is
/// as it must be for `patch`.
fn write_out(text: &str, is_diff: bool) -> std::io::Result<()> {
    let style = Style::of_stdout();
    let mut stdout = std::io::stdout().lock();
    if is_diff && (style != Style::PLAIN || stdout.is_terminal()) {
        for line in text.lines() {
            writeln!(stdout, "{}", style.diff_line(&clean(line)))?;
        }
    } else {
        stdout.write_all(text.as_bytes())?;
    }
    stdout.flush()
}

impl LintArgs {
    const fn mode(&self) -> fixing::Mode {
        match (self.fix, self.diff) {
            (false, _) => fixing::Mode::Propose,
            (true, true) => fixing::Mode::Diff,
            (true, false) => fixing::Mode::Write,
        }
    }

    /// Standard output holds one thing.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let explicit = self.output.iter().any(|output| output.file.is_none());
        let holds = if self.diff {
            "the diff"
        } else if self.fix && self.input.named().iter().any(|name| name == "-") {
            "the rewritten manifests"
        } else {
            return Ok(());
        };
        if explicit {
            bail!("standard output holds {holds}; write findings to a file: -o FORMAT=FILE");
        }
        Ok(())
    }

    fn print(&self, report: &Report, stdout_is_taken: bool) -> anyhow::Result<()> {
        if self.output.is_empty() && stdout_is_taken {
            let mut text = Vec::new();
            report.render(Format::Table, Style::of_stderr(), &mut text)?;
            // Colours were decided on above, so the bytes go out as they are.
            std::io::stderr().lock().write_all(&text)?;
            return Ok(());
        }
        let table = [Output { format: Format::Table, file: None }];
        let outputs = if self.output.is_empty() { &table } else { self.output.as_slice() };
        output::print(outputs, |format, style, out| Ok(report.render(format, style, out)?))
    }

    fn exit(&self, manifests: &Manifests, report: &Report) -> Exit {
        let worst = report.worst();
        let fails = match (report.fail_on, worst) {
            (Some(threshold), Some(worst)) if worst >= threshold => true,
            // Who asked for a fix wants to hear that there is none.
            (Some(_), _) => report.open().any(|finding| finding.not_fixed.is_some()),
            (None, _) => false,
        };
        match (exit_of(manifests, fails), self.warn_exit_code) {
            (Exit::Clean, Some(code)) if worst >= Some(Severity::Warning) => Exit::Other(code),
            (exit, _) => exit,
        }
    }
}

fn unread(manifests: &Manifests) -> Vec<Unread> {
    let of = |problem: &crate::facts::files::Problem| Unread {
        file: problem.place.file.clone(),
        at: problem.place.span.map(|span| Point { line: span.start.line, column: span.start.column }),
        message: problem.message.clone(),
    };
    manifests.problems.iter().map(of).collect()
}
