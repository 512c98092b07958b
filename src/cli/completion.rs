//! `latebind completion`: completion for shells.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use super::Exit;

const EXAMPLES: &str = "\
Examples:
  # bash, in this shell
  source <(latebind completion bash)

  # zsh, for good
  latebind completion zsh > \"${fpath[1]}/_latebind\"

  # fish, for good
  latebind completion fish > ~/.config/fish/completions/latebind.fish";

/// Print completion for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

/// Runs it.
pub fn run(args: &CompletionArgs, mut command: clap::Command) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "latebind", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Clean)
}
