//! What an import is made from: ConfigMaps, classes and provisioners, and which of them belong together.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::config::{Config, ConfigError, Locations};
use super::{MICROK8S, RANCHER};
use crate::volumes::{PROVISIONED_BY, PROVISIONER};

/// The label by which one installation of a Helm chart is told from another.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// The ConfigMap of rancher's provisioner unless it is told another.
pub const CONFIG_MAP: &str = "local-path-config";
/// The key of its configuration.
const CONFIG_KEY: &str = "config.json";

/// Why an object cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A class that cannot be read.
    #[error("StorageClass {name} cannot be read: {problem}")]
    Class {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
}

/// A configuration of the old provisioner.
#[derive(Debug)]
pub(super) struct Source {
    /// How it is called in messages.
    pub place: String,
    /// Namespace and name of the ConfigMap.
    pub name: Option<(String, String)>,
    pub instance: Option<String>,
    pub config: Result<Config, ConfigError>,
    /// Every key of the ConfigMap.
    pub texts: BTreeMap<String, String>,
}

/// A class as it was given.
#[derive(Debug)]
pub(super) struct GivenClass {
    pub object: Value,
    pub class: StorageClass,
}

impl GivenClass {
    pub fn name(&self) -> &str {
        self.class.metadata.name.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.class.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
}

/// A workload that runs the old provisioner.
#[derive(Debug)]
pub(super) struct Deployed {
    /// The provisioner's name, as classes have it.
    pub provisioner: String,
    /// Namespace and name of its ConfigMap.
    config_map: (String, String),
    /// MicroK8s: the directory of classes that name none.
    pub directory: Option<String>,
}

/// A volume that another provisioner made.
#[derive(Debug)]
pub(super) struct GivenVolume {
    pub name: String,
    pub provisioner: String,
    pub path: String,
}

/// What an import is made from.
#[derive(Debug, Default)]
pub struct Input {
    pub(super) sources: Vec<Source>,
    pub(super) classes: Vec<GivenClass>,
    pub(super) deployed: Vec<Deployed>,
    pub(super) volumes: Vec<GivenVolume>,
    /// Objects that are of no account here, as `Kind name`.
    pub(super) others: Vec<String>,
    adopt: BTreeSet<String>,
    shared_by: Option<String>,
}

/// Which configuration a class uses.
pub(super) enum Uses<'a> {
    /// This one.
    One(&'a Source),
    /// Nobody can tell which of these.
    Several(Vec<&'a str>),
    /// None: it has an entry in none of them, or there is none.
    None,
}

impl Input {
    /// Classes of these provisioners are imported too.
    #[must_use]
    pub fn adopting(names: impl IntoIterator<Item = String>) -> Self {
        Self { adopt: names.into_iter().collect(), ..Self::default() }
    }

    /// Paths that are the same on every node are imported too: the agent of this node makes their directories.
    pub fn share_by(&mut self, node: Option<String>) {
        self.shared_by = node;
    }

    /// The node whose agent makes the directories of paths that are the same on every node.
    pub(super) fn shared_by(&self) -> Option<&str> {
        self.shared_by.as_deref()
    }

    /// Takes a bare `config.json`.
    pub fn add_config(&mut self, text: &str) {
        self.sources.push(Source {
            place: CONFIG_KEY.to_owned(),
            name: None,
            instance: None,
            config: Config::parse(text),
            texts: BTreeMap::new(),
        });
    }

    /// Drops the names of what is of no account: of a whole cluster nobody asked for them.
    pub fn forget_others(&mut self) {
        self.others.clear();
    }

    /// True while there is neither a class of the old provisioner's nor a configuration of it.
    #[must_use]
    pub fn has_nothing(&self) -> bool {
        !self.classes.iter().any(|class| self.is_ours(class)) && !self.sources.iter().any(Source::is_ours)
    }

    pub(super) fn add_source(&mut self, config: Config) {
        let (place, config) = (CONFIG_KEY.to_owned(), Ok(config));
        self.sources.push(Source { place, name: None, instance: None, config, texts: BTreeMap::new() });
    }

    pub(super) fn add_class(&mut self, class: StorageClass) {
        let object = serde_json::to_value(&class).unwrap_or_default();
        self.classes.push(GivenClass { object, class });
    }

    /// Takes an object as kubectl prints it. What is given twice in the same words counts once.
    ///
    /// # Errors
    /// When it is a class that cannot be read.
    pub fn add(&mut self, object: Value) -> Result<(), InputError> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "StorageClass" => {
                let class = serde_json::from_value(object.clone());
                let class: StorageClass = class.map_err(|problem| InputError::Class { name, problem })?;
                if !self.classes.iter().any(|known| known.class == class) {
                    self.classes.push(GivenClass { object, class });
                }
            }
            "ConfigMap" if object["data"][CONFIG_KEY].is_string() => self.add_config_map(&object, name),
            "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" if deployed(&object).is_some() => {
                self.deployed.extend(deployed(&object));
            }
            "PersistentVolume" => {
                let spec = &object["spec"];
                let path = spec["local"]["path"].as_str().or(spec["hostPath"]["path"].as_str());
                let by = object["metadata"]["annotations"][PROVISIONED_BY].as_str();
                if let (Some(path), Some(by)) = (path, by) {
                    self.volumes.push(GivenVolume { name, provisioner: by.to_owned(), path: path.to_owned() });
                }
            }
            _ => self.others.push(format!("{kind} {name}")),
        }
        Ok(())
    }

    fn add_config_map(&mut self, object: &Value, name: String) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let texts: BTreeMap<String, String> = (object["data"].as_object().into_iter().flatten())
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let place = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
        let source = Source {
            place: format!("ConfigMap {place}"),
            name: Some((namespace, name)),
            instance: object["metadata"]["labels"][INSTANCE].as_str().map(str::to_owned),
            config: Config::parse(texts.get(CONFIG_KEY).map_or("", String::as_str)),
            texts,
        };
        if !self.sources.iter().any(|known| known.name == source.name && known.texts == source.texts) {
            self.sources.push(source);
        }
    }

    /// True for classes of rancher's provisioner, whatever name it was given: by that name, by a workload that has it, by an
    /// entry of a configuration, or by the name or the label that its chart gives.
    pub(super) fn is_ours(&self, given: &GivenClass) -> bool {
        let provisioner = given.class.provisioner.as_str();
        let last = provisioner.rsplit('/').next().unwrap_or_default();
        let by_name = provisioner == RANCHER
            || provisioner == MICROK8S
            || self.adopt.contains(provisioner)
            || self.deployed.iter().any(|it| it.provisioner == provisioner)
            || provisioner.starts_with("rancher.io/local-path")
            || last.ends_with("local-path-provisioner");
        let listed = || self.sources.iter().any(|source| source.lists(given.name()));
        let by_label = || given.label("app.kubernetes.io/name") == Some("local-path-provisioner");
        provisioner != PROVISIONER && (by_name || listed() || by_label())
    }

    /// Which configuration a class uses.
    pub(super) fn source_of(&self, given: &GivenClass) -> Uses<'_> {
        let usable = |source: &&Source| match &source.config {
            // What cannot be read may be the one.
            Err(_) => true,
            Ok(config) => match &config.locations {
                Locations::All(_) => true,
                Locations::ByClass(entries) => entries.contains_key(given.name()),
            },
        };
        let mut found: Vec<&Source> = self.sources.iter().filter(usable).collect();
        let narrow = |found: &mut Vec<&Source>, keep: &dyn Fn(&Source) -> bool| {
            if found.len() > 1 && found.iter().any(|source| keep(source)) {
                found.retain(|source| keep(source));
            }
        };
        // What a workload of that name mounts it reads, and what one of another name mounts it does not.
        let same = |it: &&Deployed, source: &Source| {
            source.name.as_ref().is_some_and(|(namespace, name)| {
                *name == it.config_map.1
                    && (*namespace == it.config_map.0 || namespace.is_empty() || it.config_map.0.is_empty())
            })
        };
        let provisioner = given.class.provisioner.as_str();
        let of = |source: &Source| self.deployed.iter().any(|it| it.provisioner == provisioner && same(&it, source));
        let of_another = |source: &Source| {
            self.deployed.iter().any(|it| it.provisioner != provisioner && same(&it, source)) && !of(source)
        };
        narrow(&mut found, &of);
        found.retain(|source| !of_another(source));
        narrow(&mut found, &|source| source.lists(given.name()));
        narrow(&mut found, &|source| source.instance.is_some() && source.instance.as_deref() == given.label(INSTANCE));
        match found.as_slice() {
            [] => Uses::None,
            [one] => Uses::One(one),
            several => Uses::Several(several.iter().map(|source| source.place.as_str()).collect()),
        }
    }
}

impl Source {
    /// True when it has an entry for this class alone.
    pub fn lists(&self, class: &str) -> bool {
        let Ok(Config { locations: Locations::ByClass(entries), .. }) = &self.config else { return false };
        entries.contains_key(class)
    }

    /// True for what only the old provisioner can have written: other programs have a `config.json` too.
    pub fn is_ours(&self) -> bool {
        self.name.as_ref().is_none_or(|(_, name)| name == CONFIG_MAP)
            || self.config.is_ok()
            || ["setup", "teardown", "helperPod.yaml"].iter().any(|key| self.texts.contains_key(*key))
    }
}

/// The provisioner that a workload runs.
fn deployed(object: &Value) -> Option<Deployed> {
    let pod = &object["spec"]["template"]["spec"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let namespace = text(&object["metadata"]["namespace"]).unwrap_or_default();
    pod["containers"].as_array()?.iter().find_map(|container| {
        let image = container["image"].as_str().unwrap_or_default().split('@').next().unwrap_or_default();
        let image = image.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default();
        let words: Vec<&str> = ["command", "args"]
            .iter()
            .flat_map(|key| container[*key].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        let flag = |name: &str| {
            words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(name)? {
                "" => words.get(at + 1).map(|word| (*word).to_owned()),
                rest => rest.strip_prefix('=').map(str::to_owned),
            })
        };
        let env = |name: &str| {
            container["env"].as_array()?.iter().find(|it| it["name"] == name).and_then(|it| text(&it["value"]))
        };
        if image == "hostpath-provisioner" {
            return Some(Deployed {
                provisioner: MICROK8S.to_owned(),
                config_map: (namespace.clone(), String::new()),
                directory: env("PV_DIR"),
            });
        }
        let named = flag("--provisioner-name").or_else(|| env("PROVISIONER_NAME"));
        if image != "local-path-provisioner" && named.is_none() {
            return None;
        }
        let mounted = || {
            let volumes = pod["volumes"].as_array()?;
            volumes.iter().find_map(|volume| text(&volume["configMap"]["name"]))
        };
        let config_map = flag("--configmap-name").or_else(mounted).unwrap_or_else(|| CONFIG_MAP.to_owned());
        Some(Deployed {
            provisioner: named.unwrap_or_else(|| RANCHER.to_owned()),
            config_map: (namespace.clone(), config_map),
            directory: None,
        })
    })
}
