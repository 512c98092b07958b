//! The PersistentVolume of a directory, and the way back from it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::parameters::ClassParameters;
use super::{PROVISIONED_BY, VOLUME_FINALIZER};
use crate::crd::{
    ClaimIdentity, FINALIZER, LocalVolume, LocalVolumeSpec, OnDelete, Origin, Reclaim, VolumePath, VolumeType,
};
use crate::model::{Claim, Class, Text, Volume};

/// Annotation of a volume: its LocalVolume.
pub const LOCAL_VOLUME: &str = "latebind.dev/local-volume";
/// Annotation of a volume: the name of its Node.
pub const NODE: &str = "latebind.dev/node";
/// Annotation of a volume: the UID of its Node.
pub const NODE_UID: &str = "latebind.dev/node-uid";
const POOL: &str = "latebind.dev/pool";
const BASE: &str = "latebind.dev/base";
const REQUIRE_MOUNT: &str = "latebind.dev/require-mount";
const ON_DELETE: &str = "latebind.dev/on-delete";

/// All that a volume is made from.
#[derive(Clone, Copy, Debug)]
pub struct VolumeOrder<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// Its class.
    pub class: &'a Class,
    /// The class's parameters.
    pub parameters: &'a ClassParameters,
    /// The directory.
    pub local: &'a LocalVolume,
    /// The value of the class's affinity label on the node.
    pub affinity_value: &'a str,
}

/// The name of a claim's volume: one claim, one volume, however often it is tried.
#[must_use]
pub fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// The volume. It agrees with the claim in every field that binding compares.
/// Source: `pkg/controller/volume/persistentvolume/pv_controller.go`, `component-helpers/storage/volume`, `FindMatchingVolume`.
#[must_use]
pub fn build(order: &VolumeOrder<'_>) -> PersistentVolume {
    let VolumeOrder { claim, class, parameters, local, .. } = order;
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let path = format!("{}/{}", local.spec.base, local.spec.path);
    let (mut local_source, mut host_path) = (None, None);
    match parameters.volume_type {
        VolumeType::Local => local_source = Some(LocalVolumeSource { path, fs_type: None }),
        // The directory is there; should it vanish, an empty one must not take its place unseen.
        VolumeType::HostPath => host_path = Some(HostPathVolumeSource { path, type_: Some("Directory".to_owned()) }),
    }
    let delete = parameters.reclaim == Reclaim::Delete;
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(uid)),
            annotations: Some(annotations(order)),
            finalizers: delete.then(|| vec![VOLUME_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(claim.spec.access_modes.iter().map(String::from).collect()),
            capacity: Some(BTreeMap::from([("storage".to_owned(), Quantity(claim.request().to_string()))])),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: Some(claim.name().to_owned()),
                namespace: Some(claim.namespace().to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            host_path,
            local: local_source,
            mount_options: (!parameters.mount_options.is_empty()).then(|| parameters.mount_options.clone()),
            node_affinity: Some(affinity(&parameters.affinity_key, order.affinity_value)),
            persistent_volume_reclaim_policy: Some(if delete { "Delete" } else { "Retain" }.to_owned()),
            storage_class_name: Some(class.name().to_owned()),
            volume_attributes_class_name: claim.spec.volume_attributes_class_name.as_ref().map(String::from),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

fn annotations(order: &VolumeOrder<'_>) -> BTreeMap<String, String> {
    let spec = &order.local.spec;
    let mut annotations = BTreeMap::from([
        (PROVISIONED_BY, order.class.provisioner.as_str()),
        (LOCAL_VOLUME, order.local.name()),
        (NODE, spec.node_name.as_str()),
        (NODE_UID, spec.node_uid.as_str()),
        (POOL, spec.pool.as_str()),
        (BASE, spec.base.as_str()),
    ]);
    if spec.require_mount {
        annotations.insert(REQUIRE_MOUNT, "true");
    }
    if spec.on_delete == OnDelete::Archive {
        annotations.insert(ON_DELETE, "archive");
    }
    annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn affinity(key: &str, value: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// The LocalVolume of a claim on a node, before it exists.
#[must_use]
pub fn local_volume(spec: LocalVolumeSpec) -> LocalVolume {
    let mut made = LocalVolume::new(&LocalVolume::name_for(&spec.claim.uid, &spec.node_name), spec);
    made.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    made
}

/// The LocalVolume of a volume of ours, made again: whoever deleted it did not order the data to be deleted.
/// `None` when the volume is not one of ours, or does not say enough.
#[must_use]
pub fn recovered(volume: &Volume) -> Option<LocalVolume> {
    let annotation = |key: &str| volume.metadata.annotation(key).map(str::to_owned);
    let base = annotation(BASE)?;
    let source = volume.spec.local.as_ref().or(volume.spec.host_path.as_ref())?;
    let path = VolumePath::parse(source.path.strip_prefix(base.as_str())?.strip_prefix('/')?).ok()?;
    let reference = volume.spec.claim_ref.as_ref()?;
    // The volume may have been handed on to another claim; the directory stays that of the first.
    let uid = volume.name().strip_prefix("pvc-")?.to_owned();
    let made = local_volume(LocalVolumeSpec {
        node_name: annotation(NODE)?,
        node_uid: annotation(NODE_UID).unwrap_or_default(),
        pool: annotation(POOL).unwrap_or_default(),
        path: path.to_string(),
        base,
        require_mount: annotation(REQUIRE_MOUNT).is_some(),
        bytes: i64::try_from(volume.capacity().units()).unwrap_or(i64::MAX),
        claim: ClaimIdentity {
            namespace: Text::or_empty(reference.namespace.as_ref()),
            name: Text::or_empty(reference.name.as_ref()),
            uid,
        },
        origin: Origin::Recovered,
        on_delete: if annotation(ON_DELETE).is_some() { OnDelete::Archive } else { OnDelete::Delete },
        reclaim: reclaim(volume),
        ..LocalVolumeSpec::default()
    });
    (annotation(LOCAL_VOLUME)? == made.name()).then_some(made)
}

/// The reclaim policy of a volume. Whatever is not `Delete` keeps the data.
#[must_use]
pub fn reclaim(volume: &Volume) -> Reclaim {
    match volume.spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") => Reclaim::Delete,
        _ => Reclaim::Retain,
    }
}

/// True when the volume is the one of this directory.
#[must_use]
pub fn serves(volume: &Volume, local: &LocalVolume) -> bool {
    let annotation = volume.metadata.annotation(LOCAL_VOLUME);
    let source = volume.spec.local.as_ref().or(volume.spec.host_path.as_ref());
    match annotation {
        Some(name) => name == local.name(),
        None => source.is_some_and(|source| source.path == format!("{}/{}", local.spec.base, local.spec.path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::binding::selector::volume_reachable;
    use crate::model::Node;

    fn built(parameters: &Value, change: impl FnOnce(&mut Class)) -> (Value, LocalVolume) {
        let claim: Claim = serde_json::from_value(json!({
            "metadata": { "name": "cart", "namespace": "shop", "uid": "u-1" },
            "spec": { "accessModes": ["ReadWriteOncePod"], "volumeAttributesClassName": "gold",
                "resources": { "requests": { "storage": "1500M" } } },
        }))
        .unwrap();
        let mut class: Class = serde_json::from_value(json!({
            "metadata": { "name": "local" }, "provisioner": "local.latebind.dev", "parameters": parameters,
        }))
        .unwrap();
        change(&mut class);
        let parameters = ClassParameters::of(&class).unwrap();
        let local = local_volume(LocalVolumeSpec {
            node_name: "n-1".to_owned(),
            node_uid: "nu-1".to_owned(),
            pool: "pool".to_owned(),
            base: "/mnt/a".to_owned(),
            path: "pvc-u-1_shop_cart".to_owned(),
            require_mount: true,
            bytes: 1_500_000_000,
            claim: ClaimIdentity { namespace: "shop".to_owned(), name: "cart".to_owned(), uid: "u-1".to_owned() },
            reclaim: parameters.reclaim,
            on_delete: parameters.on_delete,
            ..LocalVolumeSpec::default()
        });
        let order = VolumeOrder {
            claim: &claim,
            class: &class,
            parameters: &parameters,
            local: &local,
            affinity_value: "host-1",
        };
        (serde_json::to_value(build(&order)).unwrap(), local)
    }

    #[test]
    fn every_field_that_binding_compares_agrees_with_the_claim() {
        let (volume, local) = built(&json!({}), |class| class.mount_options = vec!["noatime".to_owned()]);
        assert_eq!(volume["metadata"]["name"], "pvc-u-1");
        assert_eq!(volume["metadata"]["finalizers"], json!([VOLUME_FINALIZER]));
        assert_eq!(volume["metadata"]["annotations"][PROVISIONED_BY], "local.latebind.dev");
        assert_eq!(
            volume["spec"],
            json!({
                "accessModes": ["ReadWriteOncePod"],
                "capacity": { "storage": "1500000000" },
                "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "cart", "namespace": "shop", "uid": "u-1" },
                "local": { "path": "/mnt/a/pvc-u-1_shop_cart" },
                "mountOptions": ["noatime"],
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": ["host-1"] }] }] } },
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "local",
                "volumeAttributesClassName": "gold",
                "volumeMode": "Filesystem",
            })
        );
        let read: Volume = serde_json::from_value(volume).unwrap();
        let node: Node = serde_json::from_value(
            json!({ "metadata": { "name": "n-1", "labels": { "kubernetes.io/hostname": "host-1" } } }),
        )
        .unwrap();
        assert!(volume_reachable(&read, &node));
        assert!(serves(&read, &local));
    }

    #[test]
    fn host_path_and_retain_are_as_the_class_says() {
        let (volume, _) = built(&json!({ "type": "hostPath", "nodeAffinityKey": "disk" }), |class| {
            class.reclaim_policy = Some("Retain".to_owned());
        });
        assert_eq!(volume["spec"]["hostPath"], json!({ "path": "/mnt/a/pvc-u-1_shop_cart", "type": "Directory" }));
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(volume["metadata"]["finalizers"], Value::Null);
        let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0]["key"], "disk");
    }

    #[test]
    fn a_lost_local_volume_is_made_again_as_it_was() {
        for parameters in [json!({}), json!({ "onDelete": "archive", "type": "hostPath" })] {
            let (volume, mut local) = built(&parameters, |_| {});
            local.spec.origin = Origin::Recovered;
            let read: Volume = serde_json::from_value(volume.clone()).unwrap();
            assert_eq!(recovered(&read), Some(local));
            let mut foreign = volume;
            foreign["spec"]["local"] = json!({ "path": "/etc" });
            foreign["spec"]["hostPath"] = Value::Null;
            assert_eq!(recovered(&serde_json::from_value(foreign).unwrap()), None);
        }
    }
}
