//! A cluster, a server in this process, and clients of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use latebind::admission::server::{CertificateSource, ServeError, Setup, Webhook};
use latebind::admission::service::{Choices, View};
use latebind::cluster::{Fact, Facts, Unlisted};
use latebind::runtime::reload::{LoadError, Source};
use latebind::runtime::serve::ConnectionLimits;
use latebind::runtime::shutdown::Shutdown;
use latebind::tls::{Authority, MinimumVersion, crypto};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing that a test waits for takes this long unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The objects that the reviews of `tests/data/reviews` speak of.
pub fn objects() -> Vec<Value> {
    let class = |name: &str, provisioner: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
               "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
    };
    let node = |name: &str, unschedulable: bool| {
        json!({"apiVersion": "v1", "kind": "Node",
               "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
               "spec": {"unschedulable": unschedulable},
               "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    };
    vec![
        class("local-path", "rancher.io/local-path"),
        class("static-disks", "kubernetes.io/no-provisioner"),
        node("k3d-test-server-0", false),
        node("cordoned-0", true),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
               "metadata": {"name": "shop-data", "namespace": "team-a", "uid": "5d5d5d5d-0000-4000-8000-000000000001"},
               "spec": {"storageClassName": "local-path", "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "10Gi"}}},
               "status": {"phase": "Pending"}}),
    ]
}

pub fn view(unlisted: Unlisted) -> Arc<View> {
    let mut facts = Facts::new(unlisted);
    for object in objects() {
        let (group, _) = object["apiVersion"].as_str().unwrap().rsplit_once('/').unwrap_or_default();
        facts.add(Fact::read(group, object["kind"].as_str().unwrap(), &object).unwrap().unwrap());
    }
    Arc::new(facts)
}

/// A review of `tests/data/reviews`.
pub fn review(name: &str) -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/reviews/{name}.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap()
}

/// Facts that never change.
pub struct Fixed(pub Arc<View>);

impl Source for Fixed {
    type Loaded = Arc<View>;

    fn fingerprint(&self) -> Result<u64, LoadError> {
        Ok(1)
    }

    fn load(&self) -> Result<Arc<View>, LoadError> {
        Ok(Arc::clone(&self.0))
    }
}

/// How a server of a test differs from the usual one.
pub struct Config {
    pub view: Arc<View>,
    pub choices: Choices,
    pub limits: ConnectionLimits,
    pub certificate: Option<CertificateSource>,
    pub shutdown_delay: Duration,
    pub drain_timeout: Duration,
    pub minimum_version: MinimumVersion,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            view: view(Unlisted::Absent),
            choices: Choices::default(),
            limits: ConnectionLimits::webhook(),
            certificate: None,
            shutdown_delay: Duration::ZERO,
            drain_timeout: PATIENCE,
            minimum_version: MinimumVersion::Tls12,
        }
    }
}

/// A webhook in this process.
pub struct Served {
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
    /// The authority of the server's certificate; empty when the test brought its own.
    pub ca: String,
    pub shutdown: Shutdown,
    pub task: JoinHandle<Result<(), ServeError>>,
}

pub async fn serve(config: Config) -> Served {
    crypto::install();
    let authority = Authority::new(&["localhost".to_owned(), "127.0.0.1".to_owned()], time::OffsetDateTime::now_utc());
    let authority = authority.unwrap();
    let ca = authority.pem().to_owned();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let webhook = Webhook::start(Setup {
        listen: any,
        metrics_listen: any,
        facts: Fixed(config.view),
        certificate: config.certificate.unwrap_or_else(|| CertificateSource::Own(Box::new(authority))),
        minimum_version: config.minimum_version,
        choices: config.choices,
        limits: config.limits,
        shutdown_delay: config.shutdown_delay,
        drain_timeout: config.drain_timeout,
    })
    .await
    .unwrap();
    let (address, metrics_address, shutdown) = (webhook.address(), webhook.metrics_address(), Shutdown::new());
    let task = tokio::spawn(webhook.run(shutdown.clone()));
    let served = Served { address, metrics_address, ca, shutdown, task };
    served.until("/readyz", |status, _| status == StatusCode::OK).await;
    served
}

impl Served {
    pub fn client(&self) -> Client {
        Client::new(self.address, &self.ca)
    }

    /// What a path of the plain port answers.
    pub async fn probe(&self, path: &str) -> (StatusCode, String) {
        probe(self.metrics_address, path).await.expect("the plain port answers")
    }

    /// Waits until a path of the plain port answers as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(StatusCode, &str) -> bool) -> String {
        until(self.metrics_address, path, wanted).await
    }

    /// The value of a series of `/metrics`, 0 where it is not there yet.
    pub async fn metric(&self, series: &str) -> f64 {
        metric(&self.probe("/metrics").await.1, series)
    }

    /// Waits until a series has at least a value.
    pub async fn until_metric(&self, series: &str, least: f64) {
        self.until("/metrics", |_, text| metric(text, series) >= least).await;
    }

    /// Ends the server and waits for its end.
    pub async fn end(self) -> Result<(), ServeError> {
        self.shutdown.begin();
        timeout(PATIENCE, self.task).await.expect("the server ends").unwrap()
    }
}

pub fn metric(text: &str, series: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

pub async fn until(address: SocketAddr, path: &str, wanted: impl Fn(StatusCode, &str) -> bool) -> String {
    let wait = async {
        loop {
            if let Ok((status, text)) = probe(address, path).await
                && wanted(status, &text)
            {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if let Ok(text) = timeout(PATIENCE, wait).await {
        return text;
    }
    panic!("{path} never answered as wanted; now: {:?}", probe(address, path).await)
}

pub async fn probe(address: SocketAddr, path: &str) -> Result<(StatusCode, String), Box<dyn std::error::Error>> {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "latebind").body(Full::new(Bytes::new()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

/// A client that trusts one authority and nothing else.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub fn new(address: SocketAddr, ca: &str) -> Self {
        Self::with_versions(address, ca, rustls::DEFAULT_VERSIONS)
    }

    pub fn with_versions(
        address: SocketAddr,
        ca: &str,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { address, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// A TLS connection on which nothing is said yet.
    pub async fn raw(&self) -> Result<TlsStream<TcpStream>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(timeout(PATIENCE, self.tls.connect(name, stream)).await??)
    }

    /// A connection that can send several requests.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let (sender, connection) = handshake(TokioIo::new(self.raw().await?)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// Sends one body on a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<(StatusCode, String), Failure> {
        let response = self.connect().await?.post(path, body).await?;
        Ok((response.status(), text(response).await?))
    }

    /// Sends a review and reads the answer to it.
    pub async fn ask(&self, path: &str, review: &Value) -> Value {
        let (status, text) = self.post(path, serde_json::to_vec(review).unwrap()).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        let response = answer["response"].clone();
        assert_eq!(response["uid"], review["request"]["uid"]);
        assert_eq!(response.get("patch").is_some(), response.get("patchType").is_some(), "both or neither");
        response
    }
}

pub struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub async fn post(
        &mut self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<hyper::body::Incoming>, Failure> {
        let request = Request::post(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))?;
        self.sender.ready().await?;
        Ok(timeout(PATIENCE, self.sender.send_request(request)).await??)
    }
}

pub async fn text(response: Response<hyper::body::Incoming>) -> Result<String, Failure> {
    let body = timeout(PATIENCE, response.into_body().collect()).await??.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
