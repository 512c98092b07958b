//! What a decision may ask about a cluster, and three kinds of answer.

use std::sync::Arc;

use crate::crd::{Kept, PinPolicy};
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, EvictedPod, Namespace, Node, Pod, PodOnNode, ResourceClaim,
    ResourceClaimTemplate, StorageCapacity, Volume,
};

/// An answer about an object that may not exist, or may not be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It exists.
    Found(T),
    /// It is known not to exist.
    Absent,
    /// Nothing is known: not in these files, or the watch cache is not synced.
    Unknown,
}

impl<T> Lookup<T> {
    /// The same answer about a reference.
    pub const fn as_ref(&self) -> Lookup<&T> {
        match self {
            Self::Found(object) => Lookup::Found(object),
            Self::Absent => Lookup::Absent,
            Self::Unknown => Lookup::Unknown,
        }
    }

    /// The object, if it was found.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(object) => Some(object),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// The same answer about something derived from the object.
    pub fn map<U>(self, derive: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Found(object) => Lookup::Found(derive(object)),
            Self::Absent => Lookup::Absent,
            Self::Unknown => Lookup::Unknown,
        }
    }

    /// `Found` or, when there is none, the answer that says why not.
    pub fn found_or(object: Option<T>, otherwise: Self) -> Self {
        object.map_or(otherwise, Self::Found)
    }
}

/// A kind of object of which a view may know some and not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nodes.
    Nodes,
    /// PersistentVolumes.
    Volumes,
    /// StorageClasses.
    Classes,
    /// CSIDrivers.
    Drivers,
    /// CSINodes.
    DriverNodes,
    /// CSIStorageCapacities.
    Capacities,
    /// Pods with a node and required anti-affinity.
    AntiAffinityPods,
}

impl Kind {
    /// The kind of an object; nothing for kinds of which no decision needs all, and for Pods, of which a part is enough.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Some(match (group, kind) {
            ("", "Node") => Self::Nodes,
            ("", "PersistentVolume") => Self::Volumes,
            ("storage.k8s.io", "StorageClass") => Self::Classes,
            ("storage.k8s.io", "CSIDriver") => Self::Drivers,
            ("storage.k8s.io", "CSINode") => Self::DriverNodes,
            ("storage.k8s.io", "CSIStorageCapacity") => Self::Capacities,
            _ => return None,
        })
    }
}

/// Where a decision takes its facts from: watch caches, manifests, or a test case.
///
/// Answers must not block: the admission path asks them for every review.
pub trait ClusterView {
    /// A claim by namespace and name.
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>>;
    /// A class by name.
    fn class(&self, name: &str) -> Lookup<Arc<Class>>;
    /// The class of claims that name none; [`default_class`] picks it among several.
    fn default_class(&self) -> Lookup<Arc<Class>>;
    /// A Node by name.
    fn node(&self, name: &str) -> Lookup<Arc<Node>>;
    /// Every known Node whose label `kubernetes.io/hostname` has the value; `Unknown` when not all Nodes are known.
    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>>;
    /// A volume by name.
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>>;
    /// Every volume of a class that names no claim. The others, most of them, are to be had by
    /// [`Self::volumes_claimed_by`] alone, so that no decision looks at volumes that somebody has.
    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>>;
    /// Every volume whose `claimRef` names the claim, whatever the UID.
    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>>;
    /// A namespace by name.
    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>>;
    /// The CSIDriver object of a name.
    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>>;
    /// The CSINode object of a node.
    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>>;
    /// Capacities published for a class.
    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>>;
    /// Every Pod that declares the claim: by name, or as its own ephemeral volume.
    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>>;
    /// Every Pod with a node and required anti-affinity, one term of which may keep a Pod of the namespace away from the
    /// node: for the node itself, or for a wider topology.
    fn repelling(&self, namespace: &str, node_name: &str) -> Lookup<Vec<Arc<PodOnNode>>>;
    /// A ResourceClaim by namespace and name.
    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>>;
    /// A ResourceClaimTemplate by namespace and name.
    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>>;

    /// Every PinPolicy. Where there is nobody who could have written one, there is none.
    fn policies(&self) -> Lookup<Vec<Arc<Kept<PinPolicy>>>> {
        Lookup::Found(Vec::new())
    }

    /// Another namespace in which there is a claim of that name, to be named in a message. Nothing where that would take
    /// a walk.
    fn claim_elsewhere(&self, _namespace: &str, _name: &str) -> Option<String> {
        None
    }

    /// False when more objects of the kind may exist than the answers hold, as with some manifests of a cluster: then
    /// a list that is `Found` is no proof that there is not one more.
    fn knows_all(&self, _kind: Kind) -> bool {
        true
    }

    /// Every Node; not known unless all of them are.
    fn all_nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        Lookup::Unknown
    }

    /// Volumes that a claim has, and that nodes with this label reach ([`crate::model::selector::place_labels`]); no more than the
    /// limit.
    fn volumes_asking_for(&self, _key: &str, _value: &str, _limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        Lookup::Unknown
    }

    /// A Pod on a node. Absent where it uses no claim and keeps no others away.
    fn pod_on_node(&self, _namespace: &str, _name: &str) -> Lookup<Arc<PodOnNode>> {
        Lookup::Unknown
    }

    /// A Pod that is to be evicted, as a live look shows it. Absent where there is none any more.
    fn evicted_pod(&self, _namespace: &str, _name: &str) -> Lookup<Arc<EvictedPod>> {
        Lookup::Unknown
    }

    /// Volumes to be named in a message that says why none of them fits. None where a walk would cost too much.
    fn volumes_to_name(&self) -> Vec<Arc<Volume>> {
        Vec::new()
    }
}

/// A view that answers as the one beneath it, but for the questions that it overrides.
pub trait LayeredView {
    /// The view that answers everything else.
    fn beneath(&self) -> &dyn ClusterView;

    /// [`ClusterView::claim`]
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        self.beneath().claim(namespace, name)
    }

    /// [`ClusterView::class`]
    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        self.beneath().class(name)
    }

    /// [`ClusterView::default_class`]
    fn default_class(&self) -> Lookup<Arc<Class>> {
        self.beneath().default_class()
    }

    /// [`ClusterView::node`]
    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.beneath().node(name)
    }

    /// [`ClusterView::nodes_with_hostname`]
    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        self.beneath().nodes_with_hostname(value)
    }

    /// [`ClusterView::volume`]
    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.beneath().volume(name)
    }

    /// [`ClusterView::free_volumes_of_class`]
    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.beneath().free_volumes_of_class(class_name)
    }

    /// [`ClusterView::volumes_claimed_by`]
    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.beneath().volumes_claimed_by(namespace, claim_name)
    }

    /// [`ClusterView::namespace`]
    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.beneath().namespace(name)
    }

    /// [`ClusterView::resource_claim`]
    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        self.beneath().resource_claim(namespace, name)
    }

    /// [`ClusterView::resource_claim_template`]
    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        self.beneath().resource_claim_template(namespace, name)
    }

    /// [`ClusterView::evicted_pod`]
    fn evicted_pod(&self, namespace: &str, name: &str) -> Lookup<Arc<EvictedPod>> {
        self.beneath().evicted_pod(namespace, name)
    }
}

impl<T: LayeredView> ClusterView for T {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        LayeredView::claim(self, namespace, name)
    }

    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        LayeredView::class(self, name)
    }

    fn default_class(&self) -> Lookup<Arc<Class>> {
        LayeredView::default_class(self)
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        LayeredView::node(self, name)
    }

    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        LayeredView::nodes_with_hostname(self, value)
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        LayeredView::volume(self, name)
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        LayeredView::free_volumes_of_class(self, class_name)
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        LayeredView::volumes_claimed_by(self, namespace, claim_name)
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        LayeredView::namespace(self, name)
    }

    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.beneath().csi_driver(name)
    }

    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.beneath().csi_node(node_name)
    }

    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.beneath().capacities_of_class(class_name)
    }

    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.beneath().consumers(namespace, claim_name)
    }

    fn repelling(&self, namespace: &str, node_name: &str) -> Lookup<Vec<Arc<PodOnNode>>> {
        self.beneath().repelling(namespace, node_name)
    }

    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        LayeredView::resource_claim(self, namespace, name)
    }

    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        LayeredView::resource_claim_template(self, namespace, name)
    }

    fn policies(&self) -> Lookup<Vec<Arc<Kept<PinPolicy>>>> {
        self.beneath().policies()
    }

    fn claim_elsewhere(&self, namespace: &str, name: &str) -> Option<String> {
        self.beneath().claim_elsewhere(namespace, name)
    }

    fn knows_all(&self, kind: Kind) -> bool {
        self.beneath().knows_all(kind)
    }

    fn all_nodes(&self) -> Lookup<Vec<Arc<Node>>> {
        self.beneath().all_nodes()
    }

    fn volumes_asking_for(&self, key: &str, value: &str, limit: usize) -> Lookup<Vec<Arc<Volume>>> {
        self.beneath().volumes_asking_for(key, value, limit)
    }

    fn pod_on_node(&self, namespace: &str, name: &str) -> Lookup<Arc<PodOnNode>> {
        self.beneath().pod_on_node(namespace, name)
    }

    fn evicted_pod(&self, namespace: &str, name: &str) -> Lookup<Arc<EvictedPod>> {
        LayeredView::evicted_pod(self, namespace, name)
    }

    fn volumes_to_name(&self) -> Vec<Arc<Volume>> {
        self.beneath().volumes_to_name()
    }
}

/// The default class among several that are marked so: the newest, and by name among those of one age.
/// Source: `plugin/pkg/admission/storage/storageclass/setdefault`, `GetDefaultClass`.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a Arc<Class>>) -> Option<Arc<Class>> {
    let marked = classes.into_iter().filter(|class| class.is_default());
    let newest = marked.max_by(|left, right| {
        let age = |class: &Class| class.metadata.creation_timestamp.as_ref().map(|created| created.0);
        age(left).cmp(&age(right)).then_with(|| right.name().cmp(left.name()))
    });
    newest.cloned()
}
