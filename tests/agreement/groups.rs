//! A Pod of a scheduling group (a gang): rewritten, it would not run on its node but wait for its group.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Resource as _};
use latebind::binding::{Code, PodVerdict, Remedy, Rules, decide_pod};
use latebind::facts::{Fact, Facts, Unlisted};
use latebind_cluster::{Options, Scope, Version, eventually, holds_for};
use latebind_test_support::diagnosed::diagnosed;
use latebind_test_support::objects;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
/// The scheduler has placed a Pod that came later long before.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// Groups are behind a gate, which 1.37 has with an API in beta.
pub fn gate(options: Options) -> Options {
    if !has_groups() {
        return options;
    }
    let gate = "--feature-gates=GenericWorkload=true";
    let options = options.api_server_flag(gate).api_server_flag("--runtime-config=scheduling.k8s.io/v1beta1=true");
    options.controller_manager_flag(gate).scheduler_flag(gate)
}

fn has_groups() -> bool {
    Version::from_env().is_ok_and(|version| version >= Version::V1_37)
}

pub async fn a_pod_of_a_group_is_held_for_it_where_a_rewrite_would_have_it_placed(scope: &Scope) -> Result<()> {
    if !has_groups() {
        // `platform` shows that these versions drop the field.
        return Ok(());
    }
    let node = scope.simulated_node("node", &[]).await?;
    let class = scope.unique("delayed");
    let delayed = json!({ "volumeBindingMode": "WaitForFirstConsumer" });
    let class_object = objects::with(objects::class(&class, objects::NO_PROVISIONER), &delayed);
    scope.create::<StorageClass>(class_object).await?;
    for name in ["pinned", "rewritten", "alone"] {
        let volume = objects::volume(&scope.unique(name), &class, node.name(), "1Gi");
        scope.create::<PersistentVolume>(volume).await?;
        scope.create::<PersistentVolumeClaim>(objects::claim(name, &class, "1Gi")).await?;
    }
    let group = json!({ "spec": { "schedulingGroup": { "podGroupName": "workers" } } });
    let pod = |name: &str| objects::pod(name, &[objects::named("data", name)]);
    let pinned = objects::with(objects::on_node(pod("pinned"), node.name()), &group);
    let verdict = verdict(scope, &pinned, node.name(), &class).await?;
    ensure!(verdict.is_stuck() && !matches!(verdict.remedy, Remedy::Rewrite { .. }), "{:?}", verdict.remedy);
    ensure!(verdict.findings.iter().any(|it| it.code == Code::InGroup), "{:?}", verdict.findings);

    // It is as stuck as any other.
    create(scope, &pinned).await?;
    scope.event("pinned", "WaitForFirstConsumer", "waiting for first consumer", PATIENCE).await?;
    // Rewritten, it would wait for its group, and its claim with it.
    let select = json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": node.name() } } });
    create(scope, &objects::with(objects::with(pod("rewritten"), &group), &select)).await?;
    create(scope, &objects::with(pod("alone"), &select)).await?;
    placed(scope, "alone").await?;
    let node_of_rewritten = holds_for("where a Pod without its group is", LEFT_ALONE, async || {
        Ok(scope.pod("rewritten").await?.spec.and_then(|spec| spec.node_name))
    })
    .await?;
    ensure!(node_of_rewritten.is_none(), "it was placed on {node_of_rewritten:?}");
    // Of a Pod whose group does not exist the scheduler says nothing.
    let said = scope.pod("rewritten").await?.status.and_then(|status| status.conditions).unwrap_or_default();
    ensure!(said.iter().all(|condition| condition.type_ != "PodScheduled"), "{said:?}");
    // The group comes, and the Pod goes where it was to go: nothing else was in its way.
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("scheduling.k8s.io", "v1beta1", "PodGroup"));
    let groups: Api<DynamicObject> = Api::namespaced_with(scope.client(), scope.namespace(), &kind);
    let group = |name: &str, pods: u32| {
        json!({ "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
            "metadata": { "name": name }, "spec": { "schedulingPolicy": { "gang": { "minCount": pods } } } })
    };
    for (name, pods) in [("workers", 1), ("pair", 2)] {
        groups.create(&PostParams::default(), &serde_json::from_value(group(name, pods))?).await?;
    }
    placed(scope, "rewritten").await?;
    // One of two is held back, and here too the scheduler says nothing: it takes a minute until that is a sign.
    let half = json!({ "spec": { "schedulingGroup": { "podGroupName": "pair" } } });
    create(scope, &objects::with(objects::with(objects::pod("half", &[]), &half), &select)).await?;
    let mut last = Value::Null;
    eventually("the Pod to be said to wait for its group", PATIENCE, async || {
        last = diagnosed(scope, env!("CARGO_BIN_EXE_latebind"), "pod/half")?;
        Ok((last["cause"] == "GroupIncomplete").then_some(()))
    })
    .await
    .with_context(|| format!("{last:#}"))?;
    let told: Vec<Event> = scope.events("pinned").await?;
    ensure!(scope.claim("pinned").await?.spec.and_then(|spec| spec.volume_name).is_none(), "it got a volume: {told:?}");
    Ok(())
}

/// What the engine says of the Pod named `pinned`, with what the API server has.
async fn verdict(scope: &Scope, pod: &Value, node: &str, class: &str) -> Result<PodVerdict> {
    let mut facts = Facts::new(Unlisted::Absent);
    let known = [
        ("", "Node", serde_json::to_value(scope.all::<Node>().get(node).await?)?),
        ("storage.k8s.io", "StorageClass", serde_json::to_value(scope.all::<StorageClass>().get(class).await?)?),
        ("", "PersistentVolumeClaim", serde_json::to_value(scope.claim("pinned").await?)?),
        (
            "",
            "PersistentVolume",
            serde_json::to_value(scope.all::<PersistentVolume>().get(&scope.unique("pinned")).await?)?,
        ),
    ];
    for (group, kind, object) in &known {
        facts.add(Fact::read(group, kind, object).context("a kind of facts")??);
    }
    let here = json!({ "metadata": { "namespace": scope.namespace() } });
    let pod = serde_json::from_value(objects::with(pod.clone(), &here))?;
    Ok(decide_pod(&pod, &facts, &Rules::default()))
}

/// With fields that the client's types do not have yet.
async fn create(scope: &Scope, pod: &Value) -> Result<()> {
    let kind = ApiResource::erase::<Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(scope.client(), scope.namespace(), &kind);
    let created = pods.create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?;
    let kept = &created.data["spec"]["schedulingGroup"];
    ensure!(*kept == pod["spec"]["schedulingGroup"], "{} was created without its group", Pod::kind(&()));
    Ok(())
}

async fn placed(scope: &Scope, name: &str) -> Result<()> {
    eventually(&format!("Pod {name} to be placed"), PATIENCE, async || {
        let pod = scope.pod(name).await?;
        ensure!(pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()), "{:?}", pod.status);
        Ok(Some(()))
    })
    .await
}
