//! What a decision may ask about a cluster, and three kinds of answer.

use std::sync::Arc;

use crate::model::{Claim, Class, CsiDriver, CsiNode, HOSTNAME_LABEL, Namespace, Node, Pod, StorageCapacity, Volume};

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

/// The hostname label that alone leads to the Node, if there is one.
pub(crate) fn own_hostname(node: &Node, view: &dyn ClusterView) -> Option<String> {
    let value = node.label(HOSTNAME_LABEL)?;
    let Lookup::Found(carriers) = view.nodes_with_hostname(value) else { return None };
    let alone = carriers.iter().all(|carrier| carrier.name() == node.name());
    // The name of a Node may be longer than a label value may be, so the value is never assumed to be the name.
    alone.then(|| value.to_owned())
}
