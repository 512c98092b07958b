//! Documents to objects: lists taken apart, kinds told apart, fields read.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bundle;
use super::embedded::{Embedded, embedded};
use super::{Manifests, Object, Origin, Problem};
use crate::binding::{FieldPath, Kind};
use crate::facts::listed::{Fact, Facts, Unlisted};
use crate::model::{Claim, Class, Node, Pod, PodTemplate, Text, Volume, Workload, WorkloadKind};
use crate::yaml::{Content, ScalarStyle};

/// An object in the terms that decisions read.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Something that holds a Pod template.
    Workload(Box<Workload>),
    /// A Pod, claim, class, volume, Node ...
    Fact(Box<Fact>),
    /// A kind that no decision reads, and the Pods that it holds all the same.
    Other(Vec<Embedded>),
}

/// How deep lists may stand in lists; kubectl makes none that do.
const DEEPEST_LIST: usize = 8;

pub(super) struct Reader<'read> {
    pub namespace: Option<&'read str>,
    pub fact_only: bool,
    /// The objects are those of a template, whose fields may hold parameters in place of numbers.
    pub is_parametrized: bool,
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
            _ => return self.read_bare_list(value, origin, depth),
        };
        if kind.ends_with("List") && value.get("items").is_some_and(|items| items.is_array() || items.is_null()) {
            return self.read_list(value, origin, (&api_version, kind.trim_end_matches("List")), depth);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        if (group, kind.as_str()) == ("template.openshift.io", "Template") {
            return self.read_template(value, origin, depth);
        }
        let read = match self.subject(group, &kind, &value) {
            Err(_) if self.is_parametrized => Ok(self.other(group, &kind, &value)),
            read => read,
        };
        match read {
            Ok(subject) => {
                let object = self.object(group, version, &kind, value, subject, origin);
                self.manifests.objects.push(object);
            }
            Err((path, message)) => {
                let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
                let hint = hint_at(origin, &path);
                let message = format!("{}/{name}: {path}: {message}{hint}", kind.to_lowercase());
                self.problem(origin, &path, message);
                self.manifests.malformed.insert((group.to_owned(), kind));
            }
        }
    }

    /// A file of a support bundle may hold items without a word about their kind, which its name tells.
    fn read_bare_list(&mut self, value: Value, origin: &Origin, depth: usize) {
        let kind = origin.source().path.as_deref().and_then(bundle::kind_of_file);
        match (kind, value) {
            (Some((api_version, kind)), Value::Array(items)) if depth == 0 => {
                for (place, item) in items.into_iter().enumerate() {
                    let origin = Origin { prefix: FieldPath::new(&[place]), ..origin.clone() };
                    self.read_beneath(item, &origin, Some((api_version, kind)), 1);
                }
            }
            (_, value) => self.not_an_object(&value, origin),
        }
    }

    fn read_list(&mut self, mut value: Value, origin: &Origin, item_type: (&str, &str), depth: usize) {
        if depth >= DEEPEST_LIST {
            let message = format!("lists stand in lists more than {DEEPEST_LIST} levels deep");
            return self.problem(origin, &FieldPath::default(), message);
        }
        self.manifests.lists.extend(bundle::server_list(&value, item_type, origin.source().path.as_deref()));
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else { return };
        let item_type = (!item_type.1.is_empty()).then_some(item_type);
        self.manifests.listed.extend(kind_of_all(&items, item_type));
        for (place, item) in items.into_iter().enumerate() {
            let prefix = FieldPath::new(&["items".to_owned(), place.to_string()]).beneath(&origin.prefix.0);
            let origin = Origin { prefix, ..origin.clone() };
            self.read_beneath(item, &origin, item_type, depth + 1);
        }
    }

    /// The objects that OpenShift makes from a template.
    fn read_template(&mut self, mut value: Value, origin: &Origin, depth: usize) {
        if depth >= DEEPEST_LIST {
            let message = format!("lists stand in lists more than {DEEPEST_LIST} levels deep");
            return self.problem(origin, &FieldPath::default(), message);
        }
        let Some(Value::Array(items)) = value.get_mut("objects").map(Value::take) else { return };
        let before = std::mem::replace(&mut self.is_parametrized, true);
        for (place, item) in items.into_iter().enumerate() {
            let prefix = FieldPath::new(&["objects".to_owned(), place.to_string()]).beneath(&origin.prefix.0);
            self.read_beneath(item, &Origin { prefix, ..origin.clone() }, None, depth + 1);
        }
        self.is_parametrized = before;
    }

    /// An object of a kind that no decision reads, with the Pods that it holds.
    fn other(&self, group: &str, kind: &str, value: &Value) -> Subject {
        let metadata = |key: &str| value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
        let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
        let mut found = embedded(group, kind, value);
        for Embedded { pod, .. } in &mut found {
            pod.metadata.generate_name = Some(format!("{name}-").into());
            pod.metadata.namespace = metadata("namespace").map(Text::from);
            self.fill(&mut pod.metadata.namespace);
            let owner = OwnerReference {
                kind: kind.to_owned(),
                name: name.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            };
            pod.metadata.owner_references = Some(vec![owner]);
        }
        Subject::Other(found)
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
            if read.template.is_none() {
                // Such as a PodTemplate that is written with `spec`.
                return Ok(self.other(group, kind, value));
            }
            self.fill(&mut read.metadata.namespace);
            return Ok(Subject::Workload(Box::new(read)));
        }
        if (group, kind) == ("cdi.kubevirt.io", "DataVolume") {
            return Ok(self.data_volume(value).unwrap_or_else(|| self.other(group, kind, value)));
        }
        match Fact::read(group, kind, value) {
            None => Ok(self.other(group, kind, value)),
            Some(Err(error)) => Err(fact_field(kind, value, &error)),
            Some(Ok(mut fact)) => {
                if let Some(namespace) = fact.namespace_mut() {
                    self.fill(namespace);
                }
                Ok(Subject::Fact(Box::new(fact)))
            }
        }
    }

    /// The claim that KubeVirt makes for a DataVolume, under its name.
    fn data_volume(&self, value: &Value) -> Option<Subject> {
        let spec = value.pointer("/spec/pvc").or_else(|| value.pointer("/spec/storage"))?;
        let metadata = value.get("metadata")?;
        let name = metadata.get("name")?;
        let claim = json!({ "metadata": { "name": name, "namespace": metadata.get("namespace") }, "spec": spec });
        let mut claim = Claim::deserialize(claim).ok()?;
        self.fill(&mut claim.metadata.namespace);
        Some(Subject::Fact(Box::new(Fact::Claim(claim))))
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
            // Empty for kinds without one.
            Subject::Fact(fact) => fact.namespaced().then(|| fact.key().1.into()),
            Subject::Other(found) => {
                metadata("namespace").map(Text::from).or_else(|| found.first()?.pod.metadata.namespace.clone())
            }
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
pub(super) fn facts(objects: &[Object], listed: &BTreeSet<Kind>) -> Facts {
    let mut facts = Facts::new(Unlisted::Unknown);
    for kind in listed {
        facts.complete(*kind);
    }
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
        match &object.subject {
            Subject::Workload(workload) => {
                if let Some(pod) = consumer(workload) {
                    facts.add(Fact::Pod(pod));
                }
            }
            Subject::Other(found) if object.value.pointer("/metadata/uid").is_none() => {
                for embedded in found {
                    facts.add(Fact::Pod(embedded.pod.clone()));
                }
            }
            Subject::Other(_) | Subject::Fact(_) => {}
        }
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

/// The Pod that a workload is to have: it uses claims as Pods do. Workloads that were read from a cluster have their own,
/// and a StatefulSet's claims are each Pod's alone.
fn consumer(workload: &Workload) -> Option<Pod> {
    let is_stored = workload.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty());
    let makes_pods = workload.kind != WorkloadKind::PodTemplate && !workload.is_idle;
    if is_stored || !makes_pods { None } else { workload.pod() }
}

/// The kind of which a list holds all objects: one that holds objects of this kind only. kubectl writes such a list for
/// `kubectl get nodes`; a list of several kinds may be anybody's.
fn kind_of_all(items: &[Value], item_type: Option<(&str, &str)>) -> Option<Kind> {
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let kinds = items.iter().map(|item| {
        let (api_version, kind) = (text(item, "apiVersion"), text(item, "kind"));
        api_version.zip(kind).or_else(|| item_type.map(|(version, kind)| (version.to_owned(), kind.to_owned())))
    });
    let mut kinds: Vec<_> =
        kinds.chain(item_type.map(|(version, kind)| Some((version.to_owned(), kind.to_owned())))).collect();
    kinds.dedup();
    let [Some((api_version, kind))] = kinds.as_slice() else { return None };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    Kind::of(group, kind)
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
