//! What an import is made from: ConfigMaps, classes, and the DaemonSets that mount the one and name nodes.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::CLASS_MAP;

/// Metadata that the API server writes.
const OF_SERVER: [&str; 6] = ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// A ConfigMap of the old provisioner.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GivenConfig {
    pub namespace: String,
    pub name: String,
    pub data: Map<String, Value>,
}

impl GivenConfig {
    /// How it is called in messages.
    pub fn place(&self) -> String {
        format!("ConfigMap {}", full_name(&self.namespace, &self.name))
    }
}

/// Objects as kubectl prints them.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub(super) configs: Vec<GivenConfig>,
    pub(super) classes: Vec<Value>,
    pub(super) daemon_sets: Vec<Value>,
    /// Objects that are of no account here, as `Kind name`.
    pub(super) others: BTreeSet<String>,
    /// Nobody asked for what else there is.
    pub(super) is_whole_cluster: bool,
}

impl Input {
    /// For everything that a cluster has: what the old provisioner has nothing to do with is not named.
    #[must_use]
    pub fn of_cluster() -> Self {
        Self { is_whole_cluster: true, ..Self::default() }
    }

    /// True for a ConfigMap of the old provisioner.
    #[must_use]
    pub fn is_config(object: &Value) -> bool {
        let mut keys = object["data"].as_object().into_iter().flat_map(Map::keys);
        object["kind"] == "ConfigMap" && keys.any(|key| key.eq_ignore_ascii_case(CLASS_MAP))
    }

    /// Takes an object. What is given twice in the same words counts once.
    pub fn add(&mut self, object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        match kind {
            "ConfigMap" if Self::is_config(&object) => {
                let data = object["data"].as_object().cloned().unwrap_or_default();
                add(&mut self.configs, GivenConfig { namespace, name, data });
            }
            "StorageClass" => add(&mut self.classes, class(object)),
            "DaemonSet" => add(&mut self.daemon_sets, object),
            _ if self.is_whole_cluster => {}
            _ => drop(self.others.insert(format!("{kind} {name}"))),
        }
    }

    /// Names of classes that are there twice, and differ.
    pub(super) fn classes_with_two_contents(&self) -> impl Iterator<Item = &str> {
        let names = || self.classes.iter().filter_map(|class| class["metadata"]["name"].as_str());
        let is_again = move |at: usize, name: &str| names().take(at).any(|earlier| earlier == name);
        names().enumerate().filter(move |(at, name)| is_again(*at, name)).map(|(_, name)| name)
    }
}

/// A class as it can be applied.
fn class(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| !OF_SERVER.contains(&key.as_str()));
    }
    if object["apiVersion"].is_null() {
        object["apiVersion"] = "storage.k8s.io/v1".into();
    }
    object
}

/// Namespace and name as one word.
pub(super) fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn add<T: PartialEq>(to: &mut Vec<T>, given: T) {
    if !to.contains(&given) {
        to.push(given);
    }
}
