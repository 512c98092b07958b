//! What happens to connections and requests while the server changes or ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use latebind::roles::RoleError;
use latebind::roles::webhook::CertificateSource;
use latebind::runtime::serve::ConnectionLimits;
use latebind::tls::{MinimumVersion, PairFiles};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::support::{Client, Config, PATIENCE, Served, hooked, review, serve, text};

/// A connection on which half of a review has been sent, and the other half.
async fn half_sent(client: &Client) -> (tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Vec<u8>) {
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let (first, second) = body.split_at(body.len() / 2);
    let mut stream = client.raw().await.unwrap();
    let head = format!("POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream.flush().await.unwrap();
    (stream, second.to_vec())
}

async fn until_refused(served: &Served) {
    let refused = async { while tokio::net::TcpStream::connect(served.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the listener closes");
}

#[tokio::test]
async fn an_upload_under_way_is_finished() {
    let served = serve(Config::default()).await;
    let (mut stream, rest) = half_sent(&served.client()).await;
    served.until_metric("latebind_connections", 1.0).await;
    let mut idle = served.client().connect().await.unwrap();
    text(idle.post("/mutate", "{}").await.unwrap()).await.unwrap();
    served.shutdown.begin();
    until_refused(&served).await;
    let (status, report) = served.probe("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(report.contains("[-]shutdown begun"), "{report}");
    assert_eq!(served.probe("/livez").await.0, StatusCode::OK, "alive until the end");
    // The idle connection is closed, the one under way is not.
    timeout(PATIENCE, async {
        while idle.sender.ready().await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the idle connection is closed");
    stream.write_all(&rest).await.unwrap();
    let mut said = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap().unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("JSONPatch"), "{said}");
    assert!(said.to_lowercase().contains("\r\nconnection: close\r\n"), "{said}");
    served.end().await.unwrap();
}

#[tokio::test]
async fn an_upload_that_does_not_end_is_dropped_at_the_deadline() {
    let served = serve(Config { drain_timeout: Duration::from_millis(200), ..Config::default() }).await;
    let (mut stream, _) = half_sent(&served.client()).await;
    served.until_metric("latebind_connections", 1.0).await;
    assert!(matches!(served.end().await, Err(RoleError::Aborted)));
    let mut said = Vec::new();
    let _ended = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the connection is gone");
    assert_eq!(said, b"");
}

#[tokio::test]
async fn while_clients_learn_of_the_end_they_are_still_served() {
    let served = serve(Config { shutdown_delay: PATIENCE, ..Config::default() }).await;
    let mut pooled = served.client().connect().await.unwrap();
    let before = pooled.post("/mutate", serde_json::to_vec(&review("pod-pinned")).unwrap()).await.unwrap();
    assert_eq!(before.headers().get("connection"), None);
    text(before).await.unwrap();
    served.shutdown.begin();
    served.until("/readyz", |status, _| status == StatusCode::SERVICE_UNAVAILABLE).await;
    // Both a pooled connection and a new one are served, and told to go elsewhere next time.
    for connection in [&mut pooled, &mut served.client().connect().await.unwrap()] {
        let response = connection.post("/mutate", serde_json::to_vec(&review("pod-pinned")).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["connection"], "close");
        assert!(text(response).await.unwrap().contains("JSONPatch"));
    }
    // A second signal does not wait for the delay.
    served.shutdown.abort();
    let ended = timeout(PATIENCE / 2, served.task).await.expect("it ends at once").unwrap();
    assert!(matches!(ended, Ok(()) | Err(RoleError::Aborted)));
}

#[tokio::test]
async fn an_idle_connection_is_used_again() {
    // Were idle time bounded like a handshake, these connections would not live.
    let limits =
        ConnectionLimits { connections: 3, handshake: Duration::from_millis(300), ..ConnectionLimits::webhook() };
    let served = serve(Config { limits, ..Config::default() }).await;
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let mut first = served.client().connect().await.unwrap();
    text(first.post("/mutate", body.clone()).await.unwrap()).await.unwrap();
    // Dialled and not needed yet, as Go's transport does.
    let mut second = served.client().connect().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for connection in [&mut second, &mut first] {
        let response = connection.post("/mutate", body.clone()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        text(response).await.unwrap();
    }
    assert!((served.metric("latebind_connections").await - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn only_the_newest_tls_is_spoken_where_that_is_asked_for() {
    let served = serve(Config { minimum_version: MinimumVersion::Tls13, ..Config::default() }).await;
    assert!(Client::with_versions(served.address, &served.ca, &[&rustls::version::TLS12]).raw().await.is_err());
    let newest = Client::with_versions(served.address, &served.ca, &[&rustls::version::TLS13]).raw().await.unwrap();
    assert_eq!(newest.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    let served = serve(Config::default()).await;
    for version in rustls::ALL_VERSIONS {
        Client::with_versions(served.address, &served.ca, &[version]).raw().await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_request_only() {
    let on_claim = |name: &str| assert_ne!(name, "boom", "a broken invariant");
    let served = serve(Config { view: hooked(on_claim), ..Config::default() }).await;
    let mut fatal = review("pod-pinned");
    fatal["request"]["object"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("boom");
    let mut connection = served.client().connect().await.unwrap();
    let response = connection.post("/mutate", serde_json::to_vec(&fatal).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!text(response).await.unwrap().contains("invariant"), "the log is for the operator, not for the client");
    // Not even the connection suffers.
    let response = connection.post("/mutate", serde_json::to_vec(&review("pod-pinned")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!((served.metric("latebind_panics_total").await - 1.0).abs() < f64::EPSILON);
    served.end().await.unwrap();
}

/// An authority whose server certificates are put into a directory as a kubelet does with a Secret.
struct SecretVolume {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    generation: u32,
}

impl SecretVolume {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Self { folder, issuer: Issuer::new(params, key), ca, generation: 0 };
        volume.rotate();
        for name in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(name), volume.folder.path().join(name)).unwrap();
        }
        volume
    }

    fn pair(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn rotate(&mut self) {
        let (certificate, key) = self.pair();
        self.put(&certificate, &key);
    }

    /// Both files change at once, by one symbolic link.
    fn put(&mut self, certificate: &str, key: &str) {
        self.generation += 1;
        let (root, version) = (self.folder.path(), format!("..{}", self.generation));
        std::fs::create_dir(root.join(&version)).unwrap();
        std::fs::write(root.join(&version).join("tls.crt"), certificate).unwrap();
        std::fs::write(root.join(&version).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(&version, root.join("..next")).unwrap();
        std::fs::rename(root.join("..next"), root.join("..data")).unwrap();
    }

    fn files(&self) -> PairFiles {
        PairFiles { certificate: self.folder.path().join("tls.crt"), key: self.folder.path().join("tls.key") }
    }
}

async fn presented(client: &Client) -> Vec<u8> {
    let stream = client.raw().await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_rotate_under_load_without_an_error() {
    let mut volume = SecretVolume::new();
    let certificate = Some(CertificateSource::Files(volume.files()));
    let served = serve(Config { certificate, ..Config::default() }).await;
    let client = Client::new(served.address, &volume.ca);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let body = serde_json::to_vec(&review("pod-pinned")).unwrap();
    let load: Vec<_> = (0..4)
        .map(|place| {
            let (client, stop, answered, body) =
                (client.clone(), Arc::clone(&stop), Arc::clone(&answered), body.clone());
            tokio::spawn(async move {
                let mut pooled = client.connect().await.unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // Some keep their connection, some make a new one each time.
                    let response = if place % 2 == 0 {
                        pooled.post("/mutate", body.clone()).await.unwrap()
                    } else {
                        client.connect().await.unwrap().post("/mutate", body.clone()).await.unwrap()
                    };
                    assert_eq!(response.status(), StatusCode::OK);
                    text(response).await.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut current = presented(&client).await;
    for rotation in 1..=3 {
        volume.rotate();
        let mut next = presented(&client).await;
        let changed = async {
            while next == current {
                sleep(Duration::from_millis(20)).await;
                next = presented(&client).await;
            }
        };
        timeout(PATIENCE, changed).await.unwrap_or_else(|_| panic!("rotation {rotation} is never served"));
        current = next;
    }
    // A key that is not the certificate's changes nothing, and is told.
    let ((certificate, _), (_, key)) = (volume.pair(), volume.pair());
    volume.put(&certificate, &key);
    let report = served.until("/readyz?verbose", |_, text| text.contains("reload failed")).await;
    assert!(report.contains("[+]certificate ok: ") && report.contains("do not belong together"), "{report}");
    assert_eq!(presented(&client).await, current);
    served.until_metric(r#"latebind_reloads_total{what="certificate",result="failed"}"#, 1.0).await;
    volume.rotate();
    served.until("/readyz?verbose", |_, text| text.contains("[+]certificate ok\n")).await;
    assert_ne!(presented(&client).await, current);
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no request failed");
    }
    assert!(answered.load(Ordering::Relaxed) > 100);
    assert!(served.metric("latebind_certificate_expiry_timestamp_seconds").await > 1.0e9);
}
