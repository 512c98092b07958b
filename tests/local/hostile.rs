//! Tenants on a real node that change their directories while the agent removes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use latebind_cluster::suite::long;
use latebind_cluster::{Node, Scope, eventually};
use latebind_test_support::objects::{self, of_claim, selected};
use tokio::task::JoinSet;

use crate::nodes::{CLASS, PATIENCE, claim, delete_claim, delete_pod, installed, last, pod, removed, written};
use latebind_test_support::local::path_of;
use latebind_test_support::tenant::swap;

/// Something on the node swaps directories of the volume for links while the volume is removed.
pub async fn a_tenant_who_swaps_directories_for_links_reaches_nothing(scope: &Scope) -> Result<()> {
    let node = last(installed(scope).await?);
    node.shell("mkdir -p /opt/bystander && echo safe > /opt/bystander/file && cp /etc/hostname /opt/etc-before")
        .await?;
    claim(scope, "victim", CLASS).await?;
    scope.create::<Pod>(pod("victim", Some(node.name()), &of_claim("victim"))).await?;
    let (victim, _) = written(scope, "victim", "victim").await?;
    for round in 0..8 {
        let name = format!("hostile{round}");
        claim(scope, &name, CLASS).await?;
        scope.create::<Pod>(pod(&name, Some(node.name()), &of_claim(&name))).await?;
        let (volume, _) = written(scope, &name, &name).await?;
        let path = path_of(&volume).display().to_string();
        let (target, stop) = (path_of(&victim).display().to_string(), format!("/opt/stop-{round}"));
        // It holds the directory open, so it goes on after the directory has been moved away.
        let attack = format!(
            "cd {path} && mkdir -p a/b/c d/e && touch a/b/c/f d/e/g && (while [ ! -e {stop} ]; do \
             for link in /etc /opt/bystander {target} ..; do \
             mv a/b x 2>/dev/null; ln -s $link a/b 2>/dev/null; mv d y 2>/dev/null; ln -s $link d 2>/dev/null; \
             rm -f a/b d 2>/dev/null; mv x a/b 2>/dev/null; mv y d 2>/dev/null; mkdir -p a/b/c d/e 2>/dev/null; done; \
             done) >/dev/null 2>&1 &"
        );
        node.shell(&attack).await?;
        delete_pod(scope, &name).await?;
        delete_claim(scope, &name).await?;
        eventually("the volume to go", PATIENCE, async || {
            Ok(scope.all::<PersistentVolume>().get_opt(&volume.name_any()).await?.is_none().then_some(()))
        })
        .await?;
        node.shell(&format!("touch {stop}")).await?;
        removed(scope, &volume, node.name()).await?;
    }
    let found = node
        .shell(&format!(
            "cat /opt/bystander/file && cmp /etc/hostname /opt/etc-before && cat {}/name",
            path_of(&victim).display()
        ))
        .await?;
    ensure!(found.split_whitespace().eq(["safe", "victim"]), "{found}");
    delete_pod(scope, "victim").await?;
    delete_claim(scope, "victim").await?;
    removed(scope, &victim, node.name()).await
}

/// Volumes that are attacked and removed together.
const AT_ONCE: usize = 50;
/// The agent moves a volume into its trash at once; a busy machine binds fifty slowly.
const BATCH_PATIENCE: Duration = Duration::from_secs(180);

/// One process has a hand in every volume of a batch, from before they are released until all of them are gone.
pub async fn volumes_removed_many_at_a_time_under_attack_take_nothing_with_them(scope: &Scope) -> Result<()> {
    let rounds = if long() { 1_000 } else { AT_ONCE };
    let node = last(installed(scope).await?);
    node.shell("mkdir -p /opt/bystander && echo safe > /opt/bystander/file").await?;
    claim(scope, "victim", CLASS).await?;
    scope.create::<Pod>(pod("victim", Some(node.name()), &of_claim("victim"))).await?;
    let (victim, _) = written(scope, "victim", "victim").await?;
    let base = PathBuf::from(victim.annotations().get("latebind.dev/base").context("a base")?);
    let targets: Vec<PathBuf> = [path_of(&victim), base, "/opt/bystander".into(), "/etc".into()]
        .into_iter()
        .chain(["..", "../..", "../../.."].map(PathBuf::from))
        .collect();
    let swaps = Arc::new(AtomicUsize::new(0));
    for batch in 0..rounds / AT_ONCE {
        let before = swaps.load(Ordering::Relaxed);
        attacked(scope, node, batch, &targets, &swaps).await.with_context(|| format!("batch {batch}"))?;
        ensure!(swaps.load(Ordering::Relaxed) - before > AT_ONCE, "hardly anything was swapped");
        let kept = format!("cat /opt/bystander/file {}/name", path_of(&victim).display());
        let found = node.shell(&kept).await?;
        ensure!(found.split_whitespace().eq(["safe", "victim"]), "{found}");
    }
    println!("{rounds} volumes removed during {} swaps", swaps.load(Ordering::Relaxed));
    delete_pod(scope, "victim").await?;
    delete_claim(scope, "victim").await?;
    removed(scope, &victim, node.name()).await
}

/// Makes a batch of volumes, attacks them, and removes them meanwhile.
async fn attacked(
    scope: &Scope,
    node: &Node,
    batch: usize,
    targets: &[PathBuf],
    swaps: &Arc<AtomicUsize>,
) -> Result<()> {
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("hostile{batch}-{number}")).collect();
    let created = names
        .iter()
        .map(|name| scope.create::<PersistentVolumeClaim>(selected(objects::claim(name, CLASS, "1Mi"), node.name())));
    stream::iter(created).buffer_unordered(8).try_collect::<Vec<_>>().await?;
    let volumes = bound(scope).await?;
    let root = PathBuf::from(format!("/proc/{}/root", node.host_pid().await?));
    let handles = volumes.values().map(|volume| {
        let path = root.join(path_of(volume).strip_prefix("/")?);
        File::open(&path).with_context(|| path.display().to_string())
    });
    let handles = handles.collect::<Result<Vec<File>>>()?;

    let (counted, targets) = (Arc::clone(swaps), targets.to_vec());
    // However this function ends, the tenant does.
    let mut tenant = JoinSet::new();
    tenant.spawn(async move {
        for turn in 0.. {
            let swapped = handles.iter().filter(|volume| swap(volume, &targets, turn)).count();
            counted.fetch_add(swapped, Ordering::Relaxed);
            // The agent and all of Kubernetes share this machine's processors with the tenant.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    stream::iter(names.iter().map(|name| delete_claim(scope, name)))
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    eventually("the volumes to go", BATCH_PATIENCE, async || {
        let left = scope.all::<PersistentVolume>().list(&ListParams::default()).await?;
        let left = left.iter().filter(|volume| volumes.contains_key(&volume.name_any())).count();
        ensure!(left == 0, "{left} are left");
        Ok(Some(()))
    })
    .await?;
    tenant.shutdown().await;
    for volume in volumes.values() {
        removed(scope, volume, node.name()).await?;
    }
    Ok(())
}

/// The volumes of all claims that name a node, once there are some for all of them; by name.
async fn bound(scope: &Scope) -> Result<BTreeMap<String, PersistentVolume>> {
    eventually("every claim to be bound", BATCH_PATIENCE, async || {
        let claims = scope.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
        let waiting = claims.iter().filter(|it| it.status.as_ref().and_then(|it| it.phase.as_deref()) != Some("Bound"));
        let waiting = waiting.count();
        ensure!(waiting == 0, "{waiting} wait");
        let hostile = |volume: &PersistentVolume| {
            let owner = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            owner.is_some_and(|it| {
                it.namespace.as_deref() == Some(scope.namespace())
                    && it.name.as_deref().is_some_and(|name| name.starts_with("hostile"))
            })
        };
        let volumes = scope.all::<PersistentVolume>().list(&ListParams::default()).await?;
        let volumes: BTreeMap<_, _> =
            volumes.into_iter().filter(hostile).map(|volume| (volume.name_any(), volume)).collect();
        ensure!(volumes.len() == AT_ONCE, "{} volumes", volumes.len());
        Ok(Some(volumes))
    })
    .await
}
