//! `latebind completion`: completion for shells.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::Exit;

const EXAMPLES: &str = "\
Examples:
  # bash, in this shell
  source <(latebind completion bash)

  # zsh, for good
  latebind completion zsh > \"${fpath[1]}/_latebind\"

  # fish, for good
  latebind completion fish > ~/.config/fish/completions/latebind.fish

  # as a plugin: kubectl's own completion asks this file, from anywhere in PATH
  latebind completion kubectl > ~/.local/bin/kubectl_complete-latebind
  chmod +x ~/.local/bin/kubectl_complete-latebind";

/// What kubectl runs to complete `kubectl latebind ...`.
const FOR_KUBECTL: &str = "\
#!/bin/sh
# kubectl runs this to complete `kubectl latebind ...`.
for name in kubectl-latebind latebind; do
  if command -v \"$name\" >/dev/null 2>&1; then exec \"$name\" __complete -- \"$@\"; fi
done
";

/// Print completion for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionArgs {
    /// The shell, or kubectl for the file that completes `kubectl latebind`.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Kubectl,
    Powershell,
    Zsh,
}

/// Runs it. The command must be fresh: one that was called as a plugin has a name with a space, which is no shell's word.
pub fn run(args: &CompletionArgs, mut command: clap::Command) -> anyhow::Result<Exit> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Elvish => clap_complete::Shell::Elvish,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Kubectl => {
            std::io::stdout().write_all(FOR_KUBECTL.as_bytes())?;
            return Ok(Exit::Clean);
        }
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "latebind", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Clean)
}
