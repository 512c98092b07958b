//! `latebind install`: the install manifest, which is part of the binary.

use std::io::Write;

use clap::Args;

use super::Exit;

/// The rendered chart, kept equal to it by a test.
const MANIFEST: &str = include_str!("../../webhook-manifests/install.yaml");

/// Print the manifest that installs latebind, for kubectl apply -f -.
///
/// It is the chart with its defaults, of this version. For anything else use the chart, or edit what this prints.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  latebind install | kubectl apply -f -
  latebind install | kubectl delete -f -")]
pub struct InstallArgs {}

/// Prints it.
///
/// # Errors
/// When stdout is closed.
pub fn run(_: &InstallArgs) -> anyhow::Result<Exit> {
    anstream::stdout().write_all(MANIFEST.as_bytes())?;
    Ok(Exit::Clean)
}
