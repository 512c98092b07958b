//! From a configuration of rancher's to a pool and a class of ours.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::class::translate_pattern;
use super::config::{Config, Location, Locations, NodePaths};
use super::{MICROK8S, RANCHER};
use crate::crd::{LocalPool, LocalPoolSpec, Placement, PoolNodes, PoolPath, Room};
use crate::provision::PROVISIONER;

/// What an import gives.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Pools to create.
    pub pools: Vec<LocalPool>,
    /// Classes to create, in place of those of the same name.
    pub classes: Vec<StorageClass>,
    /// What could not be kept, or is different now: one sentence each.
    pub notes: Vec<String>,
}

/// Translates a configuration and the classes that use it.
#[must_use]
pub fn import(config: &Config, classes: &[StorageClass]) -> Import {
    let mut made = Import::default();
    for command in &config.commands {
        made.notes.push(format!("{command} is not kept: the agent runs no commands"));
    }
    if let Some(seconds) = config.timeout {
        made.notes.push(format!("cmdTimeoutSeconds ({seconds}) is not needed: there are no helper Pods to wait for"));
    }
    for class in classes {
        if class.provisioner != RANCHER && class.provisioner != MICROK8S {
            made.notes.push(format!(
                "class {} is of provisioner {}: left as it is",
                class.name_any(),
                class.provisioner
            ));
            continue;
        }
        let name = class.name_any();
        let location = match &config.locations {
            Locations::All(location) => Some(location),
            Locations::ByClass(by_class) => by_class.get(&name),
        };
        match location {
            None => made.notes.push(format!("class {name} has no entry in storageClassConfigs: it was not served before either")),
            Some(Location::Shared(path)) => made.notes.push(format!(
                "class {name} uses the shared path {path}: a file system that all nodes share needs no local provisioner, \
                 so it is not imported; keep the old provisioner for it, or use an NFS driver"
            )),
            Some(Location::Nodes(nodes)) => {
                made.pools.push(pool(&name, nodes));
                let translated = translate(class, &mut made.notes);
                made.classes.push(translated);
            }
        }
    }
    if !made.pools.is_empty() {
        made.notes.push(
            "sizes are not checked (`room: Ignore`), as before; `room: Free` refuses claims that are larger than what is free"
                .to_owned(),
        );
    }
    made
}

fn pool(name: &str, nodes: &[NodePaths]) -> LocalPool {
    let nodes = nodes.iter().map(|entry| PoolNodes {
        names: entry.node.clone().map(|node| vec![node]),
        selector: None,
        paths: entry.paths.iter().map(|path| PoolPath { path: path.clone(), require_mount: false }).collect(),
    });
    LocalPool::new(name, LocalPoolSpec { nodes: nodes.collect(), placement: Placement::RoundRobin, room: Room::Ignore })
}

fn translate(class: &StorageClass, notes: &mut Vec<String>) -> StorageClass {
    let name = class.name_any();
    let annotations = class.metadata.annotations.clone().unwrap_or_default();
    let mut parameters = BTreeMap::from([("pool".to_owned(), name.clone())]);
    // What is in force: parameters win over annotations.
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for key in ["userPattern", "groupPattern", "permPattern", "allowUnsafePathPattern"] {
        said.extend(annotations.get(key).map(|value| (key, value.as_str())));
    }
    said.extend(class.parameters.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())));
    for (key, value) in said {
        let number = value.trim();
        let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        match key {
            "nodePath" | "nodeAffinityKey" => drop(parameters.insert(key.to_owned(), value.to_owned())),
            "pathPattern" => match translate_pattern(value) {
                Some((pattern, added)) => {
                    if added {
                        notes.push(format!("class {name}: pathPattern becomes {pattern}, so that no two claims share a directory"));
                    }
                    parameters.insert(key.to_owned(), pattern);
                }
                None => notes.push(format!(
                    "class {name}: pathPattern `{value}` is not kept: only .PVC.Namespace, .PVC.Name, .PVC.UID and .PVName \
                     cannot be used to leave the base"
                )),
            },
            "userPattern" | "groupPattern" | "permPattern" if plain => {
                let ours = if key == "userPattern" { "uid" } else if key == "groupPattern" { "gid" } else { "mode" };
                parameters.insert(ours.to_owned(), number.to_owned());
            }
            "allowUnsafePathPattern" => {
                notes.push(format!("class {name}: allowUnsafePathPattern is not kept: directories never leave the base"));
            }
            _ => notes.push(format!("class {name}: parameter {key} (`{value}`) is not kept: only plain numbers are")),
        }
    }
    let local = annotations.get("defaultVolumeType").is_some_and(|kind| kind.eq_ignore_ascii_case("local"));
    parameters.insert("type".to_owned(), if local { "local" } else { "hostPath" }.to_owned());
    if !local && class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        notes.push(format!("class {name}: mountOptions are dropped, as before: hostPath volumes cannot have any"));
    }
    if class.allow_volume_expansion == Some(true) {
        notes.push(format!("class {name}: allowVolumeExpansion is dropped: nothing enlarged a volume before either"));
    }
    notes.push(format!(
        "class {name}: annotation volumeType of a claim is no longer read: a tenant does not choose the source"
    ));
    let mut translated = StorageClass {
        provisioner: PROVISIONER.to_owned(),
        parameters: Some(parameters),
        mount_options: class.mount_options.clone().filter(|_| local),
        allow_volume_expansion: None,
        reclaim_policy: class.reclaim_policy.clone(),
        volume_binding_mode: class.volume_binding_mode.clone(),
        allowed_topologies: class.allowed_topologies.clone(),
        ..StorageClass::default()
    };
    translated.metadata.name = Some(name);
    let kept = annotations.into_iter().filter(|(key, _)| key.contains("is-default-class")).collect::<BTreeMap<_, _>>();
    translated.metadata.annotations = (!kept.is_empty()).then_some(kept);
    translated
}
