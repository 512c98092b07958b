//! The writes of the rescue loop: what each looks like, and what an answer means.

use std::future::Future;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::plan::Write;
use super::{GAVE_UP, SELECTED_BY, SELECTIONS, Words};
use crate::model::{CLAIM_PROVISIONER, Claim, Node, SELECTED_NODE, Text, Volume, Wire};

/// Tells the volume controller that it may undo the reservation when the claim is bound elsewhere.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `AnnBoundByController`.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// How a write, or the live look before it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// It is stored.
    Done,
    /// Something that was decided on has changed: decide again.
    Conflict,
    /// The object is gone.
    Gone,
    /// The API server refuses: rights are missing, or the namespace is ending.
    Refused,
    /// The API server is away or overloaded.
    Unwell,
}

impl Outcome {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unwell => "unwell",
        }
    }

    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::Gone,
                // 422 is the answer to a UID that is not the object's.
                409 | 422 => Self::Conflict,
                429 | 500.. => Self::Unwell,
                _ => Self::Refused,
            },
            _ => Self::Unwell,
        }
    }
}

/// Writes and looks, each before a deadline.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    params: PatchParams,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self { client, params: PatchParams { field_manager: Some("latebind".to_owned()), ..PatchParams::default() } }
    }

    /// Carries out a write that was decided on this claim, and on this volume where one is reserved.
    pub async fn write(&self, claim: &Claim, volume: Option<&Volume>, write: &Write, before: Instant) -> Outcome {
        match write {
            Write::Prebind { .. } => {
                let Some(volume) = volume else { return Outcome::Conflict };
                match self.still_waits(claim, before).await {
                    Outcome::Done => self.patch_volume(volume, &claim_reference(claim, volume), before).await,
                    otherwise => otherwise,
                }
            }
            Write::SelectNode { instead_of: Some(gone), .. } | Write::Unselect { node: gone, if_gone: true } => {
                match self.is_gone(gone, before).await {
                    Outcome::Done => self.patch_claim(claim, write, before).await,
                    otherwise => otherwise,
                }
            }
            Write::SelectNode { .. } | Write::Unselect { .. } | Write::GiveUp { .. } => {
                self.patch_claim(claim, write, before).await
            }
        }
    }

    /// What the claim's provisioner said; nothing where that cannot be read.
    pub async fn words(&self, claim: &Claim, before: Instant) -> Words {
        let api: Api<Event> = Api::namespaced(self.client.clone(), claim.namespace());
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(200);
        match timeout_at(before, api.list(&params)).await {
            Ok(Ok(events)) => Words::read(&events.items, Timestamp::now()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a claim's events could not be read");
                Words::default()
            }
            Err(_) => Words::default(),
        }
    }

    async fn patch_claim(&self, claim: &Claim, write: &Write, before: Instant) -> Outcome {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), claim.namespace());
        let patch = Patch::Merge(claim_patch(claim, write));
        outcome(before, api.patch(claim.name(), &self.params, &patch)).await
    }

    async fn patch_volume(&self, volume: &Volume, patch: &Value, before: Instant) -> Outcome {
        let api: Api<Wire<Volume>> = Api::all(self.client.clone());
        outcome(before, api.patch(volume.name(), &self.params, &Patch::Merge(patch))).await
    }

    /// `Done` when the API server itself says that the claim is what was decided on: unbound, and nobody's else.
    async fn still_waits(&self, claim: &Claim, before: Instant) -> Outcome {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), claim.namespace());
        match timeout_at(before, api.get(claim.name())).await {
            Ok(Ok(Wire { object: now, .. })) => {
                let same = now.metadata.uid == claim.metadata.uid && now.selected_node() == claim.selected_node();
                let free = now.volume_name().is_none() && now.metadata.deletion_timestamp.is_none();
                if same && free { Outcome::Done } else { Outcome::Conflict }
            }
            Ok(Err(error)) => Outcome::of(&error),
            Err(_) => Outcome::Unwell,
        }
    }

    /// `Done` when the API server itself says that the Node does not exist.
    async fn is_gone(&self, node: &str, before: Instant) -> Outcome {
        let api: Api<Wire<Node>> = Api::all(self.client.clone());
        match timeout_at(before, api.get_metadata_opt(node)).await {
            Ok(Ok(None)) => Outcome::Done,
            Ok(Ok(Some(_))) => Outcome::Conflict,
            Ok(Err(error)) => Outcome::of(&error),
            Err(_) => Outcome::Unwell,
        }
    }
}

async fn outcome<T>(before: Instant, request: impl Future<Output = kube::Result<T>>) -> Outcome {
    match timeout_at(before, request).await {
        Ok(Ok(_)) => Outcome::Done,
        Ok(Err(error)) => {
            let outcome = Outcome::of(&error);
            if outcome == Outcome::Refused {
                tracing::warn!(%error, "the API server refuses a write");
            } else {
                tracing::debug!(%error, ?outcome, "a write failed");
            }
            outcome
        }
        Err(_) => Outcome::Unwell,
    }
}

/// The metadata that makes a patch fail if the object is not the one that was decided on.
fn preconditions(uid: Option<&Text>, version: Option<&Text>, annotations: &Value) -> Value {
    json!({"metadata": {"uid": uid, "resourceVersion": version, "annotations": annotations}})
}

fn claim_patch(claim: &Claim, write: &Write) -> Value {
    let mut annotations = Map::new();
    let mut set = |key: &str, value: Value| annotations.insert(key.to_owned(), value);
    match write {
        Write::SelectNode { node, pod_uid, provisioner, count, .. } => {
            set(SELECTED_NODE, json!(node));
            set(SELECTED_BY, json!(pod_uid));
            for key in CLAIM_PROVISIONER {
                if let Some(provisioner) = provisioner {
                    set(key, json!(provisioner));
                }
            }
            if *count > 1 || claim.annotation(SELECTIONS).is_some() {
                set(SELECTIONS, if *count > 1 { json!(count.to_string()) } else { Value::Null });
            }
            if claim.annotation(GAVE_UP).is_some() {
                set(GAVE_UP, Value::Null);
            }
        }
        Write::Unselect { .. } => {
            for key in [SELECTED_NODE, SELECTED_BY, SELECTIONS] {
                set(key, Value::Null);
            }
        }
        Write::GiveUp { pod_uid, reason } => {
            set(GAVE_UP, json!(format!("{pod_uid} {reason}")));
        }
        Write::Prebind { .. } => {}
    }
    let metadata = &claim.metadata;
    preconditions(metadata.uid.as_ref(), metadata.resource_version.as_ref(), &Value::Object(annotations))
}

/// What the scheduler writes: a reference with the UID, and the annotation that lets it be undone.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `GetBindVolumeToClaim`.
fn claim_reference(claim: &Claim, volume: &Volume) -> Value {
    let metadata = &volume.metadata;
    let annotations = json!({BOUND_BY_CONTROLLER: "yes"});
    let mut patch = preconditions(metadata.uid.as_ref(), metadata.resource_version.as_ref(), &annotations);
    patch["spec"] = json!({"claimRef": {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": claim.namespace(),
        "name": claim.name(),
        "uid": claim.metadata.uid,
    }});
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(annotations: &Value) -> Claim {
        let metadata =
            json!({"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "7", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn select(provisioner: Option<&str>, count: u32) -> Write {
        let provisioner = provisioner.map(str::to_owned);
        Write::SelectNode { node: "node".into(), pod_uid: "pod".into(), provisioner, count, instead_of: None }
    }

    #[test]
    fn the_first_order_is_one_write_with_preconditions() {
        let patch = claim_patch(&claim(&json!({})), &select(Some("example.com/disk"), 1));
        let expected = json!({"metadata": {"uid": "u", "resourceVersion": "7", "annotations": {
            "volume.kubernetes.io/selected-node": "node",
            "latebind.dev/selected-node-by": "pod",
            "volume.kubernetes.io/storage-provisioner": "example.com/disk",
            "volume.beta.kubernetes.io/storage-provisioner": "example.com/disk",
        }}});
        assert_eq!(patch, expected);
    }

    #[test]
    fn a_built_in_provisioner_is_not_named_and_old_marks_go() {
        let old = json!({SELECTIONS: "3", GAVE_UP: "other text"});
        let patch = claim_patch(&claim(&old), &select(None, 1));
        let annotations = patch["metadata"]["annotations"].as_object().unwrap();
        assert!(!annotations.contains_key(CLAIM_PROVISIONER[0]));
        assert_eq!((&annotations[SELECTIONS], &annotations[GAVE_UP]), (&Value::Null, &Value::Null));
        let again = claim_patch(&claim(&old), &select(None, 4));
        assert_eq!(again["metadata"]["annotations"][SELECTIONS], "4");
    }

    #[test]
    fn answers_are_told_apart() {
        let of = |code| {
            let status: kube::core::Status =
                serde_json::from_value(json!({"code": code, "status": "Failure"})).unwrap();
            Outcome::of(&kube::Error::Api(Box::new(status)))
        };
        assert_eq!([of(404), of(409), of(422)], [Outcome::Gone, Outcome::Conflict, Outcome::Conflict]);
        assert_eq!([of(403), of(400)], [Outcome::Refused, Outcome::Refused]);
        assert_eq!([of(429), of(500), of(503)], [Outcome::Unwell; 3]);
    }
}
