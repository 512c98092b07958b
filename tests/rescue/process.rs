//! `latebind run --role controller` as a process of its own, with the rights of `webhook-manifests/parts/rescue-rbac.yaml`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::config::Kubeconfig;
use latebind_cluster::{Cluster, eventually};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

pub const NAMESPACE: &str = "latebind-system";
pub const USER: &str = "system:serviceaccount:latebind-system:latebind-controller";
const RIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/webhook-manifests/parts/rescue-rbac.yaml");
const PATIENCE: Duration = Duration::from_secs(30);

/// Held while the account is created, in whichever cluster.
static INSTALLING: Mutex<()> = Mutex::const_new(());
/// The shared process, and the cluster that it works for.
static SHARED: Mutex<Option<(PathBuf, Rescuer)>> = Mutex::const_new(None);
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// One process. It ends when dropped, and when this process ends in whatever way: its shell waits for our end of a pipe.
pub struct Rescuer {
    _shell: Child,
    pid: String,
    log: PathBuf,
    probes: String,
}

impl Rescuer {
    pub async fn start(cluster: &Cluster, flags: &[&str]) -> Result<Self> {
        let kubeconfig = install(cluster).await?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = cluster.directory().join("logs").join(format!("rescue-{number}.log"));
        let binary = env!("CARGO_BIN_EXE_latebind");
        // Should this process end before it reads the PID, the shell must live to end what it has started.
        let script = r#"trap '' PIPE; exec 2>"$0"; "$@" & echo $!; cat >/dev/null; kill -9 $!"#;
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .arg(&log)
            .args([binary, "run", "--role=controller", "--metrics-listen=127.0.0.1:0", "--lease-namespace", NAMESPACE])
            .args(["--log=info,latebind=debug", "--kubeconfig"])
            .arg(&kubeconfig)
            .args(flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("POD_NAME", format!("rescuer-{number}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(shell.stdout.take().context("stdout")?).lines();
        let pid = lines.next_line().await?.context("the shell tells a PID")?;
        let probes = eventually("latebind to say where its probes are", PATIENCE, async || {
            let text = std::fs::read_to_string(&log)?;
            ensure!(!text.contains("error:"), "{text}");
            let after = text.split("metrics=").nth(1);
            Ok(after.and_then(|text| text.split_whitespace().next()).map(str::to_owned))
        })
        .await?;
        let started = Self { _shell: shell, pid, log, probes };
        eventually("latebind to be ready", PATIENCE, async || {
            Ok(started.get("/readyz").await?.contains("200 OK").then_some(()))
        })
        .await?;
        Ok(started)
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid]).status().await?;
        ensure!(status.success());
        Ok(())
    }

    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The answer to a request to the probes' port.
    pub async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.probes).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The value of a metric, by its name and labels as they are printed; 0 where it is not there yet.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }
}

/// Starts the process that tests side by side share, if it does not run.
pub async fn share(cluster: &Cluster) -> Result<()> {
    let mut shared = SHARED.lock().await;
    if shared.is_none() {
        *shared = Some((cluster.directory().to_path_buf(), Rescuer::start(cluster, &[]).await?));
    }
    Ok(())
}

/// Ends the shared process, for a test that brings its own.
pub async fn leave(cluster: &Cluster) -> Result<()> {
    let of_cluster = SHARED.lock().await.take_if(|(directory, _)| directory == cluster.directory());
    if let Some((_, rescuer)) = of_cluster {
        rescuer.signal("TERM").await?;
        // It gives its Lease back, so that the next one need not wait.
        eventually("latebind to end", PATIENCE, async || Ok(rescuer.log()?.contains("ended").then_some(()))).await?;
    }
    // As after a new installation.
    let lease = ["delete", "lease", "-n", NAMESPACE, "latebind-controller", "--ignore-not-found"];
    cluster.kubectl(&lease).await?.success().map(drop)
}

/// Creates the account with its rights, and a kubeconfig for it.
async fn install(cluster: &Cluster) -> Result<PathBuf> {
    let _alone = INSTALLING.lock().await;
    let path = cluster.directory().join("latebind-controller.kubeconfig");
    if path.exists() {
        return Ok(path);
    }
    cluster.kubectl(&["create", "namespace", NAMESPACE]).await?.success()?;
    cluster.kubectl(&["apply", "-f", RIGHTS]).await?.success()?;
    let token = ["create", "token", "latebind-controller", "-n", NAMESPACE, "--duration=2h"];
    let token = cluster.kubectl(&token).await?.success()?;
    let mut kubeconfig = serde_json::to_value(Kubeconfig::read_from(cluster.kubeconfig())?)?;
    for user in kubeconfig["users"].as_array_mut().into_iter().flatten() {
        user["user"] = serde_json::json!({"token": token.trim()});
    }
    // The API server learns of new roles by a watch of its own; what is asked for earlier is refused.
    for [verb, resource] in [["watch", "nodes"], ["update", "leases.coordination.k8s.io/latebind-controller"]] {
        let ask = ["auth", "can-i", verb, resource, "-n", NAMESPACE, "--as", USER];
        eventually("the account's rights", PATIENCE, async || {
            Ok(cluster.kubectl(&ask).await?.success().is_ok().then_some(()))
        })
        .await?;
    }
    std::fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
    Ok(path)
}

/// What the account did, by the API server's audit log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: u64,
}

/// Everything that the account did so far, except for watches that are still open.
pub fn deeds(cluster: &Cluster) -> Result<Vec<Deed>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = cluster.audit_log()?.into_iter().filter(|event| event["user"]["username"] == USER);
    Ok(own
        .map(|event| {
            let object = &event["objectRef"];
            Deed {
                verb: text(&event["verb"]),
                group: text(&object["apiGroup"]),
                resource: match &object["subresource"] {
                    Value::String(part) => format!("{}/{part}", text(&object["resource"])),
                    _ => text(&object["resource"]),
                },
                namespace: text(&object["namespace"]),
                name: text(&object["name"]),
                code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            }
        })
        .collect())
}

/// How often the account changed an object.
pub fn writes(cluster: &Cluster, resource: &str, namespace: &str, name: &str) -> Result<usize> {
    Ok(deeds(cluster)?.iter().filter(|deed| deed.wrote(resource, namespace, name)).count())
}

impl Deed {
    /// True for a change of the object that was stored.
    pub fn wrote(&self, resource: &str, namespace: &str, name: &str) -> bool {
        self.verb == "patch"
            && self.code == 200
            && (self.resource.as_str(), self.namespace.as_str(), self.name.as_str()) == (resource, namespace, name)
    }
}

/// The file of rights, for the test that compares it with what was done.
pub fn rights() -> &'static Path {
    Path::new(RIGHTS)
}
