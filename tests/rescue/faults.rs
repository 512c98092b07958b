//! Processes that die, and an API server that goes away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use latebind_cluster::suite::long;
use latebind_cluster::{Cluster, Component, Scope, eventually};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::process::{NAMESPACE, Rescuer, USER, deeds, leave, writes};
use crate::results::note;
use crate::stage::*;

/// Who takes the only seat of a priority level.
const SITTER: &str = "sitter";

pub async fn a_dry_run_writes_nothing(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let disk = volume(scope, "disk", &fixed, node.name(), "1Gi").await?;
    claim(scope, "made", &made, "1Gi").await?;
    claim(scope, "fixed", &fixed, "1Gi").await?;
    stuck(scope, "app-made", node.name(), &["made"]).await?;
    stuck(scope, "app-fixed", node.name(), &["fixed"]).await?;
    let before = written(cluster)?;
    let rescuer = Rescuer::start(cluster, &["--dry-run"]).await?;
    eventually("both writes to be told", PATIENCE, async || {
        let log = rescuer.log()?;
        Ok((log.contains("SelectNode") && log.contains(&disk)).then_some(()))
    })
    .await?;
    ensure!(rescuer.metric(r#"latebind_rescue_writes_total{kind="prebind",result="dry_run"}"#).await? == 1.0);
    tokio::time::sleep(QUIET).await;
    // Not even a Lease or an event.
    ensure!(written(cluster)? == before);
    rescuer.signal("TERM").await
}

/// How often the account changed anything.
fn written(cluster: &Cluster) -> Result<usize> {
    let changes = |verb: &str| matches!(verb, "create" | "patch" | "update" | "delete");
    Ok(deeds(cluster)?.iter().filter(|deed| changes(&deed.verb) && deed.code < 300).count())
}

/// What happened while nobody looked is fixed at the start: a Pod created with latebind absent.
pub async fn what_was_stuck_before_the_start(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let (made, fixed) = (class(scope, "dynamic", PROVISIONER).await?, class(scope, "static", NO_PROVISIONER).await?);
    let mut names = Vec::new();
    for number in 0..20 {
        let name = format!("data-{number}");
        // All volumes are alike: each claim must be promised another one.
        let class = if number % 2 == 0 {
            volume(scope, &format!("disk-{number}"), &fixed, node.name(), "1Gi").await?;
            &fixed
        } else {
            &made
        };
        claim(scope, &name, class, "1Gi").await?;
        stuck(scope, &format!("app-{number}"), node.name(), &[&name]).await?;
        names.push(name);
    }
    let rescuer = Rescuer::start(cluster, &[]).await?;
    for (number, name) in names.iter().enumerate() {
        if number % 2 == 0 { drop(bound_to(scope, name).await?) } else { drop(selected(scope, name).await?) }
    }
    ensure!(rescuer.metric(r#"latebind_rescue_writes_total{kind="prebind",result="done"}"#).await? == 10.0);
    ensure!(rescuer.metric(r#"latebind_rescue_writes_total{kind="prebind",result="conflict"}"#).await? == 0.0);
    ensure!(rescuer.metric(r#"latebind_rescue_writes_total{kind="select_node",result="done"}"#).await? == 10.0);
    rescuer.signal("TERM").await?;
    eventually("the Lease to be given back", PATIENCE, async || Ok((holder(cluster).await?.is_empty()).then_some(())))
        .await
}

async fn holder(cluster: &Cluster) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    let lease = leases.get_opt("latebind-controller").await?;
    Ok(lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default())
}

/// Whoever deletes the Lease stops nobody: it is made anew, and what was stuck meanwhile is fixed.
pub async fn a_lease_that_is_deleted_is_made_anew(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let replicas = [Rescuer::start(cluster, &[]).await?, Rescuer::start(cluster, &[]).await?];
    eventually("a leader", PATIENCE, async || Ok((!holder(cluster).await?.is_empty()).then_some(()))).await?;
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    let first = leases.get("latebind-controller").await?.uid();
    leases.delete("latebind-controller", &DeleteParams::default()).await?;
    claim(scope, "late", &class, "1Gi").await?;
    stuck(scope, "app-late", node.name(), &["late"]).await?;
    eventually("another Lease with a leader", PATIENCE, async || {
        let lease = leases.get_opt("latebind-controller").await?;
        let is_new = lease.is_some_and(|lease| lease.uid() != first);
        Ok((is_new && !holder(cluster).await?.is_empty()).then_some(()))
    })
    .await?;
    selected(scope, "late").await?;
    for replica in &replicas {
        ensure!(replica.get("/readyz").await?.contains("200 OK"), "a replica is not ready");
        replica.signal("TERM").await?;
    }
    Ok(())
}

/// Two replicas, of which the leader is killed while stuck Pods arrive: 60 Pods and 2 kills, or 500 and 15 in 5 minutes.
pub async fn leaders_that_are_killed(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let (pods, kills, every) = if long() { (500, 15, 20) } else { (60, 2, 20) };
    let nodes = [scope.simulated_node("one", &[]).await?, scope.simulated_node("two", &[]).await?];
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let mut replicas = vec![Rescuer::start(cluster, &[]).await?, Rescuer::start(cluster, &[]).await?];
    let arriving = async {
        let pause = Duration::from_secs(every) * kills / pods;
        for number in 0..pods {
            let (data, app) = (format!("data-{number}"), format!("app-{number}"));
            claim(scope, &data, &class, "1Gi").await?;
            stuck(scope, &app, nodes[usize::from(number % 3 == 0)].name(), &[&data]).await?;
            tokio::time::sleep(pause).await;
        }
        anyhow::Ok(())
    };
    let killing = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..kills {
            let leader = eventually("a leader", PATIENCE, async || leader(&replicas).await).await?;
            replicas.remove(leader).signal("KILL").await?;
            let killed = Instant::now();
            replicas.push(Rescuer::start(cluster, &[]).await?);
            eventually("another leader", PATIENCE, async || leader_of(&replicas).await).await?;
            slowest = slowest.max(killed.elapsed());
            tokio::time::sleep(Duration::from_secs(every).saturating_sub(killed.elapsed())).await;
        }
        anyhow::Ok(slowest)
    };
    let (arrived, slowest) = tokio::join!(arriving, killing);
    arrived?;
    let slowest = slowest?;
    for number in 0..pods {
        let data = format!("data-{number}");
        let claim = selected(scope, &data).await?;
        let wanted = nodes[usize::from(number % 3 == 0)].name();
        ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(wanted), "{data}");
    }
    let ordered = ordered_nodes(cluster, scope.namespace())?;
    for number in 0..pods {
        let name = format!("data-{number}");
        let orders = ordered.get(&name).context(name.clone())?;
        let wanted = nodes[usize::from(number % 3 == 0)].name();
        ensure!(orders.nodes.iter().all(|node| node == wanted), "claim {name}: {orders:?}");
        // Of one that was under way when its process was killed, the log may not know how it ended.
        ensure!(orders.stored <= 1 && !orders.nodes.is_empty(), "claim {name}: {orders:?}");
    }
    let seen = format!(
        "{kills} kills; every claim has the node of its Pod, each was written once; the slowest failover took {:.1} s",
        slowest.as_secs_f32()
    );
    note("leaders killed with SIGKILL while stuck Pods arrive", format!("{pods} Pods, {seen}"));
    ensure!(slowest <= Duration::from_secs(20) + Duration::from_secs(5), "{slowest:?}");
    for replica in &replicas {
        replica.signal("TERM").await?;
    }
    Ok(())
}

/// What the account asked for a claim, by the audit log.
#[derive(Debug, Default)]
struct Orders {
    /// The node of every order that was not refused.
    nodes: Vec<String>,
    /// How many of them were stored for certain.
    stored: usize,
}

/// The orders for all claims of a namespace. The log is long in a long run, and is read once.
fn ordered_nodes(cluster: &Cluster, namespace: &str) -> Result<HashMap<String, Orders>> {
    let mut orders: HashMap<String, Orders> = HashMap::new();
    for event in cluster.audit_log()? {
        let (object, code) = (&event["objectRef"], event["responseStatus"]["code"].as_u64().unwrap_or_default());
        let is_order = event["user"]["username"] == USER
            && event["verb"] == "patch"
            && object["resource"] == "persistentvolumeclaims"
            && object["namespace"] == namespace;
        if !is_order || (400..500).contains(&code) {
            continue;
        }
        let node = event["requestObject"]["metadata"]["annotations"][SELECTED_NODE].as_str().unwrap_or_default();
        let of_claim = orders.entry(object["name"].as_str().unwrap_or_default().to_owned()).or_default();
        of_claim.nodes.push(node.to_owned());
        of_claim.stored += usize::from(code == 200);
    }
    Ok(orders)
}

async fn leader(replicas: &[Rescuer]) -> Result<Option<usize>> {
    for (index, replica) in replicas.iter().enumerate() {
        if replica.metric("latebind_leader ").await? > 0.0 {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

async fn leader_of(replicas: &[Rescuer]) -> Result<Option<()>> {
    Ok(leader(replicas).await?.map(drop))
}

/// A restart, and a silence of 5 s, or of 30 s in the long run, in which a Pod gets stuck: nothing is lost, and the API
/// server is not beset.
pub async fn an_api_server_that_restarts(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let rescuer = Rescuer::start(cluster, &[]).await?;
    claim(scope, "before", &class, "1Gi").await?;
    stuck(scope, "before", node.name(), &["before"]).await?;
    selected(scope, "before").await?;

    cluster.restart(Component::ApiServer).await?;
    claim(scope, "restarted", &class, "1Gi").await?;
    stuck(scope, "restarted", node.name(), &["restarted"]).await?;
    selected(scope, "restarted").await?;

    // Stuck Pods whose writes cannot be stored: etcd is silent, so that the API server answers late or with 5xx.
    let silence = if long() { 30 } else { 6 };
    for number in 0..20 {
        claim(scope, &format!("data-{number}"), &class, "1Gi").await?;
        pinned(scope, &format!("app-{number}"), node.name(), &[&format!("data-{number}")]).await?;
    }
    for number in 0..20 {
        acknowledge(scope, &format!("app-{number}")).await?;
        if number == 2 {
            cluster.pause(Component::Etcd).await?;
            tokio::time::sleep(Duration::from_secs(silence)).await;
            cluster.resume(Component::Etcd).await?;
            cluster.ready(PATIENCE).await?;
        }
    }
    for number in 0..20 {
        let claim = selected(scope, &format!("data-{number}")).await?;
        ensure!(claim.annotations().get(SELECTED_NODE).map(String::as_str) == Some(node.name()));
    }
    let attempts = rescuer.metric("latebind_rescue_retries_total ").await?;
    let bound = 8.0 * 8.0;
    ensure!(attempts <= bound, "{attempts} retries in a silence of {silence} s");
    note(
        "an API server that restarts, and whose store is silent for a while",
        format!("{silence} s of silence, 20 Pods: all fixed, {attempts} retries"),
    );
    ensure!(rescuer.get("/readyz").await?.contains("200 OK"), "{}", rescuer.log()?);
    let lease: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    lease.get("latebind-controller").await?.metadata.name.context("a Lease")?;
    rescuer.signal("TERM").await
}

/// An API server that is too busy for this account answers 429: its priority level has a single seat, and somebody sits
/// there for as long as a webhook of theirs is silent. The watches that are open stay open, everything else is refused,
/// the Lease too. For 6 s, or as long as a webhook may be silent in the long run.
pub async fn an_api_server_that_refuses(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let silence = if long() { 30 } else { 10 };
    for number in 0..20 {
        claim(scope, &format!("data-{number}"), &class, "1Gi").await?;
        pinned(scope, &format!("app-{number}"), node.name(), &[&format!("data-{number}")]).await?;
    }
    let silent = silent_webhook(scope, silence).await?;
    let rescuer = Rescuer::start(cluster, &[]).await?;
    eventually("a leader", PATIENCE, async || Ok((rescuer.metric("latebind_leader ").await? > 0.0).then_some(())))
        .await?;

    // The namespace of an earlier test may still be going, and its claims are fixed first.
    let last = std::cell::Cell::new((usize::MAX, Instant::now()));
    eventually("what earlier tests left to be fixed", PATIENCE, async || {
        let writes = deeds(cluster)?.iter().filter(|deed| deed.verb == "patch" && deed.resource != "leases").count();
        if last.get().0 != writes {
            last.set((writes, Instant::now()));
        }
        Ok((last.get().1.elapsed() >= Duration::from_secs(2)).then_some(()))
    })
    .await?;

    let level = scope.unique("none");
    let limited = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
    }});
    scope.create::<PriorityLevelConfiguration>(json!({"metadata": {"name": level}, "spec": limited})).await?;
    let account = USER.rsplit(':').next().unwrap_or_default();
    let everything =
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    let schema = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 2,
        "rules": [{
            "subjects": [
                {"kind": "ServiceAccount", "serviceAccount": {"namespace": NAMESPACE, "name": account}},
                {"kind": "User", "user": {"name": SITTER}},
            ],
            "resourceRules": [everything],
        }],
    });
    scope.create::<FlowSchema>(json!({"metadata": {"name": level}, "spec": schema})).await?;
    // A schema takes effect when the API server has read it; only then does the request take the seat.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Raw, without the many questions that kubectl asks of an API server that it does not know.
    let place = format!("/api/v1/namespaces/{}/configmaps", scope.namespace());
    let sitting = ["create", "--raw", &place, "-f", "-", "--as", SITTER];
    let seat = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seat"}}).to_string();
    let sitting = cluster.kubectl_with_input(&sitting, &seat);
    let meanwhile = async {
        silent.asked().await?;
        while_refused(scope, &rescuer, silence).await
    };
    let (sat_there, refused) = tokio::join!(sitting, meanwhile);
    let requests = refused?;
    sat_there?.success()?;
    drop(silent);
    scope.all::<FlowSchema>().delete(&level, &DeleteParams::default()).await?;
    for number in 0..20 {
        selected(scope, &format!("data-{number}")).await?;
    }
    let done = deeds(cluster)?;
    for number in 0..20 {
        let name = format!("data-{number}");
        ensure!(done.iter().filter(|deed| deed.wrote("persistentvolumeclaims", scope.namespace(), &name)).count() == 1);
    }
    // Eight workers at a time, with pauses of 0.5 s, 1 s, 2 s and so on to 10 s between, and tries for the Lease.
    let bound = 8 * 8 + silence;
    ensure!(requests <= bound, "{requests} requests in {silence} s");
    let seen = format!("{requests} requests in {silence} s, all refused; all fixed afterwards, with one write each");
    note("an API server that answers 429 while 20 Pods get stuck", seen);
    rescuer.signal("TERM").await
}

/// Lets the 20 Pods get stuck; the number of requests that were refused meanwhile. No other was answered.
async fn while_refused(scope: &Scope, rescuer: &Rescuer, silence: u64) -> Result<u64> {
    let cluster = scope.cluster()?;
    let refused_from = deeds(cluster)?.len();
    let acknowledging = async {
        for number in 0..20 {
            acknowledge(scope, &format!("app-{number}")).await?;
        }
        anyhow::Ok(())
    };
    let watching = async {
        // Until well before the seat is free: a busy machine may begin to count late.
        tokio::time::sleep(Duration::from_secs(silence - 5)).await;
        anyhow::Ok(deeds(cluster)?.split_off(refused_from))
    };
    let (acknowledged, requests) = tokio::join!(acknowledging, watching);
    acknowledged?;
    let requests = requests?;
    ensure!(!requests.is_empty() && requests.iter().all(|deed| deed.code == 429), "{requests:?}\n{}", rescuer.log()?);
    Ok(requests.len() as u64)
}

/// A webhook that accepts connections and says nothing, asked about ConfigMaps of the namespace; and a user who may create
/// them. It ends when dropped.
async fn silent_webhook(scope: &Scope, seconds: u64) -> Result<Silent> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}/", listener.local_addr()?);
    let asked = Arc::new(Notify::new());
    let held = {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
                asked.notify_one();
            }
        })
    };
    // An API server gives up a TLS handshake after 10 s, and calls mutating webhooks one after the other.
    let webhook = |number: u64| {
        json!({
            "name": format!("silent-{number}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "timeoutSeconds": 10, "failurePolicy": "Ignore", "clientConfig": {"url": url},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scope.namespace()}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        })
    };
    let name = scope.unique("silent");
    let webhooks: Vec<Value> = (0..seconds / 10).map(webhook).collect();
    scope.create::<MutatingWebhookConfiguration>(json!({"metadata": {"name": name}, "webhooks": webhooks})).await?;
    let binding = ["create", "rolebinding", "sitter", "--clusterrole=edit", "--user", SITTER];
    scope.kubectl(&binding).await?.success()?;
    Ok(Silent { held, asked })
}

struct Silent {
    held: tokio::task::JoinHandle<()>,
    asked: Arc<Notify>,
}

impl Silent {
    /// Resolves when it has been asked something.
    async fn asked(&self) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.asked.notified()).await.context("nobody asked the silent webhook")
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.held.abort();
    }
}

/// A leader that stands still for longer than its Lease writes nothing when it goes on, whatever it was about to do.
pub async fn a_leader_that_is_frozen(scope: &Scope) -> Result<()> {
    let cluster = scope.cluster()?;
    leave(cluster).await?;
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER).await?;
    let frozen = Rescuer::start(cluster, &[]).await?;
    eventually("a leader", PATIENCE, async || Ok((frozen.metric("latebind_leader ").await? > 0.0).then_some(())))
        .await?;
    let other = Rescuer::start(cluster, &[]).await?;
    frozen.signal("STOP").await?;
    let names: Vec<String> = (0..10).map(|number| format!("data-{number}")).collect();
    for name in &names {
        claim(scope, name, &class, "1Gi").await?;
        stuck(scope, &format!("app-{name}"), node.name(), &[name]).await?;
    }
    eventually("another leader", PATIENCE, async || Ok((other.metric("latebind_leader ").await? > 0.0).then_some(())))
        .await?;
    // It wakes up in the middle of the other's work, with all of it in its watches.
    frozen.signal("CONT").await?;
    for name in &names {
        selected(scope, name).await?;
    }
    eventually("the one that was frozen to know", PATIENCE, async || {
        Ok((frozen.metric("latebind_leader ").await? == 0.0).then_some(()))
    })
    .await?;
    tokio::time::sleep(QUIET).await;
    for name in &names {
        ensure!(writes(cluster, "persistentvolumeclaims", scope.namespace(), name)? == 1, "{name}");
    }
    let done = r#"latebind_rescue_writes_total{kind="select_node",result="done"}"#;
    ensure!(frozen.metric(done).await? == 0.0);
    ensure!(other.metric(done).await? == 10.0);
    frozen.signal("TERM").await?;
    other.signal("TERM").await
}
