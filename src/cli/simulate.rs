//! `latebind simulate`: what admission would answer.

use clap::Args;

use super::Exit;
use super::input::{AssumeArgs, InputArgs, RulesArgs};

/// Say what admission would answer for each Pod and workload.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    assume: AssumeArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

/// Runs it.
pub fn run(args: &SimulateArgs) -> anyhow::Result<Exit> {
    let _ = (args.input.read()?, args.assume.assumptions(), args.rules.rules());
    anyhow::bail!("simulate is not built yet")
}
