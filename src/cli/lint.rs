//! `latebind lint`: findings in manifests.

use clap::Args;

use super::Exit;
use super::input::{AssumeArgs, InputArgs, RulesArgs};

/// Look for Pods and workloads that would wait for ever.
#[derive(Debug, Args)]
pub struct LintArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    assume: AssumeArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

/// Runs it.
pub fn run(args: &LintArgs) -> anyhow::Result<Exit> {
    let _ = (args.input.read()?, args.assume.assumptions(), args.rules.rules());
    anyhow::bail!("lint is not built yet")
}
