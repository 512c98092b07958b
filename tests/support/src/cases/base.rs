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
    let Base { objects, mut pod } = bases.get(name).cloned().ok_or_else(|| format!("there is no base {name}"))?;
    let mut without = case.without.clone();
    if let Some(left_out) = pod.as_ref().and_then(|pod| without.iter().position(|name| *name == kind_and_name(pod))) {
        without.remove(left_out);
        pod = None;
    }
    case.objects = changed(name, objects, &without, std::mem::take(&mut case.objects))?;
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

/// The objects of a base without those that are left out, as `KIND/NAME`, and as they are changed: one of the same kind and name
/// is merged, and one with an `apiVersion` is added.
///
/// # Errors
/// When the base has nothing that is to be left out or changed.
pub fn changed(
    base: &str,
    mut objects: Vec<Value>,
    without: &[String],
    changes: Vec<Value>,
) -> Result<Vec<Value>, String> {
    for left_out in without {
        let before = objects.len();
        objects.retain(|object| kind_and_name(object) != *left_out);
        if before == objects.len() {
            return Err(format!("without: the base {base} has no {left_out}"));
        }
    }
    for change in changes {
        match objects.iter_mut().find(|object| identity(object) == identity(&change)) {
            Some(object) => merge(object, &change),
            None if change.get("apiVersion").is_none() => {
                return Err(format!("the base {base} has no {} to change", kind_and_name(&change)));
            }
            None => objects.push(change),
        }
    }
    Ok(objects)
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
