//! The install manifest on real nodes, with latebind as real Pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod};
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::ResourceExt;
use latebind_cluster::{Scope, eventually, holds_for};
use latebind_test_support::devices::{self, Driver};
use latebind_test_support::objects::{self, claim_spec};
use serde_json::{Value, json};

use latebind_test_support::chart::{NAMESPACE, install, render};
use latebind_test_support::installed::{PATIENCE, claim, class, install_from, pinned, rolled_out, runs_on, uninstall};
use latebind_test_support::provisioner::{PROVISIONER, Provisioner};

/// Nothing that carries latebind's label is left anywhere.
pub async fn nothing_is_left(scope: &Scope) -> Result<()> {
    let kinds = "namespaces,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,\
                 validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,\
                 serviceaccounts,roles,rolebindings,secrets,leases,services,deployments,pods,poddisruptionbudgets";
    let selector = "--selector=app.kubernetes.io/name=latebind";
    eventually("nothing to be left of latebind", PATIENCE, async || {
        let arguments = ["get", "--all-namespaces", "--output=name", selector, kinds];
        let left = scope.cluster()?.kubectl(&arguments).await?.success()?;
        ensure!(left.trim().is_empty(), "left: {left}");
        Ok(Some(()))
    })
    .await?;
    ensure!(scope.all::<Namespace>().get_opt(NAMESPACE).await?.is_none());
    Ok(())
}

async fn disk(scope: &Scope, stem: &str, class: &str, node: &str) -> Result<String> {
    let name = scope.unique(stem);
    let mut volume = objects::volume(&name, class, node, "1Mi");
    if let Some(spec) = volume["spec"].as_object_mut() {
        spec.remove("local");
        spec.insert("hostPath".to_owned(), json!({"path": format!("/tmp/{name}"), "type": "DirectoryOrCreate"}));
    }
    scope.create::<PersistentVolume>(volume).await?;
    Ok(name)
}

pub async fn pinned_pods_run_and_nothing_is_left_behind(scope: &Scope) -> Result<()> {
    let node = scope.cluster()?.nodes().last().context("two nodes")?.name().to_owned();
    let _provisioner = Provisioner::start(scope.client());
    let dynamic = class(scope, "dynamic", PROVISIONER).await?;
    let fixed = class(scope, "fixed", "kubernetes.io/no-provisioner").await?;
    uninstall(scope).await?;

    // Without latebind the Pod waits forever.
    claim(scope, "before", &dynamic).await?;
    let by_claim = |name: &str| [objects::named("data", name)];
    scope.create::<Pod>(pinned("before", &node, &by_claim("before"))).await?;
    holds_for("the deadlock", Duration::from_secs(5), async || {
        let phase = |status: Option<String>| status.unwrap_or_default();
        let (claim, pod) = (scope.claim("before").await?, scope.pod("before").await?);
        Ok((phase(claim.status.and_then(|it| it.phase)), phase(pod.status.and_then(|it| it.phase))))
    })
    .await?;

    install_from(scope, &install()?).await?;
    rows(scope, &node, &dynamic, &fixed).await?;
    dry_run_is_equal_to_create(scope, &node, &dynamic).await?;
    let driver = Driver::start(scope, &node).await?;
    let outcome = device(scope, &node, driver.class()).await;
    driver.stop().await.and(outcome)?;
    // What was stuck before is the controller's to fix.
    runs_on(scope, "before", &node).await.context("the Pod that was stuck before the installation")?;
    restricted(scope).await?;
    crate::drains::whoever_takes_a_node_away_is_told(scope).await.context("warnings of a drain")?;

    uninstall(scope).await?;
    nothing_is_left(scope).await
}

/// Rows 4, 5, 6, 23, 24 and 25 of the truth table end with the Pod running on the node that it names.
async fn rows(scope: &Scope, node: &str, dynamic: &str, fixed: &str) -> Result<()> {
    let by_claim = |name: &str| [objects::named("data", name)];
    let own = |class: &str| {
        [json!({"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(class, "1Mi")}}})]
    };
    let fitted = class(scope, "fitted", PROVISIONER).await?;
    let existing = disk(scope, "row-5", &fitted, node).await?;
    disk(scope, "row-6", fixed, node).await?;
    disk(scope, "row-24", fixed, node).await?;
    for (name, class) in [("row-4", dynamic), ("row-5", &fitted), ("row-6", fixed)] {
        claim(scope, name, class).await?;
        scope.create::<Pod>(pinned(name, node, &by_claim(name))).await?;
    }
    scope.create::<Pod>(pinned("row-23", node, &own(dynamic))).await?;
    scope.create::<Pod>(pinned("row-24", node, &own(fixed))).await?;
    let mut template = pinned("row-25", node, &[]);
    template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    scope
        .create::<StatefulSet>(json!({"metadata": {"name": "row-25"}, "spec": {
            "serviceName": "row-25", "selector": {"matchLabels": {"app": "row-25"}}, "template": template,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim_spec(dynamic, "1Mi")}]}}))
        .await?;
    for name in ["row-4", "row-5", "row-6", "row-23", "row-24", "row-25-0"] {
        let pod = runs_on(scope, name, node).await.with_context(|| name.to_owned())?;
        ensure!(
            pod.annotations().get("latebind.dev/original-node-name").map(String::as_str) == Some(node),
            "{name} was not rewritten"
        );
    }
    let bound = scope.claim("row-5").await?.spec.and_then(|spec| spec.volume_name);
    ensure!(bound.as_deref() == Some(&existing), "row 5 did not take the volume that was there: {bound:?}");
    Ok(())
}

/// Row 28: the Pod is rewritten, and given a device of a real driver.
async fn device(scope: &Scope, node: &str, class: &str) -> Result<()> {
    scope.create::<ResourceClaimTemplate>(devices::template("row-28", class)).await?;
    let source = json!({ "resourceClaimTemplateName": "row-28" });
    scope.create::<Pod>(devices::used_by(pinned("row-28", node, &[]), &source)).await?;
    let pod = runs_on(scope, "row-28", node).await.context("row-28")?;
    ensure!(pod.annotations().contains_key("latebind.dev/original-node-name"), "row-28 was not rewritten");
    Ok(())
}

/// `--dry-run=server` shows what a create does: the same warning, and the same Pod but for what each Pod has of its own.
async fn dry_run_is_equal_to_create(scope: &Scope, node: &str, class: &str) -> Result<()> {
    claim(scope, "dry", class).await?;
    let mut pod = pinned("dry", node, &[objects::named("data", "dry")]);
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    pod["metadata"]["namespace"] = json!(scope.namespace());
    let create = async |mode: &'static str| -> Result<(String, Value)> {
        let arguments = ["create", mode, "--output=json", "-f", "-"];
        let output = scope.cluster()?.kubectl_with_input(&arguments, &pod.to_string()).await?;
        let told = output.stderr.clone();
        Ok((told, comparable(serde_json::from_str(&output.success()?)?)))
    };
    let (shown, done) = (create("--dry-run=server").await?, create("--dry-run=none").await?);
    ensure!(shown.0.contains("Warning: LB001"), "no warning: {}", shown.0);
    ensure!(shown.1["spec"]["nodeName"].is_null() && !shown.1["spec"]["nodeSelector"].is_null(), "{}", shown.1);
    ensure!(shown == done, "the dry run showed {shown:#?}\nbut the create did {done:#?}");
    Ok(())
}

/// A created Pod without what the API server gives each Pod anew.
fn comparable(mut pod: Value) -> Value {
    for key in ["uid", "creationTimestamp", "resourceVersion", "managedFields"] {
        pod["metadata"][key].take();
    }
    // The volume of the account's token has a random name.
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let token = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with("kube-api-access-"));
    let text = pod.to_string();
    let text = token.map_or(text.clone(), |name| text.replace(name, "kube-api-access"));
    serde_json::from_str(&text).unwrap_or_default()
}

/// What runs satisfies the restricted Pod Security Standard, on different nodes.
async fn restricted(scope: &Scope) -> Result<()> {
    let pods: kube::Api<Pod> = kube::Api::namespaced(scope.client(), NAMESPACE);
    let pods = pods.list(&kube::api::ListParams::default().labels("app.kubernetes.io/component=webhook")).await?;
    let nodes: std::collections::BTreeSet<_> =
        pods.items.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    ensure!(pods.items.len() == 2 && nodes.len() == 2, "two replicas on two nodes, not {nodes:?}");
    Ok(())
}

/// Who deletes the namespace before the rest has not locked the cluster.
pub async fn deleting_the_namespace_first_locks_nothing(scope: &Scope) -> Result<()> {
    let node = scope.cluster()?.nodes().last().context("two nodes")?.name().to_owned();
    let (node, _provisioner) = (node.as_str(), Provisioner::start(scope.client()));
    let dynamic = &class(scope, "dynamic", PROVISIONER).await?;
    install_from(scope, &install()?).await?;
    scope.cluster()?.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=90s"]).await?.success()?;
    claim(scope, "orphan", dynamic).await?;
    let volumes = [objects::named("data", "orphan")];
    scope.create::<Pod>(pinned("orphan", node, &volumes)).await?;
    // What is left is in nobody's way, and applying the manifest again brings all of it back.
    install_from(scope, &install()?).await?;
    claim(scope, "again", dynamic).await?;
    let volumes = [objects::named("data", "again")];
    scope.create::<Pod>(pinned("again", node, &volumes)).await?;
    runs_on(scope, "again", node).await?;
    uninstall(scope).await?;
    nothing_is_left(scope).await
}

/// Even where the policy is Fail and no replica is left, latebind's own Pods come up.
pub async fn own_pods_are_never_blocked(scope: &Scope) -> Result<()> {
    let strict = render(&["--set=namespace.create=true", "--skip-tests", "--set=webhook.failurePolicy=Fail"])?;
    install_from(scope, &strict).await?;
    let scale = |replicas: &'static str| {
        ["--namespace", NAMESPACE, "scale", replicas, "deployment/latebind-webhook", "deployment/latebind-controller"]
    };
    scope.cluster()?.kubectl(&scale("--replicas=0")).await?.success()?;
    eventually("every Pod of latebind to be gone", PATIENCE, async || {
        let pods = scope.cluster()?.kubectl(&["--namespace", NAMESPACE, "get", "pods", "--output=name"]).await?;
        Ok(pods.success()?.trim().is_empty().then_some(()))
    })
    .await?;
    let node = scope.cluster()?.nodes()[0].name().to_owned();
    let volumes = [objects::named("data", "any")];
    let refused = scope.attempt::<Pod>(pinned("refused", &node, &volumes)).await?;
    let refused = refused.err().context("it was admitted")?;
    ensure!(refused.message.contains("pods.latebind.dev"), "{}", refused.message);
    scope.cluster()?.kubectl(&scale("--replicas=1")).await?.success()?;
    for deployment in ["deployment/latebind-controller", "deployment/latebind-webhook"] {
        rolled_out(scope, deployment).await?;
    }
    uninstall(scope).await?;
    nothing_is_left(scope).await
}
