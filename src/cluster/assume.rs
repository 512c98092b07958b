//! Assumptions about what manifests leave out, each of which is named when it was used.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Serialize, Serializer};

use crate::binding::{ClusterView, Lookup};
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, HOSTNAME_LABEL, Labels, Metadata, Namespace, Node, NodeCondition, NodeStatus,
    Pod, StorageCapacity, Text, Volume,
};

/// What is assumed of a class that is not among the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssumedBinding {
    /// Nothing.
    #[default]
    Unknown,
    /// It binds when a consumer is placed.
    Delayed,
    /// It binds at once.
    Immediate,
}

/// What is assumed of a Node that is not among the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssumedNode {
    /// It is ready, has no taints, and its hostname label is its name.
    #[default]
    Schedulable,
    /// Nothing.
    Unknown,
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),+) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("expected one of {}", [$($word),+].join(", "))),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

words!(AssumedBinding: Unknown = "unknown", Delayed = "delayed", Immediate = "immediate");
words!(AssumedNode: Schedulable = "schedulable", Unknown = "unknown");

/// What is assumed of objects that are not among the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assumptions {
    /// Of classes.
    pub binding: AssumedBinding,
    /// Of Nodes.
    pub node: AssumedNode,
}

/// An assumption that a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assumption {
    /// A class binds when a consumer is placed.
    DelayedClass(String),
    /// A class binds at once.
    ImmediateClass(String),
    /// The class of claims that name none binds when a consumer is placed.
    DelayedDefaultClass,
    /// The class of claims that name none binds at once.
    ImmediateDefaultClass,
    /// A Node is ready, without taints, and its hostname label is its name.
    SchedulableNode(String),
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DelayedClass(name) => {
                write!(f, "StorageClass {name} is not in the input: assumed to bind WaitForFirstConsumer")
            }
            Self::ImmediateClass(name) => {
                write!(f, "StorageClass {name} is not in the input: assumed to bind immediately")
            }
            Self::DelayedDefaultClass => {
                f.write_str("the default StorageClass is not in the input: assumed to bind WaitForFirstConsumer")
            }
            Self::ImmediateDefaultClass => {
                f.write_str("the default StorageClass is not in the input: assumed to bind immediately")
            }
            Self::SchedulableNode(name) => {
                write!(f, "Node {name} is not in the input: assumed ready, untainted, hostname label {name}")
            }
        }
    }
}

impl Serialize for Assumption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A view that answers some questions about unknown objects by assumption, and keeps which.
#[derive(Debug)]
pub struct AssumingView<V> {
    view: V,
    assumptions: Assumptions,
    used: Mutex<BTreeSet<Assumption>>,
}

/// Provisioner of a class that is assumed. It is dynamic: the classes that manifests leave out are those of the cluster.
const ASSUMED_PROVISIONER: &str = "assumed.latebind.dev";

impl<V> AssumingView<V> {
    /// A view over another, which is held by a reference or an `Arc`.
    pub const fn new(view: V, assumptions: Assumptions) -> Self {
        Self { view, assumptions, used: Mutex::new(BTreeSet::new()) }
    }

    /// The assumptions that were used since the last call.
    pub fn take_used(&self) -> Vec<Assumption> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *used).into_iter().collect()
    }

    fn note(&self, assumption: Assumption) {
        // A view that is asked for days, by a webhook, must not grow without bound: names beyond this are not kept.
        const MOST: usize = 1000;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MOST {
            used.insert(assumption);
        }
    }

    fn assumed_class(&self, name: Option<&str>) -> Lookup<Arc<Class>> {
        let (mode, assumption) = match (self.assumptions.binding, name) {
            (AssumedBinding::Unknown, _) => return Lookup::Unknown,
            (AssumedBinding::Delayed, Some(name)) => {
                ("WaitForFirstConsumer", Assumption::DelayedClass(name.to_owned()))
            }
            (AssumedBinding::Delayed, None) => ("WaitForFirstConsumer", Assumption::DelayedDefaultClass),
            (AssumedBinding::Immediate, Some(name)) => ("Immediate", Assumption::ImmediateClass(name.to_owned())),
            (AssumedBinding::Immediate, None) => ("Immediate", Assumption::ImmediateDefaultClass),
        };
        self.note(assumption);
        Lookup::Found(Arc::new(Class {
            metadata: Metadata { name: Some(name.unwrap_or("(default)").into()), ..Metadata::default() },
            provisioner: ASSUMED_PROVISIONER.to_owned(),
            volume_binding_mode: Some(mode.to_owned()),
            ..Class::default()
        }))
    }

    fn assumed_node(&self, name: &str) -> Lookup<Arc<Node>> {
        match self.assumptions.node {
            AssumedNode::Unknown => Lookup::Unknown,
            AssumedNode::Schedulable => {
                self.note(Assumption::SchedulableNode(name.to_owned()));
                Lookup::Found(Arc::new(schedulable_node(name)))
            }
        }
    }
}

fn schedulable_node(name: &str) -> Node {
    // The name of a Node may be longer than a label value may be: then its label is anybody's guess.
    const LONGEST_LABEL_VALUE: usize = 63;
    let ready = NodeCondition { type_: "Ready".into(), status: "True".into() };
    let hostname = (name.len() <= LONGEST_LABEL_VALUE).then(|| (HOSTNAME_LABEL, Text::from(name)));
    let labels: Labels = hostname.into_iter().collect();
    Node {
        metadata: Metadata { name: Some(name.into()), labels: Some(labels), ..Metadata::default() },
        status: NodeStatus { conditions: vec![ready], ..NodeStatus::default() },
        ..Node::default()
    }
}

impl<V> ClusterView for AssumingView<V>
where
    V: Deref<Target: ClusterView>,
{
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        self.view.claim(namespace, name)
    }

    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        match self.view.class(name) {
            Lookup::Unknown => self.assumed_class(Some(name)),
            known => known,
        }
    }

    fn default_class(&self) -> Lookup<Arc<Class>> {
        match self.view.default_class() {
            Lookup::Unknown => self.assumed_class(None),
            known => known,
        }
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        match self.view.node(name) {
            Lookup::Unknown => self.assumed_node(name),
            known => known,
        }
    }

    /// A Node that is assumed carries its name as its hostname label, so it is among the answers for that name.
    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        let mut carriers = match self.view.nodes_with_hostname(value) {
            Lookup::Found(carriers) => carriers,
            Lookup::Unknown => Vec::new(),
            Lookup::Absent => return Lookup::Absent,
        };
        if matches!(self.view.node(value), Lookup::Unknown) {
            match self.assumptions.node {
                AssumedNode::Schedulable => carriers.push(Arc::new(schedulable_node(value))),
                AssumedNode::Unknown if carriers.is_empty() => return self.view.nodes_with_hostname(value),
                AssumedNode::Unknown => {}
            }
        }
        Lookup::Found(carriers)
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.view.volume(name)
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.free_volumes_of_class(class_name)
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.view.volumes_claimed_by(namespace, claim_name)
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.view.namespace(name)
    }

    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.view.csi_driver(name)
    }

    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.view.csi_node(node_name)
    }

    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.view.capacities_of_class(class_name)
    }

    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.view.consumers(namespace, claim_name)
    }
}
