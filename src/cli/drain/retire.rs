//! Pods whose claims are let go: one after another, from what the API server shows at each step.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::evict::{Attempt, Evicted, Evictions, LOOK};
use crate::drain::retire::{ClaimNow, HeldNow, PodNow, Step, mark, next};
use crate::kubernetes::api::{ApiError, Failure, in_time, list_all};
use crate::kubernetes::pods::is_ready;
use crate::model::{self, RETIRED, RETIRED_CLAIM_UID, RETIRED_FROM, ordinal};
use crate::report::style::clean;

/// A Pod that is to start elsewhere.
#[derive(Clone, Debug)]
pub struct Retired {
    pub namespace: String,
    pub name: String,
    /// UID of the Pod on the node; empty where it is gone already.
    uid: String,
    pub held: Vec<HeldVolume>,
}

/// A claim that is let go, and the volume that is kept.
#[derive(Clone, Debug)]
pub struct HeldVolume {
    pub claim: String,
    claim_uid: String,
    pub volume: String,
}

/// What the API server shows of a Pod and its claims.
struct Seen {
    pod: PodNow,
    pod_uid: String,
    held: Vec<HeldNow>,
    volumes: Vec<PersistentVolume>,
    claims: Vec<Option<PersistentVolumeClaim>>,
}

impl Retired {
    /// The Pod, and the claims that it is to lose with the names of their volumes.
    ///
    /// # Errors
    /// When a claim has no UID by which it could be told from another one of its name.
    pub fn new(pod: &model::Pod, claims: &[(Arc<model::Claim>, String)]) -> Result<Self, String> {
        let held = claims.iter().map(|(claim, volume)| {
            let uid = claim.metadata.uid.as_ref().ok_or_else(|| format!("claim {} has no UID", claim.name()))?;
            Ok(HeldVolume { claim: claim.name().to_owned(), claim_uid: uid.to_string(), volume: volume.clone() })
        });
        let held = held.collect::<Result<Vec<_>, String>>()?;
        let Evicted { namespace, name, uid } = Evicted::new(pod);
        Ok(Self { namespace, name, uid, held })
    }

    /// What comes before the last dash of its name, and the number after it.
    pub fn ordinal(&self) -> (String, u64) {
        let set = self.name.rsplit_once('-').map_or(self.name.as_str(), |(set, _)| set);
        (set.to_owned(), ordinal(&self.name).unwrap_or_default())
    }
}

/// Pods that a retirement of the node has taken away, and whose claims it has not let go any more: it was cut short in between.
///
/// # Errors
/// When volumes or Pods cannot be listed.
pub async fn cut_short(client: &Client, node: &str, known: &[Retired]) -> anyhow::Result<Vec<Retired>> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let marked = in_time(volumes.list(&ListParams::default().labels(RETIRED))).await?;
    let mut found: BTreeMap<(String, String), Retired> = BTreeMap::new();
    for volume in marked {
        let is_bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).filter(|_| is_bound) else {
            continue;
        };
        let (Some(namespace), Some(claim), Some(uid)) = (&reference.namespace, &reference.name, &reference.uid) else {
            continue;
        };
        if !is_marked(&volume, node, uid) {
            continue;
        }
        if known.iter().any(|it| it.namespace == *namespace && it.held.iter().any(|held| held.claim == *claim)) {
            continue;
        }
        let pods = list_all(&Api::<Pod>::namespaced(client.clone(), namespace)).await?;
        let uses = |pod: &&Pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            volumes.filter_map(|it| it.persistent_volume_claim.as_ref()).any(|source| source.claim_name == *claim)
        };
        // One that is on the node and not ending was decided about with the others.
        let waits = |pod: &&Pod| {
            let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            on != Some(node) || pod.metadata.deletion_timestamp.is_some()
        };
        let Some(pod) = pods.iter().filter(uses).find(waits) else { continue };
        let held = HeldVolume { claim: claim.clone(), claim_uid: uid.clone(), volume: volume.name_any() };
        let retired = found.entry((namespace.clone(), pod.name_any())).or_insert_with(|| Retired {
            namespace: namespace.clone(),
            name: pod.name_any(),
            uid: String::new(),
            held: Vec::new(),
        });
        retired.held.push(held);
    }
    Ok(found.into_values().collect())
}

/// Retires Pods of a node.
pub struct Retirement {
    client: Client,
    node: String,
}

impl Retirement {
    pub const fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }

    /// Takes one Pod from the node, and waits until what is made in its place is ready, unless a webhook refuses to let it go; false when the time was
    /// up before.
    ///
    /// # Errors
    /// When the API server refuses, or what it shows is not what it was.
    pub async fn carry_out(&self, retired: &Retired, evictions: &mut Evictions, end: Instant) -> anyhow::Result<bool> {
        let name = format!("pod/{} -n {}", clean(&retired.name), clean(&retired.namespace));
        let mut awaited = false;
        while Instant::now() < end {
            let seen = self.look(retired).await.with_context(|| name.clone())?;
            let on_time = match next(seen.pod, &seen.held) {
                Step::Keep(place) => self.keep(retired, place, &seen).await? || evictions.pause(LOOK).await,
                Step::Evict => {
                    let pod =
                        Evicted { namespace: retired.namespace.clone(), name: retired.name.clone(), uid: seen.pod_uid };
                    match evictions.one(&pod).await? {
                        Attempt::Accepted => true,
                        Attempt::Later => evictions.pause_for_budget().await,
                        // The others go on.
                        Attempt::Refused => return Ok(true),
                    }
                }
                Step::Release(place) => self.release(retired, place, &seen).await? || evictions.pause(LOOK).await,
                Step::Wait => {
                    if seen.pod == PodNow::Awaited && !awaited {
                        awaited = true;
                        writeln!(anstream::stdout(), "{name}: waiting until another one is ready elsewhere")?;
                    }
                    evictions.pause(LOOK).await
                }
                Step::Done => {
                    writeln!(anstream::stdout(), "{name} is ready elsewhere")?;
                    return Ok(true);
                }
            };
            if !on_time {
                break;
            }
        }
        Ok(false)
    }

    async fn look(&self, retired: &Retired) -> anyhow::Result<Seen> {
        let (mut held, mut volumes, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        for it in &retired.held {
            let claim = in_time(self.claims(retired).get_opt(&it.claim)).await?;
            let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(it.claim_uid.as_str()));
            let volume =
                in_time(self.volumes().get(&it.volume)).await.with_context(|| format!("volume {}", it.volume))?;
            let now = match &claim {
                None => ClaimNow::Gone,
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => ClaimNow::Leaving,
                Some(_) => ClaimNow::There,
            };
            held.push(HeldNow { claim: now, is_kept: self.is_kept(&volume, it) });
            volumes.push(volume);
            claims.push(claim);
        }
        let pod =
            in_time(Api::<Pod>::namespaced(self.client.clone(), &retired.namespace).get_opt(&retired.name)).await?;
        let pod_uid = pod.as_ref().and_then(Pod::uid).unwrap_or_default();
        let pod = pod.map_or(Ok(PodNow::Awaited), |pod| self.pod_now(retired, &pod))?;
        Ok(Seen { pod, pod_uid, held, volumes, claims })
    }

    fn pod_now(&self, retired: &Retired, pod: &Pod) -> anyhow::Result<PodNow> {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
        if on == Some(self.node.as_str()) {
            if pod.metadata.deletion_timestamp.is_some() {
                return Ok(PodNow::Leaving);
            }
            if !retired.uid.is_empty() && pod.uid().as_deref() != Some(retired.uid.as_str()) {
                bail!("it was made again on node {}: is the node cordoned?", self.node);
            }
            return Ok(PodNow::Here);
        }
        Ok(if on.is_some() && is_ready(pod) { PodNow::Ready } else { PodNow::Awaited })
    }

    fn is_kept(&self, volume: &PersistentVolume, held: &HeldVolume) -> bool {
        let spec = volume.spec.as_ref();
        let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        let claim = spec.and_then(|spec| spec.claim_ref.as_ref()?.uid.as_deref());
        policy == Some("Retain")
            && claim == Some(held.claim_uid.as_str())
            && is_marked(volume, &self.node, &held.claim_uid)
    }

    /// Sets the policy of a volume that is the claim's still; false where it has changed meanwhile.
    async fn keep(&self, retired: &Retired, place: usize, seen: &Seen) -> anyhow::Result<bool> {
        let (held, volume) = (&retired.held[place], &seen.volumes[place]);
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.as_deref());
        if claim != Some(held.claim_uid.as_str()) {
            bail!("volume {} is not of claim {} -n {} any more", held.volume, held.claim, retired.namespace);
        }
        let mut patch = mark(&self.node, (&retired.namespace, &held.claim), &held.claim_uid);
        patch["metadata"]["uid"] = json!(volume.uid());
        patch["metadata"]["resourceVersion"] = json!(volume.resource_version());
        let written = in_time(self.volumes().patch(&held.volume, &PatchParams::default(), &Patch::Merge(&patch))).await;
        if !unchanged(written)? {
            return Ok(false);
        }
        writeln!(anstream::stdout(), "volume {} is kept (Retain)", clean(&held.volume))?;
        Ok(true)
    }

    /// Deletes the claim as it was looked at, and its volume after it; false where it has changed meanwhile.
    async fn release(&self, retired: &Retired, place: usize, seen: &Seen) -> anyhow::Result<bool> {
        let (held, Some(claim)) = (&retired.held[place], &seen.claims[place]) else { return Ok(false) };
        let this_one = Preconditions { uid: claim.uid(), resource_version: claim.resource_version() };
        let how = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
        let deleted = in_time(self.claims(retired).delete(&held.claim, &how)).await;
        if !unchanged(deleted)? {
            return Ok(false);
        }
        writeln!(anstream::stdout(), "claim {} -n {} is let go", clean(&held.claim), clean(&retired.namespace))?;
        Ok(true)
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn claims(&self, retired: &Retired) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &retired.namespace)
    }
}

/// True for a volume that a retirement of this node has marked for the claim of this UID.
fn is_marked(volume: &PersistentVolume, node: &str, claim_uid: &str) -> bool {
    let says = |key: &str, value: &str| volume.annotations().get(key).is_some_and(|said| said == value);
    says(RETIRED_FROM, node) && says(RETIRED_CLAIM_UID, claim_uid)
}

/// False where the object has changed meanwhile: it is looked at again.
fn unchanged<T>(answer: Result<T, ApiError>) -> Result<bool, ApiError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.failure(), Failure::Conflict | Failure::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
