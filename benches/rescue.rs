//! How fast rescue fixes what is stuck, and how much memory its caches take, against a real API server on this machine.
//!
//! `cargo bench --bench rescue` prints the figures. With `LATEBIND_BENCH_SMALL` set it takes a tenth of everything, to
//! see that it works. The controller manager and the scheduler are left out: they would only share the processor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use latebind_cluster::{Cluster, Options, eventually, guard};
use latebind_test_support::objects;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use latebind_test_support::process::{self, Process};

const PATIENCE: Duration = Duration::from_secs(120);
/// Requests of ours at a time.
const SIDE_BY_SIDE: usize = 16;

fn main() -> ExitCode {
    if let Some(code) = guard::take_role() {
        return code;
    }
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(measure()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let scale = if std::env::var_os("LATEBIND_BENCH_SMALL").is_some() { 10 } else { 1 };
    let options = Options::new("bench-rescue")
        .without_controller_manager()
        .without_scheduler()
        .api_server_flag("--disable-admission-plugins=ServiceAccount")
        .api_server_flag("--max-requests-inflight=1000");
    let cluster = Cluster::start(options).await?;
    let client = cluster.client();
    let class = json!({
        "metadata": {"name": "disk"}, "provisioner": "test.example.com/disk", "volumeBindingMode": "WaitForFirstConsumer",
    });
    Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    create::<Node>(Api::all(client.clone()), 10, node).await?;

    at_start(&cluster, 1000 / scale).await?;
    in_steady_state(&cluster, 300 / scale).await?;
    memory(&cluster, scale).await?;
    cluster.shut_down().await
}

/// From the process's start to the last of many claims that were stuck before.
async fn at_start(cluster: &Cluster, stuck: usize) -> Result<()> {
    prepare(cluster, "before", stuck).await?;
    acknowledge_all(cluster, "before", stuck).await?;
    let begin = Instant::now();
    let rescuer = Rescuer::start(cluster, &[])?;
    let done = format!("{stuck}");
    eventually("all to be fixed", PATIENCE, async || {
        Ok((rescuer.metric(r#"latebind_rescue_writes_total{kind="select_node",result="done"}"#)? == done).then_some(()))
    })
    .await?;
    let took = begin.elapsed().as_secs_f64();
    let writes = rescuer.writes()?;
    println!("stuck at the start: {stuck} Pods fixed in {took:.1} s (to reach: 15 s), with {writes} writes");
    clear(cluster).await
}

/// From a Pod's last precondition to the selected node, as another client sees it.
async fn in_steady_state(cluster: &Cluster, pods: usize) -> Result<()> {
    prepare(cluster, "steady", pods).await?;
    let rescuer = Rescuer::start(cluster, &[])?;
    eventually("a leader", PATIENCE, async || Ok((rescuer.metric("latebind_leader ")? == "1").then_some(()))).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(cluster.client());
    let mut delays = Vec::new();
    for number in 0..pods {
        let name = format!("steady-{number}");
        let selected = |claim: Option<&PersistentVolumeClaim>| {
            let annotations = claim.and_then(|claim| claim.metadata.annotations.as_ref());
            annotations.is_some_and(|annotations| annotations.contains_key("volume.kubernetes.io/selected-node"))
        };
        let (of_claims, of_name) = (claims.clone(), name.clone());
        let watch = async move { kube::runtime::wait::await_condition(of_claims, &of_name, selected).await };
        let watch = tokio::spawn(watch);
        tokio::time::sleep(Duration::from_millis(30)).await;
        acknowledge(&cluster.client(), &name).await?;
        // The watch event that makes the last precondition true is sent about when the write is answered.
        let begin = Instant::now();
        tokio::time::timeout(PATIENCE, watch).await.context("no node selected")???;
        delays.push(begin.elapsed());
    }
    delays.sort();
    let at = |part: f64| {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = ((delays.len() - 1) as f64 * part) as usize;
        delays[index].as_secs_f64() * 1000.0
    };
    println!(
        "steady state, {pods} Pods one by one: p50 {:.1} ms (to reach: 100), p99 {:.1} ms (to reach: 1000)",
        at(0.5),
        at(0.99)
    );
    clear(cluster).await
}

/// Resident memory with the caches full, and what of it is the process without them.
async fn memory(cluster: &Cluster, scale: usize) -> Result<()> {
    let empty = {
        let rescuer = Rescuer::start(cluster, &["--dry-run"])?;
        rescuer.ready().await?;
        rescuer.resident()
    };
    let client = cluster.client();
    let (nodes, claims, volumes, pods) = (5000 / scale, 10_000 / scale, 10_000 / scale, 5000 / scale);
    create::<Node>(Api::all(client.clone()), nodes, |number| node(number + 10)).await?;
    create::<PersistentVolumeClaim>(Api::default_namespaced(client.clone()), claims, |number| claim("full", number))
        .await?;
    create::<Pod>(Api::default_namespaced(client.clone()), pods, |number| pod("full", number)).await?;
    let controller = {
        let rescuer = Rescuer::start(cluster, &["--dry-run"])?;
        rescuer.ready().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        rescuer.resident()
    };
    println!(
        "memory of the controller: {controller:.1} MiB with {nodes} Nodes, {claims} claims, {pods} pinned Pods \
         (to reach: 40), {empty:.1} MiB without"
    );
    create::<PersistentVolume>(Api::all(client.clone()), volumes, volume).await?;
    let with_volumes = {
        let rescuer = Rescuer::start(cluster, &["--dry-run"])?;
        rescuer.ready().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        rescuer.resident()
    };
    println!("the same with {volumes} volumes: {with_volumes:.1} MiB");
    Ok(())
}

async fn create<K>(api: Api<K>, count: usize, object: impl Fn(usize) -> Value) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let objects: Vec<Value> = (0..count).map(object).collect();
    stream::iter(objects)
        .map(|object| {
            let api = api.clone();
            async move {
                api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Claims, and Pods that no kubelet has seen yet.
async fn prepare(cluster: &Cluster, stem: &str, count: usize) -> Result<()> {
    let client = cluster.client();
    create::<PersistentVolumeClaim>(Api::default_namespaced(client.clone()), count, |number| claim(stem, number))
        .await?;
    create::<Pod>(Api::default_namespaced(client), count, |number| pod(stem, number)).await
}

async fn acknowledge_all(cluster: &Cluster, stem: &str, count: usize) -> Result<()> {
    let client = cluster.client();
    let names: Vec<String> = (0..count).map(|number| format!("{stem}-{number}")).collect();
    let told = names.into_iter().map(|name| {
        let client = client.clone();
        async move { acknowledge(&client, &name).await }
    });
    stream::iter(told).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Says what a kubelet says when it has seen the Pod.
async fn acknowledge(client: &Client, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let status = json!({"status": {"phase": "Pending", "startTime": "2026-01-01T00:00:00Z"}});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn clear(cluster: &Cluster) -> Result<()> {
    let now = DeleteParams::default().grace_period(0);
    Api::<Pod>::default_namespaced(cluster.client()).delete_collection(&now, &ListParams::default()).await?;
    Ok(())
}

/// A Node as a cloud's kubelet reports it, with what decisions do not read.
fn node(number: usize) -> Value {
    let name = format!("node-{number}");
    let labels: Value = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/arch", "amd64"),
        ("kubernetes.io/os", "linux"),
        ("topology.kubernetes.io/region", "region-1"),
        ("topology.kubernetes.io/zone", "region-1a"),
        ("node.kubernetes.io/instance-type", "large-8"),
        ("example.com/pool", "general"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .collect::<serde_json::Map<_, _>>()
    .into();
    let images: Vec<Value> = (0..20)
        .map(|image| json!({"names": [format!("registry.example.com/team/image-{image}@sha256:{image:064}")], "sizeBytes": 50_000_000}))
        .collect();
    let amounts = json!({"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let conditions: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .into_iter()
        .map(|kind| json!({"type": kind, "status": if kind == "Ready" { "True" } else { "False" }, "reason": "KubeletReports", "message": "the kubelet says how it is"}))
        .collect();
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": conditions, "images": images},
    })
}

fn claim(stem: &str, number: usize) -> Value {
    let labels = json!({"app.kubernetes.io/name": "database", "app.kubernetes.io/instance": stem});
    let claim = objects::claim(&format!("{stem}-{number}"), "disk", "10Gi");
    objects::with(claim, &json!({"metadata": {"labels": labels}}))
}

fn pod(stem: &str, number: usize) -> Value {
    json!({
        "metadata": {"name": format!("{stem}-{number}"), "labels": {"app.kubernetes.io/name": "database"}},
        "spec": {
            "nodeName": format!("node-{}", number % 10),
            "containers": [{
                "name": "main", "image": "registry.example.com/team/database:1", "args": ["--data=/data", "--verbose"],
                "env": [{"name": "LEVEL", "value": "info"}, {"name": "MODE", "value": "primary"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("{stem}-{number}")}}],
        },
    })
}

fn volume(number: usize) -> Value {
    let node = format!("node-{}", number % 5000);
    let volume = objects::volume(&format!("pvc-{number:032}"), "other", &node, "10Gi");
    let bound = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "test.example.com/disk"}},
        "spec": {"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "elsewhere",
            "name": format!("data-{number}"), "uid": format!("{number:032}"),
        }},
    });
    objects::with(volume, &bound)
}

/// `latebind run --role controller` with an administrator's rights; killed when dropped.
struct Rescuer {
    process: Process,
    probes: String,
}

impl Rescuer {
    fn start(cluster: &Cluster, flags: &[&str]) -> Result<Self> {
        let mut process = Command::new(process::under_test(env!("CARGO_BIN_EXE_latebind")))
            .args([
                "run",
                "--role=controller",
                "--metrics-listen=127.0.0.1:0",
                "--lease-namespace=default",
                "--kubeconfig",
            ])
            .arg(cluster.kubeconfig())
            .args(flags)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name.starts_with("MALLOC_")))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().context("stderr")?);
        let mut line = String::new();
        let probes = loop {
            line.clear();
            ensure!(log.read_line(&mut line)? > 0, "latebind ended at once");
            if let Some(address) = line.split("metrics=").nth(1).and_then(|text| text.split_whitespace().next()) {
                break address.to_owned();
            }
        };
        // Read on, or the process would block when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { process: Process(process), probes })
    }

    async fn ready(&self) -> Result<()> {
        eventually("latebind to be ready", PATIENCE, async || Ok(self.get("/readyz")?.contains("200 OK").then_some(())))
            .await
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.probes)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn metric(&self, name: &str) -> Result<String> {
        let text = self.get("/metrics")?;
        Ok(text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned())
    }

    /// How often it wrote, whatever became of it.
    fn writes(&self) -> Result<u64> {
        let text = self.get("/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with("latebind_rescue_writes_total{"));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// Resident memory in MiB.
    fn resident(&self) -> f64 {
        self.process.memory("VmRSS")
    }
}
