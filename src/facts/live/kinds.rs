//! What is kept of each kind, and what it is looked up by.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::api::core::v1::NodeSelectorTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::store::Cached;
use crate::binding::{AntiAffinityIndex, anti_affinity_of};
use crate::crd::{Kept, LocalDisk, LocalNode, LocalPool, LocalVolume, OnDelete, PinPolicy};
use crate::model::selector::place_labels;
use crate::model::{
    BETA_CLASS, CLAIM_MARKS, CLAIM_PROVISIONER, CLASS_PARAMETERS, Claim, Class, CsiDriver, CsiNode, DEFAULT_CLASS,
    DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_INTENT, DRAIN_POLICY, HOSTNAME_LABEL, IGNORE, LOCAL_VOLUME,
    LOST_NODE_POLICY, MIGRATED_PLUGINS, MIRROR_POD, Map, Metadata, NAMESPACE_NODE_SELECTOR, Namespace, Node,
    PROVISIONED_BY, Pod, PodOnNode, PodSpec, PodStatus, PodVolume, ResourceClaim, ResourceClaimTemplate, SELECTED_NODE,
    StorageCapacity, Text, Texts, VOLUME_NODE, VOLUME_TYPE, Volume, is_object_name, plain_path,
};

/// Prefix of latebind's own annotations of volumes, which only administrators and provisioners write.
const OWN_PREFIX: &str = "latebind.dev/";

/// Annotations that say what is done when a node is drained or gone.
const NODE_POLICIES: [&str; 2] = [DRAIN_POLICY, LOST_NODE_POLICY];

/// Claims of a Pod on a node that are kept: few have more than three, and warnings name as many.
const MOST_CLAIMS_KEPT: usize = 16;

/// Longest kind that an API server serves.
/// Source: `apiextensions-apiserver/pkg/apis/apiextensions/validation`, names of definitions are DNS labels.
const MOST_KIND_BYTES: usize = 63;

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

/// Takes the owners away, and gives back the one that is the controller.
fn controllers(metadata: &mut Metadata) -> Option<Vec<OwnerReference>> {
    let mut owners = metadata.owner_references.take()?;
    owners.retain(|owner| owner.controller == Some(true));
    Some(owners).filter(|owners| !owners.is_empty())
}

/// The owner with its kind alone, if that can be one.
fn kind_only(owner: OwnerReference) -> OwnerReference {
    let kind = Some(owner.kind).filter(|kind| kind.len() <= MOST_KIND_BYTES).unwrap_or_default();
    OwnerReference { kind, controller: owner.controller, ..OwnerReference::default() }
}

impl Cached for Node {
    /// Value of the hostname label.
    type Index = Text;

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| [DRAIN_INTENT, DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL].contains(&key));
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

    /// A selector with a hundred requirements; what most claims have takes half a KiB.
    const MOST_KEPT: usize = 16 << 10;

    fn trim(&mut self, texts: &mut Texts) {
        // The owner tells whether the claim is a Pod's own.
        let owners = controllers(&mut self.metadata);
        trim(&mut self.metadata, texts, |key| {
            [BETA_CLASS, SELECTED_NODE, DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL].contains(&key)
                || NODE_POLICIES.contains(&key)
                || CLAIM_MARKS.contains(&key)
                || CLAIM_PROVISIONER.contains(&key)
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
    /// The path on a node that it names, as [`plain_path`] has it.
    Path(Text),
    /// A path on a node, and no LocalVolume, so that somebody else made it: on nodes with this value of the hostname label.
    ForeignOn(Text),
    /// The same, on nodes that are told by something else, or on any.
    ForeignAnywhere,
    /// A claim, and a label by which it names nodes that reach it: key and value.
    AsksFor(Text, Text),
}

/// The values of the hostname label of which a node must have one to reach a volume; nothing where something else counts.
/// Each of the terms lets a node reach it.
pub(super) fn hostnames(volume: &Volume) -> Option<Vec<Text>> {
    let required = volume.spec.node_affinity.as_ref()?.required.as_ref()?;
    let of_term = |term: &NodeSelectorTerm| {
        let wanted =
            term.match_expressions.iter().flatten().find(|it| it.key == HOSTNAME_LABEL && it.operator == "In")?;
        wanted.values.clone()
    };
    let values: Option<Vec<Vec<String>>> = required.node_selector_terms.iter().map(of_term).collect();
    let mut values: Vec<Text> = values?.into_iter().flatten().map(|value| value.as_str().into()).collect();
    values.sort_unstable();
    values.dedup();
    Some(values)
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
        let owner = match &self.spec.claim_ref {
            None => VolumeIndex::FreeOfClass(self.class_name().into()),
            Some(reference) => VolumeIndex::Claim(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            ),
        };
        let path = self.path().map(|path| VolumeIndex::Path(plain_path(path).into()));
        let is_foreign = path.is_some() && self.metadata.annotation(LOCAL_VOLUME).is_none();
        let foreign = match hostnames(self) {
            _ if !is_foreign => Vec::new(),
            Some(values) => values.into_iter().map(VolumeIndex::ForeignOn).collect(),
            None => vec![VolumeIndex::ForeignAnywhere],
        };
        let labels = if self.spec.claim_ref.is_some() { place_labels(self) } else { Vec::new() };
        let labels = labels.into_iter().map(|(key, value)| VolumeIndex::AsksFor(key.into(), value.into()));
        std::iter::once(owner).chain(path).chain(foreign).chain(labels).collect()
    }
}

impl Cached for Class {
    type Index = ();

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| {
            key == VOLUME_TYPE
                || NODE_POLICIES.contains(&key)
                || DEFAULT_CLASS.contains(&key)
                || CLASS_PARAMETERS.contains(&key)
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
        trim(&mut self.metadata, texts, |key| key == MIGRATED_PLUGINS);
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

    /// A hundred labels of the usual length; of its annotations three are kept. Any label may be what anti-affinity selects by.
    const MOST_KEPT: usize = 16 << 10;

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |key| key == NAMESPACE_NODE_SELECTOR || NODE_POLICIES.contains(&key));
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for Pod {
    /// Namespace and name of a claim that the Pod declares.
    type Index = (Text, Text);

    /// Twice what the most claims that are looked at take, with a mount for each.
    const MOST_KEPT: usize = 128 << 10;

    fn namespace_of((namespace, _): &Self::Index) -> Option<&Text> {
        Some(namespace)
    }

    fn trim(&mut self, texts: &mut Texts) {
        // The owner's kind tells who makes its claims anew.
        let owners = controllers(&mut self.metadata);
        trim(&mut self.metadata, texts, |key| key == MIRROR_POD || key == IGNORE);
        self.metadata.owner_references = owners.map(|owners| owners.into_iter().map(kind_only).collect());
        // Policies select Pods by label, and are about those that name a node.
        if self.pinned_node().is_none() {
            self.metadata.labels = None;
        }
        for constraint in &mut self.spec.topology_spread_constraints {
            (constraint.label_selector, constraint.match_label_keys) = (None, None);
        }
        self.spec.volumes.retain(PodVolume::is_claim);
        let volumes: HashSet<Text> = self.spec.volumes.iter().map(|volume| volume.name.clone()).collect();
        let PodSpec { init_containers, containers, ephemeral_containers, .. } = &mut self.spec;
        for list in [init_containers, containers, ephemeral_containers] {
            for container in list.iter_mut() {
                container.volume_mounts.retain(|mount| volumes.contains(&mount.name));
                container.volume_devices.retain(|device| volumes.contains(&device.name));
                container.resources.requests.retain(is_extended);
                container.resources.limits.retain(is_extended);
                for mount in container.volume_mounts.iter_mut().chain(&mut container.volume_devices) {
                    texts.share(&mut mount.name);
                }
            }
            list.retain(|container| !container.is_empty());
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
        self.claim_names().map(|name| (self.namespace().into(), name)).collect()
    }
}

impl Cached for PodOnNode {
    type Index = AntiAffinityIndex;

    /// The names of the claims that are kept, and terms for some twenty kinds of neighbours; most Pods have one, which takes half
    /// a KiB. Of a larger one it is kept where it keeps others away, and whom is not known.
    const MOST_KEPT: usize = 16 << 10;

    fn is_kept(&self) -> bool {
        self.keeps_others_away() || self.uses_claims()
    }

    fn cut(&mut self) {
        Self::cut(self);
    }

    fn trim(&mut self, texts: &mut Texts) {
        // The owner's kind tells whether another is made in its place. Nobody bounds what a tenant writes there, nor the names of
        // claims, and one Pod that is too large to be kept would leave it unknown for all of them whom they keep away.
        let owners = controllers(&mut self.metadata);
        trim(&mut self.metadata, texts, |_| false);
        self.metadata.owner_references = owners.map(|owners| owners.into_iter().map(kind_only).collect());
        self.metadata.labels = None;
        // Nothing is written to Pods, and its age decides nothing.
        self.metadata.resource_version = None;
        self.metadata.creation_timestamp = None;
        self.metadata.deletion_timestamp = None;
        self.status = PodStatus::default();
        texts.share_some(&mut self.spec.node_name);
        self.spec.volumes.retain(|volume| {
            let names_claim = volume.persistent_volume_claim.as_ref().is_none_or(|it| is_object_name(&it.claim_name));
            volume.is_claim() && names_claim && is_object_name(&volume.name)
        });
        self.spec.volumes.truncate(MOST_CLAIMS_KEPT);
        self.spec.volumes.shrink_to_fit();
        self.spec.volumes.iter_mut().for_each(|volume| texts.share(&mut volume.name));
        let terms = self.spec.affinity.iter_mut().filter_map(|affinity| affinity.pod_anti_affinity.as_mut());
        for term in terms.flat_map(|terms| &mut terms.required) {
            texts.share(&mut term.topology_key);
            term.namespaces.iter_mut().for_each(|namespace| texts.share(namespace));
        }
    }

    /// Those of a wider topology than a node are at most one a topology for each group of Pods that keep each other away,
    /// so that few of a namespace have an index.
    fn indexes(&self) -> Vec<AntiAffinityIndex> {
        anti_affinity_of(self)
    }
}

impl Cached for ResourceClaim {
    type Index = ();

    /// Reserved for as many Pods as it can be, each by a UID, and a node selector.
    const MOST_KEPT: usize = 32 << 10;
    const MAY_BE_MISSING: bool = true;

    fn trim(&mut self, texts: &mut Texts) {
        // The owner tells whether it is a Pod's own.
        let owners = controllers(&mut self.metadata);
        trim(&mut self.metadata, texts, |_| false);
        self.metadata.labels = None;
        self.metadata.resource_version = None;
        self.metadata.owner_references = owners;
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

impl Cached for ResourceClaimTemplate {
    type Index = ();

    const MAY_BE_MISSING: bool = true;

    fn trim(&mut self, texts: &mut Texts) {
        trim(&mut self.metadata, texts, |_| false);
        self.metadata.labels = None;
        self.metadata.resource_version = None;
    }

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

/// By what LocalVolumes and reports are found that a claim of this namespace and name may take a directory back from. No UID and
/// no name of a volume has a slash.
#[must_use]
pub(crate) fn same_claim(namespace: &str, name: &str) -> Text {
    format!("{namespace}/{name}").into()
}

impl Cached for Kept<LocalVolume> {
    /// UID of the claim, and name of the volume; of one whose directory stays in its place also the claim's name.
    type Index = Text;

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<Text> {
        let spec = &self.spec;
        let volume = spec.persistent_volume.as_ref().map(|seen| seen.name.as_str().into());
        let stays = spec.on_delete == OnDelete::KeepPath;
        let claim = stays.then(|| same_claim(&spec.claim.namespace, &spec.claim.name));
        std::iter::once(spec.claim.uid.as_str().into()).chain(volume).chain(claim).collect()
    }
}

/// The index of the disks of a node.
pub(crate) fn disk_of_node(node: &str) -> Text {
    format!("node {node}").into()
}

/// The index of the disks with a mark.
pub(crate) fn disk_with_mark(mark: &str) -> Text {
    format!("mark {mark}").into()
}

/// The index of the disks whose volume another provisioner has made.
pub(crate) fn disk_of_volume(volume: &str) -> Text {
    format!("volume {volume}").into()
}

impl Cached for Kept<LocalDisk> {
    /// Its node, the volume that was taken over with it, and each mark that tells it from others.
    type Index = Text;

    /// An earlier version did not bring the definition.
    const MAY_BE_MISSING: bool = true;

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<Text> {
        let marks = self.spec.identity.marks().map(|mark| disk_with_mark(&mark));
        let adopted = self.spec.adopted_volume.as_deref().map(disk_of_volume);
        std::iter::once(disk_of_node(&self.spec.node_name)).chain(adopted).chain(marks).collect()
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
    /// Namespaces and names of the claims that have left a directory there.
    type Index = Text;

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<Text> {
        let kept = self.status.iter().flat_map(|status| &status.kept);
        let claims: BTreeSet<Text> = kept.map(|it| same_claim(&it.namespace, &it.name)).collect();
        claims.into_iter().collect()
    }
}

impl Cached for Kept<PinPolicy> {
    type Index = ();

    const MAY_BE_MISSING: bool = true;

    fn trim(&mut self, _: &mut Texts) {}

    fn indexes(&self) -> Vec<()> {
        Vec::new()
    }
}

/// Only extended resources decide anything; they alone carry a domain.
fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}

#[cfg(test)]
mod tests;
