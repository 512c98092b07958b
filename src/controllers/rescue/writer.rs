//! The writes of the rescue loop: what each looks like, and what an answer means.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::plan::Write;
use super::{GAVE_UP, ProvisionerReport, SELECTED_BY, SELECTIONS};
use crate::kubernetes::api::{ApiError, Failure, before};
use crate::model::{CLAIM_PROVISIONER, Claim, Event, Node, SELECTED_NODE, SelectionMark, Text, Volume, Wire};

/// Tells the volume controller that it may undo the reservation when the claim is bound elsewhere.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `AnnBoundByController`.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// By this name the API server keeps account of which fields of a claim the rescue loop wrote.
const FIELD_MANAGER: &str = "latebind";

/// Writes and confirms, each before a deadline.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    params: PatchParams,
}

impl Writer {
    /// With `is_trial` the API server checks the writes and stores none.
    pub fn new(client: Client, is_trial: bool) -> Self {
        let field_manager = Some(FIELD_MANAGER.to_owned());
        Self { client, params: PatchParams { field_manager, dry_run: is_trial, ..PatchParams::default() } }
    }

    /// Carries out a write that was decided on this claim, and on this volume where one is reserved. False when the node
    /// that was to be taken back turned out to be another's choice: then only the mark was.
    pub async fn write(
        &self,
        claim: &Claim,
        volume: Option<&Volume>,
        write: &Write,
        deadline: Instant,
    ) -> Result<bool, ApiError> {
        match write {
            Write::Prebind { .. } => {
                let volume = volume.ok_or(ApiError::Stale)?;
                self.confirm_unbound(claim, deadline).await?;
                self.patch_volume(volume, &claim_reference(claim, volume), deadline).await?;
            }
            Write::Unselect { if_ours: true, .. } if !self.is_ours(claim, deadline).await? => {
                self.patch_claim(claim, &unmarked(claim), deadline).await?;
                return Ok(false);
            }
            Write::SelectNode { instead_of: Some(gone), .. } | Write::Unselect { node: gone, if_gone: true, .. } => {
                self.confirm_gone(gone, deadline).await?;
                self.patch_claim(claim, &claim_patch(claim, write), deadline).await?;
            }
            Write::SelectNode { .. } | Write::Unselect { .. } | Write::GiveUp { .. } => {
                self.patch_claim(claim, &claim_patch(claim, write), deadline).await?;
            }
        }
        Ok(true)
    }

    /// Whether the claim's selected node is what latebind wrote, as the API server keeps account of.
    async fn is_ours(&self, claim: &Claim, deadline: Instant) -> Result<bool, ApiError> {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), claim.namespace());
        let now = before(deadline, api.get_metadata(claim.name())).await?.metadata;
        let same = |ours: &Option<Text>, theirs: &Option<String>| ours.as_deref() == theirs.as_deref();
        let (uid, version) = (&claim.metadata.uid, &claim.metadata.resource_version);
        if !same(uid, &now.uid) || !same(version, &now.resource_version) {
            return Err(ApiError::Stale);
        }
        Ok(is_written_by_us(now.managed_fields.as_deref().unwrap_or_default(), SELECTED_NODE))
    }

    /// What the claim's provisioner reported; nothing where that cannot be read.
    pub async fn provisioner_report(&self, claim: &Claim, deadline: Instant) -> ProvisionerReport {
        let api: Api<Wire<Event>> = Api::namespaced(self.client.clone(), claim.namespace());
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(200);
        match before(deadline, api.list(&params)).await {
            Ok(events) => {
                let events: Vec<&Event> = events.items.iter().map(|event| &event.object).collect();
                ProvisionerReport::read(&events, Timestamp::now())
            }
            Err(error) => {
                tracing::debug!(%error, "a claim's events could not be read");
                ProvisionerReport::default()
            }
        }
    }

    async fn patch_claim(&self, claim: &Claim, patch: &Value, deadline: Instant) -> Result<(), ApiError> {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), claim.namespace());
        before(deadline, api.patch(claim.name(), &self.params, &Patch::Merge(patch))).await.map(drop)
    }

    async fn patch_volume(&self, volume: &Volume, patch: &Value, deadline: Instant) -> Result<(), ApiError> {
        let api: Api<Wire<Volume>> = Api::all(self.client.clone());
        before(deadline, api.patch(volume.name(), &self.params, &Patch::Merge(patch))).await.map(drop)
    }

    /// Succeeds when the API server itself says that the claim is what was decided on: unbound, and nobody's else.
    async fn confirm_unbound(&self, claim: &Claim, deadline: Instant) -> Result<(), ApiError> {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), claim.namespace());
        let now = before(deadline, api.get(claim.name())).await?.object;
        let same = now.metadata.uid == claim.metadata.uid && now.selected_node() == claim.selected_node();
        let free = now.volume_name().is_none() && now.metadata.deletion_timestamp.is_none();
        if same && free { Ok(()) } else { Err(ApiError::Stale) }
    }

    /// Succeeds when the API server itself says that the Node does not exist.
    async fn confirm_gone(&self, node: &str, deadline: Instant) -> Result<(), ApiError> {
        let api: Api<Wire<Node>> = Api::all(self.client.clone());
        match before(deadline, api.get_metadata_opt(node)).await? {
            None => Ok(()),
            Some(_) => Err(ApiError::Stale),
        }
    }
}

/// The result of a write, as metrics name it.
pub(super) fn result_name(result: &Result<bool, ApiError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(error) => match error.failure() {
            Failure::Conflict => "conflict",
            Failure::NotFound => "gone",
            Failure::Refused => "refused",
            Failure::Unavailable => "unwell",
        },
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
            set(SELECTED_BY, json!(SelectionMark { pod_uid, node: Some(node) }.to_string()));
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

/// Takes the marks off a claim, and leaves the node that somebody else selected.
fn unmarked(claim: &Claim) -> Value {
    let metadata = &claim.metadata;
    let annotations = json!({SELECTED_BY: null, SELECTIONS: null});
    preconditions(metadata.uid.as_ref(), metadata.resource_version.as_ref(), &annotations)
}

/// Whether it was the rescue loop that gave an annotation its present value. A field that another client changes becomes
/// that client's, and one that is removed is nobody's.
fn is_written_by_us(fields: &[ManagedFieldsEntry], annotation: &str) -> bool {
    let owns = |entry: &ManagedFieldsEntry| {
        let annotations = entry.fields_v1.as_ref().and_then(|fields| fields.0.pointer("/f:metadata/f:annotations"));
        annotations.is_some_and(|annotations| annotations.get(format!("f:{annotation}")).is_some())
    };
    fields.iter().any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && owns(entry))
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
            "latebind.dev/selected-node-by": "pod node",
            "volume.kubernetes.io/storage-provisioner": "example.com/disk",
            "volume.beta.kubernetes.io/storage-provisioner": "example.com/disk",
        }}});
        assert_eq!(patch, expected);
    }

    #[test]
    fn what_the_scheduler_wrote_is_not_ours() {
        let entry = |manager: &str, annotation: &str| -> ManagedFieldsEntry {
            let fields = json!({"f:metadata": {"f:annotations": {".": {}, format!("f:{annotation}"): {}}}});
            serde_json::from_value(json!({"manager": manager, "operation": "Update", "fieldsV1": fields})).unwrap()
        };
        let ours = |entries: &[ManagedFieldsEntry]| is_written_by_us(entries, SELECTED_NODE);
        assert!(ours(&[entry("kube-scheduler", "other"), entry("latebind", SELECTED_NODE)]));
        assert!(!ours(&[entry("latebind", SELECTED_BY), entry("kube-scheduler", SELECTED_NODE)]));
        assert!(!ours(&[]), "what the API server keeps no account of is not ours");
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
}
