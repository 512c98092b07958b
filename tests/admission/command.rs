//! The command itself, as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use super::support::{Client, PATIENCE, metric, objects, review, until};

/// A process of `latebind webhook`, and what it wrote.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
    metrics_address: SocketAddr,
    ca: PathBuf,
    folder: tempfile::TempDir,
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latebind"));
    command.args(["webhook", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LATEBIND_")) {
        command.env_remove(name);
    }
    // In the environment, so that a flag of a test can say otherwise.
    command.env("LATEBIND_OBJECTS", folder.join("objects")).env("LATEBIND_METRICS_LISTEN", "127.0.0.1:0");
    // Which Pods run on the node is not among the objects.
    command.env("LATEBIND_ASSUME_NODE", "schedulable");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The objects of all tests, one file each.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("objects")).unwrap();
    for (place, object) in objects().iter().enumerate() {
        std::fs::write(folder.path().join(format!("objects/{place}.json")), object.to_string()).unwrap();
    }
    folder
}

async fn start(adapt: impl FnOnce(&mut Command)) -> Process {
    let folder = folder();
    let ca = folder.path().join("ca.pem");
    let mut command = command(folder.path());
    command.arg("--ca-out").arg(&ca);
    adapt(&mut command);
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let serving = wait_for(&mut log, "serving").await;
    let address = |field: &str| serving[field].as_str().unwrap().parse().unwrap();
    Process { child, address: address("address"), metrics_address: address("metrics"), log, ca, folder }
}

/// Reads the log to a line with a message.
async fn wait_for(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    let found = async {
        while let Some(line) = log.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
            if line["message"] == message {
                return line;
            }
        }
        panic!("the log ended without {message:?}");
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("the log never said {message:?}"))
}

impl Process {
    fn client(&self) -> Client {
        Client::new(self.address, &std::fs::read_to_string(&self.ca).unwrap())
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it still runs").to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
    }

    async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the process ends").unwrap()
    }

    async fn until(&self, path: &str, wanted: impl Fn(StatusCode, &str) -> bool) -> String {
        until(self.metrics_address, path, wanted).await
    }
}

#[tokio::test]
async fn it_serves_until_sigterm_and_ends_well() {
    let mut process = start(|_| ()).await;
    let response = process.client().ask("/mutate", &review("pod-pinned")).await;
    assert_eq!(response["patchType"], "JSONPatch");
    let metrics = process.until("/metrics", |status, _| status == StatusCode::OK).await;
    assert!(metrics.contains("latebind_build_info{version="), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!((metric(&metrics, r#"latebind_admission_duration_seconds_count{hook="mutate"}"#) - 1.0).abs() < 1e-9);
    let report = process.until("/readyz?verbose", |status, _| status == StatusCode::OK).await;
    assert_eq!(report, "[+]facts ok\n[+]certificate ok\n[+]listener ok\nreadyz check passed\n");
    process.signal("TERM").await;
    assert!(process.ended().await.success());
    wait_for(&mut process.log, "ended").await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut process = start(|command| {
        command.args(["--shutdown-delay", "10m", "--drain-timeout", "10m"]);
    })
    .await;
    let mut stuck = process.client().raw().await.unwrap();
    stuck.write_all(b"POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    process.signal("INT").await;
    process.until("/readyz", |status, _| status == StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(process.client().ask("/mutate", &review("pod-pinned")).await["allowed"], true, "still served");
    process.signal("TERM").await;
    assert!(!process.ended().await.success(), "a request was dropped");
}

#[tokio::test]
async fn broken_manifests_change_nothing_until_they_are_mended() {
    let process = start(|_| ()).await;
    let client = process.client();
    let (path, review) = (process.folder.path().join("objects/0.json"), review("pod-pinned"));
    let class = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "kind: StorageClass\nmetadata: {name: [\n").unwrap();
    let report = process.until("/readyz?verbose", |_, text| text.contains("reload failed")).await;
    assert!(report.contains("[+]facts ok: ") && report.contains("0.json"), "{report}");
    assert!(report.ends_with("readyz check passed\n"), "{report}");
    assert!(client.ask("/mutate", &review).await.get("patch").is_some(), "the last good version is in use");
    let immediate = class.replace("WaitForFirstConsumer", "Immediate");
    assert_ne!(immediate, class);
    std::fs::write(&path, immediate).unwrap();
    process.until("/readyz?verbose", |_, text| text.contains("[+]facts ok\n")).await;
    assert_eq!(client.ask("/mutate", &review).await.get("patch"), None, "nothing is delayed any more");
    let metrics = process.until("/metrics", |status, _| status == StatusCode::OK).await;
    for result in ["ok", "failed"] {
        let series = format!(r#"latebind_reloads_total{{what="facts",result="{result}"}}"#);
        assert!(metric(&metrics, &series) >= 1.0, "{metrics}");
    }
}

#[tokio::test]
async fn flags_have_names_in_the_environment() {
    let process = start(|command| {
        command.env("LATEBIND_MODE", "deny").env("LATEBIND_TLS_SAN", "hook.example,192.0.2.7");
    })
    .await;
    let response = process.client().ask("/validate", &review("pod-pinned")).await;
    assert_eq!(response["status"]["code"], 403);
    let stream = process.client().raw().await.unwrap();
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let names = format!("{:?}", names.value);
    for name in ["hook.example", "localhost"] {
        assert!(names.contains(name), "{names}");
    }
}

/// Runs it where it must not start, and returns the exit code and what it said.
async fn refused(adapt: impl FnOnce(&Path, &mut Command)) -> (Option<i32>, String) {
    let folder = folder();
    let mut command = command(folder.path());
    command.args(["--log", "error"]);
    adapt(folder.path(), &mut command);
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    timeout(PATIENCE, stderr.read_to_string(&mut said)).await.expect("it ends").unwrap();
    (timeout(Duration::from_secs(5), child.wait()).await.unwrap().unwrap().code(), said)
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_said_plainly() {
    let (code, said) = refused(|folder, _| std::fs::write(folder.join("objects/0.json"), "{").unwrap()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("error: no facts: ") && said.contains("0.json"), "{said}");
    let (code, said) = refused(|_, command| {
        command.args(["--objects", "/nowhere"]);
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = refused(|folder, command| {
        command.arg("--ca-out").arg(folder.join("no/ca.pem"));
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot write") && said.contains("no/ca.pem"), "{said}");
    let (code, said) = refused(|_, command| {
        command.args(["--tls-cert", "tls.crt"]);
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--tls-key"), "{said}");
    let (code, said) = refused(|_, command| {
        command.args(["--tls-cert", "/no.crt", "--tls-key", "/no.key"]);
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no certificate: /no.crt"), "{said}");
    let (code, said) = refused(|_, command| {
        command.args(["--shutdown-delay", "soon"]);
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("write a time such as 5s"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = refused(|_, command| {
        command.args(["--metrics-listen", &address]);
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
}
