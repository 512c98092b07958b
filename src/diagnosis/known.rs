//! What a diagnosis may look at, and small questions that several parts of it ask.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::details::Field;
use super::found::Line;
use super::record::{Kind, Record};
use crate::binding::{ClusterView, Lookup, Rules};
use crate::model::selector::{volume_reachable, wanted};
use crate::model::{Claim, Class, Event, Metadata, Node, Pod, Volume};
use crate::policy::{Decision, Mode, PinRequest, evaluate};

/// From this age on somebody should have answered.
pub(super) const PATIENCE_SECONDS: i64 = 60;

/// Everything that a diagnosis may look at.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The facts of decisions.
    pub view: &'a dyn ClusterView,
    /// The administrator's choices.
    pub rules: &'a Rules,
    /// What happened.
    pub record: &'a Record,
}

/// The class of a claim.
pub(super) enum ClassOf {
    Found(Arc<Class>),
    /// `storageClassName: ""`.
    Empty,
    /// None is named, and there was no default when the claim was made.
    None,
    Absent(String),
    Unknown(String),
}

impl<'a> Known<'a> {
    /// A claim: `Absent` only where all claims of the namespace are known.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        let found = self.record.claim(namespace, name).cloned();
        Lookup::found_or(found, self.absent(Kind::Claims, namespace))
    }

    /// What the PinPolicies say about a Pod that is there: who created it nobody can tell any more. The mode that holds where
    /// there is none is not known either, and latebind's own is taken.
    #[must_use]
    pub fn policies_on(&self, pod: &Pod) -> Decision {
        let now = self.record.as_of().unwrap_or_default();
        evaluate(&PinRequest { pod, requester: None, mode: Mode::default(), now }, self.view)
    }

    /// A volume.
    pub(super) fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        Lookup::found_or(self.record.volume(name).cloned(), self.absent(Kind::Volumes, ""))
    }

    /// A Node: `Absent` only where all Nodes are known.
    #[must_use]
    pub fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        Lookup::found_or(self.record.node(name).cloned(), self.absent(Kind::Nodes, ""))
    }

    fn absent<T>(&self, kind: Kind, namespace: &str) -> Lookup<T> {
        if self.record.knows(kind, namespace) { Lookup::Absent } else { Lookup::Unknown }
    }

    pub(super) fn class_of(&self, claim: &Claim) -> ClassOf {
        let Some(name) = claim.class_name() else { return ClassOf::None };
        if name.is_empty() {
            return ClassOf::Empty;
        }
        match self.view.class(name) {
            Lookup::Found(class) => ClassOf::Found(class),
            Lookup::Absent => ClassOf::Absent(name.to_owned()),
            Lookup::Unknown => ClassOf::Unknown(name.to_owned()),
        }
    }

    /// The Pods that use a claim and have not ended, the oldest first.
    pub(super) fn consumers(&self, claim: &Claim) -> Vec<Arc<Pod>> {
        let uses =
            |pod: &&Arc<Pod>| pod.namespace() == claim.namespace() && pod.is_live() && pod.volume_of(claim).is_some();
        let mut found: Vec<Arc<Pod>> = self.record.pods().filter(uses).cloned().collect();
        found.sort_by_key(|pod| (created(&pod.metadata), pod.display_name().to_owned()));
        found
    }

    /// True when the claim of a volume is bound to it still.
    pub(super) fn is_in_use(&self, volume: &Volume) -> bool {
        let mut claims = self.record.claims();
        claims.any(|claim| claim.volume_name() == Some(volume.name()) && volume.is_claimed_by(claim))
    }

    /// The events about a claim.
    pub(super) fn claim_events(&self, claim: &Claim) -> Vec<&'a Event> {
        let uid = claim.metadata.uid.as_deref();
        self.record.events("PersistentVolumeClaim", claim.namespace(), claim.name(), uid)
    }

    /// The events about a Pod.
    pub(super) fn pod_events(&self, pod: &Pod) -> Vec<&'a Event> {
        self.record.events("Pod", pod.namespace(), pod.display_name(), pod.metadata.uid.as_deref())
    }

    /// The events about a volume. They lie in namespace `default`.
    pub(super) fn volume_events(&self, volume: &Volume) -> Vec<&'a Event> {
        self.record.events("PersistentVolume", "", volume.name(), volume.metadata.uid.as_deref())
    }

    /// Says that events are not known, where they are not.
    pub(super) fn missing_events(&self, namespace: &str) -> Option<String> {
        self.missing(Kind::Events, namespace)
    }

    /// Says that not all objects of a kind are known, where they are not.
    #[must_use]
    pub fn missing(&self, kind: Kind, namespace: &str) -> Option<String> {
        (!self.record.knows(kind, namespace)).then(|| self.record.why_not(kind))
    }

    /// Who selected a claim's node.
    pub(super) fn selected_by(&self, claim: &Claim) -> Option<Line> {
        let details = self.record.details("PersistentVolumeClaim", claim.namespace(), claim.name())?;
        let writer = details.writer(Field::SelectedNode)?;
        let node = claim.selected_node().unwrap_or_default();
        let object = format!("pvc/{}", claim.name());
        Some(Line::of_writer(&format!("the selected node {node:?}"), &object, &writer))
    }

    /// Who set a Pod's node name.
    pub(super) fn named_by(&self, pod: &Pod) -> Option<Line> {
        let details = self.record.details("Pod", pod.namespace(), pod.display_name())?;
        let writer = details.writer(Field::NodeName)?;
        Some(Line::of_writer("spec.nodeName", &format!("pod/{}", pod.display_name()), &writer))
    }

    /// The Nodes that reach a volume; nothing where not all Nodes are known, or the volume is reached from everywhere.
    pub(super) fn reached_from(&self, volume: &Volume) -> Option<Vec<Arc<Node>>> {
        volume.spec.node_affinity.as_ref()?.required.as_ref()?;
        let reaches = |node: &&Arc<Node>| volume_reachable(volume, node);
        self.record.knows(Kind::Nodes, "").then(|| self.record.nodes().filter(reaches).cloned().collect())
    }

    /// How long ago, at least.
    pub(super) fn age(&self, metadata: &Metadata) -> Option<i64> {
        self.record.seconds_since(created(metadata)?)
    }

    /// True where the object is old enough that somebody should have answered by now.
    pub(super) fn is_old(&self, metadata: &Metadata) -> bool {
        self.age(metadata).is_some_and(|age| age >= PATIENCE_SECONDS)
    }
}

/// When the API server stored an object.
pub(super) fn created(metadata: &Metadata) -> Option<Timestamp> {
    metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// What a volume wants of nodes, in words.
pub(super) fn wants(volume: &Volume) -> Option<String> {
    let affinity = volume.spec.node_affinity.as_ref()?.required.as_ref()?;
    Some(wanted(affinity))
}
