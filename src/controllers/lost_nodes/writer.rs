//! What is written: the time of a volume, the record on it, the end of its claim, and the new claim.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::live::{self, Pair};
use super::remake;
use crate::drain::retire::mark;
use crate::kubernetes::api::{ApiError, Failure, before};
use crate::model::{
    Claim, LOST_SECONDS, REMAKE_CLAIM, RETIRED, RETIRED_CLAIM, RETIRED_CLAIM_UID, RETIRED_FROM, Volume,
};

/// By this name the API server keeps account of what was written.
const FIELD_MANAGER: &str = "latebind-lost-nodes";

/// What came of letting a claim go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unbound {
    /// It is going.
    Done,
    /// A live look found the node, or another claim or volume.
    Disagreed,
    /// It stays, for this reason.
    Kept(String),
}

pub(super) struct Writer {
    client: Client,
    params: PatchParams,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        let field_manager = Some(FIELD_MANAGER.to_owned());
        Self { client, params: PatchParams { field_manager, ..PatchParams::default() } }
    }

    /// Writes down for how long the node of the volume has been gone.
    pub async fn note(&self, volume: &Volume, observed: Duration, deadline: Instant) -> Result<(), ApiError> {
        let annotations = json!({ LOST_SECONDS: observed.as_secs().to_string() });
        self.patch(volume, &json!({ "metadata": { "uid": volume.metadata.uid, "annotations": annotations } }), deadline)
            .await
    }

    /// Takes back what was written at a volume whose node is back, or whose claim is not to be made anew any more.
    pub async fn clear(&self, volume: &Volume, is_bound: bool, deadline: Instant) -> Result<(), ApiError> {
        let mut metadata =
            json!({ "uid": volume.metadata.uid, "annotations": { LOST_SECONDS: null, REMAKE_CLAIM: null } });
        // Its claim was not let go: the mark would speak of a claim that is there.
        if is_bound && volume.metadata.annotation(REMAKE_CLAIM).is_some() {
            metadata["labels"] = json!({ RETIRED: null });
            for key in [RETIRED_FROM, RETIRED_CLAIM, RETIRED_CLAIM_UID] {
                metadata["annotations"][key] = Value::Null;
            }
        }
        self.patch(volume, &json!({ "metadata": metadata }), deadline).await
    }

    /// Lets the claim go: the volume is kept and marked first, with a record from which the claim is made anew unless its StatefulSet is
    /// sooner. Everything is looked at live before.
    pub async fn unbind(
        &self,
        (claim, volume): (&Claim, &Volume),
        place: &[(String, String)],
        deadline: Instant,
    ) -> Result<Unbound, ApiError> {
        if !live::is_gone(&self.client, volume, place, deadline).await? {
            return Ok(Unbound::Disagreed);
        }
        if live::is_used(&self.client, claim, deadline).await? {
            return Ok(Unbound::Kept("a Pod that has a node uses it".to_owned()));
        }
        let Some(Pair { volume: now, claim: claim_now }) = live::pair(&self.client, claim, volume, deadline).await?
        else {
            return Ok(Unbound::Disagreed);
        };
        // Watches bring the controlling owner alone. A StatefulSet that deletes its claims owns them so, and makes them anew.
        if claim_now.owner_references().iter().any(|owner| owner.kind != "StatefulSet") {
            return Ok(Unbound::Kept("the claim belongs to another object".to_owned()));
        }
        let Some(record) = remake::record(&claim_now, volume.name()) else {
            return Ok(Unbound::Kept("the claim is too large to be kept for its being made anew".to_owned()));
        };
        let node = place.first().map(|(_, value)| value.as_str()).unwrap_or_default();
        let uid = claim_now.uid().unwrap_or_default();
        let mut kept = mark(node, (claim.namespace(), claim.name()), &uid);
        kept["metadata"]["uid"] = json!(now.uid());
        kept["metadata"]["resourceVersion"] = json!(now.resource_version());
        kept["metadata"]["annotations"][REMAKE_CLAIM] = json!(record);
        let written = before(deadline, self.volumes().patch(volume.name(), &self.params, &Patch::Merge(&kept))).await?;
        let policy = written.spec.and_then(|spec| spec.persistent_volume_reclaim_policy);
        if policy.as_deref() != Some("Retain") {
            return Ok(Unbound::Disagreed);
        }
        let this_one = Preconditions { uid: claim_now.uid(), resource_version: claim_now.resource_version() };
        let how = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
        match before(deadline, self.claims(claim.namespace()).delete(claim.name(), &how)).await {
            Ok(_) => Ok(Unbound::Done),
            // Somebody has changed or deleted it: what they want is theirs to say, and the record speaks of it no more.
            Err(error) if error.is_conflict() || error.is_not_found() => {
                self.clear(volume, true, deadline).await?;
                Ok(Unbound::Disagreed)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the claim anew that the volume has a record of, once the one before it is gone. True when that is settled.
    pub async fn remake(&self, volume: &Volume, deadline: Instant) -> Result<bool, ApiError> {
        let said = |key: &str| volume.metadata.annotation(key).unwrap_or_default();
        let Some((namespace, name)) = said(RETIRED_CLAIM).split_once('/') else { return Ok(true) };
        let Some(claim) = remake::read(said(REMAKE_CLAIM), namespace, name) else { return Ok(true) };
        let claims = self.claims(namespace);
        let now = before(deadline, claims.get_opt(name)).await?;
        match now {
            None => {}
            Some(now) if now.uid().as_deref() == Some(said(RETIRED_CLAIM_UID)) => {
                // The one before it: it is ending, or was not let go yet.
                return Ok(now.metadata.deletion_timestamp.is_none());
            }
            // Somebody else was sooner.
            Some(_) => return Ok(true),
        }
        match before(deadline, claims.create(&PostParams::default(), &claim)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(true),
            // Its namespace is gone.
            Err(error) if error.failure() == Failure::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn patch(&self, volume: &Volume, patch: &Value, deadline: Instant) -> Result<(), ApiError> {
        match before(deadline, self.volumes().patch(volume.name(), &self.params, &Patch::Merge(patch))).await {
            Ok(_) => Ok(()),
            Err(error) if error.failure() == Failure::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn claims(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
