//! Live looks, before anything is written: is the node really gone, and are volume and claim still each other's?

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::core::{Expression, Selector};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::kubernetes::api::{ApiError, before};
use crate::model::{Claim, VOLUME_NODE, Volume, is_object_name};
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
        let found = before(deadline, nodes.list_metadata(&ListParams::default().labels_from(&selector).limit(1))).await?;
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
    let same = |uid: Option<String>, known: Option<&str>| uid.is_some() && uid.as_deref() == known;
    let reference = volume_now.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_pair = same(volume_now.uid(), volume.metadata.uid.as_deref())
        && same(claim_now.uid(), claim.metadata.uid.as_deref())
        && reference.and_then(|reference| reference.uid.clone()) == claim_now.uid()
        && volume_now.spec.as_ref().map(|spec| &spec.node_affinity)
            == Some(&volume.spec.node_affinity)
        && claim_now.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) == Some(volume.name())
        && claim_now.metadata.deletion_timestamp.is_none()
        && volume_now.metadata.deletion_timestamp.is_none();
    Ok(is_pair.then_some(Pair { volume: volume_now, claim: claim_now }))
}
