//! A live look at a Pod that is to be evicted or waits, and at its StatefulSet with the other replicas.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::core::Selector;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::binding::Lookup;
use crate::kubernetes::api::before;
use crate::kubernetes::pods::is_ready;
use crate::model::{EvictedPod, OtherReplicas, ordinal};

/// Replicas of a StatefulSet that are looked at. Few have as many; of a larger one it is not known how many are ready.
const MOST_REPLICAS: u32 = 100;
/// Pods that are read at one time: a tenant makes each as large as the API server takes it, and little is kept of them.
const PAGE: u32 = 10;
/// Claim templates of a StatefulSet that are looked at: few have more than three.
const MOST_TEMPLATES: usize = 16;

/// Looks at the Pod. All requests together may take as long as given.
pub(super) async fn look(client: &Client, namespace: &str, name: &str, limit: Duration) -> Lookup<EvictedPod> {
    let deadline = Instant::now() + limit;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = match before(deadline, pods.get_opt(name)).await {
        Ok(Some(pod)) => pod,
        Ok(None) => return Lookup::Absent,
        Err(error) => {
            tracing::warn!(%error, "a Pod that is to be evicted could not be looked at");
            return Lookup::Unknown;
        }
    };
    if !serves(&pod) {
        return Lookup::Found(EvictedPod::Idle);
    }
    Lookup::Found(EvictedPod::Serves(replicas(client, &pod, &pods, deadline).await))
}

/// The other replicas of the StatefulSet of a Pod, whether that serves or not, before a moment.
pub(crate) async fn replicas_beside(client: &Client, namespace: &str, name: &str, deadline: Instant) -> OtherReplicas {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match before(deadline, pods.get_opt(name)).await {
        Ok(Some(pod)) => replicas(client, &pod, &pods, deadline).await,
        Ok(None) | Err(_) => OtherReplicas::NotKnown,
    }
}

async fn replicas(client: &Client, pod: &Pod, pods: &Api<Pod>, deadline: Instant) -> OtherReplicas {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner.filter(|owner| owner.kind == "StatefulSet") else { return OtherReplicas::NoSet };
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    match before(deadline, sets.get_opt(&owner.name)).await {
        Ok(Some(set)) if set.metadata.uid.as_deref() == Some(owner.uid.as_str()) => {
            others_of(&set, pod, pods, deadline).await
        }
        // Another of its name makes nothing in the Pod's place.
        Ok(_) => OtherReplicas::NoSet,
        Err(error) => {
            tracing::warn!(%error, "the StatefulSet of a Pod could not be looked at");
            OtherReplicas::NotKnown
        }
    }
}

async fn others_of(set: &StatefulSet, pod: &Pod, pods: &Api<Pod>, deadline: Instant) -> OtherReplicas {
    let wanted = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    let Some(selector) = selector(wanted) else { return OtherReplicas::NotKnown };
    let mut page = ListParams::default().labels_from(&selector).limit(PAGE);
    let mut serving: HashMap<String, Option<String>> = HashMap::new();
    let mut pages = 0;
    loop {
        let listed = match before(deadline, pods.list(&page)).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "the replicas of a StatefulSet could not be looked at");
                return OtherReplicas::NotKnown;
            }
        };
        serving.extend(serving_of(set, &listed.items));
        pages += 1;
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            // Pods of others may have its labels.
            Some(_) if pages * PAGE > 2 * MOST_REPLICAS => return OtherReplicas::NotKnown,
            Some(token) => page = page.continue_token(&token),
            None => return count(set, pod, &serving),
        }
    }
}

/// The Pods of the StatefulSet that serve, by name, each with its node.
fn serving_of(set: &StatefulSet, pods: &[Pod]) -> Vec<(String, Option<String>)> {
    let uid = set.metadata.uid.as_deref();
    let is_its = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid);
    let its = pods.iter().filter(is_its).filter(|pod| serves(pod));
    its.map(|pod| (pod.name_any(), node_of(pod).map(str::to_owned))).collect()
}

/// The selector as a list asks for it. Nothing for one that cannot be written so, or that selects everything, which no StatefulSet
/// has.
fn selector(wanted: LabelSelector) -> Option<Selector> {
    let selector = Selector::try_from(wanted).ok()?;
    (!selector.selects_all()).then_some(selector)
}

/// True for a Pod that is ready, and is not being deleted.
fn serves(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && is_ready(pod)
}

/// How many of the others that the StatefulSet asks for serve.
fn count(set: &StatefulSet, evicted: &Pod, serving: &HashMap<String, Option<String>>) -> OtherReplicas {
    let spec = set.spec.clone().unwrap_or_default();
    let name = set.name_any();
    // The API server's default is one.
    let replicas = spec.replicas.unwrap_or(1).max(0);
    // A tenant writes the number.
    if replicas.unsigned_abs() > MOST_REPLICAS {
        return OtherReplicas::NotKnown;
    }
    let start = spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or_default();
    let wanted = (0..replicas).map(|ordinal| format!("{name}-{}", i64::from(start) + i64::from(ordinal)));
    let wanted: Vec<String> = wanted.filter(|pod| *pod != evicted.name_any()).collect();
    let awaited: Vec<String> = wanted.iter().filter(|pod| !serving.contains_key(pod.as_str())).cloned().collect();
    if !awaited.is_empty() {
        let templates = spec.volume_claim_templates.iter().flatten().take(MOST_TEMPLATES);
        let templates = templates.filter_map(|template| template.metadata.name.clone()).collect();
        return OtherReplicas::Awaited { set: name, wanted: wanted.len(), awaited, templates };
    }
    let evicted_name = evicted.name_any();
    let beside = serving.iter().filter(|(_, node)| node.as_deref() == node_of(evicted)).map(|(name, _)| name);
    let highest = beside.max_by_key(|name| ordinal(name)).filter(|name| ordinal(name) > ordinal(&evicted_name));
    OtherReplicas::Ready { ahead: highest.cloned() }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(replicas: &Value, start: &Value) -> StatefulSet {
        serde_json::from_value(json!({ "metadata": { "name": "pg", "uid": "s" }, "spec": { "replicas": replicas,
            "ordinals": { "start": start }, "selector": {}, "serviceName": "pg", "template": {},
            "volumeClaimTemplates": [{ "metadata": { "name": "data" } }] } }))
        .unwrap()
    }

    fn pod(name: &str, more: &Value) -> Pod {
        let mut pod = json!({ "metadata": { "name": name, "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "s", "controller": true }] },
            "spec": { "nodeName": format!("node-of-{name}"), "containers": [] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        json_patch::merge(&mut pod, more);
        serde_json::from_value(pod).unwrap()
    }

    fn counted(set: &StatefulSet, evicted: &Pod, pods: &[Pod]) -> OtherReplicas {
        count(set, evicted, &serving_of(set, pods).into_iter().collect())
    }

    const READY: OtherReplicas = OtherReplicas::Ready { ahead: None };

    fn awaited(wanted: usize, pods: &[&str]) -> OtherReplicas {
        let awaited = pods.iter().map(ToString::to_string).collect();
        OtherReplicas::Awaited { set: "pg".to_owned(), wanted, awaited, templates: vec!["data".to_owned()] }
    }

    #[test]
    fn others_count_that_run_are_ready_and_stay() {
        let of_three = set(&json!(3), &Value::Null);
        let all = ["pg-0", "pg-1", "pg-2"].map(|name| pod(name, &json!({})));
        assert_eq!(counted(&of_three, &pod("pg-1", &json!({})), &all), READY);
        assert_eq!(
            counted(&of_three, &pod("pg-1", &json!({})), &all[..1]),
            awaited(2, &["pg-2"]),
            "one was not made yet"
        );
        for away in [
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
            json!({ "status": { "conditions": null } }),
            json!({ "metadata": { "ownerReferences": null } }),
        ] {
            let pods = [pod("pg-0", &away), pod("pg-1", &json!({})), pod("pg-2", &json!({}))];
            assert_eq!(counted(&of_three, &pod("pg-1", &json!({})), &pods), awaited(2, &["pg-0"]), "{away}");
            assert_eq!(counted(&of_three, &pod("pg-0", &json!({})), &pods), READY, "it is the one that goes");
        }
    }

    #[test]
    fn ordinals_and_defaults_are_those_of_the_api_server() {
        let pods = ["pg-5", "pg-6"].map(|name| pod(name, &json!({})));
        assert_eq!(counted(&set(&json!(2), &json!(5)), &pod("pg-5", &json!({})), &pods), READY);
        assert_eq!(counted(&set(&json!(2), &json!(0)), &pod("pg-5", &json!({})), &pods), awaited(2, &["pg-0", "pg-1"]));
        assert_eq!(counted(&set(&Value::Null, &Value::Null), &pod("pg-0", &json!({})), &[]), READY);
        // One that is scaled down waits for nobody above.
        assert_eq!(counted(&set(&json!(1), &Value::Null), &pod("pg-1", &json!({})), &[pod("pg-0", &json!({}))]), READY);
        assert_eq!(
            counted(&set(&json!(2_000_000_000), &Value::Null), &pod("pg-0", &json!({})), &[]),
            OtherReplicas::NotKnown
        );
        assert_eq!(counted(&set(&json!(-1), &Value::Null), &pod("pg-0", &json!({})), &[]), READY);
    }

    #[test]
    fn of_those_on_one_node_the_highest_ordinal_is_ahead() {
        let of_three = set(&json!(11), &Value::Null);
        let on = |node: &str, ordinal: usize| {
            pod(&format!("pg-{ordinal}"), &json!({ "spec": { "nodeName": node, "containers": [] } }))
        };
        let pods: Vec<Pod> = (0..11).map(|ordinal| on(if ordinal == 9 { "b" } else { "a" }, ordinal)).collect();
        for (ordinal, ahead) in [(0, Some("pg-10")), (8, Some("pg-10")), (10, None), (9, None)] {
            let expected = OtherReplicas::Ready { ahead: ahead.map(str::to_owned) };
            assert_eq!(counted(&of_three, &pods[ordinal], &pods), expected, "{ordinal}");
        }
    }

    #[test]
    fn a_selector_of_everything_is_not_asked_for() {
        assert!(selector(LabelSelector::default()).is_none());
        let one = json!({ "matchLabels": { "app": "pg" } });
        assert!(selector(serde_json::from_value(one).unwrap()).is_some());
    }
}
