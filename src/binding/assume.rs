//! What may be taken for granted where the facts leave something open; `asked` is the one place in which that is done.
//!
//! A fact that is not known stays unknown. What a person wants to be taken for granted is an [`Assumption`]: a verdict
//! and its findings name each of those that they rest on.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::shipped::Cluster;

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
    /// It is ready, has no taints, agrees with what the Pod, its volumes and their classes ask of it, and has no Pod that
    /// requires to be away from this one.
    Schedulable,
    /// Nothing.
    #[default]
    Unknown,
}

/// What is assumed of volumes, capacities and drivers that are not among the facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssumedStorage {
    /// A volume that fits exists, drivers run on the node and have room.
    Available,
    /// Nothing.
    #[default]
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
words!(AssumedStorage: Available = "available", Unknown = "unknown");

/// What is assumed of objects that are not among the facts; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assumptions {
    /// Of classes.
    pub binding: AssumedBinding,
    /// Of Nodes.
    pub node: AssumedNode,
    /// Of volumes, capacities and drivers.
    pub storage: AssumedStorage,
    /// The kind of cluster, which comes with classes of its own.
    pub cluster: Option<Cluster>,
}

impl Assumptions {
    /// What somebody who looks at manifests wants to be taken for granted: the cluster is in order.
    #[must_use]
    pub fn in_order() -> Self {
        Self { node: AssumedNode::Schedulable, storage: AssumedStorage::Available, ..Self::default() }
    }
}

/// An assumption that a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Assumption {
    /// A class binds when a consumer is placed.
    DelayedClass(String),
    /// A class binds at once.
    ImmediateClass(String),
    /// The class of claims that name none binds when a consumer is placed.
    DelayedDefaultClass,
    /// The class of claims that name none binds at once.
    ImmediateDefaultClass,
    /// A class is the one that a kind of cluster comes with.
    ShippedClass {
        /// The kind of cluster.
        cluster: Cluster,
        /// The class.
        class: &'static str,
    },
    /// A Node is ready, without taints, and agrees with what is asked of it.
    SchedulableNode {
        /// Its name.
        name: String,
        /// Its hostname label, where one is assumed.
        hostname: Option<String>,
        /// The other labels that are asked of it, as kubectl writes a label selector.
        labels: Vec<String>,
        /// The extended resources that are asked of it.
        resources: Vec<String>,
    },
    /// A Node that was written without a status is ready and offers what is asked of it.
    NodeStatus {
        /// Its name.
        name: String,
        /// The extended resources that are asked of it.
        resources: Vec<String>,
    },
    /// No Node but this one carries the hostname label.
    OnlyHostname {
        /// The Node.
        node: String,
        /// The label's value.
        hostname: String,
    },
    /// A class without a provisioner has a volume that fits, which is not among the facts.
    FittingVolume {
        /// The class.
        class: String,
    },
    /// A volume can be reached from the node.
    ReachableVolume {
        /// The volume.
        volume: String,
    },
    /// The driver of a class has room for a volume on the node.
    Room {
        /// The class.
        class: String,
        /// Its driver.
        driver: String,
    },
    /// A driver is registered on the node.
    DriverOnNode {
        /// The driver.
        driver: String,
        /// The node.
        node: String,
    },
    /// A ResourceClaimTemplate exists.
    ResourceClaimTemplate {
        /// Its name.
        template: String,
    },
    /// No Pod that is not among the facts requires to be away from this one, on the node or near it.
    NoRepellingPod {
        /// The node.
        node: String,
    },
    /// A claim that binds without the scheduler is bound when the Pod comes, to a volume that the node reaches.
    BoundByThen {
        /// The claim.
        claim: String,
    },
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
            Self::ShippedClass { cluster, class } => {
                let mode = cluster.class(class).map_or("", |shipped| shipped.binding_mode());
                write!(f, "StorageClass {class} is not in the input: taken as {cluster} ships it ({mode})")
            }
            Self::SchedulableNode { name, hostname, labels, resources } => {
                write!(f, "Node {name} is not in the input: assumed ready, untainted")?;
                if let Some(hostname) = hostname {
                    write!(f, ", hostname label {hostname}")?;
                }
                if !labels.is_empty() {
                    write!(f, ", labels {}", labels.join(" "))?;
                }
                if !resources.is_empty() {
                    write!(f, ", with {}", resources.join(" "))?;
                }
                Ok(())
            }
            Self::NodeStatus { name, resources } => {
                write!(f, "Node {name} has no status in the input: assumed ready")?;
                if resources.is_empty() { Ok(()) } else { write!(f, ", with {}", resources.join(" ")) }
            }
            Self::OnlyHostname { node, hostname } => {
                write!(f, "not all Nodes are in the input: assumed that none but {node} has hostname label {hostname}")
            }
            Self::FittingVolume { class } => {
                write!(f, "not all volumes are in the input: assumed that one of class {class} fits on the node")
            }
            Self::ReachableVolume { volume } => {
                write!(f, "PersistentVolume {volume} is not in the input: assumed reachable from the node")
            }
            Self::Room { class, driver } => write!(
                f,
                "how much room driver {driver} has is not in the input: assumed enough for class {class} on the node"
            ),
            Self::DriverOnNode { driver, node } => {
                write!(f, "CSINode {node} is not in the input: assumed to list driver {driver}")
            }
            Self::ResourceClaimTemplate { template } => {
                write!(f, "ResourceClaimTemplate {template} is not in the input: assumed to exist")
            }
            Self::NoRepellingPod { node } => {
                write!(f, "not all Pods are in the input: assumed that none on or near node {node} keeps this one away")
            }
            Self::BoundByThen { claim } => {
                write!(f, "claim {claim} binds without the scheduler: assumed bound in time, and within reach")
            }
        }
    }
}

impl Serialize for Assumption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
