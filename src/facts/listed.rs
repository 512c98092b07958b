//! Facts held in memory and indexed for the questions that decisions ask.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::binding::{
    AntiAffinityIndex, ClusterView, Kind, Lookup, anti_affinity_around, anti_affinity_of, default_class,
};
use crate::crd::{GROUP, Kept, PinPolicy};
use crate::model::selector::place_labels;
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, HOSTNAME_LABEL, Namespace, Node, Pod, PodOnNode, ResourceClaim,
    ResourceClaimTemplate, StorageCapacity, Text, Volume,
};

/// What it means that an object is not among the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// The facts are a whole cluster: it does not exist.
    #[default]
    Absent,
    /// The facts are a part of a cluster, such as some manifests: nothing is known, except of kinds of which all objects
    /// are there ([`Facts::complete`]).
    ///
    /// Namespaces count as absent all the same: all that they decide is whether a Pod may be pinned by a hostname label.
    Unknown,
}

/// Volumes that are named in messages: who has more of them looks into the cluster.
const MOST_VOLUMES_TO_NAME: usize = 100;

type Name = (String, String);

/// Objects by name, with the indexes that keep every answer independent of their number.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    unlisted: Unlisted,
    claims: HashMap<Name, Arc<Claim>>,
    classes: BTreeMap<String, Arc<Class>>,
    nodes: HashMap<String, Arc<Node>>,
    nodes_by_hostname: HashMap<String, Vec<Arc<Node>>>,
    volumes: HashMap<String, Arc<Volume>>,
    free_volumes_by_class: HashMap<String, Vec<Arc<Volume>>>,
    volumes_by_claim: HashMap<Name, Vec<Arc<Volume>>>,
    claimed_volumes_by_label: HashMap<Name, Vec<Arc<Volume>>>,
    namespaces: HashMap<String, Arc<Namespace>>,
    drivers: HashMap<String, Arc<CsiDriver>>,
    driver_nodes: HashMap<String, Arc<CsiNode>>,
    capacities: HashMap<String, Vec<Arc<StorageCapacity>>>,
    consumers: HashMap<Name, Vec<Arc<Pod>>>,
    pods_on_nodes: HashMap<Name, Arc<PodOnNode>>,
    repelling: HashMap<AntiAffinityIndex, Vec<Arc<PodOnNode>>>,
    resource_claims: HashMap<Name, Arc<ResourceClaim>>,
    resource_claim_templates: HashMap<Name, Arc<ResourceClaimTemplate>>,
    /// Namespaces of the claims of a name.
    claim_namespaces: HashMap<String, BTreeSet<String>>,
    policies: BTreeMap<String, Arc<Kept<PinPolicy>>>,
    /// Whether there are policies was asked, and not told.
    policies_not_told: bool,
    complete: BTreeSet<Kind>,
}

/// An object that facts may hold.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A claim.
    Claim(Claim),
    /// A class.
    Class(Class),
    /// A Node.
    Node(Node),
    /// A volume.
    Volume(Volume),
    /// A namespace.
    Namespace(Namespace),
    /// A CSIDriver.
    CsiDriver(CsiDriver),
    /// A CSINode.
    CsiNode(CsiNode),
    /// A CSIStorageCapacity.
    StorageCapacity(StorageCapacity),
    /// A Pod, as a consumer of claims.
    Pod(Pod),
    /// A Pod on a node, of which no more is known.
    PodOnNode(PodOnNode),
    /// A ResourceClaim.
    ResourceClaim(ResourceClaim),
    /// A ResourceClaimTemplate.
    ResourceClaimTemplate(ResourceClaimTemplate),
    /// A PinPolicy.
    PinPolicy(Box<Kept<PinPolicy>>),
    /// That nobody says which PinPolicies there are.
    PoliciesNotTold,
}

impl Fact {
    /// Reads an object if its API group and kind are among the facts.
    ///
    /// # Errors
    /// When a field that is read has a type that the API server would refuse too.
    pub fn read(group: &str, kind: &str, object: &serde_json::Value) -> Option<Result<Self, serde_json::Error>> {
        use serde::Deserialize;
        Some(match (group, kind) {
            ("", "PersistentVolumeClaim") => Claim::deserialize(object).map(Self::Claim),
            ("", "PersistentVolume") => Volume::deserialize(object).map(Self::Volume),
            ("", "Node") => Node::deserialize(object).map(Self::Node),
            ("", "Namespace") => Namespace::deserialize(object).map(Self::Namespace),
            ("", "Pod") => Pod::deserialize(object).map(Self::Pod),
            ("storage.k8s.io", "StorageClass") => Class::deserialize(object).map(Self::Class),
            ("storage.k8s.io", "CSIDriver") => CsiDriver::deserialize(object).map(Self::CsiDriver),
            ("storage.k8s.io", "CSINode") => CsiNode::deserialize(object).map(Self::CsiNode),
            ("storage.k8s.io", "CSIStorageCapacity") => StorageCapacity::deserialize(object).map(Self::StorageCapacity),
            ("resource.k8s.io", "ResourceClaim") => ResourceClaim::deserialize(object).map(Self::ResourceClaim),
            ("resource.k8s.io", "ResourceClaimTemplate") => {
                ResourceClaimTemplate::deserialize(object).map(Self::ResourceClaimTemplate)
            }
            (GROUP, "PinPolicy") => policy(object).map(|policy| Self::PinPolicy(Box::new(policy))),
            _ => return None,
        })
    }
}

/// A policy as the API server would take it; one that it would refuse is an error.
fn policy(object: &serde_json::Value) -> Result<Kept<PinPolicy>, serde_json::Error> {
    use serde::Deserialize;
    use serde::de::Error;
    let policy = Kept::<PinPolicy>::deserialize(object)?;
    policy.spec.check(&object["spec"]).map_err(serde_json::Error::custom)?;
    Ok(policy)
}

impl Fact {
    /// Kind, namespace and name: what the API server knows the object by. The namespace is empty for kinds without one.
    #[must_use]
    pub fn key(&self) -> (&'static str, &str, &str) {
        let (kind, metadata) = match self {
            Self::Claim(object) => ("PersistentVolumeClaim", &object.metadata),
            Self::Class(object) => ("StorageClass", &object.metadata),
            Self::Node(object) => ("Node", &object.metadata),
            Self::Volume(object) => ("PersistentVolume", &object.metadata),
            Self::Namespace(object) => ("Namespace", &object.metadata),
            Self::CsiDriver(object) => ("CSIDriver", &object.metadata),
            Self::CsiNode(object) => ("CSINode", &object.metadata),
            Self::StorageCapacity(object) => ("CSIStorageCapacity", &object.metadata),
            Self::Pod(object) => ("Pod", &object.metadata),
            Self::PodOnNode(object) => ("Pod", &object.metadata),
            Self::ResourceClaim(object) => ("ResourceClaim", &object.metadata),
            Self::ResourceClaimTemplate(object) => ("ResourceClaimTemplate", &object.metadata),
            Self::PinPolicy(object) => return ("PinPolicy", "", object.name()),
            Self::PoliciesNotTold => return ("PinPolicy", "", ""),
        };
        (kind, metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }

    /// True for kinds whose objects have a namespace.
    pub(crate) const fn namespaced(&self) -> bool {
        !matches!(
            self,
            Self::Class(_)
                | Self::Node(_)
                | Self::Volume(_)
                | Self::Namespace(_)
                | Self::CsiDriver(_)
                | Self::CsiNode(_)
                | Self::PinPolicy(_)
                | Self::PoliciesNotTold
        )
    }

    /// Namespace of an object that has one, to be filled in where a manifest leaves it out.
    pub(crate) fn namespace_mut(&mut self) -> Option<&mut Option<Text>> {
        match self {
            Self::Claim(object) => Some(&mut object.metadata.namespace),
            Self::Pod(object) => Some(&mut object.metadata.namespace),
            Self::PodOnNode(object) => Some(&mut object.metadata.namespace),
            Self::StorageCapacity(object) => Some(&mut object.metadata.namespace),
            Self::ResourceClaim(object) => Some(&mut object.metadata.namespace),
            Self::ResourceClaimTemplate(object) => Some(&mut object.metadata.namespace),
            Self::Class(_)
            | Self::Node(_)
            | Self::Volume(_)
            | Self::Namespace(_)
            | Self::CsiDriver(_)
            | Self::CsiNode(_)
            | Self::PinPolicy(_)
            | Self::PoliciesNotTold => None,
        }
    }
}

impl Facts {
    /// No facts yet.
    #[must_use]
    pub fn new(unlisted: Unlisted) -> Self {
        Self { unlisted, ..Self::default() }
    }

    /// Adds an object. One of the same kind and name that was there before stays in the indexes: facts are built once.
    pub fn add(&mut self, fact: Fact) {
        match fact {
            Fact::Claim(claim) => {
                let namespaces = self.claim_namespaces.entry(claim.name().to_owned()).or_default();
                namespaces.insert(claim.namespace().to_owned());
                self.claims.insert((claim.namespace().to_owned(), claim.name().to_owned()), Arc::new(claim));
            }
            Fact::Class(class) => {
                self.classes.insert(class.name().to_owned(), Arc::new(class));
            }
            Fact::Node(node) => self.add_node(Arc::new(node)),
            Fact::Volume(volume) => self.add_volume(&Arc::new(volume)),
            Fact::Namespace(namespace) => {
                self.namespaces.insert(Text::or_empty(namespace.metadata.name.as_ref()), Arc::new(namespace));
            }
            Fact::CsiDriver(driver) => {
                self.drivers.insert(Text::or_empty(driver.metadata.name.as_ref()), Arc::new(driver));
            }
            Fact::CsiNode(node) => {
                self.driver_nodes.insert(Text::or_empty(node.metadata.name.as_ref()), Arc::new(node));
            }
            Fact::StorageCapacity(capacity) => {
                self.capacities.entry(capacity.storage_class_name.to_string()).or_default().push(Arc::new(capacity));
            }
            Fact::Pod(pod) => self.add_pod(&Arc::new(pod)),
            Fact::PodOnNode(pod) => self.add_pod_on_node(pod),
            Fact::ResourceClaim(claim) => {
                let name = (claim.namespace().to_owned(), claim.name().to_owned());
                self.resource_claims.insert(name, Arc::new(claim));
            }
            Fact::ResourceClaimTemplate(template) => {
                let name = (template.namespace().to_owned(), template.name().to_owned());
                self.resource_claim_templates.insert(name, Arc::new(template));
            }
            Fact::PinPolicy(policy) => {
                self.policies.insert(policy.name().to_owned(), Arc::new(*policy));
            }
            Fact::PoliciesNotTold => self.policies_not_told = true,
        }
    }

    fn add_node(&mut self, node: Arc<Node>) {
        if let Some(hostname) = node.label(HOSTNAME_LABEL) {
            self.nodes_by_hostname.entry(hostname.to_owned()).or_default().push(Arc::clone(&node));
        }
        self.nodes.insert(node.name().to_owned(), node);
    }

    fn add_volume(&mut self, volume: &Arc<Volume>) {
        if let Some(reference) = &volume.spec.claim_ref {
            let claim = (Text::or_empty(reference.namespace.as_ref()), Text::or_empty(reference.name.as_ref()));
            self.volumes_by_claim.entry(claim).or_default().push(Arc::clone(volume));
            for (key, value) in place_labels(volume) {
                let label = (key.to_owned(), value.to_owned());
                self.claimed_volumes_by_label.entry(label).or_default().push(Arc::clone(volume));
            }
        } else {
            self.free_volumes_by_class.entry(volume.class_name().to_owned()).or_default().push(Arc::clone(volume));
        }
        self.volumes.insert(volume.name().to_owned(), Arc::clone(volume));
    }

    fn add_pod(&mut self, pod: &Arc<Pod>) {
        self.add_pod_on_node(PodOnNode::from(&**pod));
        for claim_name in pod.claim_names() {
            let claim = (pod.namespace().to_owned(), claim_name.to_string());
            self.consumers.entry(claim).or_default().push(Arc::clone(pod));
        }
    }

    fn add_pod_on_node(&mut self, pod: PodOnNode) {
        if pod.node().is_none() {
            return;
        }
        let pod = Arc::new(pod);
        for index in anti_affinity_of(&pod) {
            self.repelling.entry(index).or_default().push(Arc::clone(&pod));
        }
        let name = (pod.namespace().to_owned(), Text::or_empty(pod.metadata.name.as_ref()));
        self.pods_on_nodes.insert(name, pod);
    }

    /// Every class.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.values()
    }

    /// Every Node.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All objects of the kind are among the facts: what is not there does not exist.
    pub fn complete(&mut self, kind: Kind) {
        self.complete.insert(kind);
    }

    fn otherwise<T>(&self) -> Lookup<T> {
        match self.unlisted {
            Unlisted::Absent => Lookup::Absent,
            Unlisted::Unknown => Lookup::Unknown,
        }
    }

    fn otherwise_of<T>(&self, kind: Kind) -> Lookup<T> {
        if self.knows_all(kind) { Lookup::Absent } else { Lookup::Unknown }
    }
}

impl ClusterView for Facts {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        let found = self.claims.get(&(namespace.to_owned(), name.to_owned()));
        Lookup::found_or(found.cloned(), self.otherwise())
    }

    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        Lookup::found_or(self.classes.get(name).cloned(), self.otherwise_of(Kind::Classes))
    }

    fn default_class(&self) -> Lookup<Arc<Class>> {
        Lookup::found_or(default_class(self.classes.values()), self.otherwise_of(Kind::Classes))
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        Lookup::found_or(self.nodes.get(name).cloned(), self.otherwise_of(Kind::Nodes))
    }

    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        Lookup::Found(self.nodes_by_hostname.get(value).cloned().unwrap_or_default())
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        Lookup::found_or(self.volumes.get(name).cloned(), self.otherwise_of(Kind::Volumes))
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        Lookup::Found(self.free_volumes_by_class.get(class_name).cloned().unwrap_or_default())
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        let found = self.volumes_by_claim.get(&(namespace.to_owned(), claim_name.to_owned()));
        Lookup::Found(found.cloned().unwrap_or_default())
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        Lookup::found_or(self.namespaces.get(name).cloned(), Lookup::Absent)
    }

    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        Lookup::found_or(self.drivers.get(name).cloned(), self.otherwise_of(Kind::Drivers))
    }

    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        Lookup::found_or(self.driver_nodes.get(node_name).cloned(), self.otherwise_of(Kind::DriverNodes))
    }

    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        Lookup::Found(self.capacities.get(class_name).cloned().unwrap_or_default())
    }

    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        let found = self.consumers.get(&(namespace.to_owned(), claim_name.to_owned()));
        Lookup::Found(found.cloned().unwrap_or_default())
    }

    fn repelling(&self, namespace: &str, node_name: &str) -> Lookup<Vec<Arc<PodOnNode>>> {
        let around = anti_affinity_around(namespace, node_name);
        let found = around.iter().filter_map(|index| self.repelling.get(index)).flatten();
        Lookup::Found(found.cloned().collect())
    }

    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        let found = self.resource_claims.get(&(namespace.to_owned(), name.to_owned()));
        Lookup::found_or(found.cloned(), self.otherwise())
    }

    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        let found = self.resource_claim_templates.get(&(namespace.to_owned(), name.to_owned()));
        Lookup::found_or(found.cloned(), self.otherwise())
    }

    fn all_nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        if self.knows_all(Kind::Nodes) {
            Lookup::Found(self.nodes.values().cloned().collect())
        } else {
            Lookup::Unknown
        }
    }

    /// Those that are given, of which it is certain that they ask for it.
    fn volumes_asking_for(&self, key: &str, value: &str, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        let found = self.claimed_volumes_by_label.get(&(key.to_owned(), value.to_owned()));
        Lookup::Found(found.into_iter().flatten().take(limit).cloned().collect())
    }

    fn pod_on_node(&self, namespace: &str, name: &str) -> Lookup<Arc<PodOnNode>> {
        let found = self.pods_on_nodes.get(&(namespace.to_owned(), name.to_owned()));
        Lookup::found_or(found.cloned(), self.otherwise())
    }

    /// Those that are given. Manifests without any are about a cluster without any.
    fn policies(&self) -> Lookup<Vec<Arc<Kept<PinPolicy>>>> {
        if self.policies_not_told { Lookup::Unknown } else { Lookup::Found(self.policies.values().cloned().collect()) }
    }

    fn knows_all(&self, kind: Kind) -> bool {
        self.unlisted == Unlisted::Absent || self.complete.contains(&kind)
    }

    fn volumes_to_name(&self) -> Vec<Arc<Volume>> {
        if self.volumes.len() > MOST_VOLUMES_TO_NAME { Vec::new() } else { self.volumes.values().cloned().collect() }
    }

    fn claim_elsewhere(&self, namespace: &str, name: &str) -> Option<String> {
        self.claim_namespaces.get(name)?.iter().find(|other| *other != namespace).cloned()
    }
}
