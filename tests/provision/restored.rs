//! etcd is restored from a snapshot, by what an administrator restores it with: the disks know more than the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use latebind::crd::{LocalNode, LocalNodeStatus, ORPHANS_HELD};
use latebind_cluster::{Cluster, Options, Scope, eventually, holds_for};
use latebind_test_support::local::{PATIENCE, install};
use serde_json::json;

use super::ground::{Agent, Ground, controller};
use super::losses::{claim_for, local, policy, set};

const WHILE: Duration = Duration::from_secs(6);
/// What etcd's documentation advises to raise revisions by.
const BUMP: u64 = 1_000_000_000;

pub async fn a_store_restored_from_a_snapshot_takes_no_data_with_it(_: &Scope) -> Result<()> {
    on_a_cluster_of_its_own(0).await
}

/// Versions of objects do not tell then that the store went back.
pub async fn a_store_restored_with_raised_revisions_takes_no_data_with_it(_: &Scope) -> Result<()> {
    on_a_cluster_of_its_own(BUMP).await
}

async fn on_a_cluster_of_its_own(bump: u64) -> Result<()> {
    // Every claim here names its node.
    let cluster = Arc::new(Cluster::start(Options::new("provision-restored").without_scheduler()).await?);
    let outcome = restored(&cluster, bump).await.with_context(|| cluster.log_tails(8));
    let ended = Arc::into_inner(cluster).context("the cluster is still in use")?.shut_down().await;
    outcome.and(ended)
}

/// What is on the disk of the node.
struct Files {
    /// Of a claim that the snapshot knows.
    kept: PathBuf,
    /// Of a volume that was about to be removed at the time of the snapshot, and has another claim since.
    rescued: PathBuf,
    /// Of a volume that was made after the snapshot.
    made: PathBuf,
}

impl Files {
    fn there(&self) -> [bool; 3] {
        [&self.kept, &self.rescued, &self.made].map(|file| file.exists())
    }
}

async fn restored(cluster: &Arc<Cluster>, bump: u64) -> Result<()> {
    let scope = &Scope::open(cluster.client(), Some(Arc::clone(cluster))).await?;
    install(&scope.client(), latebind::crd::definitions()).await?;
    let mut ground = Ground::without_controller(scope, json!({})).await?;
    let control = controller(scope.client());
    ground.agent = Some(agent(scope, &ground));
    ground.wait_for_report().await?;
    let (_, kept) = ground.filled("kept").await?;
    let (volume, rescued) = ground.filled("rescued").await?;
    // The agent is away, so the removal waits.
    ground.agent = None;
    ground.delete_claim("rescued").await?;
    local(&ground, "the order", |local| local.spec.disposal.is_some()).await?;
    let backup = ground.directory.path().join("backup.db");
    cluster.save_etcd(&backup).await?;

    let rescue = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain", "claimRef": null } });
    set(scope, &volume.name_any(), &rescue).await?;
    claim_for(&ground, "again", &volume.name_any()).await?;
    scope.claim_phase("again", "Bound", PATIENCE).await?;
    ground.agent = Some(agent(scope, &ground));
    let (later, made) = ground.filled("made").await?;
    let files = Files { kept, rescued, made };
    marked(&ground, &volume, "Retain").await?;
    marked(&ground, &later, "Delete").await?;

    control.cancel();
    ground.agent = None;
    cluster.restore_etcd(&backup, bump).await?;
    let _control = controller(scope.client()).drop_guard();
    ground.agent = Some(agent(scope, &ground));
    let (number, status) = held(scope, &ground).await?;
    let listed: Vec<&str> = status.orphans.iter().map(|orphan| orphan.path.as_str()).collect();
    ensure!(listed == [directory(&files.made)], "{listed:?}");
    let there = holds_for("every file", WHILE, async || Ok(files.there())).await?;
    ensure!(there == [true; 3], "data was removed: {there:?}");
    let waits = local(&ground, "the removal to say why it waits", |local| {
        let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|it| it.reason == "StoreRestored" && it.message.contains("backup"))
    })
    .await?;
    ensure!(waits.spec.disposal.is_some());

    // A person puts right what the store lost, and says so: whatever is then to be removed, goes.
    set(scope, &volume.name_any(), &policy("Retain")).await?;
    let accept = json!({ "metadata": { "annotations": { "latebind.dev/accept-restored-store": number } } });
    let nodes = scope.all::<LocalNode>();
    nodes.patch(ground.node.name(), &PatchParams::default(), &Patch::Merge(&accept)).await?;
    eventually("the orphan to go", PATIENCE, async || Ok((!files.made.exists()).then_some(()))).await?;
    ensure!(files.there() == [true, true, false]);
    ground.delete_claim("kept").await?;
    eventually("what was released to go", PATIENCE, async || Ok((!files.kept.exists()).then_some(()))).await?;
    ensure!(files.rescued.exists() && scope.all::<PersistentVolume>().get_opt(&volume.name_any()).await?.is_some());
    Ok(())
}

/// An agent that removes what no volume names after a second.
fn agent(scope: &Scope, ground: &Ground<'_>) -> Agent {
    let age = Some(Duration::from_secs(1));
    Agent::start_with(scope.client(), ground.node.name(), ground.directory.path(), age, 5_000)
}

/// The name of the directory that the file is in.
fn directory(file: &Path) -> &str {
    file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default()
}

/// Waits until the disk knows the policy of a volume.
async fn marked(ground: &Ground<'_>, volume: &PersistentVolume, policy: &str) -> Result<()> {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone()).context("a claim")?;
    let marker = ground.base().join(".latebind/volumes").join(claim);
    eventually(&format!("a marker that says {policy}"), PATIENCE, async || {
        Ok(fs::read_to_string(&marker)?.contains(policy).then_some(()))
    })
    .await
}

/// Waits until the node's report says that the store is older than the disk; the number that accepts it, and the report.
async fn held(scope: &Scope, ground: &Ground<'_>) -> Result<(String, LocalNodeStatus)> {
    eventually("the report to say that the store was restored", PATIENCE, async || {
        let report = scope.all::<LocalNode>().get_opt(ground.node.name()).await?;
        let status = report.and_then(|report| report.status).unwrap_or_default();
        let condition = status.conditions.iter().find(|it| it.type_ == ORPHANS_HELD && it.status == "True");
        let Some(condition) = condition.filter(|it| it.reason == "StoreRestored") else { return Ok(None) };
        let number = condition.message.rsplit('=').next().map(str::to_owned).context("the annotation's value")?;
        Ok((!status.orphans.is_empty()).then_some((number, status)))
    })
    .await
}
