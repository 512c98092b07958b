//! What lint found, and how it is told: to people, to programs and to forges.
//!
//! Renderers are pure: they get a [`Report`] and write text. None of them lets a control character of the input through.

mod audit;
mod github;
mod gitlab;
mod json;
mod junit;
mod markdown;
mod policy_report;
mod sarif;
pub mod style;
mod table;
mod yaml;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::binding::{Code, FieldPath, Severity};
pub use audit::AuditCounts;
pub use policy_report::ReportKinds;
use style::Style;

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// FindingList, latebind.dev/v1alpha1
    Json,
    /// FindingList, latebind.dev/v1alpha1
    Yaml,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// JUnit XML
    Junit,
    /// Workflow commands of GitHub Actions
    Github,
    /// Code Quality of GitLab
    Gitlab,
    /// A table in Markdown, for a comment on a pull request
    Markdown,
    /// Reports of openreports.io/v1alpha1, one for each namespace, for kubectl apply
    Openreports,
    /// The same as PolicyReports of wgpolicyk8s.io/v1alpha2
    Policyreport,
}

/// Everything that a run of lint has to say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was found, in the order of the input.
    pub findings: Vec<Reported>,
    /// Every object that was looked at, in the order of the input.
    pub objects: Vec<Arc<Object>>,
    /// Assumptions that the findings rest on, each a sentence.
    pub assumptions: Vec<String>,
    /// Documents and files that could not be read.
    pub unread: Vec<Unread>,
    /// Objects that name a node and hold nothing that could be judged.
    pub not_judged: Vec<Arc<Object>>,
    /// Findings from this severity on make the run fail; none do where it is absent.
    pub fail_on: Option<Severity>,
    /// What an audit of a cluster counts; absent for manifests.
    pub audit: Option<AuditCounts>,
}

/// An object that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for kinds without one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name, or the prefix of a generated one.
    pub name: String,
    /// The file that it stands in, as it was named.
    #[serde(skip)]
    pub file: String,
    /// The line where it begins, from 1.
    #[serde(skip)]
    pub line: usize,
}

impl Object {
    /// `kind/name` or `kind/namespace/name`.
    #[must_use]
    pub fn reference(&self) -> String {
        let kind = self.kind.to_lowercase();
        let name = if self.name.is_empty() { "(no name)" } else { &self.name };
        if self.namespace.is_empty() { format!("{kind}/{name}") } else { format!("{kind}/{}/{name}", self.namespace) }
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A finding, and where it stands.
#[derive(Clone, Debug)]
pub struct Reported {
    /// What it is.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// One line that names the objects.
    pub message: String,
    /// The object that it is about.
    pub object: Arc<Object>,
    /// The field that it is about, from the top of the object.
    pub path: FieldPath,
    /// The first character of the field.
    pub start: Point,
    /// The character after its last.
    pub end: Point,
    /// What it rests on besides the input, each a sentence.
    pub assumptions: Vec<String>,
    /// Whether it stands.
    pub state: State,
    /// What fixes it.
    pub fix: Option<Fix>,
    /// Why `--fix` does not fix it, where that is worth saying.
    pub not_fixed: Option<String>,
}

/// Whether a finding stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Open,
    /// The object's annotation says that it is to be ignored.
    Ignored {
        /// Why, in the words of the annotation.
        reason: String,
    },
    /// The file was rewritten.
    Fixed,
}

/// Replacements that fix a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What they do, in one sentence.
    pub description: String,
    /// The replacements, in the order of the text.
    pub replacements: Vec<Replacement>,
    /// Lines before and after, each with `-`, `+` or a space in front.
    pub diff: String,
}

/// One replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replacement {
    /// The first character that goes.
    pub start: Point,
    /// The first that stays again; the same as `start` for an insertion.
    pub end: Point,
    /// The same as bytes of the file.
    #[serde(skip)]
    pub bytes: Range<usize>,
    /// What comes instead.
    pub text: String,
}

/// A document or file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The file, as it was named.
    pub file: String,
    /// Where reading stopped, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Point>,
    /// What is wrong.
    pub message: String,
}

impl Reported {
    /// True unless it was ignored or fixed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The reason for ignoring it.
    #[must_use]
    pub fn ignored(&self) -> Option<&str> {
        match &self.state {
            State::Ignored { reason } => Some(reason),
            State::Open | State::Fixed => None,
        }
    }

    /// The message, with what it rests on besides the input.
    fn told(&self) -> String {
        if self.assumptions.is_empty() {
            return self.message.clone();
        }
        format!("{} (assumed: {})", self.message, self.assumptions.join("; "))
    }

    /// `file:line:column`
    fn place(&self) -> String {
        format!("{}:{}:{}", self.object.file, self.start.line, self.start.column)
    }
}

/// How many findings there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Objects that were looked at.
    pub objects: usize,
    /// Files in which they stand.
    pub files: usize,
    /// Errors that stand.
    pub errors: usize,
    /// Warnings that stand.
    pub warnings: usize,
    /// Findings that are worth knowing and stand.
    pub infos: usize,
    /// Findings that are to be ignored.
    pub ignored: usize,
    /// Findings whose cause was rewritten.
    pub fixed: usize,
    /// Findings that stand and that `--fix` would fix.
    pub fixable: usize,
    /// Objects that hold a `nodeName` and were not judged.
    pub not_judged: usize,
}

impl Report {
    /// Counts.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let files: std::collections::HashSet<&str> = self.objects.iter().map(|object| object.file.as_str()).collect();
        let mut counts = Counts {
            objects: self.objects.len(),
            files: files.len(),
            not_judged: self.not_judged.len(),
            ..Counts::default()
        };
        for finding in &self.findings {
            match (&finding.state, finding.severity) {
                (State::Ignored { .. }, _) => counts.ignored += 1,
                (State::Fixed, _) => counts.fixed += 1,
                (State::Open, Severity::Error) => counts.errors += 1,
                (State::Open, Severity::Warning) => counts.warnings += 1,
                (State::Open, Severity::Info) => counts.infos += 1,
            }
            counts.fixable += usize::from(finding.is_open() && finding.fix.is_some());
        }
        counts
    }

    /// Findings that stand.
    pub fn open(&self) -> impl Iterator<Item = &Reported> {
        self.findings.iter().filter(|finding| finding.is_open())
    }

    /// The severity of the worst finding that stands.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.open().map(|finding| finding.severity).max()
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When `out` refuses.
    pub fn render(&self, format: Format, style: Style, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => match self.audit {
                Some(counts) => audit::render(self, counts, style, out),
                None => table::render(self, style, out),
            },
            Format::Json => json::render(self, out),
            Format::Yaml => yaml::render(self, out),
            Format::Sarif => sarif::render(self, out),
            Format::Junit => junit::render(self, out),
            Format::Github => github::render(self, out),
            Format::Gitlab => gitlab::render(self, out),
            Format::Markdown => markdown::render(self, out),
            Format::Openreports => policy_report::render(self, ReportKinds::OpenReports, out),
            Format::Policyreport => policy_report::render(self, ReportKinds::PolicyReport, out),
        }
    }

    /// Name of the reports that are written to a cluster, and the value of their label `app.kubernetes.io/managed-by`.
    pub const REPORTER: &str = policy_report::LATEBIND;

    /// A report of a namespace in which there was nothing to look at.
    #[must_use]
    pub fn nothing_found(kinds: ReportKinds, namespace: &str) -> serde_json::Value {
        policy_report::empty(kinds, namespace)
    }

    /// The same as objects to be written to a cluster: one for each namespace, and one for what belongs to none, with no more
    /// than `most` results each. What is beyond is counted in one more result.
    #[must_use]
    pub fn policy_reports(&self, kinds: ReportKinds, most: usize) -> Vec<serde_json::Value> {
        policy_report::objects(self, kinds, most)
    }
}

/// JSON in which everything that could steer a terminal or mislead a reader is escaped. It means the same.
fn harmless_json(value: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string_pretty(value)?;
    if matches!(style::clean_lines(&json), std::borrow::Cow::Borrowed(_)) {
        return Ok(json + "\n");
    }
    let mut text = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        if character == '\n' || style::clean(character.encode_utf8(&mut [0; 4])).len() == character.len_utf8() {
            text.push(character);
        } else {
            // Such a character stands within a string only. Writing to a String cannot fail.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text.push('\n');
    Ok(text)
}

/// A number that is the same in every run and version for the same parts (FNV-1a, 64 bits), in hexadecimal.
fn fingerprint(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

/// Fingerprints of findings that survive edits around them: by object, field and code, not by line. Where two findings
/// are the same in all that, the second gets another number.
fn fingerprints<'r>(findings: impl IntoIterator<Item = &'r Reported>) -> Vec<String> {
    let mut seen = std::collections::HashMap::new();
    let of = |finding: &Reported| {
        let object = &finding.object;
        let path = finding.path.to_string();
        let parts = [finding.code.as_str(), &object.kind, &object.namespace, &object.name, &object.file, &path];
        let first = fingerprint(&parts);
        let count = seen.entry(first.clone()).and_modify(|count| *count += 1).or_insert(0_usize);
        if *count == 0 { first } else { fingerprint(&[&first, &count.to_string()]) }
    };
    findings.into_iter().map(of).collect()
}

/// A file as a reference that URIs allow: relative ones stay relative, everything unusual is percent-encoded.
fn uri(file: &str) -> String {
    let slashed = if cfg!(windows) { file.replace('\\', "/") } else { file.to_owned() };
    let mut path = slashed.as_str();
    while let Some(rest) = path.strip_prefix("./") {
        path = rest.trim_start_matches('/');
    }
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            uri.push(char::from(byte));
        } else {
            let _infallible = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

impl Serialize for Reported {
    /// An item of a FindingList.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", &self.code)?;
        map.serialize_entry("severity", &self.severity)?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("object", &*self.object)?;
        map.serialize_entry("path", &self.path.to_string())?;
        map.serialize_entry("file", &self.object.file)?;
        map.serialize_entry("start", &self.start)?;
        map.serialize_entry("end", &self.end)?;
        let (state, reason) = match &self.state {
            State::Open => ("open", None),
            State::Ignored { reason } => ("ignored", Some(reason)),
            State::Fixed => ("fixed", None),
        };
        map.serialize_entry("state", state)?;
        if let Some(reason) = reason {
            map.serialize_entry("reason", reason)?;
        }
        if let Some(fix) = &self.fix {
            let fix = serde_json::json!({ "description": fix.description, "replacements": fix.replacements });
            map.serialize_entry("fix", &fix)?;
        }
        if let Some(not_fixed) = &self.not_fixed {
            map.serialize_entry("notFixed", not_fixed)?;
        }
        if !self.assumptions.is_empty() {
            map.serialize_entry("assumptions", &self.assumptions)?;
        }
        map.serialize_entry("help", &self.code.help_uri())?;
        map.end()
    }
}
