//! A disk that hangs: whoever calls it waits, for as long as it pleases. It is a FUSE file system whose process is stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use latebind::agent::AgentMetrics;
use latebind::crd::{DISK_HUNG, LocalNode, LocalNodeStatus, LocalPool, condition};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::diagnosed::ensure_diagnosed;
use latebind_test_support::local::{PATIENCE, path_of};
use latebind_test_support::objects;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::ground::{Agent, Ground, warned};

/// More than the agent follows at once beneath one base.
const ORDERS: usize = 12;

/// A directory that is shown at another place by a process, which can be stopped.
struct Disk {
    /// What the disk really holds. It can be looked at while the disk hangs.
    source: PathBuf,
    mounted: PathBuf,
    process: Child,
}

impl Disk {
    /// `None` where it cannot be mounted, which is said.
    async fn mount(within: &Path) -> Result<Option<Self>> {
        let (source, mounted) = (within.join("source"), within.join("disk"));
        fs::create_dir(&source)?;
        fs::create_dir(&mounted)?;
        let there = Command::new("bindfs").arg("--version").output().is_ok() && Path::new("/dev/fuse").exists();
        if !there || !rustix::process::geteuid().is_root() {
            ensure!(std::env::var("CI").as_deref() != Ok("true"), "it may not be skipped in CI");
            eprintln!("SKIPPED: a disk that hangs needs root, bindfs and /dev/fuse");
            return Ok(None);
        }
        let process = Command::new("bindfs").arg("-f").args([&source, &mounted]).spawn()?;
        let disk = Self { source, mounted, process };
        eventually("the disk to be mounted", PATIENCE, async || {
            let mounts = fs::read_to_string("/proc/self/mounts")?;
            let at = disk.mounted.to_string_lossy();
            Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*at)).then_some(()))
        })
        .await?;
        Ok(Some(disk))
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(process, signal).unwrap();
    }

    fn count(&self, path: &str) -> usize {
        fs::read_dir(self.source.join(path)).map_or(0, Iterator::count)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        Command::new("umount").arg("-l").arg(&self.mounted).status().ok();
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A class of volumes on the disk alone.
async fn class_on(scope: &Scope, ground: &Ground<'_>, disk: &Disk) -> Result<String> {
    let class = scope.unique("hung");
    let pool = json!({
        "metadata": { "name": class },
        "spec": { "nodes": [{ "names": [ground.node.name()], "paths": [{ "path": disk.mounted }] }] },
    });
    scope.create::<LocalPool>(pool).await?;
    scope.create::<StorageClass>(objects::class(&class, latebind::volumes::PROVISIONER)).await?;
    Ok(class)
}

/// Waits until the report says so.
async fn report(
    ground: &Ground<'_>,
    what: &str,
    says: impl Fn(&LocalNodeStatus) -> bool + Send + Sync,
) -> Result<LocalNodeStatus> {
    eventually(what, PATIENCE, async || {
        let report = ground.scope.all::<LocalNode>().get_opt(ground.node.name()).await?;
        Ok(report.and_then(|report| report.status).filter(|status| says(status)))
    })
    .await
}

fn usable(status: &LocalNodeStatus, path: &Path) -> Option<bool> {
    status.paths.iter().find(|report| Path::new(&report.path) == path).map(|report| report.usable)
}

fn hangs(status: &LocalNodeStatus) -> Option<bool> {
    condition(&status.conditions, DISK_HUNG).map(|it| it.status == "True")
}

pub async fn a_disk_that_hangs_stops_no_claim_on_another(scope: &Scope) -> Result<()> {
    let ground = Ground::without_agent(scope, json!({})).await?;
    let Some(disk) = Disk::mount(ground.directory.path()).await? else { return Ok(()) };
    let class = class_on(scope, &ground, &disk).await?;
    let on_disk = async |name: &str| {
        let claim = objects::selected(objects::claim(name, &class, "1Mi"), ground.node.name());
        scope.create::<PersistentVolumeClaim>(claim).await
    };
    let metrics = AgentMetrics::default();
    let mut options = Agent::options(ground.node.name(), ground.directory.path());
    options.disk_timeout = Duration::from_secs(2);
    let agent = Agent::run(scope.client(), options, metrics.clone());
    let both = |status: &LocalNodeStatus| {
        usable(status, &disk.mounted) == Some(true) && usable(status, &ground.base()) == Some(true)
    };
    let before = report(&ground, "both paths to be usable", both).await?;
    ensure!(hangs(&before).is_none() && metrics.disks_hung() == 0);
    on_disk("served").await?;
    let served = ground.bound("served").await?;

    disk.signal(Signal::STOP);
    for number in 0..ORDERS {
        on_disk(&format!("waits{number}")).await?;
    }
    ground.delete_claim("served").await?;
    for number in 0..4 {
        let (volume, _) = ground.filled(&format!("good{number}")).await?;
        ground.delete_claim(&format!("good{number}")).await?;
        ground.volume_gone(&volume.name_any()).await?;
    }
    let during = report(&ground, "the report to say that the disk hangs", |status| hangs(status) == Some(true)).await?;
    ensure!(usable(&during, &disk.mounted) == Some(false) && usable(&during, &ground.base()) == Some(true));
    let said = &condition(&during.conditions, DISK_HUNG).unwrap().message;
    ensure!(said.contains(disk.mounted.to_str().unwrap()), "{said}");
    let told = warned(scope, ground.node.name(), DISK_HUNG).await?;
    ensure!(told.contains("do not return"), "{told}");
    let node = format!("node/{}", ground.node.name());
    ensure_diagnosed(scope, env!("CARGO_BIN_EXE_latebind"), &node, ("DiskHung", disk.mounted.to_str().unwrap()))?;
    ensure!(metrics.disks_hung() == 1);
    // What was known of the disk stays known: a report without it would say that the store was restored.
    let of = |status: &LocalNodeStatus| {
        status.paths.iter().find(|it| Path::new(&it.path) == disk.mounted).map(|it| it.base_id.clone())
    };
    ensure!(of(&during).is_some_and(|id| !id.is_empty()) && of(&during) == of(&before));
    on_disk("told").await?;
    scope.event("told", "ProvisioningFailed", "do not return", PATIENCE).await?;
    let (last, _) = ground.filled("last").await?;
    ground.volume_phase(&served.name_any(), "Released").await?;
    let held = disk.source.join(path_of(&served).strip_prefix(&disk.mounted)?);
    ensure!(held.is_dir(), "nothing is removed from a disk that hangs");

    disk.signal(Signal::CONT);
    report(&ground, "the report to say that it answers", |status| hangs(status) == Some(false) && both(status)).await?;
    ensure!(metrics.disks_hung() == 0);
    ground.volume_gone(&served.name_any()).await?;
    ensure!(!held.exists());
    on_disk("again").await?;
    ground.bound("again").await?;
    let waited = (0..ORDERS).map(|number| format!("waits{number}"));
    for name in waited.chain(["told", "again", "last"].map(str::to_owned)) {
        ground.delete_claim(&name).await?;
    }
    ground.volume_gone(&last.name_any()).await?;
    ground.all_clean().await?;
    eventually("nothing to be left on the disk", PATIENCE, async || {
        let left = [".trash", ".latebind/volumes", ".latebind/new"].map(|path| disk.count(path));
        ensure!(left == [0; 3], "{left:?}");
        Ok(Some(()))
    })
    .await?;
    drop(agent);
    Ok(())
}
