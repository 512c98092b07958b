//! Live looks, before anything is written: is the node really gone, and are volume and claim still each other's?

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::core::{Expression, Selector};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::kubernetes::api::{ApiError, before};
use crate::model::{Claim, PodOnNode, VOLUME_NODE, Volume, Wire, is_object_name};
use crate::volumes::NODE;

/// Volume and claim as the API server shows them.
pub(super) struct Pair {
    pub volume: PersistentVolume,
    pub claim: PersistentVolumeClaim,
}

/// True where the API server has no node that one of these labels names, by label or by name.
///
/// # Errors
/// When it does not answer: then it is not known.
pub(super) async fn is_gone(
    client: &Client,
    volume: &Volume,
    place: &[(String, String)],
    deadline: Instant,
) -> Result<bool, ApiError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut by_key: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (key, value) in place {
        by_key.entry(key).or_default().insert(value.clone());
    }
    for (key, values) in by_key {
        let selector = Selector::from_iter([Expression::In(key.to_owned(), values)]);
        // Without resourceVersion, so what the store has now.
        let found =
            before(deadline, nodes.list_metadata(&ListParams::default().labels_from(&selector).limit(1))).await?;
        if !found.items.is_empty() {
            return Ok(false);
        }
    }
    // A node whose label was taken away or changed is not gone. Labels mostly hold names, and makers of volumes write them down.
    let written = [NODE, VOLUME_NODE].into_iter().filter_map(|key| volume.metadata.annotation(key));
    let names: BTreeSet<&str> = place.iter().map(|(_, value)| value.as_str()).chain(written).collect();
    for name in names.into_iter().filter(|name| is_object_name(name)) {
        if before(deadline, nodes.get_metadata_opt(name)).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Pods of a namespace that are looked at, and at one time: only which claims they use is kept of them.
const MOST_PODS: usize = 2_000;
const PAGE: u32 = 20;

/// True where a Pod that has a node, and has not ended, uses the claim; and where there are too many Pods to know.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn is_used(client: &Client, claim: &Claim, deadline: Instant) -> Result<bool, ApiError> {
    let pods: Api<Wire<PodOnNode>> = Api::namespaced(client.clone(), claim.namespace());
    let on_nodes = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";
    let (mut page, mut seen) = (ListParams::default().fields(on_nodes).limit(PAGE), 0);
    loop {
        let listed = before(deadline, pods.list(&page)).await?;
        seen += listed.items.len();
        if listed.items.iter().any(|pod| pod.object.claims().any(|(name, _)| name == claim.name())) || seen > MOST_PODS
        {
            return Ok(true);
        }
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(false),
        }
    }
}

/// Both, if they are the very ones that were decided about and still each other's; nothing otherwise.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn pair(
    client: &Client,
    claim: &Claim,
    volume: &Volume,
    deadline: Instant,
) -> Result<Option<Pair>, ApiError> {
    let (volumes, claims): (Api<PersistentVolume>, Api<PersistentVolumeClaim>) =
        (Api::all(client.clone()), Api::namespaced(client.clone(), claim.namespace()));
    let (Some(volume_now), Some(claim_now)) = (
        before(deadline, volumes.get_opt(volume.name())).await?,
        before(deadline, claims.get_opt(claim.name())).await?,
    ) else {
        return Ok(None);
    };
    // In the same version, so that nobody has said anything else of them since they were decided about.
    let same = |now: Option<String>, known: Option<&str>| now.is_some() && now.as_deref() == known;
    let reference = volume_now.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_pair = same(volume_now.uid(), volume.metadata.uid.as_deref())
        && same(claim_now.uid(), claim.metadata.uid.as_deref())
        && same(volume_now.resource_version(), volume.metadata.resource_version.as_deref())
        && same(claim_now.resource_version(), claim.metadata.resource_version.as_deref())
        && reference.and_then(|reference| reference.uid.clone()) == claim_now.uid()
        && volume_now.spec.as_ref().map(|spec| &spec.node_affinity) == Some(&volume.spec.node_affinity)
        && claim_now.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) == Some(volume.name())
        && claim_now.metadata.deletion_timestamp.is_none()
        && volume_now.metadata.deletion_timestamp.is_none();
    Ok(is_pair.then_some(Pair { volume: volume_now, claim: claim_now }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that has these Nodes: name and hostname label.
    fn server(nodes: &'static [(&'static str, &'static str)], is_up: bool) -> Client {
        let answer = move |request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let path = request.uri().path().to_owned();
            let object = |(name, host): &(&str, &str)| {
                json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": host } } })
            };
            let (status, body): (u16, Value) = match path.strip_prefix("/api/v1/nodes") {
                _ if !is_up => (500, json!({ "kind": "Status", "code": 500, "status": "Failure", "message": "down" })),
                Some("") => {
                    let asked = |(_, host): &&(&str, &str)| {
                        query.contains(&format!("in+%28{host}%29")) || query.contains(&format!("in+({host})"))
                    };
                    let items: Vec<Value> = nodes.iter().filter(asked).map(object).collect();
                    (
                        200,
                        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items }),
                    )
                }
                Some(name) => match nodes.iter().find(|(known, _)| name == format!("/{known}")) {
                    Some(found) => (200, object(found)),
                    None => (
                        404,
                        json!({ "kind": "Status", "code": 404, "status": "Failure", "reason": "NotFound", "message": "no" }),
                    ),
                },
                None => panic!("{path}"),
            };
            let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        };
        Client::new(tower::service_fn(answer), "default")
    }

    async fn asked(client: &Client, annotations: Value) -> Result<bool, ApiError> {
        let volume: Volume =
            serde_json::from_value(json!({ "metadata": { "name": "pv", "annotations": annotations } })).unwrap();
        let place = [("kubernetes.io/hostname".to_owned(), "host-a".to_owned())];
        is_gone(client, &volume, &place, Instant::now() + Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_node_is_gone_when_neither_its_label_nor_its_name_is_there() {
        let nothing = || json!({});
        assert!(asked(&server(&[("b", "host-b")], true), nothing()).await.unwrap());
        assert!(!asked(&server(&[("a", "host-a")], true), nothing()).await.unwrap(), "by its label");
        assert!(!asked(&server(&[("host-a", "renamed")], true), nothing()).await.unwrap(), "by its name");
        let written = json!({ "latebind.dev/node": "a" });
        assert!(
            !asked(&server(&[("a", "renamed")], true), written.clone()).await.unwrap(),
            "by the name that is written down"
        );
        assert!(asked(&server(&[("b", "host-b")], true), written).await.unwrap());
    }

    #[tokio::test]
    async fn without_an_answer_it_is_not_known() {
        assert!(asked(&server(&[], false), json!({})).await.is_err());
    }
}
