//! Volumes that another provisioner made, and that are to be deleted.

use std::sync::Arc;

use kube::ResourceExt;

use super::persistent_volume::{local_volume, seen};
use crate::crd::{
    ClaimIdentity, Kept, LocalPool, LocalVolume, LocalVolumeSpec, Origin, PathError, Reclaim, VolumePath,
};
use crate::model::selector::volume_reachable;
use crate::model::{Node, Relation, Text, VOLUME_NODE, Volume, plain_path, rest_beneath};

/// Why a volume of another provisioner is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptionError {
    /// Nothing says on which node it is.
    #[error("no node, or more than one, fits this volume's node affinity: its directory is not looked for")]
    Node,
    /// Neither a local nor a hostPath volume.
    #[error("this volume has no path")]
    NoPath,
    /// Not beneath a path of a pool.
    #[error("{0} is not beneath a path that a LocalPool offers on node {1}: import the old configuration first")]
    Outside(String, String),
    /// Other volumes are to lie in it.
    #[error("{0} is, or holds, a path that a LocalPool offers on node {1}: it is no directory of one volume")]
    Base(String, String),
    /// A path that leads elsewhere than down.
    #[error("the path of this volume is left alone: {0}")]
    Path(#[from] PathError),
    /// It was never bound.
    #[error("this volume has no claim")]
    NoClaim,
}

/// The order to take the directory of such a volume away. It still has to be decided whether it may go.
///
/// # Errors
/// When node or path are in doubt.
pub fn adoption(
    volume: &Volume,
    nodes: &[Arc<Node>],
    pools: &[Arc<Kept<LocalPool>>],
) -> Result<LocalVolume, AdoptionError> {
    let source = volume.spec.local.as_ref().or(volume.spec.host_path.as_ref()).ok_or(AdoptionError::NoPath)?;
    let node = node_of(volume, nodes).ok_or(AdoptionError::Node)?;
    let offered = || pools.iter().flat_map(|pool| pool.spec.paths_on(node).iter().map(move |path| (pool, path)));
    let plain = plain_path(&source.path);
    if offered().any(|(_, path)| matches!(Relation::of(&plain, &path.path), Relation::Same | Relation::Around)) {
        return Err(AdoptionError::Base(source.path.to_string(), node.name().to_owned()));
    }
    let beneath = offered().filter_map(|(pool, path)| {
        let rest = rest_beneath(&source.path, &path.path)?;
        Some((pool, path, rest.trim_end_matches('/')))
    });
    let outside = || AdoptionError::Outside(source.path.to_string(), node.name().to_owned());
    let (pool, path, rest) = beneath.max_by_key(|(_, path, _)| path.path.len()).ok_or_else(outside)?;
    let reference = volume.spec.claim_ref.as_ref().ok_or(AdoptionError::NoClaim)?;
    Ok(local_volume(LocalVolumeSpec {
        node_name: node.name().to_owned(),
        node_uid: Text::or_empty(node.metadata.uid.as_ref()),
        pool: pool.name_any(),
        base: path.path.clone(),
        path: VolumePath::parse(rest)?.to_string(),
        require_mount: path.require_mount,
        bytes: i64::try_from(volume.capacity().units()).unwrap_or(i64::MAX),
        claim: ClaimIdentity {
            namespace: Text::or_empty(reference.namespace.as_ref()),
            name: Text::or_empty(reference.name.as_ref()),
            uid: reference.uid.as_ref().map(String::from).ok_or(AdoptionError::NoClaim)?,
        },
        origin: Origin::Adopted,
        reclaim: Reclaim::Delete,
        persistent_volume: Some(seen(volume)),
        ..LocalVolumeSpec::default()
    }))
}

/// The volume's node: by the name that its maker wrote down, else the one node that its affinity matches by labels, else
/// the one whose name stands where a label's value should be.
fn node_of<'a>(volume: &Volume, nodes: &'a [Arc<Node>]) -> Option<&'a Node> {
    let by_name = |name: &str| nodes.iter().find(|node| node.name() == name).map(AsRef::as_ref);
    // It is there or it is gone; another node that happens to fit is not the one.
    if let Some(name) = volume.metadata.annotation(VOLUME_NODE) {
        return by_name(name);
    }
    // One without affinity is on any node, which says where it is only while there is one.
    let Some(required) = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) else {
        let [only] = nodes else { return None };
        return Some(only);
    };
    let mut reachable = nodes.iter().filter(|node| volume_reachable(volume, node));
    match (reachable.next(), reachable.next()) {
        (Some(node), None) => Some(node),
        (Some(_), Some(_)) => None,
        (None, _) => {
            let [term] = required.node_selector_terms.as_slice() else { return None };
            let [only] = term.match_expressions.as_deref()? else { return None };
            match only.values.as_deref()? {
                [value] if only.operator == "In" => by_name(value),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, hostname: &str) -> Arc<Node> {
        let labels = json!({ "kubernetes.io/hostname": hostname });
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": name, "uid": name, "labels": labels } })).unwrap(),
        )
    }

    fn volume(path: &str, annotations: &Value, hostname: &str) -> Volume {
        serde_json::from_value(json!({
            "metadata": { "name": "pvc-u", "annotations": annotations },
            "spec": { "hostPath": { "path": path }, "claimRef": { "namespace": "n", "name": "c", "uid": "u" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [hostname] }] }] } } },
        }))
        .unwrap()
    }

    #[test]
    fn without_affinity_the_only_node_is_the_one() {
        let mut old = volume("/opt/lpp/pvc-u", &json!({}), "x");
        old.spec.node_affinity = None;
        let one = [node("n-1", "host-1")];
        let two = [node("n-1", "host-1"), node("n-2", "host-2")];
        assert_eq!(adoption(&old, &one, &pools()).unwrap().spec.node_name, "n-1");
        assert_eq!(adoption(&old, &two, &pools()), Err(AdoptionError::Node));
        let named = volume("/opt/lpp/pvc-u", &json!({ VOLUME_NODE: "gone" }), "x");
        assert_eq!(adoption(&named, &one, &pools()), Err(AdoptionError::Node), "its node is known, and gone");
    }

    fn pools() -> Vec<Arc<Kept<LocalPool>>> {
        let spec = json!({ "nodes": [{ "paths": [{ "path": "/opt/lpp" }, { "path": "/opt/lpp/inner" }] }] });
        vec![Arc::new(LocalPool::new("old", serde_json::from_value(spec).unwrap()).into())]
    }

    #[test]
    fn the_node_is_found_where_label_and_name_differ() {
        let nodes = [node("n-1", "host-1"), node("n-2", "host-2"), node("host-3", "x")];
        let of = |annotations: Value, hostname: &str| {
            adoption(&volume("/opt/lpp/pvc-u_n_c", &annotations, hostname), &nodes, &pools())
                .map(|it| it.spec.node_name)
        };
        assert_eq!(of(json!({}), "host-2").unwrap(), "n-2");
        assert_eq!(of(json!({ "local.path.provisioner/selected-node": "n-1" }), "host-2").unwrap(), "n-1");
        assert_eq!(
            of(json!({}), "host-3").unwrap(),
            "host-3",
            "MicroK8s writes the name where the label's value belongs"
        );
        let moved = json!({ "hostPathProvisionerIdentity": "n-1" });
        assert_eq!(of(moved, "host-2").unwrap(), "n-2", "MicroK8s notes where its provisioner ran");
        assert_eq!(of(json!({ "local.path.provisioner/selected-node": "gone" }), "host-2"), Err(AdoptionError::Node));
        assert_eq!(of(json!({}), "unknown"), Err(AdoptionError::Node));
        let twins = [node("n-1", "same"), node("n-2", "same")];
        let doubtful = adoption(&volume("/opt/lpp/x", &json!({}), "same"), &twins, &pools());
        assert_eq!(doubtful, Err(AdoptionError::Node));
    }

    #[test]
    fn only_what_lies_strictly_beneath_a_pools_path_is_taken() {
        let nodes = [node("n-1", "host-1")];
        let at = |path: &str| adoption(&volume(path, &json!({}), "host-1"), &nodes, &pools());
        let found = at("/opt/lpp/inner/ns/name").unwrap();
        assert_eq!((found.spec.base.as_str(), found.spec.path.as_str()), ("/opt/lpp/inner", "ns/name"));
        for path in
            ["/opt/lpp", "/opt/lpp/", "/opt/lppx/a", "/etc", "/opt/lpp/../etc", "/opt/lpp/a/../b", "/opt/lpp//a", ""]
        {
            assert!(at(path).is_err(), "{path}");
        }
        for path in ["/opt/lpp/inner", "/opt/lpp/inner/", "/opt/lpp/x/../inner", "/opt"] {
            let refused = at(path).unwrap_err();
            assert!(matches!(refused, AdoptionError::Base(..)), "{path}: {refused}");
        }
    }
}
