//! Volumes that another provisioner made, and that are to be deleted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{MICROK8S, RANCHER};
use crate::binding::selector::volume_reachable;
use crate::crd::{
    ClaimIdentity, Kept, LocalPool, LocalVolume, LocalVolumeSpec, Origin, PathError, Reclaim, VolumePath,
};
use crate::model::{Node, Text, VOLUME_NODE, Volume};
use crate::provision::local_volume;

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
    let offered = pools.iter().flat_map(|pool| pool.spec.paths_on(node).iter().map(move |path| (pool, path)));
    let beneath = offered.filter_map(|(pool, path)| {
        let rest = source.path.strip_prefix(&path.path)?.strip_prefix('/')?;
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
    let required = volume.spec.node_affinity.as_ref()?.required.as_ref()?;
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

/// Pods that are another provisioner of an adopted name, as `namespace/name`: two of them would work against each other.
///
/// # Errors
/// When Pods cannot be listed.
pub async fn rivals(client: &Client, adopted: &str) -> Result<Vec<String>, kube::Error> {
    /// What the API server sends at once.
    const PAGE: u32 = 500;
    let pods: Api<Pod> = Api::all(client.clone());
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = pods.list(&page).await?;
        let rivals = listed.items.iter().filter(|pod| is_rival(pod, adopted));
        found.extend(rivals.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())));
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// By the name that it is given, and where it is given none, by its image.
fn is_rival(pod: &Pod, adopted: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return false;
    }
    let image = match adopted {
        RANCHER => "local-path-provisioner",
        MICROK8S => "hostpath-provisioner",
        _ => return false,
    };
    pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| {
        let env = container.env.iter().flatten().find(|it| it.name == "PROVISIONER_NAME");
        let words: Vec<&str> = container.command.iter().chain(&container.args).flatten().map(String::as_str).collect();
        let after = |at: usize| words.get(at + 1).copied();
        let flag = words.iter().enumerate().find_map(|(at, word)| match *word {
            "--provisioner-name" => after(at),
            word => word.strip_prefix("--provisioner-name="),
        });
        // latebind itself is told the name by another flag.
        if let Some(name) = flag.or(env.and_then(|it| it.value.as_deref())) {
            return name == adopted;
        }
        let path = container.image.as_deref().unwrap_or_default();
        let path = path.split('@').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        last.split(':').next() == Some(image)
    })
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
    }

    #[test]
    fn another_provisioner_is_known_by_its_name_or_its_image() {
        let rival = |container: Value| {
            let spec = json!({ "containers": [{ "name": "other" }, container] });
            is_rival(&serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap(), RANCHER)
        };
        let with = |image: &str, args: Value| rival(json!({ "name": "c", "image": image, "args": args }));
        assert!(with("docker.io/rancher/local-path-provisioner:v0.0.30", json!(["start"])));
        assert!(with("mirror:5000/local-path-provisioner@sha256:00", json!([])));
        assert!(with("my/build", json!(["start", "--provisioner-name", "rancher.io/local-path"])));
        let named = json!([{ "name": "PROVISIONER_NAME", "value": "rancher.io/local-path" }]);
        assert!(rival(json!({ "name": "c", "image": "x", "env": named })));
        assert!(!with("rancher/local-path-provisioner", json!(["--provisioner-name=example.org/other"])));
        assert!(!with("ghcr.io/latebind/latebind", json!(["run", "--adopt=rancher.io/local-path"])));
        assert!(!with("shop/cart:1", json!([])));
    }
}
