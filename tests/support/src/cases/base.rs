//! What cases start from: the files of `tests/cases/base`, and how a case changes one of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Case;
use crate::objects::merge;

/// One file of `tests/cases/base`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Kubernetes objects.
    pub objects: Vec<Value>,
    /// The Pod that is decided about, where the case names no workload and no claim.
    pub pod: Option<Value>,
}

/// Adds to a case what its base has and the case neither leaves out nor replaces.
pub fn expand(case: &mut Case, bases: &BTreeMap<String, Base>) -> Result<(), String> {
    let Some(name) = &case.base else {
        return if case.without.is_empty() { Ok(()) } else { Err("without: there is no base".to_owned()) };
    };
    let Base { mut objects, mut pod } = bases.get(name).cloned().ok_or_else(|| format!("there is no base {name}"))?;
    for left_out in &case.without {
        let before = objects.len() + usize::from(pod.is_some());
        objects.retain(|object| kind_and_name(object) != *left_out);
        pod = pod.filter(|pod| kind_and_name(pod) != *left_out);
        if before == objects.len() + usize::from(pod.is_some()) {
            return Err(format!("without: the base {name} has no {left_out}"));
        }
    }
    for change in std::mem::take(&mut case.objects) {
        match objects.iter_mut().find(|object| identity(object) == identity(&change)) {
            Some(object) => merge(object, &change),
            None if change.get("apiVersion").is_none() => {
                return Err(format!("the base {name} has no {} to change", kind_and_name(&change)));
            }
            None => objects.push(change),
        }
    }
    case.objects = objects;
    case.pod = match (pod, case.pod.take()) {
        (Some(mut pod), Some(change)) => {
            merge(&mut pod, &change);
            Some(pod)
        }
        (_, Some(own)) => Some(own),
        (pod, None) if case.workload.is_none() && case.claim.is_none() => pod,
        (_, None) => None,
    };
    Ok(())
}

fn identity(object: &Value) -> [&str; 3] {
    ["/kind", "/metadata/namespace", "/metadata/name"].map(|pointer| text(object, pointer))
}

fn kind_and_name(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
