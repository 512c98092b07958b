//! What is kept of each kind, and what it is looked up by.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::store::Cached;
use crate::model::{
    BETA_CLASS, Claim, Class, CsiDriver, CsiNode, HOSTNAME_LABEL, MIRROR_POD, NAMESPACE_NODE_SELECTOR, Namespace, Node,
    Pod, SELECTED_NODE, StorageCapacity, Volume,
};

/// Prefix of latebind's own annotations and labels.
const OWN_PREFIX: &str = "latebind.dev/";
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// Drops the parts of the metadata that no decision reads, and the annotations that are not kept.
fn trim(metadata: &mut ObjectMeta, annotation_is_read: impl Fn(&str) -> bool) {
    metadata.finalizers = None;
    metadata.generate_name = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| annotation_is_read(key));
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
}

impl Cached for Node {
    /// Value of the hostname label.
    type Index = String;

    fn trim(&mut self) {
        trim(&mut self.metadata, |_| false);
        self.status.conditions.retain(|condition| condition.type_ == "Ready");
        for condition in &mut self.status.conditions {
            (condition.message, condition.reason) = (None, None);
            (condition.last_heartbeat_time, condition.last_transition_time) = (None, None);
        }
        // Only extended resources decide anything; they alone carry a domain.
        self.status.allocatable.retain(|resource, _| resource.contains('/'));
        for taint in &mut self.spec.taints {
            taint.time_added = None;
        }
    }

    fn indexes(&self) -> Vec<String> {
        self.label(HOSTNAME_LABEL).map(str::to_owned).into_iter().collect()
    }
}

impl Cached for Claim {
    type Index = ();

    fn trim(&mut self) {
        // The owner tells whether the claim is a Pod's own.
        let owners = self.metadata.owner_references.take();
        trim(&mut self.metadata, |key| {
            key == BETA_CLASS || key == SELECTED_NODE || key.starts_with(OWN_PREFIX) || PROVISIONERS.contains(&key)
        });
        self.metadata.labels = None;
        self.metadata.owner_references = owners;
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

/// What volumes are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum VolumeIndex {
    /// The class.
    FreeOfClass(String),
    /// Namespace and name of the claim in `claimRef`.
    Claim(String, String),
}

impl Cached for Volume {
    type Index = VolumeIndex;

    fn trim(&mut self) {
        trim(&mut self.metadata, |key| key == BETA_CLASS);
        if let Some(reference) = &mut self.spec.claim_ref {
            (reference.api_version, reference.kind, reference.resource_version) = (None, None, None);
            reference.field_path = None;
        }
    }

    fn indexes(&self) -> Vec<VolumeIndex> {
        vec![match &self.spec.claim_ref {
            None => VolumeIndex::FreeOfClass(self.class_name().to_owned()),
            Some(reference) => VolumeIndex::Claim(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            ),
        }]
    }
}

impl Cached for Class {
    type Index = ();

    fn trim(&mut self) {
        trim(&mut self.metadata, |key| key.ends_with("is-default-class"));
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for CsiDriver {
    type Index = ();

    fn trim(&mut self) {
        trim(&mut self.metadata, |_| false);
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for CsiNode {
    type Index = ();

    fn trim(&mut self) {
        trim(&mut self.metadata, |_| false);
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for StorageCapacity {
    /// The class.
    type Index = String;

    fn trim(&mut self) {
        trim(&mut self.metadata, |_| false);
        self.metadata.labels = None;
    }

    fn indexes(&self) -> Vec<String> {
        vec![self.storage_class_name.clone()]
    }
}

impl Cached for Namespace {
    type Index = ();

    fn trim(&mut self) {
        trim(&mut self.metadata, |key| key == NAMESPACE_NODE_SELECTOR || key.starts_with(OWN_PREFIX));
        if let Some(labels) = &mut self.metadata.labels {
            labels.retain(|key, _| key.starts_with(OWN_PREFIX));
        }
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for Pod {
    /// Namespace and name of a claim that the Pod declares.
    type Index = (String, String);

    fn trim(&mut self) {
        trim(&mut self.metadata, |key| key == MIRROR_POD);
        self.spec.volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        let volumes = &self.spec.volumes;
        let containers =
            [&mut self.spec.init_containers, &mut self.spec.containers, &mut self.spec.ephemeral_containers];
        for container in containers.into_iter().flatten() {
            container.volume_mounts.retain(|mount| volumes.iter().any(|volume| volume.name == mount.name));
        }
    }

    fn indexes(&self) -> Vec<(String, String)> {
        declared_claims(self).map(|name| (self.namespace().to_owned(), name)).collect()
    }
}

/// Names of the claims that the Pod declares: by name, and of its own ephemeral volumes.
pub(crate) fn declared_claims(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    pod.spec.volumes.iter().filter_map(|volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral, &pod.metadata.name) {
            (Some(source), _, _) => Some(source.claim_name.clone()),
            (None, Some(_), Some(pod_name)) => Some(format!("{pod_name}-{}", volume.name)),
            _ => None,
        }
    })
}
