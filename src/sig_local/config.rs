//! The keys of the ConfigMap, each a text of YAML, as the old provisioner reads them: in any case, and unknown ones passed over.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::NodeSelectorTerm;
use serde_json::{Map, Value};

use super::CLASS_MAP;
use super::pattern;
use super::problem::{Problem, Problems};
use super::value::Placed;
use crate::crd::{AccessMode, VolumeMode, checked_base};
use crate::model::{is_object_name, plain_path};

/// Every key of the ConfigMap that the old provisioner knows.
pub const TOP_KEYS: [&str; 11] = [
    CLASS_MAP,
    "nodeLabelsForPV",
    "labelsForPV",
    "useAlphaAPI",
    "useJobForCleaning",
    "jobTolerations",
    "minResyncPeriod",
    "useNodeNameOnly",
    "setPVOwnerRef",
    "removeNodeNotReadyTaint",
    "provisionerNotReadyNodeTaintKey",
];
/// Every key of a class of `storageClassMap` that the old provisioner knows.
pub const CLASS_KEYS: [&str; 8] =
    ["hostDir", "mountDir", "blockCleanerCommand", "volumeMode", "accessMode", "fsType", "namePattern", "selector"];
/// The keys of a term of `selector`.
const TERM_KEYS: [&str; 2] = ["matchExpressions", "matchFields"];

const MAX_LABELS: usize = 32;
const MAX_NAMES: usize = 32;
const MAX_TERMS: usize = 16;
const MAX_CLASSES: usize = 16;

/// One class of `storageClassMap`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassConfig {
    /// Its name.
    pub name: String,
    /// The directory of the node, in its shortest form.
    pub directory: String,
    /// The same directory in the old provisioner's Pod.
    pub mounted_at: String,
    /// What cleans devices; `None` for the script that stands for it.
    pub cleaner: Option<Vec<String>>,
    /// What a Pod gets.
    pub volume_mode: VolumeMode,
    /// How many may use a volume.
    pub access_mode: AccessMode,
    /// The file system for devices.
    pub fs_type: Option<String>,
    /// Patterns of names, as a LocalPool has them; none for all.
    pub names: Vec<String>,
    /// Further nodes that reach the volumes.
    pub selector: Vec<NodeSelectorTerm>,
    /// The keys that are there.
    pub given: BTreeSet<&'static str>,
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Its classes, by name.
    pub classes: Vec<ClassConfig>,
    /// Labels of the Node that volumes get.
    pub node_labels: Vec<String>,
    /// Labels that volumes get.
    pub labels: BTreeMap<String, String>,
    /// Keys that are about how the old provisioner works: key and value.
    pub settings: BTreeMap<&'static str, String>,
    /// Places of keys that the old provisioner passed over.
    pub unknown: Vec<String>,
}

impl Config {
    /// Reads what a ConfigMap holds. `place` is how it is called in messages.
    ///
    /// # Errors
    /// Everything that cannot be used, by its key.
    pub fn parse(place: &str, data: &Map<String, Value>) -> Result<Self, Problems> {
        let (mut config, mut problems) = (Self::default(), Vec::new());
        let mut seen = BTreeSet::new();
        for (key, text) in data {
            let place = format!("{place}: {key}");
            let Some(known) = known(key, &TOP_KEYS) else {
                config.unknown.push(place);
                continue;
            };
            if !seen.insert(known) {
                problems.push(Problem::Twice { place });
            } else if let Some(value) = document(&place, text, &mut problems) {
                config.take(known, &Placed { place, value: &value }, &mut problems);
            }
        }
        config.node_labels.retain(|label| !config.labels.contains_key(label));
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// True for a setting that is on.
    #[must_use]
    pub fn is_on(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|value| value == "true")
    }

    fn take(&mut self, key: &'static str, given: &Placed<'_>, problems: &mut Vec<Problem>) {
        let setting = match key {
            CLASS_MAP => return self.take_classes(given, problems),
            "nodeLabelsForPV" => {
                self.node_labels = given.texts(problems);
                return bounded(given, self.node_labels.len(), MAX_LABELS, problems);
            }
            "labelsForPV" => {
                self.labels = given.text_map(problems);
                return bounded(given, self.labels.len(), MAX_LABELS, problems);
            }
            "jobTolerations" => Some(given.items(problems).len().to_string()),
            "minResyncPeriod" | "provisionerNotReadyNodeTaintKey" => given.text(problems),
            _ => given.boolean(problems).map(|value| value.to_string()),
        };
        self.settings.extend(setting.map(|value| (key, value)));
    }

    fn take_classes(&mut self, given: &Placed<'_>, problems: &mut Vec<Problem>) {
        let entries = given.entries(problems);
        bounded(given, entries.len(), MAX_CLASSES, problems);
        for (name, entry) in entries {
            if !is_object_name(name) {
                problems.push(Problem::value(&given.place, name, "the name of a class"));
            }
            let mut class = ClassConfig { name: name.to_owned(), ..ClassConfig::default() };
            class.fill(&entry, &mut self.unknown, problems);
            self.classes.push(class);
        }
    }
}

impl ClassConfig {
    /// True when devices are likely to be among its disks. Whether there are some only the nodes know.
    #[must_use]
    pub fn is_for_devices(&self) -> bool {
        self.volume_mode == VolumeMode::Block || self.fs_type.is_some()
    }

    fn fill(&mut self, entry: &Placed<'_>, unknown: &mut Vec<String>, problems: &mut Vec<Problem>) {
        for (key, given) in entry.entries(problems) {
            match known(key, &CLASS_KEYS) {
                None => unknown.push(given.place),
                Some(_) if given.value.is_null() => {}
                Some(key) if !self.given.insert(key) => problems.push(Problem::Twice { place: given.place }),
                Some(key) => self.take(key, &given, unknown, problems),
            }
        }
        for key in ["hostDir", "mountDir"].into_iter().filter(|key| !self.given.contains(key)) {
            let place = format!("{}: {key}", entry.place);
            problems.push(Problem::Missing { place, expected: "an absolute path" });
        }
    }

    fn take(&mut self, key: &'static str, given: &Placed<'_>, unknown: &mut Vec<String>, problems: &mut Vec<Problem>) {
        match key {
            "hostDir" => self.directory = directory(given, problems).unwrap_or_default(),
            "mountDir" => self.mounted_at = directory(given, problems).unwrap_or_default(),
            "blockCleanerCommand" => {
                let command = given.texts(problems);
                if command.is_empty() {
                    given.refuse("a command; leave it out for the usual one", problems);
                }
                self.cleaner = Some(command);
            }
            "volumeMode" => self.volume_mode = one_of(given, "Filesystem or Block", problems),
            "accessMode" => self.access_mode = one_of(given, ACCESS_MODES, problems),
            "fsType" => self.fs_type = given.text(problems).filter(|kind| !kind.is_empty()),
            "namePattern" => self.names = names(given, problems),
            _ => self.selector = terms(given, unknown, problems),
        }
    }
}

const ACCESS_MODES: &str = "ReadWriteOnce, ReadWriteOncePod, ReadOnlyMany or ReadWriteMany";

fn known(key: &str, keys: &[&'static str]) -> Option<&'static str> {
    keys.iter().find(|known| known.eq_ignore_ascii_case(key)).copied()
}

fn document(place: &str, text: &Value, problems: &mut Vec<Problem>) -> Option<Value> {
    let Some(text) = text.as_str() else {
        problems.push(Problem::value(place, &text.to_string(), "a text: put it in quotes"));
        return None;
    };
    // Of a key that stands there twice the last one counts, as before.
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins };
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(value) => Some(value),
        Err(error) => {
            let problem = error.to_string().lines().next().unwrap_or_default().to_owned();
            problems.push(Problem::Yaml { place: place.to_owned(), problem });
            None
        }
    }
}

fn directory(given: &Placed<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let text = given.text(problems)?;
    let path = plain_path(&text);
    let is_plain = text.starts_with('/') && checked_base(&path).is_ok() && !text.chars().any(char::is_control);
    if !is_plain {
        given.refuse("an absolute path below /", problems);
    }
    is_plain.then_some(path)
}

/// A word of a fixed choice; the first of it where there is none.
fn one_of<T>(given: &Placed<'_>, expected: &'static str, problems: &mut Vec<Problem>) -> T
where
    T: serde::de::DeserializeOwned + Default,
{
    let Some(word) = given.text(problems).filter(|word| !word.is_empty()) else { return T::default() };
    serde_json::from_value(Value::from(word)).unwrap_or_else(|_| {
        given.refuse(expected, problems);
        T::default()
    })
}

/// Patterns of names; none where one of them is for all.
fn names(given: &Placed<'_>, problems: &mut Vec<Problem>) -> Vec<String> {
    let Some(text) = given.text(problems) else { return Vec::new() };
    let mut names = Vec::new();
    for pattern in text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()) {
        match pattern::translate(pattern).filter(|pattern| pattern.len() <= 255) {
            Some(pattern) => names.push(pattern),
            None => given.refuse("patterns with `*`, `?` and `[...]`, and no `\\` or `!` in brackets", problems),
        }
    }
    bounded(given, names.len(), MAX_NAMES, problems);
    if names.iter().any(|pattern| pattern == "*") { Vec::new() } else { names }
}

fn terms(given: &Placed<'_>, unknown: &mut Vec<String>, problems: &mut Vec<Problem>) -> Vec<NodeSelectorTerm> {
    let mut terms = Vec::new();
    for item in given.items(problems) {
        for (key, below) in item.entries(problems) {
            if !TERM_KEYS.contains(&key) {
                unknown.push(below.place);
            }
        }
        match serde_json::from_value(item.value.clone()) {
            Ok(term) => terms.push(term),
            Err(_) => item.refuse("a term of a node selector", problems),
        }
    }
    bounded(given, terms.len(), MAX_TERMS, problems);
    terms
}

fn bounded(given: &Placed<'_>, count: usize, most: usize, problems: &mut Vec<Problem>) {
    if count > most {
        problems.push(Problem::TooMany { place: given.place.clone(), count, most });
    }
}
