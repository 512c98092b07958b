//! An API server that is too busy for controller and agent, and answers 429: their priority level has a single seat, on
//! which somebody sits whose webhook is silent. Watches that are open stay open.
//! Source: kubernetes.io/docs/concepts/cluster-administration/flow-control.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::config::Kubeconfig;
use kube::{Api, Client, ResourceExt};
use latebind_cluster::{Scope, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// As whom controller and agent ask. Not one of `system:masters`, who are never refused.
const USER: &str = "latebind-soak";
/// Who takes the only seat.
const SITTER: &str = "sitter";
/// How long the webhook keeps a request.
const SILENCE: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(300);

/// What it takes to have requests refused.
pub struct Refusals {
    level: String,
    user: Client,
    sitter: Api<ConfigMap>,
    webhook: JoinHandle<()>,
}

impl Refusals {
    /// Creates the accounts, the priority level and the webhook. Nobody is refused yet.
    pub async fn prepare(scope: &Scope) -> Result<Self> {
        let (level, cluster) = (scope.unique("none"), scope.cluster()?);
        let may_all = |name: &str| {
            json!({
                "metadata": { "name": scope.unique(name) },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
                "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name }],
            })
        };
        for name in [USER, SITTER] {
            scope.create::<ClusterRoleBinding>(may_all(name)).await?;
        }
        let limited = json!({ "type": "Limited", "limited": { "nominalConcurrencyShares": 0, "lendablePercent": 0,
            "borrowingLimitPercent": 0, "limitResponse": { "type": "Reject" } } });
        scope.create::<PriorityLevelConfiguration>(json!({ "metadata": { "name": level }, "spec": limited })).await?;
        let webhook = silent_webhook(scope).await?;
        let sitter = Api::namespaced(cluster.client_as(SITTER, &[]).await?, scope.namespace());
        Ok(Self { level, user: cluster.client_as(USER, &[]).await?, sitter, webhook })
    }

    /// A kubeconfig for controller and agent.
    pub fn kubeconfig(scope: &Scope) -> Result<PathBuf> {
        let cluster = scope.cluster()?;
        let mut kubeconfig = serde_json::to_value(Kubeconfig::read_from(cluster.kubeconfig())?)?;
        for user in kubeconfig["users"].as_array_mut().into_iter().flatten() {
            user["user"]["as"] = json!(USER);
        }
        let path = cluster.directory().join("soak.kubeconfig");
        std::fs::write(&path, serde_json::to_vec(&kubeconfig)?)?;
        Ok(path)
    }

    /// Has the requests of controller and agent refused for so long; how many were.
    pub async fn refuse(&self, scope: &Scope, time: Duration) -> Result<f64> {
        let schemas = scope.all::<FlowSchema>();
        let before = self.refused(scope).await?;
        for (name, user) in [(self.level.clone(), USER), (self.of_sitter(), SITTER)] {
            let schema: FlowSchema = serde_json::from_value(self.schema(&name, user))?;
            let uid = eventually("a schema to be written", PATIENCE, async || {
                let applied = PatchParams::apply("test").force();
                Ok(schemas.patch(&name, &applied, &Patch::Apply(&schema)).await?.uid())
            })
            .await?;
            self.is_in_effect(user, &uid).await?;
        }
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let seat: ConfigMap = serde_json::from_value(json!({ "metadata": { "generateName": "seat-" } }))?;
        let (end, mut times) = (Instant::now() + time, 0);
        while Instant::now() < end {
            match self.sitter.create(&dry, &seat).await {
                Ok(_) => times += 1,
                // Somebody else had the seat for the moment that a request takes.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let after = self.refused(scope).await?;
        for name in [self.level.clone(), self.of_sitter()] {
            eventually("a schema to be deleted", PATIENCE, async || {
                match schemas.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Some(())),
                    deleted => Ok(deleted.map(|_| None)?),
                }
            })
            .await?;
        }
        ensure!(times > 0, "nobody had the seat");
        Ok(after - before)
    }

    fn of_sitter(&self) -> String {
        format!("{}-sitter", self.level)
    }

    fn schema(&self, name: &str, user: &str) -> Value {
        let everything = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
            "clusterScope": true });
        json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": { "name": name },
            "spec": {
                "priorityLevelConfiguration": { "name": self.level }, "matchingPrecedence": 2,
                "rules": [{
                    "subjects": [{ "kind": "User", "user": { "name": user } }], "resourceRules": [everything],
                }],
            },
        })
    }

    /// A schema takes effect once the API server has read it. Each answer says by which one its request went.
    async fn is_in_effect(&self, user: &str, uid: &str) -> Result<()> {
        let client = if user == USER { self.user.clone() } else { self.sitter.clone().into_client() };
        eventually("a schema to be in effect", PATIENCE, async || {
            let request = hyper::Request::get("/api/v1/namespaces/default").body(Body::empty())?;
            let answer = client.send(request).await?;
            let by = answer.headers().get("x-kubernetes-pf-flowschema-uid");
            Ok((by.is_some_and(|by| by == uid)).then_some(()))
        })
        .await
    }

    /// How many requests of controller and agent were refused since the API server has started.
    async fn refused(&self, scope: &Scope) -> Result<f64> {
        let metrics = eventually("the API server's metrics", PATIENCE, async || {
            let request = hyper::Request::get("/metrics").body(Vec::new())?;
            Ok(Some(scope.client().request_text(request).await?))
        })
        .await?;
        let schema = format!("flow_schema=\"{}\"", self.level);
        let counts = metrics.lines().filter(|line| {
            line.starts_with("apiserver_flowcontrol_rejected_requests_total{") && line.contains(&schema)
        });
        Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.webhook.abort();
    }
}

/// A webhook that accepts connections and says nothing, asked about ConfigMaps of the namespace.
async fn silent_webhook(scope: &Scope) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}/", listener.local_addr()?);
    let name = scope.unique("silent");
    let webhook = json!({
        "name": "silent.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "timeoutSeconds": SILENCE, "failurePolicy": "Ignore", "clientConfig": { "url": url },
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": scope.namespace() } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }],
    });
    scope
        .create::<MutatingWebhookConfiguration>(json!({ "metadata": { "name": name }, "webhooks": [webhook] }))
        .await?;
    Ok(tokio::spawn(async move {
        // The API server asks once for each request of the one that sits there, and gives up after the time that it was told.
        let mut connections = VecDeque::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push_back(connection);
            if connections.len() > 16 {
                connections.pop_front();
            }
        }
    }))
}
