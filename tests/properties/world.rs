//! Clusters and Pods to decide about. Names come from small pools, so that things meet; odd states are rare enough that
//! a good share of Pods is rewritten.

use std::fmt;

use latebind::facts::{Fact, Facts, Unlisted};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

pub const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub const HOSTNAME: &str = "kubernetes.io/hostname";
pub const SELECTED: &str = "volume.kubernetes.io/selected-node";
const NODES: [&str; 4] = ["node-a", "node-b", "node-c", "node-d"];
const CLAIMS: [&str; 3] = ["data", "logs", "cache"];
const CLASSES: [&str; 4] = ["local-path", "local-disks", "fast", "gone"];

/// A Pod and what is known besides.
#[derive(Clone)]
pub struct World {
    pub objects: Vec<Value>,
    pub pod: Value,
    pub manifests: bool,
}

impl fmt::Debug for World {
    /// As JSON, one object a line: what a failure prints can be pasted into a case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "manifests: {}\npod: {}", self.manifests, self.pod)?;
        self.objects.iter().try_for_each(|object| writeln!(f, "{object}"))
    }
}

impl World {
    /// The facts; objects that cannot be read are left out, as they are when a file is broken.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new(if self.manifests { Unlisted::Unknown } else { Unlisted::Absent });
        for object in &self.objects {
            let text = |key: &str| object[key].as_str().unwrap_or_default();
            let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
            if let Some(Ok(fact)) = Fact::read(group, text("kind"), object) {
                facts.add(fact);
            }
        }
        facts
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| object["kind"] == "Node")
    }
}

/// Sets the fields that are given.
fn fill(mut object: Value, fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    for (field, value) in fields {
        if let Some(value) = value {
            object[field] = value;
        }
    }
    object
}

/// True with this probability.
fn rarely(share: f64) -> impl Strategy<Value = bool> {
    prop::bool::weighted(share)
}

fn labels() -> BoxedStrategy<Map<String, Value>> {
    (weighted(0.5, select(vec!["ssd", "hdd"])), weighted(0.5, select(vec!["4", "16", "many"])))
        .prop_map(|(disk, cores)| {
            let disk = disk.map(|disk| ("disk".to_owned(), json!(disk)));
            let cores = cores.map(|cores| ("cores".to_owned(), json!(cores)));
            disk.into_iter().chain(cores).collect()
        })
        .boxed()
}

fn taint() -> BoxedStrategy<Value> {
    let effects = select(vec!["NoSchedule", "NoSchedule", "PreferNoSchedule", "NoExecute"]);
    (select(vec!["dedicated", "node.kubernetes.io/unschedulable"]), weighted(0.5, Just("db")), effects)
        .prop_map(|(key, value, effect)| {
            fill(json!({"key": key, "effect": effect}), [("value", value.map(Value::from))])
        })
        .boxed()
}

fn node(name: &'static str) -> BoxedStrategy<Value> {
    let hostname = prop_oneof![
        8 => Just(Some(name)),
        1 => Just(None),
        1 => select(NODES.to_vec()).prop_map(Some),
    ];
    let ready = prop_oneof![30 => Just("True"), 1 => Just("False")];
    (labels(), hostname, weighted(0.05, vec(taint(), 1..3)), rarely(0.03), ready)
        .prop_map(move |(mut labels, hostname, taints, cordoned, ready)| {
            if let Some(hostname) = hostname {
                labels.insert(HOSTNAME.to_owned(), json!(hostname));
            }
            let spec = fill(json!({"unschedulable": cordoned}), [("taints", taints.map(Value::from))]);
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        })
        .boxed()
}

fn class(name: &'static str, provisioner: &'static str, mode: &'static str) -> BoxedStrategy<Value> {
    let topologies = json!([{"matchLabelExpressions": [{"key": "disk", "values": ["ssd"]}]}]);
    (rarely(0.1), weighted(0.05, Just(topologies)))
        .prop_map(move |(default, topologies)| {
            let metadata = if default {
                json!({"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}})
            } else {
                json!({"name": name})
            };
            let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata,
            "provisioner": provisioner, "volumeBindingMode": mode});
            fill(class, [("allowedTopologies", topologies)])
        })
        .boxed()
}

fn class_name() -> BoxedStrategy<Option<Value>> {
    prop_oneof![
        90 => Just(Some(json!(CLASSES[0]))),
        10 => Just(Some(json!(CLASSES[1]))),
        2 => select(CLASSES.to_vec()).prop_map(|class| Some(json!(class))),
        1 => Just(Some(json!(""))),
        2 => Just(None),
    ]
    .boxed()
}

fn claim_spec() -> BoxedStrategy<Value> {
    let mode = prop_oneof![14 => Just("ReadWriteOnce"), 1 => Just("ReadWriteOncePod"), 2 => Just("ReadWriteMany")];
    (class_name(), mode, select(vec!["1Gi", "5Gi", "20Gi"]))
        .prop_map(|(class, mode, size)| {
            let spec = json!({"accessModes": [mode], "resources": {"requests": {"storage": size}}});
            fill(spec, [("storageClassName", class)])
        })
        .boxed()
}

fn claim(name: &'static str) -> BoxedStrategy<Value> {
    let status = prop_oneof![
        40 => Just(("Pending", None)),
        2 => select(vec!["pv-0", "pv-1"]).prop_map(|volume| ("Bound", Some(json!(volume)))),
        1 => Just(("Lost", None)),
        1 => Just(("Pending", Some(json!("pv-0")))),
    ];
    let selected = weighted(0.03, select(vec!["node-a", "node-b", "node-gone"]));
    (claim_spec(), status, selected, rarely(0.03), rarely(0.8))
        .prop_map(move |(spec, (phase, volume), selected, deleting, stored)| {
            let metadata = fill(
                json!({"name": name, "namespace": "default"}),
                [
                    ("annotations", selected.map(|node| json!({SELECTED: node}))),
                    ("deletionTimestamp", deleting.then(|| json!("2026-01-02T03:04:05Z"))),
                    ("uid", stored.then(|| json!(format!("uid-{name}")))),
                ],
            );
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
                "spec": fill(spec, [("volumeName", volume)]), "status": {"phase": phase}})
        })
        .boxed()
}

fn volume(name: String) -> BoxedStrategy<Value> {
    let claim_ref = weighted(0.1, select(CLAIMS.to_vec()));
    let class = prop_oneof![3 => Just("local-disks"), 1 => Just("local-path")];
    let phase = prop_oneof![8 => Just("Available"), 1 => Just("Released"), 1 => Just("Bound")];
    (class, select(vec!["2Gi", "10Gi", "50Gi"]), weighted(0.8, select(NODES.to_vec())), claim_ref, phase)
        .prop_map(move |(class, size, at, claim_ref, phase)| {
            let on = |node| {
                json!({"required": {"nodeSelectorTerms":
                    [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}]}})
            };
            let spec = json!({"storageClassName": class, "capacity": {"storage": size}, "csi": {"driver": "d.example"},
                "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]});
            let spec = fill(
                spec,
                [
                    ("nodeAffinity", at.map(on)),
                    ("claimRef", claim_ref.map(|claim| json!({"namespace": "default", "name": claim}))),
                ],
            );
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec,
                "status": {"phase": phase}})
        })
        .boxed()
}

fn requirement() -> BoxedStrategy<Value> {
    let with = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
    prop_oneof![
        4 => select(NODES.to_vec()).prop_map(move |node| with(HOSTNAME, "NotIn", &[node])),
        1 => select(vec!["In", "NotIn", "Near"]).prop_map(move |operator| with("disk", operator, &["ssd"])),
        1 => select(vec!["Exists", "DoesNotExist"]).prop_map(|operator| json!({"key": "disk", "operator": operator})),
        1 => select(vec!["Gt", "Lt"]).prop_map(move |operator| with("cores", operator, &["8"])),
    ]
    .boxed()
}

fn field() -> BoxedStrategy<Value> {
    (select(vec!["In", "NotIn"]), select(NODES.to_vec()))
        .prop_map(|(operator, node)| json!({"key": "metadata.name", "operator": operator, "values": [node]}))
        .boxed()
}

fn term() -> BoxedStrategy<Value> {
    let expressions = prop_oneof![
        6 => vec(requirement(), 0..3).prop_map(|all| Some(json!(all))),
        2 => Just(None),
        1 => Just(Some(Value::Null)),
    ];
    let fields = prop_oneof![
        2 => vec(field(), 0..3).prop_map(|all| Some(json!(all))),
        4 => Just(None),
        1 => Just(Some(Value::Null)),
    ];
    (expressions, fields)
        .prop_map(|(expressions, fields)| fill(json!({}), [("matchExpressions", expressions), ("matchFields", fields)]))
        .boxed()
}

fn affinity() -> BoxedStrategy<Value> {
    let required = prop_oneof![
        10 => vec(term(), 0..6).prop_map(|terms| Some(json!({"nodeSelectorTerms": terms}))),
        1 => Just(None),
        1 => Just(Some(Value::Null)),
    ];
    let node_affinity = prop_oneof![
        10 => required.prop_map(|required| Some(fill(json!({}), [(REQUIRED, required)]))),
        1 => Just(None),
        1 => Just(Some(Value::Null)),
    ];
    let anti = json!({REQUIRED: [{"topologyKey": HOSTNAME}]});
    (node_affinity, weighted(0.03, Just(anti)))
        .prop_map(|(node, anti)| fill(json!({}), [("nodeAffinity", node), ("podAntiAffinity", anti)]))
        .boxed()
}

fn node_selector() -> BoxedStrategy<Value> {
    prop_oneof![
        3 => labels().prop_map(Value::Object),
        1 => Just(Value::Null),
        1 => select(NODES.to_vec()).prop_map(|node| json!({HOSTNAME: node})),
    ]
    .boxed()
}

fn toleration() -> BoxedStrategy<Value> {
    let operator = weighted(0.8, select(vec!["Exists", "Equal"]));
    (weighted(0.7, Just("dedicated")), operator, weighted(0.5, select(vec!["db", "web"])))
        .prop_map(|(key, operator, value)| {
            let parts = [("key", key), ("operator", operator), ("value", value)];
            fill(json!({}), parts.map(|(field, part)| (field, part.map(Value::from))))
        })
        .boxed()
}

fn template() -> BoxedStrategy<Value> {
    let metadata = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!({"labels": {"a": "b"}}))),
        1 => Just(Some(json!({"annotations": null}))),
        1 => Just(Some(json!({"annotations": {"a": "b"}}))),
    ];
    (claim_spec(), metadata).prop_map(|(spec, metadata)| fill(json!({"spec": spec}), [("metadata", metadata)])).boxed()
}

fn pod_volume() -> BoxedStrategy<Value> {
    prop_oneof![
        8 => select(CLAIMS.to_vec()).prop_map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})),
        3 => template().prop_map(|template| json!({"ephemeral": {"volumeClaimTemplate": template}})),
        1 => Just(json!({"emptyDir": {}})),
    ]
    .boxed()
}

fn pod() -> BoxedStrategy<Value> {
    let node_name = prop_oneof![
        12 => Just(Some("node-a")),
        4 => select(NODES.to_vec()).prop_map(Some),
        1 => Just(Some("")),
        1 => Just(None),
    ];
    let annotations = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!({}))),
        1 => Just(Some(json!({"latebind.dev/original-node-name": "forged", "a": "b"}))),
        1 => Just(Some(json!({"kubernetes.io/config.mirror": "0123"}))),
    ];
    let placing = (weighted(0.2, node_selector()), weighted(0.4, affinity()), weighted(0.3, vec(toleration(), 0..3)));
    let rare = (weighted(0.05, Just("batch")), rarely(0.03), weighted(0.1, 0_i32..10));
    (node_name, annotations, placing, rare, vec(pod_volume(), 1..3), rarely(0.95))
        .prop_map(|(node_name, annotations, (selector, affinity, tolerations), rare, volumes, mounted)| {
            let (scheduler, gated, priority) = rare;
            let named = volumes.into_iter().enumerate();
            let volumes: Vec<Value> =
                named.map(|(place, volume)| fill(volume, [("name", Some(json!(format!("v{place}"))))])).collect();
            let mounts: Vec<Value> =
                volumes.iter().filter(|_| mounted).map(|volume| json!({"name": volume["name"]})).collect();
            let spec = json!({"containers": [{"name": "app", "volumeMounts": mounts}], "volumes": volumes});
            let spec = fill(
                spec,
                [
                    ("nodeName", node_name.map(Value::from)),
                    ("nodeSelector", selector),
                    ("affinity", affinity),
                    ("tolerations", tolerations.map(Value::from)),
                    ("schedulerName", scheduler.map(Value::from)),
                    ("schedulingGates", gated.then(|| json!([{"name": "wait"}]))),
                    ("priority", priority.map(Value::from)),
                ],
            );
            let metadata = fill(json!({"name": "web", "namespace": "default"}), [("annotations", annotations)]);
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        })
        .boxed()
}

/// A cluster, or some manifests, and a Pod.
pub fn world() -> BoxedStrategy<World> {
    let other = (pod(), select(vec!["Pending", "Running", "Failed"])).prop_map(|(pod, phase)| {
        fill(pod, [("metadata", Some(json!({"name": "other"}))), ("status", Some(json!({"phase": phase})))])
    });
    let nodes = (node(NODES[0]), node(NODES[1]), node(NODES[2]));
    let classes = (
        class(CLASSES[0], "rancher.io/local-path", "WaitForFirstConsumer"),
        class(CLASSES[1], "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        class(CLASSES[2], "fast.example", "Immediate"),
    );
    let volumes = (0..5_usize).prop_flat_map(|count| (0..count).map(|n| volume(format!("pv-{n}"))).collect::<Vec<_>>());
    let claims = (claim(CLAIMS[0]), claim(CLAIMS[1]), weighted(0.9, claim(CLAIMS[2])));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default",
        "annotations": {"scheduler.alpha.kubernetes.io/node-selector": "disk=ssd"}}});
    let rest = (weighted(0.05, Just(namespace)), weighted(0.2, other), rarely(0.2));
    (nodes, classes, volumes, claims, rest, pod())
        .prop_map(|(nodes, classes, volumes, claims, rest, pod)| {
            let (namespace, other, manifests) = rest;
            let mut objects = vec![nodes.0, nodes.1, nodes.2, classes.0, classes.1, classes.2, claims.0, claims.1];
            objects.extend(claims.2.into_iter().chain(volumes).chain(namespace).chain(other));
            World { objects, pod, manifests }
        })
        .boxed()
}

/// Any JSON value, of the kinds that break careless readers.
pub fn hostile() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        select(vec!["", "node-a", "99999999999999999999Ei", "-1", "In", "metadata.name", "\u{0}", "~1/", "data"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z./~]{0,12}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}
