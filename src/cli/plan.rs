//! `latebind plan`: what would happen, before it does.

mod drain;

use clap::{Args, Subcommand};

use super::Exit;

/// Say what would happen, before it does
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Drain(drain::DrainArgs),
}

/// Runs it.
pub fn run(args: &PlanArgs) -> anyhow::Result<Exit> {
    match &args.what {
        What::Drain(args) => drain::run(args),
    }
}
