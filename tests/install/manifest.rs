//! The chart, rendered by helm.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::{Binaries, Version, project_root};

pub const NAMESPACE: &str = "latebind-system";

pub fn chart() -> PathBuf {
    project_root().join("webhook-manifests/chart")
}

pub fn helm() -> Result<Command> {
    Ok(Command::new(Binaries::ensure(Version::from_env()?)?.helm()))
}

/// What helm renders; an error holds what it said.
pub fn render(arguments: &[&str]) -> Result<String> {
    let mut command = helm()?;
    command.args(["template", "latebind"]).arg(chart()).args(["--namespace", NAMESPACE, "--kube-version", "1.33.0"]);
    let output = command.args(arguments).output().context("helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The install manifest as it must be.
pub fn install() -> Result<String> {
    let text = render(&["--set", "namespace.create=true", "--skip-tests"])?;
    let head = "# Rendered from webhook-manifests/chart by `make update`; change the chart, not this file.\n";
    // helm says which file each object is from; to a reader of one file that is noise.
    let lines = text.lines().filter(|line| !line.starts_with("# Source: "));
    Ok(format!("{head}{}\n", lines.collect::<Vec<_>>().join("\n").replace("managed-by: Helm", "managed-by: latebind")))
}
