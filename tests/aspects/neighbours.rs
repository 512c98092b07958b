//! Other things that decide about Pods at admission, beside latebind.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use latebind::binding::PinStyle;
use latebind_cluster::webhook::{Webhook, patched};
use latebind_cluster::{Cluster, Options, Scope, SimulatedNode, eventually};
use latebind_test_support::objects;
use serde_json::{Value, json};

use crate::installed::{Installed, is_called};
use latebind_test_support::provisioner::PROVISIONER;

const PATIENCE: Duration = Duration::from_secs(30);

struct Ground {
    node: SimulatedNode,
    pods: Api<Pod>,
}

/// A node, a class and a claim that waits.
async fn ground(scope: &Scope) -> Result<Ground> {
    let node = scope.simulated_node("neighbour", &[]).await?;
    let class = scope.unique("neighbour");
    scope.create::<StorageClass>(objects::class(&class, PROVISIONER)).await?;
    scope.create::<PersistentVolumeClaim>(objects::claim("data", &class, "1Gi")).await?;
    Ok(Ground { node, pods: scope.api() })
}

fn pod(node: Option<&str>, claim: bool, name: &str) -> Result<Pod> {
    let volumes = if claim { vec![objects::of_claim("data")] } else { vec![] };
    let pod = objects::with(objects::pod(name, &volumes), &json!({"spec": {"nodeName": node}}));
    Ok(serde_json::from_value(pod)?)
}

async fn tried(pods: &Api<Pod>, pod: &Pod) -> kube::Result<Pod> {
    pods.create(&PostParams { dry_run: true, ..PostParams::default() }, pod).await
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

fn is_pinned(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let selected = spec.node_selector.as_ref().is_some_and(|it| it.contains_key("kubernetes.io/hostname"));
    selected || json!(spec.affinity).to_string().contains("metadata.name")
}

/// Another mutating webhook, for Pods of this namespace, called in the order of its name.
async fn neighbour(scope: &Scope, name: &str, hook: &Webhook) -> Result<String> {
    let name = scope.unique(name);
    scope
        .create::<MutatingWebhookConfiguration>(json!({"metadata": {"name": name}, "webhooks": [{
            "name": "pods.neighbour.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": "IfNeeded",
            "clientConfig": hook.client_config("/"),
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scope.namespace()}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]}))
        .await?;
    Ok(name)
}

/// Has one webhook beside latebind's and tries a Pod until the webhook was called.
async fn beside(
    scope: &Scope,
    ground: &Ground,
    name: &str,
    sent: &Pod,
    answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
) -> Result<Pod> {
    let hook = Webhook::serve(scope.cluster()?, move |_, request| answer(&request["object"])).await?;
    let configuration = neighbour(scope, name, &hook).await?;
    let seen = eventually("the neighbour to be called", PATIENCE, async || {
        let created = tried(&ground.pods, sent).await?;
        Ok((!hook.seen().is_empty()).then_some(created))
    })
    .await?;
    scope.all::<MutatingWebhookConfiguration>().delete(&configuration, &kube::api::DeleteParams::default()).await?;
    // The API server forgets it by a watch; what is not there any more must not be called in the next part.
    let before = std::cell::Cell::new(hook.seen().len());
    eventually("the neighbour to be forgotten", PATIENCE, async || {
        tried(&ground.pods, sent).await?;
        let (seen, last) = (hook.seen().len(), before.get());
        before.set(seen);
        Ok((seen == last).then_some(()))
    })
    .await?;
    Ok(seen)
}

pub async fn other_webhooks(scope: &Scope) -> Result<()> {
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    let ground = ground(scope).await?;
    let node = ground.node.name().to_owned();
    is_called(&ground.pods, &pod(Some(&node), true, "probe")?).await?;

    // One that gives the Pod its claim: latebind comes after it and sees it.
    let adds_claim = |object: &Value| {
        if object["spec"]["volumes"].as_array().into_iter().flatten().any(|it| it["name"] == "data") {
            return json!({"allowed": true});
        }
        patched(&json!([
            {"op": "add", "path": "/spec/volumes/-", "value": {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}},
            {"op": "add", "path": "/spec/containers/0/volumeMounts/-", "value": {"name": "data", "mountPath": "/data"}},
        ]))
    };
    let seen = beside(scope, &ground, "a-adds-claim", &pod(Some(&node), false, "first")?, adds_claim).await?;
    ensure!(node_of(&seen).is_none() && is_pinned(&seen), "a claim that another webhook added was not seen");

    // One that names the node, before latebind: seen. After it: not, since a webhook that was skipped in the first round is
    // not called in the second; the Pod is no worse off than without latebind.
    let sets_node = |node: String| {
        move |object: &Value| {
            if object["spec"]["nodeName"].is_string() || object["metadata"]["annotations"]["set"].is_string() {
                return json!({"allowed": true});
            }
            patched(&json!([
                {"op": "add", "path": "/metadata/annotations", "value": {"set": "yes"}},
                {"op": "add", "path": "/spec/nodeName", "value": node},
            ]))
        }
    };
    let seen = beside(scope, &ground, "a-sets-node", &pod(None, true, "second")?, sets_node(node.clone())).await?;
    ensure!(node_of(&seen).is_none() && is_pinned(&seen), "a node that an earlier webhook named was not seen");
    let seen = beside(scope, &ground, "zzz-sets-node", &pod(None, true, "third")?, sets_node(node.clone())).await?;
    ensure!(node_of(&seen) == Some(&node), "a node that a later webhook names stays");

    // One that takes node selectors and affinity out again, after latebind: the annotation still says what was asked for.
    let strips = |object: &Value| {
        let present = ["nodeSelector", "affinity"].into_iter().filter(|key| !object["spec"][*key].is_null());
        let removals: Vec<Value> = present.map(|key| json!({"op": "remove", "path": format!("/spec/{key}")})).collect();
        if removals.is_empty() { json!({"allowed": true}) } else { patched(&json!(removals)) }
    };
    let seen = beside(scope, &ground, "zzz-strips", &pod(Some(&node), true, "fourth")?, strips).await?;
    ensure!(node_of(&seen).is_none() && !is_pinned(&seen));
    ensure!(seen.annotations().get("latebind.dev/original-node-name") == Some(&node));
    installed.remove().await
}

/// A policy sees what is left after every webhook: with latebind's rewrite it has nothing to forbid any more.
pub async fn a_policy_that_forbids_node_names(scope: &Scope) -> Result<()> {
    let ground = ground(scope).await?;
    let node = ground.node.name().to_owned();
    let policy = scope.unique("no-node-names");
    scope
        .create::<ValidatingAdmissionPolicy>(json!({"metadata": {"name": policy}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scope.namespace()}}},
            "validations": [{"expression": "!has(object.spec.nodeName)", "message": "nodeName is forbidden here"}]}}))
        .await?;
    scope
        .create::<ValidatingAdmissionPolicyBinding>(json!({"metadata": {"name": policy},
            "spec": {"policyName": policy, "validationActions": ["Deny"]}}))
        .await?;
    let (with_claim, plain) = (pod(Some(&node), true, "with-claim")?, pod(Some(&node), false, "plain")?);
    let refused =
        |answer: kube::Result<Pod>| answer.is_err_and(|error| error.to_string().contains("nodeName is forbidden here"));
    eventually("the policy to be in force", PATIENCE, async || {
        Ok(refused(tried(&ground.pods, &with_claim).await).then_some(()))
    })
    .await?;
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    is_called(&ground.pods, &with_claim).await?;
    ensure!(refused(tried(&ground.pods, &plain).await), "a Pod that latebind leaves alone is still forbidden");
    // In a namespace whose label asks for `deny`, latebind rewrites nothing and the policy has the last word again.
    let label = json!({"metadata": {"labels": {"latebind.dev/mode": "deny"}}});
    scope.all::<Namespace>().patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(label)).await?;
    eventually("the label to be seen", PATIENCE, async || {
        Ok(tried(&ground.pods, &with_claim).await.is_err().then_some(()))
    })
    .await?;
    installed.remove().await
}

/// The plugin PodNodeSelector, with a namespace's annotation and with a whitelist that stands in a file.
pub async fn pod_node_selector(_: &Scope) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("admission.yaml");
    std::fs::write(
        &file,
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
            {"name": "PodNodeSelector", "configuration": {"podNodeSelectorPluginConfig": {
                "clusterDefaultNodeSelector": "", "listed": "example.com/team=a"}}}]})
        .to_string(),
    )?;
    let options = Options::new("pod-node-selector")
        .api_server_flag("--enable-admission-plugins=NodeRestriction,PodNodeSelector")
        .api_server_flag(format!("--admission-control-config-file={}", file.display()));
    let cluster = std::sync::Arc::new(Cluster::start(options).await?);
    let scope = Scope::open(cluster.client(), Some(std::sync::Arc::clone(&cluster))).await?;
    let outcome = with_pod_node_selector(&scope).await;
    drop(scope);
    outcome
}

async fn with_pod_node_selector(scope: &Scope) -> Result<()> {
    let ground = ground(scope).await?;
    let node = ground.node.name().to_owned();
    let plain = pod(Some(&node), true, "a")?;
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    is_called(&ground.pods, &plain).await?;
    let by_name = |pod: &Pod| json!(pod.spec.as_ref().map(|spec| &spec.affinity)).to_string().contains("metadata.name");
    ensure!(!by_name(&tried(&ground.pods, &plain).await?), "auto prefers the hostname label");

    // A namespace that selects its nodes: the plugin would refuse a selector that is not its own.
    let annotation =
        json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/node-selector": "kubernetes.io/os=linux"}}});
    scope.all::<Namespace>().patch(scope.namespace(), &PatchParams::default(), &Patch::Merge(annotation)).await?;
    eventually("the pin by name", PATIENCE, async || Ok(by_name(&tried(&ground.pods, &plain).await?).then_some(())))
        .await?;
    installed.remove().await?;

    // A whitelist in the file: nothing in the API shows it, so `auto` is refused, whatever failurePolicy says ...
    let listed = listed(&scope.client(), scope).await?;
    let installed = Installed::start(scope.cluster()?, PinStyle::Auto).await?;
    let status = eventually("the whitelist to refuse", PATIENCE, async || match tried(&listed, &plain).await {
        Err(kube::Error::Api(status)) => Ok(Some(status)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(None),
    })
    .await?;
    ensure!(status.code == 403 && status.message.contains("whitelist"), "{status:?}");
    installed.remove().await?;
    // ... and the pin by name is what such a cluster needs.
    let installed = Installed::start(scope.cluster()?, PinStyle::Name).await?;
    is_called(&listed, &plain).await?;
    ensure!(by_name(&tried(&listed, &plain).await?));
    installed.remove().await
}

/// The namespace that the file lists, with the claim of the Pod in it.
async fn listed(client: &Client, scope: &Scope) -> Result<Api<Pod>> {
    scope.create::<Namespace>(json!({"metadata": {"name": "listed"}})).await?;
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "listed");
    eventually("the account", PATIENCE, async || Ok(accounts.get_opt("default").await?.map(drop))).await?;
    let claim = scope.claim("data").await?;
    let mut copy = PersistentVolumeClaim { spec: claim.spec, ..PersistentVolumeClaim::default() };
    copy.metadata.name = Some("data".to_owned());
    Api::namespaced(client.clone(), "listed").create(&PostParams::default(), &copy).await?;
    Ok(Api::namespaced(client.clone(), "listed"))
}
