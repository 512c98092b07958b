//! The webhook on watch caches: reviews a second next to the same webhook on manifests, memory, and how soon it is ready.
//!
//! A real API server holds 5,000 Nodes, 10,000 volumes and 10,000 claims. Both webhooks know the same objects and are
//! sent the same review. Run it on a quiet machine: `cargo bench --bench cached`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client, Resource};
use latebind_cluster::{Cluster, Options, guard};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use latebind_test_support::load;
use latebind_test_support::process::{self, Process, pinned};

const ROLE: &str = "LATEBIND_BENCH_ROLE";
const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";
const NODES: usize = 5_000;
const VOLUMES: usize = 10_000;
const CLAIMS: usize = 10_000;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
/// Creates under way at one time.
const WRITERS: usize = 64;

fn main() -> ExitCode {
    if let Some(code) = guard::take_role() {
        return code;
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    if std::env::var(ROLE).as_deref() == Ok("client") {
        load::run();
    } else if std::env::args().any(|arg| arg == "--bench") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(compare());
    } else {
        println!("measures on a whole cluster only: cargo bench --bench cached");
    }
    ExitCode::SUCCESS
}

async fn compare() {
    let folder = tempfile::tempdir().unwrap();
    // It would taint Nodes that no kubelet has reported of.
    let options = Options::new("bench-cached")
        .without_controller_manager()
        .without_scheduler()
        .api_server_flag("--disable-admission-plugins=TaintNodesByCondition,ServiceAccount");
    let cluster = Cluster::start(options).await.unwrap();
    let began = Instant::now();
    fill(&cluster.client(), folder.path()).await;
    println!("{NODES} Nodes, {VOLUMES} volumes, {CLAIMS} claims after {:.0} s", began.elapsed().as_secs_f32());

    let body = folder.path().join("review.json");
    std::fs::write(&body, review()).unwrap();
    let live = Server::live(&cluster, folder.path());
    let ready = live.ready().await;
    let fresh = (live.process.memory("VmRSS"), live.process.memory("VmHWM"));
    let manifests = Server::manifests(folder.path());
    manifests.ready().await;
    let (mut of_live, mut of_manifests) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_manifests.push(manifests.load(folder.path(), &body));
        of_live.push(live.load(folder.path(), &body));
    }
    let ratios = of_manifests.iter().zip(&of_live).map(|(manifests, live)| live.0 / manifests.0).collect();
    println!("\n{} connections, one core a server; median of {ROUNDS} runs of {MEASURED:?}\n", load::CONNECTIONS);
    println!(
        "| facts from | reviews/s | of manifests | p99 ms | RSS MB | peak |\n| --- | --- | --- | --- | --- | --- |"
    );
    for (name, ratio, figures, server) in [
        ("manifests", String::new(), of_manifests, &manifests),
        ("watch caches", format!("{:.2}", median(ratios)), of_live, &live),
    ] {
        let rate = median(figures.iter().map(|(rate, _)| *rate).collect());
        let p99 = median(figures.iter().map(|(_, p99)| *p99).collect());
        let (rss, peak) = (server.process.memory("VmRSS"), server.process.memory("VmHWM"));
        println!("| {name} | {rate:.0} | {ratio} | {p99:.2} | {rss:.1} | {peak:.1} |");
    }
    println!("\nwatch caches before the first review: {:.1} MB, peak {:.1} MB (wanted: 64)", fresh.0, fresh.1);
    println!(
        "lists ended {:.2} s after the start, ready {:.3} s later (wanted: 1)",
        ready.synced.as_secs_f32(),
        ready.after_synced.as_secs_f32()
    );
    cluster.shut_down().await.unwrap();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// --- what the cluster holds

fn node(place: usize) -> Value {
    let images: Vec<Value> = (0..20)
        .map(|image| {
            json!({"names": [format!("registry.example/team-{image}/service@sha256:{image:064x}")],
            "sizeBytes": 100_000_000 + image})
        })
        .collect();
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "Kubelet", "message": "as the kubelet says",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let capacity = json!({"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "200Gi"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("worker-{place}"), "labels": {
            "kubernetes.io/hostname": format!("worker-{place}"), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", place % 3), "node.kubernetes.io/instance-type": "large"}},
        "status": {"capacity": capacity, "allocatable": capacity, "images": images, "conditions": [
            condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
            condition("PIDPressure", "False"), condition("Ready", "True")]}})
}

fn volume(place: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": format!("pvc-{place:08x}-0000-4000-8000-000000000000"),
            "annotations": {"pv.kubernetes.io/provisioned-by": "rancher.io/local-path"}},
        "spec": {"storageClassName": "local-path", "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete", "hostPath": {"path": format!("/opt/local-path/{place}")},
            "claimRef": {"namespace": "team-a", "name": format!("claim-{place}"), "uid": format!("{place}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [format!("worker-{}", place % NODES)]}]}]}}}})
}

fn claim(place: usize) -> Value {
    // The last one waits, and is what the review is about.
    let bound = (place + 1 < CLAIMS).then(|| format!("pvc-{place:08x}-0000-4000-8000-000000000000"));
    let name = if bound.is_some() { format!("claim-{place}") } else { "shop-data".to_owned() };
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "team-a", "labels": {"app": "shop"}},
        "spec": {"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"], "volumeName": bound,
            "resources": {"requests": {"storage": "10Gi"}}}})
}

/// Creates everything, and writes the same as manifests.
async fn fill(client: &Client, folder: &Path) {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"},
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}});
    let objects = folder.join("objects");
    std::fs::create_dir(&objects).unwrap();
    let all = Api::<StorageClass>::all(client.clone());
    put(&all, vec![class], &objects.join("classes.json")).await;
    put(&Api::<Namespace>::all(client.clone()), vec![namespace], &objects.join("namespaces.json")).await;
    let nodes = (0..NODES).map(node).collect();
    put(&Api::<Node>::all(client.clone()), nodes, &objects.join("nodes.json")).await;
    let volumes = (0..VOLUMES).map(volume).collect();
    put(&Api::<PersistentVolume>::all(client.clone()), volumes, &objects.join("volumes.json")).await;
    let claims = (0..CLAIMS).map(claim).collect();
    put(&Api::<PersistentVolumeClaim>::namespaced(client.clone(), "team-a"), claims, &objects.join("claims.json"))
        .await;
}

async fn put<K>(api: &Api<K>, objects: Vec<Value>, file: &Path)
where
    K: Resource<DynamicType = ()> + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    std::fs::write(file, serde_json::to_vec(&list).unwrap()).unwrap();
    let created = futures::stream::iter(objects)
        .map(|object| async move {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            api.create(&PostParams::default(), &object.try_parse::<K>().unwrap()).await
        })
        .buffer_unordered(WRITERS);
    created.for_each(|created| async move { drop(created.unwrap()) }).await;
}

fn review() -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews/pod-pinned.json");
    let mut review: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    review["request"]["object"]["spec"]["nodeName"] = json!("worker-7");
    serde_json::to_vec(&review).unwrap()
}

// --- the webhooks

struct Server {
    process: Process,
    began: Instant,
    address: SocketAddr,
    probes: SocketAddr,
    ca: PathBuf,
}

/// When it was ready.
struct Ready {
    /// From the start to the end of the last first list.
    synced: Duration,
    /// From then until `/readyz` said so.
    after_synced: Duration,
}

impl Server {
    fn live(cluster: &Cluster, folder: &Path) -> Self {
        let certs = folder.join("certs");
        let made = Command::new(process::under_test(env!("CARGO_BIN_EXE_latebind")))
            .args(["certs", "--out"])
            .arg(&certs)
            .output()
            .unwrap();
        assert!(made.status.success());
        let mut command = pinned(SERVER_CORE, &process::under_test(env!("CARGO_BIN_EXE_latebind")));
        command.args(["run", "--role", "webhook", "--kubeconfig"]).arg(cluster.kubeconfig());
        command.arg("--tls-cert").arg(certs.join("tls.crt")).arg("--tls-key").arg(certs.join("tls.key"));
        Self::start(command, certs.join("ca.crt"))
    }

    fn manifests(folder: &Path) -> Self {
        let ca = folder.join("manifests.pem");
        let mut command = pinned(SERVER_CORE, &process::under_test(env!("CARGO_BIN_EXE_latebind")));
        command.arg("webhook").arg("--objects").arg(folder.join("objects")).arg("--ca-out").arg(&ca);
        Self::start(command, ca)
    }

    fn start(mut command: Command, ca: PathBuf) -> Self {
        command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]);
        let began = Instant::now();
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (address, probes) = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the webhook did not start");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "serving" {
                let at = |field: &str| line[field].as_str().unwrap().parse().unwrap();
                break (at("address"), at("metrics"));
            }
        };
        // Whatever it says from now on must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process: Process(child), began, address, probes, ca }
    }

    async fn ready(&self) -> Ready {
        let mut synced = None;
        loop {
            if synced.is_none() && self.is_synced().await {
                synced = Some(self.began.elapsed());
            }
            let ready = self.get("/readyz").await.starts_with("HTTP/1.1 200");
            let now = self.began.elapsed();
            if let (true, Some(synced)) = (ready, synced) {
                return Ready { synced, after_synced: now.saturating_sub(synced) };
            }
            assert!(now < Duration::from_secs(120), "it is not ready after two minutes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// True when every first list has ended; a webhook without watches has none.
    async fn is_synced(&self) -> bool {
        let metrics = self.get("/metrics").await;
        let rows = metrics.lines().filter_map(|line| line.strip_prefix("latebind_watch_synced{")?.split_once(' '));
        rows.map(|(_, value)| value.parse::<f64>()).all(|value| value.is_ok_and(|value| value >= 1.0))
    }

    /// The plain text of an answer.
    async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.probes).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Reviews a second, and the 99th percentile in ms.
    fn load(&self, folder: &Path, body: &Path) -> (f64, f64) {
        let mut command = pinned(CLIENT_CORE, &std::env::current_exe().unwrap());
        command.current_dir(folder).arg(self.address.to_string()).arg(&self.ca).arg(body).env(ROLE, "client");
        command.args([WARM_UP, MEASURED].map(|time| time.as_millis().to_string()));
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the client failed");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (said["rate"].as_f64().unwrap(), said["p99"].as_f64().unwrap())
    }
}
