//! What creating a Pod costs under each profile, in one run on one API server.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use latebind::admission::service::AdmissionOptions;
use latebind::crd::{AdmissionParameter, AdmissionParameterSpec, PARAMETER};
use latebind_cluster::suite::long;
use latebind_cluster::webhook::Webhook;
use latebind_cluster::{Scope, project_root};
use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::machine::{machine, today};
use latebind_test_support::policies::served;
use latebind_test_support::webhook::Served;
use latebind_test_support::{objects, served as serve};
use serde_json::{Value, json};

use crate::installed::{PATIENCE, admitted, install, uninstall, until};
use crate::parameter::start;

const PAGE: &str = "docs/results/policy-profile.md";
const CLIENTS: usize = 8;
/// What the figures are of.
const HEAD: &str = "\
API server, etcd, two nodes, the webhook's replicas and the clients share the machine. Pods are created as a dry run, which goes
through all of admission and stores nothing. A pinned Pod names its node and uses a claim that waits: both profiles rewrite it. An
ordinary Pod uses the same claim and names no node.";

/// How many rounds, and how many Pods a figure of one of them.
fn plan() -> (usize, usize) {
    if long() || std::env::var_os("LATEBIND_UPDATE").is_some() { (3, 60) } else { (1, 20) }
}

/// What stands in the way of a Pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Nothing,
    Policy,
    Webhook,
    Bare,
}

impl Admission {
    const ALL: [Self; 4] = [Self::Nothing, Self::Policy, Self::Webhook, Self::Bare];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Policy => "profile `policy`",
            Self::Webhook => "profile `webhook`, 2 replicas",
            Self::Bare => "a webhook that allows everything",
        }
    }
}

/// The figures of one kind of Pod, in milliseconds, and Pods a second.
#[derive(Default)]
struct Figures {
    latencies: Vec<f64>,
    rates: Vec<f64>,
}

struct Stage<'a> {
    scope: &'a Scope,
    node: String,
    class: String,
}

impl Stage<'_> {
    fn pod(&self, pinned: bool) -> Value {
        let pod = objects::pod("pod", &[objects::named("data", "data")]);
        if pinned { objects::on_node(pod, &self.node) } else { pod }
    }

    async fn create(&self, pinned: bool) -> Result<(Value, Duration)> {
        let pod = self.pod(pinned);
        let began = Instant::now();
        let seen = admitted(self.scope, self.scope.namespace(), pod).await?;
        Ok((seen.map_err(|status| anyhow::anyhow!("{}", status.message))?, began.elapsed()))
    }

    /// From the answer that a claim was created until the API server has it in the parameter of the policies, in milliseconds.
    async fn lags(&self, count: usize, lags: &mut Vec<f64>) -> Result<()> {
        let claims = self.scope.api::<PersistentVolumeClaim>();
        let parameters = self.scope.all::<AdmissionParameter>();
        for number in 0..count {
            let name = format!("lag-{number}");
            self.scope.create::<PersistentVolumeClaim>(objects::claim(&name, &self.class, "1Gi")).await?;
            let began = Instant::now();
            let is_listed = |spec: &AdmissionParameterSpec| {
                spec.claims.get(self.scope.namespace()).is_some_and(|claims| claims.contains_key(&name))
            };
            while !is_listed(&parameters.get(PARAMETER).await?.spec) {
                ensure!(began.elapsed() < PATIENCE, "{name} is not listed");
            }
            lags.push(began.elapsed().as_secs_f64() * 1000.0);
            claims.delete(&name, &DeleteParams::default()).await?;
            until("the claim to go", async || Ok(claims.get_opt(&name).await?.is_none().then_some(()))).await?;
        }
        Ok(())
    }

    async fn until_rewritten(&self, rewritten: bool) -> Result<()> {
        until("admission to be as it is measured", async || {
            let seen = self.create(true).await?.0;
            Ok((seen["spec"]["nodeName"].is_null() == rewritten).then_some(()))
        })
        .await
    }

    async fn measure(&self, pinned: bool, count: usize, figures: &mut Figures) -> Result<()> {
        for _ in 0..count {
            figures.latencies.push(self.create(pinned).await?.1.as_secs_f64() * 1000.0);
        }
        let began = Instant::now();
        let all = stream::iter(0..count * 2).map(|_| self.create(pinned)).buffer_unordered(CLIENTS);
        all.map_ok(drop).try_collect::<()>().await?;
        #[allow(clippy::cast_precision_loss, reason = "counts are small")]
        figures.rates.push((count * 2) as f64 / began.elapsed().as_secs_f64());
        Ok(())
    }
}

pub async fn creating_a_pod_costs(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let node = scope.simulated_node("node", &[]).await?;
    let class = scope.unique("fast");
    scope.create::<StorageClass>(objects::class(&class, "example.org/fast")).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("data", &class, "1Gi")).await?;
    let stage = Stage { scope, node: node.name().to_owned(), class };
    let (rounds, count) = plan();
    let mut lags = Vec::new();
    let mut all: Vec<[Figures; 2]> = Admission::ALL.iter().map(|_| Default::default()).collect();
    // They take turns, so that a disturbance of the machine falls on all of them.
    for _ in 0..rounds {
        for (admission, figures) in Admission::ALL.into_iter().zip(&mut all) {
            measured(&stage, admission, count, figures, &mut lags).await.context(admission.name())?;
        }
    }
    let lag = format!(
        "\nA new claim was in the parameter of the policies {:.0} ms (p50) and {:.0} ms (p99) after the API server had answered its creation,\n\
         the time of the look at it included.\n",
        part(&lags, 0.5),
        part(&lags, 0.99)
    );
    let table = table(&all) + &lag;
    println!("{table}");
    if std::env::var_os("LATEBIND_UPDATE").is_some() {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let version = latebind_cluster::Version::from_env()?;
        let text = format!(
            "# What creating a Pod costs, by profile\n\n{}, {}, with a load of {load}; Kubernetes {version}.\n\
             `LATEBIND_UPDATE=1 cargo test --test profile latency` writes this page anew.\n\n{HEAD}\n\
             Latencies are those of one client, in {rounds} rounds of {count} in which all take turns; Pods a second those of {CLIENTS}\n\
             clients, the median of the rounds.\n\n{table}",
            today(),
            machine(),
        );
        std::fs::write(project_root().join(PAGE), text)?;
    }
    Ok(())
}

async fn measured(
    stage: &Stage<'_>,
    admission: Admission,
    count: usize,
    figures: &mut [Figures; 2],
    lags: &mut Vec<f64>,
) -> Result<()> {
    let cluster = stage.scope.cluster()?;
    match admission {
        Admission::Nothing => {
            stage.until_rewritten(false).await?;
            kinds(stage, count, figures).await
        }
        Admission::Policy => {
            install(cluster).await?;
            let mut controller = start(stage.scope).await?;
            stage.until_rewritten(true).await?;
            let outcome = async {
                kinds(stage, count, figures).await?;
                stage.lags(count / 2, lags).await
            }
            .await;
            controller.kill().await?;
            uninstall(cluster).await?;
            stage.until_rewritten(false).await?;
            outcome
        }
        Admission::Webhook => {
            let replicas = [serve!(cluster, AdmissionOptions::default()), serve!(cluster, AdmissionOptions::default())];
            let configured = behind_a_service(stage, &replicas).await?;
            stage.until_rewritten(true).await?;
            let outcome = kinds(stage, count, figures).await;
            configured.remove(stage).await?;
            stage.until_rewritten(false).await?;
            outcome
        }
        Admission::Bare => {
            let server = Webhook::serve(cluster, |_, _| json!({ "allowed": true })).await?;
            let url = |webhook: &mut Value| webhook["clientConfig"] = server.client_config("/");
            let configured = configure(stage, url).await?;
            until("the webhook to be called", async || {
                stage.create(true).await?;
                Ok((!server.seen().is_empty()).then_some(()))
            })
            .await?;
            let outcome = kinds(stage, count, figures).await;
            configured.remove(stage).await?;
            outcome
        }
    }
}

async fn kinds(stage: &Stage<'_>, count: usize, figures: &mut [Figures; 2]) -> Result<()> {
    // Connections and caches are warm before the first that counts.
    stage.measure(true, count / 4, &mut Figures::default()).await?;
    for (pinned, figures) in [true, false].into_iter().zip(figures) {
        stage.measure(pinned, count, figures).await?;
    }
    Ok(())
}

/// The chart's webhook configurations, which are to go again.
struct Configured(String);

impl Configured {
    async fn remove(self, stage: &Stage<'_>) -> Result<()> {
        let now = DeleteParams::default();
        stage.scope.all::<MutatingWebhookConfiguration>().delete(&self.0, &now).await?;
        stage.scope.all::<ValidatingWebhookConfiguration>().delete(&self.0, &now).await?;
        Ok(())
    }
}

/// Both configurations as the chart renders them, with another address.
async fn configure(stage: &Stage<'_>, mut call: impl FnMut(&mut Value)) -> Result<Configured> {
    let text = render(&["--show-only=templates/webhook-configurations.yaml"])?;
    for mut object in serde_saphyr::from_multiple::<Value>(&text)? {
        object["webhooks"].as_array_mut().context("webhooks")?.iter_mut().for_each(&mut call);
        if object["kind"] == "MutatingWebhookConfiguration" {
            let all: Api<MutatingWebhookConfiguration> = stage.scope.all();
            all.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        } else {
            let all: Api<ValidatingWebhookConfiguration> = stage.scope.all();
            all.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
    }
    Ok(Configured("zz-latebind".to_owned()))
}

async fn behind_a_service(stage: &Stage<'_>, replicas: &[Served]) -> Result<Configured> {
    let cluster = stage.scope.cluster()?;
    let ensure_namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    cluster.kubectl_with_input(&["apply", "-f", "-"], &ensure_namespace.to_string()).await?.success()?;
    let mut list = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "latebind-webhook", "namespace": NAMESPACE },
        "spec": { "ports": [{ "name": "https", "port": 443 }] },
    })];
    for (number, replica) in replicas.iter().enumerate() {
        list.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("latebind-webhook-{number}"), "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": "latebind-webhook" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [cluster.host_address()], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": replica.port(), "protocol": "TCP" }],
        }));
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": list });
    cluster.kubectl_with_input(&["apply", "-f", "-"], &list.to_string()).await?.success()?;
    let authorities: String = replicas.iter().map(Served::authority).collect();
    configure(stage, |webhook| webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(&authorities))).await
}

fn table(all: &[[Figures; 2]]) -> String {
    let mut table = String::from("| admission | Pod | p50 ms | p99 ms | Pods/s |\n| --- | --- | --- | --- | --- |\n");
    for (admission, figures) in Admission::ALL.into_iter().zip(all) {
        for (kind, figures) in ["pinned", "ordinary"].into_iter().zip(figures) {
            let (p50, p99) = (part(&figures.latencies, 0.5), part(&figures.latencies, 0.99));
            let rate = part(&figures.rates, 0.5);
            let name = admission.name();
            // Writing to a string cannot fail.
            let _written = writeln!(table, "| {name} | {kind} | {p50:.1} | {p99:.1} | {rate:.0} |");
        }
    }
    table
}

/// The value beneath which this part of the values is.
fn part(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let place = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}
