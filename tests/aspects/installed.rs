//! latebind's webhook beside a control plane: it runs in this process, configured as the install manifest says.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use latebind::admission::live::LiveSetup;
use latebind::admission::server::Webhook;
use latebind::admission::service::Choices;
use latebind::binding::{PinStyle, Rules};
use latebind::runtime::serve::ConnectionLimits;
use latebind::runtime::shutdown::Shutdown;
use latebind::tls::{Authority, MinimumVersion, PairFiles, ServingSource};
use latebind_cluster::{Cluster, eventually, project_root};
use serde_json::json;

/// A webhook that answers the API server of a cluster. It ends when dropped; [`Installed::remove`] takes its
/// configurations out.
pub struct Installed {
    shutdown: Shutdown,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    _certificates: tempfile::TempDir,
}

impl Installed {
    pub async fn start(cluster: &Cluster, pin: PinStyle) -> Result<Self> {
        let address = cluster.host_address();
        let now = time::OffsetDateTime::now_utc();
        let authority = Authority::new(&[address.to_owned()], now)?;
        let pair = authority.issue_pem(time::Duration::days(1), now + time::Duration::days(1), now)?;
        let folder = tempfile::tempdir()?;
        let files = PairFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        std::fs::write(&files.certificate, pair.chain)?;
        std::fs::write(&files.key, pair.key)?;
        let rules = Rules { pin, ..Rules::default() };
        let webhook = Webhook::start_live(LiveSetup {
            listen: format!("{address}:0").parse()?,
            metrics_listen: "127.0.0.1:0".parse()?,
            client: cluster.client(),
            live_get: true,
            certificate: ServingSource::Files(files),
            look_every: Duration::from_secs(1),
            minimum_version: MinimumVersion::default(),
            clients: None,
            choices: Choices { rules, ..Choices::default() },
            limits: ConnectionLimits::webhook(),
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
        })
        .await?;
        let (address, probes) = (webhook.address(), webhook.metrics_address());
        let shutdown = Shutdown::new();
        let handle = shutdown.clone();
        tokio::spawn(async move { webhook.run(handle).await });
        eventually("the webhook to be ready", Duration::from_secs(30), async || Ok(ready(probes).await.then_some(())))
            .await?;
        let client = cluster.client();
        let installed =
            Self { shutdown, mutating: Api::all(client.clone()), validating: Api::all(client), _certificates: folder };
        let mutating = configuration("MutatingWebhookConfiguration", address, authority.pem())?;
        let validating = configuration("ValidatingWebhookConfiguration", address, authority.pem())?;
        installed.mutating.create(&PostParams::default(), &mutating.try_parse()?).await?;
        installed.validating.create(&PostParams::default(), &validating.try_parse()?).await?;
        Ok(installed)
    }

    pub async fn remove(self) -> Result<()> {
        self.mutating.delete("zz-latebind", &DeleteParams::default()).await?;
        self.validating.delete("zz-latebind", &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// The kubelet's question, asked the plain way.
async fn ready(probes: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let answer = async {
        let mut stream = tokio::net::TcpStream::connect(probes).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    answer.await.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// A configuration of the install manifest, with a URL where it names a Service.
fn configuration(kind: &str, address: std::net::SocketAddr, authority: &str) -> Result<DynamicObject> {
    let text = std::fs::read_to_string(project_root().join("webhook-manifests/install.yaml"))?;
    let documents = text.split("\n---\n").filter(|document| document.contains(&format!("\nkind: {kind}\n")));
    let document = documents.last().with_context(|| format!("no {kind} in the manifest"))?;
    let mut value: serde_json::Value = serde_saphyr::from_str(document)?;
    for webhook in value["webhooks"].as_array_mut().into_iter().flatten() {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap_or_default().to_owned();
        webhook["clientConfig"] =
            json!({"url": format!("https://{address}{path}"), "caBundle": STANDARD.encode(authority)});
    }
    Ok(serde_json::from_value(value)?)
}

/// Waits until the API server calls the webhook: it learns of configurations by a watch.
pub async fn is_called(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the webhook to be called", Duration::from_secs(30), async || {
        let created = pods.create(&dry, pod).await?;
        Ok(created.annotations().contains_key("latebind.dev/original-node-name").then_some(()))
    })
    .await
}
