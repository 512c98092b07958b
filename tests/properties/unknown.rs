//! A view in which one kind of question has no answer.

use std::cell::Cell;
use std::sync::Arc;

use latebind::binding::{ClusterView, Lookup};
use latebind::facts::Facts;
use latebind::model::{
    Claim, Class, CsiDriver, CsiNode, Namespace, Node, Pod, PodOnNode, ResourceClaim, ResourceClaimTemplate,
    StorageCapacity, Volume,
};

macro_rules! questions {
    ($($variant:ident = $method:ident($($argument:ident),*) -> $answer:ty;)+) => {
        /// A kind of question.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Question { $($variant),+ }

        impl Question {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl ClusterView for OneUnknown<'_> {
            $(
                fn $method(&self, $($argument: &str),*) -> Lookup<$answer> {
                    if self.question == Question::$variant {
                        self.asked.set(true);
                        return Lookup::Unknown;
                    }
                    self.facts.$method($($argument),*)
                }
            )+
        }
    };
}

/// Facts of which one kind is not known.
pub struct OneUnknown<'a> {
    pub facts: &'a Facts,
    pub question: Question,
    /// Whether the question came up.
    pub asked: Cell<bool>,
}

questions! {
    Claim = claim(namespace, name) -> Arc<Claim>;
    Class = class(name) -> Arc<Class>;
    DefaultClass = default_class() -> Arc<Class>;
    Node = node(name) -> Arc<Node>;
    NodesWithHostname = nodes_with_hostname(value) -> Vec<Arc<Node>>;
    Volume = volume(name) -> Arc<Volume>;
    FreeVolumesOfClass = free_volumes_of_class(class_name) -> Vec<Arc<Volume>>;
    VolumesClaimedBy = volumes_claimed_by(namespace, claim_name) -> Vec<Arc<Volume>>;
    Namespace = namespace(name) -> Arc<Namespace>;
    CsiDriver = csi_driver(name) -> Arc<CsiDriver>;
    CsiNode = csi_node(node_name) -> Arc<CsiNode>;
    Capacities = capacities_of_class(class_name) -> Vec<Arc<StorageCapacity>>;
    Consumers = consumers(namespace, claim_name) -> Vec<Arc<Pod>>;
    Repelling = repelling(namespace, node_name) -> Vec<Arc<PodOnNode>>;
    ResourceClaim = resource_claim(namespace, name) -> Arc<ResourceClaim>;
    ResourceClaimTemplate = resource_claim_template(namespace, name) -> Arc<ResourceClaimTemplate>;
}
