//! Selectors: labels, node affinity terms, topology terms, taints and tolerations.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration, TopologySelectorTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Labels, Node, PodSpec, Text, Volume};

static NO_LABELS: LazyLock<Labels> = LazyLock::new(Labels::default);

/// The labels, or none.
#[must_use]
pub fn labels(found: Option<&Labels>) -> &Labels {
    found.unwrap_or(&NO_LABELS)
}

/// True when the labels satisfy the selector. An empty selector matches everything.
///
/// An operator that Kubernetes does not know matches nothing.
/// Source: `apimachinery/pkg/apis/meta/v1/helpers.go`, `LabelSelectorAsSelector`.
#[must_use]
pub fn label_selector_matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal =
        selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key).is_some_and(|found| found == value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            requirement_matches(&expression.operator, values, labels.get(&expression.key).map(Text::as_str))
        })
}

/// Whether one requirement holds for the value of its key. Gt and Lt compare integers.
/// Source: `apimachinery/pkg/labels/selector.go`, `Requirement.Matches`.
fn requirement_matches(operator: &str, values: &[String], found: Option<&str>) -> bool {
    let integer = |text: &str| text.parse::<i64>().ok();
    match operator {
        "In" => found.is_some_and(|value| values.iter().any(|wanted| wanted == value)),
        "NotIn" => !values.is_empty() && found.is_none_or(|value| values.iter().all(|unwanted| unwanted != value)),
        "Exists" => values.is_empty() && found.is_some(),
        "DoesNotExist" => values.is_empty() && found.is_none(),
        "Gt" | "Lt" => match (values, found.and_then(integer)) {
            ([bound], Some(value)) => {
                integer(bound).is_some_and(|bound| if operator == "Gt" { value > bound } else { value < bound })
            }
            _ => false,
        },
        _ => false,
    }
}

/// True for a term without requirements; it matches nothing.
/// Source: `component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity.go`, `isEmptyNodeSelectorTerm`.
#[must_use]
pub fn is_empty_term(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.iter().flatten().next().is_none() && term.match_fields.iter().flatten().next().is_none()
}

/// True when the fields of a term match a node of that name.
pub(crate) fn fields_match(term: &NodeSelectorTerm, name: &str) -> bool {
    term.match_fields.iter().flatten().all(|requirement| field_matches(requirement, name))
}

/// Whether a requirement on a field holds. The name is the only one, and takes one value.
fn field_matches(requirement: &NodeSelectorRequirement, name: &str) -> bool {
    match requirement.values.as_deref() {
        Some([value]) if requirement.key == "metadata.name" => {
            requirement_matches(&requirement.operator, std::slice::from_ref(value), Some(name))
                && matches!(requirement.operator.as_str(), "In" | "NotIn")
        }
        _ => false,
    }
}

/// Whether one term matches. Without a node name `matchFields` are passed over, as for volumes.
fn term_matches(term: &NodeSelectorTerm, labels: &Labels, name: Option<&str>) -> bool {
    let on_labels = |requirement: &NodeSelectorRequirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        requirement_matches(&requirement.operator, values, labels.get(&requirement.key).map(Text::as_str))
    };
    !is_empty_term(term)
        && term.match_expressions.iter().flatten().all(on_labels)
        && name.is_none_or(|name| fields_match(term, name))
}

/// True when a term of the selector matches the node.
#[must_use]
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    let labels = labels(node.metadata.labels.as_ref());
    selector.node_selector_terms.iter().any(|term| term_matches(term, labels, Some(node.name())))
}

/// True when the node can reach the volume. Only labels count: a term with nothing but `matchFields` matches every node.
/// Source: `component-helpers/storage/volume/helpers.go`, `CheckNodeAffinity`, which passes a Node without a name.
#[must_use]
pub fn volume_reachable(volume: &Volume, node: &Node) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| volume_selector_matches(selector, node))
}

/// Labels of which a node must have one to reach the volume: of each term the values of the first label that tells nodes apart.
/// Nothing where a term asks for none such: many nodes reach the volume then, or its affinity says too little.
#[must_use]
pub fn place_labels(volume: &Volume) -> Vec<(&str, &str)> {
    let required = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let mut labels = Vec::new();
    for term in required.iter().flat_map(|required| &required.node_selector_terms) {
        let mut wanted = term.match_expressions.iter().flatten();
        let Some(wanted) = wanted.find(|it| it.operator == "In" && !is_of_many_nodes(&it.key)) else {
            return Vec::new();
        };
        labels.extend(wanted.values.iter().flatten().map(|value| (wanted.key.as_str(), value.as_str())));
    }
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// True for labels that, by their name, many nodes share: those of Kubernetes, and those of CSI drivers such as
/// `topology.ebs.csi.aws.com/zone`.
fn is_of_many_nodes(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    matches!(name, "zone" | "region" | "location" | "datacenter" | "rack" | "os" | "arch")
}

/// What [`volume_reachable`] asks, of a node affinity alone.
pub(crate) fn volume_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    let labels = labels(node.metadata.labels.as_ref());
    selector.node_selector_terms.iter().any(|term| term_matches(term, labels, None))
}

/// What node affinity wants and the node has, in words: each requirement that does not hold.
pub(crate) fn unmet(selector: &NodeSelector, node: &Node) -> String {
    let labels = labels(node.metadata.labels.as_ref());
    let of_term = |term: &NodeSelectorTerm| {
        let wanted = term.match_expressions.iter().flatten();
        let unmet = wanted.filter(|wanted| {
            let values = wanted.values.as_deref().unwrap_or_default();
            !requirement_matches(&wanted.operator, values, labels.get(&wanted.key).map(Text::as_str))
        });
        let words = unmet.map(|wanted| {
            let found = labels.get(&wanted.key).map_or_else(|| "has none".to_owned(), |value| format!("has {value:?}"));
            format!("{}, the node {found}", wants(wanted))
        });
        words.collect::<Vec<_>>().join(" and ")
    };
    let terms: Vec<String> =
        selector.node_selector_terms.iter().map(of_term).filter(|words| !words.is_empty()).collect();
    if terms.is_empty() {
        "has no term that a node could match".to_owned()
    } else {
        format!("wants {}", terms.join(", or "))
    }
}

/// What node affinity wants, in words.
pub(crate) fn wanted(selector: &NodeSelector) -> String {
    let of_term =
        |term: &NodeSelectorTerm| term.match_expressions.iter().flatten().map(wants).collect::<Vec<_>>().join(" and ");
    selector.node_selector_terms.iter().map(of_term).filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", or ")
}

fn wants(wanted: &NodeSelectorRequirement) -> String {
    match wanted.values.as_deref() {
        None | Some([]) => format!("{} {}", wanted.key, wanted.operator),
        Some(values) => format!("{} {} ({})", wanted.key, wanted.operator, values.join(", ")),
    }
}

/// True when the Pod's own node selector and required node affinity accept the node.
#[must_use]
pub fn pod_accepts(spec: &PodSpec, node: &Node) -> bool {
    let by_selector = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    by_selector && spec.required_node_affinity().is_none_or(|selector| node_selector_matches(selector, node))
}

/// True when the class may have volumes on the node. No terms allow every node.
/// Source: `component-helpers/scheduling/corev1/helpers.go`, `MatchTopologySelectorTerms`.
#[must_use]
pub fn topology_allows(terms: &[TopologySelectorTerm], node: &Node) -> bool {
    let matches = |term: &TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        !expressions.is_empty()
            && expressions.iter().all(|expression| {
                node.label(&expression.key).is_some_and(|value| expression.values.iter().any(|wanted| wanted == value))
            })
    };
    terms.is_empty() || terms.iter().any(matches)
}

/// True when the toleration covers the taint.
/// Source: `staging/src/k8s.io/api/core/v1/toleration.go`, `ToleratesTaint`.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn given(text: Option<&String>) -> &str {
        text.map(String::as_str).unwrap_or_default()
    }
    let (effect, key) = (given(toleration.effect.as_ref()), given(toleration.key.as_ref()));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => given(toleration.value.as_ref()) == given(taint.value.as_ref()),
        "Exists" => true,
        _ => false,
    }
}

/// The first taint of the node with this effect that the Pod does not tolerate.
#[must_use]
pub fn untolerated<'a>(spec: &PodSpec, taints: &'a [Taint], effect: &str) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| taint.effect == effect)
        .find(|taint| !spec.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn term(value: &serde_json::Value) -> NodeSelectorTerm {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn node(name: &str, labels: &[(&str, &str)]) -> Node {
        let labels: Labels = labels.iter().map(|(key, value)| (*key, Text::from(*value))).collect();
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    fn matches(selector: &serde_json::Value, node: &Node) -> bool {
        node_selector_matches(&NodeSelector { node_selector_terms: vec![term(selector)] }, node)
    }

    #[test]
    fn operators_follow_the_label_selector_rules() {
        let node = node("a", &[("zone", "z1"), ("cpus", "8"), ("odd", "x")]);
        for (operator, key, values, expected) in [
            ("In", "zone", vec!["z1", "z2"], true),
            ("In", "zone", vec!["z2"], false),
            ("In", "gone", vec!["z1"], false),
            ("In", "zone", vec![], false),
            ("NotIn", "zone", vec!["z2"], true),
            ("NotIn", "zone", vec!["z1"], false),
            ("NotIn", "gone", vec!["z1"], true),
            ("Exists", "zone", vec![], true),
            ("Exists", "gone", vec![], false),
            ("DoesNotExist", "zone", vec![], false),
            ("DoesNotExist", "gone", vec![], true),
            ("Gt", "cpus", vec!["7"], true),
            ("Gt", "cpus", vec!["8"], false),
            ("Lt", "cpus", vec!["9"], true),
            ("Lt", "odd", vec!["9"], false),
            ("Gt", "cpus", vec!["many"], false),
            ("Gt", "cpus", vec!["1", "2"], false),
            ("Matches", "zone", vec!["z1"], false),
        ] {
            let selector = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            assert_eq!(matches(&selector, &node), expected, "{operator} {key} {values:?}");
        }
    }

    #[test]
    fn fields_know_only_the_name_and_one_value() {
        let node = node("a", &[]);
        let on = |key: &str, operator: &str, values: &[&str]| {
            matches(&json!({"matchFields": [{"key": key, "operator": operator, "values": values}]}), &node)
        };
        assert!(on("metadata.name", "In", &["a"]));
        assert!(on("metadata.name", "NotIn", &["b"]));
        assert!(!on("metadata.name", "In", &["b"]));
        assert!(!on("metadata.name", "In", &["a", "b"]));
        assert!(!on("metadata.name", "Exists", &[]));
        assert!(!on("metadata.uid", "In", &["a"]));
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        assert!(!matches(&json!({}), &node("a", &[])));
        assert!(!matches(&json!({"matchExpressions": [], "matchFields": []}), &node("a", &[])));
    }

    #[test]
    fn a_volume_that_names_fields_only_is_reachable_from_everywhere() {
        let volume: Volume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"nodeAffinity": {"required":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}}))
            .unwrap();
        assert!(volume_reachable(&volume, &node("a", &[])));
    }

    #[test]
    fn a_volume_names_its_nodes_by_labels_that_tell_nodes_apart() {
        let labels = |terms: serde_json::Value| {
            let volume: Volume = serde_json::from_value(json!({ "metadata": { "name": "v" },
                "spec": { "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } } }))
            .unwrap();
            let found = place_labels(&volume).into_iter().map(|(key, value)| format!("{key}={value}"));
            found.collect::<Vec<_>>().join(" ")
        };
        let term = |key: &str, operator: &str, values: &[&str]| {
            json!({ "matchExpressions": [{ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z"] },
                { "key": key, "operator": operator, "values": values }] })
        };
        assert_eq!(labels(json!([term("host", "In", &["b", "a"]), term("host", "In", &["a"])])), "host=a host=b");
        assert_eq!(labels(json!([term("x.csi/node", "In", &["n"])])), "x.csi/node=n");
        for many in [json!([term("x.csi/zone", "In", &["y"])]), json!([term("host", "NotIn", &["a"])]), json!([{}])] {
            assert_eq!(labels(many.clone()), "", "{many}");
            let both = json!([term("host", "In", &["a"]), many[0]]);
            assert_eq!(labels(both), "", "the other term lets more nodes reach it");
        }
    }

    #[test]
    fn tolerations_cover_by_key_effect_and_value() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let covers = |toleration: serde_json::Value| tolerates(&serde_json::from_value(toleration).unwrap(), &taint);
        assert!(covers(json!({"operator": "Exists"})));
        assert!(covers(json!({"key": "k", "operator": "Exists"})));
        assert!(covers(json!({"key": "k", "value": "v"})));
        assert!(covers(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"})));
        assert!(!covers(json!({"key": "k", "operator": "Equal", "value": "w"})));
        assert!(!covers(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})));
        assert!(!covers(json!({"key": "j", "operator": "Exists"})));
        assert!(!covers(json!({"key": "k", "operator": "Gt", "value": "v"})));
    }
}
