//! Documents to objects: lists taken apart, kinds told apart, fields read.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::{Manifests, Object, Origin, Problem};
use crate::binding::FieldPath;
use crate::cluster::facts::{Fact, Facts, Unlisted};
use crate::cluster::located::{Content, ScalarStyle};
use crate::model::{Claim, Class, Node, Pod, PodTemplate, Text, Volume, Workload, WorkloadKind};

/// An object in the terms that decisions read.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Something that holds a Pod template.
    Workload(Box<Workload>),
    /// A Pod, claim, class, volume, Node ...
    Fact(Box<Fact>),
    /// A kind that no decision reads.
    Other,
}

/// How deep lists may stand in lists; kubectl makes none that do.
const DEEPEST_LIST: usize = 8;

pub(super) struct Reader<'read> {
    pub namespace: Option<&'read str>,
    pub fact_only: bool,
    pub manifests: &'read mut Manifests,
}

impl Reader<'_> {
    /// Reads what a document holds.
    pub fn read(&mut self, value: Value, origin: &Origin) {
        self.read_beneath(value, origin, None, 0);
    }

    fn read_beneath(&mut self, value: Value, origin: &Origin, item_type: Option<(&str, &str)>, depth: usize) {
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (api_version, kind) = match (text("apiVersion"), text("kind"), item_type) {
            // Items of typed lists, as the API server gives them, carry neither.
            (Some(api_version), Some(kind), _) | (None, None, Some((api_version, kind))) => {
                (api_version.to_owned(), kind.to_owned())
            }
            _ => return self.not_an_object(&value, origin),
        };
        if kind.ends_with("List") && value.get("items").is_some_and(|items| items.is_array() || items.is_null()) {
            return self.read_list(value, origin, (&api_version, kind.trim_end_matches("List")), depth);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        match self.subject(group, &kind, &value) {
            Ok(subject) => {
                let object = self.object(group, version, &kind, value, subject, origin);
                self.manifests.objects.push(object);
            }
            Err((path, message)) => {
                let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
                let hint = hint_at(origin, &path);
                let message = format!("{}/{name}: {path}: {message}{hint}", kind.to_lowercase());
                self.problem(origin, &path, message);
            }
        }
    }

    fn read_list(&mut self, mut value: Value, origin: &Origin, item_type: (&str, &str), depth: usize) {
        if depth >= DEEPEST_LIST {
            let message = format!("lists stand in lists more than {DEEPEST_LIST} levels deep");
            return self.problem(origin, &FieldPath::default(), message);
        }
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else { return };
        let item_type = (!item_type.1.is_empty()).then_some(item_type);
        for (place, item) in items.into_iter().enumerate() {
            let prefix = FieldPath::new(&["items".to_owned(), place.to_string()]).beneath(&origin.prefix.0);
            let origin = Origin { prefix, ..origin.clone() };
            self.read_beneath(item, &origin, item_type, depth + 1);
        }
    }

    fn not_an_object(&mut self, value: &Value, origin: &Origin) {
        let missing = if value.get("kind").is_some() { "apiVersion" } else { "kind" };
        let message = match value {
            Value::Object(_) => format!("not a Kubernetes object: {missing} is missing"),
            _ => "not a Kubernetes object: apiVersion and kind are missing".to_owned(),
        };
        // Among the files of a directory values, charts and pipelines are to be expected.
        if origin.source().found && origin.prefix.0.is_empty() {
            self.note(origin, format!("{message}; left out"));
        } else {
            self.problem(origin, &FieldPath::default(), message);
        }
    }

    /// The object in the terms that decisions read, or the field that cannot be read.
    fn subject(&self, group: &str, kind: &str, value: &Value) -> Result<Subject, (FieldPath, String)> {
        if let Some(workload) = WorkloadKind::of(group, kind) {
            let read = Workload::read(workload, value);
            let mut read = read.map_err(|error| workload_field(workload, value, &error.to_string()))?;
            self.fill(&mut read.metadata.namespace);
            return Ok(Subject::Workload(Box::new(read)));
        }
        match Fact::read(group, kind, value) {
            None => Ok(Subject::Other),
            Some(Err(error)) => Err(fact_field(kind, value, &error)),
            Some(Ok(mut fact)) => {
                match &mut fact {
                    Fact::Claim(claim) => self.fill(&mut claim.metadata.namespace),
                    Fact::Pod(pod) => self.fill(&mut pod.metadata.namespace),
                    Fact::StorageCapacity(capacity) => self.fill(&mut capacity.metadata.namespace),
                    Fact::Class(_)
                    | Fact::Node(_)
                    | Fact::Volume(_)
                    | Fact::Namespace(_)
                    | Fact::CsiDriver(_)
                    | Fact::CsiNode(_) => {}
                }
                Ok(Subject::Fact(Box::new(fact)))
            }
        }
    }

    fn fill(&self, namespace: &mut Option<Text>) {
        if namespace.as_deref().is_none_or(str::is_empty) {
            *namespace = Some(self.namespace.unwrap_or("default").into());
        }
    }

    fn object(
        &self,
        group: &str,
        version: &str,
        kind: &str,
        value: Value,
        subject: Subject,
        origin: &Origin,
    ) -> Object {
        let metadata = |key: &str| {
            let found = value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
            found.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
        let namespace = match &subject {
            Subject::Workload(workload) => workload.metadata.namespace.clone(),
            Subject::Fact(fact) => match &**fact {
                Fact::Claim(claim) => claim.metadata.namespace.clone(),
                Fact::Pod(pod) => pod.metadata.namespace.clone(),
                Fact::StorageCapacity(capacity) => capacity.metadata.namespace.clone(),
                _ => None,
            },
            Subject::Other => metadata("namespace").map(Text::from),
        };
        Object {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            name,
            namespace: Text::or_empty(namespace.as_ref()),
            value,
            subject,
            fact_only: self.fact_only,
            origin: origin.clone(),
        }
    }

    fn problem(&mut self, origin: &Origin, path: &FieldPath, message: String) {
        self.manifests.problems.push(Problem { place: origin.place(path), message });
    }

    fn note(&mut self, origin: &Origin, message: String) {
        self.manifests.notes.push(Problem { place: origin.place(&FieldPath::default()), message });
    }
}

/// Facts from objects: what is not among them is unknown. Of several objects of one name the first counts, and those
/// that are looked at come before those that are facts only.
pub(super) fn facts(objects: &[Object]) -> Facts {
    let mut facts = Facts::new(Unlisted::Unknown);
    add(&mut facts, objects, &HashSet::new());
    facts
}

/// The facts of a whole cluster, and what these objects add to it. Where both have an object, the cluster's counts: it has
/// a status, and is what the API server decides by.
pub(super) fn facts_in(cluster: Vec<Fact>, objects: &[Object]) -> Facts {
    let mut facts = Facts::new(Unlisted::Absent);
    let owned = |(kind, namespace, name): (&'static str, &str, &str)| (kind, namespace.to_owned(), name.to_owned());
    let known = cluster.iter().map(|fact| owned(fact.key())).collect();
    add(&mut facts, objects, &known);
    for fact in cluster {
        facts.add(fact);
    }
    facts
}

type Key = (&'static str, String, String);

fn add(facts: &mut Facts, objects: &[Object], known: &HashSet<Key>) {
    let mut seen = HashSet::new();
    for object in objects {
        let Subject::Fact(fact) = &object.subject else { continue };
        let (kind, namespace, name) = fact.key();
        if known.contains(&(kind, namespace.to_owned(), name.to_owned())) {
            continue;
        }
        let key = (&object.group, &object.kind, &object.namespace, &object.name);
        // Pods by `generateName` share a prefix, not a name.
        let named = object.value.pointer("/metadata/name").is_some();
        if !named || seen.insert(key) {
            facts.add((**fact).clone());
        }
    }
}

/// The field of a workload that cannot be read.
fn workload_field(kind: WorkloadKind, value: &Value, message: &str) -> (FieldPath, String) {
    let template = kind.template_path();
    let found = template.iter().try_fold(value, |value, key| value.get(key));
    let mut claims =
        value.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array).into_iter().flatten().enumerate();
    field_of::<PodTemplate>(found, template)
        .or_else(|| {
            claims.find_map(|(place, claim)| {
                field_of::<Claim>(Some(claim), &["spec", "volumeClaimTemplates", &place.to_string()])
            })
        })
        .or_else(|| {
            field_of::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>(value.get("metadata"), &["metadata"])
        })
        .unwrap_or_else(|| (FieldPath::new(&["spec"]), message.to_owned()))
}

/// The field of a fact that cannot be read.
fn fact_field(kind: &str, value: &Value, error: &serde_json::Error) -> (FieldPath, String) {
    let found = match kind {
        "Pod" => field_of::<Pod>(Some(value), &[]),
        "PersistentVolumeClaim" => field_of::<Claim>(Some(value), &[]),
        "PersistentVolume" => field_of::<Volume>(Some(value), &[]),
        "StorageClass" => field_of::<Class>(Some(value), &[]),
        "Node" => field_of::<Node>(Some(value), &[]),
        _ => None,
    };
    found.unwrap_or_else(|| (FieldPath::default(), error.to_string()))
}

fn field_of<T: for<'de> Deserialize<'de>>(value: Option<&Value>, above: &[&str]) -> Option<(FieldPath, String)> {
    use serde_path_to_error::Segment;
    let error = serde_path_to_error::deserialize::<_, T>(value?).err()?;
    let steps = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    });
    Some((FieldPath(steps.collect()).beneath(above), error.inner().to_string()))
}

/// Says so when a word without quotes is why a text became a boolean or a number.
fn hint_at(origin: &Origin, path: &FieldPath) -> String {
    let spot = origin.located().and_then(|object| object.find(path));
    match spot.map(|spot| (&spot.value.content, spot.value.span)) {
        Some((Content::Scalar { value, style: ScalarStyle::Plain }, span))
            if !value.is_string() && !value.is_null() =>
        {
            let written = span.of(&origin.source().text);
            format!(
                "; kubectl reads {written} without quotes as {value}, so write \"{written}\" if it is meant as text"
            )
        }
        _ => String::new(),
    }
}

/// The parser's message, and what to do about the commonest cause.
pub(super) fn explain_syntax(message: String, document: &str) -> String {
    if document.contains("{{") && document.contains("}}") {
        format!(
            "{message} (this looks like a template; render it first, for instance: helm template CHART | latebind lint -f -)"
        )
    } else {
        message
    }
}
