//! `config.json`, as rancher reads it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::crd::checked_base;

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
    /// Commands that replace the scripts.
    pub commands: Vec<String>,
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
        let classes = match field(top, "storageClassConfigs") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(value) => object(value, "storageClassConfigs")?
                .iter()
                .map(|(name, value)| Ok((name.clone(), location(object(value, name)?, name)?)))
                .collect::<Result<_, ConfigError>>()?,
        };
        // With entries by class rancher ignores what stands beside them.
        let locations =
            if classes.is_empty() { Locations::All(location(top, "it")?) } else { Locations::ByClass(classes) };
        let commands = ["setupCommand", "teardownCommand"].iter().filter_map(|key| {
            let command = field(top, key)?.as_str()?;
            (!command.is_empty()).then(|| (*key).to_owned())
        });
        let timeout = field(top, "cmdTimeoutSeconds").and_then(Value::as_i64).filter(|seconds| *seconds > 0);
        Ok(Self { locations, timeout, commands: commands.collect() })
    }
}

/// The value of a key in any case; the last one counts, as in Go.
fn field<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.iter().rev().find(|(found, _)| found.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| ConfigError::Form { place: place.to_owned(), expected: "an object" })
}

fn location(object: &Map<String, Value>, place: &str) -> Result<Location, ConfigError> {
    let shared = field(object, "sharedFileSystemPath").and_then(Value::as_str).filter(|path| !path.is_empty());
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
        let name = field(entry, "node").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| form("node", "the name of a node"))?;
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
fn checked(path: &str) -> Result<String, ConfigError> {
    let refused = || ConfigError::Path(path.chars().take(128).collect());
    if !path.starts_with('/') {
        return Err(refused());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let clean = format!("/{}", parts.join("/"));
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
        assert_eq!((config.timeout, config.commands), (Some(30), vec!["setupCommand".to_owned()]));
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
