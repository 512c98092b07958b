//! `latebind man`: manual pages.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::Exit;

/// Write manual pages: latebind.1, and one for each subcommand.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  latebind man --out ~/.local/share/man/man1
  man latebind-lint")]
pub struct ManArgs {
    /// Directory to write to; it is made if it is missing. Without it latebind.1 goes to standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// When a page cannot be written.
pub fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<Exit> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(Exit::Clean);
    };
    let shown = || folder.display().to_string();
    std::fs::create_dir_all(folder).with_context(shown)?;
    clap_mangen::generate_to(command, folder).with_context(shown)?;
    Ok(Exit::Clean)
}
