//! `latebind version`.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::Exit;
use super::output::{self, Output};

const EXAMPLES: &str = "\
Examples:
  latebind version
  latebind version -o json";

/// Print the version.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VersionArgs {
    /// How to print it: text, json or yaml, with =FILE to write it to a file.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "text")]
    output: Vec<Output<Format>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

/// Runs it.
pub fn run(args: &VersionArgs) -> anyhow::Result<Exit> {
    let number = env!("CARGO_PKG_VERSION");
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    let version = json!({
        "apiVersion": "latebind.dev/v1alpha1",
        "kind": "Version",
        "version": number,
        "platform": platform,
        "findingCodes": crate::binding::Code::ALL.len(),
    });
    output::print(&args.output, |format, _, out| {
        match format {
            Format::Text => out.extend(format!("latebind {number} {platform}\n").bytes()),
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, &version)?;
                out.push(b'\n');
            }
            Format::Yaml => out.extend(serde_saphyr::to_string(&version)?.bytes()),
        }
        Ok(())
    })?;
    Ok(Exit::Clean)
}
