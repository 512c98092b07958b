//! Creates all cases in one batch, waits, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use latebind::admission::patch::operations;
use latebind::binding::{ClaimRemedy, Code, Pin, Remedy, Row, VolumeVerdict};
use latebind_cluster::{Scope, Version, eventually};
use serde_json::{Value, json};

use crate::build::{Built, build};
use latebind_test_support::cases::{group_and_kind, read_all};

/// Rows in which a claim waits for its first consumer, and says so.
const WAITING_ROWS: [Row; 6] = [
    Row::Dynamic,
    Row::DynamicVolumeFits,
    Row::StaticVolumeFits,
    Row::StaticNoVolume,
    Row::Ephemeral,
    Row::EphemeralStatic,
];
/// Obstacles that the scheduler is certain to see too; others are there for what it might see.
const CERTAIN: [Code; 11] = [
    Code::Cordoned,
    Code::UntoleratedTaint,
    Code::Evicted,
    Code::ExtendedResource,
    Code::SelectorContradicts,
    Code::TopologyExcluded,
    Code::CapacityShort,
    Code::NodeNotReady,
    Code::NoVolumeFits,
    Code::ZoneConflict,
    Code::RepelledByPod,
];
/// One resync of the volume controller is 15 s.
const RESYNC: Duration = Duration::from_secs(16);
const PATIENCE: Duration = Duration::from_secs(90);
const REQUESTS_AT_ONCE: usize = 16;
/// Fewer would mean that the filter of what can be built has grown holes.
const LEAST_COMPARED: usize = 150;
/// The same for cases with ResourceClaims: as they stand, and for the scheduler.
const LEAST_WITH_DEVICES: (usize, usize) = (10, 6);

pub async fn the_engine_and_the_platform_agree_on_every_case(scope: &Scope) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = read_all(&root.join("tests/cases")).map_err(anyhow::Error::msg)?;
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut pinned, mut placed) = (Vec::new(), Vec::new());
    for (place, (file, case)) in cases.iter().enumerate() {
        match (build(file, case, place, "p"), build(file, case, place, "s")) {
            (Ok(as_it_stands), Ok(for_the_scheduler)) => {
                pinned.push(as_it_stands);
                placed.extend(rewritten(for_the_scheduler));
            }
            (Err(reason), _) | (_, Err(reason)) => *left_out.entry(reason).or_default() += 1,
        }
    }
    let client = scope.client();
    let (pinned, refused) = create_all(&client, pinned).await?;
    let (placed, refused_placed) = create_all(&client, placed).await?;
    eprintln!("{} cases as they stand, {} for the scheduler", pinned.len(), placed.len());
    eprintln!("left out: {left_out:?}; refused by the API server: {refused:?} {refused_placed:?}");
    ensure!(pinned.len() >= LEAST_COMPARED, "only {} cases could be built", pinned.len());
    let answer = compared(&client, &pinned, &placed).await;
    for case in pinned.iter().chain(&placed) {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        // The whole cluster goes with the suite; this only spares it work until then.
        drop(namespaces.delete(&case.namespace, &kube::api::DeleteParams::default()).await);
    }
    answer
}

async fn compared(client: &Client, pinned: &[Built], placed: &[Built]) -> Result<()> {
    // What is to be seen is waited for; what is not to be seen has had a full resync to appear.
    let expected: Vec<(String, String)> = pinned.iter().flat_map(waiting_claims).collect();
    let mut missing = Vec::new();
    let waited = eventually("every stuck claim to wait for its consumer", PATIENCE, async || {
        let seen = waiting_events(client).await?;
        missing = expected.iter().filter(|claim| !seen.contains(*claim)).cloned().collect();
        Ok(missing.is_empty().then_some(()))
    });
    let mut wrong: Vec<String> = Vec::new();
    if waited.await.is_err() {
        wrong.extend(missing.iter().map(|(namespace, claim)| {
            format!("{}: {claim} does not wait for a first consumer", file_of(pinned, namespace))
        }));
    }
    tokio::time::sleep(RESYNC).await;
    let (claims, devices) = (claims(client).await?, resource_claims(client).await?);
    wrong.extend(pinned.iter().flat_map(|case| unlike_as_it_stands(case, &claims)));
    wrong.extend(pinned.iter().flat_map(|case| unlike_devices(case, &devices, false)));
    let with_devices = |cases: &[Built]| cases.iter().filter(|case| !case.verdict.devices.is_empty()).count();
    let compared = (with_devices(pinned), with_devices(placed));
    ensure!(compared.0 >= LEAST_WITH_DEVICES.0 && compared.1 >= LEAST_WITH_DEVICES.1, "devices: only {compared:?}");
    let mut unlike = Vec::new();
    let settled = eventually("the scheduler to decide about every Pod", PATIENCE, async || {
        let (claims, pods) = (self::claims(client).await?, pods(client).await?);
        let devices = resource_claims(client).await?;
        unlike = placed.iter().flat_map(|case| unlike_the_scheduler(case, &claims, &pods)).collect();
        unlike.extend(placed.iter().flat_map(|case| unlike_devices(case, &devices, true)));
        Ok(unlike.is_empty().then_some(()))
    });
    if settled.await.is_err() {
        wrong.extend(unlike);
    }
    ensure!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn file_of<'a>(cases: &'a [Built], namespace: &str) -> &'a str {
    cases.iter().find(|case| case.namespace == namespace).map_or("?", |case| &case.file)
}

/// The case with its Pod as the scheduler gets it: rewritten as the engine says, or as it refused to for a certain reason.
fn rewritten(mut case: Built) -> Option<Built> {
    let node = case.verdict.node.clone()?;
    let remedy = match &case.verdict.remedy {
        Remedy::Rewrite { pin } => Remedy::Rewrite { pin: pin.clone() },
        _ if case.verdict.is_stuck() && certain_obstacle(&case).is_some() => Remedy::Rewrite { pin: Pin::Name(node) },
        _ => return None,
    };
    let pod = serde_json::from_value(case.pod.clone()).ok()?;
    json_patch::patch(&mut case.pod, &operations(&pod, &remedy)).ok()?;
    Some(case)
}

fn certain_obstacle(case: &Built) -> Option<Code> {
    // Devices that are allocated on another node are certain too; those that nobody has allocated are what a rewrite is for.
    let hopeless = |code: &Code| matches!(case.verdict.remedy, Remedy::Hopeless { reason } if reason == *code);
    let certain = |code: &Code| CERTAIN.contains(code) || (*code == Code::ResourceClaims && hopeless(code));
    case.verdict.findings.iter().map(|finding| finding.code).find(certain)
}

fn waiting_claims(case: &Built) -> Vec<(String, String)> {
    let waiting = case.verdict.volumes.iter().filter(|volume| !volume.undecided && WAITING_ROWS.contains(&volume.row));
    waiting.filter_map(|volume| Some((case.namespace.clone(), volume.claim.clone()?))).collect()
}

type Claims = BTreeMap<(String, String), PersistentVolumeClaim>;

fn unlike_as_it_stands(case: &Built, claims: &Claims) -> Vec<String> {
    let mut wrong = Vec::new();
    for volume in &case.verdict.volumes {
        let Some(name) = &volume.claim else { continue };
        let claim = claims.get(&(case.namespace.clone(), name.clone()));
        let bound = claim.is_some_and(|claim| phase(claim) == "Bound");
        let expected = match volume.row {
            row if WAITING_ROWS.contains(&row) => Some(false),
            Row::SelectedHere | Row::SelectedStatic | Row::SelectedElsewhere | Row::SelectedNodeGone => Some(false),
            Row::Bound | Row::BoundElsewhere => Some(true),
            _ => None,
        };
        if expected.is_some_and(|expected| expected != bound) {
            wrong.push(format!("{}: claim {name} (row {}) is bound: {bound}", case.file, volume.row.number()));
        }
    }
    wrong
}

/// Whether the scheduler binds volumes and allocates devices side by side.
fn binds_all_at_once() -> bool {
    Version::from_env().is_ok_and(|version| version >= Version::V1_36)
}

/// ResourceClaims by namespace.
type Devices = BTreeMap<String, Vec<ResourceClaim>>;

/// The Pod's ResourceClaims: those that the engine calls stuck are allocated by nobody while the Pod names its node, and
/// by the scheduler once it is rewritten; the others are allocated, and reserved for the Pod by the controller manager.
fn unlike_devices(case: &Built, devices: &Devices, rewritten: bool) -> Vec<String> {
    let all = devices.get(&case.namespace).map(Vec::as_slice).unwrap_or_default();
    let is_rewritten = matches!(case.verdict.remedy, Remedy::Rewrite { .. });
    let waits_for_volume = case.verdict.volumes.iter().any(VolumeVerdict::waits_for_scheduler);
    let mut wrong = Vec::new();
    for device in case.verdict.devices.iter().filter(|device| !device.undecided) {
        let made = |claim: &&ResourceClaim| {
            let entry = claim.annotations().get("resource.kubernetes.io/pod-claim-name");
            entry.is_some_and(|entry| *entry == device.name)
        };
        let found = match &device.claim {
            Some(name) => all.iter().find(|claim| claim.name_any() == *name),
            None => all.iter().find(made),
        };
        let Some(claim) = found else {
            wrong.push(format!("{}: there is no ResourceClaim for {}", case.file, device.name));
            continue;
        };
        let status = claim.status.as_ref();
        let allocated = status.is_some_and(|status| status.allocation.is_some());
        let reserved = status.is_some_and(|status| status.reserved_for.iter().flatten().next().is_some());
        let expected = match (device.stuck, is_rewritten) {
            // Until the scheduler sees the Pod an allocation stays, and the controller manager knows nothing of nodes.
            // Before 1.36 the scheduler waits for the volume first, which nobody makes here.
            (true, true) if rewritten && waits_for_volume && !binds_all_at_once() => continue,
            (true, true) => rewritten || device.says.starts_with("is allocated"),
            (false, _) => true,
            // Allocated elsewhere, or not to be placed for another reason.
            (true, false) => continue,
        };
        if (allocated, reserved) != (expected, expected) {
            let name = claim.name_any();
            wrong.push(format!("{}: {name} is allocated: {allocated}, reserved: {reserved}", case.file));
        }
    }
    wrong
}

async fn resource_claims(client: &Client) -> Result<Devices> {
    let all = Api::<ResourceClaim>::all(client.clone()).list(&ListParams::default()).await?;
    let mut devices = Devices::new();
    for claim in all {
        devices.entry(claim.namespace().unwrap_or_default()).or_default().push(claim);
    }
    Ok(devices)
}

fn unlike_the_scheduler(case: &Built, claims: &Claims, pods: &BTreeMap<String, Pod>) -> Vec<String> {
    let Some(pod) = pods.get(&case.namespace) else { return vec![format!("{}: its Pod is gone", case.file)] };
    let scheduled = pod.status.as_ref().and_then(|status| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled").cloned()
    });
    let node = case.verdict.node.as_deref().unwrap_or_default();
    let mut wrong = Vec::new();
    if !matches!(case.verdict.remedy, Remedy::Rewrite { .. }) {
        let refused = scheduled.as_ref().is_some_and(|it| it.reason.as_deref() == Some("Unschedulable"));
        if !refused {
            let code = certain_obstacle(case).map(Code::as_str).unwrap_or_default();
            wrong.push(format!("{}: {code}, but the scheduler does not refuse the node: {scheduled:?}", case.file));
        }
        return wrong;
    }
    for volume in case.verdict.volumes.iter().filter(|volume| volume.stuck) {
        // Of a Pod with a generated name the claim's name is not known beforehand.
        let Some(name) = volume.claim.clone() else { continue };
        let Some(claim) = claims.get(&(case.namespace.clone(), name.clone())) else {
            wrong.push(format!("{}: claim {name} is gone", case.file));
            continue;
        };
        let given = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        let selected = claim.annotations().get("volume.kubernetes.io/selected-node").cloned().unwrap_or_default();
        match &volume.remedy {
            ClaimRemedy::Prebind { volume } if given != *volume => {
                wrong.push(format!("{}: claim {name} got volume {given:?}, not {volume:?}", case.file));
            }
            ClaimRemedy::SelectNode { node } if selected != *node => {
                wrong.push(format!(
                    "{}: node {selected:?} was selected for claim {name}, not {node:?}; {scheduled:?}",
                    case.file
                ));
            }
            _ => {}
        }
    }
    let prebound = |remedy: &ClaimRemedy| matches!(remedy, ClaimRemedy::Prebind { .. } | ClaimRemedy::Leave);
    let all_static = case
        .verdict
        .volumes
        .iter()
        .all(|volume| prebound(&volume.remedy) && volume.row != Row::SelectedHere && !volume.undecided);
    let place = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if all_static && place != node {
        wrong.push(format!("{}: placed on {place:?}, not on {node:?}; {scheduled:?}", case.file));
    }
    wrong
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

async fn claims(client: &Client) -> Result<Claims> {
    let all = Api::<PersistentVolumeClaim>::all(client.clone()).list(&ListParams::default()).await?;
    Ok(all.into_iter().map(|claim| ((claim.namespace().unwrap_or_default(), claim.name_any()), claim)).collect())
}

/// The Pod of each case, by namespace.
async fn pods(client: &Client) -> Result<BTreeMap<String, Pod>> {
    let all = Api::<Pod>::all(client.clone()).list(&ListParams::default().labels("agreement=case")).await?;
    Ok(all.into_iter().map(|pod| (pod.namespace().unwrap_or_default(), pod)).collect())
}

async fn waiting_events(client: &Client) -> Result<BTreeSet<(String, String)>> {
    let of_reason = ListParams::default().fields("reason=WaitForFirstConsumer");
    let all = Api::<Event>::all(client.clone()).list(&of_reason).await?;
    let about = all.into_iter().map(|event| event.involved_object);
    Ok(about.map(|it| (it.namespace.unwrap_or_default(), it.name.unwrap_or_default())).collect())
}

/// Creates the cases; gives those that the API server took, and the files of those that it refused.
async fn create_all(client: &Client, cases: Vec<Built>) -> Result<(Vec<Built>, Vec<String>)> {
    let created: Vec<(Built, Option<String>)> = stream::iter(cases)
        .map(|case| async {
            let refusal = create(client, &case).await.with_context(|| case.file.clone())?;
            Ok::<_, anyhow::Error>((case, refusal))
        })
        .buffer_unordered(REQUESTS_AT_ONCE)
        .try_collect()
        .await?;
    let (taken, refused): (Vec<_>, Vec<_>) = created.into_iter().partition(|(_, refusal)| refusal.is_none());
    let told = refused.into_iter().map(|(case, refusal)| format!("{}: {}", case.file, refusal.unwrap_or_default()));
    Ok((taken.into_iter().map(|(case, _)| case).collect(), told.collect()))
}

async fn create(client: &Client, case: &Built) -> Result<Option<String>> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(case.namespace.clone());
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let volumes: Vec<String> =
        case.objects.iter().filter(|it| group_and_kind(it).1 == "PersistentVolume").map(name).collect();
    let (claims, others): (Vec<&Value>, Vec<&Value>) =
        case.objects.iter().partition(|object| group_and_kind(object).1 == "PersistentVolumeClaim");
    for object in others {
        if let Some(refusal) = post(client, object, &case.namespace).await? {
            return Ok(Some(refusal));
        }
        match group_and_kind(object).1 {
            "Node" => settle_node(client, object).await?,
            "ResourceClaim" if object["status"].is_object() => {
                let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &case.namespace);
                // The scheduler fills it in where it is missing, and may not: an allocation is never changed.
                let mut status = json!({ "status": object["status"] });
                status["status"]["allocation"]["allocationTimestamp"] = json!("2026-01-02T03:04:05Z");
                api.patch_status(&name(object), &PatchParams::default(), &Patch::Merge(status)).await?;
            }
            "Pod" if object["status"].is_object() => {
                let api: Api<Pod> = Api::namespaced(client.clone(), &case.namespace);
                let status = json!({ "status": { "phase": object["status"]["phase"] } });
                api.patch_status(&name(object), &PatchParams::default(), &Patch::Merge(status)).await?;
            }
            _ => {}
        }
    }
    let api: Api<PersistentVolume> = Api::all(client.clone());
    for volume in volumes {
        eventually("the volume to be available", PATIENCE, async || {
            let status = api.get(&volume).await?.status.and_then(|status| status.phase);
            Ok(status.filter(|phase| phase != "Pending").map(drop))
        })
        .await?;
    }
    for claim in claims {
        if let Some(refusal) = post(client, claim, &case.namespace).await? {
            return Ok(Some(refusal));
        }
    }
    // Claims that bind by themselves do so before the Pod comes, as they had in the case.
    for claim in case.verdict.volumes.iter().filter(|volume| [Row::Bound, Row::BoundElsewhere].contains(&volume.row)) {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &case.namespace);
        let name = claim.claim.clone().unwrap_or_default();
        eventually("the claim to be bound", PATIENCE, async || {
            Ok((phase(&api.get(&name).await?) == "Bound").then_some(()))
        })
        .await?;
    }
    let mut pod = case.pod.clone();
    pod["metadata"]["labels"]["agreement"] = json!("case");
    post(client, &pod, &case.namespace).await
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Creates an object; gives the API server's words if it refuses it.
async fn post(client: &Client, object: &Value, namespace: &str) -> Result<Option<String>> {
    let (group, kind) = group_and_kind(object);
    let version = object["apiVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = if object["metadata"]["namespace"].is_string() {
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    match api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 409 | 422) => {
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error).with_context(|| format!("creating {kind} {}", name(object))),
    }
}

/// Status, and exactly the case's taints: the API server adds one of its own to every new Node.
async fn settle_node(client: &Client, node: &Value) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let status = json!({ "status": node["status"] });
    api.patch_status(&name(node), &PatchParams::default(), &Patch::Merge(status)).await?;
    let taints = json!({ "spec": { "taints": node["spec"]["taints"] } });
    api.patch(&name(node), &PatchParams::default(), &Patch::Merge(taints)).await?;
    Ok(())
}
