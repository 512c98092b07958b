//! `latebind check`: whether the webhook of a cluster answers, and why not.

pub(super) mod why;

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, Request};
use clap::Args;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};

use self::why::Evidence;
use super::Exit;
use super::cluster::ConnectArgs;
use crate::kubernetes::api::{deadline, in_time};
use crate::model::{Class, Node, ORIGINAL_NODE_NAME, SELECTED_NODE, Wire};
use crate::report::style::clean;

/// Say whether the cluster's webhook answers: create a Pod that names its node, as a dry run, and look at what it becomes.
///
/// Nothing is stored. It needs the right to list nodes and classes, and to create Pods in the namespace. Where the webhook
/// does not answer it says why: not installed, the namespace is exempt, mode audit, no replica is ready, the API server
/// cannot reach it, another webhook or policy. It looks at the configuration, the namespace, the replicas, and has the API
/// server pass a request on to one of them; what it may not look at it names. Of agents it says by what they know what is
/// mounted on their nodes, and which cannot start since the mounts of a node are private.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it answers, 1 it does not, 2 nothing can be said, 3 the cluster cannot be reached")]
pub struct CheckArgs {
    /// Namespace to try in; by default the one of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// What the answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Rewritten,
    Selected,
    Refused(String),
    Warned(String),
    /// Rewritten, and then given a node name again.
    Undone,
    /// Refused by somebody else's admission.
    RefusedByOthers(String),
    Nothing,
}

/// Checks.
///
/// # Errors
/// When the cluster cannot be asked, or has nothing to try with.
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = args.connect.client().await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let (node, class) = node_and_class(&client).await?;
        let seen = attempt(&client, &namespace, &node, &class).await?;
        let mut stdout = anstream::stdout();
        let what = format!("a Pod that names node {node:?} with an ephemeral volume of class {class:?}");
        let exit = match seen {
            Seen::Nothing | Seen::Undone => Exit::Findings,
            Seen::RefusedByOthers(_) => Exit::Input,
            _ => Exit::Clean,
        };
        match seen {
            Seen::Rewritten => writeln!(stdout, "ok: {what} is rewritten")?,
            Seen::Selected => writeln!(stdout, "ok: {what} keeps its node, and the volume is ordered for it")?,
            Seen::Refused(why) => writeln!(stdout, "ok: {what} is refused: {why}")?,
            Seen::Warned(text) => writeln!(stdout, "ok: {what} gets a warning: {text}")?,
            Seen::Undone => writeln!(
                stdout,
                "not ok: {what} was rewritten, and another webhook put the node's name back. One that is called after \
                 latebind's must leave spec.nodeName alone."
            )?,
            Seen::RefusedByOthers(why) => writeln!(
                stdout,
                "nothing can be said: another webhook or policy refuses {what}: {why}\nTry a namespace where it does not \
                 apply, with -n."
            )?,
            Seen::Nothing => {
                writeln!(stdout, "not ok: {what} is admitted into namespace {namespace:?} as it is.")?;
                let evidence = Evidence::gather(&client, &namespace).await;
                let reasons = evidence.reasons();
                for reason in &reasons {
                    writeln!(stdout, "  {}", clean(&reason.to_string()))?;
                }
                if reasons.is_empty() {
                    writeln!(stdout, "  nothing that can be seen from here is in the way; see the log of the webhook")?;
                }
                for unknown in &evidence.unknown {
                    writeln!(stdout, "  not known: {}", clean(unknown))?;
                }
            }
        }
        let agents = agents(&client).await?;
        for (mounts, count) in count_mounts(&agents) {
            writeln!(stdout, "mounts of {count} agents: {mounts}")?;
        }
        let troubles: Vec<String> = agents.iter().filter_map(trouble).collect();
        for trouble in &troubles {
            writeln!(stdout, "not ok: {}", clean(trouble))?;
        }
        Ok(if troubles.is_empty() { exit } else { Exit::Findings })
    })
}

/// The Pods of agents. Whoever may not list Pods learns nothing.
async fn agents(client: &Client) -> anyhow::Result<Vec<Pod>> {
    let agents = ListParams::default().labels("app.kubernetes.io/name=latebind,app.kubernetes.io/component=agent");
    match in_time(Api::<Pod>::all(client.clone()).list(&agents)).await {
        Ok(pods) => Ok(pods.items),
        Err(error) if matches!(error.code(), Some(401 | 403)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// By what an agent knows what is mounted on its node.
fn mounts(pod: &Pod) -> &'static str {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let mounts = container.and_then(|container| container.volume_mounts.as_ref());
    let mut bases = mounts.into_iter().flatten().filter(|mount| mount.name.starts_with("base-"));
    let asks_node = container
        .and_then(|container| container.args.as_ref())
        .is_some_and(|arguments| arguments.iter().any(|argument| argument.starts_with("--node-root")));
    let follows = bases.all(|mount| mount.mount_propagation.as_deref() == Some("HostToContainer"));
    match (follows, asks_node) {
        (true, _) => "they see what a node mounts and unmounts (mountPropagation HostToContainer)",
        (false, true) => {
            "a copy made when each began (mountPropagation None), held against the node's own for paths with requireMount: \
             restart an agent's Pod when LocalNode says MountNotSeen"
        }
        (false, false) => {
            "a copy made when each began (mountPropagation None): restart an agent's Pod after its node has mounted or unmounted a \
             disk, or install with agent.nodeMounts=true to be told"
        }
    }
}

/// Each way, and how many agents have it.
fn count_mounts(agents: &[Pod]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for pod in agents {
        *counts.entry(mounts(pod)).or_default() += 1;
    }
    counts
}

/// What keeps this agent from starting.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let found = containers.flat_map(|container| [&container.state, &container.last_state]).flatten();
    let mut messages = found.flat_map(|state| {
        let waiting = state.waiting.as_ref().and_then(|it| it.message.as_deref());
        let ended = state.terminated.as_ref().and_then(|it| it.message.as_deref());
        [waiting, ended].into_iter().flatten()
    });
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    messages.find(|message| message.contains("shared or slave mount")).map(|_| {
        format!(
            "the agent of node {node} cannot start, since the node's mounts are private: install with \
             agent.mountPropagation=None"
        )
    })
}

/// A node and a class to try with.
async fn node_and_class(client: &Client) -> anyhow::Result<(String, String)> {
    let list = ListParams::default();
    let classes = in_time(Api::<Wire<Class>>::all(client.clone()).list(&list)).await?;
    let class = classes.items.iter().map(|class| &class.object).find(|class| class.is_delayed() && class.is_dynamic());
    let class =
        class.context("no class with a provisioner waits for the first consumer, so there is nothing to try")?;
    let nodes = in_time(Api::<Wire<Node>>::all(client.clone()).list(&list)).await?;
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
    let response = in_time(client.send(request)).await?;
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(deadline(), body.collect()).await.context("no answer")??.to_bytes();
    let answer: Value = serde_json::from_slice(&body)?;
    if head.status.is_success() {
        return Ok(seen(&answer, &head.headers));
    }
    let message = answer["message"].as_str().unwrap_or_default();
    if message.contains("latebind.dev") {
        return Ok(Seen::Refused(message.to_owned()));
    }
    if message.contains("denied the request") || message.contains("ValidatingAdmissionPolicy") {
        return Ok(Seen::RefusedByOthers(message.to_owned()));
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
    if pod["metadata"]["annotations"][ORIGINAL_NODE_NAME].is_string() {
        return Seen::Undone;
    }
    let ours = warnings.into_iter().find(|text| text.contains("LB0"));
    ours.map_or(Seen::Nothing, |text| Seen::Warned(text.trim_start_matches("299 - ").trim_matches('"').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_mounts_agents_see_is_said() {
        let with = |propagation: &str, arguments: Value| -> Pod {
            let mounts = json!([{"name": "base-0", "mountPath": "/a", "mountPropagation": propagation},
                {"name": "other-0", "mountPath": "/b", "mountPropagation": propagation}]);
            let container = json!({"name": "agent", "args": arguments, "volumeMounts": mounts});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": [container]}})).unwrap()
        };
        let follows = with("HostToContainer", json!(["run"]));
        let copy = with("None", json!(["run"]));
        let reads = with("None", json!(["run", "--node-root=/proc/1/root"]));
        assert!(mounts(&follows).contains("HostToContainer"));
        assert!(mounts(&copy).contains("agent.nodeMounts=true"));
        assert!(mounts(&reads).contains("MountNotSeen"));
        let counts = count_mounts(&[follows, copy.clone(), copy, reads]);
        assert_eq!(counts.into_values().sum::<usize>(), 4);
    }

    #[test]
    fn private_mounts_are_told_from_other_reasons() {
        let with = |state: Value| {
            let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "containers": []},
                "status": {"containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}});
            trouble(&serde_json::from_value(pod).unwrap())
        };
        let message = "failed to generate container spec: path \"/var/lib/latebind\" is mounted on \"/\" but it is not a shared or slave mount";
        let found = with(json!({"waiting": {"reason": "CreateContainerError", "message": message}}));
        assert!(found.is_some_and(|text| text.contains("n1") && text.contains("agent.mountPropagation=None")));
        assert_eq!(with(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})), None);
        assert_eq!(with(json!({"running": {}})), None);
    }

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
        let mut undone = template(json!({}));
        undone["metadata"]["annotations"] = json!({ORIGINAL_NODE_NAME: "a"});
        assert_eq!(seen(&undone, &none), Seen::Undone);
        let mut headers = HeaderMap::new();
        headers.append("warning", "299 - \"somebody else's\"".parse().unwrap());
        assert_eq!(seen(&template(json!({})), &headers), Seen::Nothing);
        headers.append("warning", "299 - \"LB001: it waits\"".parse().unwrap());
        assert_eq!(seen(&template(json!({})), &headers), Seen::Warned("LB001: it waits".to_owned()));
    }
}
