//! `latebind crds`: the definitions of our custom resources.

use clap::Args;

use super::Exit;

/// Print the definitions of LocalPool, LocalNode, LocalVolume, LocalDisk and PinPolicy, for `kubectl apply --server-side -f -`.
#[derive(Debug, Args)]
pub struct CrdsArgs {}

/// Runs it.
pub fn run(_: &CrdsArgs) -> anyhow::Result<Exit> {
    use std::io::Write;
    let mut out = anstream::stdout().lock();
    for (_, text) in crate::crd::files()? {
        write!(out, "---\n{text}")?;
    }
    Ok(Exit::Clean)
}
