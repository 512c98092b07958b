//! Facts and objects from manifests: files, directories and standard input.

mod bundle;
mod embedded;
mod input;
mod object;

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use embedded::Embedded;
pub(crate) use embedded::names_a_node;
pub use input::{Input, Source};
pub use object::Subject;

use super::listed::{Fact, Facts, Unlisted};
use crate::binding::{ClusterView, FieldPath, Kind};
use crate::yaml::{AliasBudget, Document, Located, Position, Span, documents};

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Inputs whose objects are looked at.
    pub files: Vec<Input>,
    /// Inputs whose objects are facts only.
    pub objects: Vec<Input>,
    /// Directories are read with what is beneath them.
    pub recursive: bool,
    /// The namespace of objects that name none; `default` where this is absent.
    pub namespace: Option<String>,
    /// Every Node is among the objects, in whatever form: one that is not does not exist.
    pub nodes_complete: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// Every object, in the order of the input; lists are taken apart. Those of [`Request::objects`] come last.
    pub objects: Vec<Object>,
    /// Documents and files that could not be read.
    pub problems: Vec<Problem>,
    /// Things that a person may want to know, and that are no errors.
    pub notes: Vec<Problem>,
    /// Lists that an API server wrote.
    pub lists: Vec<ServerList>,
    /// Groups and kinds of which an object could not be read: no list of them holds everything.
    pub malformed: BTreeSet<(String, String)>,
    facts: Facts,
    /// Kinds of which a list of their own was read, as `kubectl get nodes -o yaml` writes it.
    listed: BTreeSet<Kind>,
}

/// A list as an API server answers with it: everything of the kind in a namespace, or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerList {
    /// API group of the items; empty for the core group.
    pub group: String,
    /// Kind of the items.
    pub kind: String,
    /// Namespaces of the items; of an empty list the one that its file is named after.
    pub namespaces: BTreeSet<String>,
}

/// An object of a manifest.
#[derive(Debug)]
pub struct Object {
    /// API group; empty for the core group.
    pub group: String,
    /// API version without the group.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// `metadata.name`, or `metadata.generateName`; empty where neither is given.
    pub name: String,
    /// Namespace: the object's own, else that of the request. Empty for kinds without one.
    pub namespace: String,
    /// The whole object as it was written.
    pub value: Value,
    /// The object in the terms that decisions read, with its namespace filled in.
    pub subject: Subject,
    /// True for objects of [`Request::objects`].
    pub fact_only: bool,
    /// Where it was read.
    pub origin: Origin,
}

impl Object {
    /// `kind/name` as kubectl writes it, with the kind in lower case.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), if self.name.is_empty() { "(no name)" } else { &self.name })
    }
}

/// Where an object was read.
#[derive(Clone, Debug)]
pub struct Origin {
    document: Arc<SourceDocument>,
    /// Steps from the top of the document to the object; empty unless it stands in a list.
    pub prefix: FieldPath,
}

#[derive(Debug)]
struct SourceDocument {
    source: Arc<Source>,
    index: usize,
    start: Position,
    length: usize,
    located: OnceLock<Option<Located>>,
}

impl Origin {
    /// The file.
    #[must_use]
    pub fn source(&self) -> &Arc<Source> {
        &self.document.source
    }

    /// Place of the document in its file, from 0.
    #[must_use]
    pub fn document_index(&self) -> usize {
        self.document.index
    }

    /// The text of the document that the object stands in.
    #[must_use]
    pub fn document(&self) -> Document<'_> {
        let document = &self.document;
        let from = document.start.byte;
        let text = document.source.text.get(from..from + document.length).unwrap_or_default();
        Document::cut(text, document.index, document.start)
    }

    /// The object with the places of its fields. Read on the first call, and kept.
    #[must_use]
    pub fn located(&self) -> Option<&Located> {
        let parse = || self.document().located(&mut AliasBudget::default()).ok().flatten();
        let document = self.document.located.get_or_init(parse).as_ref()?;
        document.find(&self.prefix).map(|spot| spot.value)
    }

    /// Where a field of the object stands; the nearest field around it that exists, if it does not.
    #[must_use]
    pub fn place(&self, path: &FieldPath) -> Place {
        let span = self.located().map(|object| object.nearest(path).span());
        let start = self.document.start;
        let span = span.unwrap_or(Span { start, end: start });
        Place { file: self.document.source.name.clone(), span: Some(span) }
    }
}

/// A place in a file, or a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named, or `<stdin>`.
    pub file: String,
    /// The place; absent for the whole file.
    pub span: Option<Span>,
}

impl fmt::Display for Place {
    /// `file:line:column`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.span {
            Some(span) => write!(f, "{}:{}", self.file, span.start),
            None => f.write_str(&self.file),
        }
    }
}

/// A document or file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and what to do where that is not plain.
    pub message: String,
}

/// Why manifests cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or directory that was named does not exist.
    #[error("{}: no such file or directory", .0.display())]
    NotFound(PathBuf),
    /// A file or directory that was named cannot be read.
    #[error("{name}: {source}")]
    Unreadable {
        /// The file as it was named.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A URL was named.
    #[error("{0}: nothing is fetched from the network; use: curl -fsSL {0} | latebind ... -f -")]
    Url(String),
    /// Standard input was named twice.
    #[error("standard input (-) can be read once only")]
    StdinTwice,
    /// A directory holds no manifests.
    #[error("{}: no .yaml, .yml or .json files{}", directory.display(), if *recursive { "" } else { "; add -R to look into subdirectories" })]
    NoManifests {
        /// The directory.
        directory: PathBuf,
        /// Whether subdirectories were looked into.
        recursive: bool,
    },
    /// Some documents cannot be read, where all are needed.
    #[error("{}", join(.0))]
    Broken(Vec<Problem>),
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

impl Manifests {
    /// Reads everything. Documents that cannot be read become [`Manifests::problems`], and the others count.
    ///
    /// # Errors
    /// When an input that was named cannot be read at all.
    pub fn read(request: &Request) -> Result<Self, ManifestError> {
        let mut manifests = Self::default();
        let sources = input::read(request, &mut manifests.problems)?;
        for (source, fact_only) in sources {
            manifests.read_source(&Arc::new(source), fact_only, request.namespace.as_deref());
        }
        if request.nodes_complete {
            manifests.listed.insert(Kind::Nodes);
        }
        manifests.become_facts();
        Ok(manifests)
    }

    /// Takes what was read for facts. Of a kind with an object that could not be read, that one may be the one that is asked for.
    fn become_facts(&mut self) {
        let malformed = &self.malformed;
        self.lists.retain(|list| !malformed.contains(&(list.group.clone(), list.kind.clone())));
        let lacks = |kind: &Kind| malformed.iter().any(|(group, of)| Kind::of(group, of).as_ref() == Some(kind));
        self.listed.retain(|kind| !lacks(kind));
        self.facts = object::facts(&self.objects, &self.listed);
    }

    /// Reads one text that is in memory already.
    #[must_use]
    pub fn of(source: Source) -> Self {
        let mut manifests = Self::default();
        manifests.read_source(&Arc::new(source), false, None);
        manifests.become_facts();
        manifests
    }

    /// Lays the objects over the facts of a whole cluster: what neither has does not exist. Where both have an object,
    /// the cluster's counts.
    #[must_use]
    pub fn within(mut self, cluster: Vec<Fact>) -> Self {
        self.facts = object::facts_in(cluster, &self.objects);
        self
    }

    /// Namespaces of the objects that are looked at.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<String> {
        let all = self.checked().map(|object| object.namespace.clone());
        all.filter(|namespace| !namespace.is_empty()).collect()
    }

    /// The objects as a part of a cluster: what is not among them is unknown.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Objects that are looked at, without those that are facts only.
    pub fn checked(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| !object.fact_only)
    }

    fn read_source(&mut self, source: &Arc<Source>, fact_only: bool, namespace: Option<&str>) {
        let mut budget = AliasBudget::default();
        for document in documents(&source.text) {
            let value = match document.value(&mut budget) {
                Ok(Value::Null) => continue,
                Ok(value) => value,
                Err(error) => {
                    let span = Span { start: error.position, end: error.position };
                    let place = Place { file: source.name.clone(), span: Some(span) };
                    let message = object::explain_syntax(error.message, document.text());
                    self.problems.push(Problem { place, message });
                    continue;
                }
            };
            let kept = SourceDocument {
                source: Arc::clone(source),
                index: document.index,
                start: document.start,
                length: document.text().len(),
                located: OnceLock::new(),
            };
            let origin = Origin { document: Arc::new(kept), prefix: FieldPath::default() };
            object::Reader { namespace, fact_only, is_parametrized: false, manifests: self }.read(value, &origin);
        }
    }
}

/// The manifests of a directory, read as one part of a cluster.
#[derive(Clone)]
pub struct Directory {
    /// The facts.
    pub view: Arc<dyn ClusterView + Send + Sync>,
    /// Differs when a file's name or content differs.
    pub fingerprint: u64,
    /// How many objects were read.
    pub objects: usize,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("fingerprint", &self.fingerprint)
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

/// Reads a directory and what is beneath it, for serving from it. An empty directory is no error: it may be filled later.
///
/// # Errors
/// When the directory or any document in it cannot be read; the message names each file, line and column.
pub fn load_directory(directory: &Path) -> Result<Directory, ManifestError> {
    // Before reading: a change in between then shows as a difference, and leads to one reading more, not one less.
    let fingerprint = directory_fingerprint(directory)?;
    let request = Request { objects: vec![Input::Path(directory.to_owned())], recursive: true, ..Request::default() };
    let mut manifests = match Manifests::read(&request) {
        Err(ManifestError::NoManifests { .. }) => {
            Manifests { facts: Facts::new(Unlisted::Unknown), ..Manifests::default() }
        }
        read => read?,
    };
    if !manifests.problems.is_empty() {
        return Err(ManifestError::Broken(std::mem::take(&mut manifests.problems)));
    }
    let view: Arc<dyn ClusterView + Send + Sync> = Arc::new(manifests.facts);
    Ok(Directory { view, fingerprint, objects: manifests.objects.len() })
}

/// A number that differs when a manifest of the directory, or of what is beneath it, has another name or content.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn directory_fingerprint(directory: &Path) -> Result<u64, ManifestError> {
    let mut hasher = DefaultHasher::new();
    for file in input::manifests_of(directory, true)? {
        let unreadable = |source| ManifestError::Unreadable { name: file.display().to_string(), source };
        file.hash(&mut hasher);
        std::fs::read(&file).map_err(unreadable)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}
