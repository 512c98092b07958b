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
    ClaimIdentity, DrainPolicy, FINALIZER, LocalVolume, LocalVolumeSpec, OnDelete, Origin, Reclaim, SeenVolume,
    VolumePath, VolumeType,
};
use crate::model::{Claim, Class, DRAIN_POLICY, LOCAL_VOLUME, ON_DELETE, Text, Volume, rest_beneath};

/// Annotation of a volume: the name of its Node.
pub const NODE: &str = "latebind.dev/node";
/// Annotation of a volume: the UID of its Node.
pub const NODE_UID: &str = "latebind.dev/node-uid";
const POOL: &str = "latebind.dev/pool";
const BASE: &str = "latebind.dev/base";
const REQUIRE_MOUNT: &str = "latebind.dev/require-mount";
const SHARED: &str = "latebind.dev/shared-file-system";
const KEEP_PATH: &str = "keep-path";

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
    /// The value of the class's affinity label on the node; nothing for a volume that every node reaches.
    pub affinity_value: Option<&'a str>,
    /// The drain policy of its pool, if that is known and has one.
    pub drain_policy: Option<DrainPolicy>,
}

/// The name of a claim's volume: one claim, one volume, however often it is tried.
#[must_use]
pub fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// The volume. It agrees with the claim in every field that binding compares.
/// Source: `pkg/controller/volume/persistentvolume/pv_controller.go`, `component-helpers/storage/volume`, `FindMatchingVolume`.
#[must_use]
pub fn persistent_volume(order: &VolumeOrder<'_>) -> PersistentVolume {
    let VolumeOrder { claim, class, parameters, local, .. } = order;
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let path = local.directory();
    let (mut local_source, mut host_path) = (None, None);
    match parameters.volume_type {
        VolumeType::Local => local_source = Some(LocalVolumeSource { path, fs_type: None }),
        VolumeType::HostPath => {
            let type_ = Some(parameters.host_path_type.as_str().to_owned());
            host_path = Some(HostPathVolumeSource { path, type_ });
        }
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
            node_affinity: order.affinity_value.map(|value| affinity(&parameters.affinity_key, value)),
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
    if spec.shared_file_system {
        annotations.insert(SHARED, "true");
    }
    if let Some(policy) = order.drain_policy {
        annotations.insert(DRAIN_POLICY, policy.as_str());
    }
    match spec.on_delete {
        OnDelete::Delete => {}
        OnDelete::Archive => drop(annotations.insert(ON_DELETE, "archive")),
        OnDelete::KeepPath => drop(annotations.insert(ON_DELETE, KEEP_PATH)),
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
pub fn local_volume_from(volume: &Volume) -> Option<LocalVolume> {
    let annotation = |key: &str| volume.metadata.annotation(key).map(str::to_owned);
    let base = annotation(BASE)?;
    let source = volume.spec.local.as_ref().or(volume.spec.host_path.as_ref())?;
    let path = VolumePath::parse(rest_beneath(&source.path, &base)?).ok()?;
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
        shared_file_system: annotation(SHARED).is_some(),
        bytes: i64::try_from(volume.capacity().units()).unwrap_or(i64::MAX),
        claim: ClaimIdentity {
            namespace: Text::or_empty(reference.namespace.as_ref()),
            name: Text::or_empty(reference.name.as_ref()),
            uid,
        },
        origin: Origin::Recovered,
        on_delete: match annotation(ON_DELETE).as_deref() {
            None => OnDelete::Delete,
            Some(KEEP_PATH) => OnDelete::KeepPath,
            // A later version may keep it in another way.
            Some(_) => OnDelete::Archive,
        },
        reclaim: reclaim(volume),
        persistent_volume: Some(seen(volume)),
        ..LocalVolumeSpec::default()
    });
    (annotation(LOCAL_VOLUME)? == made.name()).then_some(made)
}

/// The volume as the API server showed it, to be recorded.
#[must_use]
pub fn seen(volume: &Volume) -> SeenVolume {
    SeenVolume {
        name: volume.name().to_owned(),
        uid: Text::or_empty(volume.metadata.uid.as_ref()),
        resource_version: Text::or_empty(volume.metadata.resource_version.as_ref()),
        reclaim_policy: reclaim(volume),
        claim_uid: volume.claim_uid().unwrap_or_default().to_owned(),
    }
}

/// The reclaim policy of a volume. Whatever is not `Delete` keeps the data.
#[must_use]
pub fn reclaim(volume: &Volume) -> Reclaim {
    if volume.is_deleted_on_release() { Reclaim::Delete } else { Reclaim::Retain }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Node;
    use crate::model::selector::volume_reachable;

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
            shared_file_system: parameters.shared_file_system,
            reclaim: parameters.reclaim,
            on_delete: parameters.on_delete,
            ..LocalVolumeSpec::default()
        });
        let order = VolumeOrder {
            claim: &claim,
            class: &class,
            parameters: &parameters,
            local: &local,
            affinity_value: (!parameters.shared_file_system).then_some("host-1"),
            drain_policy: Some(DrainPolicy::Wait),
        };
        (serde_json::to_value(persistent_volume(&order)).unwrap(), local)
    }

    #[test]
    fn every_field_that_binding_compares_agrees_with_the_claim() {
        let (volume, local) = built(&json!({}), |class| class.mount_options = vec!["noatime".to_owned()]);
        assert_eq!(volume["metadata"]["name"], "pvc-u-1");
        assert_eq!(volume["metadata"]["finalizers"], json!([VOLUME_FINALIZER]));
        assert_eq!(volume["metadata"]["annotations"][PROVISIONED_BY], "local.latebind.dev");
        assert_eq!(volume["metadata"]["annotations"][DRAIN_POLICY], "Wait", "as its pool says");
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
        let set: crate::volumes::VolumeSet = [read].into_iter().collect();
        assert_eq!(set.of(&local).len(), 1);
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
    fn a_volume_of_a_shared_file_system_is_tied_to_no_node() {
        let (volume, _) = built(&json!({ "sharedFileSystem": "true" }), |_| {});
        assert_eq!(volume["spec"]["nodeAffinity"], Value::Null);
        assert_eq!(volume["spec"]["hostPath"], json!({ "path": "/mnt/a/pvc-u-1_shop_cart", "type": "Directory" }));
        assert_eq!(volume["metadata"]["annotations"][NODE], "n-1", "whose agent makes and removes the directory");
    }

    #[test]
    fn a_kubelet_with_a_root_of_its_own_is_asked_for_less() {
        for (given, expected) in [("Directory", "Directory"), ("DirectoryOrCreate", "DirectoryOrCreate"), ("", "")] {
            let (volume, local) = built(&json!({ "type": "hostPath", "hostPathType": given }), |_| {});
            assert_eq!(volume["spec"]["hostPath"]["type"], expected);
            let read: Volume = serde_json::from_value(volume).unwrap();
            assert_eq!(local_volume_from(&read).map(|found| found.spec.path), Some(local.spec.path));
        }
    }

    #[test]
    fn a_lost_local_volume_is_made_again_as_it_was() {
        for parameters in [
            json!({}),
            json!({ "onDelete": "archive", "type": "hostPath" }),
            json!({ "onDelete": "keep-path" }),
            json!({ "sharedFileSystem": "true" }),
        ] {
            let (volume, mut local) = built(&parameters, |_| {});
            local.spec.origin = Origin::Recovered;
            let read: Volume = serde_json::from_value(volume.clone()).unwrap();
            local.spec.persistent_volume = Some(seen(&read));
            assert_eq!(local_volume_from(&read), Some(local));
            let mut foreign = volume;
            foreign["spec"]["local"] = json!({ "path": "/etc" });
            foreign["spec"]["hostPath"] = Value::Null;
            assert_eq!(local_volume_from(&serde_json::from_value(foreign).unwrap()), None);
        }
    }
}
