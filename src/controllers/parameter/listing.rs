//! What the parameter holds, kept up to date one object at a time, and cut to what an object may hold: pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::policies::Policies;
use crate::binding::Away;
use crate::crd::{AdmissionParameterSpec, EVERY_NODE, Names, ParameterPolicy, PinPolicy};
use crate::model::{Labels, Text};

/// Namespace and name of a claim or a Pod.
pub type Key = (Text, Text);

/// The most that the parameter holds of each kind, in bytes of its JSON. Together they are half a MiB, and 320 KiB more where
/// PinPolicies select nodes: a request to etcd may have 1.5 MiB, and an API server reads so much in some milliseconds. It is
/// room for 5000 nodes, which is the most that Kubernetes promises, with names of 46 letters, and for 4000 waiting claims with
/// names of 40.
const NODES: Budget = Budget { bytes: 256 << 10, entries: 16_384 };
const CLAIMS: Budget = Budget { bytes: 192 << 10, entries: 8_192 };
const REPELLED: Budget = Budget { bytes: 48 << 10, entries: 8_192 };
const CLASSES: Budget = Budget { bytes: 16 << 10, entries: 1_024 };
const POLICIES: Budget = Budget { bytes: 64 << 10, entries: 64 };
const NODE_MATCHES: Budget = Budget { bytes: 256 << 10, entries: 16_384 };
/// Quotes, colon, comma and the longer of the two values `true` and a pair of quotes.
const AROUND: usize = 8;

/// What is left of a part of the parameter.
#[derive(Clone, Copy)]
struct Budget {
    bytes: usize,
    entries: usize,
}

impl Budget {
    /// Takes room for an entry with so many letters; false when there is none.
    fn take(&mut self, letters: usize) -> bool {
        let (Some(bytes), Some(entries)) = (self.bytes.checked_sub(letters + AROUND), self.entries.checked_sub(1))
        else {
            return false;
        };
        (self.bytes, self.entries) = (bytes, entries);
        true
    }
}

/// What does not fit: what is left to the rescue loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Claims.
    pub claims: usize,
    /// Classes.
    pub classes: usize,
    /// Nodes.
    pub nodes: usize,
    /// Namespaces of which no Pod is rewritten, since the nodes that repel its Pods do not fit.
    pub namespaces: usize,
    /// Nothing is rewritten: anti-affinity may keep any Pod off any node, or what it concerns does not fit.
    pub everything: bool,
    /// Nodes of which is not said whether PinPolicies select them.
    pub node_matches: usize,
    /// Nothing is rewritten or refused: which PinPolicies there are is not known, or they do not fit. The rescue loop follows
    /// them all.
    pub pin_policies: bool,
}

impl LeftOut {
    /// True when nothing is left out.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that could be in the parameter.
#[derive(Debug, Default)]
pub struct Listing {
    /// Claims that wait and can be bound on any node, by namespace.
    claims: BTreeMap<Text, BTreeSet<Text>>,
    /// Claims without a volume by their class, and back: what a change of the class concerns.
    unbound: HashMap<Text, BTreeSet<Key>>,
    class_of: HashMap<Key, Text>,
    classes: BTreeSet<Text>,
    default_class: Option<Text>,
    /// With the value of the hostname label.
    nodes: BTreeMap<Text, Text>,
    /// From where each Pod keeps others away, and how many do so.
    away: HashMap<Key, Vec<Away>>,
    repelled: BTreeMap<Away, usize>,
    /// The PinPolicies; not known at first.
    policies: Option<Policies>,
    /// By node, which of their selectors it meets.
    matches: BTreeMap<Text, String>,
}

impl Listing {
    /// Takes note of the PinPolicies; nothing stands for what is not known. True when nodes are to be looked at once more, by
    /// [`Self::labels`], since the policies ask for other labels of theirs.
    pub fn policies<'a>(&mut self, found: Option<impl Iterator<Item = &'a PinPolicy>>) -> bool {
        let found = found.map(Policies::new);
        let alike = match (&self.policies, &found) {
            (Some(before), Some(after)) => before.ask_alike(after),
            _ => false,
        };
        self.policies = found;
        if !alike {
            self.matches.clear();
        }
        !alike
    }

    /// Takes note of a node's labels; nothing where there is no such node.
    pub fn labels(&mut self, name: &Text, labels: Option<&Labels>) {
        match labels.and_then(|labels| self.policies.as_ref()?.matches(labels)) {
            Some(matches) => drop(self.matches.insert(name.clone(), matches)),
            None => drop(self.matches.remove(name)),
        }
    }

    /// Takes note of a claim: its class while it has no volume, and whether it waits and can be bound on any node.
    pub fn claim(&mut self, key: &Key, class: Option<Text>, waits: bool) {
        let before = match &class {
            Some(class) => self.class_of.insert(key.clone(), class.clone()),
            None => self.class_of.remove(key),
        };
        if before != class {
            if let Some(before) = before
                && let Some(claims) = self.unbound.get_mut(&before)
            {
                claims.remove(key);
                if claims.is_empty() {
                    self.unbound.remove(&before);
                }
            }
            if let Some(class) = class {
                self.unbound.entry(class).or_default().insert(key.clone());
            }
        }
        if waits {
            self.claims.entry(key.0.clone()).or_default().insert(key.1.clone());
        } else if let Some(claims) = self.claims.get_mut(&key.0) {
            claims.remove(&key.1);
            if claims.is_empty() {
                self.claims.remove(&key.0);
            }
        }
    }

    /// The claims without a volume that name a class.
    #[must_use]
    pub fn claims_of(&self, class: &str) -> Vec<Key> {
        self.unbound.get(class).into_iter().flatten().cloned().collect()
    }

    /// Takes note of a class: whether its claims wait and can be bound on any node.
    pub fn class(&mut self, name: &Text, waits: bool) {
        if waits {
            self.classes.insert(name.clone());
        } else {
            self.classes.remove(name);
        }
    }

    /// Takes note of which class is the default one.
    pub fn default_class(&mut self, name: Option<Text>) {
        self.default_class = name;
    }

    /// Takes note of a node: its hostname label where a Pod can be placed there.
    pub fn node(&mut self, name: &Text, hostname: Option<String>) {
        match hostname {
            Some(hostname) => drop(self.nodes.insert(name.clone(), hostname.into())),
            None => drop(self.nodes.remove(name)),
        }
    }

    /// Takes note of from where a Pod keeps others away.
    pub fn pod(&mut self, key: &Key, away: Vec<Away>) {
        let before = if away.is_empty() { self.away.remove(key) } else { self.away.insert(key.clone(), away.clone()) };
        for away in away {
            *self.repelled.entry(away).or_default() += 1;
        }
        for away in before.into_iter().flatten() {
            if let Some(count) = self.repelled.get_mut(&away) {
                *count -= 1;
                if *count == 0 {
                    self.repelled.remove(&away);
                }
            }
        }
    }

    /// The content of the parameter, and what of it does not fit. Its cost is bounded by what the parameter may hold and by
    /// what is left out, not by the number of objects.
    #[must_use]
    pub fn content(&self, mode: &str, schedulers: &[String]) -> (AdmissionParameterSpec, LeftOut) {
        let mut spec = AdmissionParameterSpec {
            mode: mode.to_owned(),
            schedulers: schedulers.to_vec(),
            ..AdmissionParameterSpec::default()
        };
        let Some(policies) = self.fitting_policies() else {
            return (spec, LeftOut { pin_policies: true, ..LeftOut::default() });
        };
        spec.policies = policies;
        let everything = self.repelled.contains_key(&Away::Everywhere);
        let mut left = LeftOut { everything, ..LeftOut::default() };
        if !left.everything {
            self.put_nodes(&mut spec, &mut left);
            left.everything = !self.put_repelled(&mut spec, &mut left);
        }
        if left.everything {
            // Without a node no Pod is rewritten.
            spec.nodes.clear();
            spec.repelled.clear();
        }
        self.put_claims(&mut spec, &mut left);
        self.put_classes(&mut spec, &mut left);
        let mut room = NODE_MATCHES;
        for (name, matches) in &self.matches {
            if room.take(name.len() + matches.len()) {
                spec.node_matches.insert(name.to_string(), matches.clone());
            } else {
                left.node_matches += 1;
            }
        }
        (spec, left)
    }

    /// The policies, if they are known and all fit: one that is left out might be the strictest.
    fn fitting_policies(&self) -> Option<Vec<ParameterPolicy>> {
        let policies = &self.policies.as_ref()?.policies;
        let mut room = POLICIES;
        let mut fits = |policy| serde_json::to_vec(policy).is_ok_and(|json| room.take(json.len()));
        policies.iter().all(&mut fits).then(|| policies.clone())
    }

    fn put_nodes(&self, spec: &mut AdmissionParameterSpec, left: &mut LeftOut) {
        let mut room = NODES;
        for (name, hostname) in &self.nodes {
            if self.repelled.contains_key(&Away::FromNode(name.clone())) {
                continue;
            }
            let hostname = if hostname == name { "" } else { hostname.as_str() };
            if room.take(name.len() + hostname.len()) {
                spec.nodes.insert(name.to_string(), hostname.to_owned());
            } else {
                left.nodes += 1;
            }
        }
    }

    /// False when not even the namespaces fit. Nodes of a namespace that do not are all nodes.
    fn put_repelled(&self, spec: &mut AdmissionParameterSpec, left: &mut LeftOut) -> bool {
        let mut nodes: BTreeMap<&Text, BTreeSet<&Text>> = BTreeMap::new();
        let mut every: BTreeSet<&Text> = BTreeSet::new();
        for away in self.repelled.keys() {
            match away {
                Away::In(namespace) => drop(every.insert(namespace)),
                Away::FromNodeIn(namespace, node) if spec.nodes.contains_key(node.as_str()) => {
                    nodes.entry(namespace).or_default().insert(node);
                }
                Away::FromNodeIn(..) | Away::FromNode(_) | Away::Everywhere => {}
            }
        }
        let every_node = || Names::from([(EVERY_NODE.to_owned(), true)]);
        let mut room = REPELLED;
        // Room for each namespace at least comes first.
        for namespace in nodes.keys().copied().chain(every.iter().copied()).collect::<BTreeSet<_>>() {
            if !room.take(namespace.len() + AROUND + EVERY_NODE.len()) {
                return false;
            }
            spec.repelled.insert(namespace.to_string(), every_node());
        }
        for (namespace, names) in nodes.into_iter().filter(|(namespace, _)| !every.contains(*namespace)) {
            if names.iter().all(|name| room.take(name.len())) {
                let names = names.into_iter().map(|name| (name.to_string(), true)).collect();
                spec.repelled.insert(namespace.to_string(), names);
            } else {
                left.namespaces += 1;
            }
        }
        true
    }

    fn put_claims(&self, spec: &mut AdmissionParameterSpec, left: &mut LeftOut) {
        let mut room = CLAIMS;
        for (namespace, claims) in &self.claims {
            if !room.take(namespace.len()) {
                left.claims += claims.len();
                continue;
            }
            let fitting: Names =
                claims.iter().filter(|name| room.take(name.len())).map(|name| (name.to_string(), true)).collect();
            left.claims += claims.len() - fitting.len();
            if !fitting.is_empty() {
                spec.claims.insert(namespace.to_string(), fitting);
            }
        }
    }

    fn put_classes(&self, spec: &mut AdmissionParameterSpec, left: &mut LeftOut) {
        let mut room = CLASSES;
        for name in &self.classes {
            if room.take(name.len()) {
                spec.classes.insert(name.to_string(), true);
            } else {
                left.classes += 1;
            }
        }
        let default = self.default_class.as_ref().filter(|name| spec.classes.contains_key(name.as_str()));
        spec.default_class = default.map(ToString::to_string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        (namespace.into(), name.into())
    }

    fn names(given: &[&str]) -> Names {
        given.iter().map(|name| ((*name).to_owned(), true)).collect()
    }

    /// Of a cluster that is known to have no PinPolicy.
    fn listing() -> Listing {
        let mut listing = Listing::default();
        assert!(listing.policies(Some(std::iter::empty())));
        listing
    }

    fn content(listing: &Listing) -> AdmissionParameterSpec {
        let (spec, left) = listing.content("rewrite", &["default-scheduler".to_owned()]);
        assert!(left.is_nothing(), "{left:?}");
        spec
    }

    #[test]
    fn claims_come_and_go_with_what_is_known_of_them() {
        let mut listing = listing();
        listing.claim(&key("a", "one"), Some("fast".into()), true);
        listing.claim(&key("a", "two"), Some("slow".into()), false);
        assert_eq!(content(&listing).claims, BTreeMap::from([("a".to_owned(), names(&["one"]))]));
        assert_eq!(listing.claims_of("slow"), [key("a", "two")]);
        listing.claim(&key("a", "two"), Some("fast".into()), true);
        assert_eq!(listing.claims_of("fast"), [key("a", "one"), key("a", "two")]);
        assert!(listing.claims_of("slow").is_empty());
        listing.claim(&key("a", "one"), None, false);
        listing.claim(&key("a", "two"), None, false);
        assert_eq!(content(&listing).claims, BTreeMap::new());
        assert!(listing.unbound.is_empty() && listing.class_of.is_empty(), "nothing is kept of what is bound");
    }

    fn policy(name: &str, spec: serde_json::Value) -> PinPolicy {
        PinPolicy::new(name, serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn where_pin_policies_are_not_known_or_do_not_fit_nothing_is_listed() {
        let mut listing = Listing::default();
        listing.claim(&key("a", "one"), Some("fast".into()), true);
        listing.class(&"fast".into(), true);
        listing.node(&"n1".into(), Some("n1".to_owned()));
        let is_empty = |listing: &Listing| {
            let (spec, left) = listing.content("deny", &[]);
            spec.claims.is_empty() && spec.classes.is_empty() && spec.nodes.is_empty() && left.pin_policies
        };
        assert!(is_empty(&listing));
        let many: Vec<PinPolicy> =
            (0..65).map(|number| policy(&format!("p{number}"), serde_json::json!({ "mode": "Off" }))).collect();
        listing.policies(Some(many.iter()));
        assert!(is_empty(&listing), "one that is left out might be the strictest");
        listing.policies(Some(many[..64].iter()));
        assert_eq!((content(&listing).nodes.len(), content(&listing).policies.len()), (1, 64));
        listing.policies(None::<std::iter::Empty<&PinPolicy>>);
        assert!(is_empty(&listing));
    }

    #[test]
    fn of_each_node_is_said_which_policies_select_it() {
        let mut listing = listing();
        let labels = |zone: &str| Labels::from_iter([(Text::from("zone"), Text::from(zone))]);
        let zone = |zone: &str| serde_json::json!({ "selector": { "matchLabels": { "zone": zone } } });
        let policies = [
            policy("b", serde_json::json!({ "mode": "Deny", "allowedNodes": zone("east") })),
            policy("a", serde_json::json!({ "mode": "Warn", "allowedNodes": zone("west") })),
            policy("c", serde_json::json!({ "mode": "Warn", "allowedNodes": zone("east") })),
            policy("d", serde_json::json!({ "mode": "Warn", "allowedNodes": { "names": ["n9"] } })),
        ];
        assert!(listing.policies(Some(policies.iter())), "all nodes are to be looked at");
        listing.labels(&"n1".into(), Some(&labels("west")));
        listing.labels(&"n2".into(), Some(&labels("east")));
        listing.labels(&"n3".into(), None);
        let spec = content(&listing);
        let places: Vec<Option<i32>> =
            spec.policies.iter().filter_map(|policy| policy.allowed_nodes.as_ref()).map(|nodes| nodes.place).collect();
        assert_eq!(places, [Some(0), Some(1), Some(1), None], "by name, and each selector once");
        let expected = [("n1", "10"), ("n2", "01")].map(|(name, matches)| (name.to_owned(), matches.to_owned()));
        assert_eq!(spec.node_matches, BTreeMap::from(expected));
        assert!(!listing.policies(Some(policies[..2].iter())), "they ask the same of nodes");
        assert!(listing.policies(Some(policies[3..].iter())));
        listing.labels(&"n1".into(), Some(&labels("west")));
        assert!(content(&listing).node_matches.is_empty(), "nobody asks");
    }

    #[test]
    fn a_node_is_listed_with_a_hostname_that_is_not_its_name() {
        let mut listing = listing();
        listing.node(&"n1".into(), Some("n1".to_owned()));
        listing.node(&"n2".into(), Some("host-2".to_owned()));
        let expected = [("n1", ""), ("n2", "host-2")].map(|(name, host)| (name.to_owned(), host.to_owned()));
        assert_eq!(content(&listing).nodes, BTreeMap::from(expected));
        listing.node(&"n1".into(), None);
        listing.node(&"n2".into(), None);
        assert_eq!(content(&listing).nodes, BTreeMap::new());
    }

    #[test]
    fn the_default_class_is_named_where_it_is_listed() {
        let mut listing = listing();
        listing.default_class(Some("fast".into()));
        assert_eq!(content(&listing).default_class, None);
        listing.class(&"fast".into(), true);
        assert_eq!(content(&listing).default_class.as_deref(), Some("fast"));
        assert_eq!(content(&listing).classes, names(&["fast"]));
        listing.class(&"fast".into(), false);
        assert_eq!((content(&listing).default_class, content(&listing).classes), (None, Names::new()));
    }

    #[test]
    fn what_repels_counts_until_the_last_pod_is_gone() {
        let mut listing = listing();
        for name in ["n1", "n2"] {
            listing.node(&name.into(), Some(name.to_owned()));
        }
        let away = || vec![Away::FromNodeIn("a".into(), "n1".into()), Away::FromNodeIn("a".into(), "elsewhere".into())];
        listing.pod(&key("a", "p1"), away());
        listing.pod(&key("a", "p2"), away());
        listing.pod(&key("b", "p3"), vec![Away::In("b".into())]);
        let expected = BTreeMap::from([("a".to_owned(), names(&["n1"])), ("b".to_owned(), names(&[EVERY_NODE]))]);
        assert_eq!(content(&listing).repelled, expected, "a node that is not listed need not be excluded");
        listing.pod(&key("a", "p1"), Vec::new());
        assert_eq!(content(&listing).repelled, expected);
        listing.pod(&key("a", "p2"), vec![Away::FromNode("n2".into())]);
        listing.pod(&key("b", "p3"), Vec::new());
        assert_eq!(content(&listing).repelled, BTreeMap::new());
        assert_eq!(content(&listing).nodes.keys().collect::<Vec<_>>(), ["n1"]);
        listing.pod(&key("a", "p2"), vec![Away::Everywhere]);
        let (spec, left) = listing.content("rewrite", &[]);
        assert!(left.everything && spec.nodes.is_empty());
        listing.pod(&key("a", "p2"), Vec::new());
        assert_eq!(content(&listing).nodes.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_counted_and_nothing_that_repels_is() {
        let mut listing = listing();
        for number in 0..9_000 {
            let name: Text = format!("a-node-with-a-name-as-long-as-clouds-give-{number:06}").into();
            listing.node(&name, Some(name.to_string()));
            listing.claim(&key("team", &format!("data-{number:06}-of-a-longer-name")), Some("c".into()), true);
            listing.pod(&key("team", &name), vec![Away::FromNodeIn("team".into(), name.clone())]);
        }
        for number in 0..2_000 {
            listing.class(&format!("class-{number}").into(), true);
        }
        let (spec, left) = listing.content("rewrite", &[]);
        assert!(serde_json::to_string(&spec).unwrap().len() < 512 << 10);
        assert!(spec.nodes.len() >= 4_500 && spec.nodes.len() + left.nodes == 9_000, "{left:?}");
        assert!(spec.claims["team"].len() >= 4_000 && spec.claims["team"].len() + left.claims == 9_000, "{left:?}");
        assert!(spec.classes.len() + left.classes == 2_000 && left.classes > 0, "{left:?}");
        assert_eq!((left.namespaces, &spec.repelled["team"]), (1, &names(&[EVERY_NODE])));
        assert!(!left.everything);
        // Namespaces that do not fit either: nothing is rewritten.
        for number in 0..9_000 {
            listing.pod(&key("x", &number.to_string()), vec![Away::In(format!("namespace-{number}").into())]);
        }
        let (spec, left) = listing.content("rewrite", &[]);
        assert!(left.everything && spec.nodes.is_empty() && spec.repelled.is_empty());
    }
}
