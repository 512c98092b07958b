//! Findings about classes, volumes and pools themselves, whatever Pods do with them.
//!
//! Nothing here is known to be wrong in every cluster; each is what reports of lost or stuck local volumes begin with.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorTerm};
use serde_json::Value;

use super::finding::{Code, FieldPath, Finding, Severity};
use crate::model::selector::{is_empty_term, volume_reachable};
use crate::model::{
    Class, HOSTNAME_LABEL, NO_PROVISIONER, Node, PROVISIONED_BY, Relation, Volume, directories_around,
    field_in_any_case, plain_path,
};

/// Provisioners whose volumes are directories or disks of one node.
const LOCAL_PROVISIONERS: [&str; 8] = [
    "rancher.io/local-path",
    "microk8s.io/hostpath",
    "k8s.io/minikube-hostpath",
    "kubevirt.io.hostpath-provisioner",
    "openebs.io/local",
    "local.csi.openebs.io",
    "topolvm.io",
    "local.latebind.dev",
];

/// Directories that lie on the root file system unless somebody took care that they do not.
const ROOT_DIRECTORIES: [&str; 9] = ["/opt", "/var/lib", "/home", "/root", "/srv", "/tmp", "/usr", "/etc", "/var/tmp"];

/// How many names a message lists before it only counts.
const MOST_NAMES: usize = 3;

/// Classes, volumes and Nodes that stand together, indexed for the questions that are asked of each.
#[derive(Debug, Default)]
pub struct StorageFacts<'a> {
    nodes: Vec<&'a Node>,
    by_class: HashMap<&'a str, Vec<&'a Volume>>,
    /// Volumes that an administrator made, by host and directory.
    by_directory: HashMap<(String, String), Vec<&'a str>>,
    shared: SharedPools,
}

#[derive(Debug, Default)]
struct SharedPools {
    everywhere: bool,
    classes: HashSet<String>,
}

impl<'a> StorageFacts<'a> {
    /// Indexes what is known.
    #[must_use]
    pub fn new(volumes: impl IntoIterator<Item = &'a Volume>, nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut facts = Self { nodes: nodes.into_iter().collect(), ..Self::default() };
        for volume in volumes {
            facts.by_class.entry(volume.class_name()).or_default().push(volume);
            let Some((_, path)) = node_path(volume).filter(|_| is_static(volume)) else { continue };
            for host in facts.hosts(volume).into_iter().flatten() {
                facts.by_directory.entry((host, plain_path(path))).or_default().push(volume.name());
            }
        }
        facts
    }

    /// Takes note of a ConfigMap, if it configures rancher's local-path provisioner with a file system that all nodes
    /// share: its volumes are then not local to a node.
    pub fn note_config_map(&mut self, config_map: &Value) {
        let Some(config) = PoolConfig::of(config_map) else { return };
        self.shared.everywhere |= config.shared_by_all;
        self.shared.classes.extend(config.shared_by);
    }

    /// Host names of the nodes that can reach the volume: by the Nodes, or by the affinity where there are none.
    /// `None` when the affinity leaves open which nodes those are.
    fn hosts(&self, volume: &Volume) -> Option<BTreeSet<String>> {
        if self.nodes.is_empty() {
            return required(volume).and_then(named_hosts);
        }
        let reachable = self.nodes.iter().filter(|node| volume_reachable(volume, node));
        Some(reachable.map(|node| node.label(HOSTNAME_LABEL).unwrap_or(node.name()).to_owned()).collect())
    }
}

/// What a person should know about a class.
#[must_use]
pub fn class_findings(class: &Class, facts: &StorageFacts<'_>) -> Vec<Finding> {
    if let Some(mode) = class.volume_binding_mode.as_deref()
        && !matches!(mode, "Immediate" | "WaitForFirstConsumer")
    {
        let meant = ["Immediate", "WaitForFirstConsumer"].into_iter().find(|known| known.eq_ignore_ascii_case(mode));
        let meant = meant.map(|known| format!(", write {known}")).unwrap_or_default();
        let message = format!("class {}: the API server refuses volumeBindingMode {mode:?}{meant}", class.name());
        return vec![Code::InvalidBindingMode.at(FieldPath::new(&["volumeBindingMode"]), message)];
    }
    let shared = facts.shared.everywhere || facts.shared.classes.contains(class.name());
    if class.is_delayed() || (class.provisioner == LOCAL_PROVISIONERS[0] && shared) {
        return Vec::new();
    }
    let volumes = facts.by_class.get(class.name()).map(Vec::as_slice).unwrap_or_default();
    let why = if LOCAL_PROVISIONERS.contains(&class.provisioner.as_str()) {
        format!("provisioner {} makes volumes on one node", class.provisioner)
    } else if class.provisioner == NO_PROVISIONER {
        match volumes.iter().find(|volume| required(volume).is_some()) {
            Some(volume) => format!("volume {} of it has a node affinity", volume.name()),
            None if volumes.is_empty() => "volumes that are made by hand are local to a node as a rule".to_owned(),
            None => return Vec::new(),
        }
    } else {
        match volumes.iter().find(|volume| is_local_to_a_node(volume)) {
            Some(volume) => format!("volume {} of it is local to a node", volume.name()),
            None => return Vec::new(),
        }
    };
    let field = if class.volume_binding_mode.is_some() { "volumeBindingMode" } else { "provisioner" };
    let message = format!("class {} binds immediately, but {why}", class.name());
    vec![Code::LocalClassBindsImmediately.at(FieldPath::new(&[field]), message)]
}

/// What a person should know about a volume.
#[must_use]
pub fn volume_findings(volume: &Volume, facts: &StorageFacts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fields_only = fields_only_term(volume);
    if let Some(term) = fields_only {
        let term = term.to_string();
        let path = ["spec", "nodeAffinity", "required", "nodeSelectorTerms", &term, "matchFields"];
        let message = format!("volume {}: term {term} of its node affinity matches every node", volume.name());
        findings.push(Code::VolumeWithoutLabels.at(FieldPath::new(&path), message));
    }
    if let Some((source, path)) = node_path(volume).filter(|_| is_static(volume)) {
        let field = FieldPath::new(&["spec", source, "path"]);
        if fields_only.is_none() {
            findings.extend(several_nodes(volume, source, path, facts));
        }
        if is_on_root_disk(path) {
            let message = format!("volume {}: {path} is on the root file system by convention", volume.name());
            findings.push(Code::VolumeOnRootDisk.at(field.clone(), message));
        }
        findings.extend(neighbour(volume, path, facts).map(|message| Code::VolumeOnRootDisk.at(field, message)));
    }
    findings
}

/// What a person should know about a ConfigMap, if it configures rancher's local-path provisioner.
#[must_use]
pub fn config_map_findings(config_map: &Value) -> Vec<Finding> {
    let Some(config) = PoolConfig::of(config_map) else { return Vec::new() };
    let on_root: BTreeSet<&String> = config.paths.iter().filter(|path| is_on_root_disk(path)).collect();
    let finding = |path: &String| Finding {
        severity: Severity::Info,
        ..Code::VolumeOnRootDisk.at(
            FieldPath::new(&["data", "config.json"]),
            format!("the pool {path} is on the root file system by convention"),
        )
    };
    on_root.into_iter().map(finding).collect()
}

/// The part of rancher's `config.json` that says where volumes go. Keys match in any case, and what cannot be read is passed
/// over: whether rancher could use it is `latebind import`'s to say.
#[derive(Default)]
struct PoolConfig {
    /// Directories of nodes.
    paths: Vec<String>,
    /// A file system that all nodes share, for classes that have no entry of their own.
    shared_by_all: bool,
    /// Classes whose entry has such a file system.
    shared_by: Vec<String>,
}

impl PoolConfig {
    /// `None` for ConfigMaps that hold something else.
    fn of(config_map: &Value) -> Option<Self> {
        let text = config_map.pointer("/data/config.json")?.as_str()?;
        let value: Value = serde_json::from_str(text).ok()?;
        let top = value.as_object()?;
        let is_one = ["nodePathMap", "sharedFileSystemPath", "storageClassConfigs"];
        is_one.iter().find_map(|key| field_in_any_case(top, key))?;
        let by_class = field_in_any_case(top, "storageClassConfigs").and_then(Value::as_object);
        let by_class: Vec<_> = by_class.into_iter().flatten().collect();
        let mut config = Self::default();
        // With entries by class rancher ignores what stands beside them.
        if by_class.is_empty() {
            config.shared_by_all = config.location(top);
        }
        for (class, location) in by_class {
            if location.as_object().is_some_and(|location| config.location(location)) {
                config.shared_by.push(class.clone());
            }
        }
        Some(config)
    }

    /// Takes in the directories of a location; true when it is one that all nodes share.
    fn location(&mut self, location: &serde_json::Map<String, Value>) -> bool {
        let nodes = field_in_any_case(location, "nodePathMap").and_then(Value::as_array).into_iter().flatten();
        let paths = nodes.filter_map(|node| field_in_any_case(node.as_object()?, "paths")?.as_array()).flatten();
        self.paths.extend(paths.filter_map(Value::as_str).map(str::to_owned));
        let shared = field_in_any_case(location, "sharedFileSystemPath").and_then(Value::as_str);
        shared.is_some_and(|path| !path.is_empty())
    }
}

fn required(volume: &Volume) -> Option<&NodeSelector> {
    volume.spec.node_affinity.as_ref()?.required.as_ref()
}

fn is_static(volume: &Volume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.is_none_or(|annotations| !annotations.contains_key(PROVISIONED_BY))
}

/// The source of a volume that is a path on a node, and the path.
fn node_path(volume: &Volume) -> Option<(&'static str, &str)> {
    let local = volume.spec.local.as_ref().map(|source| ("local", source.path.as_str()));
    local.or_else(|| volume.spec.host_path.as_ref().map(|source| ("hostPath", source.path.as_str())))
}

fn is_local_to_a_node(volume: &Volume) -> bool {
    volume.spec.local.is_some() || required(volume).and_then(named_hosts).is_some()
}

/// The place of the first term that has fields and nothing else.
fn fields_only_term(volume: &Volume) -> Option<usize> {
    let fields_only =
        |term: &NodeSelectorTerm| !is_empty_term(term) && term.match_expressions.iter().flatten().next().is_none();
    required(volume)?.node_selector_terms.iter().position(fields_only)
}

/// Host names that the terms name, where each of them names some.
fn named_hosts(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in selector.node_selector_terms.iter().filter(|term| !is_empty_term(term)) {
        let expressions = term.match_expressions.iter().flatten();
        let on_host = expressions.filter(|wanted| wanted.key == HOSTNAME_LABEL && wanted.operator == "In");
        let sets = on_host.map(|wanted| wanted.values.iter().flatten().cloned().collect::<BTreeSet<_>>());
        all.extend(sets.reduce(|left, right| &left & &right)?);
    }
    Some(all)
}

fn several_nodes(volume: &Volume, source: &str, path: &str, facts: &StorageFacts<'_>) -> Option<Finding> {
    let (field, says) = match (required(volume), facts.hosts(volume)) {
        (_, Some(hosts)) if hosts.len() < 2 => return None,
        (None, None) => (vec!["spec", source], "it has no node affinity, so every node qualifies".to_owned()),
        (None, Some(hosts)) => {
            (vec!["spec", source], format!("it has no node affinity, so {} qualify", names(hosts.iter())))
        }
        (Some(_), Some(hosts)) => {
            (vec!["spec", "nodeAffinity"], format!("its node affinity matches {}", names(hosts.iter())))
        }
        (Some(_), None) => {
            (vec!["spec", "nodeAffinity"], format!("its node affinity leaves open which {HOSTNAME_LABEL} it means"))
        }
    };
    let message = format!("volume {}: {path} is not the same disk on each node, and {says}", volume.name());
    Some(Code::VolumeOnSeveralNodes.at(FieldPath::new(&field), message))
}

/// Another volume of the same host in the same directory, or one around it.
fn neighbour(volume: &Volume, path: &str, facts: &StorageFacts<'_>) -> Option<String> {
    let directory = plain_path(path);
    let hosts = facts.hosts(volume)?;
    hosts.iter().find_map(|host| {
        let others = |directory: &str| {
            let found = facts.by_directory.get(&(host.clone(), directory.to_owned()))?;
            found.iter().find(|other| **other != volume.name())
        };
        if let Some(other) = others(&directory) {
            return Some(format!("volumes {} and {other} share the directory {path} of {host}", volume.name()));
        }
        directories_around(&directory).filter(|around| *around != "/").find_map(|around| {
            let (name, other) = (volume.name(), others(around)?);
            Some(format!("volume {name}: {path} lies inside volume {other} ({around}) of {host}"))
        })
    })
}

fn is_on_root_disk(path: &str) -> bool {
    let path = plain_path(path);
    let lies_in = |directory: &&str| matches!(Relation::of(&path, directory), Relation::Same | Relation::Inside);
    path == "/" || path == "/var" || ROOT_DIRECTORIES.iter().any(lies_in)
}

fn names<'n>(names: impl ExactSizeIterator<Item = &'n String>) -> String {
    let count = names.len();
    let listed: Vec<&str> = names.take(MOST_NAMES).map(String::as_str).collect();
    let more = if count > MOST_NAMES { format!(" and {} more", count - MOST_NAMES) } else { String::new() };
    format!("{count} nodes ({}{more})", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(name: &str, spec: &Value) -> Volume {
        let mut spec = spec.clone();
        spec["storageClassName"] = json!("disks");
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn class(provisioner: &str, mode: Option<&str>) -> Class {
        let mode = mode.map_or(Value::Null, Value::from);
        let value = json!({"metadata": {"name": "disks"}, "provisioner": provisioner, "volumeBindingMode": mode});
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str) -> Node {
        let labels = json!({HOSTNAME_LABEL: name, "disk": "ssd"});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    fn on(hosts: &[&str]) -> Value {
        json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "In", "values": hosts}]}]}})
    }

    fn of_volume(volume: &Volume, nodes: &[Node]) -> Vec<(Code, String)> {
        let facts = StorageFacts::new([volume], nodes);
        volume_findings(volume, &facts).into_iter().map(|found| (found.code, found.path.to_string())).collect()
    }

    #[test]
    fn local_classes_that_bind_immediately() {
        let none = StorageFacts::default();
        for provisioner in LOCAL_PROVISIONERS.into_iter().chain([NO_PROVISIONER]) {
            for (mode, field) in [(None, "provisioner"), (Some("Immediate"), "volumeBindingMode")] {
                let found = class_findings(&class(provisioner, mode), &none);
                assert_eq!(found.len(), 1, "{provisioner} {mode:?}");
                assert_eq!(
                    (found[0].code, found[0].path.to_string().as_str()),
                    (Code::LocalClassBindsImmediately, field)
                );
            }
            assert!(class_findings(&class(provisioner, Some("WaitForFirstConsumer")), &none).is_empty());
            for wrong in ["waitForFirstConsumer", "immediate", "Delayed", ""] {
                let found = class_findings(&class(provisioner, Some(wrong)), &none);
                assert_eq!(found[0].code, Code::InvalidBindingMode, "{wrong}");
            }
        }
        assert!(class_findings(&class("ebs.csi.aws.com", None), &none).is_empty());
    }

    #[test]
    fn volumes_say_whether_a_class_is_local() {
        let shared = volume("nfs", &json!({"csi": {"driver": "nfs"}}));
        let zonal = volume(
            "zonal",
            &json!({"csi": {"driver": "x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}]}]}}}),
        );
        let local = volume("local", &json!({"local": {"path": "/mnt/a"}, "nodeAffinity": on(&["n1"])}));
        for (volume, by_hand, by_driver) in [(&shared, 0, 0), (&zonal, 1, 0), (&local, 1, 1)] {
            let facts = StorageFacts::new([volume], []);
            assert_eq!(class_findings(&class(NO_PROVISIONER, None), &facts).len(), by_hand, "{}", volume.name());
            assert_eq!(class_findings(&class("some.driver", None), &facts).len(), by_driver, "{}", volume.name());
        }
    }

    #[test]
    fn a_pool_that_all_nodes_share_may_bind_immediately() {
        let mut facts = StorageFacts::default();
        let config = r#"{"StorageClassConfigs": {"disks": {"sharedfilesystempath": "/nfs"}}}"#;
        facts.note_config_map(&json!({"data": {"config.json": config}}));
        assert!(class_findings(&class("rancher.io/local-path", None), &facts).is_empty());
        assert_eq!(class_findings(&class("topolvm.io", None), &facts).len(), 1);
    }

    #[test]
    fn volumes_that_several_nodes_reach() {
        let several = |spec: Value, nodes: &[Node]| {
            of_volume(&volume("v", &spec), nodes).iter().any(|(code, _)| *code == Code::VolumeOnSeveralNodes)
        };
        let local = |affinity: Value| json!({"local": {"path": "/mnt/a"}, "nodeAffinity": affinity});
        let by_label = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}});
        let two_terms = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "In", "values": ["n1"]}]},
            {"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "In", "values": ["n2"]}]}]}});
        let narrowed = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": HOSTNAME_LABEL, "operator": "In", "values": ["n1", "n2"]},
            {"key": HOSTNAME_LABEL, "operator": "In", "values": ["n2", "n3"]}]}]}});
        assert!(!several(local(on(&["n1"])), &[]));
        assert!(several(local(on(&["n1", "n2"])), &[]));
        assert!(several(local(two_terms), &[]));
        assert!(!several(local(narrowed), &[]));
        assert!(several(local(by_label.clone()), &[]));
        assert!(several(json!({"hostPath": {"path": "/mnt/a"}}), &[]));
        // Nodes that are known decide.
        assert!(!several(local(by_label.clone()), &[node("n1")]));
        assert!(several(local(by_label), &[node("n1"), node("n2")]));
        assert!(!several(local(on(&["n1", "n2"])), &[node("n1"), node("n3")]));
        assert!(!several(json!({"hostPath": {"path": "/mnt/a"}}), &[node("n1")]));
        // A disk that any node can attach.
        assert!(!several(json!({"csi": {"driver": "x"}}), &[node("n1"), node("n2")]));
    }

    #[test]
    fn affinity_by_fields_alone_matches_every_node() {
        let terms = json!({"required": {"nodeSelectorTerms": [{}, {"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}});
        let found = of_volume(&volume("v", &json!({"local": {"path": "/mnt/a"}, "nodeAffinity": terms})), &[]);
        let path = "spec.nodeAffinity.required.nodeSelectorTerms[1].matchFields".to_owned();
        assert_eq!(found, [(Code::VolumeWithoutLabels, path)]);
    }

    #[test]
    fn paths_on_the_root_disk() {
        for path in ["/", "//opt/", "/opt/local-path-provisioner", "/var/lib/rancher", "/mnt/../home/x", "/tmp", "/var"]
        {
            assert!(is_on_root_disk(path), "{path}");
        }
        for path in ["/mnt/disks/a", "/media/x", "/dev/sdb", "/var/local/a", "/data", "/optional", "/var/mnt/x"] {
            assert!(!is_on_root_disk(path), "{path}");
        }
        let found = of_volume(&volume("v", &json!({"local": {"path": "/opt/x"}, "nodeAffinity": on(&["n1"])})), &[]);
        assert_eq!(found, [(Code::VolumeOnRootDisk, "spec.local.path".to_owned())]);
        let mut made = volume("v", &json!({"local": {"path": "/opt/x"}, "nodeAffinity": on(&["n1"])}));
        made.metadata.annotations = Some([(PROVISIONED_BY, "rancher.io/local-path".into())].into());
        assert!(of_volume(&made, &[]).is_empty(), "what a provisioner made is the pool's affair");
    }

    #[test]
    fn one_volume_one_directory() {
        let local =
            |name, path: &str, host: &str| volume(name, &json!({"local": {"path": path}, "nodeAffinity": on(&[host])}));
        let volumes = [
            local("a", "/mnt/x", "n1"),
            local("b", "/mnt/x/", "n1"),
            local("c", "/mnt/x", "n2"),
            local("d", "/mnt/x/y/z", "n1"),
            local("e", "/mnt/xy", "n1"),
        ];
        let facts = StorageFacts::new(&volumes, []);
        let messages = |place: usize| volume_findings(&volumes[place], &facts).pop().map(|found| found.message);
        assert!(messages(0).unwrap().contains("a and b share"));
        assert!(messages(1).unwrap().contains("b and a share"));
        assert_eq!(messages(2), None);
        assert!(messages(3).unwrap().contains("inside volume a (/mnt/x)"));
        assert_eq!(messages(4), None);
    }

    #[test]
    fn pools_on_the_root_disk_are_worth_knowing() {
        let found = |config: &str| config_map_findings(&json!({"data": {"config.json": config}}));
        let found_in_any_case = found(
            r#"{"NodePathMap": [{"node": "a", "Paths": ["/opt/local-path-provisioner", "/mnt/x"]},
                {"node": "b", "PATHS": ["/home/x"]}]}"#,
        );
        assert_eq!(found_in_any_case.len(), 2);
        let by_class = found(
            r#"{"nodePathMap": [{"node": "a", "paths": ["/opt/ignored"]}],
                "storageclassconfigs": {"s": {"nodePathMap": [{"node": "b", "paths": ["/home/x"]}]}}}"#,
        );
        assert_eq!(by_class.len(), 1, "rancher ignores what stands beside entries by class");
        let found = found_in_any_case;
        assert!(found.iter().all(|found| found.severity == Severity::Info && found.path.0 == ["data", "config.json"]));
        for other in
            [json!({}), json!({"data": {"config.json": "{}"}}), json!({"data": {"config.json": "nodePathMap {"}})]
        {
            assert!(config_map_findings(&other).is_empty());
        }
    }
}
