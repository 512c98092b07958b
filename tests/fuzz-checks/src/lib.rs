//! What must hold for any bytes whatever. Each function panics where it does not.
//!
//! The fuzz targets call these, and so does the test `fuzzed` with the seeds and with generated input. A crate of its own,
//! so that the fuzzers' workspace and latebind's can both depend on it.

#![allow(clippy::missing_panics_doc, reason = "panicking is what these functions are for")]

mod manifests;
mod patch;
mod review;
mod timed;

pub use manifests::manifests;
pub use patch::patch;
pub use review::{cluster, objects, review, review_in};
pub use timed::{LONGEST, in_time, timed, worked};

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::storage::v1::StorageClass;
use latebind::agent::Marker;
use latebind::crd::{LocalPool, PathError, VolumePath, VolumeType, checked_base};
use latebind::model::{Class, Node};
use latebind::rancher::{self, Config, Import, RANCHER};
use latebind::volumes::{ClassParameters, Names, PathPattern};
use serde_json::{Value, json};

/// Lines: a pattern, and the namespace, claim, UID and class to fill in.
///
/// Whatever the pattern and the names, the directory lies strictly beneath the base and tells the claim apart.
pub fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (text, namespace, claim, uid, class) = (next(), next(), next(), next(), next());
    let volume = format!("pvc-{uid}");
    if let Some((translated, _)) = timed("translate_pattern", || rancher::translate_pattern(text)) {
        PathPattern::parse(&translated).unwrap_or_else(|error| panic!("{text:?} became {translated:?}: {error}"));
    }
    let Ok(pattern) = timed("PathPattern::parse", || PathPattern::parse(text)) else { return };
    if uid.is_empty() {
        // The API server gives every claim one.
        return;
    }
    let names = Names { namespace, claim, uid, volume: &volume, class };
    let rendered = timed("PathPattern::render", || pattern.render(&names));
    if let Ok(path) = &rendered {
        descends(path, "/base");
        assert!(path.as_str().contains(uid), "{path} does not tell whose it is");
        let other: String = uid.chars().map(|letter| if letter == 'a' { 'b' } else { 'a' }).collect();
        let volume = format!("pvc-{other}");
        let of_other = pattern.render(&Names { uid: &other, volume: &volume, ..names });
        assert_ne!(of_other.as_ref(), Ok(path), "two claims share a directory");
    }
    let proper = [namespace, claim, uid, class].iter().all(|name| is_name(name));
    // No variable takes less than five bytes.
    let longest = [namespace.len(), claim.len(), volume.len(), class.len()].into_iter().max().unwrap_or(0);
    let fits = text.len() + (text.len() / 5) * longest <= 255;
    match rendered {
        Err(PathError::TooLong | PathError::Component(_)) if proper && !fits => {}
        Err(error) if proper => panic!("{text:?} was accepted and does not serve {names:?}: {error}"),
        _ => {}
    }
}

/// What Kubernetes takes as the name of a claim or class; namespaces and UIDs are narrower.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.')
        && text
            .split('.')
            .all(|label| label.bytes().next().is_some_and(plain) && label.bytes().next_back().is_some_and(plain))
}

fn descends(path: &VolumePath, base: &str) {
    assert_eq!(VolumePath::parse(path.as_str()).as_ref(), Ok(path));
    let joined = Path::new(base).join(path.as_str());
    let below = joined.strip_prefix(base).unwrap_or_else(|_| panic!("{path:?} leaves the base"));
    assert!(below.components().next().is_some(), "{path:?} is the base itself");
    for part in below.components() {
        let Component::Normal(name) = part else { panic!("{path:?} does not only descend") };
        assert!(!name.as_encoded_bytes().starts_with(b"."), "{path:?} could be the agent's own directory");
    }
    assert_eq!(joined.to_str(), Some(path.beneath(base).as_str()));
}

/// A `config.json`; after a line `%%`, what a class has: `parameters`, `annotations`, `mountOptions`.
///
/// What is read becomes a pool and a class that our own parser takes, and whatever is not kept is named.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, class) = text.split_once("\n%%\n").unwrap_or((text, "{}"));
    let Ok(config) = timed("Config::parse", || Config::parse(text)) else { return };
    let Some(class) = class_of(class) else { return };
    let made = timed("import", || rancher::import(&config, std::slice::from_ref(&class)));
    let [pool] = made.pools.as_slice() else {
        assert!(made.pools.is_empty() && made.classes.is_empty());
        assert!(said(&made, "class local-path"), "the class vanished without a word");
        return;
    };
    paths_are_plain(pool);
    paths_are_kept(text, pool);
    let translated = Class::deserialized(&made.classes[0]);
    let read = ClassParameters::of(&translated);
    let read = read.unwrap_or_else(|error| panic!("the import wrote a class that is refused: {error}"));
    for (key, value) in class.parameters.iter().flatten() {
        let ours = match key.as_str() {
            "userPattern" => "uid",
            "groupPattern" => "gid",
            "permPattern" => "mode",
            key => key,
        };
        if value.trim().is_empty() {
            continue;
        }
        let kept = translated.parameters.get(ours).is_some_and(|it| match ours {
            "pathPattern" => same_directory(value, it),
            _ => it.trim() == value.trim(),
        });
        assert!(kept || said(&made, key), "{key} was lost without a word");
    }
    // Served under its old name, a class means the same as what the import makes of it.
    if let Ok(adopted) = rancher::parameters(&Class::deserialized(&class)) {
        assert_eq!(adopted, read);
    }
    assert!(read.volume_type == VolumeType::Local || read.mount_options.is_empty());
}

/// Reads one of our own kinds from the API's.
trait Deserialized {
    fn deserialized(from: &StorageClass) -> Self;
}

impl Deserialized for Class {
    fn deserialized(from: &StorageClass) -> Self {
        let value = serde_json::to_value(from).unwrap_or_default();
        serde_json::from_value(value).unwrap_or_else(|error| panic!("a class that cannot be read: {error}"))
    }
}

fn class_of(text: &str) -> Option<StorageClass> {
    let given: BTreeMap<String, Value> = serde_json::from_str(text).ok()?;
    let mut object = json!({ "metadata": { "name": "local-path" }, "provisioner": RANCHER });
    for key in ["parameters", "mountOptions"] {
        object[key] = given.get(key).cloned().unwrap_or_default();
    }
    object["metadata"]["annotations"] = given.get("annotations").cloned().unwrap_or_default();
    serde_json::from_value(object).ok()
}

/// Whether a template of the old provisioner's and a pattern of ours name the same directory for one claim.
fn same_directory(template: &str, pattern: &str) -> bool {
    let names = Names { namespace: "n", claim: "c", uid: "u", volume: "pvc-u", class: "local-path" };
    let fields = [(".PVC.Namespace", "n"), (".PVC.Name", "c"), (".PVC.UID", "u"), (".PVName", "pvc-u")];
    let mut parts = template.split("{{");
    let mut old = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((action, after)) = part.split_once("}}") else { return false };
        let action = action.trim_matches(|letter: char| letter == '-' || letter.is_whitespace());
        let Some((_, value)) = fields.iter().find(|(field, _)| *field == action) else { return false };
        old.push_str(value);
        old.push_str(after);
    }
    let rendered = PathPattern::parse(pattern).map(|pattern| pattern.render(&names));
    matches!(rendered, Ok(Ok(path)) if path.as_str() == old.trim().trim_matches('/'))
}

fn said(made: &Import, word: &str) -> bool {
    made.notes.iter().any(|note| note.contains(word))
}

fn paths_are_plain(pool: &LocalPool) {
    for path in pool.spec.nodes.iter().flat_map(|entry| &entry.paths) {
        assert!(checked_base(&path.path).is_ok(), "{} in a pool", path.path);
    }
    let others = pool.spec.nodes.iter().filter(|entry| entry.names.is_none() && entry.selector.is_none()).count();
    assert!(others <= 1, "two entries stand for all other nodes");
}

/// Every node that the plain form of the file names has as many paths as it had.
fn paths_are_kept(text: &str, pool: &LocalPool) {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let keys: Vec<&String> = value.as_object().into_iter().flat_map(|it| it.keys()).collect();
    // Keys match in any case; which of two wins is another question.
    if keys != ["nodePathMap"] {
        return;
    }
    for entry in value["nodePathMap"].as_array().into_iter().flatten() {
        let keys: Vec<&String> = entry.as_object().into_iter().flat_map(|it| it.keys()).collect();
        let (Some(name), Some(paths)) = (entry["node"].as_str(), entry["paths"].as_array()) else { continue };
        if keys.len() != 2 || name == "DEFAULT_PATH_FOR_NON_LISTED_NODES" {
            continue;
        }
        let Ok(node) = serde_json::from_value::<Node>(json!({ "metadata": { "name": name } })) else { continue };
        assert_eq!(pool.spec.paths_on(&node).len(), paths.len(), "paths of {name}");
    }
}

/// A marker file.
///
/// What is read is written back the same, and a marker that was cut off anywhere is an error.
pub fn marker(data: &[u8]) {
    let Ok(marker) = timed("Marker::parse", || Marker::parse(data)) else { return };
    let written = serde_json::to_vec(&marker).unwrap_or_else(|error| panic!("{marker:?}: {error}"));
    assert_eq!(Marker::parse(&written).as_ref(), Ok(&marker));
    for end in 0..written.len() {
        assert!(Marker::parse(&written[..end]).is_err(), "cut off after {end} bytes, it was read all the same");
    }
    let mut longer = written.clone();
    longer.extend_from_slice(&written);
    assert!(Marker::parse(&longer).is_err(), "two markers in one were read as one");
    assert!(marker.same_owner(&marker));
}
