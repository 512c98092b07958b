//! Claims that are refused, and nodes that will not do.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::controllers::volumes as provision;
use latebind::crd::LocalPool;
use latebind::rancher::{Loss, RANCHER};
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::local::PATIENCE;
use serde_json::{Value, json};

use super::ground::Ground;

const SELECTED: &str = "volume.kubernetes.io/selected-node";

pub async fn what_cannot_be_served_is_refused_by_name(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    for (name, spec, word) in [
        ("block", json!({ "volumeMode": "Block" }), "Block"),
        ("many", json!({ "accessModes": ["ReadWriteMany"] }), "sharedOnNode"),
        ("selector", json!({ "selector": { "matchLabels": { "a": "b" } } }), "selector"),
        ("source", json!({ "dataSource": { "kind": "PersistentVolumeClaim", "name": "x" } }), "PersistentVolumeClaim"),
    ] {
        ground.claim(name, json!({ "spec": spec })).await?;
        scope.event(name, "ProvisioningFailed", word, PATIENCE).await?;
    }
    assert!(ground.locals().await?.is_empty());
    assert!(ground.directories().is_empty());
    Ok(())
}

async fn selected(scope: &Scope, claim: &str) -> Result<Option<String>> {
    Ok(scope.claim(claim).await?.metadata.annotations.and_then(|mut it| it.remove(SELECTED)))
}

pub async fn unselected(scope: &Scope, claim: &str) -> Result<()> {
    eventually("another node to be asked for", PATIENCE, async || {
        Ok(selected(scope, claim).await?.is_none().then_some(()))
    })
    .await
}

async fn set_pool(scope: &Scope, ground: &Ground<'_>, path: &Path, require_mount: bool) -> Result<()> {
    let paths = json!([{ "path": path, "requireMount": require_mount }]);
    let change = json!({ "spec": { "nodes": [{ "names": [ground.node.name()], "paths": paths }] } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&change)).await?;
    Ok(())
}

pub async fn a_full_or_missing_disk_is_told_and_another_node_is_asked_for(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    ground.claim("large", json!({ "spec": { "resources": { "requests": { "storage": "1Ei" } } } })).await?;
    scope.event("large", "ProvisioningFailed", "not enough room on node", PATIENCE).await?;
    unselected(scope, "large").await?;

    set_pool(scope, &ground, &ground.base(), true).await?;
    let reports = scope.all::<latebind::crd::LocalNode>();
    eventually("the report to say so", PATIENCE, async || {
        let status = reports.get(ground.node.name()).await?.status.unwrap_or_default();
        let told = status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "False");
        Ok((told && status.paths[0].message.contains("nothing is mounted")).then_some(()))
    })
    .await?;
    ground.claim("unmounted", json!({})).await?;
    scope.event("unmounted", "ProvisioningFailed", "nothing is mounted", PATIENCE).await?;
    unselected(scope, "unmounted").await?;
    set_pool(scope, &ground, &ground.base(), false).await?;

    // Full in a way that only the attempt shows: no inodes.
    let disk = ground.directory.path().join("disk");
    std::fs::create_dir(&disk)?;
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m,nr_inodes=10", "tmpfs"]).arg(&disk).status();
    if mounted.is_ok_and(|status| status.success()) {
        set_pool(scope, &ground, &disk, true).await?;
        eventually("the disk to be seen", PATIENCE, async || {
            let status = reports.get(ground.node.name()).await?.status.unwrap_or_default();
            Ok((status.paths.len() == 1 && status.paths[0].usable && status.paths[0].path == disk.to_string_lossy())
                .then_some(()))
        })
        .await?;
        for number in 0..20 {
            std::fs::write(disk.join(format!("f{number}")), "").ok();
        }
        ground.claim("full", json!({})).await?;
        let told = scope.event("full", "ProvisioningFailed", "ENOSPC", PATIENCE).await;
        let gone = unselected(scope, "full").await;
        Command::new("umount").arg("-l").arg(&disk).status()?;
        let message = told?;
        assert!(message.contains(ground.node.name()) && message.contains("disk"), "{message}");
        gone?;
    }
    Ok(())
}

pub async fn a_pinned_claim_keeps_its_node(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    scope
        .create::<Pod>(json!({
            "metadata": { "name": "pinned" },
            "spec": { "nodeName": ground.node.name(), "containers": [{ "name": "c", "image": "x" }],
                "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "large" } }] },
        }))
        .await?;
    ground.claim("large", json!({ "spec": { "resources": { "requests": { "storage": "1Ei" } } } })).await?;
    scope.event("large", "ProvisioningFailed", "not enough room", PATIENCE).await?;
    let kept =
        holds_for("the selected node", std::time::Duration::from_secs(3), async || selected(scope, "large").await)
            .await?;
    assert_eq!(kept.as_deref(), Some(ground.node.name()));
    let patch = json!({ "spec": { "room": "Ignore" } });
    scope.all::<LocalPool>().patch(&ground.class, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ground.bound("large").await?;
    Ok(())
}

pub async fn a_missing_pool_is_told_and_a_late_one_serves(scope: &Scope) -> Result<()> {
    let pool = scope.unique("late");
    let ground = Ground::new(scope, json!({ "parameters": { "pool": pool } })).await?;
    ground.claim("data", json!({})).await?;
    scope.event("data", "ProvisioningFailed", &format!("there is no LocalPool {pool}"), PATIENCE).await?;
    scope
        .create::<LocalPool>(json!({ "metadata": { "name": pool },
            "spec": { "nodes": [{ "names": [ground.node.name()], "paths": [{ "path": ground.base() }] }] } }))
        .await?;
    ground.bound("data").await?;
    Ok(())
}

pub async fn a_pool_outside_of_what_the_agents_were_given_gets_nothing(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let outside = tempfile::tempdir()?;
    set_pool(scope, &ground, &outside.path().join("base"), false).await?;
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "agent.basePaths", PATIENCE).await?;
    assert!(told.contains(ground.node.name()), "{told}");
    assert_eq!(std::fs::read_dir(outside.path())?.count(), 0);
    // The API server itself refuses what could not be a base at all.
    for path in ["relative", "/", "/a/../b", "/a/", "/a/./b"] {
        let pool: Value = json!({ "metadata": { "name": scope.unique("bad") },
            "spec": { "nodes": [{ "paths": [{ "path": path }] }] } });
        assert_eq!(scope.attempt::<LocalPool>(pool).await?.err().map(|it| it.code), Some(422), "{path}");
    }
    let two_defaults = json!({ "metadata": { "name": scope.unique("bad") }, "spec": { "nodes": [{}, {}] } });
    assert_eq!(scope.attempt::<LocalPool>(two_defaults).await?.err().map(|it| it.code), Some(422));
    Ok(())
}

/// A file system that is mounted while this lives.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// `None` where this machine does not let us, which is said aloud; in CI it must.
    fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let mounted = Command::new("mount").args(arguments).arg(at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(std::env::var_os("CI").is_none(), "cannot mount at {}", at.display());
        eprintln!("SKIPPED: what needs a mount at {}; be root", at.display());
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// Waits until the agent has looked at the path.
async fn seen(scope: &Scope, ground: &Ground<'_>, path: &Path, usable: bool) -> Result<()> {
    let reports = scope.all::<latebind::crd::LocalNode>();
    eventually("the path to be seen", PATIENCE, async || {
        let status = reports.get(ground.node.name()).await?.status.unwrap_or_default();
        let found = status.paths.iter().any(|it| it.path == path.to_string_lossy() && it.usable == usable);
        Ok(found.then_some(()))
    })
    .await
}

pub async fn a_read_only_disk_is_named(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let disk = ground.directory.path().join("disk");
    let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"], &disk) else { return Ok(()) };
    set_pool(scope, &ground, &disk, true).await?;
    seen(scope, &ground, &disk, true).await?;
    Command::new("mount").args(["-o", "remount,ro"]).arg(&disk).status()?;
    seen(scope, &ground, &disk, false).await?;
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "EROFS", PATIENCE).await?;
    assert!(told.contains(ground.node.name()) && told.contains(&*disk.to_string_lossy()), "{told}");
    unselected(scope, "data").await
}

/// The disk takes no more writes, beneath a file system that thinks it has room.
pub async fn a_dying_disk_is_named(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (disk, backing) = (ground.directory.path().join("disk"), ground.directory.path().join("backing"));
    let Some(_backing) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"], &backing) else { return Ok(()) };
    let image = backing.join("image");
    std::fs::File::create(&image)?.set_len(64 << 20)?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
    anyhow::ensure!(made.is_ok_and(|status| status.success()), "mkfs.ext4 failed; install e2fsprogs");
    let source = image.to_string_lossy().into_owned();
    let Some(_mounted) = Mounted::new(&["-o", "loop", &source], &disk) else { return Ok(()) };
    set_pool(scope, &ground, &disk, true).await?;
    seen(scope, &ground, &disk, true).await?;
    std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(backing.join("fill"))?).unwrap_err();
    ground.claim("data", json!({})).await?;
    let told = scope.event("data", "ProvisioningFailed", "disk", PATIENCE).await?;
    // The first who writes hears EIO, or ENOSPC where the kernel passes on what it heard itself; then the file system
    // closes itself, and others hear EROFS.
    assert!(["EIO", "ENOSPC", "EROFS"].iter().any(|errno| told.contains(errno)), "{told}");
    assert!(told.contains(ground.node.name()) && told.contains(&*disk.to_string_lossy()), "{told}");
    unselected(scope, "data").await
}

/// What a ConfigMap that is gone said of scripts is not known, and neither is what one says that may not be read.
pub async fn a_config_map_that_is_gone_or_may_not_be_read_holds_every_adopted_class_back(scope: &Scope) -> Result<()> {
    let name = scope.unique("config");
    let names = [name.clone()];
    let why = async |accepted: &[Loss]| {
        let found = provision::held_back(&scope.client(), &names, accepted).await?;
        anyhow::Ok(found.why(RANCHER, "any").map(str::to_owned))
    };
    let config = json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/a"] }] });
    let data = json!({ "config.json": config.to_string(), "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n" });
    scope.create::<ConfigMap>(json!({ "metadata": { "name": name }, "data": data })).await?;
    ensure!(why(&[]).await?.is_none(), "its scripts are the stock ones");
    scope.api::<ConfigMap>().delete(&name, &DeleteParams::default()).await?;
    let gone = why(&[]).await?.context("it is gone")?;
    ensure!(gone.contains(&name) && gone.contains("is in no namespace"), "{gone}");
    ensure!(why(&[Loss::Scripts]).await?.is_none(), "a person has said that it may be lost");
    let nobody = scope.cluster()?.client_as("nobody", &["system:authenticated"]).await?;
    let unread = provision::held_back(&nobody, &names, &[]).await?;
    let unread = unread.why(RANCHER, "any").context("it may not be read")?;
    ensure!(unread.contains("may not be read"), "{unread}");
    Ok(())
}
