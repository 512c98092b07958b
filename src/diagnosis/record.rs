//! What is known besides the facts of decisions: what happened, who wrote what and when, and of what nothing is known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::details::{Details, Lease};
use crate::crd::{LocalNode, LocalVolume};
use crate::model::{Budget, Claim, Event, Node, Pod, Volume};

/// Kinds whose absence says something only where all of them are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Claims.
    Claims,
    /// Events.
    Events,
    /// ResourceClaims.
    Devices,
    /// LocalNodes.
    LocalNodes,
    /// LocalVolumes.
    LocalVolumes,
    /// Leases.
    Leases,
    /// PodDisruptionBudgets.
    Budgets,
    /// Nodes.
    Nodes,
    /// PersistentVolumes.
    Volumes,
    /// StorageClasses.
    Classes,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Pods,
        Self::Claims,
        Self::Events,
        Self::Devices,
        Self::LocalNodes,
        Self::LocalVolumes,
        Self::Leases,
        Self::Budgets,
        Self::Nodes,
        Self::Volumes,
        Self::Classes,
    ];

    /// The kind of an object.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Some(match (group, kind) {
            ("", "Pod") => Self::Pods,
            ("", "PersistentVolumeClaim") => Self::Claims,
            ("" | "events.k8s.io", "Event") => Self::Events,
            ("resource.k8s.io", "ResourceClaim") => Self::Devices,
            ("latebind.dev", "LocalNode") => Self::LocalNodes,
            ("latebind.dev", "LocalVolume") => Self::LocalVolumes,
            ("coordination.k8s.io", "Lease") => Self::Leases,
            ("policy", "PodDisruptionBudget") => Self::Budgets,
            ("", "Node") => Self::Nodes,
            ("", "PersistentVolume") => Self::Volumes,
            ("storage.k8s.io", "StorageClass") => Self::Classes,
            _ => return None,
        })
    }

    /// As people call several of them.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "Pods",
            Self::Claims => "PersistentVolumeClaims",
            Self::Events => "Events",
            Self::Devices => "ResourceClaims",
            Self::LocalNodes => "LocalNodes",
            Self::LocalVolumes => "LocalVolumes",
            Self::Leases => "Leases",
            Self::Budgets => "PodDisruptionBudgets",
            Self::Nodes => "Nodes",
            Self::Volumes => "PersistentVolumes",
            Self::Classes => "StorageClasses",
        }
    }
}

/// Where the objects come from, for messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// A cluster that was asked.
    #[default]
    Cluster,
    /// Files.
    Dump,
}

/// Of which namespaces all objects of a kind are known.
#[derive(Clone, Debug, Default)]
struct Coverage {
    everywhere: bool,
    namespaces: BTreeSet<String>,
    /// Why not all are known, in words.
    why_not: Option<String>,
    /// Some are there.
    any: bool,
}

type Name = (String, String);
type Key = (String, String, String);

/// What happened, and of what nothing is known.
#[derive(Debug, Default)]
pub struct Record {
    source: Source,
    as_of: Option<Timestamp>,
    coverage: BTreeMap<Kind, Coverage>,
    events: HashMap<Key, Vec<Event>>,
    details: HashMap<Key, Details>,
    leases: Vec<Lease>,
    budgets: Vec<Budget>,
    pods: BTreeMap<Name, Arc<Pod>>,
    claims: BTreeMap<Name, Arc<Claim>>,
    volumes: BTreeMap<String, Arc<Volume>>,
    nodes: BTreeMap<String, Arc<Node>>,
    local_nodes: BTreeMap<String, LocalNode>,
    local_volumes: Vec<LocalVolume>,
}

impl Record {
    /// An empty record.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, ..Self::default() }
    }

    /// Says what time it was when the objects were read.
    pub fn set_time(&mut self, now: Timestamp) {
        self.as_of = Some(now);
    }

    /// Takes the newest time that stands in an object for the time when they were read. It was later, if anything.
    pub fn estimate_time(&mut self) {
        let events = self.events.values().flatten().filter_map(Event::last);
        let created = |metadata: &crate::model::Metadata| metadata.creation_timestamp.as_ref().map(|time| time.0);
        let pods = self.pods.values().filter_map(|pod| created(&pod.metadata));
        let claims = self.claims.values().filter_map(|claim| created(&claim.metadata));
        let written = self.details.values().filter_map(Details::newest);
        self.as_of = events.chain(pods).chain(claims).chain(written).max();
    }

    /// Adds an object.
    ///
    /// # Errors
    /// When a field that is read has another type than the API server would accept.
    pub fn add(&mut self, group: &str, kind: &str, object: &Value) -> Result<(), serde_json::Error> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = (text("/metadata/namespace"), text("/metadata/name"));
        if let Some(known) = Kind::of(group, kind) {
            self.coverage.entry(known).or_default().any = true;
        }
        match (group, kind) {
            ("" | "events.k8s.io", "Event") => self.add_event(Event::deserialize(object)?),
            ("coordination.k8s.io", "Lease") => self.leases.push(Lease::deserialize(object)?),
            ("policy", "PodDisruptionBudget") => self.budgets.push(Budget::deserialize(object)?),
            ("latebind.dev", "LocalNode") => {
                self.local_nodes.insert(name.1.clone(), LocalNode::deserialize(object)?);
            }
            ("latebind.dev", "LocalVolume") => self.local_volumes.push(LocalVolume::deserialize(object)?),
            ("", "Pod") => drop(self.pods.insert(name.clone(), Arc::new(Pod::deserialize(object)?))),
            ("", "PersistentVolumeClaim") => {
                self.claims.insert(name.clone(), Arc::new(Claim::deserialize(object)?));
            }
            ("", "PersistentVolume") => {
                self.volumes.insert(name.1.clone(), Arc::new(Volume::deserialize(object)?));
            }
            ("", "Node") => drop(self.nodes.insert(name.1.clone(), Arc::new(Node::deserialize(object)?))),
            _ => {}
        }
        if matches!((group, kind), ("", "Pod" | "PersistentVolumeClaim" | "PersistentVolume")) {
            self.details.insert((kind.to_owned(), name.0, name.1), Details::deserialize(object)?);
        }
        Ok(())
    }

    fn add_event(&mut self, event: Event) {
        let about = &event.involved_object;
        let key = (about.kind.to_string(), about.namespace.to_string(), about.name.to_string());
        self.events.entry(key).or_default().push(event);
    }

    /// All objects of the kind are there: of one namespace, or of all.
    pub fn is_whole(&mut self, kind: Kind, namespace: Option<&str>) {
        let coverage = self.coverage.entry(kind).or_default();
        match namespace {
            Some(namespace) => drop(coverage.namespaces.insert(namespace.to_owned())),
            None => coverage.everywhere = true,
        }
    }

    /// Why not all objects of a kind are there.
    pub fn is_partial(&mut self, kind: Kind, why: String) {
        self.coverage.entry(kind).or_default().why_not = Some(why);
    }

    /// True when what is not there of the kind does not exist in the namespace. That of an object of the whole cluster is
    /// empty.
    #[must_use]
    pub fn knows(&self, kind: Kind, namespace: &str) -> bool {
        let coverage = self.coverage.get(&kind);
        coverage.is_some_and(|coverage| coverage.everywhere || coverage.namespaces.contains(namespace))
    }

    /// True when there are objects of the kind.
    #[must_use]
    pub fn has_any(&self, kind: Kind) -> bool {
        self.coverage.get(&kind).is_some_and(|coverage| coverage.any)
    }

    /// Says why not all objects of a kind are known: `no Events in the dump`.
    #[must_use]
    pub fn why_not(&self, kind: Kind) -> String {
        let coverage = self.coverage.get(&kind);
        if let Some(why) = coverage.and_then(|coverage| coverage.why_not.as_ref()) {
            return why.clone();
        }
        match (self.source, coverage.is_some_and(|coverage| coverage.any)) {
            (Source::Dump, false) => format!("no {} in the dump", kind.plural()),
            (Source::Dump, true) => format!("some {} may be missing in the dump", kind.plural()),
            (Source::Cluster, _) => format!("{} were not read", kind.plural()),
        }
    }

    /// Where the objects come from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// When the objects were read, if that is known.
    #[must_use]
    pub const fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    /// How many whole seconds have passed since, at least.
    #[must_use]
    pub fn seconds_since(&self, then: Timestamp) -> Option<i64> {
        Some(self.as_of?.duration_since(then).as_secs().max(0))
    }

    /// The events about an object that still exists, the oldest first. Those about an earlier one of the name, which has
    /// another UID, are left out.
    #[must_use]
    pub fn events(&self, kind: &str, namespace: &str, name: &str, uid: Option<&str>) -> Vec<&Event> {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let is_about = |event: &&Event| {
            let about = event.involved_object.uid.as_str();
            uid.is_none_or(|uid| about.is_empty() || about == uid)
        };
        let mut found: Vec<&Event> = self.events.get(&key).into_iter().flatten().filter(is_about).collect();
        found.sort_by_key(|event| event.last());
        found
    }

    /// Every event about objects of a namespace.
    pub fn events_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Event> + 'a {
        let mut keys: Vec<&Key> = self.events.keys().filter(|(_, found, _)| found == namespace).collect();
        keys.sort();
        keys.into_iter().filter_map(|key| self.events.get(key)).flatten()
    }

    /// The namespaces of which there are events.
    pub fn events_namespaces(&self) -> impl Iterator<Item = &str> {
        self.events.keys().map(|(_, namespace, _)| namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }

    /// What the object says of its own history.
    #[must_use]
    pub fn details(&self, kind: &str, namespace: &str, name: &str) -> Option<&Details> {
        self.details.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// The Leases.
    #[must_use]
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// The PodDisruptionBudgets.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// A Pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A claim.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<Claim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(name)
    }

    /// A Node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// Every Pod.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// Every claim.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.claims.values()
    }

    /// Every volume.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.values()
    }

    /// Every Node.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The report of a node's agent.
    #[must_use]
    pub fn local_node(&self, name: &str) -> Option<&LocalNode> {
        self.local_nodes.get(name)
    }

    /// Every report of an agent.
    pub fn local_nodes(&self) -> impl Iterator<Item = &LocalNode> {
        self.local_nodes.values()
    }

    /// The directories that were ordered for a claim.
    pub fn local_volumes_of<'a>(&'a self, claim_uid: &'a str) -> impl Iterator<Item = &'a LocalVolume> + 'a {
        self.local_volumes.iter().filter(move |local| local.spec.claim.uid == claim_uid)
    }

    /// The directory of this name.
    #[must_use]
    pub fn local_volume(&self, name: &str) -> Option<&LocalVolume> {
        self.local_volumes.iter().find(|local| local.name() == name)
    }
}
