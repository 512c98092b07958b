//! Faults while pinned Pods are created: no create fails, whatever happens to latebind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use latebind::tls::store::ROTATE;
use latebind_cluster::{Component, Scope, Version, eventually, project_root};
use latebind_test_support::objects;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use latebind_test_support::chart::{NAMESPACE, render};
use latebind_test_support::installed::{PATIENCE, claim, class, install_from, pinned, rolled_out, runs_on, uninstall};
use latebind_test_support::provisioner::{PROVISIONER, Provisioner};

/// Clients that create at one time.
const CLIENTS: usize = 4;
/// Pause between two creates of one client: about a hundred a second from all.
const PAUSE: Duration = Duration::from_millis(40);

/// Where a replica serves its metrics.
const METRICS_PORT: u16 = 9444;

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
struct Traffic<'a> {
    scope: &'a Scope,
    counts: Arc<Counts>,
    stop: CancellationToken,
    clients: JoinSet<Option<String>>,
    /// Bytes that the API server had logged before.
    logged: usize,
}

/// What a row of the table counts.
struct Row {
    name: String,
    sent: u64,
    rewritten: u64,
    /// Why calls of the webhook failed, as the API server logged it.
    causes: String,
}

impl Row {
    /// Every review was answered, within the time that the chart has the API server wait.
    fn lost_nothing(&self) -> Result<()> {
        let Self { name, sent, rewritten, causes } = self;
        ensure!(
            sent == rewritten,
            "{name}: reviews were lost, {sent} sent, {rewritten} rewritten; the API server says:{causes}"
        );
        Ok(())
    }
}

/// Failed calls of the webhook in an API server's log, each cause once, with its count.
fn failed_calls(log: &str) -> String {
    let mut causes = BTreeMap::<&str, usize>::new();
    for line in log.lines().filter(|line| line.contains("failing open")) {
        *causes.entry(line.split_once("] ").map_or(line, |(_, text)| text)).or_default() += 1;
    }
    causes.iter().map(|(cause, count)| format!("\n{count} times: {cause}")).collect::<Vec<_>>().concat()
}

impl<'a> Traffic<'a> {
    fn start(scope: &'a Scope, node: &str) -> Result<Self> {
        let logged = scope.cluster()?.log(Component::ApiServer.name())?.len();
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let volumes = [objects::named("data", "traffic")];
        let mut pod = pinned("traffic", node, &volumes);
        pod["metadata"] = json!({"generateName": "traffic-"});
        let pod: Pod = serde_json::from_value(pod)?;
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (api, pod) = (scope.api::<Pod>(), pod.clone());
            clients.spawn(create(api, pod, Arc::clone(&counts), stop.clone()));
        }
        Ok(Self { scope, counts, stop, clients, logged })
    }

    /// Ends it and writes a row of the table. The last error is the test's.
    async fn end(mut self, number: u8, row: &str) -> Result<Row> {
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
        let log = self.scope.cluster()?.log(Component::ApiServer.name())?;
        let causes = failed_calls(log.get(self.logged..).unwrap_or(&log));
        Ok(Row { name: row.to_owned(), sent, rewritten, causes })
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
    let volumes = [objects::named("data", "traffic")];
    let pod: Pod = serde_json::from_value(pinned("probe", node, &volumes))?;
    let (api, dry) = (Api::<Pod>::namespaced(client, namespace), PostParams { dry_run: true, ..PostParams::default() });
    eventually("Pods to be rewritten", PATIENCE, async || {
        let created = api.create(&dry, &pod).await?;
        Ok(created.spec.is_some_and(|spec| spec.node_name.is_none()).then_some(()))
    })
    .await
}

/// Waits until every replica has as many claims in memory as there are. That one rewrites says nothing of the other, whose
/// watches may still be coming back from what a test did to them.
async fn all_know(scope: &Scope) -> Result<()> {
    eventually("every replica to know all claims", PATIENCE, async || {
        let there = scope.all::<PersistentVolumeClaim>().list_metadata(&ListParams::default()).await?.items.len();
        let wanted = format!("latebind_watch_objects{{kind=\"persistentvolumeclaims\"}} {there}.0");
        let replicas = Api::<Pod>::namespaced(scope.client(), NAMESPACE);
        let replicas =
            replicas.list_metadata(&ListParams::default().labels("app.kubernetes.io/component=webhook")).await?;
        for replica in &replicas.items {
            let path =
                format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:{METRICS_PORT}/proxy/metrics", replica.name_any());
            let metrics = kubectl(scope, &["get", "--raw", &path]).await?;
            if !metrics.lines().any(|line| line == wanted) {
                return Ok(None);
            }
        }
        Ok((replicas.items.len() == 2).then_some(()))
    })
    .await
}

/// Sends a signal to every process of latebind's webhook on a node, and says how many there are; latebind is process 1 of
/// its container.
async fn signal(scope: &Scope, node: &str, signal: &str) -> Result<usize> {
    let script = format!(
        "for p in $(grep -lsa -- --role=webhook /proc/[0-9]*/cmdline | cut -d/ -f3); do \
         case $(readlink /proc/$p/exe) in */latebind) kill -{signal} $p && echo $p;; esac; done"
    );
    Ok(scope.cluster()?.node(node)?.shell(&script).await?.lines().count())
}

/// The same on all nodes: both replicas.
async fn signal_all(scope: &Scope, nodes: &[String], name: &str) -> Result<()> {
    let mut reached = 0;
    for node in nodes {
        reached += signal(scope, node, name).await?;
    }
    ensure!(reached == 2, "{reached} processes got {name}");
    Ok(())
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

/// How many authorities the API server trusts for Pods.
async fn trusted(scope: &Scope) -> Result<usize> {
    let configurations = Api::<MutatingWebhookConfiguration>::all(scope.client());
    let configuration = configurations.get("zz-latebind").await?;
    let webhook = configuration.webhooks.into_iter().flatten().next().context("a webhook")?;
    let bundle = webhook.client_config.ca_bundle.context("a bundle")?;
    Ok(String::from_utf8(bundle.0)?.matches("BEGIN CERTIFICATE").count())
}

/// Settings that let an authority change within a test. The old one stays for longer than a look at a Secret may take,
/// since with less nobody promises that every replica has seen the new one.
const LASTING: [&str; 5] = [
    "--set=namespace.create=true",
    "--skip-tests",
    "--set=tls.authoritySettle=5s",
    "--set=tls.check=1s",
    "--set=tls.authorityOverlap=15s",
];

/// latebind on two nodes, and a claim that waits. It stays installed: the next test of this kind starts at once.
struct Ground {
    nodes: Vec<String>,
    class: String,
}

impl Ground {
    async fn lay(scope: &Scope, settings: &[&str]) -> Result<Self> {
        let nodes: Vec<String> = scope.cluster()?.nodes().iter().map(|node| node.name().to_owned()).collect();
        let class = class(scope, "traffic", PROVISIONER).await?;
        install_from(scope, &render(settings)?).await?;
        // What the test before left is not this one's fault.
        gone(scope, "deletionTimestamp").await?;
        // Twice: what a stale replica remembers may have the same number, but not both before and after.
        all_know(scope).await?;
        claim(scope, "traffic", &class).await?;
        all_know(scope).await?;
        let ground = Self { nodes, class };
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

pub async fn replicas_come_and_go(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let traffic = Traffic::start(scope, ground.node())?;
    pause(3).await;
    let row = traffic.end(1, "none").await?;
    row.lost_nothing()?;
    ensure!(row.sent > 20, "only {} sent", row.sent);

    let traffic = Traffic::start(scope, ground.node())?;
    let killed = signal(scope, &ground.nodes[0], "KILL").await?;
    ensure!(killed == 1, "{killed} replicas were killed");
    pause(3).await;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    traffic.end(2, "one of two replicas is killed").await?;

    let traffic = Traffic::start(scope, ground.node())?;
    kubectl(scope, &["rollout", "restart", "deployment/latebind-webhook"]).await?;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    gone(scope, "deletionTimestamp").await?;
    traffic.end(3, "the Deployment is rolled").await?.lost_nothing()?;

    // Another configuration, applied over what runs: neither caBundle nor the Secrets may be lost by it.
    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    let next = ["--set=webhook.podAnnotations.next=yes", "--set=controller.podAnnotations.next=yes"];
    let next = [&LASTING[..], &next, &["--set=webhook.exemptNamespaces={elsewhere}"]].concat();
    install_from(scope, &render(&next)?).await?;
    gone(scope, "deletionTimestamp").await?;
    traffic.end(4, "another version of the manifest is applied").await?.lost_nothing()?;
    ensure!(serving(scope).await? == before, "an upgrade changed the certificate");

    // One node has both replicas in the end, so wherever they were, one had to go.
    let traffic = Traffic::start(scope, ground.node())?;
    let selector = "--pod-selector=app.kubernetes.io/name=latebind";
    let drained = &ground.nodes[0];
    kubectl(scope, &["drain", drained, selector, "--ignore-daemonsets", "--timeout=80s"]).await?;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    let row = traffic.end(5, "a node is drained").await?;
    kubectl(scope, &["uncordon", drained]).await?;
    row.lost_nothing()
}

/// Waits until no Pod of latebind is on its way out.
async fn gone(scope: &Scope, field: &str) -> Result<()> {
    let path = format!("jsonpath={{.items[*].metadata.{field}}}");
    eventually("old replicas to be gone", PATIENCE, async || {
        Ok(kubectl(scope, &["get", "pods", "--output", &path]).await?.trim().is_empty().then_some(()))
    })
    .await
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
    pause(3).await;
    traffic.end(6, "the server certificate is renewed").await?.lost_nothing()?;

    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    let order = Patch::Merge(json!({"metadata": {"annotations": {ROTATE: "authority"}}}));
    secrets.patch("latebind-ca", &PatchParams::default(), &order).await?;
    eventually("the new authority to sign", PATIENCE, async || Ok((serving(scope).await? != before).then_some(())))
        .await?;
    eventually("the old authority to go", PATIENCE, async || Ok((trusted(scope).await? == 1).then_some(()))).await?;
    pause(3).await;
    traffic.end(7, "the authority is replaced").await?.lost_nothing()?;
    Ok(())
}

pub async fn the_api_server_restarts(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let traffic = Traffic::start(scope, ground.node())?;
    scope.cluster()?.restart(Component::ApiServer).await?;
    ground.rewrites(scope).await?;
    pause(3).await;
    traffic.end(8, "the API server restarts").await.map(drop)
}

/// Packets between Pods and the API server vanish, in both directions and without a word, while the API server still
/// reaches the webhook: caches grow old, and reviews are answered all the same.
pub async fn watches_are_broken(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let port = kubectl(scope, &["get", "--raw", "/api/v1/namespaces/default/endpoints/kubernetes"]).await?;
    let port: serde_json::Value = serde_json::from_str(&port)?;
    let port = port["subsets"][0]["ports"][0]["port"].as_u64().context("the API server's port")?;
    let cut = format!(
        "nft add table inet cut; nft 'add chain inet cut forward {{ type filter hook forward priority 0; }}'; \
         nft add rule inet cut forward tcp dport {port} drop; nft add rule inet cut forward tcp sport {port} drop"
    );
    for node in scope.cluster()?.nodes() {
        node.shell(&cut).await?;
    }
    let traffic = Traffic::start(scope, ground.node())?;
    let seconds = broken_for();
    pause(seconds).await;
    // A claim that nobody could tell the webhook of: its Pod is admitted as it is, and what is known is still rewritten.
    claim(scope, "unheard-of", &ground.class).await?;
    let unheard_of = [objects::named("data", "unheard-of")];
    let pod: Pod = serde_json::from_value(pinned("unheard-of", ground.node(), &unheard_of))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let admitted = scope.api::<Pod>().create(&dry, &pod).await;
    for node in scope.cluster()?.nodes() {
        node.shell("nft delete table inet cut").await?;
    }
    ensure!(admitted?.spec.is_some_and(|spec| spec.node_name.is_some()), "who told the webhook of the claim?");
    eventually("the webhook to learn of the claim", PATIENCE, async || {
        let created = scope.api::<Pod>().create(&dry, &pod).await?;
        Ok(created.spec.is_some_and(|spec| spec.node_name.is_none()).then_some(()))
    })
    .await?;
    let row = format!("the webhook's watches are cut off for {seconds} s");
    traffic.end(9, &row).await?.lost_nothing()?;
    Ok(())
}

/// Half a minute where results are written or long tests are asked for.
fn broken_for() -> u64 {
    let long = ["LATEBIND_LONG_TESTS", "LATEBIND_UPDATE"].iter().any(|name| std::env::var_os(name).is_some());
    if long { 30 } else { 8 }
}

pub async fn no_replica_is_left(scope: &Scope) -> Result<()> {
    let ground = Ground::lay(scope, &LASTING).await?;
    let _provisioner = Provisioner::start(scope.client());
    let traffic = Traffic::start(scope, ground.node())?;
    kubectl(scope, &["scale", "--replicas=0", "deployment/latebind-webhook"]).await?;
    eventually("Pods to be admitted as they are", PATIENCE, async || {
        let [admitted, rewritten] = [&traffic.counts.admitted, &traffic.counts.rewritten];
        Ok((admitted.load(Ordering::Relaxed) > rewritten.load(Ordering::Relaxed) + 50).then_some(()))
    })
    .await?;
    // Such a Pod is not lost: the controller fixes its claim.
    claim(scope, "meanwhile", &ground.class).await?;
    let volumes = [objects::named("data", "meanwhile")];
    let created: Pod = scope.create(pinned("meanwhile", ground.node(), &volumes)).await?;
    ensure!(created.spec.is_some_and(|spec| spec.node_name.is_some()), "who rewrote it?");
    runs_on(scope, "meanwhile", ground.node()).await?;
    let row = traffic.end(10, "no replica is left").await?;
    ensure!(row.causes.contains("pods.latebind.dev"), "the API server does not say why: {:?}", row.causes);
    kubectl(scope, &["scale", "--replicas=2", "deployment/latebind-webhook"]).await?;
    rolled_out(scope, "deployment/latebind-webhook").await?;
    ground.rewrites(scope).await
}

/// Certificates that live for 12 s: a new one every 8 s, and an authority every half minute.
pub async fn certificates_live_for_seconds(scope: &Scope) -> Result<()> {
    let lives = ["--set=tls.certificateLife=12s", "--set=tls.authorityLife=40s", "--set=tls.authorityOverlap=5s"];
    let short = [&LASTING[..], &lives].concat();
    // What is there already lives for months.
    uninstall(scope).await?;
    let ground = Ground::lay(scope, &short).await?;
    let (traffic, before) = (Traffic::start(scope, ground.node())?, serving(scope).await?);
    pause(broken_for()).await;
    eventually("a renewal", PATIENCE, async || Ok((serving(scope).await? != before).then_some(()))).await?;
    pause(2).await;
    traffic.end(11, "certificates live for 12 s").await?;

    let traffic = Traffic::start(scope, ground.node())?;
    signal_all(scope, &ground.nodes, "STOP").await?;
    pause(13).await;
    signal_all(scope, &ground.nodes, "CONT").await?;
    ground.rewrites(scope).await?;
    pause(2).await;
    traffic.end(12, "every replica is paused past the end of its certificate").await?;
    uninstall(scope).await
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
    let version = Version::from_env()?;
    let table = rows.values().cloned().collect::<Vec<_>>().join("\n");
    let text = format!(
        "# Faults while Pods are created\n\n\
         Written by `LATEBIND_UPDATE=1 cargo test --test faults` on Kubernetes {version} with two real nodes and\n\
         two replicas of the webhook. {CLIENTS} clients create Pods that name their node, as server-side dry runs, while \
         something is broken.\n\n\
         - admitted: the API server created the Pod. rewritten: the webhook answered, and the Pod is the scheduler's.\n\
         - unreachable: the API server itself was away. errors: the API server refused a create; there must be none.\n\n\
         | fault | creates | admitted | rewritten | unreachable | errors |\n| --- | --: | --: | --: | --: | --: |\n{table}\n"
    );
    let name = version.suffix();
    Ok(std::fs::write(project_root().join(format!("docs/results/admission-faults{name}.md")), text)?)
}
