//! How a case is written. Unknown fields are errors, so that a typo cannot silence an expectation.

use std::collections::BTreeSet;
use std::path::Path;

use latebind::crd::{LocalVolume, Orphan};
use serde::Deserialize;
use serde_json::Value;

/// A case and its file, as `topic/name`.
pub struct File {
    /// The file.
    pub file: String,
    /// The case.
    pub case: Case,
}

/// One file. `$(local UID NODE)` in its text stands for the name of the LocalVolume of a claim on a node.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence that says what is decided.
    pub name: String,
    /// Why the expectation is right, in our own words.
    pub source: Option<String>,
    /// Objects as the API server has them. What is not listed does not exist, except for what `unknown` names.
    pub objects: Vec<Value>,
    /// Kinds of which nothing is known: `claims`, `volumes`, `nodes`, `pods`, `pools`.
    #[serde(default)]
    pub unknown: BTreeSet<String>,
    /// What the process has done that the facts do not show yet; for a claim.
    #[serde(default)]
    pub past: PastOfCase,
    /// The claim that is decided about, as `namespace/name`. Exactly one of this and the next four is given.
    pub claim: Option<String>,
    /// The LocalVolume that is decided about.
    pub directory: Option<String>,
    /// The volume that is decided about.
    pub volume: Option<String>,
    /// The volume that is to be let go, since its directory is gone.
    pub removal: Option<String>,
    /// The orphan that is decided about.
    pub orphan: Option<Orphan>,
    /// What must come out.
    pub expect: Expect,
}

/// What a process remembers of a claim.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastOfCase {
    /// Its volume was made a moment ago.
    #[serde(default)]
    pub created: bool,
    /// LocalVolumes that were ordered a moment ago.
    #[serde(default)]
    pub reserved: BTreeSet<String>,
    /// Nodes whose agents have been silent for too long.
    #[serde(default)]
    pub silent: BTreeSet<String>,
}

/// What must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The step, as the page shows it.
    pub step: String,
    /// A part of the words that go with it.
    pub why: Option<String>,
    /// True when a person hears of it: an event is written.
    pub told: Option<bool>,
    /// Fields of the object that is written, by JSON pointer.
    #[serde(default)]
    pub fields: std::collections::BTreeMap<String, Value>,
}

/// Every case of every topic, in the order of the files' names.
pub fn read_all(directory: &Path) -> Result<Vec<File>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut files = Vec::new();
    for topic in std::fs::read_dir(directory).map_err(told)? {
        let topic = topic.map_err(told)?;
        if !topic.file_type().map_err(told)?.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(topic.path()).map_err(told)? {
            files.push(entry.map_err(told)?.path());
        }
    }
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<File, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if path.extension().is_none_or(|extension| extension != "yaml") {
        return Err(told(&"not a .yaml file"));
    }
    let text = named(&std::fs::read_to_string(path).map_err(|error| told(&error))?).map_err(|error| told(&error))?;
    let case: Case = serde_saphyr::from_str(&text).map_err(|error| told(&error))?;
    let given = [
        case.claim.is_some(),
        case.directory.is_some(),
        case.volume.is_some(),
        case.removal.is_some(),
        case.orphan.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(told(&"give exactly one of claim, directory, volume, removal, orphan"));
    }
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let topic = part(path.parent().and_then(Path::file_name));
    Ok(File { file: format!("{topic}/{}", part(path.file_stem())), case })
}

/// Puts names in the place of `$(local UID NODE)`.
fn named(text: &str) -> Result<String, String> {
    let mut parts = text.split("$(local ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once(')').ok_or("`$(local` without `)`")?;
        let (uid, node) = inner.split_once(' ').ok_or("`$(local` without a node")?;
        out.push_str(&LocalVolume::name_for(uid, node));
        out.push_str(rest);
    }
    Ok(out)
}
