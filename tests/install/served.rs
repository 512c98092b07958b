//! latebind's webhook in the process of a test, where the API server of a cluster reaches it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latebind::admission::live::LiveSetup;
use latebind::admission::server::Webhook;
use latebind::admission::service::Choices;
use latebind::runtime::serve::ConnectionLimits;
use latebind::runtime::shutdown::Shutdown;
use latebind::tls::{Authority, MinimumVersion, PairFiles, ServingSource};
use latebind_cluster::{Cluster, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A webhook that is ready. It ends when dropped.
pub struct Served {
    shutdown: Shutdown,
    address: SocketAddr,
    probes: SocketAddr,
    authority: Authority,
    _certificates: tempfile::TempDir,
}

impl Served {
    pub async fn start(cluster: &Cluster, choices: Choices) -> Result<Self> {
        let host = cluster.host_address();
        let now = time::OffsetDateTime::now_utc();
        let authority = Authority::new(&[host.to_owned()], now)?;
        let pair = authority.issue_pem(time::Duration::days(1), now + time::Duration::days(1), now)?;
        let folder = tempfile::tempdir()?;
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        std::fs::write(&files.certificate, pair.chain)?;
        std::fs::write(&files.key, pair.key)?;
        let webhook = Webhook::start_live(LiveSetup {
            listen: format!("{host}:0").parse()?,
            metrics_listen: "127.0.0.1:0".parse()?,
            client: cluster.client(),
            live_get: true,
            certificate: ServingSource::Files(files),
            look_every: Duration::from_secs(1),
            minimum_version: MinimumVersion::default(),
            clients: None,
            choices,
            limits: ConnectionLimits::webhook(),
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
        })
        .await?;
        let (address, probes) = (webhook.address(), webhook.metrics_address());
        let shutdown = Shutdown::new();
        let handle = shutdown.clone();
        tokio::spawn(async move { webhook.run(handle).await });
        let served = Self { shutdown, address, probes, authority, _certificates: folder };
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
        webhook["clientConfig"] = json!({ "url": url, "caBundle": STANDARD.encode(self.authority.pem()) });
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
        self.shutdown.begin();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}
