//! What is kept of each kind.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_foreign_volume_is_found_by_the_nodes_that_may_reach_it() {
    let indexes = |affinity: Value, annotations: Value| {
        let volume: Volume = serde_json::from_value(json!({ "metadata": { "name": "v", "annotations": annotations },
            "spec": { "hostPath": { "path": "/a" }, "nodeAffinity": affinity } }))
        .unwrap();
        let of_foreign =
            |index: &VolumeIndex| matches!(index, VolumeIndex::ForeignOn(_) | VolumeIndex::ForeignAnywhere);
        volume.indexes().into_iter().filter(of_foreign).collect::<Vec<_>>()
    };
    let term = |key: &str, operator: &str, values: Value| {
        json!({ "matchExpressions": [{ "key": "zone", "operator": "Exists" },
            { "key": key, "operator": operator, "values": values }] })
    };
    let on = |terms: Value| json!({ "required": { "nodeSelectorTerms": terms } });
    let both = on(json!([term(HOSTNAME_LABEL, "In", json!(["b", "a"])), term(HOSTNAME_LABEL, "In", json!(["a"]))]));
    let of_both = [VolumeIndex::ForeignOn("a".into()), VolumeIndex::ForeignOn("b".into())];
    assert_eq!(indexes(both.clone(), json!({})), of_both);
    for anywhere in [
        Value::Null,
        on(json!([term(HOSTNAME_LABEL, "NotIn", json!(["a"]))])),
        on(json!([term("disk", "In", json!(["a"]))])),
        on(json!([term(HOSTNAME_LABEL, "In", json!(["a"])), term("disk", "In", json!(["a"]))])),
    ] {
        assert_eq!(indexes(anywhere, json!({})), [VolumeIndex::ForeignAnywhere]);
    }
    assert!(indexes(both, json!({ LOCAL_VOLUME: "ours" })).is_empty());
}

#[test]
fn policies_about_nodes_are_kept_wherever_they_may_stand_and_approvals_too() {
    fn kept<K: Cached + for<'de> serde::Deserialize<'de>>(metadata: impl Fn(&K) -> &Metadata) -> Vec<String> {
        let keys = NODE_POLICIES.iter().chain(&[DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_INTENT, "other"]);
        let annotations: serde_json::Map<String, Value> = keys.map(|key| ((*key).to_owned(), json!("x"))).collect();
        let object = json!({ "metadata": { "name": "n", "annotations": annotations }, "provisioner": "p" });
        let mut object: K = serde_json::from_value(object).unwrap();
        object.trim(&mut Texts::default());
        let annotations = metadata(&object).annotations.iter().flat_map(Map::iter);
        annotations.map(|(key, _)| key.trim_start_matches(OWN_PREFIX).to_owned()).collect()
    }
    let policies = ["drain-policy", "lost-node-policy"];
    assert_eq!(kept::<Class>(|it| &it.metadata), policies);
    assert_eq!(kept::<Namespace>(|it| &it.metadata), policies);
    let mut of_claim = kept::<Claim>(|it| &it.metadata);
    of_claim.sort();
    assert_eq!(of_claim, ["drain-approved-by", "drain-approved-until", "drain-policy", "lost-node-policy"]);
    let mut of_node = kept::<Node>(|it| &it.metadata);
    of_node.sort();
    assert_eq!(of_node, ["drain", "drain-approved-by", "drain-approved-until"]);
    assert_eq!(kept::<Volume>(|it| &it.metadata).len(), 5, "all of latebind's own");
}

#[test]
fn of_a_pod_that_waits_the_kind_of_its_controller_is_kept() {
    let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "o", "uid": "u", "controller": true });
    let pod = json!({ "metadata": { "name": "p", "ownerReferences": [owner] }, "spec": {} });
    let mut pod: Pod = serde_json::from_value(pod).unwrap();
    pod.trim(&mut Texts::default());
    assert_eq!(pod.metadata.controller().map(|owner| owner.kind.as_str()), Some("StatefulSet"));
}

#[test]
fn of_a_pod_on_a_node_its_claims_and_its_controller_are_kept() {
    let owner = |kind: &str, controller: bool| json!({ "apiVersion": "v1", "kind": kind, "name": "o", "uid": "u", "controller": controller });
    let claims = (0..40).map(|number| {
        json!({ "name": format!("v{number}"), "persistentVolumeClaim": { "claimName": format!("c{number}") } })
    });
    let volumes: Vec<Value> = [json!({ "name": "map", "configMap": { "name": "x" } })]
        .into_iter()
        .chain([json!({ "name": "own", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } })])
        .chain(claims)
        .collect();
    let mut pod: PodOnNode = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "n", "labels": { "a": "b" },
            "ownerReferences": [owner("Job", false), owner("StatefulSet", true)] },
        "spec": { "nodeName": "n1", "volumes": volumes }, "status": { "phase": "Running" } }))
    .unwrap();
    assert!(pod.is_kept() && pod.indexes().is_empty());
    pod.trim(&mut Texts::default());
    let kept: Vec<(Text, bool)> = pod.claims().collect();
    assert_eq!(kept.len(), MOST_CLAIMS_KEPT);
    assert_eq!(kept[..2], [("p-own".into(), true), ("c0".into(), false)]);
    assert_eq!(pod.metadata.controller().map(|owner| owner.kind.as_str()), Some("StatefulSet"));
    let owners = pod.metadata.owner_references.as_ref().map(Vec::len);
    assert_eq!((owners, pod.metadata.labels.is_some()), (Some(1), false));
    // It keeps nobody away, however large it is.
    pod.cut();
    assert!(!pod.keeps_others_away());
    let without = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n1", "volumes": [volumes[0]] } });
    assert!(!serde_json::from_value::<PodOnNode>(without).unwrap().is_kept());
}
