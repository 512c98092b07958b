//! PinPolicies as an API server takes them, and as latebind's webhook follows them: by an administrator, and by somebody in
//! a namespace of their own who would rather not be governed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, CustomResourceExt, ResourceExt};
use latebind::binding::PinStyle;
use latebind::crd::PinPolicy;
use latebind_cluster::{Scope, SimulatedNode, eventually, project_root};
use latebind_test_support::objects;
use latebind_test_support::provisioner::PROVISIONER;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::installed::{Installed, is_called};

const PATIENCE: Duration = Duration::from_secs(30);
/// Group of the user of the tests, who may edit a namespace and nothing else.
const TENANTS: &str = "tenants";

/// What everything plays on: a node that Pods may name and one that they may not, a class, and a claim that waits.
struct Ground {
    allowed: SimulatedNode,
    other: SimulatedNode,
    class: String,
    /// As the tenant.
    pods: Api<Pod>,
    policies: Api<PinPolicy>,
}

async fn ground(scope: &Scope) -> Result<Ground> {
    let client = scope.client();
    latebind_test_support::local::install(&client, [PinPolicy::crd()]).await?;
    let tenant = scope.cluster()?.client_as("mallory", &[TENANTS, "system:authenticated"]).await?;
    scope
        .create::<RoleBinding>(json!({
            "metadata": { "name": "tenants" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": TENANTS }],
        }))
        .await?;
    let allowed = scope.simulated_node("allowed", &[("rack", "1")]).await?;
    let other = scope.simulated_node("other", &[("rack", "2")]).await?;
    let class = scope.unique("policies");
    scope.create::<StorageClass>(objects::class(&class, PROVISIONER)).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("data", &class, "1Gi")).await?;
    let pods = Api::namespaced(tenant, scope.namespace());
    Ok(Ground { allowed, other, class, pods, policies: Api::all(client) })
}

fn pod(name: &str, node: &str, claim: bool, metadata: &Value) -> Result<Pod> {
    let volumes = if claim { vec![objects::of_claim("data")] } else { vec![] };
    let pod =
        objects::with(objects::pod(name, &volumes), &json!({ "spec": { "nodeName": node }, "metadata": metadata }));
    Ok(serde_json::from_value(pod)?)
}

/// What the API server says when the Pod is tried: the Pod, or why not.
async fn tried(pods: &Api<Pod>, pod: &Pod) -> Result<Result<Pod, String>> {
    match pods.create(&PostParams { dry_run: true, ..PostParams::default() }, pod).await {
        Ok(created) => Ok(Ok(created)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Err(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

async fn refused(pods: &Api<Pod>, pod: &Pod, what: &str) -> Result<String> {
    match tried(pods, pod).await? {
        Err(message) => Ok(message),
        Ok(_) => anyhow::bail!("{what} was admitted"),
    }
}

/// A policy, once the webhook knows it: `seen` says so of a Pod that is tried.
async fn policy(ground: &Ground, scope: &Scope, stem: &str, spec: Value, pod: &Pod, seen: bool) -> Result<String> {
    let name = scope.unique(stem);
    scope.create::<PinPolicy>(json!({ "metadata": { "name": name }, "spec": spec })).await?;
    known(ground, pod, seen).await?;
    Ok(name)
}

/// Waits until the webhook refuses the Pod, or does not any more.
async fn known(ground: &Ground, pod: &Pod, refused: bool) -> Result<()> {
    eventually("the webhook to know the policy", PATIENCE, async || {
        Ok((tried(&ground.pods, pod).await?.is_err() == refused).then_some(()))
    })
    .await
}

async fn forget(ground: &Ground, name: &str, pod: &Pod) -> Result<()> {
    ground.policies.delete(name, &DeleteParams::default()).await?;
    known(ground, pod, false).await
}

/// The schema and its rules, by the file that the offline check is held against too.
pub async fn the_api_server_refuses_what_no_policy_can_mean(scope: &Scope) -> Result<()> {
    #[derive(Deserialize)]
    struct Refused {
        why: String,
        spec: Value,
    }
    latebind_test_support::local::install(&scope.client(), [PinPolicy::crd()]).await?;
    let text = std::fs::read_to_string(project_root().join("tests/data/policies/refused.json"))?;
    let name = scope.unique("policy");
    for Refused { why, spec } in serde_json::from_str::<Vec<Refused>>(&text)? {
        let object = json!({ "metadata": { "name": name }, "spec": spec });
        let answer = scope.attempt::<PinPolicy>(object).await?;
        ensure!(answer.is_err_and(|status| status.code == 422), "{why}: a policy was taken");
    }
    // Nothing but the point of each keeps it from being taken.
    let fine = json!({ "mode": "Rewrite", "pin": "Name", "allowedNodes": { "names": [] }, "exceptions": [
        { "reason": "r", "expiresAt": "2030-01-01T00:00:00Z", "namespaces": ["a"] }] });
    let object = json!({ "metadata": { "name": name }, "spec": fine });
    scope.create::<PinPolicy>(object).await.map(drop)
}

pub async fn follow_an_administrator_and_bind_a_tenant(scope: &Scope) -> Result<()> {
    let ground = ground(scope).await?;
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    let (allowed, other) = (ground.allowed.name().to_owned(), ground.other.name().to_owned());
    let stuck = pod("stuck", &allowed, true, &json!({}))?;
    is_called(&ground.pods, &stuck).await?;

    only_allowed_nodes(scope, &ground, &allowed, &other).await?;
    modes(scope, &ground, &stuck).await?;
    exceptions(scope, &ground, &other).await?;
    attacks(scope, &ground, &other).await?;
    installed.remove().await
}

/// A Pod that names another node is refused, whatever its claims are, and told by which policy.
async fn only_allowed_nodes(scope: &Scope, ground: &Ground, allowed: &str, other: &str) -> Result<()> {
    let without_claims = pod("plain", other, false, &json!({}))?;
    let spec = json!({ "mode": "Deny", "namespaces": { "names": [scope.namespace()] },
        "allowedNodes": { "selector": { "matchLabels": { "rack": "1" } } } });
    let name = policy(ground, scope, "racks", spec, &without_claims, true).await?;
    let message = refused(&ground.pods, &without_claims, "a Pod on a node that is not allowed").await?;
    ensure!(message.contains("LB302") && message.contains(&name), "{message}");
    let message = refused(&ground.pods, &pod("stuck", other, true, &json!({}))?, "the same with a claim").await?;
    ensure!(message.contains(&name), "{message}");
    ensure!(
        tried(&ground.pods, &pod("plain", allowed, false, &json!({}))?).await?.is_ok(),
        "an allowed node was refused"
    );
    let message = refused(&ground.pods, &pod("stuck", allowed, true, &json!({}))?, "what would wait forever").await?;
    ensure!(message.contains("LB001") && message.contains(&name), "{message}");
    forget(ground, &name, &without_claims).await
}

/// Off leaves a Pod alone that the flag would have rewritten; the strictest wins; a pin is followed.
async fn modes(scope: &Scope, ground: &Ground, stuck: &Pod) -> Result<()> {
    let of_namespace = json!({ "names": [scope.namespace()] });
    let off = json!({ "mode": "Off", "namespaces": of_namespace });
    let off = scope.create::<PinPolicy>(json!({ "metadata": { "name": scope.unique("off") }, "spec": off })).await?;
    let named = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    eventually("the Pod to be left alone", PATIENCE, async || {
        let admitted = tried(&ground.pods, stuck).await?.map_err(anyhow::Error::msg)?;
        Ok(named(&admitted).then_some(()))
    })
    .await?;
    let by_name = json!({ "mode": "Rewrite", "pin": "Name", "namespaces": of_namespace });
    scope.create::<PinPolicy>(json!({ "metadata": { "name": scope.unique("pin") }, "spec": by_name })).await?;
    eventually("the Pod to be pinned by name", PATIENCE, async || {
        let admitted = tried(&ground.pods, stuck).await?.map_err(anyhow::Error::msg)?;
        Ok((!named(&admitted) && by_name_alone(&admitted)).then_some(()))
    })
    .await?;
    ground.policies.delete(&off.name_any(), &DeleteParams::default()).await?;
    for policy in ground.policies.list(&kube::api::ListParams::default()).await?.items {
        ground.policies.delete(&policy.name_any(), &DeleteParams::default()).await?;
    }
    eventually("the policies to be forgotten", PATIENCE, async || {
        let admitted = tried(&ground.pods, stuck).await?.map_err(anyhow::Error::msg)?;
        Ok((!by_name_alone(&admitted)).then_some(()))
    })
    .await
}

/// Tied to its node by the node's name, in its affinity.
fn by_name_alone(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    json!(affinity).to_string().contains("metadata.name")
}

/// An exception lets the Pod in until the second that it names, without anybody writing anything.
async fn exceptions(scope: &Scope, ground: &Ground, other: &str) -> Result<()> {
    let plain = pod("plain", other, false, &json!({}))?;
    let of_namespace = json!({ "names": [scope.namespace()] });
    let spec = json!({ "mode": "Deny", "namespaces": of_namespace, "allowedNodes": { "names": [] } });
    let name = policy(ground, scope, "excepting", spec, &plain, true).await?;
    let ends = Timestamp::now().as_second() + 8;
    let ends = Timestamp::from_second(ends)?;
    let exception = json!({ "reason": "moving out", "expiresAt": ends.to_string(), "namespaces": [scope.namespace()] });
    let patch = json!({ "spec": { "exceptions": [exception] } });
    ground.policies.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    known(ground, &plain, false).await?;
    let (before, refused_at) = eventually("the exception to end", PATIENCE, async || {
        let before = Timestamp::now();
        Ok(tried(&ground.pods, &plain).await?.is_err().then(|| (before, Timestamp::now())))
    })
    .await?;
    ensure!(refused_at >= ends, "it ended early, at {refused_at} and not {ends}");
    // Asked again at once: the first answer after that second is the refusal.
    ensure!(before.as_second() <= ends.as_second() + 1, "it ended late: {before}, not {ends}");
    forget(ground, &name, &plain).await
}

/// What somebody tries who may do all in one namespace.
async fn attacks(scope: &Scope, ground: &Ground, other: &str) -> Result<()> {
    let plain = pod("plain", other, false, &json!({}))?;
    let spec =
        json!({ "mode": "Deny", "namespaces": { "names": [scope.namespace()] }, "allowedNodes": { "names": [] } });
    let name = policy(ground, scope, "binding", spec, &plain, true).await?;
    let forged = json!({ "annotations": {
        "latebind.dev/ignore": "LB302: mine; LB001: mine; LB304: mine", "latebind.dev/mode": "off",
        "latebind.dev/original-node-name": other, "latebind.dev/policy": "none",
    } });
    refused(&ground.pods, &pod("forged", other, false, &forged)?, "a Pod with forged annotations").await?;
    let labels = json!({ "labels": {
        "latebind.dev/webhook": "disabled", "latebind.dev/mode": "off", "kubernetes.io/metadata.name": "kube-system",
        "app.kubernetes.io/name": "latebind",
    } });
    refused(&ground.pods, &pod("labelled", other, false, &labels)?, "a Pod with labels to opt out").await?;
    let odd = json!({ "annotations": { "latebind.dev/ignore": "LB302: \u{1b}[2J\r\nLB001: \u{7} x\n\u{202e}" } });
    let message = refused(&ground.pods, &pod("odd", other, true, &odd)?, "control characters").await?;
    ensure!(!message.chars().any(char::is_control), "{message:?}");

    // A policy of one's own, for one's own namespace: it is the cluster's, and the tenant may not write it.
    let tenant = scope.cluster()?.client_as("mallory", &[TENANTS, "system:authenticated"]).await?;
    let own: PinPolicy = serde_json::from_value(json!({ "apiVersion": "latebind.dev/v1alpha1", "kind": "PinPolicy",
        "metadata": { "name": scope.unique("mine") }, "spec": { "mode": "Off" } }))?;
    let error = Api::<PinPolicy>::all(tenant.clone()).create(&PostParams::default(), &own).await.err();
    ensure!(matches!(&error, Some(kube::Error::Api(status)) if status.code == 403), "{error:?}");
    let patch = json!({ "spec": { "mode": "Off" } });
    let patched =
        Api::<PinPolicy>::all(tenant.clone()).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    ensure!(patched.is_err(), "a tenant changed a policy");
    // The labels of the namespace are not the tenant's either, so that no selector is evaded by them.
    let patch = json!({ "metadata": { "labels": { "team": "other" } } });
    let labelled =
        Api::<Namespace>::all(tenant).patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    ensure!(labelled.is_err(), "a tenant labelled a namespace");

    // A mode that the namespace's label asks for is never laxer.
    let patch = json!({ "metadata": { "labels": { "latebind.dev/mode": "audit" } } });
    scope.all::<Namespace>().patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    refused(&ground.pods, &plain, "a Pod of a namespace that asks for less").await?;

    // A policy for another namespace covers nobody here, and lends nobody its exceptions.
    let far = Timestamp::from_second(Timestamp::now().as_second() + 3600)?.to_string();
    let exception = json!({ "reason": "theirs", "expiresAt": far, "namespaces": [scope.namespace()] });
    let elsewhere = json!({ "mode": "Off", "namespaces": { "names": ["somewhere-else"] }, "exceptions": [exception] });
    scope.create::<PinPolicy>(json!({ "metadata": { "name": scope.unique("elsewhere") }, "spec": elsewhere })).await?;
    refused(&ground.pods, &plain, "a Pod beside another namespace's policy").await?;

    // More exceptions than anybody may write.
    let exception = json!({ "reason": "r", "expiresAt": far, "namespaces": ["a"] });
    let many = json!({ "spec": { "exceptions": vec![exception; 33] } });
    let answer = ground.policies.patch(&name, &PatchParams::default(), &Patch::Merge(&many)).await;
    ensure!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422), "{answer:?}");

    // A claim that comes after its Pod, to slip by a policy of its class: neither refused nor rewritten, and told.
    let of_class = json!({ "mode": "Deny", "storageClasses": [ground.class], "allowedNodes": { "names": [] } });
    forget(ground, &name, &plain).await?;
    let with_claim = pod("stuck", other, true, &json!({}))?;
    policy(ground, scope, "class", of_class, &with_claim, true).await?;
    let mut early = pod("early", other, true, &json!({}))?;
    let volumes = early.spec.as_mut().and_then(|spec| spec.volumes.as_mut()).context("volumes")?;
    "later".clone_into(&mut volumes[0].persistent_volume_claim.as_mut().context("a claim")?.claim_name);
    let admitted = tried(&ground.pods, &early).await?.map_err(anyhow::Error::msg)?;
    ensure!(admitted.spec.is_some_and(|spec| spec.node_name.is_some()), "it was rewritten on a guess");
    Ok(())
}
