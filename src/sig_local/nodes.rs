//! Which nodes the old provisioner ran on, from the DaemonSets that mount its ConfigMap.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::input::{GivenConfig, full_name, text};
use crate::crd::{DiskRule, PoolNodes};
use crate::rancher::{Accounts, Loss};

/// Labels of a Node that say which operating system it has.
const SYSTEM: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// The entries of a pool: one for each node selector, or one for all nodes.
pub(super) fn entries(
    config: &GivenConfig,
    daemon_sets: &[Value],
    rules: &[DiskRule],
    accounts: &mut Accounts,
) -> Vec<PoolNodes> {
    let of_config: Vec<&Value> = daemon_sets.iter().filter(|daemon_set| mounts(daemon_set, config)).collect();
    let mut selectors: Vec<BTreeMap<String, String>> = Vec::new();
    for daemon_set in &of_config {
        selectors.extend(selector(daemon_set, accounts).filter(|selector| !selectors.contains(selector)));
    }
    if of_config.is_empty() {
        let why = "no DaemonSet of the input mounts it, so that the pool is for every node: give the DaemonSet too, or an entry of the \
                   pool a `selector`";
        accounts.changed(config.place(), why);
        selectors.push(BTreeMap::new());
    }
    // All of them have the same rules: who takes every node needs no other.
    if selectors.iter().any(BTreeMap::is_empty) {
        selectors = vec![BTreeMap::new()];
    }
    let entry = |labels: BTreeMap<String, String>| PoolNodes {
        selector: (!labels.is_empty())
            .then(|| LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        discover: rules.to_vec(),
        ..PoolNodes::default()
    };
    selectors.into_iter().map(entry).collect()
}

/// The labels that a DaemonSet asks of its nodes. `None` where no agent can run.
fn selector(daemon_set: &Value, accounts: &mut Accounts) -> Option<BTreeMap<String, String>> {
    let pod = &daemon_set["spec"]["template"]["spec"];
    let metadata = &daemon_set["metadata"];
    let place = format!("DaemonSet {}", full_name(&text(&metadata["namespace"]), &text(&metadata["name"])));
    let labels: BTreeMap<String, String> = (pod["nodeSelector"].as_object().into_iter().flatten())
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    if SYSTEM.iter().any(|key| labels.get(*key).is_some_and(|system| system == "windows")) {
        accounts.lost(Loss::Entries, place, "its nodes run Windows, and agents run on Linux alone");
        return None;
    }
    if !labels.is_empty() {
        accounts.kept(format!("{place}: nodeSelector"), "the `selector` of the pool's entry");
    }
    if pod["affinity"].as_object().is_some_and(|affinity| !affinity.is_empty()) {
        let why = "a pool chooses nodes by their labels, so that more of them may offer disks than before: give its entry a `selector` \
                   or `names`";
        accounts.lost(Loss::Entries, format!("{place}: affinity"), why);
    }
    if pod["tolerations"].as_array().is_some_and(|tolerations| !tolerations.is_empty()) {
        accounts.not_needed(format!("{place}: tolerations"), "agents tolerate every taint");
    }
    Some(labels)
}

/// True when a DaemonSet has the ConfigMap among its volumes.
fn mounts(daemon_set: &Value, config: &GivenConfig) -> bool {
    let namespace = text(&daemon_set["metadata"]["namespace"]);
    let volumes = daemon_set["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
    let is_named = |source: &Value| source["configMap"]["name"] == config.name.as_str();
    let mut with_it = volumes.filter(|volume| {
        let mut parts = volume["projected"]["sources"].as_array().into_iter().flatten();
        is_named(volume) || parts.any(is_named)
    });
    let is_same = namespace == config.namespace || namespace.is_empty() || config.namespace.is_empty();
    is_same && with_it.next().is_some()
}
