//! What is kept of each kind, and what it is looked up by.

use super::store::Cached;
use crate::crd::{Kept, LocalNode, LocalPool, LocalVolume};
use crate::model::{
    BETA_CLASS, CLAIM_PROVISIONER, CLASS_PARAMETERS, Claim, Class, CsiDriver, CsiNode, DEFAULT_CLASS, HOSTNAME_LABEL,
    MIRROR_POD, Map, Metadata, NAMESPACE_NODE_SELECTOR, Namespace, Node, PROVISIONED_BY, Pod, SELECTED_NODE,
    StorageCapacity, Text, Texts, VOLUME_NODE, VOLUME_TYPE, Volume,
};

/// Prefix of latebind's own annotations and labels.
const OWN_PREFIX: &str = "latebind.dev/";

/// Drops the parts of the metadata that no decision reads, and the annotations that are not kept. What is left is shared
/// where many objects say the same.
fn trim(metadata: &mut Metadata, texts: &mut Texts, annotation_is_read: impl Fn(&str) -> bool) {
    metadata.finalizers = None;
    metadata.generate_name = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(annotation_is_read);
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
    texts.share_some(&mut metadata.namespace);
    for (key, value) in
        [&mut metadata.labels, &mut metadata.annotations].into_iter().flatten().flat_map(Map::entries_mut)
    {
        texts.share(key);
        texts.share(value);
    }
}

impl Cached for Node {
    /// Value of the hostname label.
    type Index = Text;

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |_| false);
        // Nothing is written to Nodes.
        self.metadata.resource_version = None;
        self.status.conditions.retain(|condition| condition.type_ == "Ready");
        for condition in &mut self.status.conditions {
            texts.share(&mut condition.type_);
            texts.share(&mut condition.status);
        }
        self.status.allocatable.retain(is_extended);
        for taint in &mut self.spec.taints {
            taint.time_added = None;
        }
    }

    fn indexes(&self) -> Vec<Text> {
        self.metadata.labels.as_ref().and_then(|labels| labels.get(HOSTNAME_LABEL)).cloned().into_iter().collect()
    }
}

impl Cached for Claim {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        // The owner tells whether the claim is a Pod's own.
        let owners = self.metadata.owner_references.take();
        trim(&mut self.metadata, texts, |key| {
            key == BETA_CLASS || key == SELECTED_NODE || key.starts_with(OWN_PREFIX) || CLAIM_PROVISIONER.contains(&key)
        });
        self.metadata.labels = None;
        self.metadata.owner_references = owners;
        let spec = &mut self.spec;
        for text in [&mut spec.storage_class_name, &mut spec.volume_mode, &mut spec.volume_attributes_class_name] {
            texts.share_some(text);
        }
        spec.access_modes.iter_mut().for_each(|mode| texts.share(mode));
        for (resource, _) in spec.resources.requests.entries_mut().chain(spec.resources.limits.entries_mut()) {
            texts.share(resource);
        }
        texts.share(&mut self.status.phase);
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

/// What volumes are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum VolumeIndex {
    /// The class.
    FreeOfClass(Text),
    /// Namespace and name of the claim in `claimRef`.
    Claim(Text, Text),
}

impl Cached for Volume {
    type Index = VolumeIndex;

    fn trim(&mut self, texts: &mut Texts) {
        let finalizers = self.metadata.finalizers.take();
        trim(&mut self.metadata, texts, |key| {
            [BETA_CLASS, PROVISIONED_BY, VOLUME_NODE].contains(&key) || key.starts_with(OWN_PREFIX)
        });
        // The provisioner adds and removes its own among them.
        self.metadata.finalizers = finalizers;
        self.metadata.finalizers.iter_mut().flatten().for_each(|finalizer| texts.share(finalizer));
        let spec = &mut self.spec;
        if let Some(reference) = &mut spec.claim_ref {
            texts.share_some(&mut reference.namespace);
        }
        for text in [
            &mut spec.storage_class_name,
            &mut spec.volume_mode,
            &mut spec.volume_attributes_class_name,
            &mut spec.persistent_volume_reclaim_policy,
        ] {
            texts.share_some(text);
        }
        spec.access_modes.iter_mut().for_each(|mode| texts.share(mode));
        spec.capacity.entries_mut().for_each(|(resource, _)| texts.share(resource));
        if let Some(csi) = &mut spec.csi {
            texts.share(&mut csi.driver);
        }
        texts.share(&mut self.status.phase);
    }

    fn indexes(&self) -> Vec<VolumeIndex> {
        vec![match &self.spec.claim_ref {
            None => VolumeIndex::FreeOfClass(self.class_name().into()),
            Some(reference) => VolumeIndex::Claim(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            ),
        }]
    }
}

impl Cached for Class {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| {
            key == VOLUME_TYPE || DEFAULT_CLASS.contains(&key) || CLASS_PARAMETERS.contains(&key)
        });
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for CsiDriver {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |_| false);
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for CsiNode {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |_| false);
        self.spec.drivers.iter_mut().for_each(|driver| texts.share(&mut driver.name));
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for StorageCapacity {
    /// The class.
    type Index = Text;

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |_| false);
        self.metadata.labels = None;
    }

    fn indexes(&self) -> Vec<Text> {
        vec![self.storage_class_name.clone()]
    }
}

impl Cached for Namespace {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| key == NAMESPACE_NODE_SELECTOR || key.starts_with(OWN_PREFIX));
        if let Some(labels) = &mut self.metadata.labels {
            labels.retain(|key| key.starts_with(OWN_PREFIX));
        }
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for Pod {
    /// Namespace and name of a claim that the Pod declares.
    type Index = (Text, Text);

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| key == MIRROR_POD);
        self.spec.volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        let volumes = &self.spec.volumes;
        let containers =
            [&mut self.spec.init_containers, &mut self.spec.containers, &mut self.spec.ephemeral_containers];
        for container in containers.into_iter().flatten() {
            container.volume_mounts.retain(|mount| volumes.iter().any(|volume| volume.name == mount.name));
            container.resources.requests.retain(is_extended);
            container.resources.limits.retain(is_extended);
            for mount in container.volume_mounts.iter_mut().chain(&mut container.volume_devices) {
                texts.share(&mut mount.name);
            }
        }
        self.spec.volumes.iter_mut().for_each(|volume| texts.share(&mut volume.name));
        // Nothing is written to Pods.
        self.metadata.resource_version = None;
        texts.share_tolerations(&mut self.spec.tolerations);
        texts.share_some(&mut self.spec.node_name);
        texts.share_some(&mut self.spec.scheduler_name);
        texts.share(&mut self.status.phase);
    }

    fn indexes(&self) -> Vec<(Text, Text)> {
        declared_claims(self).map(|name| (self.namespace().into(), name)).collect()
    }
}

impl Cached for Kept<LocalVolume> {
    /// UID of the claim.
    type Index = Text;

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<Text> {
        vec![self.spec.claim.uid.as_str().into()]
    }
}

impl Cached for Kept<LocalPool> {
    type Index = ();

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for Kept<LocalNode> {
    type Index = ();

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

/// Only extended resources decide anything; they alone carry a domain.
fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}

/// Names of the claims that the Pod declares: by name, and of its own ephemeral volumes.
pub(crate) fn declared_claims(pod: &Pod) -> impl Iterator<Item = Text> + '_ {
    pod.spec.volumes.iter().filter_map(|volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral, &pod.metadata.name) {
            (Some(source), _, _) => Some(source.claim_name.clone()),
            (None, Some(_), Some(pod_name)) => Some(format!("{pod_name}-{}", volume.name).into()),
            _ => None,
        }
    })
}
