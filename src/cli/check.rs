//! `latebind check`: whether the webhook of a cluster answers.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, Request};
use clap::Args;
use http_body_util::BodyExt as _;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Exit;
use super::run::ClusterArgs;
use crate::model::{Class, Node, SELECTED_NODE, Wire};

/// One call of the API server may take this long: it waits for webhooks itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Say whether the cluster's webhook answers: create a Pod that names its node, as a dry run, and look at what it becomes.
///
/// Nothing is stored. It needs the right to list nodes and classes, and to create Pods in the namespace.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it answers, 1 it does not, 2 nothing can be said, 3 the cluster cannot be reached")]
pub struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// Namespace to try in; one that the webhook looks at.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
}

/// What the answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Rewritten,
    Selected,
    Refused(String),
    Warned(String),
    Nothing,
}

/// Checks.
///
/// # Errors
/// When the cluster cannot be asked, or has nothing to try with.
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.cluster.client().await?;
        let (node, class) = ground(&client).await?;
        let seen = attempt(&client, &args.namespace, &node, &class).await?;
        let mut stdout = anstream::stdout();
        let what = format!("a Pod that names node {node:?} with an ephemeral volume of class {class:?}");
        let exit = if seen == Seen::Nothing { Exit::Findings } else { Exit::Clean };
        match seen {
            Seen::Rewritten => writeln!(stdout, "ok: {what} is rewritten")?,
            Seen::Selected => writeln!(stdout, "ok: {what} keeps its node, and the volume is ordered for it")?,
            Seen::Refused(why) => writeln!(stdout, "ok: {what} is refused: {why}")?,
            Seen::Warned(text) => writeln!(stdout, "ok: {what} gets a warning: {text}")?,
            Seen::Nothing => writeln!(
                stdout,
                "not ok: {what} is admitted as it is. The webhook does not answer, or leaves namespace {:?} alone, or its \
                 mode is audit.",
                args.namespace
            )?,
        }
        Ok(exit)
    })
}

/// A node and a class to try with.
async fn ground(client: &Client) -> anyhow::Result<(String, String)> {
    let list = ListParams::default();
    let classes = timeout(CALL_TIMEOUT, Api::<Wire<Class>>::all(client.clone()).list(&list)).await??;
    let class = classes.items.iter().map(|class| &class.object).find(|class| class.is_delayed() && class.is_dynamic());
    let class =
        class.context("no class with a provisioner waits for the first consumer, so there is nothing to try")?;
    let nodes = timeout(CALL_TIMEOUT, Api::<Wire<Node>>::all(client.clone()).list(&list)).await??;
    let free = |node: &&Node| node.is_ready() && !node.spec.unschedulable && node.spec.taints.is_empty();
    let mut all = nodes.items.iter().map(|node| &node.object);
    let node = all.clone().find(free).or(all.next()).context("the cluster has no nodes")?;
    Ok((node.name().to_owned(), class.name().to_owned()))
}

async fn attempt(client: &Client, namespace: &str, node: &str, class: &str) -> anyhow::Result<Seen> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "latebind-check-"}, "spec": {
        "nodeName": node,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "none", "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        "volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}}}]}});
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"))
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(&pod)?))?;
    let response = timeout(CALL_TIMEOUT, client.send(request)).await.context("no answer")??;
    let (head, body) = response.into_parts();
    let body = timeout(CALL_TIMEOUT, body.collect()).await.context("no answer")??.to_bytes();
    let answer: Value = serde_json::from_slice(&body)?;
    if head.status.is_success() {
        return Ok(seen(&answer, &head.headers));
    }
    let message = answer["message"].as_str().unwrap_or_default();
    if message.contains("latebind.dev") {
        return Ok(Seen::Refused(message.to_owned()));
    }
    bail!("the API server refuses the Pod: {message}")
}

fn seen(pod: &Value, headers: &HeaderMap) -> Seen {
    if pod["spec"]["nodeName"].is_null() {
        return Seen::Rewritten;
    }
    let template = &pod["spec"]["volumes"][0]["ephemeral"]["volumeClaimTemplate"];
    if template["metadata"]["annotations"][SELECTED_NODE].is_string() {
        return Seen::Selected;
    }
    let warnings = headers.get_all("warning").iter().filter_map(|value| value.to_str().ok());
    let ours = warnings.into_iter().find(|text| text.contains("LB0"));
    ours.map_or(Seen::Nothing, |text| Seen::Warned(text.trim_start_matches("299 - ").trim_matches('"').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_the_pod_is_seen() {
        let template = |annotations: Value| {
            json!({"spec": {"nodeName": "a", "volumes": [{"name": "data", "ephemeral":
            {"volumeClaimTemplate": {"metadata": {"annotations": annotations}}}}]}})
        };
        let none = HeaderMap::new();
        assert_eq!(seen(&json!({"spec": {}}), &none), Seen::Rewritten);
        assert_eq!(seen(&template(json!({SELECTED_NODE: "a"})), &none), Seen::Selected);
        assert_eq!(seen(&template(json!({})), &none), Seen::Nothing);
        let mut headers = HeaderMap::new();
        headers.append("warning", "299 - \"somebody else's\"".parse().unwrap());
        assert_eq!(seen(&template(json!({})), &headers), Seen::Nothing);
        headers.append("warning", "299 - \"LB001: it waits\"".parse().unwrap());
        assert_eq!(seen(&template(json!({})), &headers), Seen::Warned("LB001: it waits".to_owned()));
    }
}
