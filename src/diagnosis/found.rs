//! What a diagnosis says.

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::cause::Cause;
use super::command::Step;
use super::details::Writer;
use crate::binding::Severity;
use crate::model::Event;

/// Lines of evidence of one kind: more of the same say nothing new.
const MOST_LINES: usize = 8;

/// The object that a diagnosis is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subject {
    /// Its kind: `Pod`, `PersistentVolumeClaim`, `PersistentVolume`, `Node`, or what an event is about.
    pub kind: String,
    /// Its namespace; empty for objects of the whole cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Subject {
    /// A subject of this kind.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// `pod/web`, with kubectl's short words.
    #[must_use]
    pub fn reference(&self) -> String {
        let kind = match self.kind.as_str() {
            "PersistentVolumeClaim" => "pvc".to_owned(),
            "PersistentVolume" => "pv".to_owned(),
            other => other.to_lowercase(),
        };
        format!("{kind}/{}", self.name)
    }
}

/// One link of the chain from the Pod to whoever makes its volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// `pvc/data`, `storageclass/local-path`, `provisioner rancher.io/local-path` ...
    pub object: String,
    /// How it stands.
    pub says: String,
}

/// A line of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Where it was read: `event WaitForFirstConsumer of pvc/data`.
    pub from: String,
    /// What it says.
    pub says: String,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Line {
    /// A line without a time.
    pub(super) fn new(from: impl Into<String>, says: impl Into<String>) -> Self {
        Self { from: from.into(), says: says.into(), at: None }
    }

    pub(super) fn at(mut self, at: Option<Timestamp>) -> Self {
        self.at = at.map(|at| at.to_string());
        self
    }

    /// An event about an object.
    pub(super) fn of_event(object: &str, event: &Event) -> Self {
        let times = event.times();
        let often = if times > 1 { format!(", {times} times") } else { String::new() };
        Self::new(format!("event {} of {object}{often}", event.reason), event.message.as_str()).at(event.last())
    }

    /// Who wrote a field.
    pub(super) fn of_writer(field: &str, object: &str, writer: &Writer) -> Self {
        Self::new(format!("managed fields of {object}"), format!("{field} was written by {:?}", writer.manager))
            .at(writer.at)
    }
}

/// A cause, with what speaks for it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub cause: Cause,
    pub summary: String,
    pub evidence: Vec<Line>,
    pub next: Vec<Step>,
    pub not_known: Vec<String>,
}

impl Found {
    pub fn new(cause: Cause, summary: impl Into<String>) -> Self {
        Self { cause, summary: summary.into(), evidence: Vec::new(), next: Vec::new(), not_known: Vec::new() }
    }

    pub fn with(mut self, lines: impl IntoIterator<Item = Line>) -> Self {
        for line in lines {
            if !self.evidence.contains(&line) {
                self.evidence.push(line);
            }
        }
        self
    }

    pub fn then(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        for step in steps {
            if !self.next.iter().any(|known| known.command == step.command) {
                self.next.push(step);
            }
        }
        self
    }

    pub fn not_knowing(mut self, what: impl IntoIterator<Item = String>) -> Self {
        for what in what {
            if !self.not_known.contains(&what) {
                self.not_known.push(what);
            }
        }
        self
    }
}

/// The newest events of a reason, as lines.
pub(super) fn lines_of(object: &str, events: &[&Event], is_wanted: impl Fn(&Event) -> bool) -> Vec<Line> {
    let wanted = events.iter().rev().filter(|event| is_wanted(event));
    wanted.take(MOST_LINES).map(|event| Line::of_event(object, event)).collect()
}

/// Why an object does not move.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// The object.
    pub subject: Subject,
    /// Why.
    pub cause: Cause,
    /// How much it matters.
    pub severity: Severity,
    /// The same in a few sentences that name the objects.
    pub summary: String,
    /// From the Pod to whoever makes the volume.
    pub chain: Vec<Link>,
    /// What speaks for it.
    pub evidence: Vec<Line>,
    /// What to type next; the first one first.
    pub next: Vec<Step>,
    /// What could not be looked at.
    pub not_known: Vec<String>,
    /// Since when the object is there, or in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// For how many seconds, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
}
