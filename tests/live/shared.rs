//! What several tests of this suite do: make objects, ask latebind about them, and type what it prints.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use latebind_cluster::{Scope, SimulatedNode, eventually};
use latebind_test_support::diagnosed::diagnosed;
use latebind_test_support::objects;
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(2);
pub const PROVISIONER: &str = "nobody.example.com";

/// Runs latebind for the scope's cluster and namespace.
pub fn latebind(scope: &Scope, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(arguments).env("KUBECONFIG", scope.cluster()?.kubeconfig()).env("NO_COLOR", "1");
    Ok(command.output()?)
}

pub fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is diagnosed of an object of the namespace.
pub fn diagnosis(scope: &Scope, object: &str) -> Result<Value> {
    diagnosed(scope, env!("CARGO_BIN_EXE_latebind"), object)
}

/// Waits until the object has this cause, and gives the diagnosis.
pub async fn cause(scope: &Scope, object: &str, cause: &str, patience: Duration) -> Result<Value> {
    let mut last = Value::Null;
    let what = format!("{object} to be diagnosed as {cause}");
    let found = eventually(&what, patience, async || {
        last = diagnosis(scope, object)?;
        if last["cause"] != cause {
            // Each look is a process and some fifteen lists.
            tokio::time::sleep(LOOK).await;
            return Ok(None);
        }
        Ok(Some(last.clone()))
    })
    .await;
    found.with_context(|| format!("{last:#}"))
}

/// Types the first command that is printed, as a person would. It must be one that mends.
pub fn mend(scope: &Scope, diagnosis: &Value) -> Result<()> {
    let step = &diagnosis["next"][0];
    ensure!(step["fixes"] == true, "{diagnosis:#}");
    typed(scope, step["command"].as_str().context("a command")?).map(drop)
}

/// Types a command, and gives what it prints.
pub fn typed(scope: &Scope, command: &str) -> Result<String> {
    let cluster = scope.cluster()?;
    let kubectl = cluster.binaries().path("kubectl");
    let tools = kubectl.parent().context("a folder")?;
    let path = std::env::join_paths(
        std::iter::once(tools.to_path_buf())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let output =
        Command::new("sh").args(["-c", command]).env("PATH", path).env("KUBECONFIG", cluster.kubeconfig()).output()?;
    ensure!(output.status.success(), "{command}: {}", told(&output));
    Ok(told(&output))
}

pub async fn class(scope: &Scope, stem: &str, provisioner: &str, mode: &str) -> Result<String> {
    let name = scope.unique(stem);
    scope
        .create::<StorageClass>(objects::with(objects::class(&name, provisioner), &json!({"volumeBindingMode": mode})))
        .await?;
    Ok(name)
}

pub async fn claim(scope: &Scope, name: &str, class: &str, more: Value) -> Result<PersistentVolumeClaim> {
    scope.create(objects::with(objects::claim(name, class, "1Gi"), &more)).await
}

pub async fn volume(scope: &Scope, stem: &str, class: &str, node: &str, size: &str, more: Value) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<PersistentVolume>(objects::with(objects::volume(&name, class, node, size), &more)).await?;
    Ok(name)
}

/// A Pod that mounts a claim; its environment holds something that is nobody's business.
pub async fn pod(scope: &Scope, name: &str, claim: &str, spec: Value) -> Result<Pod> {
    let mut pod = objects::with(objects::pod(name, &[objects::named("data", claim)]), &json!({"spec": spec}));
    pod["spec"]["containers"][0]["env"] = json!([{"name": "TOKEN", "value": "nobodys-business"}]);
    scope.create(pod).await
}

/// A Pod that the scheduler may place on this node alone.
pub fn on(node: &SimulatedNode) -> Value {
    json!({"nodeSelector": {"kubernetes.io/hostname": node.name()}})
}
