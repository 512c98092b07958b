//! From a configuration of rancher's to a pool and a class of ours.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use super::class::{Translated, in_force};
use super::config::{Config, Location, Locations, NodePaths};
use super::{MICROK8S, RANCHER};
use crate::crd::{LocalPool, LocalPoolSpec, Placement, PoolNodes, PoolPath, Room};
use crate::model::{DEFAULT_CLASS, VOLUME_TYPE};
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
    let annotated = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in in_force(annotated, class.parameters.as_ref()) {
        match super::class::translate(key, value) {
            Translated::Ours(ours, value) => drop(parameters.insert(ours.to_owned(), value)),
            Translated::Unique(pattern) => {
                notes.push(format!("class {name}: pathPattern becomes {pattern}, so that no two claims share a directory"));
                parameters.insert("pathPattern".to_owned(), pattern);
            }
            Translated::Unsafe => {
                notes.push(format!("class {name}: allowUnsafePathPattern is not kept: directories never leave the base"));
            }
            Translated::Refused(expected) if key == "pathPattern" => notes.push(format!(
                "class {name}: pathPattern `{value}` is not kept: it should be {expected}, nothing else is sure to stay in the base"
            )),
            Translated::Refused(expected) => {
                notes.push(format!("class {name}: parameter {key} (`{value}`) is not kept: it should be {expected}"));
            }
            Translated::Unknown => {
                notes.push(format!("class {name}: parameter {key} (`{value}`) is not kept: it meant nothing before either"));
            }
        }
    }
    let kind = annotations.get(VOLUME_TYPE).map(String::as_str).unwrap_or_default();
    let local = kind.eq_ignore_ascii_case("local");
    if !local && !kind.is_empty() && !kind.eq_ignore_ascii_case("hostpath") {
        notes.push(format!(
            "class {name}: annotation {VOLUME_TYPE} (`{kind}`) is not kept: it should be local or hostPath"
        ));
    }
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
    let kept =
        annotations.into_iter().filter(|(key, _)| DEFAULT_CLASS.contains(&key.as_str())).collect::<BTreeMap<_, _>>();
    translated.metadata.annotations = (!kept.is_empty()).then_some(kept);
    translated
}
