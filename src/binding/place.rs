//! The node that a Pod names: a Node that is known, or one of which only what was asked of it is known.
//!
//! A Node that is not among the facts has labels all the same. Assumed to exist, it carries those that the Pod, its
//! volumes and their classes ask for, as far as these agree with each other; each of them becomes part of the assumption.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, TopologySelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::assume::Assumption;
use crate::model::selector::{
    fields_match, is_empty_term, label_selector_matches, labels, node_selector_matches, pod_accepts, topology_allows,
};
use crate::model::{HOSTNAME_LABEL, Metadata, Node, NodeCondition, NodeStatus, PodSpec};

/// The longest value of a label.
const LONGEST_LABEL_VALUE: usize = 63;
/// Combinations of alternatives that are tried before a Node is taken to agree: what is not known is never a no.
const MOST_STEPS: u32 = 10_000;

/// Requirements that hold together.
type Term = Vec<NodeSelectorRequirement>;
/// Terms of which one must hold.
pub(super) type Alternatives = Vec<Term>;

/// The node that a Pod names.
#[derive(Debug)]
pub(super) struct Place {
    node: Arc<Node>,
    /// Present when the Node is assumed, or its status is.
    open: Option<Open>,
}

/// What is left open about a Node.
#[derive(Debug)]
struct Open {
    /// Its labels are open; else only its status is.
    labels: bool,
    /// What was asked of its labels, and agreed to.
    agreed: RefCell<Vec<Alternatives>>,
    /// Its hostname label, unless the Pod asks for another.
    hostname: Option<Alternatives>,
    /// Extended resources that were asked of it.
    resources: RefCell<BTreeSet<String>>,
    /// False when the Pod's own selector and affinity contradict each other.
    accepted: bool,
}

impl Place {
    /// A Node that is among the facts. `is_bare`: it was written without a status, which a Node that runs has.
    pub fn known(node: Arc<Node>, is_bare: bool) -> Self {
        let open = is_bare.then(|| Open {
            labels: false,
            agreed: RefCell::default(),
            hostname: None,
            resources: RefCell::default(),
            accepted: true,
        });
        Self { node, open }
    }

    /// A Node that is assumed: ready, without taints, and with the labels that are asked of it.
    pub fn assumed(name: &str, spec: &PodSpec) -> Self {
        let own = of_pod(spec, name);
        let accepted = solve(own.iter()).is_some();
        let agreed = if accepted { own } else { Vec::new() };
        // The name of a Node may be longer than a label value may be: then its label is anybody's guess.
        let hostname = vec![vec![requirement(HOSTNAME_LABEL, "In", &[name])]];
        let usual = name.len() <= LONGEST_LABEL_VALUE && solve(agreed.iter().chain([&hostname])).is_some();
        let open = Open {
            labels: true,
            agreed: RefCell::new(agreed),
            hostname: usual.then_some(hostname),
            resources: RefCell::default(),
            accepted,
        };
        let ready = NodeCondition { type_: "Ready".into(), status: "True".into() };
        let node = Node {
            metadata: Metadata { name: Some(name.into()), ..Metadata::default() },
            status: NodeStatus { conditions: vec![ready], ..NodeStatus::default() },
            ..Node::default()
        };
        Self { node: Arc::new(node), open: Some(open) }
    }

    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// The Node; without labels where these are assumed.
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn open_labels(&self) -> Option<&Open> {
        self.open.as_ref().filter(|open| open.labels)
    }

    /// True when the Node is not among the facts.
    pub fn is_assumed(&self) -> bool {
        self.open_labels().is_some()
    }

    /// The value of the hostname label.
    pub fn hostname(&self) -> Option<String> {
        match self.open_labels() {
            None => self.node.label(HOSTNAME_LABEL).map(str::to_owned),
            Some(open) => open.solution()?.get(HOSTNAME_LABEL)?.value(),
        }
    }

    /// True when the Pod's own node selector and required node affinity accept the node.
    pub fn is_accepted_by(&self, spec: &PodSpec) -> bool {
        self.open_labels().map_or_else(|| pod_accepts(spec, &self.node), |open| open.accepted)
    }

    /// Whether the node's labels satisfy a node selector that looks at labels alone; `None` when that is not known.
    pub fn reaches(&self, selector: Option<&NodeSelector>) -> Option<bool> {
        let Some(selector) = selector else { return Some(true) };
        match self.open_labels() {
            None => Some(volume_selector_matches(selector, &self.node)),
            // What contradicts the Pod's own selector is certain; what contradicts the usual hostname label is not.
            Some(open) if open.is_possible(&of_volume(selector)) => None,
            Some(_) => Some(false),
        }
    }

    /// Whether a node selector chooses the node, by its name and labels; `None` when that is not known.
    pub fn is_chosen_by(&self, selector: &NodeSelector) -> Option<bool> {
        let Some(open) = self.open_labels() else { return Some(node_selector_matches(selector, &self.node)) };
        let terms = selector.node_selector_terms.iter().filter(|term| !is_empty_term(term));
        let of_node: Alternatives = terms
            .filter(|term| fields_match(term, self.name()))
            .map(|term| term.match_expressions.clone().unwrap_or_default())
            .collect();
        if of_node.iter().any(Vec::is_empty) {
            return Some(true);
        }
        if open.is_possible(&of_node) { None } else { Some(false) }
    }

    /// The same, with what is not known agreed to where it can be. Nothing is kept of it.
    pub fn could_reach(&self, selector: Option<&NodeSelector>) -> bool {
        let Some(selector) = selector else { return true };
        match self.open_labels() {
            None => volume_selector_matches(selector, &self.node),
            Some(open) => open.could(&of_volume(selector)),
        }
    }

    /// The same, and it is kept: later questions are answered by a Node that does.
    pub fn agree_to_reach(&self, selector: Option<&NodeSelector>) -> bool {
        let Some(selector) = selector else { return true };
        match self.open_labels() {
            None => volume_selector_matches(selector, &self.node),
            Some(open) => open.agree(of_volume(selector)),
        }
    }

    /// True when the class may have volumes on the node.
    pub fn is_allowed_by(&self, terms: &[TopologySelectorTerm]) -> bool {
        match self.open_labels() {
            None => topology_allows(terms, &self.node),
            Some(_) if terms.is_empty() => true,
            Some(open) => open.agree(of_topology(terms)),
        }
    }

    /// True when the node has the label, whatever its value.
    pub fn has_label(&self, key: &str) -> bool {
        match self.open_labels() {
            None => self.node.label(key).is_some(),
            Some(open) => open.agree(vec![vec![requirement(key, "Exists", &[])]]),
        }
    }

    /// True when the node's labels satisfy one of the terms.
    pub fn satisfies(&self, alternatives: Alternatives) -> bool {
        match self.open_labels() {
            None => {
                let term =
                    |requirements| NodeSelectorTerm { match_expressions: Some(requirements), match_fields: None };
                let selector = NodeSelector { node_selector_terms: alternatives.into_iter().map(term).collect() };
                node_selector_matches(&selector, &self.node)
            }
            Some(open) => open.agree(alternatives),
        }
    }

    /// True when the label selector matches the node.
    pub fn is_selected_by(&self, selector: &LabelSelector) -> bool {
        match self.open_labels() {
            None => label_selector_matches(selector, labels(self.node.metadata.labels.as_ref())),
            Some(open) => {
                let term = of_label_selector(selector);
                term.is_empty() || open.agree(vec![term])
            }
        }
    }

    /// True when the node advertises the extended resource.
    pub fn offers(&self, resource: &str) -> bool {
        if self.node.status.allocatable.contains_key(resource) {
            return true;
        }
        if let Some(open) = &self.open {
            open.resources.borrow_mut().insert(resource.to_owned());
        }
        self.open.is_some()
    }

    /// What is taken for granted about the node, with everything that it was found to agree to.
    pub fn assumption(&self) -> Option<Assumption> {
        let open = self.open.as_ref()?;
        let resources: Vec<String> = open.resources.borrow().iter().cloned().collect();
        if !open.labels {
            return Some(Assumption::NodeStatus { name: self.name().to_owned(), resources });
        }
        let mut labels = Vec::new();
        let mut hostname = None;
        for (key, domain) in open.solution().unwrap_or_default() {
            if key == HOSTNAME_LABEL {
                hostname = domain.value();
            } else {
                labels.push(domain.words(&key));
            }
        }
        Some(Assumption::SchedulableNode { name: self.name().to_owned(), hostname, labels, resources })
    }
}

impl Open {
    fn sources<'a>(&'a self, agreed: &'a [Alternatives]) -> impl Iterator<Item = &'a Alternatives> + Clone {
        agreed.iter().chain(&self.hostname)
    }

    fn solution(&self) -> Option<Domains> {
        let agreed = self.agreed.borrow();
        solve(self.sources(&agreed))
    }

    fn could(&self, asked: &Alternatives) -> bool {
        let agreed = self.agreed.borrow();
        solve(self.sources(&agreed).chain([asked])).is_some()
    }

    fn is_possible(&self, asked: &Alternatives) -> bool {
        solve(self.agreed.borrow().iter().chain([asked])).is_some()
    }

    fn agree(&self, asked: Alternatives) -> bool {
        let agrees = self.could(&asked);
        if agrees && !self.agreed.borrow().contains(&asked) {
            self.agreed.borrow_mut().push(asked);
        }
        agrees
    }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    NodeSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
}

/// A requirement that one of the values is the label's.
pub(super) fn among<'v>(key: &str, values: impl IntoIterator<Item = &'v str>) -> NodeSelectorRequirement {
    requirement(key, "In", &values.into_iter().collect::<Vec<_>>())
}

/// A requirement that there is no such label.
pub(super) fn without(key: &str) -> NodeSelectorRequirement {
    requirement(key, "DoesNotExist", &[])
}

fn of_pod(spec: &PodSpec, name: &str) -> Vec<Alternatives> {
    let selected = spec.node_selector.iter().flatten();
    let selector: Term = selected.map(|(key, value)| requirement(key, "In", &[value])).collect();
    let mut own = if selector.is_empty() { Vec::new() } else { vec![vec![selector]] };
    if let Some(required) = spec.required_node_affinity() {
        let terms = required.node_selector_terms.iter().filter(|term| !is_empty_term(term));
        let of_node = terms.filter(|term| fields_match(term, name));
        own.push(of_node.map(|term| term.match_expressions.clone().unwrap_or_default()).collect());
    }
    own
}

/// Volumes look at labels alone.
fn of_volume(selector: &NodeSelector) -> Alternatives {
    let terms = selector.node_selector_terms.iter().filter(|term| !is_empty_term(term));
    terms.map(|term| term.match_expressions.clone().unwrap_or_default()).collect()
}

fn volume_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    crate::model::selector::volume_selector_matches(selector, node)
}

fn of_topology(terms: &[TopologySelectorTerm]) -> Alternatives {
    let expressions = terms.iter().map(|term| term.match_label_expressions.as_deref().unwrap_or_default());
    let terms = expressions.filter(|expressions| !expressions.is_empty());
    terms
        .map(|expressions| {
            expressions.iter().map(|wanted| among(&wanted.key, wanted.values.iter().map(String::as_str))).collect()
        })
        .collect()
}

fn of_label_selector(selector: &LabelSelector) -> Term {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| requirement(key, "In", &[value]));
    let expressions = selector.match_expressions.iter().flatten().map(|wanted| NodeSelectorRequirement {
        key: wanted.key.clone(),
        operator: wanted.operator.clone(),
        values: wanted.values.clone(),
    });
    equal.chain(expressions).collect()
}

/// The values that a label may have.
#[derive(Clone, Debug, Default)]
struct Domain {
    among: Option<BTreeSet<String>>,
    not: BTreeSet<String>,
    /// Whether the label is there; not said where it is absent.
    present: Option<bool>,
    above: Option<i64>,
    below: Option<i64>,
}

type Domains = BTreeMap<String, Domain>;

impl Domain {
    /// The domain with one requirement more; `None` when nothing is left, or the requirement is none.
    fn with(&self, wanted: &NodeSelectorRequirement) -> Option<Self> {
        let values = wanted.values.as_deref().unwrap_or_default();
        let mut domain = self.clone();
        match wanted.operator.as_str() {
            "In" => {
                let values: BTreeSet<String> = values.iter().cloned().collect();
                domain.among = Some(domain.among.map_or(values.clone(), |among| &among & &values));
                domain.require(true)?;
            }
            "NotIn" if !values.is_empty() => domain.not.extend(values.iter().cloned()),
            "Exists" if values.is_empty() => domain.require(true)?,
            "DoesNotExist" if values.is_empty() => domain.require(false)?,
            "Gt" | "Lt" => {
                let [bound] = values else { return None };
                let bound = bound.parse().ok()?;
                if wanted.operator == "Gt" {
                    domain.above = Some(domain.above.map_or(bound, |above| above.max(bound)));
                } else {
                    domain.below = Some(domain.below.map_or(bound, |below| below.min(bound)));
                }
                domain.require(true)?;
            }
            _ => return None,
        }
        domain.is_left().then_some(domain)
    }

    fn require(&mut self, present: bool) -> Option<()> {
        if self.present.is_some_and(|known| known != present) {
            return None;
        }
        self.present = Some(present);
        Some(())
    }

    fn allows(&self, value: &str) -> bool {
        let number = || value.parse::<i64>().ok();
        !self.not.contains(value)
            && self.above.is_none_or(|above| number().is_some_and(|number| number > above))
            && self.below.is_none_or(|below| number().is_some_and(|number| number < below))
    }

    fn is_left(&self) -> bool {
        match &self.among {
            Some(among) => among.iter().any(|value| self.allows(value)),
            None => match (self.above, self.below) {
                // Whole numbers between the two, less those that are excluded.
                (Some(above), Some(below)) => {
                    let room = below.saturating_sub(above).saturating_sub(1);
                    usize::try_from(room).is_ok_and(|room| room > self.not.len())
                }
                _ => true,
            },
        }
    }

    /// The value, where one is asked for.
    fn value(&self) -> Option<String> {
        self.among.as_ref()?.iter().find(|value| self.allows(value)).cloned()
    }

    /// As kubectl writes a label selector.
    fn words(&self, key: &str) -> String {
        match (self.value(), self.present, self.above, self.below) {
            (Some(value), ..) => format!("{key}={value}"),
            (None, Some(false), ..) => format!("!{key}"),
            (None, _, Some(above), _) => format!("{key}>{above}"),
            (None, _, None, Some(below)) => format!("{key}<{below}"),
            (None, Some(true), None, None) => key.to_owned(),
            (None, None, None, None) => {
                let not: Vec<&str> = self.not.iter().map(String::as_str).collect();
                format!("{key}!={}", not.join("|"))
            }
        }
    }
}

/// Labels that satisfy one term of each source; `None` when there are none.
fn solve<'a>(sources: impl Iterator<Item = &'a Alternatives> + Clone) -> Option<Domains> {
    fn search(sources: &[&Alternatives], domains: &Domains, steps: &mut u32) -> Option<Domains> {
        let Some((first, rest)) = sources.split_first() else { return Some(domains.clone()) };
        for term in *first {
            *steps += 1;
            if *steps > MOST_STEPS {
                return Some(domains.clone());
            }
            let mut with = domains.clone();
            let holds = term.iter().all(|wanted| {
                let Some(domain) = with.get(&wanted.key).cloned().unwrap_or_default().with(wanted) else {
                    return false;
                };
                with.insert(wanted.key.clone(), domain);
                true
            });
            if holds && let Some(found) = search(rest, &with, steps) {
                return Some(found);
            }
        }
        None
    }
    let sources: Vec<&Alternatives> = sources.collect();
    search(&sources, &Domains::new(), &mut 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place(spec: &Value) -> Place {
        Place::assumed("n1", &serde_json::from_value(spec.clone()).unwrap())
    }

    fn selector(terms: &Value) -> NodeSelector {
        serde_json::from_value(json!({ "nodeSelectorTerms": terms })).unwrap()
    }

    fn on(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] })
    }

    fn labels_of(place: &Place) -> (Option<String>, Vec<String>) {
        match place.assumption().unwrap() {
            Assumption::SchedulableNode { hostname, labels, .. } => (hostname, labels),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_assumed_node_agrees_with_all_that_is_asked_of_it() {
        let place = place(&json!({ "nodeSelector": { "kubernetes.io/os": "linux" }, "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                on("zone", "In", &["a", "b"]), on("cores", "Gt", &["8"])] } } } }));
        assert!(place.is_accepted_by(&PodSpec::default()));
        // The first alternative leaves both zones open, the volume only one.
        assert!(place.agree_to_reach(Some(&selector(&json!([on("zone", "In", &["b", "c"])])))));
        assert!(place.has_label("rack"));
        assert_eq!(
            labels_of(&place),
            (Some("n1".to_owned()), ["kubernetes.io/os=linux", "rack", "zone=b"].map(str::to_owned).to_vec())
        );
        // The second alternative of the Pod would do without a zone of its own, but b is settled.
        assert!(!place.could_reach(Some(&selector(&json!([on("zone", "In", &["a"])])))));
    }

    #[test]
    fn alternatives_are_searched_not_guessed() {
        let place = place(&json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                on("zone", "In", &["a"]), on("zone", "In", &["b"])] } } } }));
        assert!(place.agree_to_reach(Some(&selector(&json!([on("zone", "In", &["b"])])))));
        assert_eq!(labels_of(&place).1, ["zone=b"]);
        assert_eq!(place.reaches(Some(&selector(&json!([on("zone", "In", &["a"])])))), Some(false));
    }

    #[test]
    fn a_pod_that_contradicts_itself_is_accepted_by_no_node() {
        for spec in [
            json!({ "nodeSelector": { "zone": "a" }, "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [on("zone", "In", &["b"])] } } } }),
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchFields": [
                    { "key": "metadata.name", "operator": "In", "values": ["n2"] }] }] } } } }),
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{}] } } } }),
        ] {
            assert!(!place(&spec).is_accepted_by(&PodSpec::default()), "{spec}");
        }
    }

    #[test]
    fn the_usual_hostname_label_yields_to_the_pod_and_to_nobody_else() {
        let usual = place(&json!({}));
        assert_eq!(usual.hostname().as_deref(), Some("n1"));
        let elsewhere = selector(&json!([on(HOSTNAME_LABEL, "In", &["n2"])]));
        assert_eq!((usual.reaches(Some(&elsewhere)), usual.could_reach(Some(&elsewhere))), (None, false));
        let other = place(&json!({ "nodeSelector": { "kubernetes.io/hostname": "host-1" } }));
        assert_eq!(other.hostname().as_deref(), Some("host-1"));
    }

    #[test]
    fn negative_requirements_hold_for_a_node_without_the_label() {
        let place = place(&json!({}));
        for (key, operator, values) in [("a", "NotIn", &["x"][..]), ("b", "DoesNotExist", &[]), ("c", "Lt", &["3"])] {
            assert!(place.agree_to_reach(Some(&selector(&json!([on(key, operator, values)])))), "{operator}");
        }
        assert!(!place.could_reach(Some(&selector(&json!([on("b", "Exists", &[])])))));
        assert!(!place.could_reach(Some(&selector(&json!([on("c", "Gt", &["2"])])))));
        assert!(place.could_reach(Some(&selector(&json!([on("c", "Gt", &["1"])])))));
        assert!(!place.could_reach(Some(&selector(&json!([on("c", "Near", &["1"])])))));
        assert_eq!(labels_of(&place).1, ["a!=x", "!b", "c<3"]);
    }

    #[test]
    fn too_many_alternatives_are_not_a_no() {
        let term = |key: usize, value: usize| on(&format!("k{key}"), "In", &[&format!("v{value}")]);
        let place = place(&json!({}));
        for key in 0..12 {
            let terms: Vec<Value> = (0..6).map(|value| term(key, value)).collect();
            assert!(place.agree_to_reach(Some(&selector(&json!(terms)))));
        }
        let impossible: Vec<Value> = (0..12).map(|key| term(key, 9)).collect();
        let all = json!([{ "matchExpressions":
            impossible.iter().map(|term| term["matchExpressions"][0].clone()).collect::<Vec<_>>() }]);
        assert!(place.could_reach(Some(&selector(&all))));
    }
}
