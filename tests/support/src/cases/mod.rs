//! How a case is written. Unknown fields are errors, so that a typo cannot silence an expectation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

mod base;

pub use base::{Base, changed, expand};

/// One file of a topic's folder in `tests/cases`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence that says what is decided.
    pub name: String,
    /// What the case proves: a kind such as `row` or `aspect`, and which.
    pub proves: String,
    /// Why the expectation is right, in our own words.
    pub source: Option<String>,
    /// What it means that an object is not listed; that it does not exist where this is left out.
    #[serde(default)]
    pub view: View,
    /// The file of `tests/cases/base` that the case starts from.
    pub base: Option<String>,
    /// What the base has and the case has not, as `Kind/name`.
    #[serde(default)]
    pub without: Vec<String>,
    /// Kinds of which all objects are listed, though the view is of manifests: nodes, volumes, capacities ...
    #[serde(default)]
    pub complete: Vec<String>,
    /// Choices of the administrator; the defaults where they are left out.
    pub rules: Option<RulesOfCase>,
    /// What is assumed of objects that are not listed; nothing where it is left out.
    pub assume: Option<AssumeOfCase>,
    /// Kubernetes objects. One that the base has too changes it: only the fields that differ are given.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// The Pod that is decided about, or what differs in that of the base. At most one of this and the next two is given.
    pub pod: Option<Value>,
    /// The workload that is decided about.
    pub workload: Option<Value>,
    /// The claim that is decided about, as `namespace/name` of one of the objects.
    pub claim: Option<String>,
    /// What must come out.
    pub expect: Expect,
}

/// What it means that an object is not listed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// It does not exist.
    #[default]
    Cluster,
    /// Nothing is known about it.
    Manifests,
}

/// Choices of the administrator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesOfCase {
    /// By what Pods are pinned, as `--pin`.
    pub pin: Option<String>,
    /// Schedulers that bind volumes.
    pub schedulers: Option<Vec<String>>,
}

/// What is assumed, in the words of the command line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssumeOfCase {
    /// As `--assume-binding-mode`.
    pub binding: String,
    /// As `--assume-node`.
    pub node: String,
    /// As `--assume-storage`.
    pub storage: Option<String>,
    /// As `--assume-cluster`.
    pub cluster: Option<String>,
}

/// What must come out for a Pod, or for a claim: then only `remedy` and `findings` are given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The remedy.
    pub remedy: Option<Word>,
    /// With a rewrite: by what the Pod is pinned.
    pub pin: Option<BTreeMap<String, String>>,
    /// With `selectInTemplate`: the volumes.
    pub volumes: Option<Vec<String>>,
    /// With `hopeless`: the finding that says why.
    pub reason: Option<String>,
    /// Whether the Pod would wait forever if it was left alone.
    #[serde(default)]
    pub stuck: bool,
    /// Rows of the truth table, by volume.
    pub rows: Option<BTreeMap<String, u8>>,
    /// Whether the Pod waits for each of its ResourceClaims, by entry: `stuck`, `ok` or `undecided`.
    pub devices: Option<BTreeMap<String, String>>,
    /// What the rescue loop does for each claim, by volume.
    pub claims: Option<BTreeMap<String, Word>>,
    /// Codes of all findings, each once.
    pub findings: Option<Vec<String>>,
    /// By code, what the message of a finding has to hold.
    pub says: Option<BTreeMap<String, Vec<String>>>,
    /// Fields of the Pod's `spec` after the patch; `null` means that the field is gone.
    pub after: Option<BTreeMap<String, Value>>,
    /// Assumptions that were used, such as `{delayedClass: local-path}`.
    #[serde(default)]
    pub assumed: Vec<Word>,
    /// With a workload whose Pods differ: one expectation a Pod, and nothing else.
    pub pods: Option<Vec<Expect>>,
}

/// A remedy: a word, or a word with what it acts on, such as `{selectNode: node-a}`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// `leave`, `wait`, `unselect`, `rewrite` ...; `nothing` stands for every remedy that writes nothing.
    Alone(String),
    /// `selectNode`, `prebind` or `hopeless`, and its object.
    With(BTreeMap<String, String>),
}

impl Word {
    /// As the runner writes what was decided: `selectNode node-a`.
    pub fn text(&self) -> String {
        match self {
            Self::Alone(word) => word.clone(),
            Self::With(words) => {
                words.iter().map(|(word, object)| format!("{word} {object}")).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Case {
    /// By what Pods are pinned, as `--pin`.
    pub fn pin(&self) -> &str {
        self.rules.as_ref().and_then(|rules| rules.pin.as_deref()).unwrap_or("auto")
    }

    /// Schedulers that bind volumes, where the case names any.
    pub fn schedulers(&self) -> Option<Vec<String>> {
        self.rules.as_ref().and_then(|rules| rules.schedulers.clone())
    }

    /// The kind of what is proved, and which: `("row", "4")`.
    pub fn kind_and_slug(&self) -> (&str, &str) {
        self.proves.split_once(' ').unwrap_or((&self.proves, ""))
    }
}

/// Group and kind of an object: the group of `apps/v1` is `apps`, that of `v1` is empty.
pub fn group_and_kind(object: &Value) -> (&str, &str) {
    let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    (group, text("kind"))
}

/// Every case of a directory, by folder and file (`rows/04-dynamic`), in the order of these names.
pub fn read_all(directory: &Path) -> Result<Vec<(String, Case)>, String> {
    let mut folders = listed(directory)?;
    // The suite that runs the cases lies beside them.
    folders.retain(|path| path.extension().is_none_or(|extension| extension != "rs"));
    if let Some(stray) = folders.iter().find(|path| !path.is_dir()) {
        return Err(format!("{}: a case lies in the folder of its topic", stray.display()));
    }
    let base = directory.join("base");
    folders.retain(|folder| *folder != base);
    let mut bases = BTreeMap::new();
    for path in listed(&base)? {
        bases.insert(stem(&path)?, from_file::<Base>(&path)?);
    }
    let mut cases = Vec::new();
    for folder in folders {
        let topic = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in listed(&folder)? {
            cases.push((format!("{topic}/{}", stem(&path)?), read(&path, &bases)?));
        }
    }
    match bases.keys().find(|base| !cases.iter().any(|(_, case)| case.base.as_ref() == Some(base))) {
        Some(unused) => Err(format!("no case starts from {}/{unused}.yaml", base.display())),
        None => Ok(cases),
    }
}

/// What lies in a directory, in the order of the names.
pub fn listed(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |error| format!("{}: {error}", directory.display());
    let entries = std::fs::read_dir(directory).map_err(told)?;
    let mut paths = entries.map(|entry| Ok(entry.map_err(told)?.path())).collect::<Result<Vec<_>, String>>()?;
    paths.sort();
    Ok(paths)
}

/// The name of a YAML file without its ending.
pub fn stem(path: &Path) -> Result<String, String> {
    let stem = path.file_stem().filter(|_| path.extension().is_some_and(|extension| extension == "yaml"));
    stem.map(|stem| stem.to_string_lossy().into_owned()).ok_or_else(|| format!("{}: not a .yaml file", path.display()))
}

/// Reads a YAML file.
pub fn from_file<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
    serde_saphyr::from_str(&text).map_err(|error| told(&error))
}

fn read(path: &Path, bases: &BTreeMap<String, Base>) -> Result<Case, String> {
    let mut case: Case = from_file(path)?;
    expand(&mut case, bases).map_err(|error| format!("{}: {error}", path.display()))?;
    let given = [case.pod.is_some(), case.workload.is_some(), case.claim.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(format!("{}: give exactly one of pod, workload, claim", path.display()));
    }
    Ok(case)
}
