//! ginkgo's report of a run.

use anyhow::{Context, Result};
use serde::Deserialize;

/// The specs of one run.
#[derive(Debug)]
pub struct Report {
    specs: Vec<Spec>,
}

/// One spec.
#[derive(Debug)]
pub struct Spec {
    /// What it says of itself, without the groups that it is in.
    pub text: String,
    /// The innermost group that it is in, such as `[Testpattern: Dynamic PV (default fs)] subPath`.
    pub group: String,
    /// It breaks nodes.
    pub disruptive: bool,
    pub outcome: Outcome,
}

/// What became of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// With what it said.
    Failed(String),
    /// By itself, and why.
    Skipped(String),
    /// It was not asked for.
    NotSelected,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawReport {
    #[serde(default)]
    spec_reports: Vec<RawSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSpec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: RawFailure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawFailure {
    #[serde(default)]
    message: String,
}

impl Report {
    /// Reads what `--json-report` wrote.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let reports: Vec<RawReport> = serde_json::from_slice(text).context("ginkgo's report")?;
        let all = reports.into_iter().flat_map(|report| report.spec_reports);
        // The suite's packages bring specs of other areas with them, which nobody asks for. What sets the suite up has a report
        // too, which says something only when it failed.
        let specs = all.filter(|raw| match raw.leaf_node_type.as_str() {
            "It" => raw.container_hierarchy_texts.iter().flatten().any(|text| text.starts_with("External Storage")),
            _ => raw.state != "passed",
        });
        Ok(Self { specs: specs.map(Spec::from).collect() })
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Spec> {
        self.specs.iter().filter(|spec| matches!(spec.outcome, Outcome::Failed(_)))
    }

    /// Those that skipped themselves, with their reasons.
    pub fn skipped(&self) -> impl Iterator<Item = (&Spec, &str)> {
        self.specs.iter().filter_map(|spec| match &spec.outcome {
            Outcome::Skipped(why) => Some((spec, why.as_str())),
            _ => None,
        })
    }

    /// Those that were not asked for.
    pub fn not_selected(&self) -> impl Iterator<Item = &Spec> {
        self.specs.iter().filter(|spec| spec.outcome == Outcome::NotSelected)
    }

    /// How many ran to an end.
    pub fn applied(&self) -> usize {
        self.passed() + self.failed().count()
    }

    /// How many passed.
    pub fn passed(&self) -> usize {
        self.specs.iter().filter(|spec| spec.outcome == Outcome::Passed).count()
    }
}

impl Spec {
    /// What it failed with, in a few lines.
    pub fn complaint(&self) -> String {
        let said = match &self.outcome {
            Outcome::Failed(said) => {
                said.lines().filter(|line| !line.trim().is_empty()).take(12).collect::<Vec<_>>().join("\n  ")
            }
            _ => String::new(),
        };
        format!("- {} {}\n  {said}", self.group, self.text)
    }
}

impl From<RawSpec> for Spec {
    fn from(raw: RawSpec) -> Self {
        let texts = raw.container_hierarchy_texts.unwrap_or_default();
        let innermost = texts.len().saturating_sub(2);
        let disruptive = texts.iter().chain([&raw.leaf_node_text]).any(|text| text.contains("[Disruptive]"));
        let text = if raw.leaf_node_text.is_empty() { raw.leaf_node_type } else { raw.leaf_node_text };
        let outcome = match raw.state.as_str() {
            "passed" => Outcome::Passed,
            "skipped" | "pending" if raw.failure.message.is_empty() => Outcome::NotSelected,
            "skipped" => Outcome::Skipped(raw.failure.message),
            // Timed out, panicked, interrupted: none of them has passed.
            state => Outcome::Failed(format!("{state}: {}", raw.failure.message)),
        };
        Self { text, group: texts[innermost..].join(" "), disruptive, outcome }
    }
}
