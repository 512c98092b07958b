//! The volume of a disk.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeSpec,
    VolumeNodeAffinity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{DISK_PROVISIONER, LOCAL_DISK};
use crate::crd::{DISK_FINALIZER, DiskKind, LocalDisk, VolumeMode, rounded_capacity};
use crate::model::{Class, HOSTNAME_LABEL, Node, PROVISIONED_BY, Volume};
use crate::volumes::{NODE, NODE_UID};

/// Annotation of a volume: what tells its disk from others.
const IDENTITY: &str = "latebind.dev/disk-identity";

/// The volume of a disk that is at its place.
///
/// # Errors
/// When the class or the Node does not permit one; the text says what to do.
pub fn disk_volume(disk: &LocalDisk, class: &Class, node: &Node) -> Result<PersistentVolume, String> {
    let spec = &disk.spec;
    let hostname = node.metadata.label(HOSTNAME_LABEL).ok_or_else(|| {
        format!("node {} has no label {HOSTNAME_LABEL}, by which volumes are tied to it: set the label", node.name())
    })?;
    let reclaim = match class.reclaim_policy.as_deref() {
        None | Some("Delete") => "Delete",
        Some("Retain") => "Retain",
        Some(other) => {
            return Err(format!("class {} has reclaim policy {other}: use Delete or Retain", class.name()));
        }
    };
    let bytes = disk.status.as_ref().map_or(0, |status| status.capacity_bytes);
    if bytes <= 0 {
        return Err("its size is not known".to_owned());
    }
    let options = spec.volume_mode == VolumeMode::Filesystem && !class.mount_options.is_empty();
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(disk.name().to_owned()),
            annotations: Some(annotations(disk, node)),
            labels: Some(labels(disk, node)).filter(|labels| !labels.is_empty()),
            // Nobody takes the volume away before it is known what becomes of the data.
            finalizers: Some(vec![DISK_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec![spec.access_mode.as_str().to_owned()]),
            capacity: Some(BTreeMap::from([("storage".to_owned(), Quantity(quantity(rounded_capacity(bytes))))])),
            local: Some(LocalVolumeSource { path: spec.path.clone(), fs_type: fs_type(disk) }),
            mount_options: options.then(|| class.mount_options.clone()),
            node_affinity: Some(affinity(disk, hostname)),
            persistent_volume_reclaim_policy: Some(reclaim.to_owned()),
            storage_class_name: Some(spec.storage_class_name.clone()),
            volume_mode: Some(spec.volume_mode.as_str().to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// As Kubernetes writes it: in the largest unit of which it is a whole number.
#[must_use]
pub fn quantity(bytes: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match UNITS.into_iter().find(|(_, one)| bytes >= *one && bytes % one == 0) {
        Some((unit, one)) => format!("{}{unit}", bytes / one),
        None => bytes.to_string(),
    }
}

/// What is mounted has a file system already.
fn fs_type(disk: &LocalDisk) -> Option<String> {
    let spec = &disk.spec;
    spec.fs_type.clone().filter(|_| spec.kind == DiskKind::Device && spec.volume_mode == VolumeMode::Filesystem)
}

fn annotations(disk: &LocalDisk, node: &Node) -> BTreeMap<String, String> {
    let marks: Vec<String> = disk.spec.identity.marks().collect();
    let mut annotations = BTreeMap::from([
        (PROVISIONED_BY.to_owned(), DISK_PROVISIONER.to_owned()),
        (LOCAL_DISK.to_owned(), disk.name().to_owned()),
        (NODE.to_owned(), node.name().to_owned()),
        (NODE_UID.to_owned(), node.metadata.uid.as_deref().unwrap_or_default().to_owned()),
    ]);
    if !marks.is_empty() {
        annotations.insert(IDENTITY.to_owned(), marks.join(","));
    }
    annotations
}

/// Labels of the Node, and over them those of the rule.
fn labels(disk: &LocalDisk, node: &Node) -> BTreeMap<String, String> {
    let of_node =
        disk.spec.node_labels.iter().filter_map(|key| Some((key.clone(), node.metadata.label(key)?.to_owned())));
    of_node.chain(disk.spec.labels.clone()).collect()
}

/// The node on which it was found, or any of those that the rule names.
fn affinity(disk: &LocalDisk, hostname: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME_LABEL.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.to_owned()]),
    };
    let here = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    let terms = std::iter::once(here).chain(disk.spec.selector.clone()).collect();
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: terms }) }
}

/// What a volume that nobody has claimed is to have instead of what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeChange {
    /// Its size in bytes.
    pub bytes: Option<i64>,
    /// Labels to set; one without a value goes.
    pub labels: BTreeMap<String, Option<String>>,
}

/// How a volume that nobody has claimed differs from what the disk and its Node are now. Nothing is known of a disk whose size
/// was not measured.
#[must_use]
pub fn volume_change(disk: &LocalDisk, volume: &Volume, node: &Node) -> Option<VolumeChange> {
    let measured = disk.status.as_ref().map_or(0, |status| status.capacity_bytes);
    let bytes = Some(rounded_capacity(measured))
        .filter(|bytes| measured > 0 && volume.capacity().units() != i128::from(*bytes));
    let wanted = labels(disk, node);
    let mut changes: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (key, value) in &wanted {
        if volume.metadata.label(key) != Some(value) {
            changes.insert(key.clone(), Some(value.clone()));
        }
    }
    for key in &disk.spec.node_labels {
        if !wanted.contains_key(key) && volume.metadata.label(key).is_some() {
            changes.insert(key.clone(), None);
        }
    }
    let change = VolumeChange { bytes, labels: changes };
    (change != VolumeChange::default()).then_some(change)
}
