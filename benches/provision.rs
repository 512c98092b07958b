//! Provisioning against a null provisioner, that posts a PersistentVolume and does nothing else, in one run on one
//! cluster: `cargo bench --bench provision`. The controller manager has its defaults, which cap everybody.
//!
//! The nodes are simulated, the agents are not: they make and remove real directories. rancher's provisioner needs real
//! nodes for its helper Pods and is not part of this run.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has failed")]

use std::collections::HashMap;
use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use latebind::crd::{LocalNode, LocalPool};
use latebind_cluster::{Cluster, Options, Scope, SimulatedNode, eventually, guard};
use serde_json::json;

const CLAIMS: usize = 100;
const SINGLE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(300);
const NULL: &str = "null.latebind.dev";
const OURS: &str = "local.latebind.dev";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    fn start(cluster: &Cluster, log: &std::path::Path, arguments: &[&str]) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
        command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).stdin(Stdio::null());
        Ok(Self(command.stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    /// Resident memory in MiB, and CPU time in seconds.
    fn cost(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime, in hundredths of a second on every Linux that we run on.
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok((kib / 1024.0, ticks / 100.0))
    }
}

/// Posts a volume for each claim that the controller manager has handed over.
async fn null_provisioner(client: Client) {
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default());
    claims
        .default_backoff()
        .applied_objects()
        .try_for_each_concurrent(64, |claim| {
            let client = client.clone();
            async move {
                let annotated = |key: &str| claim.annotations().get(key).map(String::as_str);
                let ours = annotated("volume.kubernetes.io/storage-provisioner") == Some(NULL);
                let unbound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none());
                let (true, true, Some(node)) = (ours, unbound, annotated("volume.kubernetes.io/selected-node")) else {
                    return Ok(());
                };
                let uid = claim.uid().unwrap_or_default();
                let volume = json!({
                    "metadata": { "name": format!("pvc-{uid}") },
                    "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
                        "storageClassName": "null", "persistentVolumeReclaimPolicy": "Retain",
                        "hostPath": { "path": "/tmp/null" },
                        "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "uid": uid,
                            "namespace": claim.namespace(), "name": claim.name_any() },
                        "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                            { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }] } } } });
                let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
                Api::<PersistentVolume>::all(client).create(&PostParams::default(), &volume).await.ok();
                Ok(())
            }
        })
        .await
        .ok();
}

/// What one provisioner did.
struct Pace {
    to_volume: Vec<Duration>,
    bound: Duration,
    gone: Option<Duration>,
}

impl Pace {
    fn tell(&mut self, name: &str) {
        self.to_volume.sort();
        let at = |part: usize| self.to_volume[(self.to_volume.len() - 1) * part / 100];
        println!(
            "{name:10} {CLAIMS} claims: selected to volume p50 {:.0?} p99 {:.0?}; all bound {:.1?} ({:.1}/s){}",
            at(50),
            at(99),
            self.bound,
            f64::from(u32::try_from(CLAIMS).unwrap()) / self.bound.as_secs_f64(),
            self.gone.map(|gone| format!("; all gone {gone:.1?}")).unwrap_or_default(),
        );
    }
}

fn claim(name: &str, class: &str, node: &str) -> PersistentVolumeClaim {
    let object = json!({
        "metadata": { "name": name, "annotations": { "volume.kubernetes.io/selected-node": node } },
        "spec": { "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Mi" } } } });
    serde_json::from_value(object).unwrap()
}

async fn pace(scope: &Scope, class: &str, nodes: &[SimulatedNode], base: Option<&std::path::Path>) -> Result<Pace> {
    let (claims, volumes) = (scope.api::<PersistentVolumeClaim>(), scope.all::<PersistentVolume>());
    let mut events = watcher(volumes.clone(), watcher::Config::default()).default_backoff().boxed();
    // The list at first, so that nothing is missed.
    while !matches!(events.next().await, Some(Ok(watcher::Event::InitDone))) {}
    let begun = Instant::now();
    let created = futures::stream::iter(0..CLAIMS).map(|number| {
        let node = nodes[number % nodes.len()].name();
        let (object, claims) = (claim(&format!("{class}-{number}"), class, node), claims.clone());
        async move {
            let made = claims.create(&PostParams::default(), &object).await?;
            anyhow::Ok((made.uid().unwrap(), Instant::now()))
        }
    });
    let created: HashMap<String, Instant> = created.buffer_unordered(16).try_collect().await?;
    let mut to_volume = HashMap::new();
    while to_volume.len() < CLAIMS {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.context("volumes")?;
        if let Some(Ok(watcher::Event::Apply(volume))) = event
            && let Some(since) = created.get(volume.name_any().trim_start_matches("pvc-"))
        {
            to_volume.entry(volume.name_any()).or_insert(since.elapsed());
        }
    }
    eventually("all claims to be bound", PATIENCE, async || {
        let all = claims.list(&ListParams::default()).await?;
        let bound = all.iter().filter(|it| {
            it.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) == Some(class)
                && it.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        });
        Ok((bound.count() == CLAIMS).then_some(()))
    })
    .await?;
    let bound = begun.elapsed();
    let begun = Instant::now();
    claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    let gone = match base {
        // The controller manager's work on these must not count against who comes next.
        None => {
            eventually("the volumes to be released", PATIENCE, async || {
                let all = volumes.list(&ListParams::default()).await?;
                let released = |it: &PersistentVolume| {
                    it.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
                };
                Ok(all.iter().all(released).then_some(()))
            })
            .await?;
            None
        }
        Some(base) => {
            eventually("volumes and directories to go", PATIENCE, async || {
                let all = volumes.list(&ListParams::default()).await?;
                let left = all.iter().any(|it| it.spec.as_ref().is_some_and(|spec| spec.local.is_some()));
                let entries =
                    fs::read_dir(base)?.flatten().filter(|it| !it.file_name().to_string_lossy().starts_with('.'));
                let trash = fs::read_dir(base.join(".trash"))?.count();
                Ok((!left && entries.count() == 0 && trash == 0).then_some(()))
            })
            .await?;
            Some(begun.elapsed())
        }
    };
    Ok(Pace { to_volume: to_volume.into_values().collect(), bound, gone })
}

/// One claim at a time, with nothing else to do: from its creation to its volume.
async fn single(scope: &Scope, node: &str) -> Result<Vec<Duration>> {
    let (claims, volumes) = (scope.api::<PersistentVolumeClaim>(), scope.all::<PersistentVolume>());
    let mut took = Vec::new();
    for number in 0..SINGLE {
        let mut events = watcher(volumes.clone(), watcher::Config::default()).default_backoff().boxed();
        while !matches!(events.next().await, Some(Ok(watcher::Event::InitDone))) {}
        let begun = Instant::now();
        let made = claims.create(&PostParams::default(), &claim(&format!("single-{number}"), "ours", node)).await?;
        let wanted = format!("pvc-{}", made.uid().unwrap());
        loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.context("a volume")?;
            if matches!(event, Some(Ok(watcher::Event::Apply(volume))) if volume.name_any() == wanted) {
                break;
            }
        }
        took.push(begun.elapsed());
    }
    took.sort();
    Ok(took)
}

fn main() -> Result<ExitCode> {
    // The cluster's guard is this program again.
    if let Some(code) = guard::take_role() {
        return Ok(code);
    }
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if std::env::args().any(|argument| argument == "--bench") {
        tokio::runtime::Runtime::new()?.block_on(measure())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure() -> Result<()> {
    // Kubernetes' own defaults; tests raise them.
    let defaults = ["--kube-api-qps=20", "--kube-api-burst=30"];
    let options = defaults.into_iter().fold(Options::new("bench-provision"), Options::controller_manager_flag);
    let cluster = Arc::new(Cluster::start(options).await?);
    let client = cluster.client();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in latebind::crd::definitions() {
        definitions.create(&PostParams::default(), &definition).await?;
    }
    let scope = Scope::open(client.clone(), Some(Arc::clone(&cluster))).await?;
    let nodes = [scope.simulated_node("a", &[]).await?, scope.simulated_node("b", &[]).await?];
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let base = directory.path().join("base");
    for (name, provisioner) in [("null", NULL), ("ours", OURS)] {
        let object = json!({ "metadata": { "name": name }, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer" });
        scope.create::<StorageClass>(object).await?;
    }
    let log = directory.path().join("log");
    let pool = format!("--pool=ours={}", base.display());
    let common = ["run", "--metrics-listen=127.0.0.1:0"];
    let controller = ["--role=controller", "--provisioner=on", "--lease-namespace=default", pool.as_str()];
    let controller = Running::start(&cluster, &log, &[&common[..], &controller].concat())?;
    let allowed = directory.path().to_str().unwrap();
    let mut agents = Vec::new();
    for node in &nodes {
        let agent = ["--role=agent", "--node-name", node.name(), "--base-path", allowed];
        agents.push(Running::start(&cluster, &log, &[&common[..], &agent].concat())?);
    }
    let reports: Api<LocalNode> = Api::all(client.clone());
    let pools: Api<LocalPool> = Api::all(client.clone());
    eventually("the agents", PATIENCE, async || {
        let seen = reports.list(&ListParams::default()).await?;
        let usable = seen.iter().filter(|it| it.status.as_ref().is_some_and(|status| !status.paths.is_empty()));
        Ok((usable.count() == nodes.len() && pools.get_opt("ours").await?.is_some()).then_some(()))
    })
    .await
    .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    let known = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items.len();
    println!(
        "{known} nodes, controller manager at its defaults, {} build",
        if cfg!(debug_assertions) { "debug" } else { "release" }
    );

    let null = tokio::spawn(null_provisioner(client.clone()));
    let mut without = pace(&scope, "null", &nodes, None).await?;
    null.abort();
    without.tell("null");
    let mut ours = pace(&scope, "ours", &nodes, Some(&base)).await?;
    ours.tell("latebind");
    println!("latebind / null, rate of bound claims: {:.2}", without.bound.as_secs_f64() / ours.bound.as_secs_f64());
    let took = single(&scope, nodes[0].name()).await?;
    println!(
        "latebind   one claim at a time: created to volume p50 {:.0?}, longest {:.0?}",
        took[SINGLE / 2],
        took[SINGLE - 1]
    );
    for (name, process) in [("controller", &controller), ("agent", &agents[0])] {
        let (memory, seconds) = process.cost()?;
        println!("latebind   {name}: {memory:.1} MiB resident, {seconds:.2} s of CPU");
    }
    Ok(())
}
