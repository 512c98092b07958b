//! Certificates that latebind manages itself, on a real API server and with the rights that the manifest gives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Event, Secret};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use latebind::tls::renewal::Lifetimes;
use latebind::tls::store::{CertificateObjects, ROTATE, Renewal, RenewalMetrics};
use latebind_cluster::{Cluster, Scope, eventually, holds_for};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use latebind_test_support::chart::{NAMESPACE, install};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client with the rights of one of latebind's accounts.
async fn client_as(cluster: &Cluster, account: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{NAMESPACE}:{account}"));
    Ok(Client::try_from(config)?)
}

/// The manifest, applied; what is in the cluster when this is dropped stays, so tests end with [`remove`].
async fn apply(scope: &Scope) -> Result<()> {
    let output = scope.cluster()?.kubectl_with_input(&["apply", "-f", "-"], &install()?).await?;
    output.success().map(drop)
}

async fn remove(scope: &Scope) -> Result<()> {
    let arguments = ["delete", "--wait=true", "--timeout=90s", "-f", "-"];
    scope.cluster()?.kubectl_with_input(&arguments, &install()?).await?.success().map(drop)
}

fn terms() -> Lifetimes {
    Lifetimes {
        names: vec![format!("latebind-webhook.{NAMESPACE}.svc")],
        authority_life: time::Duration::days(365),
        leaf_life: time::Duration::days(90),
        settle: time::Duration::seconds(2),
        overlap: time::Duration::seconds(2),
    }
}

fn places() -> CertificateObjects {
    CertificateObjects {
        namespace: NAMESPACE.to_owned(),
        authority: "latebind-ca".to_owned(),
        serving: "latebind-webhook-tls".to_owned(),
        configuration: "zz-latebind".to_owned(),
    }
}

/// What the cluster holds of certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    bundles: Vec<String>,
    leaf: String,
    authority: String,
    versions: Vec<Option<String>>,
}

async fn held(client: Client) -> Result<Held> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let (authority, serving) = (secrets.get("latebind-ca").await?, secrets.get("latebind-webhook-tls").await?);
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone()).get("zz-latebind").await?;
    let validating = Api::<ValidatingWebhookConfiguration>::all(client).get("zz-latebind").await?;
    let entry = |secret: &Secret, key: &str| {
        let entry = secret.data.as_ref().and_then(|entries| entries.get(key));
        entry.map(|entry| String::from_utf8_lossy(&entry.0).into_owned()).unwrap_or_default()
    };
    let configs = mutating.webhooks.iter().flatten().map(|webhook| &webhook.client_config);
    let configs = configs.chain(validating.webhooks.iter().flatten().map(|webhook| &webhook.client_config));
    let bundles = configs.map(|config| {
        config.ca_bundle.as_ref().map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned()).unwrap_or_default()
    });
    Ok(Held {
        bundles: bundles.collect(),
        leaf: entry(&serving, "tls.crt"),
        authority: entry(&authority, "ca.crt"),
        versions: vec![
            authority.resource_version(),
            serving.resource_version(),
            mutating.resource_version(),
            validating.resource_version(),
        ],
    })
}

impl Held {
    /// Every webhook trusts exactly this many authorities, and all the same.
    fn trusts(&self, authorities: usize) -> bool {
        let first = self.bundles.first().map(String::as_str).unwrap_or_default();
        self.bundles.len() >= 4
            && self.bundles.iter().all(|bundle| bundle == first)
            && first.matches("BEGIN CERTIFICATE").count() == authorities
            && first.contains(&self.authority)
    }
}

pub async fn replicas_share_one_authority_and_never_fight(scope: &Scope) -> Result<()> {
    apply(scope).await?;
    let stop = CancellationToken::new();
    let mut replicas = tokio::task::JoinSet::new();
    for number in 0..3 {
        let client = client_as(scope.cluster()?, "latebind-controller").await?;
        let instance = format!("replica-{number}");
        let renewal = Renewal::new(client, places(), terms(), &instance, RenewalMetrics::default());
        let stop = stop.clone();
        replicas.spawn(async move { renewal.run(Duration::from_millis(100), None, stop).await });
    }
    let settled = eventually("every webhook to trust the authority", PATIENCE, async || {
        let held = held(scope.client()).await?;
        Ok((held.trusts(1) && !held.leaf.is_empty()).then_some(held))
    })
    .await?;
    // Three replicas look ten times a second and write nothing any more.
    holds_for("what is stored", Duration::from_secs(2), async || held(scope.client()).await).await?;

    // A caBundle that somebody has taken out comes back, and nothing else changes.
    let configurations: Api<ValidatingWebhookConfiguration> = scope.all();
    let emptied = json!({"webhooks": [{"name": "pods.latebind.dev", "clientConfig": {"caBundle": ""}}]});
    configurations.patch("zz-latebind", &PatchParams::default(), &Patch::Strategic(emptied)).await?;
    let again = eventually("the caBundle to come back", PATIENCE, async || {
        Ok(Some(held(scope.client()).await?).filter(|held| held.trusts(1)))
    })
    .await?;
    ensure!((&again.leaf, &again.bundles) == (&settled.leaf, &settled.bundles));

    // A new authority is trusted before it signs, and the old one until long after.
    let order = json!({"metadata": {"annotations": {ROTATE: "authority"}}});
    let secrets: Api<Secret> = Api::namespaced(scope.client(), NAMESPACE);
    secrets.patch("latebind-ca", &PatchParams::default(), &Patch::Merge(order)).await?;
    let mut seen_both_with_old_leaf = false;
    let renewed = eventually("the new authority to sign", PATIENCE, async || {
        let held = held(scope.client()).await?;
        let trusted = held.bundles.iter().all(|bundle| bundle.contains(&settled.authority));
        if held.leaf == settled.leaf {
            seen_both_with_old_leaf |= held.trusts(2) && trusted;
            return Ok(None);
        }
        // The moment the server certificate changes, both are trusted.
        anyhow::ensure!(trusted || held.trusts(1), "the old authority was dropped too early");
        Ok(Some(held))
    })
    .await?;
    ensure!(seen_both_with_old_leaf, "the new authority signed before it was published");
    ensure!(renewed.authority != settled.authority);
    let last = eventually("the old authority to go", PATIENCE, async || {
        Ok(Some(held(scope.client()).await?).filter(|held| held.trusts(1)))
    })
    .await?;
    ensure!(last.leaf == renewed.leaf && last.authority == renewed.authority);
    holds_for("what is stored", Duration::from_secs(2), async || held(scope.client()).await).await?;

    // A server certificate that is lost is issued anew by the same authority.
    let spoilt = json!({"data": {"tls.crt": STANDARD.encode("nonsense")}});
    secrets.patch("latebind-webhook-tls", &PatchParams::default(), &Patch::Merge(spoilt)).await?;
    eventually("a new server certificate", PATIENCE, async || {
        let held = held(scope.client()).await?;
        let good = held.leaf.contains("BEGIN CERTIFICATE") && held.leaf != last.leaf;
        Ok((good && held.authority == last.authority && held.trusts(1)).then_some(()))
    })
    .await?;
    stop.cancel();
    while let Some(ended) = replicas.join_next().await {
        ended?;
    }
    remove(scope).await
}

/// A controller that may not write any more tells people before the certificate ends, and after.
pub async fn an_end_that_cannot_be_prevented_is_told(scope: &Scope) -> Result<()> {
    apply(scope).await?;
    let client = client_as(scope.cluster()?, "latebind-controller").await?;
    let short =
        Lifetimes { leaf_life: time::Duration::seconds(12), authority_life: time::Duration::seconds(300), ..terms() };
    let metrics = RenewalMetrics::default();
    let renewal = Renewal::new(client, places(), short, "alone", metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { renewal.run(Duration::from_millis(100), None, stop).await }
    });
    eventually("every webhook to trust the authority", PATIENCE, async || {
        let held = held(scope.client()).await?;
        Ok((held.trusts(1) && !held.leaf.is_empty()).then_some(()))
    })
    .await?;
    let readers = json!([{"op": "replace", "path": "/rules/0/verbs", "value": ["get"]}]);
    let roles: Api<Role> = Api::namespaced(scope.client(), NAMESPACE);
    let patch: json_patch::Patch = serde_json::from_value(readers)?;
    roles.patch("latebind-certificates", &PatchParams::default(), &Patch::<()>::Json(patch)).await?;
    let events: Api<Event> = Api::namespaced(scope.client(), NAMESPACE);
    for reason in ["CertificateExpires", "CertificateExpired"] {
        eventually(reason, PATIENCE, async || {
            let told = events.list(&ListParams::default().fields(&format!("reason={reason}"))).await?.items;
            let about = |event: &Event| event.involved_object.name.as_deref() == Some("latebind-webhook-tls");
            Ok(told.iter().any(about).then_some(()))
        })
        .await?;
    }
    stop.cancel();
    running.await?;
    remove(scope).await
}

pub async fn the_controller_can_change_nothing_but_cabundle(scope: &Scope) -> Result<()> {
    apply(scope).await?;
    let controller = client_as(scope.cluster()?, "latebind-controller").await?;
    let params = PatchParams::default();
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(controller.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(controller.clone());
    let webhook = |change: serde_json::Value| {
        let mut webhook = json!({"name": "pods.latebind.dev"});
        if let (Some(into), Some(from)) = (webhook.as_object_mut(), change.as_object()) {
            into.extend(from.clone());
        }
        json!({"webhooks": [webhook]})
    };
    // The policy is compiled by the API server in the background, so the first refusal is waited for.
    let grab = webhook(json!({"failurePolicy": "Fail"}));
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    eventually("the policy to be in force", PATIENCE, async || {
        Ok(mutating.patch("zz-latebind", &dry, &Patch::Strategic(&grab)).await.is_err().then_some(()))
    })
    .await?;
    for (change, what) in [
        (webhook(json!({"failurePolicy": "Fail"})), "failurePolicy"),
        (webhook(json!({"clientConfig": {"service": {"name": "evil", "namespace": "default"}}})), "service"),
        (webhook(json!({"timeoutSeconds": 30})), "timeoutSeconds"),
        (webhook(json!({"matchConditions": [{"name": "names-a-node", "expression": "true"}]})), "matchConditions"),
        (webhook(json!({"namespaceSelector": {"matchExpressions": null}})), "namespaceSelector"),
        (
            json!({"webhooks": [{"name": "more.latebind.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://evil.example/"}}]}),
            "another webhook",
        ),
        (json!({"metadata": {"labels": {"a": "b"}}}), "a label"),
    ] {
        let refused = mutating.patch("zz-latebind", &params, &Patch::Strategic(&change)).await;
        let refused = refused.err().with_context(|| format!("{what} of the mutating one was changed"))?;
        ensure!(refused.to_string().contains("latebind's controller"), "{what}: {refused}");
        let refused = validating.patch("zz-latebind", &params, &Patch::Strategic(&change)).await;
        ensure!(refused.is_err(), "{what} of the validating one was changed");
    }
    let bundle = "-----BEGIN CERTIFICATE-----\n";
    let authority = rcgen_authority()?;
    let allowed = webhook(json!({"clientConfig": {"caBundle": STANDARD.encode(&authority)}}));
    ensure!(authority.starts_with(bundle));
    mutating.patch("zz-latebind", &params, &Patch::Strategic(&allowed)).await?;
    validating.patch("zz-latebind", &params, &Patch::Strategic(&allowed)).await?;
    // What is not ours, it cannot touch at all; nor can it read or write Secrets beside its own.
    ensure!(mutating.delete("zz-latebind", &kube::api::DeleteParams::default()).await.is_err());
    ensure!(mutating.get("another").await.is_err_and(|error| error.to_string().contains("forbidden")));
    let secrets: Api<Secret> = Api::namespaced(controller, NAMESPACE);
    ensure!(secrets.list(&kube::api::ListParams::default()).await.is_err());
    let webhook = client_as(scope.cluster()?, "latebind-webhook").await?;
    let secrets: Api<Secret> = Api::namespaced(webhook, NAMESPACE);
    secrets.get("latebind-webhook-tls").await?;
    ensure!(secrets.get("latebind-ca").await.is_err(), "the webhook can read the authority's key");
    let empty = json!({"data": null});
    let written = secrets.patch("latebind-webhook-tls", &params, &Patch::Merge(empty)).await;
    ensure!(written.is_err(), "the webhook can write");
    // An administrator is not concerned.
    let admin: Api<MutatingWebhookConfiguration> = scope.all();
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    admin.patch("zz-latebind", &params, &Patch::Merge(change)).await?;
    remove(scope).await
}

fn rcgen_authority() -> Result<String> {
    let now = time::OffsetDateTime::now_utc();
    Ok(latebind::tls::Authority::new(&["a.svc".to_owned()], now)?.pem().to_owned())
}
