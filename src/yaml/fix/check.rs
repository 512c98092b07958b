//! The safety net: what a text means after the edit.

use serde_json::{Map, Value, json};

use super::tree::Tree;
use super::{Refusal, Target};
use crate::binding::Pin;
use crate::model::HOSTNAME_LABEL;

/// Reads the edited text and requires that it means the old value with the targets rewritten, and nothing else.
pub(super) fn check(before: &Value, after: &str, targets: &[&Target]) -> Result<(), Refusal> {
    let mut expected = before.clone();
    for target in targets {
        pin(spec_of(&mut expected, target).ok_or(Refusal::Shared)?, &target.pin).ok_or(Refusal::Check)?;
    }
    let after = Tree::read(after).map_err(|_| Refusal::Check)?;
    if after.value() == expected { Ok(()) } else { Err(Refusal::Check) }
}

fn spec_of<'v>(document: &'v mut Value, target: &Target) -> Option<&'v mut Value> {
    target.spec.0.iter().try_fold(bare(document), |node, step| {
        let child = match node {
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            Value::Object(map) => map.get_mut(step)?,
            _ => return None,
        };
        Some(bare(child))
    })
}

/// The node beneath the mark of an anchor or tag.
fn bare(value: &mut Value) -> &mut Value {
    let marked = value.get("anchor").is_some() && value.get("tagged").is_some() && value.get("node").is_some();
    if marked { &mut value["node"] } else { value }
}

/// The rewrite as a change of values.
fn pin(spec: &mut Value, pin: &Pin) -> Option<()> {
    let spec = spec.as_object_mut()?;
    spec.remove("nodeName")?;
    match pin {
        Pin::Hostname(value) => {
            mapping(spec, "nodeSelector")?.insert(HOSTNAME_LABEL.to_owned(), Value::from(value.as_str()));
        }
        Pin::Name(name) => {
            let field = json!({ "key": "metadata.name", "operator": "In", "values": [name] });
            let affinity = mapping(mapping(spec, "affinity")?, "nodeAffinity")?;
            let required = affinity.entry("requiredDuringSchedulingIgnoredDuringExecution");
            let required = bare(required.or_insert(Value::Null));
            if required.is_null() {
                *required = json!({ "nodeSelectorTerms": [{ "matchFields": [field] }] });
                return Some(());
            }
            for term in bare(required.get_mut("nodeSelectorTerms")?).as_array_mut()? {
                let term = bare(term).as_object_mut()?;
                let full = |key: &str| {
                    let list = term.get(key).map(|list| list.get("node").unwrap_or(list));
                    list.and_then(Value::as_array).is_some_and(|list| !list.is_empty())
                };
                if !full("matchExpressions") && !full("matchFields") {
                    continue;
                }
                let fields = bare(term.entry("matchFields").or_insert(Value::Null));
                if fields.is_null() {
                    *fields = json!([]);
                }
                fields.as_array_mut()?.push(field.clone());
            }
        }
    }
    Some(())
}

/// The mapping at a key, made if it is absent or null.
fn mapping<'v>(owner: &'v mut Map<String, Value>, key: &str) -> Option<&'v mut Map<String, Value>> {
    let value = bare(owner.entry(key).or_insert(Value::Null));
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}
