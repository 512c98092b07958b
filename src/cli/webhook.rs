//! `latebind webhook`: admission over TLS from manifests.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Exit;
use super::input::{AssumeArgs, RulesArgs};

/// Serve admission over TLS from a directory of manifests, without a cluster.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Directory of manifests that are the facts; read again when they change.
    #[arg(long, value_name = "DIR", env = "LATEBIND_OBJECTS", hide_env = true)]
    objects: PathBuf,
    /// Address to serve admission at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443", env = "LATEBIND_LISTEN", hide_env = true)]
    listen: SocketAddr,
    #[command(flatten)]
    assume: AssumeArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

/// Runs it.
pub fn run(args: &WebhookArgs) -> anyhow::Result<Exit> {
    let _ = (&args.objects, args.listen, args.assume.assumptions(), args.rules.rules());
    anyhow::bail!("webhook is not built yet")
}
