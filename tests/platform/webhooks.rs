//! How the API server calls admission webhooks, and what kubectl makes of their answers.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use latebind_cluster::webhook::{Webhook, patched};
use latebind_cluster::{Scope, SimulatedNode, eventually};
use serde_json::{Value, json};

const NAMES_NODE: &str = "has(object.spec.nodeName) && object.spec.nodeName != ''";

/// A mutating webhook for Pods of this test's namespace.
fn on_pods(scope: &Scope, name: &str, client_config: &Value) -> Value {
    json!({
        "name": name,
        "clientConfig": client_config,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": scope.namespace() } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
    })
}

async fn mutate(scope: &Scope, stem: &str, webhook: Value) -> Result<()> {
    let configuration = json!({ "metadata": { "name": scope.unique(stem) }, "webhooks": [webhook] });
    scope.create::<MutatingWebhookConfiguration>(configuration).await.map(drop)
}

/// A Pod that goes where a test sends it and nowhere else: the scheduler would place it on a node that another test drains.
fn plain_pod(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "schedulerName": "nobody.latebind.test",
            "containers": [{ "name": "main", "image": "localhost/busybox:1", "command": ["sleep", "infinity"] }],
        },
    })
}

/// Creates Pods until the API server has noticed the configuration of `server`, which takes it a moment.
async fn until_called(scope: &Scope, server: &Webhook) -> Result<()> {
    let mut attempt = 0;
    eventually("the API server to call the webhook", Duration::from_secs(20), async || {
        attempt += 1;
        let outcome = scope.create::<Pod>(plain_pod(&format!("probe-{attempt}"))).await;
        let called = !server.seen().is_empty();
        outcome.map(|_| called.then_some(())).or_else(|error| if called { Ok(Some(())) } else { Err(error) })
    })
    .await
}

pub async fn a_patch_that_does_not_apply_rejects_the_pod_despite_failure_policy_ignore(scope: &Scope) -> Result<()> {
    let server =
        Webhook::serve(scope.cluster()?, |_, _| patched(&json!([{ "op": "remove", "path": "/spec/nodeSelector" }])))
            .await?;
    mutate(scope, "broken", on_pods(scope, "broken.latebind.test", &server.client_config("/"))).await?;
    until_called(scope, &server).await?;
    match scope.attempt::<Pod>(plain_pod("pod")).await? {
        Ok(_) => bail!("it was admitted"),
        Err(status) => ensure!(status.code == 500 && status.message.contains("error in remove for path"), "{status:?}"),
    }
    Ok(())
}

/// Answers every Pod with this response, and creates one Pod that is certainly answered so.
async fn answered_with(scope: &Scope, response: Value) -> Result<Result<Pod, Value>> {
    let server = Webhook::serve(scope.cluster()?, move |_, _| response.clone()).await?;
    mutate(scope, "garbled", on_pods(scope, "garbled.latebind.test", &server.client_config("/"))).await?;
    until_called(scope, &server).await?;
    let outcome = scope.attempt::<Pod>(plain_pod("pod")).await?;
    ensure!(calls(&server, "/", "pod") == 1, "the webhook was not called");
    Ok(outcome.map_err(|status| json!({ "code": status.code, "message": status.message })))
}

pub async fn a_patch_that_is_no_base64_is_ignored_under_failure_policy_ignore(scope: &Scope) -> Result<()> {
    let response = json!({ "allowed": true, "patchType": "JSONPatch", "patch": "no base64!" });
    let outcome = answered_with(scope, response).await?;
    ensure!(outcome.is_ok(), "{outcome:?}");
    Ok(())
}

/// Base64 of something that is no JSON Patch.
pub async fn an_undecodable_patch_is_ignored_under_failure_policy_ignore(scope: &Scope) -> Result<()> {
    let response = json!({ "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode("not a patch") });
    let outcome = answered_with(scope, response).await?;
    ensure!(outcome.is_ok(), "{outcome:?}");
    Ok(())
}

/// Two hooks on one server: `/name` gives a Pod a node, `/rewrite` takes it away for a selector.
async fn naming_and_rewriting(scope: &Scope, node: &str, rewriter: &str) -> Result<Webhook> {
    let node = node.to_owned();
    let server = Webhook::serve(scope.cluster()?, move |path, request| {
        let named = request["object"]["spec"]["nodeName"].is_string();
        let marked = request["object"]["metadata"]["annotations"]["named"].is_string();
        match path {
            // Like a careless injector it acts once: what marks its work stays when the name is taken away again.
            "/name" if !named && !marked => patched(&json!([
                { "op": "add", "path": "/spec/nodeName", "value": node },
                { "op": "add", "path": "/metadata/annotations", "value": { "named": "yes" } },
            ])),
            "/rewrite" if named => patched(&json!([
                { "op": "remove", "path": "/spec/nodeName" },
                { "op": "add", "path": "/spec/nodeSelector", "value": { "kubernetes.io/hostname": node } },
            ])),
            _ => json!({ "allowed": true }),
        }
    })
    .await?;
    let mut rewrite = on_pods(scope, "rewrite.latebind.test", &server.client_config("/rewrite"));
    rewrite["matchConditions"] = json!([{ "name": "names-node", "expression": NAMES_NODE }]);
    mutate(scope, rewriter, rewrite).await?;
    mutate(scope, "m-name", on_pods(scope, "name.latebind.test", &server.client_config("/name"))).await?;
    until_called(scope, &server).await?;
    Ok(server)
}

fn calls(server: &Webhook, path: &str, pod: &str) -> usize {
    server.seen().iter().filter(|(seen, request)| seen == path && request["object"]["metadata"]["name"] == pod).count()
}

/// The second round is for hooks that were called in the first.
pub async fn a_hook_whose_condition_becomes_true_only_through_a_later_hook_is_never_called(
    scope: &Scope,
) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let server = naming_and_rewriting(scope, node.name(), "a-rewrite").await?;
    let pod: Pod = scope.create(plain_pod("pod")).await?;
    ensure!(calls(&server, "/name", "pod") > 0, "the other hook was not called");
    ensure!(calls(&server, "/rewrite", "pod") == 0, "it was called");
    ensure!(pod.spec.and_then(|spec| spec.node_name).as_deref() == Some(node.name()), "the Pod lost its node");
    Ok(())
}

pub async fn a_hook_that_sorts_last_sees_what_others_set_and_is_invoked_again(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[]).await?;
    let server = naming_and_rewriting(scope, node.name(), "zz-rewrite").await?;
    eventually("both configurations to be in force", Duration::from_secs(20), async || {
        let name = format!("probe-{}", server.seen().len());
        scope.create::<Pod>(plain_pod(&name)).await?;
        Ok((calls(&server, "/rewrite", &name) > 0).then_some(()))
    })
    .await?;
    let pod: Pod = scope.create(plain_pod("pod")).await?;
    let annotations = pod.annotations().clone();
    let spec = pod.spec.unwrap_or_default();
    let pinned = spec.node_selector.unwrap_or_default().contains_key("kubernetes.io/hostname");
    ensure!(spec.node_name.is_none() && pinned && annotations.contains_key("named"), "not rewritten: {annotations:?}");
    // A rewrite after it is what invokes a hook again.
    ensure!(calls(&server, "/name", "pod") == 2, "/name was called {} times", calls(&server, "/name", "pod"));
    let manifest = json!({ "apiVersion": "v1", "kind": "Pod" });
    let mut dry = plain_pod("dry");
    for (key, value) in manifest.as_object().into_iter().flatten() {
        dry[key] = value.clone();
    }
    let arguments = ["--namespace", scope.namespace(), "create", "--dry-run=server", "-o", "json", "-f", "-"];
    let shown = scope.cluster()?.kubectl_with_input(&arguments, &dry.to_string()).await?.success()?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown["spec"]["nodeSelector"]["kubernetes.io/hostname"] == node.name(), "dry run shows {shown}");
    Ok(())
}

/// A node with one Pod whose eviction is denied.
async fn denied_eviction(scope: &Scope, code: u16) -> Result<(SimulatedNode, Webhook)> {
    let node = scope.simulated_node("node", &[]).await?;
    let server = Webhook::serve(
        scope.cluster()?,
        move |_, _| json!({ "allowed": false, "status": { "code": code, "message": "its data would be lost" } }),
    )
    .await?;
    let mut deny = on_pods(scope, "evict.latebind.test", &server.client_config("/"));
    deny["rules"][0]["resources"] = json!(["pods/eviction"]);
    if let Some(fields) = deny.as_object_mut() {
        fields.remove("reinvocationPolicy");
    }
    let configuration = json!({ "metadata": { "name": scope.unique("evict") }, "webhooks": [deny] });
    scope.create::<ValidatingWebhookConfiguration>(configuration).await?;
    let mut pod = plain_pod("pod");
    pod["spec"]["nodeName"] = json!(node.name());
    scope.create::<Pod>(pod).await?;
    eventually("evictions to be denied", Duration::from_secs(20), async || {
        // A dry run shows that the webhook is in force and evicts nothing.
        scope.kubectl(&["drain", node.name(), "--force", "--dry-run=server", "--timeout=1s"]).await?;
        Ok((!server.seen().is_empty()).then_some(()))
    })
    .await?;
    Ok((node, server))
}

pub async fn an_eviction_denied_with_429_makes_drain_retry_until_its_timeout(scope: &Scope) -> Result<()> {
    let (node, server) = denied_eviction(scope, 429).await?;
    let (before, started) = (server.seen().len(), Instant::now());
    let drained = scope.kubectl(&["drain", node.name(), "--force", "--timeout=12s"]).await?;
    let text = format!("{}{}", drained.stdout, drained.stderr);
    ensure!(drained.code != Some(0) && text.contains("its data would be lost"), "{text}");
    ensure!(started.elapsed() >= Duration::from_secs(11), "it gave up after {:?}: {text}", started.elapsed());
    ensure!(server.seen().len() >= before + 2, "it did not retry: {text}");
    Ok(())
}

pub async fn an_eviction_denied_with_403_ends_drain_at_once_with_the_message(scope: &Scope) -> Result<()> {
    let (node, _server) = denied_eviction(scope, 403).await?;
    let started = Instant::now();
    let drained = scope.kubectl(&["drain", node.name(), "--force", "--timeout=60s"]).await?;
    ensure!(drained.code != Some(0) && drained.stderr.contains("its data would be lost"), "{drained:?}");
    ensure!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    Ok(())
}

pub async fn warnings_of_a_node_hook_are_printed_by_cordon_drain_and_uncordon(scope: &Scope) -> Result<()> {
    let node = scope.simulated_node("node", &[("latebind.test/group", scope.namespace())]).await?;
    let server = Webhook::serve(
        scope.cluster()?,
        |_, _| json!({ "allowed": true, "warnings": ["three volumes have their only copy here"] }),
    )
    .await?;
    let configuration = json!({ "metadata": { "name": scope.unique("nodes") }, "webhooks": [{
        "name": "nodes.latebind.test",
        "clientConfig": server.client_config("/"),
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "objectSelector": { "matchLabels": { "latebind.test/group": scope.namespace() } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes"] }],
    }] });
    scope.create::<ValidatingWebhookConfiguration>(configuration).await?;
    eventually("the node hook to be in force", Duration::from_secs(20), async || {
        scope
            .kubectl(&["annotate", "--overwrite", "node", node.name(), &format!("probe={}", server.seen().len())])
            .await?;
        Ok((!server.seen().is_empty()).then_some(()))
    })
    .await?;
    for command in [&["cordon", node.name()][..], &["uncordon", node.name()], &["drain", node.name()]] {
        let output = scope.kubectl(command).await?;
        ensure!(output.code == Some(0), "{command:?}: {output:?}");
        ensure!(output.stderr.contains("Warning: three volumes have their only copy here"), "{command:?}: {output:?}");
    }
    Ok(())
}
