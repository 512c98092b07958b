//! latebind's webhook in the process of a test, where the API server of a cluster reaches it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latebind_cluster::{Authority, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The name by which the API server calls the webhook's Service.
const SERVICE: &str = "latebind-webhook.latebind-system.svc";

/// Where a webhook is to listen, and the certificate that it is to show there.
pub struct Place {
    host: String,
    authority: Authority,
    certificates: tempfile::TempDir,
}

impl Place {
    /// A place on an address of this machine, and behind the Service that the chart makes.
    pub fn new(host: &str) -> Result<Self> {
        let authority = Authority::new("webhook")?;
        let place = Self { host: host.to_owned(), authority, certificates: tempfile::tempdir()? };
        let identity = place.authority.server(&[host, SERVICE])?;
        std::fs::write(place.certificate(), identity.certificate)?;
        std::fs::write(place.key(), identity.key)?;
        Ok(place)
    }

    /// The address, with a port that the system chooses.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(format!("{}:0", self.host).parse()?)
    }

    /// The certificate's file.
    pub fn certificate(&self) -> PathBuf {
        self.certificates.path().join("tls.crt")
    }

    /// The file of the certificate's key.
    pub fn key(&self) -> PathBuf {
        self.certificates.path().join("tls.key")
    }
}

/// Starts latebind's webhook on the caches of a cluster: `served!(cluster, options)` gives a [`Served`].
///
/// A macro, so that this crate needs no latebind and nobody waits for both.
#[macro_export]
macro_rules! served {
    ($cluster:expr, $options:expr) => {{
        let (cluster, options) = ($cluster, $options);
        let place = $crate::webhook::Place::new(cluster.host_address())?;
        let files = ::latebind::tls::PairFiles { certificate: place.certificate(), key: place.key() };
        let webhook =
            ::latebind::roles::webhook::Webhook::start_live(::latebind::roles::webhook::live::LiveWebhookOptions {
                listen: place.address()?,
                metrics_listen: ([127, 0, 0, 1], 0).into(),
                client: cluster.client(),
                live_get: true,
                certificate: ::latebind::tls::ServingSource::Files(files),
                look_every: ::std::time::Duration::from_secs(1),
                minimum_version: ::latebind::tls::MinimumVersion::default(),
                clients: None,
                admission: options,
                limits: ::latebind::runtime::serve::ConnectionLimits::webhook(),
                shutdown_delay: ::std::time::Duration::ZERO,
                drain_timeout: ::std::time::Duration::from_secs(5),
            })
            .await?;
        let (address, probes) = (webhook.address(), webhook.metrics_address());
        let shutdown = ::latebind::runtime::shutdown::Shutdown::new();
        let handle = shutdown.clone();
        ::tokio::spawn(async move { webhook.run(handle).await });
        $crate::webhook::Served::ready(place, address, probes, move || shutdown.begin()).await?
    }};
}

/// A webhook that is ready. It ends when dropped.
pub struct Served {
    place: Place,
    address: SocketAddr,
    probes: SocketAddr,
    begin_to_end: Box<dyn Fn() + Send + Sync>,
}

impl Served {
    /// Waits until the webhook at this address says that it is ready.
    pub async fn ready(
        place: Place,
        address: SocketAddr,
        probes: SocketAddr,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self> {
        let served = Self { place, address, probes, begin_to_end: Box::new(end) };
        eventually("the webhook to be ready", Duration::from_secs(30), async || {
            let answer = served.get("/readyz").await;
            Ok(answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200")).then_some(()))
        })
        .await?;
        Ok(served)
    }

    /// Puts the address of this webhook where a configuration names a Service.
    pub fn call_from(&self, webhook: &mut Value) {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap_or_default();
        let url = format!("https://{}{path}", self.address);
        webhook["clientConfig"] =
            json!({ "url": url, "caBundle": STANDARD.encode(self.place.authority.certificate()) });
    }

    /// The port that it serves admission at.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate, in PEM, of the authority that signed its own.
    pub fn authority(&self) -> &str {
        self.place.authority.certificate()
    }

    /// What probes and metrics say, asked the plain way, with the head of the answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let mut stream = tokio::net::TcpStream::connect(self.probes).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Begins to end it.
    pub fn end(&self) {
        (self.begin_to_end)();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}
