//! Classes of an adopted provisioner that are not served: scripts of theirs would be lost, or their volumes are on a path that
//! all nodes share. What their ConfigMap said that is not there any more is not known, and holds back as well.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::kubernetes::api::{ApiError, in_time};
use crate::rancher::{Config, Loss, MICROK8S, own_scripts};

/// Why classes and volumes of an adopted provisioner are not served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// For every class of it.
    all: Option<String>,
    /// For these classes.
    by_class: BTreeMap<String, String>,
}

impl HeldBack {
    /// Why a class of a provisioner is not served, if it is not. MicroK8s' provisioner has neither scripts nor ConfigMap.
    #[must_use]
    pub fn why(&self, provisioner: &str, class: &str) -> Option<&str> {
        if provisioner == MICROK8S {
            return None;
        }
        self.by_class.get(class).or(self.all.as_ref()).map(String::as_str)
    }

    /// Every reason once.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        let mut reasons: Vec<&str> = self.all.iter().chain(self.by_class.values()).map(String::as_str).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons.into_iter()
    }

    /// What was said of every class stays said: one reason is enough, and the first is as good as another.
    fn hold_all(&mut self, why: String) {
        self.all.get_or_insert(why);
    }

    /// Adds what a ConfigMap says. What cannot be read may be for any class.
    fn add(&mut self, map: &ConfigMap, accepted: &[Loss]) {
        let none = BTreeMap::new();
        let texts = map.data.as_ref().unwrap_or(&none);
        let config = texts.get("config.json").and_then(|text| Config::parse(text).ok());
        let place = format!("ConfigMap {}/{}", map.namespace().unwrap_or_default(), map.name_any());
        if !accepted.contains(&Loss::Scripts) {
            self.add_scripts(&place, texts, config.as_ref());
        }
        if let Some(config) = config.filter(|_| !accepted.contains(&Loss::Entries)) {
            self.add_shared(&place, &config);
        }
    }

    fn add_scripts(&mut self, place: &str, texts: &BTreeMap<String, String>, config: Option<&Config>) {
        let own = own_scripts(texts, config);
        let mut lost: Vec<String> = own.iter().map(|script| format!("{}: {}", script.key, script.note)).collect();
        // Commands may stand in it as well.
        if config.is_none() {
            let is = if texts.contains_key("config.json") { "cannot be read" } else { "is not there" };
            lost.push(format!("config.json {is}, and may name commands"));
        }
        if lost.is_empty() {
            return;
        }
        let why = format!("{place}: {}. {ACCEPT_SCRIPTS}", lost.join("; "));
        match config.and_then(Config::classes) {
            Some(classes) => self.by_class.extend(classes.map(|class| (class.to_owned(), why.clone()))),
            None => self.hold_all(why),
        }
    }

    /// An agent takes what it finds in a base for its own node's.
    fn add_shared(&mut self, place: &str, config: &Config) {
        for (class, path) in config.shared_paths() {
            let why = format!(
                "{place}: sharedFileSystemPath {path} is the same directory on every node, which the agents of several would answer for. New \
                 volumes are served by a class of latebind's (latebind import --shared-by NODE); keep the old provisioner for those that it \
                 has made. If nothing is to be served there, give the controller --accept-lost entries"
            );
            match class {
                Some(class) => drop(self.by_class.entry(class.to_owned()).or_insert(why)),
                None => self.hold_all(why),
            }
        }
    }

    /// No ConfigMap of that name tells anything: which classes it was for, and whether it had scripts, is not known.
    fn add_unknown(&mut self, name: &str, problem: &str) {
        self.hold_all(format!(
            "ConfigMap {name} {problem}: whether the provisioner that is adopted ran scripts of somebody's own is not known. \
             {ACCEPT_SCRIPTS}"
        ));
    }
}

const ACCEPT_SCRIPTS: &str =
    "See latebind import --check; if it may be lost, give the controller --accept-lost scripts";

/// Reads the ConfigMaps of these names in every namespace; but for what is accepted to be lost.
///
/// # Errors
/// When the API server does not answer. What it will not show, or does not have, is not known, which holds back.
pub async fn held_back(client: &Client, names: &[String], accepted: &[Loss]) -> Result<HeldBack, ApiError> {
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let mut found = HeldBack::default();
    let scripts_count = !accepted.contains(&Loss::Scripts);
    for name in names {
        // A role can be bound to these names alone: the API server takes this selector for the name.
        let selection = ListParams::default().fields(&format!("metadata.name={name}"));
        // One a namespace at most.
        match in_time(maps.list(&selection)).await {
            Ok(listed) if listed.items.is_empty() && scripts_count => found.add_unknown(name, "is in no namespace"),
            Ok(listed) => listed.items.iter().for_each(|map| found.add(map, accepted)),
            Err(error) if matches!(error.code(), Some(401 | 403)) => {
                if scripts_count {
                    found.add_unknown(name, &format!("may not be read ({error})"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(data: &serde_json::Value) -> HeldBack {
        let map = json!({ "metadata": { "namespace": "ns", "name": "local-path-config" }, "data": data });
        let mut held = HeldBack::default();
        held.add(&serde_json::from_value(map).unwrap_or_else(|error| panic!("{error}")), &[]);
        held
    }

    fn why<'a>(held: &'a HeldBack, class: &str) -> Option<&'a str> {
        held.why("rancher.io/local-path", class)
    }

    #[test]
    fn own_scripts_hold_their_classes_back_and_stock_ones_do_not() {
        let everywhere = r#"{"nodePathMap":[{"node":"n","paths":["/a"]}]}"#;
        let by_class = r#"{"storageClassConfigs":{"fast":{"nodePathMap":[{"node":"n","paths":["/a"]}]}}}"#;
        let stock = "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n";
        let archive = "mv \"$VOL_DIR\" \"$VOL_DIR.kept\"";
        assert_eq!(held(&json!({ "config.json": everywhere, "teardown": stock })), HeldBack::default());
        let all = held(&json!({ "config.json": everywhere, "teardown": archive }));
        assert!(
            why(&all, "any")
                .is_some_and(|why| why.contains("ns/local-path-config") && why.contains("onDelete: archive"))
        );
        let some = held(&json!({ "config.json": by_class, "teardown": archive }));
        assert!(why(&some, "fast").is_some() && why(&some, "slow").is_none());
        let command = r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"teardownCommand":"/keep"}"#;
        assert!(why(&held(&json!({ "config.json": command })), "any").is_some());
        let unreadable = held(&json!({ "config.json": "{", "setup": "zfs create x" }));
        assert!(why(&unreadable, "any").is_some(), "it may be for any class");
        let unreadable = held(&json!({ "config.json": "{", "teardown": stock }));
        assert!(why(&unreadable, "any").is_some_and(|why| why.contains("cannot be read")), "it may name a command");
        let emptied = held(&json!({ "teardown": stock }));
        assert!(why(&emptied, "any").is_some_and(|why| why.contains("is not there")), "{emptied:?}");
    }

    #[test]
    fn a_config_map_that_is_not_there_says_nothing_and_holds_every_class_back() {
        let mut held = HeldBack::default();
        held.add_unknown("local-path-config", "is in no namespace");
        assert!(
            why(&held, "any").is_some_and(|why| why.contains("is not known") && why.contains("--accept-lost scripts"))
        );
        assert_eq!(held.why(MICROK8S, "any"), None, "it never had one");
    }

    #[test]
    fn a_path_that_all_nodes_share_is_held_back_whatever_becomes_of_scripts() {
        let map = |config: &str| -> ConfigMap {
            let map = json!({ "metadata": { "namespace": "ns", "name": "m" }, "data": { "config.json": config } });
            serde_json::from_value(map).unwrap_or_else(|error| panic!("{error}"))
        };
        let everywhere = map(r#"{"sharedFilesystemPath":"/nfs"}"#);
        let one = map(
            r#"{"storageClassConfigs":{"nfs":{"sharedFileSystemPath":"/nfs"},"disk":{"nodePathMap":[{"node":"n","paths":["/a"]}]}}}"#,
        );
        let of = |map: &ConfigMap, accepted: &[Loss]| {
            let mut held = HeldBack::default();
            held.add(map, accepted);
            held
        };
        assert!(why(&of(&everywhere, &[Loss::Scripts]), "any").is_some_and(|why| why.contains("/nfs")));
        let held = of(&one, &[Loss::Scripts]);
        assert!(why(&held, "nfs").is_some() && why(&held, "disk").is_none(), "{held:?}");
        assert_eq!(of(&one, &[Loss::Entries]), HeldBack::default());
    }
}
