//! `config.json`, as rancher reads it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::crd::checked_base;
use crate::model::{field_in_any_case as field, plain_path};

/// The key that stands for all nodes that are not listed.
pub const OTHERS: &str = "DEFAULT_PATH_FOR_NON_LISTED_NODES";

/// Why a configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON.
    #[error("config.json is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Something at this place does not have the right form.
    #[error("config.json: {place} should be {expected}")]
    Form {
        /// Where.
        place: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A path that rancher refuses too.
    #[error("config.json: path `{0}` is not an absolute path below /")]
    Path(String),
    /// A node, or a path of a node, twice.
    #[error("config.json: `{0}` is listed twice")]
    Twice(String),
    /// Neither, or both, of the two ways to say where volumes go.
    #[error("config.json: {0} needs exactly one of nodePathMap and sharedFileSystemPath")]
    Source(String),
}

/// One entry of `nodePathMap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePaths {
    /// Name of the node; `None` for all that are not listed.
    pub node: Option<String>,
    /// Its paths.
    pub paths: Vec<String>,
}

/// Where the volumes of one class, or of all, go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Directories of nodes.
    Nodes(Vec<NodePaths>),
    /// One directory that all nodes share.
    Shared(String),
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For every class, or for each by its name.
    pub locations: Locations,
    /// Seconds that a helper Pod may take.
    pub timeout: Option<i64>,
    /// Commands that replace the scripts: key and command.
    pub commands: Vec<(String, String)>,
    /// Places that say nothing, and why: unknown keys, and what entries by class take the place of.
    pub passed_over: Vec<(String, &'static str)>,
}

/// For whom a location is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locations {
    /// For every class.
    All(Location),
    /// For each class by name; no other class is served.
    ByClass(BTreeMap<String, Location>),
}

impl Config {
    /// Reads a configuration. Keys match in any case, unknown ones are passed over, as with rancher.
    ///
    /// # Errors
    /// When it is not JSON or could not be used.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(text)?;
        let top = object(&value, "the whole")?;
        let mut passed_over = Vec::new();
        let classes = match field(top, "storageClassConfigs") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(value) => object(value, "storageClassConfigs")?
                .iter()
                .map(|(name, value)| {
                    let place = format!("storageClassConfigs: {name}");
                    let entry = object(value, &place)?;
                    pass_over(entry, &format!("{place}: "), &LOCATION_KEYS, &mut passed_over)?;
                    pass_over_entries(entry, &format!("{place}: "), &mut passed_over)?;
                    Ok((name.clone(), location(entry, &place)?))
                })
                .collect::<Result<_, ConfigError>>()?,
        };
        let top_keys = [&LOCATION_KEYS[..], &TOP_KEYS[..]].concat();
        pass_over(top, "", &top_keys, &mut passed_over)?;
        // With entries by class rancher ignores what stands beside them.
        let locations = if classes.is_empty() {
            pass_over_entries(top, "", &mut passed_over)?;
            Locations::All(location(top, "it")?)
        } else {
            for key in top.keys().filter(|key| LOCATION_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))) {
                passed_over.push((key.clone(), "it meant nothing before either, beside storageClassConfigs"));
            }
            Locations::ByClass(classes)
        };
        let mut commands = Vec::new();
        for key in ["setupCommand", "teardownCommand"] {
            if let Some(command) = string(top, key)? {
                commands.push((key.to_owned(), command.to_owned()));
            }
        }
        let timeout = match field(top, "cmdTimeoutSeconds") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let form = || ConfigError::Form { place: "cmdTimeoutSeconds".to_owned(), expected: "a whole number" };
                Some(value.as_i64().ok_or_else(form)?)
            }
        };
        Ok(Self { locations, timeout, commands, passed_over })
    }
}

impl Config {
    /// The classes that it has entries for; `None` when it is for every class.
    #[must_use]
    pub fn classes(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.locations {
            Locations::All(_) => None,
            Locations::ByClass(entries) => Some(entries.keys().map(String::as_str)),
        }
    }

    /// The paths that are the same on every node, and the class of each; `None` where it is for every class.
    pub fn shared_paths(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        let (all, entries) = match &self.locations {
            Locations::All(location) => (Some((None, location)), None),
            Locations::ByClass(entries) => (None, Some(entries)),
        };
        let by_class = entries.into_iter().flatten().map(|(class, location)| (Some(class.as_str()), location));
        all.into_iter().chain(by_class).filter_map(|(class, location)| match location {
            Location::Shared(path) => Some((class, path.as_str())),
            Location::Nodes(_) => None,
        })
    }
}

/// Places that say nothing, and why.
type PassedOver = Vec<(String, &'static str)>;

const LOCATION_KEYS: [&str; 2] = ["nodePathMap", "sharedFileSystemPath"];
const TOP_KEYS: [&str; 4] = ["storageClassConfigs", "setupCommand", "teardownCommand", "cmdTimeoutSeconds"];
const ENTRY_KEYS: [&str; 2] = ["node", "paths"];

/// Names the keys that rancher passes over too.
///
/// # Errors
/// When a known key is there in two spellings: the last one in the text counts, and that order is not known here.
fn pass_over(
    object: &Map<String, Value>,
    place: &str,
    known: &[&str],
    into: &mut PassedOver,
) -> Result<(), ConfigError> {
    let mut seen: Vec<String> = Vec::new();
    for key in object.keys() {
        if !known.iter().any(|known| known.eq_ignore_ascii_case(key)) {
            into.push((format!("{place}{key}"), "it meant nothing before either"));
        } else if seen.contains(&key.to_ascii_lowercase()) {
            return Err(ConfigError::Twice(format!("{place}{key}")));
        } else {
            seen.push(key.to_ascii_lowercase());
        }
    }
    Ok(())
}

/// A text; `None` where it is missing or empty. Any other type makes the old provisioner refuse the whole.
fn string<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, ConfigError> {
    match field(object, key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(ConfigError::Form { place: key.to_owned(), expected: "a text" }),
    }
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| ConfigError::Form { place: place.to_owned(), expected: "an object" })
}

/// Names the unknown keys of the entries of a `nodePathMap`.
fn pass_over_entries(object: &Map<String, Value>, place: &str, into: &mut PassedOver) -> Result<(), ConfigError> {
    let entries = field(object, "nodePathMap").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for entry in entries.iter().filter_map(Value::as_object) {
        let node = field(entry, "node").and_then(Value::as_str).unwrap_or_default();
        pass_over(entry, &format!("{place}nodePathMap: {node}: "), &ENTRY_KEYS, into)?;
    }
    Ok(())
}

fn location(object: &Map<String, Value>, place: &str) -> Result<Location, ConfigError> {
    let shared = string(object, "sharedFileSystemPath")?;
    let nodes = match field(object, "nodePathMap") {
        None | Some(Value::Null) => &[],
        Some(value) => {
            let form = || ConfigError::Form { place: "nodePathMap".to_owned(), expected: "a list" };
            value.as_array().ok_or_else(form)?.as_slice()
        }
    };
    match (shared, nodes.is_empty()) {
        (Some(path), true) => Ok(Location::Shared(checked(path)?)),
        (None, false) => Ok(Location::Nodes(node_paths(nodes)?)),
        _ => Err(ConfigError::Source(place.to_owned())),
    }
}

fn node_paths(entries: &[Value]) -> Result<Vec<NodePaths>, ConfigError> {
    let mut read: Vec<NodePaths> = Vec::new();
    for entry in entries {
        let entry = object(entry, "an entry of nodePathMap")?;
        let form = |place: &str, expected| ConfigError::Form { place: place.to_owned(), expected };
        let name = string(entry, "node")?.ok_or_else(|| form("node", "the name of a node"))?;
        let mut paths: Vec<String> = Vec::new();
        let listed = match field(entry, "paths") {
            None | Some(Value::Null) => &[],
            Some(value) => value.as_array().ok_or_else(|| form("paths", "a list"))?.as_slice(),
        };
        for path in listed {
            let path = checked(path.as_str().ok_or_else(|| form("paths", "a list of paths"))?)?;
            if paths.contains(&path) {
                return Err(ConfigError::Twice(path));
            }
            paths.push(path);
        }
        let node = (name != OTHERS).then(|| name.to_owned());
        if read.iter().any(|other| other.node == node) {
            return Err(ConfigError::Twice(name.to_owned()));
        }
        read.push(NodePaths { node, paths });
    }
    Ok(read)
}

/// A path in its shortest form, as Go's `filepath.Abs` gives it.
pub(super) fn checked(path: &str) -> Result<String, ConfigError> {
    let refused = || ConfigError::Path(path.chars().take(128).collect());
    if !path.starts_with('/') {
        return Err(refused());
    }
    let clean = plain_path(path);
    checked_base(&clean).map_err(|_| refused())?;
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_match_in_any_case_and_paths_are_cleaned() {
        let config = Config::parse(
            r#"{"NODEPATHMAP":[{"Node":"DEFAULT_PATH_FOR_NON_LISTED_NODES","PATHS":["/opt//lpp/"]},{"node":"n","paths":[]}],
               "cmdTimeoutSeconds":30,"setupCommand":"/x","unknown":1}"#,
        )
        .unwrap();
        let expected = vec![
            NodePaths { node: None, paths: vec!["/opt/lpp".to_owned()] },
            NodePaths { node: Some("n".to_owned()), paths: vec![] },
        ];
        assert_eq!(config.locations, Locations::All(Location::Nodes(expected)));
        assert_eq!((config.timeout, config.commands), (Some(30), vec![("setupCommand".to_owned(), "/x".to_owned())]));
    }

    #[test]
    fn entries_by_class_win_over_the_rest() {
        let config = Config::parse(
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"storageClassConfigs":{"c":{"sharedFilesystemPath":"/s"}}}"#,
        )
        .unwrap();
        let Locations::ByClass(classes) = config.locations else { panic!("not by class") };
        assert_eq!(classes["c"], Location::Shared("/s".to_owned()));
    }

    #[test]
    fn what_makes_rancher_fail_or_crash_is_an_error() {
        for text in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"nodePathMap":[null]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":[""]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/"]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["a"]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a","/a/"]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a/../.."]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]},{"node":"n","paths":["/b"]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"sharedFileSystemPath":"/s"}"#,
            r#"{"nodePathMap":[{"paths":["/a"]}]}"#,
            r#"{"nodePathMap":{}}"#,
            r#"{"storageClassConfigs":{"c":{}}}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"NodePathMap":[{"node":"n","paths":["/b"]}]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"setupCommand":["/x"]}"#,
            r#"{"nodePathMap":[{"node":"n","paths":["/a"]}],"cmdTimeoutSeconds":"30"}"#,
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_path_is_plain(
            text in "\\PC{0,60}|\\{\"nodePathMap\":\\[\\{\"node\":\"n\",\"paths\":\\[\"[/.a]{0,9}\"\\]\\}\\]\\}",
        ) {
            if let Ok(Config { locations: Locations::All(Location::Nodes(nodes)), .. }) = Config::parse(&text) {
                for path in nodes.iter().flat_map(|node| &node.paths) {
                    prop_assert!(checked_base(path).is_ok(), "{}", path);
                }
            }
        }
    }
}
