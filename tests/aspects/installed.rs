//! latebind's webhook beside a control plane, configured as the install manifest says.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use latebind::admission::service::AdmissionOptions;
use latebind::binding::{PinStyle, Rules};
use latebind_cluster::{Cluster, eventually, project_root};

use latebind_test_support::served;
use latebind_test_support::webhook::Served;

/// A webhook that answers the API server of a cluster. It ends when dropped; [`Installed::remove`] takes its
/// configurations out.
pub struct Installed {
    _served: Served,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
}

impl Installed {
    pub async fn start(cluster: &Cluster, pin: PinStyle) -> Result<Self> {
        let rules = Rules { pin, ..Rules::default() };
        let served = served!(cluster, AdmissionOptions { rules, ..AdmissionOptions::default() });
        let mutating = configuration("MutatingWebhookConfiguration", &served)?;
        let validating = configuration("ValidatingWebhookConfiguration", &served)?;
        let client = cluster.client();
        let installed = Self { _served: served, mutating: Api::all(client.clone()), validating: Api::all(client) };
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

/// A configuration of the install manifest, with a URL where it names a Service.
fn configuration(kind: &str, served: &Served) -> Result<DynamicObject> {
    let text = std::fs::read_to_string(project_root().join("webhook-manifests/install.yaml"))?;
    let documents = text.split("\n---\n").filter(|document| document.contains(&format!("\nkind: {kind}\n")));
    let document = documents.last().with_context(|| format!("no {kind} in the manifest"))?;
    let mut value: serde_json::Value = serde_saphyr::from_str(document)?;
    value["webhooks"].as_array_mut().into_iter().flatten().for_each(|webhook| served.call_from(webhook));
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
