//! `latebind diagnose`, as a person types it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::Scope;
use serde_json::Value;

/// What the binary says about an object of the scope's namespace, or of the cluster: `pvc/data`, `node/node-a`.
///
/// # Errors
/// When it prints no diagnosis.
pub fn diagnosed(scope: &Scope, binary: &str, object: &str) -> Result<Value> {
    let mut command = Command::new(binary);
    command.args(["diagnose", object, "-n", scope.namespace(), "-o", "json"]);
    let output = command.env("KUBECONFIG", scope.cluster()?.kubeconfig()).env("NO_COLOR", "1").output()?;
    let told = || format!("{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).with_context(told)?;
    ensure!(list["items"][0].is_object(), "{}", told());
    Ok(list["items"][0].clone())
}

/// The same, and an error unless this is the cause and its text holds a word.
///
/// # Errors
/// See [`diagnosed`].
pub fn ensure_diagnosed(scope: &Scope, binary: &str, object: &str, (cause, word): (&str, &str)) -> Result<()> {
    let found = diagnosed(scope, binary, object)?;
    ensure!(found["cause"] == cause, "{object}: not {cause}, but {found:#}");
    ensure!(found.to_string().contains(word), "{object}: {word:?} is not in {found:#}");
    Ok(())
}
