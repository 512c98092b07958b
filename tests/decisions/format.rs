//! How a case is written. Unknown fields are errors, so that a typo cannot silence an expectation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use latebind::binding::{PinStyle, Rules};
use latebind::cluster::assume::{AssumedBinding, AssumedNode, Assumptions};
use latebind::cluster::{Fact, Facts, Unlisted};
use serde::Deserialize;
use serde_json::Value;

/// One file of `tests/cases`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence that says what is decided.
    pub name: String,
    /// What the case proves: a kind such as `row` or `aspect`, and which.
    pub proves: String,
    /// Why the expectation is right, in our own words.
    pub source: Option<String>,
    /// What it means that an object is not listed.
    pub view: View,
    /// Choices of the administrator; the defaults where they are left out.
    pub rules: Option<RulesOfCase>,
    /// What is assumed of objects that are not listed; nothing where it is left out.
    pub assume: Option<AssumeOfCase>,
    /// Kubernetes objects.
    pub objects: Vec<Value>,
    /// The Pod that is decided about. Exactly one of this and the next two is given.
    pub pod: Option<Value>,
    /// The workload that is decided about.
    pub workload: Option<Value>,
    /// The claim that is decided about, as `namespace/name` of one of the objects.
    pub claim: Option<String>,
    /// What must come out.
    pub expect: Expect,
}

/// What it means that an object is not listed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// It does not exist.
    Cluster,
    /// Nothing is known about it.
    Manifests,
}

/// Choices of the administrator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesOfCase {
    /// By what Pods are pinned.
    pub pin: Option<PinStyle>,
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
    /// Whether the Pod would wait for ever if it was left alone.
    #[serde(default)]
    pub stuck: bool,
    /// Rows of the truth table, by volume.
    pub rows: Option<BTreeMap<String, u8>>,
    /// What the rescue loop does for each claim, by volume.
    pub claims: Option<BTreeMap<String, Word>>,
    /// Codes of all findings, each once.
    pub findings: Option<Vec<String>>,
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
    /// The kind of what is proved, and which: `("row", "4")`.
    pub fn kind_and_slug(&self) -> (&str, &str) {
        self.proves.split_once(' ').unwrap_or((&self.proves, ""))
    }

    /// The facts that the objects make.
    pub fn facts(&self) -> Result<Facts, String> {
        let mut facts = Facts::new(match self.view {
            View::Cluster => Unlisted::Absent,
            View::Manifests => Unlisted::Unknown,
        });
        for (place, object) in self.objects.iter().enumerate() {
            let (group, kind) = group_and_kind(object);
            match Fact::read(group, kind, object) {
                Some(Ok(fact)) => facts.add(fact),
                Some(Err(error)) => return Err(format!("objects[{place}] ({kind}): {error}")),
                None => return Err(format!("objects[{place}]: {group:?} {kind:?} is not a kind that decisions read")),
            }
        }
        Ok(facts)
    }

    /// What is assumed.
    pub fn assumptions(&self) -> Result<Assumptions, String> {
        let nothing = Assumptions { binding: AssumedBinding::Unknown, node: AssumedNode::Unknown };
        self.assume.as_ref().map_or(Ok(nothing), |assume| {
            Ok(Assumptions { binding: assume.binding.parse()?, node: assume.node.parse()? })
        })
    }

    /// The administrator's choices.
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        if let Some(chosen) = &self.rules {
            rules.pin = chosen.pin.unwrap_or(rules.pin);
            rules.schedulers = chosen.schedulers.clone().unwrap_or(rules.schedulers);
        }
        rules
    }
}

/// Group and kind of an object: the group of `apps/v1` is `apps`, that of `v1` is empty.
pub fn group_and_kind(object: &Value) -> (&str, &str) {
    let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    (group, text("kind"))
}

/// Every case of a directory with the name of its file, in the order of these names.
pub fn read_all(directory: &Path) -> Result<Vec<(String, Case)>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", directory.display()))?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            return Err(format!("{} is not a .yaml file", path.display()));
        }
        files.push(path);
    }
    files.sort();
    files.iter().map(read).collect()
}

fn read(path: &PathBuf) -> Result<(String, Case), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
    let case: Case = serde_saphyr::from_str(&text).map_err(|error| told(&error))?;
    let given = [case.pod.is_some(), case.workload.is_some(), case.claim.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(told(&"give exactly one of pod, workload, claim"));
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((stem, case))
}
