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
use latebind::admission::service::{AdmissionOptions, View};
use latebind::binding::{ClusterView, Lookup};
use latebind::facts::Unlisted;
use latebind::model::{
    Claim, Class, CsiDriver, CsiNode, Namespace, Node, Pod, PodOnNode, ResourceClaim, ResourceClaimTemplate,
    StorageCapacity, Volume,
};
use latebind::roles::RoleError;
use latebind::roles::webhook::{CertificateSource, Webhook, WebhookOptions};
use latebind::runtime::reload::{LoadError, Source};
use latebind::runtime::serve::ConnectionLimits;
use latebind::runtime::shutdown::Shutdown;
use latebind::tls::{Authority, MinimumVersion, crypto};
pub use latebind_fuzz_checks::objects;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing that a test waits for takes this long unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn view(unlisted: Unlisted) -> Arc<View> {
    Arc::new(latebind_fuzz_checks::cluster(unlisted))
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
    pub choices: AdmissionOptions,
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
            choices: AdmissionOptions::default(),
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
    pub task: JoinHandle<Result<(), RoleError>>,
}

pub async fn serve(config: Config) -> Served {
    crypto::install();
    let authority = Authority::new(&["localhost".to_owned(), "127.0.0.1".to_owned()], time::OffsetDateTime::now_utc());
    let authority = authority.unwrap();
    let ca = authority.pem().to_owned();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let webhook = Webhook::start(WebhookOptions {
        listen: any,
        metrics_listen: any,
        facts: Fixed(config.view),
        certificate: config.certificate.unwrap_or_else(|| CertificateSource::Own(Box::new(authority))),
        minimum_version: config.minimum_version,
        admission: config.choices,
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
    pub async fn end(self) -> Result<(), RoleError> {
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
        self.speak(TcpStream::connect(self.address).await?).await
    }

    /// TLS over a connection.
    pub async fn speak(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
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

/// The usual view, in which something happens before a claim is looked up.
pub fn hooked(on_claim: impl Fn(&str) + Send + Sync + 'static) -> Arc<View> {
    Arc::new(Hooked { view: view(Unlisted::Absent), on_claim: Box::new(on_claim) })
}

struct Hooked {
    view: Arc<View>,
    on_claim: Box<dyn Fn(&str) + Send + Sync>,
}

impl ClusterView for Hooked {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        (self.on_claim)(name);
        self.view.claim(namespace, name)
    }
    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        self.view.class(name)
    }
    fn default_class(&self) -> Lookup<Arc<Class>> {
        self.view.default_class()
    }
    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.view.node(name)
    }
    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        self.view.nodes_with_hostname(value)
    }
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.view.volume(name)
    }
    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.free_volumes_of_class(class_name)
    }
    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.volumes_claimed_by(namespace, claim_name)
    }
    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.view.namespace(name)
    }
    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.view.csi_driver(name)
    }
    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.view.csi_node(node_name)
    }
    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.view.capacities_of_class(class_name)
    }
    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.view.consumers(namespace, claim_name)
    }
    fn repelling(&self, namespace: &str, node_name: &str) -> Lookup<Vec<Arc<PodOnNode>>> {
        self.view.repelling(namespace, node_name)
    }
    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        self.view.resource_claim(namespace, name)
    }
    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        self.view.resource_claim_template(namespace, name)
    }
}
