//! Faults while pinned Pods are created: no create fails, whatever happens to latebind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use latebind::tls::store::ROTATE;
use latebind_cluster::{Component, Scope, eventually, project_root};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::manifest::{NAMESPACE, render};
use crate::nodes::{PATIENCE, claim, class, install_from, pinned, rolled_out, uninstall};
use crate::provisioner::PROVISIONER;

/// Clients that create at one time.
const CLIENTS: usize = 4;
/// Pause between two creates of one client: about a hundred a second from all.
const PAUSE: Duration = Duration::from_millis(40);

/// What clients saw.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    admitted: AtomicU64,
    rewritten: AtomicU64,
    errors: AtomicU64,
    unreachable: AtomicU64,
}

/// Creates of pinned Pods, as dry runs, which admission treats like any others and nobody has to clean up.
struct Traffic {
    counts: Arc<Counts>,
    stop: CancellationToken,
    clients: JoinSet<Option<String>>,
}

impl Traffic {
    fn start(scope: &Scope, node: &str) -> Result<Self> {
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "traffic"}}]);
        let mut pod = pinned("traffic", node, &volumes);
        pod["metadata"] = json!({"generateName": "traffic-"});
        let pod: Pod = serde_json::from_value(pod)?;
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (api, pod) = (scope.api::<Pod>(), pod.clone());
            clients.spawn(create(api, pod, Arc::clone(&counts), stop.clone()));
        }
        Ok(Self { counts, stop, clients })
    }

    /// Ends it and writes a row of the table. The last error is the test's.
    async fn end(mut self, number: u8, row: &str) -> Result<[u64; 5]> {
        self.stop.cancel();
        let mut last = None;
        while let Some(ended) = self.clients.join_next().await {
            last = last.or(ended?);
        }
        let Counts { sent, admitted, rewritten, errors, unreachable } = &*self.counts;
        let [sent, admitted, rewritten, errors, unreachable] =
            [sent, admitted, rewritten, errors, unreachable].map(|count| count.load(Ordering::Relaxed));
        note(number, format!("| {row} | {sent} | {admitted} | {rewritten} | {unreachable} | {errors} |"))?;
        ensure!(errors == 0, "{row}: {errors} creates failed, such as: {}", last.unwrap_or_default());
        ensure!(sent == admitted + unreachable, "{row}: {sent} sent, {admitted} admitted");
        Ok([sent, admitted, rewritten, errors, unreachable])
    }
}

async fn create(api: Api<Pod>, pod: Pod, counts: Arc<Counts>, stop: CancellationToken) -> Option<String> {
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut last = None;
    while !stop.is_cancelled() {
        counts.sent.fetch_add(1, Ordering::Relaxed);
        match api.create(&dry, &pod).await {
            Ok(created) => {
                counts.admitted.fetch_add(1, Ordering::Relaxed);
                if created.spec.is_some_and(|spec| spec.node_name.is_none()) {
                    counts.rewritten.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(kube::Error::Api(status)) => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
                last = Some(status.to_string());
            }
            // No answer at all: the API server itself is away.
            Err(_) => {
                counts.unreachable.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    last
}

/// Waits until reviews are answered again.
async fn rewrites(client: Client, namespace: &str, node: &str) -> Result<()> {
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "traffic"}}]);
    let pod: Pod = serde_json::from_value(pinned("probe", node, &volumes))?;
    let (api, dry) = (Api::<Pod>::namespaced(client, namespace), PostParams { dry_run: true, ..PostParams::default() });
    eventually("Pods to be rewritten", PATIENCE, async || {
        let created = api.create(&dry, &pod).await?;
        Ok(created.spec.is_some_and(|spec| spec.node_name.is_none()).then_some(()))
    })
    .await
}

/// Sends a signal to every process of latebind's webhook on a node; latebind is process 1 of its container.
async fn signal(scope: &Scope, node: &str, signal: &str) -> Result<()> {
    let script = format!(
        "for p in $(grep -lsa -- --role=webhook /proc/[0-9]*/cmdline | cut -d/ -f3); do \
         case $(readlink /proc/$p/exe) in */latebind) kill -{signal} $p;; esac; done"
    );
    scope.cluster()?.node(node)?.shell(&script).await.map(drop)
}

async fn kubectl(scope: &Scope, arguments: &[&str]) -> Result<String> {
    let all: Vec<&str> = ["--namespace", NAMESPACE].iter().chain(arguments).copied().collect();
    scope.cluster()?.kubectl(&all).await?.success()
}

async fn serving(scope: &Scope) -> Result<Vec<u8>> {
    let secret = Api::<Secret>::namespaced(scope.client(), NAMESPACE).get("latebind-webhook-tls").await?;
    let entries = secret.data.context("entries")?;
    Ok(entries.get("tls.crt").context("a certificate")?.0.clone())
}

/// Settings that let an authority change within a test.
const LASTING: [&str; 5] = [
    "--set=namespace.create=true",
    "--skip-tests",
    "--set=tls.authoritySettle=3s",
    "--set=tls.check=1s",
    "--set=tls.authorityOverlap=5s",
];

/// latebind on two nodes, and a claim that waits.
struct Ground {
    nodes: Vec<String>,
    manifest: String,
}

impl Ground {
    async fn lay(scope: &Scope, settings: &[&str]) -> Result<Self> {
        let nodes: Vec<String> = scope.cluster()?.nodes().iter().map(|node| node.name().to_owned()).collect();
        let dynamic = class(scope, "traffic", PROVISIONER).await?;
        claim(scope, "traffic", &dynamic).await?;
        let manifest = install_from(scope, &render(settings)?).await?;
        let ground = Self { nodes, manifest };
        ground.rewrites(scope).await?;
        Ok(ground)
    }

    /// The node that Pods name.
    fn node(&self) -> &str {
        &self.nodes[1]
    }

    async fn rewrites(&self, scope: &Scope) -> Result<()> {
        rewrites(scope.client(), scope.namespace(), self.node()).await
    }
}

async fn pause(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

pub async fn a_replica_dies_and_the_deployment_rolls(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let traffic = Traffic::start(scope, ground.node())?;
    pause(5).await;
    let [sent, _, rewritten, ..] = traffic.end(1, "none").await?;
    ensure!(sent == rewritten && sent > 20, "{sent} sent, {rewritten} rewritten");

    let traffic = Traffic::start(scope, ground.node())?;
    signal(scope, &ground.nodes[0], "KILL").await?;
    pause(3).await;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    traffic.end(2, "one of two replicas is killed").await?;

    let traffic = Traffic::start(scope, ground.node())?;
    kubectl(scope, &["rollout", "restart", "deployment/latebind-webhook"]).await?;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    pause(7).await;
    let [sent, _, rewritten, ..] = traffic.end(3, "the Deployment is rolled").await?;
    ensure!(sent == rewritten, "a roll-out lost reviews: {sent} sent, {rewritten} rewritten");
    uninstall(scope, &ground.manifest).await
}

pub async fn certificates_change(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    let secrets: Api<Secret> = Api::namespaced(scope.client(), NAMESPACE);
    let lost = Patch::Merge(json!({"data": null}));
    secrets.patch("latebind-webhook-tls", &PatchParams::default(), &lost).await?;
    eventually("a new server certificate", PATIENCE, async || {
        Ok(serving(scope).await.is_ok_and(|now| now != before).then_some(()))
    })
    .await?;
    pause(4).await;
    let [sent, _, rewritten, ..] = traffic.end(4, "the server certificate is renewed").await?;
    ensure!(sent == rewritten, "a renewal lost reviews: {sent} sent, {rewritten} rewritten");

    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    let order = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: "authority"}}}));
    secrets.patch("latebind-ca", &PatchParams::default(), &order).await?;
    eventually("the new authority to sign", PATIENCE, async || Ok((serving(scope).await? != before).then_some(())))
        .await?;
    pause(8).await;
    let [sent, _, rewritten, ..] = traffic.end(5, "the authority is replaced").await?;
    ensure!(sent == rewritten, "the change of the authority lost reviews: {sent} sent, {rewritten} rewritten");
    uninstall(scope, &ground.manifest).await
}

pub async fn the_api_server_restarts_and_no_replica_is_left(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let traffic = Traffic::start(scope, ground.node())?;
    scope.cluster()?.restart(Component::ApiServer).await?;
    ground.rewrites(scope).await?;
    pause(3).await;
    traffic.end(6, "the API server restarts").await?;

    let traffic = Traffic::start(scope, ground.node())?;
    kubectl(scope, &["scale", "--replicas=0", "deployment/latebind-webhook"]).await?;
    pause(15).await;
    let [_, admitted, rewritten, ..] = traffic.end(7, "no replica is left").await?;
    ensure!(rewritten < admitted, "who rewrote them?");
    kubectl(scope, &["scale", "--replicas=2", "deployment/latebind-webhook"]).await?;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    ground.rewrites(scope).await?;
    uninstall(scope, &ground.manifest).await
}

/// Certificates that live for 12 s: a new one every 8 s, and an authority every half minute.
pub async fn certificates_live_for_seconds(scope: &Scope) -> Result<()> {
    let short = [&LASTING[..], &["--set=tls.certificateLife=12s", "--set=tls.authorityLife=40s"]].concat();
    let ground = Ground::lay(scope, &short).await?;
    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    pause(30).await;
    ensure!(serving(scope).await? != before, "no renewal in 30 s");
    traffic.end(8, "certificates live for 12 s").await?;

    let traffic = Traffic::start(scope, ground.node())?;
    for name in &ground.nodes {
        signal(scope, name, "STOP").await?;
    }
    pause(15).await;
    for name in &ground.nodes {
        signal(scope, name, "CONT").await?;
    }
    ground.rewrites(scope).await?;
    pause(3).await;
    traffic.end(9, "every replica is paused past the end of its certificate").await?;
    uninstall(scope, &ground.manifest).await
}

/// Rows of the table, by number, from all tests of this process.
static ROWS: Mutex<BTreeMap<u8, String>> = Mutex::new(BTreeMap::new());

fn note(number: u8, row: String) -> Result<()> {
    println!("{row}");
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.insert(number, row);
    if std::env::var_os("LATEBIND_UPDATE").is_none() {
        return Ok(());
    }
    let version = latebind_cluster::Version::from_env()?;
    let table: String = rows.values().map(|row| format!("{row}\n")).collect();
    let text = format!(
        "# Faults while Pods are created\n\n\
         Written by `LATEBIND_UPDATE=1 cargo test --test install -- faults` on Kubernetes {version} with two real nodes and\n\
         two replicas of the webhook. {CLIENTS} clients create Pods that name their node, as server-side dry runs, while \
         something is broken.\n\n\
         - admitted: the API server created the Pod. rewritten: the webhook answered, and the Pod is the scheduler's.\n\
         - unreachable: the API server itself was away. errors: the API server refused a create; there must be none.\n\n\
         | fault | creates | admitted | rewritten | unreachable | errors |\n| --- | --: | --: | --: | --: | --: |\n{table}"
    );
    Ok(std::fs::write(project_root().join("docs/results/admission-faults.md"), text)?)
}
