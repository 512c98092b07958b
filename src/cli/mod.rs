//! The command line: one file a subcommand.

mod ask;
mod audit;
mod by_hand;
mod certs;
mod check;
mod cluster;
mod complete;
mod completion;
mod crds;
mod diagnose;
mod disks;
mod drain;
mod dump;
mod duration;
mod explain;
mod fix;
mod import;
pub mod input;
mod install;
mod lint;
mod man;
pub mod output;
mod plan;
mod release;
pub mod replace;
mod run;
mod simulate;
mod snapshot;
mod uncordon;
mod version;
mod wait;
mod webhook;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::report::style::{Style, clean};

/// What the process says by its exit code. Codes of peers that mean several things are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: nothing to complain of.
    Clean,
    /// 1: findings as severe as asked for, or worse.
    Findings,
    /// 2: a flag or an input is wrong.
    Input,
    /// 3: the cluster cannot be reached, or refuses.
    Cluster,
    /// 4: what was waited for did not come in time.
    TimedOut,
    /// 5: some of the input could not be read; the rest was looked at.
    Partial,
    /// A code that the user chose.
    Other(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Clean => 0,
            Exit::Findings => 1,
            Exit::Input => 2,
            Exit::Cluster => 3,
            Exit::TimedOut => 4,
            Exit::Partial => 5,
            Exit::Other(code) => code,
        })
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0  nothing to complain of
  1  findings at or above the severity asked for
  2  a flag or an input is wrong
  3  the cluster cannot be reached, or refuses
  4  what was waited for did not come in time
  5  some of the input could not be read; the rest was looked at";

/// Ends the deadlock between Pods that name their node and claims that wait for their first consumer.
///
/// A Pod with spec.nodeName bypasses the scheduler. A claim of a WaitForFirstConsumer class waits for the scheduler.
/// Together they wait forever. latebind finds such Pods, says why they are stuck, and rewrites them so that they start.
#[derive(Debug, Parser)]
#[command(name = "latebind", version, propagate_version = true, max_term_width = 100, after_long_help = EXIT_CODES)]
struct Cli {
    /// When to use colours; NO_COLOR is respected.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", env = "LATEBIND_COLOR", hide_env = true)]
    color: Color,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    /// When the output is a terminal
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Simulate(simulate::SimulateArgs),
    Lint(lint::LintArgs),
    Diagnose(diagnose::DiagnoseArgs),
    Audit(audit::AuditArgs),
    Dump(dump::DumpArgs),
    Fix(fix::FixArgs),
    Plan(plan::PlanArgs),
    Drain(drain::DrainArgs),
    Uncordon(uncordon::UncordonArgs),
    Disks(disks::DisksArgs),
    Release(release::ReleaseArgs),
    Wait(wait::WaitArgs),
    Webhook(webhook::WebhookArgs),
    Run(Box<run::RunArgs>),
    Install(install::InstallArgs),
    Check(check::CheckArgs),
    Certs(certs::CertsArgs),
    Import(import::ImportArgs),
    Crds(crds::CrdsArgs),
    Explain(explain::ExplainArgs),
    Version(version::VersionArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
    #[command(name = COMPLETE, hide = true)]
    Complete(complete::CompleteArgs),
}

/// What kubectl's file for completion calls.
const COMPLETE: &str = "__complete";

/// Runs the command line and says how it went.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // kubectl looks for a command of this name, which may be a link to the binary.
    if called_as(args.first()).is_some_and(|name| name.starts_with("kubectl_complete-")) {
        args.splice(1..1, [COMPLETE.into(), "--".into()]);
    }
    let mut command = command(args.first());
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, complaints to stderr; a closed pipe is no reason to complain again.
            let _closed = error.print();
            return if error.use_stderr() { Exit::Input.into() } else { Exit::Clean.into() };
        }
    };
    match cli.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
    let outcome = match &cli.command {
        Command::Simulate(args) => simulate::run(args),
        Command::Lint(args) => lint::run(args),
        Command::Diagnose(args) => diagnose::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Fix(args) => fix::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Drain(args) => drain::run(args),
        Command::Uncordon(args) => uncordon::run(args),
        Command::Disks(args) => disks::run(args),
        Command::Release(args) => release::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Webhook(args) => webhook::run(args),
        Command::Run(args) => run::run(args),
        Command::Install(args) => install::run(args),
        Command::Check(args) => check::run(args),
        Command::Certs(args) => certs::run(args),
        Command::Import(args) => import::run(args),
        Command::Crds(args) => crds::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Version(args) => version::run(args),
        Command::Completion(args) => completion::run(args, Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
        Command::Complete(args) => complete::run(args, Cli::command()),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&error) => Exit::Clean.into(),
        Err(error) => {
            complain(&format!("{error:#}"));
            if is_of_cluster(&error) { Exit::Cluster.into() } else { Exit::Input.into() }
        }
    }
}

/// True when the cluster is to blame, not what was typed.
fn is_of_cluster(error: &anyhow::Error) -> bool {
    let of_cluster = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<crate::facts::server::ServerError>()
            || cause.is::<crate::kubernetes::api::ApiError>()
            || cause.is::<kube::Error>()
            || cause.is::<kube::config::InClusterError>()
            || cause.is::<kube::config::KubeconfigError>()
    };
    error.chain().any(of_cluster)
}

/// The command as it is called: as a plugin of kubectl its usage reads `kubectl latebind`.
fn command(argv0: Option<&OsString>) -> clap::Command {
    match called_as(argv0).and_then(|name| name.strip_prefix("kubectl-")) {
        // kubectl writes a dash of a plugin's name as an underscore in its file name.
        Some(plugin) => Cli::command().bin_name(format!("kubectl {}", plugin.replace('_', "-"))),
        None => Cli::command().bin_name("latebind"),
    }
}

/// The name of the file by which this process was started.
fn called_as(argv0: Option<&OsString>) -> Option<&str> {
    argv0.map(Path::new).and_then(Path::file_stem).and_then(|name| name.to_str())
}

/// Prints an error on stderr, each line of it cleaned.
fn complain(message: &str) {
    let style = Style::of_stderr();
    for line in message.lines() {
        // Nothing is left to be told when stderr is closed.
        let _closed = writeln!(anstream::stderr(), "{} {}", style.error("error:"), clean(line));
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn as_a_plugin_it_calls_itself_what_the_user_types() {
        let plugin = OsString::from("/usr/local/bin/kubectl-latebind");
        assert_eq!(command(Some(&plugin)).get_bin_name(), Some("kubectl latebind"));
        assert_eq!(command(Some(&OsString::from("./latebind"))).get_bin_name(), Some("latebind"));
        assert_eq!(command(None).get_bin_name(), Some("latebind"));
    }
}
