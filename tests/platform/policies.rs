//! What a MutatingAdmissionPolicy can and cannot see, and what becomes of one that fails.
//!
//! The kind is served as `v1` since 1.36. Before, all that is checked is that it is not.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::core::Status;
use kube::discovery::ApiResource;
use latebind_cluster::webhook::{Webhook, patched};
use latebind_cluster::{Scope, eventually};
use latebind_test_support::policies::{create_policy, served};
use serde_json::{Value, json};

use crate::objects::{NO_PROVISIONER, PATIENCE, PROVISIONER, claim, class, pod_on, volume};

const NAMES_NODE: &str = "has(object.spec.nodeName) && object.spec.nodeName != ''";
/// Takes the node's name away for a selector, and leaves a Pod alone that names none.
const REWRITE: &str = r#"has(object.spec.nodeName) && object.spec.nodeName != "" ? [
  JSONPatch{op: "test", path: "/spec/nodeName", value: object.spec.nodeName},
  JSONPatch{op: "remove", path: "/spec/nodeName"},
  JSONPatch{op: "add", path: "/spec/nodeSelector", value: {"kubernetes.io/hostname": object.spec.nodeName}}] : []"#;
/// What a Pod that was looked at carries.
const MARK: &str = r#"[JSONPatch{op: "add", path: "/metadata/labels", value: {"seen": "yes"}}]"#;

/// A policy on Pods that are created, with one JSON Patch.
fn policy(expression: &str) -> Value {
    json!({
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": { "resourceRules": [
            { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] },
        ] },
        "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": expression } }],
    })
}

/// The same, looked at only where the condition holds.
fn policy_if(condition: &str, expression: &str) -> Value {
    let mut policy = policy(expression);
    policy["matchConditions"] = json!([{ "name": "condition", "expression": condition }]);
    policy
}

/// Puts a policy in force for the namespace of the test, and waits until it is.
async fn enforce(scope: &Scope, stem: &str, policy: Value, binding: Value) -> Result<()> {
    create_policy(scope, "MutatingAdmissionPolicy", stem, policy, binding).await?;
    // Policies are read together, so that one which came later is in force no earlier than this one. It marks with its own
    // annotation: that of an earlier call in the same test says nothing of this policy.
    let annotation = format!("{stem}-in-force");
    let patch = format!(r#"[JSONPatch{{op: "add", path: "/metadata/annotations/{annotation}", value: "yes"}}]"#);
    let mark = policy_if("has(object.metadata.name) && object.metadata.name == 'probe'", &patch);
    create_policy(scope, "MutatingAdmissionPolicy", &format!("{stem}-mark"), mark, json!({})).await?;
    eventually("the policy to be in force", PATIENCE, async || {
        let mut probe = pod_on("node-a", "probe", "none");
        probe["metadata"]["annotations"] = json!({ "probe": "yes" });
        let probe = admitted(scope, probe).await?;
        Ok(probe.is_ok_and(|pod| pod["metadata"]["annotations"][&annotation] == "yes").then_some(()))
    })
    .await
}

/// What the API server would store, without storing it.
pub async fn admitted(scope: &Scope, mut pod: Value) -> Result<Result<Value, Status>> {
    let kind = ApiResource::erase::<Pod>(&());
    let pods = Api::<DynamicObject>::namespaced_with(scope.client(), scope.namespace(), &kind);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&dry, &serde_json::from_value(pod)?).await {
        Ok(pod) => Ok(Ok(serde_json::to_value(pod)?)),
        Err(kube::Error::Api(status)) => Ok(Err(*status)),
        Err(error) => Err(error.into()),
    }
}

pub async fn stored(scope: &Scope, pod: Value) -> Result<Value> {
    admitted(scope, pod).await?.map_err(|status| anyhow::anyhow!("refused: {} {}", status.code, status.message))
}

fn is_rewritten(pod: &Value) -> bool {
    pod["spec"]["nodeName"].is_null() && pod["spec"]["nodeSelector"]["kubernetes.io/hostname"].is_string()
}

fn is_left_alone(pod: &Value) -> bool {
    pod["spec"]["nodeName"].is_string() && pod["spec"]["nodeSelector"].is_null() && pod["metadata"]["labels"].is_null()
}

pub async fn a_policy_takes_a_pod_its_node_name_since_1_36(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    enforce(scope, "rewrite", policy_if(NAMES_NODE, REWRITE), json!({})).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_rewritten(&pod) && pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] == "node-a", "{pod}");
    Ok(())
}

/// A patch of a webhook that does not apply rejects the request; one of a policy is a policy that failed.
pub async fn a_policys_patch_that_does_not_apply_is_ignored_under_failure_policy_ignore(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let broken =
        r#"[JSONPatch{op: "remove", path: "/spec/nodeName"}, JSONPatch{op: "remove", path: "/spec/affinity/x"}]"#;
    enforce(scope, "broken", policy(broken), json!({})).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    Ok(())
}

pub async fn a_policys_patch_with_a_test_that_fails_changes_nothing(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let tested = r#"[JSONPatch{op: "test", path: "/spec/nodeName", value: "another"}, JSONPatch{op: "remove", path: "/spec/nodeName"}]"#;
    let mut policy = policy(tested);
    // Also where a policy that fails rejects: a test that fails is no failure.
    policy["failurePolicy"] = json!("Fail");
    enforce(scope, "tested", policy, json!({})).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    Ok(())
}

/// The one way in which a policy that is to be ignored stands in the way: a patch that applies and leaves no Pod.
pub async fn a_policys_patch_that_leaves_no_pod_rejects_despite_failure_policy_ignore(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let wrong = r#"[JSONPatch{op: "add", path: "/spec/nodeName", value: {"a": "b"}}]"#;
    enforce(scope, "wrong", policy_if("object.metadata.name == 'pod'", wrong), json!({})).await?;
    match admitted(scope, pod_on("node-a", "pod", "data")).await? {
        Ok(pod) => bail!("it was admitted: {pod}"),
        Err(status) => ensure!(status.code == 500, "{status:?}"),
    }
    Ok(())
}

/// A webhook that gives a Pod a node, and a policy that takes it away again.
async fn named_by_a_webhook(scope: &Scope, policy: Value) -> Result<Value> {
    let server = Webhook::serve(scope.cluster()?, |_, request| {
        let marked = request["object"]["metadata"]["annotations"]["named"].is_string();
        if marked || request["object"]["metadata"]["name"] != "pod" {
            return json!({ "allowed": true });
        }
        patched(&json!([
            { "op": "add", "path": "/spec/nodeName", "value": "node-a" },
            { "op": "add", "path": "/metadata/annotations", "value": { "named": "yes" } },
        ]))
    })
    .await?;
    let webhook = json!({
        "name": "name.latebind.test",
        "clientConfig": server.client_config("/"),
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": scope.namespace() } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
    });
    let configuration = json!({ "metadata": { "name": scope.unique("name") }, "webhooks": [webhook] });
    scope.create::<MutatingWebhookConfiguration>(configuration).await?;
    enforce(scope, "after", policy, json!({})).await?;
    eventually("the webhook to be called", PATIENCE, async || {
        let mut plain = pod_on("node-a", "pod", "data");
        if let Some(spec) = plain["spec"].as_object_mut() {
            spec.remove("nodeName");
        }
        let pod = stored(scope, plain).await?;
        Ok((pod["metadata"]["annotations"]["named"] == "yes").then_some(pod))
    })
    .await
}

/// Policies come before webhooks; the second round is for policies that matched in the first.
pub async fn a_policy_whose_condition_becomes_true_only_through_a_webhook_does_nothing(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let pod = named_by_a_webhook(scope, policy_if(NAMES_NODE, REWRITE)).await?;
    ensure!(pod["spec"]["nodeName"] == "node-a" && pod["spec"]["nodeSelector"].is_null(), "{pod}");
    Ok(())
}

/// What it asks in its expression instead of its conditions it asks again when a webhook has changed the Pod.
pub async fn a_policy_without_condition_is_invoked_again_after_a_webhook(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let pod = named_by_a_webhook(scope, policy(REWRITE)).await?;
    ensure!(is_rewritten(&pod), "{pod}");
    Ok(())
}

pub async fn a_policy_sees_no_generated_name_and_a_validating_one_does(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let without_name = "!has(object.metadata.name) || object.metadata.name == ''";
    enforce(scope, "unnamed", policy_if(without_name, MARK), json!({})).await?;
    let generated = || {
        let mut pod = pod_on("node-a", "pod", "data");
        pod["metadata"] = json!({ "generateName": "made-" });
        pod
    };
    let pod = stored(scope, generated()).await?;
    ensure!(pod["metadata"]["labels"]["seen"] == "yes", "it saw a name: {pod}");
    let mut validating = policy("");
    if let Some(fields) = validating.as_object_mut() {
        fields.remove("mutations");
        fields.remove("reinvocationPolicy");
    }
    validating["validations"] =
        json!([{ "expression": "!object.metadata.name.startsWith('made-')", "message": "it has a name" }]);
    let deny = json!({ "validationActions": ["Deny"] });
    create_policy(scope, "ValidatingAdmissionPolicy", "named", validating, deny).await?;
    eventually("the name to be seen", PATIENCE, async || {
        let refused = admitted(scope, generated()).await?.err();
        Ok(refused.is_some_and(|status| status.message.contains("it has a name")).then_some(()))
    })
    .await
}

/// Where the namespace is not there for a condition, the condition fails, and the policy is ignored.
pub async fn a_policy_sees_the_namespace_in_its_patch_and_not_in_its_conditions(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let named = format!("namespaceObject.metadata.name == '{}'", scope.namespace());
    enforce(scope, "condition", policy_if(&named, MARK), json!({})).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    enforce(scope, "patch", policy(&format!("{named} ? {MARK} : []")), json!({})).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(pod["metadata"]["labels"]["seen"] == "yes", "{pod}");
    Ok(())
}

/// One million units an expression. What costs more fails, and the Pod is as it was.
pub async fn a_policy_that_costs_too_much_leaves_the_pod_alone(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let data: serde_json::Map<String, Value> =
        (0..1100).map(|number| (format!("key-{number:04}"), json!("x"))).collect();
    scope.create::<ConfigMap>(json!({ "metadata": { "name": "many" }, "data": data })).await?;
    let mut walk = policy(&format!("params.data.all(a, params.data.all(b, a != b || a == b)) ? {MARK} : []"));
    walk["paramKind"] = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    enforce(scope, "walk", walk, reference(scope, "many")).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    Ok(())
}

fn reference(scope: &Scope, name: &str) -> Value {
    json!({ "paramRef": { "name": name, "namespace": scope.namespace(), "parameterNotFoundAction": "Allow" } })
}

/// A key of a mapping costs the same however many there are: 20 thousand of them, in an object of half a megabyte.
pub async fn a_policy_looks_a_key_up_in_a_large_parameter(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let data: serde_json::Map<String, Value> =
        (0..20_000).map(|number| (format!("claim-{number:05}"), json!(""))).collect();
    scope.create::<ConfigMap>(json!({ "metadata": { "name": "claims" }, "data": data })).await?;
    enforce(scope, "claims", of_listed_claims(), reference(scope, "claims")).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "claim-19999")).await?;
    ensure!(is_rewritten(&pod), "{pod}");
    let pod = stored(scope, pod_on("node-a", "pod", "claim-20000")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    Ok(())
}

/// Rewrites Pods all of whose claims are keys of the parameter.
fn of_listed_claims() -> Value {
    let listed = "has(object.spec.volumes) && has(params.data) && object.spec.volumes.all(v, \
                  !has(v.persistentVolumeClaim) || v.persistentVolumeClaim.claimName in params.data)";
    let mut policy = policy_if(&format!("{NAMES_NODE} && {listed}"), REWRITE);
    policy["paramKind"] = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    policy
}

/// Without waiting for the next time that policies are read, which is every second.
pub async fn a_policy_follows_its_parameter_and_does_nothing_without_it(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    enforce(scope, "follows", of_listed_claims(), reference(scope, "claims")).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "without its parameter: {pod}");
    scope.create::<ConfigMap>(json!({ "metadata": { "name": "claims" }, "data": { "other": "" } })).await?;
    let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
    ensure!(is_left_alone(&pod), "not listed: {pod}");
    let parameters = scope.api::<ConfigMap>();
    let mut slowest = std::time::Duration::ZERO;
    for (data, rewritten) in
        [(json!({ "data": "" }), true), (json!({ "data": null }), false), (json!({ "data": "" }), true)]
    {
        let change = Patch::Merge(json!({ "data": data }));
        parameters.patch("claims", &PatchParams::default(), &change).await?;
        let changed = std::time::Instant::now();
        eventually("the policy to follow", PATIENCE, async || {
            let pod = stored(scope, pod_on("node-a", "pod", "data")).await?;
            Ok((is_rewritten(&pod) == rewritten).then_some(()))
        })
        .await?;
        slowest = slowest.max(changed.elapsed());
    }
    eprintln!("a changed parameter was followed within {} ms", slowest.as_millis());
    Ok(())
}

/// One after the other: a policy sees one claim at a time, and no class, volume or node beside it.
fn of_unbound_claims() -> Value {
    let mine = "params != null && has(object.spec.volumes) && object.spec.volumes.exists(v, \
                has(v.persistentVolumeClaim) && v.persistentVolumeClaim.claimName == params.metadata.name)";
    let unbound = "(!has(params.spec.volumeName) || params.spec.volumeName == '')";
    let mut policy = policy_if(&format!("{NAMES_NODE} && {mine} && {unbound}"), REWRITE);
    policy["paramKind"] = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim" });
    policy
}

fn every_claim() -> Value {
    json!({ "paramRef": { "selector": {}, "parameterNotFoundAction": "Allow" } })
}

pub async fn a_policy_may_have_the_claims_of_the_namespace_as_parameters(scope: &Scope) -> Result<()> {
    if !served(scope).await? {
        return Ok(());
    }
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "local", NO_PROVISIONER, "WaitForFirstConsumer").await?;
    let name = scope.unique("named");
    scope.create::<PersistentVolume>(volume(&name, &class, node.name())).await?;
    let mut named = claim("bound", &class);
    named["spec"]["volumeName"] = json!(name);
    scope.create::<PersistentVolumeClaim>(named).await?;
    scope.create::<PersistentVolumeClaim>(claim("waiting", &class)).await?;
    scope.claim_phase("bound", "Bound", PATIENCE).await?;
    enforce(scope, "claims", of_unbound_claims(), every_claim()).await?;
    eventually("the Pod of the unbound claim to be rewritten", PATIENCE, async || {
        let pod = stored(scope, pod_on("node-a", "pod", "waiting")).await?;
        Ok(is_rewritten(&pod).then_some(()))
    })
    .await?;
    let pod = stored(scope, pod_on("node-a", "pod", "bound")).await?;
    ensure!(is_left_alone(&pod), "{pod}");
    Ok(())
}

/// Its controller makes a claim and its Pod right after. Whether the claim is seen by then is left to chance; the Pod is
/// created either way.
pub async fn a_stateful_sets_pod_is_created_whether_its_claim_is_seen_or_not(scope: &Scope) -> Result<()> {
    const REPLICAS: usize = 6;
    if !served(scope).await? {
        return Ok(());
    }
    let node = scope.simulated_node("node", &[]).await?;
    let class = class(scope, "dynamic", PROVISIONER, "WaitForFirstConsumer").await?;
    enforce(scope, "young", of_unbound_claims(), every_claim()).await?;
    let mut template = pod_on(node.name(), "set", "none");
    template["metadata"] = json!({ "labels": { "app": "set" } });
    template["spec"]["volumes"] = json!([]);
    let set = json!({
        "metadata": { "name": "set" },
        "spec": {
            "replicas": REPLICAS, "podManagementPolicy": "Parallel", "serviceName": "set",
            "selector": { "matchLabels": { "app": "set" } },
            "template": { "metadata": template["metadata"], "spec": template["spec"] },
            "volumeClaimTemplates": [claim("data", &class)],
        },
    });
    scope.create::<StatefulSet>(set).await?;
    let pods: Vec<Pod> = eventually("the Pods of the set", PATIENCE, async || {
        let pods = scope.api::<Pod>().list(&ListParams::default().labels("app=set")).await?.items;
        Ok((pods.len() == REPLICAS).then_some(pods))
    })
    .await?;
    let mut seen = 0;
    for pod in &pods {
        let spec = pod.spec.as_ref().context("a spec")?;
        let selected = spec.node_selector.as_ref().is_some_and(|labels| labels.contains_key("kubernetes.io/hostname"));
        // The scheduler may have placed a rewritten Pod since.
        ensure!(selected || spec.node_name.as_deref() == Some(node.name()), "{spec:?}");
        seen += usize::from(selected);
    }
    eprintln!("of {REPLICAS} claims that a StatefulSet makes with their Pods the policy saw {seen}");
    Ok(())
}
