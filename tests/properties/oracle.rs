//! What must hold, worked out on the JSON itself and not with the code that is tested.

use serde_json::{Value, json};

use super::world::{HOSTNAME, REQUIRED, SELECTED};

const ORIGINAL: &str = "/metadata/annotations/latebind.dev~1original-node-name";

/// Whether a Pod's node selector and required node affinity accept a node.
pub fn accepts(pod: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selected = pod["spec"]["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = &pod["spec"]["affinity"]["nodeAffinity"][REQUIRED];
    selected && (required.is_null() || items(&required["nodeSelectorTerms"]).any(|term| term_accepts(term, node)))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn term_accepts(term: &Value, node: &Value) -> bool {
    let (expressions, fields) = (&term["matchExpressions"], &term["matchFields"]);
    let empty = items(expressions).chain(items(fields)).next().is_none();
    let label = |requirement: &Value| {
        let key = requirement["key"].as_str().unwrap_or_default();
        holds(requirement, node["metadata"]["labels"].get(key).and_then(Value::as_str))
    };
    !empty
        && items(expressions).all(label)
        && items(fields).all(|field| holds(field, node["metadata"]["name"].as_str()))
}

fn holds(requirement: &Value, value: Option<&str>) -> bool {
    let values: Vec<&str> = items(&requirement["values"]).filter_map(Value::as_str).collect();
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" => value.is_some_and(|value| values.contains(&value)),
        "NotIn" => value.is_none_or(|value| !values.contains(&value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(found, bound)| found > bound),
        "Lt" => numbers().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

/// One place in which two values differ: its JSON pointer, and what stood and stands there.
#[derive(Debug)]
pub struct Change<'a> {
    pub pointer: String,
    pub before: Option<&'a Value>,
    pub after: Option<&'a Value>,
}

/// Every difference, as deep down as both sides have the same kind of value.
pub fn changes<'a>(before: &'a Value, after: &'a Value) -> Vec<Change<'a>> {
    let mut found = Vec::new();
    collect(String::new(), Some(before), Some(after), &mut found);
    found
}

fn collect<'a>(pointer: String, before: Option<&'a Value>, after: Option<&'a Value>, found: &mut Vec<Change<'a>>) {
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                let step = key.replace('~', "~0").replace('/', "~1");
                collect(format!("{pointer}/{step}"), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for place in 0..old.len().max(new.len()) {
                collect(format!("{pointer}/{place}"), old.get(place), new.get(place), found);
            }
        }
        _ if before == after => {}
        _ => found.push(Change { pointer, before, after }),
    }
}

/// Whether a rewrite of a Pod that named this node may make this change.
pub fn rewrite_may(change: &Change<'_>, node_name: &str) -> bool {
    let requirement = json!({"key": "metadata.name", "operator": "In", "values": [node_name]});
    let fields = json!([requirement]);
    let terms = json!({"nodeSelectorTerms": [{"matchFields": fields}]});
    let was_nothing = change.before.is_none_or(Value::is_null);
    let becomes = |value: &Value| was_nothing && change.after == Some(value);
    let affinity = format!("/spec/affinity/nodeAffinity/{REQUIRED}");
    match change.pointer.as_str() {
        "/spec/nodeName" => change.before == Some(&json!(node_name)) && change.after.is_none(),
        "/spec/nodeSelector" => {
            let only = change.after.and_then(Value::as_object).filter(|selector| selector.len() == 1);
            was_nothing && only.is_some_and(|selector| selector.contains_key(HOSTNAME))
        }
        "/spec/nodeSelector/kubernetes.io~1hostname" => change.before.is_none() && change.after.is_some(),
        "/spec/affinity" => becomes(&json!({"nodeAffinity": {REQUIRED: terms}})),
        "/spec/affinity/nodeAffinity" => becomes(&json!({REQUIRED: terms})),
        "/metadata/annotations" => becomes(&json!({"latebind.dev/original-node-name": node_name})),
        ORIGINAL => change.after == Some(&json!(node_name)),
        pointer if pointer == affinity => becomes(&terms),
        pointer => {
            let Some(beneath) = pointer.strip_prefix(&format!("{affinity}/nodeSelectorTerms/")) else { return false };
            let steps: Vec<&str> = beneath.split('/').collect();
            match steps.as_slice() {
                [_, "matchFields"] => becomes(&fields),
                [_, "matchFields", _] => change.before.is_none() && change.after == Some(&requirement),
                _ => false,
            }
        }
    }
}

/// Whether writing the node into an ephemeral volume's template may make this change.
pub fn template_may(change: &Change<'_>, node_name: &str) -> bool {
    let steps: Vec<&str> = change.pointer.split('/').skip(1).collect();
    let becomes = |value: Value| change.before.is_none_or(Value::is_null) && change.after == Some(&value);
    match steps.as_slice() {
        ["spec", "volumes", _, "ephemeral", "volumeClaimTemplate", "metadata", beneath @ ..] => match beneath {
            [] => becomes(json!({"annotations": {SELECTED: node_name}})),
            ["annotations"] => becomes(json!({SELECTED: node_name})),
            ["annotations", "volume.kubernetes.io~1selected-node"] => change.after == Some(&json!(node_name)),
            _ => false,
        },
        _ => false,
    }
}
