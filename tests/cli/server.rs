//! Commands that ask a cluster, and the way to it: kubectl's flags, and proxies. The API server is a stand-in that answers
//! over TLS under a name that only the proxy knows.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Run, printed, run_with};

/// What no name server knows.
const SERVER: &str = "https://api.latebind.invalid:6443";

type Log = Arc<Mutex<Vec<String>>>;

/// A cluster behind a proxy: what they were asked, and where the proxy listens.
struct Behind {
    folder: tempfile::TempDir,
    proxy: SocketAddr,
    /// The first line of each request to the API server, and its headers.
    requests: Log,
    /// What the proxy was asked for.
    tunnels: Log,
    _runtime: tokio::runtime::Runtime,
}

impl Behind {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        printed(&["certs", "--out", certs.to_str().unwrap(), "--name", "api.latebind.invalid"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (requests, tunnels) = (Log::default(), Log::default());
        let api = runtime.block_on(serve_api(&certs, Arc::clone(&requests)));
        let proxy = runtime.block_on(serve_proxy(api, Arc::clone(&tunnels)));
        Self { folder, proxy, requests, tunnels, _runtime: runtime }
    }

    /// Writes a kubeconfig whose context has the namespace team-a.
    fn kubeconfig(&self, cluster: &Value) -> String {
        let mut of_cluster =
            json!({"server": SERVER, "certificate-authority": self.folder.path().join("certs/ca.crt")});
        of_cluster.as_object_mut().unwrap().extend(cluster.as_object().unwrap().clone());
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "team-a"}}],
            "clusters": [{"name": "a", "cluster": of_cluster}], "users": [{"name": "a", "user": {}}]});
        let path = self.folder.path().join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path.display().to_string()
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://me:secret@{}", self.proxy)
    }

    /// Runs latebind with nothing of this process's environment that names a proxy.
    fn run(&self, args: &[&str], cluster: &Value, envs: &[(&str, &str)]) -> Run {
        let kubeconfig = self.kubeconfig(cluster);
        let none =
            ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"].map(|name| (name, ""));
        let envs: Vec<(&str, &str)> = none.into_iter().chain(envs.iter().copied()).collect();
        run_with(&[args, &["--kubeconfig", &kubeconfig]].concat(), b"", &envs)
    }

    fn asked(log: &Log) -> Vec<String> {
        std::mem::take(&mut *log.lock().unwrap())
    }
}

/// Reads the head of a request.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn objects(path: &str) -> Value {
    match path {
        "/api/v1/namespaces/team-a/pods" | "/api/v1/pods" => json!([{
            "metadata": {"name": "stuck", "namespace": "team-a", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "node-a", "containers": [{"name": "a", "image": "a", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"phase": "Pending"}}]),
        "/api/v1/namespaces/team-a/persistentvolumeclaims" | "/api/v1/persistentvolumeclaims" => json!([{
            "metadata": {"name": "data", "namespace": "team-a"},
            "spec": {"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"}}]),
        "/apis/storage.k8s.io/v1/storageclasses" => json!([{"metadata": {"name": "local-path"},
            "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer"}]),
        "/api/v1/nodes" => json!([{
            "metadata": {"name": "node-a", "labels": {"kubernetes.io/hostname": "node-a"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}]),
        "/api/v1/configmaps" => json!([
            {"metadata": {"name": "disks", "namespace": "team-a"},
                "data": {"storageClassMap": "fast: {hostDir: /mnt/fast, mountDir: /mnt/fast}"}},
            {"metadata": {"name": "other", "namespace": "team-a"}, "data": {"config": "a"}}]),
        _ => json!([]),
    }
}

/// Answers lists. One label selector is never answered.
async fn serve_api(certs: &Path, log: Log) -> SocketAddr {
    let files = latebind::tls::PairFiles { certificate: certs.join("tls.crt"), key: certs.join("tls.key") };
    latebind::tls::crypto::install();
    let (chain, key) = pem(&files);
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let head = head(&mut stream).await;
                log.lock().unwrap().push(head.clone());
                if head.contains("silent") {
                    return std::future::pending().await;
                }
                let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
                let body = match path.strip_prefix("/api/v1/namespaces/").filter(|name| !name.contains('/')) {
                    Some(name) => json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}),
                    None => json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": objects(path)}),
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    address
}

fn pem(
    files: &latebind::tls::PairFiles,
) -> (Vec<rustls::pki_types::CertificateDer<'static>>, rustls::pki_types::PrivateKeyDer<'static>) {
    use rustls::pki_types::pem::PemObject;
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(&files.certificate).unwrap();
    (chain.map(Result::unwrap).collect(), rustls::pki_types::PrivateKeyDer::from_pem_file(&files.key).unwrap())
}

/// A proxy for HTTP's CONNECT and for SOCKS 5 that leads every name to the API server, and wants name and password.
async fn serve_proxy(api: SocketAddr, log: Log) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut first = [0];
                stream.peek(&mut first).await.ok();
                let wanted = if first == [5] { socks(&mut stream).await } else { connect(&mut stream).await };
                let Some(wanted) = wanted else { return };
                log.lock().unwrap().push(wanted);
                let mut server = TcpStream::connect(api).await.unwrap();
                tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok();
            });
        }
    });
    address
}

async fn connect(stream: &mut TcpStream) -> Option<String> {
    let head = head(stream).await;
    // me:secret
    if !head.contains("Basic bWU6c2VjcmV0") {
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await.ok();
        return None;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
    head.lines().next().map(str::to_owned)
}

/// RFC 1928 with the sub-negotiation of RFC 1929.
async fn socks(stream: &mut TcpStream) -> Option<String> {
    async fn field(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = vec![0; stream.read_u8().await.ok()?.into()];
        stream.read_exact(&mut bytes).await.ok()?;
        String::from_utf8(bytes).ok()
    }
    stream.read_u8().await.ok()?;
    field(stream).await?;
    stream.write_all(&[5, 2]).await.ok()?;
    stream.read_u8().await.ok()?;
    let account = (field(stream).await?, field(stream).await?);
    let is_known = account == ("me".to_owned(), "secret".to_owned());
    stream.write_all(&[1, u8::from(!is_known)]).await.ok()?;
    stream.read_exact(&mut [0; 4]).await.ok()?;
    let (name, port) = (field(stream).await?, stream.read_u16().await.ok()?);
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    is_known.then(|| format!("SOCKS {name}:{port}"))
}

const LINT: [&str; 2] = ["lint", "--server"];

fn finds_the_pod(run: &Run) {
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("LB001") && run.stdout.contains("pod/team-a/stuck"), "{}", run.stdout);
}

#[test]
fn a_cluster_is_reached_through_the_proxy_that_kubectl_would_take() {
    let behind = Behind::start();
    let (http, socks) = (behind.url("http"), behind.url("socks5"));
    let none = json!({});
    finds_the_pod(&behind.run(&LINT, &none, &[("HTTPS_PROXY", &http), ("NO_PROXY", "elsewhere.invalid,10.0.0.0/8")]));
    let tunnels = Behind::asked(&behind.tunnels);
    assert!(!tunnels.is_empty());
    assert!(tunnels.iter().all(|line| line == "CONNECT api.latebind.invalid:6443 HTTP/1.1"), "{tunnels:?}");
    finds_the_pod(&behind.run(&LINT, &none, &[("https_proxy", &socks)]));
    assert_eq!(Behind::asked(&behind.tunnels)[0], "SOCKS api.latebind.invalid:6443");

    // The kubeconfig's counts before the environment's, and NO_PROXY is not about it.
    let of_cluster = json!({"proxy-url": http});
    let nowhere = [("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "*")];
    finds_the_pod(&behind.run(&LINT, &of_cluster, &nowhere));
    finds_the_pod(&behind.run(&LINT, &json!({"proxy-url": socks}), &[]));
    Behind::asked(&behind.tunnels);

    // Without a proxy nobody knows the name.
    for direct in [vec![], vec![("HTTPS_PROXY", http.as_str()), ("NO_PROXY", ".invalid")]] {
        let run = behind.run(&LINT, &none, &direct);
        assert_eq!(run.code, 3, "{}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("cannot be reached"), "{}", run.stderr);
        assert_eq!(Behind::asked(&behind.tunnels), Vec::<String>::new());
    }
    let wrong = format!("http://me:wrong@{}", behind.proxy);
    let refused = behind.run(&LINT, &none, &[("HTTPS_PROXY", &wrong)]);
    assert!(refused.code == 3 && refused.stderr.contains("proxy auth"), "{}", refused.stderr);
    let odd = behind.run(&LINT, &none, &[("HTTPS_PROXY", "ftp://me:secret@a:1")]);
    assert!(odd.code == 2 && odd.stderr.contains("HTTPS_PROXY") && !odd.stderr.contains("secret"), "{}", odd.stderr);
}

#[test]
fn disks_are_imported_from_a_cluster() {
    let behind = Behind::start();
    let run = behind.run(&["import", "sig-local", "--check"], &json!({"proxy-url": behind.url("http")}), &[]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    for line in [
        "kept        ConfigMap team-a/disks: storageClassMap: LocalPool disks",
        "left alone  class fast: the cluster has no such class",
        "chart values: --set agent.diskPaths={/mnt/fast}\n",
    ] {
        assert!(run.stdout.contains(line), "{line:?} is not in {}", run.stdout);
    }
    assert!(!run.stdout.contains("local-path") && !run.stdout.contains("other"), "{}", run.stdout);
}

#[test]
fn flags_mean_what_they_mean_to_kubectl() {
    let behind = Behind::start();
    let cluster = json!({"proxy-url": behind.url("http")});
    let paths = |run: &Run| {
        let heads = Behind::asked(&behind.requests);
        assert!(!heads.is_empty(), "{}", run.stderr);
        heads.iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    // -n is the context's namespace.
    let by_context = behind.run(&LINT, &cluster, &[]);
    finds_the_pod(&by_context);
    assert!(paths(&by_context).iter().any(|path| path.starts_with("/api/v1/namespaces/team-a/pods?")));
    let other = behind.run(&["lint", "--server", "-n", "team-b"], &cluster, &[]);
    assert_eq!(other.code, 0, "{}{}", other.stdout, other.stderr);
    assert!(paths(&other).iter().any(|path| path.starts_with("/api/v1/namespaces/team-b/pods?")));
    let all = behind.run(&["lint", "--server", "-A", "-l", "app=web"], &cluster, &[]);
    finds_the_pod(&all);
    let asked = paths(&all);
    assert!(
        asked.iter().any(|path| path.starts_with("/api/v1/pods?") && path.contains("labelSelector=app%3Dweb")),
        "{asked:?}"
    );
    assert!(asked.iter().all(|path| !path.contains("/namespaces/")), "{asked:?}");

    let as_other = ["lint", "--server", "--as", "ann", "--as-group", "dev", "--as-group", "ops"];
    finds_the_pod(&behind.run(&as_other, &cluster, &[]));
    for head in Behind::asked(&behind.requests) {
        let head = head.to_lowercase();
        for header in ["impersonate-user: ann\r\n", "impersonate-group: dev\r\n", "impersonate-group: ops\r\n"] {
            assert!(head.contains(header), "{head}");
        }
    }

    let began = Instant::now();
    let late = behind.run(&["lint", "--server", "-l", "silent", "--request-timeout", "1s"], &cluster, &[]);
    assert!(late.code == 3 && late.stderr.contains("did not answer in 1s"), "{}", late.stderr);
    // Longer than any machine is busy, shorter than the time without the flag.
    assert!(began.elapsed() < Duration::from_secs(14));

    let elsewhere = behind.run(&["lint", "--server=https://other.invalid:1"], &cluster, &[]);
    assert_eq!(elsewhere.code, 3);
    assert!(Behind::asked(&behind.tunnels).contains(&"CONNECT other.invalid:1 HTTP/1.1".to_owned()));

    for (wrong, expected) in [
        (vec!["lint", "-f", "examples/mixed", "--user", "a"], "--server"),
        (vec!["lint", "-f", "examples/mixed", "--request-timeout", "1s"], "--server"),
        (vec!["lint", "-f", "examples/mixed", "--server", "-A"], "cannot be used with"),
        (vec!["lint", "--server", "--as-group", "a"], "--as"),
        (vec!["lint", "--server", "--fix"], "--filename"),
        (vec!["lint", "--server", "--user", "nobody"], "no such user"),
    ] {
        let run = behind.run(&wrong, &cluster, &[]);
        assert!(run.code == 2 && run.stderr.contains(expected), "{wrong:?}: {} {}", run.code, run.stderr);
    }
}

#[test]
fn a_stuck_pod_of_the_cluster_comes_with_what_to_type() {
    let behind = Behind::start();
    let cluster = json!({"proxy-url": behind.url("http")});
    for command in ["lint", "simulate"] {
        let run = behind.run(&[command, "--server", "-A"], &cluster, &[]);
        let typed = "kubectl annotate pvc data -n team-a volume.kubernetes.io/selected-node=node-a";
        let words: Vec<&str> = run.stdout.split_whitespace().collect();
        assert!(words.join(" ").contains(typed), "{}", run.stdout);
    }
}
