//! A view for one decision, in which what may be taken for granted is, and each use of it is kept.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use super::assume::{AssumedBinding, AssumedNode, AssumedStorage, Assumption, Assumptions};
use super::place::Place;
use super::shipped::{Cluster, Shipped};
use super::{ClusterView, Kind, Lookup};
use crate::model::{Class, Metadata, PodSpec};

/// Provisioner of a class that is assumed. It is dynamic: the classes that manifests leave out are those of the cluster.
/// The slash keeps it from being the name of a CSI driver.
const ASSUMED_PROVISIONER: &str = "latebind.dev/assumed";

/// A view for one decision, which takes for granted what it may and keeps what it took.
pub(super) struct Asked<'a> {
    view: &'a dyn ClusterView,
    assume: Assumptions,
    used: RefCell<BTreeSet<Assumption>>,
}

impl<'a> Deref for Asked<'a> {
    type Target = dyn ClusterView + 'a;

    fn deref(&self) -> &Self::Target {
        self.view
    }
}

impl<'a> Asked<'a> {
    pub fn new(view: &'a dyn ClusterView, assume: Assumptions) -> Self {
        Self { view, assume, used: RefCell::default() }
    }

    /// What was taken for granted since the last call.
    pub fn take_used(&self) -> Vec<Assumption> {
        self.used.take().into_iter().collect()
    }

    pub fn note(&self, assumption: Assumption) {
        self.used.borrow_mut().insert(assumption);
    }

    /// Takes something about volumes, capacities or drivers for granted, if that is allowed.
    pub fn grant_storage(&self, assumption: impl FnOnce() -> Assumption) -> bool {
        let granted = self.assume.storage == AssumedStorage::Available;
        if granted {
            self.note(assumption());
        }
        granted
    }

    /// Takes something about a Node for granted, if that is allowed.
    pub fn grant_node(&self, assumption: impl FnOnce() -> Assumption) -> bool {
        let granted = self.assume.node == AssumedNode::Schedulable;
        if granted {
            self.note(assumption());
        }
        granted
    }

    /// A class by name.
    pub fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        match self.view.class(name) {
            Lookup::Unknown => self.assumed_class(Some(name)),
            known => known,
        }
    }

    /// The class of claims that name none.
    pub fn default_class(&self) -> Lookup<Arc<Class>> {
        match self.view.default_class() {
            Lookup::Unknown => self.assumed_class(None),
            known => known,
        }
    }

    /// The node that a Pod names. What is assumed of it is named by [`Place::assumption`], once all was asked.
    pub fn place(&self, name: &str, spec: &PodSpec) -> Lookup<Place> {
        let may = self.assume.node == AssumedNode::Schedulable;
        match self.view.node(name) {
            Lookup::Unknown if may => Lookup::Found(Place::assumed(name, spec)),
            Lookup::Found(node) => {
                let status = &node.status;
                let is_bare = status.conditions.is_empty() && status.allocatable.is_empty();
                let is_bare = is_bare && may && !self.view.knows_all(Kind::Nodes);
                Lookup::Found(Place::known(node, is_bare))
            }
            other => other.map(|node| Place::known(node, false)),
        }
    }

    fn shipped(&self, name: Option<&str>) -> Option<(Cluster, &'static Shipped)> {
        let cluster = self.assume.cluster?;
        let shipped = match name {
            Some(name) => cluster.class(name),
            None => cluster.default_class(),
        };
        Some((cluster, shipped?))
    }

    fn assumed_class(&self, name: Option<&str>) -> Lookup<Arc<Class>> {
        if let Some((cluster, shipped)) = self.shipped(name) {
            self.note(Assumption::ShippedClass { cluster, class: shipped.name });
            return Lookup::Found(Arc::new(shipped.class()));
        }
        let (mode, assumption) = match (self.assume.binding, name) {
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
}
