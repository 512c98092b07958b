//! What the caches know of a cluster, and what is decided while they do not know it.

use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::store::{Cached, Outcome, Store};
use super::{LiveCluster, WatchedPods};
use crate::binding::{ClusterView, Code, Lookup, PodVerdict, Remedy, Rules, decide_pod};
use crate::model::{HOSTNAME_LABEL, OrMalformed, Pod, VOLUME_NODE};

fn apply<K: Cached>(store: &Store<K>, object: &Value) {
    let read: OrMalformed<K> = serde_json::from_str(&object.to_string()).unwrap();
    store.apply(Event::Apply(read));
}

fn synced<K: Cached>(store: &Store<K>, objects: &[Value]) {
    store.apply(Event::Init);
    for object in objects {
        apply(store, object);
    }
    store.apply(Event::InitDone);
}

fn node(name: &str, zone: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {HOSTNAME_LABEL: name, "zone": zone}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Caches in which everything but Pods and ResourceClaims is known: a Pod that waits for its claim on node `a`.
fn ground() -> LiveCluster {
    let live = LiveCluster::new(WatchedPods::OnNodes);
    let caches = &live.0;
    synced(&caches.nodes.store, &[node("a", "z1"), node("b", "z1"), node("c", "z2")]);
    let claim = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "1"}, "spec": {"storageClassName": "slow"},
        "status": {"phase": "Pending"}});
    synced(&caches.claims.store, &[claim]);
    let class = json!({"metadata": {"name": "slow"}, "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer"});
    synced(&caches.classes.store, &[class]);
    synced(&caches.volumes.store, &[]);
    synced(&caches.drivers.store, &[]);
    synced(&caches.driver_nodes.store, &[]);
    synced(&caches.capacities.store, &[]);
    synced(&caches.namespaces.store, &[json!({"metadata": {"name": "ns", "labels": {"team": "x"}}})]);
    synced(&caches.policies.store, &[]);
    live
}

fn decided(live: &LiveCluster) -> PodVerdict {
    let pod = json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"}}, "spec": {
        "nodeName": "a", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [{"volumeMounts": [{"name": "data"}]}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    decide_pod(&pod, live, &Rules::default())
}

fn is_rewritten(live: &LiveCluster) -> bool {
    matches!(decided(live).remedy, Remedy::Rewrite { .. })
}

fn codes(live: &LiveCluster) -> Vec<Code> {
    decided(live).findings.iter().map(|finding| finding.code).collect()
}

/// A Pod of another namespace on a node, that requires to be away from whoever is called `web`.
fn repelling(node: &str, term: &Value) -> Value {
    let term = term.as_object().unwrap().iter().fold(
        json!({"topologyKey": HOSTNAME_LABEL, "namespaces": ["ns"], "labelSelector": {"matchLabels": {"app": "web"}}}),
        |mut term, (key, value)| {
            term[key] = value.clone();
            term
        },
    );
    json!({"metadata": {"name": "other", "namespace": "elsewhere", "uid": "other"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "affinity": {
            "nodeAffinity": {}, "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}},
        "status": {"phase": "Running"}})
}

#[test]
fn every_kind_is_counted_under_its_own_name() {
    let (live, mut registry) = (LiveCluster::new(WatchedPods::Pending), Registry::default());
    live.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let mut series: Vec<&str> = text.lines().filter(|line| line.starts_with("watch_synced{")).collect();
    assert!(series.contains(&"watch_synced{kind=\"persistentvolumeclaims\"} 0.0"), "{text}");
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), 12, "{series:?}");
    assert_eq!(live.not_synced().len(), 12);
}

#[test]
fn nothing_is_rewritten_before_it_is_known_which_pods_keep_others_away() {
    let live = ground();
    assert_eq!(codes(&live), [Code::PinnedToDelayedClaim, Code::FactsNotKnown]);
    assert!(!is_rewritten(&live));
    synced(&live.0.pods_on_nodes.store, &[]);
    assert!(is_rewritten(&live));
}

#[test]
fn a_running_pod_keeps_others_away_for_as_long_as_it_runs() {
    let live = ground();
    let store = &live.0.pods_on_nodes.store;
    let other = repelling("a", &json!({}));
    synced(store, std::slice::from_ref(&other));
    assert_eq!(codes(&live), [Code::PinnedToDelayedClaim, Code::RepelledByPod]);
    for (pointer, value) in [
        ("/status/phase", json!("Succeeded")),
        ("/spec/affinity", Value::Null),
        ("/spec/nodeName", json!("")),
        ("/spec/nodeName", json!("b")),
    ] {
        let mut changed = other.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        apply(store, &changed);
        assert!(is_rewritten(&live), "{pointer}");
        apply(store, &other);
        assert!(!is_rewritten(&live), "{pointer}");
    }
    store.apply(Event::Delete(serde_json::from_str(&other.to_string()).unwrap()));
    assert!(is_rewritten(&live));
}

#[test]
fn a_wider_topology_reaches_the_nodes_in_it() {
    for (on, away) in [("b", true), ("c", false)] {
        for term in [
            json!({"topologyKey": "zone"}),
            json!({"topologyKey": "zone", "namespaces": [], "namespaceSelector": {"matchLabels": {"team": "x"}}}),
        ] {
            let live = ground();
            synced(&live.0.pods_on_nodes.store, &[repelling(on, &term)]);
            assert_eq!(!is_rewritten(&live), away, "{on} {term}");
        }
    }
}

#[test]
fn of_pods_without_required_anti_affinity_nothing_is_kept() {
    let live = ground();
    let store = &live.0.pods_on_nodes.store;
    let preferred = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
        "podAffinityTerm": {"topologyKey": "zone"}}]}});
    let plain =
        json!({"metadata": {"name": "plain", "namespace": "ns"}, "spec": {"nodeName": "a", "affinity": preferred}});
    synced(store, &[plain, repelling("b", &json!({}))]);
    assert_eq!(store.len(), 1);
}

#[test]
fn terms_that_are_too_large_are_not_known_where_they_hold_and_nowhere_else() {
    let large = |topology: &str| {
        let values: Vec<String> = (0..2_000).map(|place| format!("value-{place}")).collect();
        json!({"topologyKey": topology, "labelSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": values}]}})
    };
    for (on, topology, unknown) in
        [("a", HOSTNAME_LABEL, true), ("b", HOSTNAME_LABEL, false), ("c", "zone", true), ("a", "zone", true)]
    {
        let live = ground();
        let store = &live.0.pods_on_nodes.store;
        synced(store, &[]);
        let read: OrMalformed<_> = serde_json::from_str(&repelling(on, &large(topology)).to_string()).unwrap();
        assert!(matches!(store.apply(Event::Apply(read)), Outcome::Cut { .. }), "it is counted");
        assert_eq!(codes(&live).contains(&Code::FactsNotKnown), unknown, "{on} {topology}");
        assert_eq!(is_rewritten(&live), !unknown, "{on} {topology}");
    }
}

/// An API server bounds neither the name of a claim in a Pod nor what is said of an owner.
#[test]
fn no_pod_of_a_tenant_is_too_large_to_know_whom_others_keep_away() {
    let live = ground();
    let store = &live.0.pods_on_nodes.store;
    synced(store, &[]);
    let long = "x".repeat(100 << 10);
    let owner = json!([{"apiVersion": long, "kind": long, "name": long, "uid": long, "controller": true}]);
    let claims: Vec<Value> = (0..40)
        .map(|number| json!({"name": format!("v{number}"), "persistentVolumeClaim": {"claimName": long}}))
        .chain([
            json!({"name": "own", "ephemeral": {}}),
            json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}),
        ])
        .collect();
    let pod = json!({"metadata": {"name": "large", "namespace": "tenant", "uid": "9", "ownerReferences": owner},
        "spec": {"nodeName": "b", "volumes": claims}, "status": {"phase": "Running"}});
    apply(store, &pod);
    assert!(is_rewritten(&live), "what others keep away is known");
    let kept = live.pod_on_node("tenant", "large").found().unwrap();
    assert_eq!(kept.claims().collect::<Vec<_>>(), [("large-own".into(), true), ("data".into(), false)]);
    assert!(kept.metadata.controller().is_some());
}

#[test]
fn what_an_api_server_does_not_serve_is_not_waited_for_and_not_known() {
    let live = ground();
    synced(&live.0.pods_on_nodes.store, &[]);
    assert_eq!(live.not_synced(), ["resourceclaims", "resourceclaimtemplates"]);
    live.0.resource_claims.store.not_served();
    live.0.resource_claim_templates.store.not_served();
    assert!(live.not_synced().is_empty());
    assert!(matches!(live.0.resource_claims.store.get(&super::Key::new("ns", "gpu")), super::Lookup::Unknown));
    synced(&live.0.resource_claims.store, &[]);
    assert!(matches!(live.0.resource_claims.store.get(&super::Key::new("ns", "gpu")), super::Lookup::Absent));
}

#[test]
fn policies_are_known_when_all_of_them_are_and_none_are_where_there_is_no_such_kind() {
    let policy =
        |name: &str, mode: &Value| json!({"metadata": {"name": name, "generation": 1}, "spec": {"mode": mode}});
    let known = |live: &LiveCluster| live.policies().found().map(|all| all.len());
    let live = LiveCluster::new(WatchedPods::None);
    let store = &live.0.policies.store;
    assert_eq!(known(&live), None, "before the first list has ended");
    assert!(live.not_synced().contains(&"pinpolicies"));
    store.not_served();
    assert_eq!(known(&live), Some(0));
    assert!(!live.not_synced().contains(&"pinpolicies"));
    store.apply(Event::Init);
    apply(store, &policy("a", &json!("Deny")));
    store.apply(Event::InitDone);
    assert_eq!(known(&live), Some(1));
    // One that cannot be read may say anything.
    apply(store, &policy("b", &json!("Newer")));
    assert_eq!(known(&live), None);
    apply(store, &policy("b", &json!("Warn")));
    assert_eq!(known(&live), Some(2));
}

#[test]
fn a_volume_leads_to_the_nodes_that_it_names_and_to_no_other() {
    let live = ground();
    let named = |volume: Value| {
        let found = live.nodes_named_by(&serde_json::from_value(volume).unwrap());
        found.map(|nodes| nodes.iter().map(|node| node.name().to_owned()).collect::<Vec<_>>().join(" "))
    };
    let affinity = |key: &str, values: &[&str]| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": values}]}]}});
    let volume = |affinity: Value, annotations: Value| json!({"metadata": {"name": "v", "annotations": annotations}, "spec": {"nodeAffinity": affinity}});
    let by_hostname = |values: &[&str]| named(volume(affinity(HOSTNAME_LABEL, values), json!({})));
    assert_eq!(by_hostname(&["b", "c", "gone"]), Lookup::Found("b c".to_owned()));
    assert_eq!(by_hostname(&["gone"]), Lookup::Found(String::new()));
    let odd = json!({"metadata": {"name": "d", "labels": {HOSTNAME_LABEL: "b"}}});
    apply(&live.0.nodes.store, &odd);
    assert_eq!(by_hostname(&["b"]), Lookup::Found("b d".to_owned()), "two, of which one is called otherwise");
    assert_eq!(by_hostname(&["d"]), Lookup::Found("d".to_owned()), "a name in place of the label's value");
    let written = volume(affinity(HOSTNAME_LABEL, &["a"]), json!({VOLUME_NODE: "c"}));
    assert_eq!(named(written), Lookup::Found("c".to_owned()));
    assert_eq!(named(volume(affinity("zone", &["z1"]), json!({}))), Lookup::Absent);
    assert_eq!(named(volume(Value::Null, json!({}))), Lookup::Absent);
    apply(&live.0.nodes.store, &json!({"metadata": {"name": "e"}, "spec": {"taints": 1}}));
    assert_eq!(by_hostname(&["a"]), Lookup::Unknown, "a Node that cannot be read may be one of them");
}
