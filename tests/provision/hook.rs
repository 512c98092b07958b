//! New claims are told at admission who makes their volume.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use latebind::admission::service::AdmissionOptions;
use latebind_cluster::{Scope, eventually};
use latebind_test_support::local::PATIENCE;
use latebind_test_support::objects;
use serde_json::{Value, json};

use super::ground::Ground;
use latebind_test_support::chart::render;
use latebind_test_support::served;
use latebind_test_support::webhook::Served;

const ANNOTATIONS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// latebind's webhook in this process, called for claims as the chart says.
struct Hook {
    served: Served,
    configuration: String,
}

impl Hook {
    async fn start(scope: &Scope, classes: &[&str]) -> Result<Self> {
        let served = served!(scope.cluster()?, AdmissionOptions::default());
        let hook = Self { served, configuration: scope.unique("zz-latebind") };
        let mut object = chart_configuration(classes)?;
        object["metadata"] = json!({ "name": hook.configuration });
        hook.served.call_from(&mut object["webhooks"][0]);
        scope.create::<MutatingWebhookConfiguration>(object).await?;
        Ok(hook)
    }

    /// Reviews that were answered so far, all of them and those of a decision.
    async fn counted(&self, decision: &str) -> Result<(u64, u64)> {
        let text = self.served.get("/metrics").await?;
        let lines = text.lines().filter(|line| line.starts_with("latebind_admission_requests_total{"));
        let mut counts = (0, 0);
        for line in lines {
            let count: u64 = line.rsplit(' ').next().context("a count")?.parse()?;
            counts.0 += count;
            counts.1 += if line.contains(&format!("decision=\"{decision}\"")) { count } else { 0 };
        }
        Ok(counts)
    }
}

/// The webhook for claims that the chart renders, alone in its configuration.
fn chart_configuration(classes: &[&str]) -> Result<Value> {
    let text = render(&[
        "--set=provisioner.enabled=true",
        "--set=provisioner.claimHook.enabled=true",
        &format!("--set=provisioner.claimHook.classes={{{}}}", classes.join(",")),
        "--set=webhook.failurePolicy=Fail",
        "--show-only=templates/webhook-configurations.yaml",
    ])?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let mut found =
        objects.into_iter().find(|it| it["kind"] == "MutatingWebhookConfiguration").context("a configuration")?;
    let webhooks = found["webhooks"].as_array_mut().context("webhooks")?;
    webhooks.retain(|webhook| webhook["name"] == "claims.latebind.dev");
    let [webhook] = webhooks.as_slice() else { anyhow::bail!("one webhook for claims, not {}", webhooks.len()) };
    for (field, expected) in
        [("failurePolicy", json!("Ignore")), ("sideEffects", json!("None")), ("timeoutSeconds", json!(3))]
    {
        ensure!(webhook[field] == expected, "{field}: {}", webhook[field]);
    }
    Ok(found)
}

fn told(claim: &PersistentVolumeClaim) -> Option<[&str; 2]> {
    let values = ANNOTATIONS.map(|key| claim.annotations().get(key).map(String::as_str));
    Some([values[0]?, values[1]?])
}

async fn other_class(scope: &Scope, stem: &str) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<StorageClass>(objects::class(&name, "example.org/none")).await?;
    Ok(name)
}

pub async fn new_claims_are_told_who_makes_their_volume(scope: &Scope) -> Result<()> {
    let ground = Ground::new(scope, json!({})).await?;
    let (listed, unlisted) = (other_class(scope, "listed").await?, other_class(scope, "unlisted").await?);
    let hook = Hook::start(scope, &[&ground.class, &listed]).await?;
    let unordered = json!({ "metadata": { "annotations": null } });
    let mut attempt = 0;
    eventually("the API server to call the webhook", PATIENCE, async || {
        attempt += 1;
        Ok(told(&ground.claim(&format!("probe-{attempt}"), unordered.clone()).await?).map(drop))
    })
    .await?;

    let ours = ["local.latebind.dev"; 2];
    let seen = scope.cluster()?.audit_log()?.len();
    let claim = ground.claim("data", json!({})).await?;
    ensure!(told(&claim) == Some(ours), "{:?}", claim.annotations());
    ground.bound("data").await?;
    let log = scope.cluster()?.audit_log()?;
    let told_late = log[seen..].iter().filter(|event| {
        let about = &event["objectRef"];
        event["stage"] == "ResponseComplete"
            && about["resource"] == "persistentvolumeclaims"
            && about["name"] == "data"
            && about["namespace"] == scope.namespace()
            && about.get("subresource").is_none()
            && matches!(event["verb"].as_str(), Some("update" | "patch"))
    });
    ensure!(told_late.count() == 1, "binding is the only write on the claim");

    // The older way to name a class, which wins over the newer.
    let beta = json!({ "metadata": { "annotations": { "volume.beta.kubernetes.io/storage-class": ground.class } },
        "spec": { "storageClassName": null } });
    let claim = ground.claim("beta", beta).await?;
    ensure!(told(&claim) == Some(ours), "{:?}", claim.annotations());

    // In the list by mistake: it comes to the webhook, which knows better.
    let (_, clean) = hook.counted("clean").await?;
    let claim =
        ground.claim("foreign", json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": listed } }));
    ensure!(told(&claim.await?).is_none());
    ensure!(hook.counted("clean").await?.1 == clean + 1);

    // Not in the list: nobody is asked.
    let (asked, _) = hook.counted("clean").await?;
    let away = json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": unlisted } });
    ground.claim("unlisted", away).await?;
    ground.claim("bare", json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": "" } })).await?;
    ground.claim("given", json!({ "spec": { "volumeName": "by-hand" } })).await?;
    ensure!(hook.counted("clean").await?.0 == asked);

    defaulted(scope, &ground, ours).await?;

    // Without the webhook the same claims are made and served, a little later.
    hook.served.end();
    eventually("the webhook to be gone", PATIENCE, async || {
        Ok(hook.served.get("/readyz").await.is_err().then_some(()))
    })
    .await?;
    let claim = ground.claim("later", json!({})).await?;
    ensure!(told(&claim).is_none());
    ground.bound("later").await?;
    scope.all::<MutatingWebhookConfiguration>().delete(&hook.configuration, &DeleteParams::default()).await?;
    Ok(())
}

/// The API server names the default class before it looks at the webhook's conditions.
async fn defaulted(scope: &Scope, ground: &Ground<'_>, ours: [&str; 2]) -> Result<()> {
    let classes = scope.all::<StorageClass>();
    let default = |value: Value| json!({ "metadata": { "annotations": { DEFAULT: value } } });
    classes.patch(&ground.class, &PatchParams::default(), &Patch::Merge(default(json!("true")))).await?;
    let mut attempt = 0;
    let claim = eventually("the default class", PATIENCE, async || {
        attempt += 1;
        let unnamed = json!({ "metadata": { "annotations": null }, "spec": { "storageClassName": null } });
        let claim = ground.claim(&format!("default-{attempt}"), unnamed).await?;
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
        Ok((class == Some(ground.class.as_str())).then_some(claim))
    })
    .await?;
    classes.patch(&ground.class, &PatchParams::default(), &Patch::Merge(default(Value::Null))).await?;
    ensure!(told(&claim) == Some(ours), "{:?}", claim.annotations());
    Ok(())
}
