//! A provisioner that posts a PersistentVolume and deletes it again, and makes nothing: what the API alone costs.
//!
//! It keeps to the contract: it acts when the controller manager has handed the claim over by its annotation, and when
//! the volume is released. It is a process of its own so that its cost can be read.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use latebind_test_support::process::Process;

/// Its provisioner name, and who it is to the API server.
pub const NAME: &str = "null.latebind.dev";
/// Its class.
pub const CLASS: &str = "null";
const KUBECONFIG: &str = "LATEBIND_BENCH_NULL";
/// Requests under way at one time.
const SIDE_BY_SIDE: usize = 64;

/// Starts this program as the provisioner.
pub fn start(kubeconfig: &Path) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(Process(command.env(KUBECONFIG, kubeconfig).stdin(Stdio::null()).spawn()?))
}

/// Is the provisioner until it is killed, if that is what this process is for.
pub fn take_role() -> Option<ExitCode> {
    let kubeconfig = std::env::var_os(KUBECONFIG)?;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work(Path::new(&kubeconfig))).unwrap();
    Some(ExitCode::FAILURE)
}

async fn work(kubeconfig: &Path) -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    // So that the audit log tells it from the benchmark.
    config.auth_info.impersonate = Some(NAME.to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    let client = Client::try_from(config)?;
    tokio::join!(make(client.clone()), remove(client));
    Ok(())
}

async fn make(client: Client) {
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default());
    let volumes: Api<PersistentVolume> = Api::all(client);
    let changes = claims.default_backoff().applied_objects();
    // A watch that breaks is taken up again.
    let made = changes.for_each_concurrent(SIDE_BY_SIDE, async |claim| {
        if let Some(volume) = claim.ok().as_ref().and_then(volume) {
            volumes.create(&PostParams::default(), &volume).await.ok();
        }
    });
    made.await;
}

async fn remove(client: Client) {
    let volumes: Api<PersistentVolume> = Api::all(client);
    let changes = watcher(volumes.clone(), watcher::Config::default()).default_backoff().applied_objects();
    let removed = changes.for_each_concurrent(SIDE_BY_SIDE, async |volume| {
        let Ok(volume) = volume else { return };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let ours = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some(CLASS);
        if ours && phase == Some("Released") && volume.metadata.deletion_timestamp.is_none() {
            volumes.delete(&volume.name_any(), &DeleteParams::default()).await.ok();
        }
    });
    removed.await;
}

fn volume(claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let annotated = |key: &str| claim.annotations().get(key).map(String::as_str);
    let handed_over = annotated("volume.kubernetes.io/storage-provisioner") == Some(NAME);
    let unbound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none());
    let node = annotated("volume.kubernetes.io/selected-node").filter(|_| handed_over && unbound)?;
    let uid = claim.uid()?;
    let volume = json!({
        "metadata": { "name": format!("pvc-{uid}"), "annotations": { "pv.kubernetes.io/provisioned-by": NAME } },
        "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": CLASS, "persistentVolumeReclaimPolicy": "Delete",
            "local": { "path": "/tmp/null" },
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": uid,
                "namespace": claim.namespace(), "name": claim.name_any() },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }] } } } });
    serde_json::from_value(volume).ok()
}
