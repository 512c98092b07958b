//! Whole disks as volumes: latebind, and beside it sig-storage-local-static-provisioner, one after the other on one cluster with a
//! real node: `cargo bench --bench disks`.
//!
//! `LATEBIND_BENCH_PEER=v2.9.0=/path/of/local-volume-provisioner` names that one's version and static binary; without it latebind
//! is measured alone. `LATEBIND_BENCH_BINARY` names the latebind that ships. With `LATEBIND_UPDATE` set the figures become
//! docs/results/disks.md.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot run has failed")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use latebind_cluster::{Cluster, Node, Options, eventually, guard};
use latebind_test_support::objects;
use serde_json::json;

mod makers;
mod table;

use makers::Maker;
use table::Row;

const PATIENCE: Duration = Duration::from_secs(120);
/// The peer looks for disks once in that time.
const PERIOD: Duration = Duration::from_secs(10);
/// How long a process is left alone before its memory is read.
const REST: Duration = Duration::from_secs(30);
/// Requests of ours at a time.
const SIDE_BY_SIDE: usize = 16;

/// How many disks are mounted.
const DISKS: u32 = 10;
/// How often one is released with each load.
const RELEASES: u32 = 3;
/// Volumes of other nodes.
const ELSEWHERE: usize = 1_000;
/// What is written before a release: what it is called, and the shell that writes it into the working directory.
const LOADS: [(&str, &str); 2] = [
    ("1 GiB in 16 files", "for i in $(seq 16); do dd if=/dev/zero of=file$i bs=1M count=64 status=none; done"),
    ("10,000 small files", "for i in $(seq 100); do mkdir d$i; for k in $(seq 100); do echo $k > d$i/f$k; done; done"),
];

fn main() -> Result<ExitCode> {
    if let Some(code) = guard::take_role() {
        return Ok(code);
    }
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(ExitCode::SUCCESS);
    }
    let page = tokio::runtime::Runtime::new()?.block_on(measure())?;
    println!("\n{page}");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        std::fs::write(latebind_cluster::project_root().join("docs/results/disks.md"), page)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure() -> Result<String> {
    let cluster = Cluster::start(Options::new("bench-disks").nodes(1)).await?;
    let node = &cluster.nodes()[0];
    let mut peer = None;
    if let Some(given) = std::env::var("LATEBIND_BENCH_PEER").ok().filter(|given| !given.is_empty()) {
        let (version, binary) = given.split_once('=').context("LATEBIND_BENCH_PEER is VERSION=PATH")?;
        let maker = makers::peer(&cluster, binary).await?;
        peer = Some((version.to_owned(), Ground { cluster: &cluster, node, maker }.rows().await?));
        put_away(&cluster).await?;
    }
    let maker = makers::latebind(&cluster).await?;
    let ours = Ground { cluster: &cluster, node, maker }.rows().await?;
    cluster.shut_down().await?;
    Ok(table::page(ours, peer))
}

/// Where one of them is measured.
struct Ground<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    maker: Maker,
}

impl Ground<'_> {
    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.cluster.client())
    }

    async fn rows(&self) -> Result<Vec<Row>> {
        let (mut rows, mut took) = (Vec::new(), Vec::new());
        for number in 0..DISKS {
            self.pause(number, DISKS).await;
            took.push(self.offered(number).await?);
        }
        rows.push(table::times(format!("mounted, to Available, {DISKS} disks"), took));
        tokio::time::sleep(REST).await;
        let idle = self.maker.seen(self.node).await?;
        for (load, script) in LOADS {
            let mut took = Vec::new();
            for number in 0..RELEASES {
                took.push(self.released(script, number).await?);
            }
            rows.push(table::times(format!("released with {load}, to Available again, {RELEASES} times"), took));
        }
        rows.extend(table::memory(&format!("with {DISKS} disks"), &idle));
        self.with_others(&mut rows).await?;
        println!("{}: {rows:#?}", self.maker.class());
        Ok(rows)
    }

    /// Waits, so that what is measured falls on all parts of the peer's period alike.
    async fn pause(&self, number: u32, of: u32) {
        tokio::time::sleep(PERIOD * (2 * number + 1) / (2 * of)).await;
    }

    /// How long it takes from an act until a watch sees an Available volume at the path that is not the one with this UID.
    async fn until_available(
        &self,
        path: &str,
        old: Option<String>,
        act: impl Future<Output = Result<()>>,
    ) -> Result<Duration> {
        let mut watch = watcher(self.volumes(), watcher::Config::default()).boxed();
        while !matches!(watch.try_next().await?, Some(watcher::Event::InitDone)) {}
        let begin = Instant::now();
        act.await?;
        let wanted = |volume: &PersistentVolume| {
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            at(volume) == Some(path) && phase == Some("Available") && volume.uid() != old
        };
        let seen = async {
            while !matches!(watch.try_next().await?, Some(watcher::Event::Apply(volume)) if wanted(&volume)) {}
            Ok(begin.elapsed())
        };
        tokio::time::timeout(PATIENCE, seen).await.with_context(|| format!("nothing is available at {path}"))?
    }

    fn path(&self, number: u32) -> String {
        format!("{}/disk{number}", self.maker.directory())
    }

    /// From mounting a disk to its volume. Room for 1 GiB costs nothing before it is used.
    async fn offered(&self, number: u32) -> Result<Duration> {
        let path = self.path(number);
        let script = format!("mkdir -p {path}; mount -t tmpfs -o size=1200m disk{number} {path}");
        self.until_available(&path, None, async { self.node.shell(&script).await.map(drop) }).await
    }

    /// From the deletion of a claim, whose disk is full, to the next volume of that disk. The claim names its volume: no Pod is needed.
    async fn released(&self, script: &str, number: u32) -> Result<Duration> {
        let path = self.path(0);
        let all = self.volumes().list(&ListParams::default()).await?.items;
        let volume = all.into_iter().find(|volume| at(volume) == Some(&*path)).context("the disk has a volume")?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.cluster.client(), "default");
        let claim = objects::with(
            objects::claim("full", self.maker.class(), "1Mi"),
            &json!({ "spec": { "volumeName": volume.name_any() } }),
        );
        claims.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
        eventually("the claim to be bound", PATIENCE, async || {
            let phase = claims.get("full").await?.status.and_then(|status| status.phase);
            Ok((phase.as_deref() == Some("Bound")).then_some(()))
        })
        .await?;
        self.node.shell(&format!("cd {path}\n{script}")).await?;
        self.pause(number, RELEASES).await;
        let delete = async { Ok(claims.delete("full", &DeleteParams::default()).await.map(drop)?) };
        let took = self.until_available(&path, volume.uid(), delete).await?;
        let left = self.node.shell(&format!("ls -A {path}")).await?;
        ensure!(left.trim().is_empty(), "not cleaned: {left}");
        Ok(took)
    }

    /// What the volumes of other nodes cost this one.
    async fn with_others(&self, rows: &mut Vec<Row>) -> Result<()> {
        let volumes = self.volumes();
        let all: Vec<PersistentVolume> = (0..ELSEWHERE).map(|number| self.elsewhere(number)).collect::<Result<_>>()?;
        let (post, patch) = (PostParams::default(), PatchParams::default());
        let created = all.iter().map(|volume| volumes.create(&post, volume));
        stream::iter(created).buffer_unordered(SIDE_BY_SIDE).try_for_each(async |_| Ok(())).await?;
        // The controller manager writes the phase of each meanwhile.
        tokio::time::sleep(2 * REST).await;
        let before = self.maker.seen(self.node).await?;
        tokio::time::sleep(REST).await;
        let quiet = self.maker.seen(self.node).await?;
        let end = tokio::time::Instant::now() + REST;
        let change = Patch::Merge(json!({ "metadata": { "annotations": { "bench.latebind.dev/change": "1" } } }));
        let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        let changed = names.iter().map(|name| volumes.patch(name, &patch, &change));
        stream::iter(changed).buffer_unordered(SIDE_BY_SIDE).try_for_each(async |_| Ok(())).await?;
        ensure!(tokio::time::Instant::now() < end, "the changes took longer than they are counted");
        tokio::time::sleep_until(end).await;
        let after = self.maker.seen(self.node).await?;
        rows.extend(table::memory(&format!("with {ELSEWHERE} volumes of other nodes besides"), &before));
        rows.extend(table::received("nothing happens", &before, &quiet));
        rows.extend(table::received("each volume of other nodes is changed once", &quiet, &after));
        Ok(())
    }

    /// A volume of another node.
    fn elsewhere(&self, number: usize) -> Result<PersistentVolume> {
        let (node, disk) = (format!("elsewhere-{}", number / 10), number % 10);
        let volume = json!({
            "metadata": { "name": format!("{node}-{disk}"), "annotations": {
                "pv.kubernetes.io/provisioned-by": format!("local-volume-provisioner-{node}") } },
            "spec": {
                "capacity": { "storage": "10Gi" }, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": self.maker.class(),
                "local": { "path": format!("{}/disk{disk}", self.maker.directory()) },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }] } },
            },
        });
        Ok(serde_json::from_value(volume)?)
    }
}

/// Ends the peer, and leaves none of its mounts, directories and volumes, nor any of those of other nodes.
async fn put_away(cluster: &Cluster) -> Result<()> {
    makers::remove_peer(cluster).await?;
    let directory = Maker::Peer.directory();
    cluster.nodes()[0].shell(&format!("umount -l {directory}/*; rm -rf {directory}")).await?;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client());
    volumes.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    eventually("no volume", PATIENCE, async || {
        Ok(volumes.list_metadata(&ListParams::default()).await?.items.is_empty().then_some(()))
    })
    .await
}

fn at(volume: &PersistentVolume) -> Option<&str> {
    Some(volume.spec.as_ref()?.local.as_ref()?.path.as_str())
}
