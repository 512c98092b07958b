//! How a case is written. Unknown fields are errors, so that a typo cannot silence an expectation.

use std::collections::BTreeMap;
use std::path::Path;

use latebind_test_support::cases::{changed, from_file, listed, stem};
use serde::Deserialize;
use serde_json::Value;

/// One file of a topic's folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence that says what is the matter.
    pub name: String,
    /// Why the expectation is right, in our own words.
    #[allow(dead_code, reason = "it is for readers")]
    pub source: Option<String>,
    /// The file of `tests/diagnose/base` that the case starts from.
    pub base: Option<String>,
    /// What the base has and the case has not, as `Kind/name`.
    #[serde(default)]
    pub without: Vec<String>,
    /// The objects were read from a dump, and not from a cluster.
    #[serde(default)]
    pub dump: bool,
    /// When they were read; nothing where that is not known.
    #[serde(default = "ten_past_ten")]
    pub now: Option<String>,
    /// Kinds of which not all objects are known: `events`, `pods`, `nodes` ... All others are.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// Kubernetes objects. One that the base has too changes it: only the fields that differ are given.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// `pod/web`, `pvc/data`, `pv/pv-a` or `node/node-a`; `all` for everything that does not move.
    pub subject: String,
    /// What must come out.
    pub expect: Expect,
}

/// What must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expect {
    /// The cause; of `all` that of the first row.
    pub cause: String,
    /// With `all`: `object cause`, in their order.
    pub rows: Option<Vec<String>>,
    /// What the text has to hold.
    #[serde(default)]
    pub says: Vec<String>,
    /// What lines of evidence have to hold, each `from: says`.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// The first command.
    pub next: Option<String>,
    /// That command removes the cause.
    #[serde(default)]
    pub fixes: bool,
    /// What is named as not known.
    #[serde(default)]
    pub not_known: Vec<String>,
    /// The objects of the chain, in their order.
    pub chain: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    objects: Vec<Value>,
}

#[allow(clippy::unnecessary_wraps, reason = "a default has the field's type")]
fn ten_past_ten() -> Option<String> {
    Some("2026-01-01T10:10:00Z".to_owned())
}

/// Every case, by folder and file, in the order of these names.
pub fn read_all(directory: &Path) -> Result<Vec<(String, Case)>, String> {
    let mut bases = BTreeMap::new();
    for path in listed(&directory.join("base"))? {
        bases.insert(stem(&path)?, from_file::<Base>(&path)?);
    }
    let mut cases = Vec::new();
    for folder in listed(directory)?.into_iter().filter(|path| path.is_dir() && !path.ends_with("base")) {
        let topic = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in listed(&folder)? {
            let mut case: Case = from_file(&path)?;
            expand(&mut case, &bases).map_err(|error| format!("{}: {error}", path.display()))?;
            cases.push((format!("{topic}/{}", stem(&path)?), case));
        }
    }
    match bases.keys().find(|base| !cases.iter().any(|(_, case)| case.base.as_ref() == Some(base))) {
        Some(unused) => Err(format!("no case starts from base/{unused}.yaml")),
        None => Ok(cases),
    }
}

/// Adds to a case what its base has and the case neither leaves out nor replaces.
fn expand(case: &mut Case, bases: &BTreeMap<String, Base>) -> Result<(), String> {
    let (name, objects) = match &case.base {
        Some(name) => {
            (name.as_str(), bases.get(name).ok_or_else(|| format!("there is no base {name}"))?.objects.clone())
        }
        None => ("(none)", Vec::new()),
    };
    case.objects = changed(name, objects, &case.without, std::mem::take(&mut case.objects))?;
    Ok(())
}
