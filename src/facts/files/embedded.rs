//! Pods of controllers that are not known: a mapping with `containers`, and `volumes` or `resourceClaims`, wherever an object
//! holds one.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::binding::FieldPath;
use crate::model::{Metadata, Pod, PodSpec};
use crate::yaml::{AliasBudget, documents};

/// How deep a template is looked for: no known kind comes near it.
const DEEPEST: usize = 32;

/// What stands for a Pod in an object of a kind that is not known.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Steps from the top of the object to the Pod's spec, or to the text that holds it.
    pub path: FieldPath,
    /// The Pod stands in a text within the object, or is put together from several places.
    pub is_text: bool,
    /// The Pod, without a name.
    pub pod: Pod,
}

/// Every Pod that the object holds.
pub(super) fn embedded(group: &str, kind: &str, value: &Value) -> Vec<Embedded> {
    let mut found = Vec::new();
    if group == "argoproj.io" && kind.contains("Workflow") {
        patched_workflow(value, &mut found);
    } else if group.is_empty() && kind == "ConfigMap" {
        texts(value, &mut found);
    }
    search(value, None, &mut FieldPath::default(), &mut found);
    found
}

fn search(value: &Value, metadata: Option<&Value>, path: &mut FieldPath, found: &mut Vec<Embedded>) {
    if path.0.len() > DEEPEST {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let Some(pod) = pod_of(value, metadata) {
                return found.push(Embedded { path: path.clone(), is_text: false, pod });
            }
            for (key, field) in fields {
                path.0.push(key.clone());
                search(field, fields.get("metadata"), path, found);
                path.0.pop();
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                path.0.push(place.to_string());
                search(item, None, path, found);
                path.0.pop();
            }
        }
        _ => {}
    }
}

/// The Pod of a spec, with the labels and annotations that stand beside it.
fn pod_of(spec: &Value, metadata: Option<&Value>) -> Option<Pod> {
    let is_list = |key: &str| spec.get(key).is_some_and(Value::is_array);
    if !is_list("containers") || !(is_list("volumes") || is_list("resourceClaims")) {
        return None;
    }
    let spec = PodSpec::deserialize(spec).ok()?;
    let beside = metadata.and_then(|metadata| Metadata::deserialize(metadata).ok()).unwrap_or_default();
    let metadata = Metadata { labels: beside.labels, annotations: beside.annotations, ..Metadata::default() };
    Some(Pod { metadata, spec, ..Pod::default() })
}

/// Manifests in the texts of a ConfigMap, as runners of CI jobs take their Pod templates.
fn texts(config_map: &Value, found: &mut Vec<Embedded>) {
    let data = config_map.get("data").and_then(Value::as_object);
    for (key, text) in data.into_iter().flatten() {
        let Some(text) = text.as_str().filter(|text| text.contains("nodeName")) else { continue };
        let mut budget = AliasBudget::default();
        for document in documents(text) {
            let Ok(value) = document.value(&mut budget) else { continue };
            let mut within = Vec::new();
            search(&value, None, &mut FieldPath::default(), &mut within);
            let path = FieldPath::new(&["data", key]);
            found.extend(within.into_iter().map(|it| Embedded { path: path.clone(), is_text: true, ..it }));
        }
    }
}

/// Argo's Workflows have no Pod spec: each template is a container, and `podSpecPatch` is merged into its Pod.
fn patched_workflow(workflow: &Value, found: &mut Vec<Embedded>) {
    for above in [&["spec"][..], &["spec", "workflowSpec"]] {
        let Some(spec) = above.iter().try_fold(workflow, |value, key| value.get(key)) else { continue };
        for (place, template) in spec.get("templates").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let index = place.to_string();
            let of_template = FieldPath::new(&["templates", &index, "podSpecPatch"]).beneath(above);
            let of_all = FieldPath::new(&["podSpecPatch"]).beneath(above);
            let patches = [(template, of_template), (spec, of_all)];
            let found_patch = patches.into_iter().find_map(|(holder, path)| Some((patch_of(holder)?, path)));
            let Some((changes, path)) = found_patch else { continue };
            let mut pod = json!({ "containers": containers(template), "volumes": volumes(spec, template) });
            json_patch::merge(&mut pod, &changes);
            if let Some(pod) = pod_of(&pod, template.get("metadata")) {
                found.push(Embedded { path, is_text: true, pod });
            }
        }
    }
}

/// A patch that names a node.
fn patch_of(holder: &Value) -> Option<Value> {
    let text = holder.get("podSpecPatch")?.as_str()?;
    let document = documents(text).into_iter().next()?;
    let patch = document.value(&mut AliasBudget::default()).ok()?;
    patch.get("nodeName").is_some().then_some(patch)
}

fn containers(template: &Value) -> Vec<Value> {
    let alone = ["container", "script"].into_iter().filter_map(|key| template.get(key)).cloned();
    let lists = ["/containerSet/containers", "/initContainers", "/sidecars"].into_iter();
    let listed = lists.filter_map(|pointer| template.pointer(pointer)?.as_array()).flatten().cloned();
    alone.chain(listed).collect()
}

fn volumes(spec: &Value, template: &Value) -> Vec<Value> {
    [spec, template].into_iter().filter_map(|holder| holder.get("volumes")?.as_array()).flatten().cloned().collect()
}

/// True when a field `nodeName` of the object, status aside, holds a text. Kinds of Kubernetes' own that hold no Pod name
/// nodes for other reasons.
pub(crate) fn names_a_node(group: &str, kind: &str, value: &Value) -> bool {
    const OWN: [&str; 8] = [
        "discovery.k8s.io",
        "storage.k8s.io",
        "resource.k8s.io",
        "events.k8s.io",
        "coordination.k8s.io",
        "authentication.k8s.io",
        "certificates.k8s.io",
        "metrics.k8s.io",
    ];
    let is_own = OWN.contains(&group) || (group.is_empty() && matches!(kind, "Endpoints" | "Event" | "Binding"));
    !is_own && holds_node_name(value, 0)
}

fn holds_node_name(value: &Value, depth: usize) -> bool {
    match value {
        _ if depth > DEEPEST => false,
        Value::Object(fields) => fields.iter().any(|(key, field)| match (key.as_str(), field) {
            ("nodeName", Value::String(name)) => !name.is_empty(),
            ("status", _) if depth == 0 => false,
            // A manifest in a text.
            (_, Value::String(text)) => text.lines().any(|line| {
                let line = line.trim_start().trim_start_matches(['{', '"', '\'', ' ']);
                let rest = line.strip_prefix("nodeName").map(|rest| rest.trim_start_matches(['"', '\'']).trim_start());
                rest.and_then(|rest| rest.strip_prefix(':')).is_some_and(|name| !name.trim().is_empty())
            }),
            (_, field) => holds_node_name(field, depth + 1),
        }),
        Value::Array(items) => items.iter().any(|item| holds_node_name(item, depth + 1)),
        _ => false,
    }
}
