//! How many reviews a second the webhook answers, and how long each takes, next to a server of the same crates that
//! reads the body and answers a constant.
//!
//! Each server is a process of its own on one core and the client, with 16 kept connections, on another, so that a ratio
//! of two runs says what admission costs on top of HTTP and TLS. Run it on a quiet machine: `cargo bench --bench load`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use latebind::tls::{Authority, CurrentCertificate, MinimumVersion, crypto, server_config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const ROLE: &str = "LATEBIND_BENCH_ROLE";
const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

/// How much is measured.
struct Plan {
    nodes: &'static [usize],
    bodies: &'static [usize],
    /// Servers take turns, so that a disturbance of the machine falls on both.
    rounds: usize,
    warm_up: Duration,
    measured: Duration,
}

const WHOLE: Plan = Plan {
    nodes: &[10, 5_000],
    bodies: &[3 << 10, 64 << 10],
    rounds: 3,
    warm_up: Duration::from_secs(1),
    measured: Duration::from_secs(5),
};

/// What `cargo test` runs, to see that it still works.
const GLIMPSE: Plan = Plan {
    nodes: &[10],
    bodies: &[3 << 10],
    rounds: 1,
    warm_up: Duration::from_millis(200),
    measured: Duration::from_millis(200),
};

use latebind_test_support::process::{Cost, Process, pinned};
use latebind_test_support::{load, worst};

mod handshakes;

fn main() {
    crypto::install();
    match std::env::var(ROLE).as_deref() {
        Ok("bare") => bare_server(Path::new(&std::env::args().nth(1).unwrap())),
        Ok("client") => load::run(),
        Ok("handshakes") => handshakes::run(),
        _ => {
            let plan = if std::env::args().any(|arg| arg == "--bench") { WHOLE } else { GLIMPSE };
            // One part of it by its name, to look at that.
            let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
            let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
            if wanted("compare") {
                compare(&plan);
            }
            if wanted("worst") {
                beside_the_worst(&plan);
            }
            if wanted("handshakes") {
                new_connections(&plan);
            }
        }
    }
}

// --- the comparison

fn compare(plan: &Plan) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 || Command::new("taskset").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("needs two cores and taskset; nothing measured");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    println!("load: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());
    let mut table =
        String::from("| nodes known | body | server | reviews/s | of bare | p50 ms | p99 ms | RSS MB | peak |\n");
    table.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for &nodes in plan.nodes {
        let objects = folder.path().join(format!("objects-{nodes}"));
        write_objects(&objects, nodes);
        for &bytes in plan.bodies {
            let body = folder.path().join(format!("{bytes}.json"));
            std::fs::write(&body, review(bytes)).unwrap();
            let bare = Server::bare(folder.path());
            let webhook = Server::webhook(folder.path(), &objects);
            let (mut of_bare, mut of_webhook) = (Vec::new(), Vec::new());
            for _ in 0..plan.rounds {
                of_bare.push(bare.load(plan, &body));
                of_webhook.push(webhook.load(plan, &body));
            }
            let ratios = of_bare.iter().zip(&of_webhook).map(|(bare, webhook)| webhook.rate / bare.rate);
            let ratio = median(ratios.collect());
            let kib = std::fs::metadata(&body).unwrap().len() >> 10;
            for (name, server, results, of_bare) in
                [("bare", &bare, of_bare, String::new()), ("latebind", &webhook, of_webhook, format!("{ratio:.2}"))]
            {
                let (rate, p50, p99) = (
                    median(results.iter().map(|result| result.rate).collect()),
                    median(results.iter().map(|result| result.p50).collect()),
                    median(results.iter().map(|result| result.p99).collect()),
                );
                let (rss, peak) = (server.process.memory("VmRSS"), server.process.memory("VmHWM"));
                writeln!(
                    table,
                    "| {nodes} | {kib} KiB | {name} | {rate:.0} | {of_bare} | {p50:.2} | {p99:.2} | {rss:.1} | {peak:.1} |"
                )
                .unwrap();
            }
        }
    }
    println!(
        "\n{} connections, one core a server; median of {} runs of {:?}\n\n{table}",
        load::CONNECTIONS,
        plan.rounds,
        plan.measured
    );
}

/// How long the worst reviews take, and what small ones beside each of them notice. Both clients share a core, and the
/// server has one: what is held up is held up by the server's own doing.
fn beside_the_worst(plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects");
    write_objects(&objects, 5_000);
    let webhook = Server::webhook(folder.path(), &objects);
    let small = folder.path().join("small.json");
    std::fs::write(&small, review(3 << 10)).unwrap();
    let alone = webhook.load(plan, &small);
    let pod: Value = serde_json::from_slice(&review(3 << 10)).unwrap();
    let mut table = String::from(
        "| review of 3 MiB | path | processor ms | p50 ms | longest ms | p99 ms of small ones beside it | of alone |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for worst in worst::reviews(&pod, worst::LARGEST) {
        let body = folder.path().join("worst.json");
        std::fs::write(&body, &worst.body).unwrap();
        let (began, before) = (Instant::now(), webhook.processor_ms());
        let by_itself = webhook.ask(plan, worst.path, &body, 1).wait();
        // What else the machine does makes a review longer, and takes none of this.
        let processor = (webhook.processor_ms() - before) / began.elapsed().as_secs_f64() / by_itself.rate;
        let large = webhook.ask(plan, worst.path, &body, 1);
        let beside = webhook.load(plan, &small);
        large.wait();
        writeln!(
            table,
            "| {} | {} | {processor:.1} | {:.1} | {:.1} | {:.2} | {:.1} |",
            worst.name,
            worst.path,
            by_itself.p50,
            by_itself.longest,
            beside.p99,
            beside.p99 / alone.p99
        )
        .unwrap();
    }
    println!("\nsmall reviews alone: p99 {:.2} ms\n\n{table}", alone.p99);
}

/// New connections with one small review each, which an API server makes when it or the webhook has started.
fn new_connections(plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("objects");
    write_objects(&objects, 10);
    let webhook = Server::webhook(folder.path(), &objects);
    let small = folder.path().join("small.json");
    std::fs::write(&small, review(3 << 10)).unwrap();
    let mut command = pinned(CLIENT_CORE, &std::env::current_exe().unwrap());
    command.arg(webhook.address.to_string()).arg(&webhook.ca).arg(&small).env(ROLE, "handshakes");
    command.args([plan.warm_up, plan.measured].map(|time| time.as_millis().to_string()));
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the client failed");
    println!("\nnew connections, a core each for client and server: {}", String::from_utf8_lossy(&output.stdout));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Server {
    process: Process,
    address: SocketAddr,
    ca: PathBuf,
}

struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
    longest: f64,
}

/// A client that is under way.
struct Asking(std::process::Child);

impl Asking {
    fn wait(self) -> Measured {
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "the client failed");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |field: &str| said[field].as_f64().unwrap();
        Measured { rate: number("rate"), p50: number("p50"), p99: number("p99"), longest: number("longest") }
    }
}

impl Server {
    fn bare(folder: &Path) -> Self {
        let ca = folder.join("bare.pem");
        let mut command = pinned(SERVER_CORE, &std::env::current_exe().unwrap());
        command.arg(&ca).env(ROLE, "bare").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process: Process(child), address: line.trim().parse().unwrap(), ca }
    }

    fn webhook(folder: &Path, objects: &Path) -> Self {
        let ca = folder.join("webhook.pem");
        let mut command = pinned(SERVER_CORE, Path::new(env!("CARGO_BIN_EXE_latebind")));
        command.args(["webhook", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"]);
        // Which Pods are on the node no file says.
        command
            .arg("--assume-node=schedulable")
            .arg("--objects")
            .arg(objects)
            .arg("--ca-out")
            .arg(&ca)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the webhook did not start");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "serving" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        // Whatever it says from now on must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process: Process(child), address, ca }
    }

    /// What the process has spent on processors, in milliseconds.
    fn processor_ms(&self) -> f64 {
        Cost::of(self.process.0.id()).unwrap().seconds * 1e3
    }

    fn load(&self, plan: &Plan, body: &Path) -> Measured {
        self.ask(plan, "/mutate", body, load::CONNECTIONS).wait()
    }

    fn ask(&self, plan: &Plan, path: &str, body: &Path, connections: usize) -> Asking {
        let mut command = pinned(CLIENT_CORE, &std::env::current_exe().unwrap());
        command.arg(self.address.to_string()).arg(&self.ca).arg(body).env(ROLE, "client");
        command.args([plan.warm_up, plan.measured].map(|time| time.as_millis().to_string()));
        command.arg(path).arg(connections.to_string());
        Asking(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    }
}

fn write_objects(folder: &Path, nodes: usize) {
    std::fs::create_dir(folder).unwrap();
    let mut nodes_yaml = String::new();
    for place in 0..nodes {
        writeln!(
            nodes_yaml,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: worker-{place}\n  labels:\n    \
             kubernetes.io/hostname: worker-{place}\n    topology.kubernetes.io/zone: zone-{}\n\
             status:\n  allocatable: {{cpu: \"16\", memory: 64Gi}}\n  conditions:\n  - {{type: Ready, status: \"True\"}}",
            place % 3
        )
        .unwrap();
    }
    std::fs::write(folder.join("nodes.yaml"), nodes_yaml).unwrap();
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: local-path}\n\
                 provisioner: rancher.io/local-path\nvolumeBindingMode: WaitForFirstConsumer\n";
    std::fs::write(folder.join("class.yaml"), class).unwrap();
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: shop-data, namespace: team-a}\n\
                 spec:\n  storageClassName: local-path\n  accessModes: [ReadWriteOnce]\n  \
                 resources: {requests: {storage: 10Gi}}\nstatus: {phase: Pending}\n";
    std::fs::write(folder.join("claim.yaml"), claim).unwrap();
}

/// The review of a Pod that is rewritten, with as many containers as it takes to fill the size.
fn review(bytes: usize) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reviews/pod-pinned.json");
    let mut review: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let pod = &mut review["request"]["object"];
    pod["spec"]["nodeName"] = json!("worker-7");
    let sidecar = json!({
        "name": "sidecar", "image": "registry.example/mesh/proxy:1.29.1",
        "args": ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local", "--concurrency", "2"],
        "env": (0..40).map(|place| json!({"name": format!("SETTING_{place}"), "value": format!("{place:064x}")}))
            .collect::<Vec<_>>(),
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}],
        "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
    });
    let size = |review: &Value| serde_json::to_vec(review).unwrap().len();
    let each = sidecar.to_string().len();
    while size(&review) + each < bytes {
        review["request"]["object"]["spec"]["containers"].as_array_mut().unwrap().push(sidecar.clone());
    }
    serde_json::to_vec(&review).unwrap()
}

// --- the bare server

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn bare_server(ca: &Path) {
    // As long as the answer to a rewritten Pod.
    const ANSWER: Bytes = Bytes::from_static(&[b'x'; 700]);
    runtime().block_on(async {
        let now = time::OffsetDateTime::now_utc();
        let authority = Authority::new(&["localhost".to_owned()], now).unwrap();
        authority.write_pem(ca).unwrap();
        let certificate = CurrentCertificate::new(authority.issue(now).unwrap());
        let tls = TlsAcceptor::from(Arc::new(server_config(certificate, MinimumVersion::Tls12, None).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true).unwrap();
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request: Request<Incoming>| async {
                    let read = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                    Ok::<_, Infallible>(Response::new(Full::new(if read.is_ok() { ANSWER } else { Bytes::new() })))
                });
                let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
