//! Disks that are volumes: a LocalDisk for each that an agent has found, its volume, and the order to clean it. Gathers facts, has
//! [`crate::volumes::disks`] decide, and writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde_json::{Value, json};

use super::context::{Context, Key};
use super::directories::live_owner;
use super::disk_rules::{is_by, newly_adopted, rule_of};
use super::memory::Memory;
use crate::binding::{ClusterView, Lookup};
use crate::crd::{DISK_FINALIZER, DiskRelease, DiskReport, Kept, LocalDisk, SameDisk};
use crate::facts::live::{disk_of_node, disk_of_volume, disk_with_mark};
use crate::kubernetes::api::{ApiError, if_found, in_time};
use crate::model::{Text, Volume, plain_path, reference};
use crate::volumes::disks::{
    CleanPermit, DiskFacts, DiskRecord, DiskStep, LOCAL_DISK, LiveFacts, Stays, VolumeChange, at_its_place,
    disk_volume, is_of, neighbour, permits_cleaning, permits_publication, permits_release, permits_withdrawal, plan,
    quantity, record_of,
};

/// How soon something that no change of ours announces is looked at again.
const RECHECK: Duration = Duration::from_secs(5);
/// The same for what a person has to change.
const LONG: Duration = Duration::from_secs(60);
/// A report is older than this only where its agent is away, since it is written again after half of it; and as much younger only where
/// a clock is wrong.
const REPORT_LASTS: SignedDuration = SignedDuration::from_secs(1_200);
/// Reason of the events about disks that are not offered, and of those that are not cleaned.
pub(super) const NOT_OFFERED: &str = "DiskNotOffered";

/// The LocalDisks that have a mark in common with a disk. What was made before a disk was reported as there is in the cache that shows so.
/// Nothing while one cannot be read that may be among them: that is no evidence that there is none.
fn alike(context: &Context, disk: &LocalDisk) -> Option<Vec<Arc<Kept<LocalDisk>>>> {
    let mut all = Vec::new();
    for mark in disk.spec.identity.marks() {
        match context.stores.disks.lookup(&disk_with_mark(&mark)) {
            Lookup::Found(found) => all.extend(found),
            Lookup::Absent => {}
            Lookup::Unknown => return None,
        }
    }
    Some(all)
}

/// True when the node has reported the very disk there, as one that can be a volume, within the time in which it repeats its report.
fn is_reported_now(context: &Context, disk: &LocalDisk) -> bool {
    let Some(report) = context.stores.reports.get(&disk.spec.node_name) else { return false };
    let Some(status) = &report.status else { return false };
    let is_fresh =
        status.observed_at.as_ref().is_some_and(|at| Timestamp::now().duration_since(at.0).abs() < REPORT_LASTS);
    let place = plain_path(&disk.spec.path);
    let is_it = |found: &DiskReport| {
        found.usable
            && plain_path(&found.path) == place
            && disk.spec.identity.compare(&found.identity) != SameDisk::Another
    };
    is_fresh && status.disks.iter().any(is_it)
}

/// An order that no agent takes up is told of after a while.
fn awaits_agent(
    context: &Context,
    memory: &Memory,
    disk: &LocalDisk,
    volume: &Lookup<Arc<Volume>>,
) -> Option<Duration> {
    let key = format!("disk {}", disk.name());
    let asked = disk.status.as_ref().is_some_and(|status| status.attempt.is_some() || status.progress.is_some());
    if disk.spec.clean.is_none() || disk.is_cleaned() || asked {
        memory.recorded(&key);
        return None;
    }
    if let Some(left) = memory.record_later(&key, LONG) {
        return Some(left);
    }
    let why = format!(
        "the disk is not cleaned: the agent of node {} does not take up the order; look whether it runs there, with the directory of the \
         disk among `agent.diskPaths`",
        disk.spec.node_name
    );
    Some(tell(context, memory, disk, volume, &why))
}

/// Brings a disk one step further.
pub(super) async fn reconcile(
    context: &Context,
    memory: &Memory,
    disk: Arc<Kept<LocalDisk>>,
) -> Result<Option<Duration>, ApiError> {
    let volume = context.live.volume(disk.volume_name());
    let step = decide(context, &disk, &volume);
    match step {
        DiskStep::Nothing => Ok(awaits_agent(context, memory, &disk, &volume)),
        DiskStep::Unsay => write_spec(context, &disk, json!({ "release": null })).await.map(|()| None),
        DiskStep::Tell(why) => Ok(Some(tell(context, memory, &disk, &volume, &why))),
        DiskStep::Record(record) => write_record(context, &disk, &record).await,
        DiskStep::Doubt(claim) => {
            let spec = json!({ "unclean": true, "claim": claim, "clean": null, "confirmedAttempt": null });
            write_spec(context, &disk, spec).await.map(|()| None)
        }
        DiskStep::Publish => publish(context, memory, &disk).await,
        DiskStep::Order(order) => {
            context.metrics.disk("ordered");
            let spec = json!({ "clean": order, "confirmedAttempt": null });
            write_spec(context, &disk, spec).await.map(|()| None)
        }
        DiskStep::TakeBack(why) => {
            tracing::info!(disk = disk.name(), why, "the order to clean a disk is taken back");
            write_spec(context, &disk, json!({ "clean": null, "confirmedAttempt": null })).await.map(|()| None)
        }
        DiskStep::Confirm(attempt) => confirm(context, memory, &disk, &volume, &attempt).await,
        DiskStep::Settle => settle(context, &disk).await,
        DiskStep::Forget => forget(context, &disk).await,
        DiskStep::LetGo => let_go(context, &disk).await,
        DiskStep::Hold | DiskStep::Let | DiskStep::Change(_) | DiskStep::Withdraw | DiskStep::Release => {
            let Lookup::Found(volume) = &volume else { return Ok(None) };
            with_volume(context, memory, &disk, volume, step).await
        }
    }
}

fn decide(context: &Context, disk: &LocalDisk, volume: &Lookup<Arc<Volume>>) -> DiskStep {
    let spec = &disk.spec;
    let class = context.live.class(&spec.storage_class_name).map(|class| (*class).clone());
    let node = context.live.node(&spec.node_name).map(|node| (*node).clone());
    let rule = match rule_of(context, &spec.node_name, &spec.pool, &spec.storage_class_name, &spec.path) {
        // It is offered as the rule says now once nobody has its volume.
        Lookup::Found(rule) if !is_by(disk, &rule) => Lookup::Absent,
        rule => rule.map(drop),
    };
    let volume = volume.clone().map(|volume| (*volume).clone());
    let here = context.stores.disks.find(&disk_of_node(&spec.node_name));
    let neighbour = neighbour(disk, here.iter().map(|disk| &***disk));
    // What is not known to be absent may be there.
    let may_have_volume = |other: &LocalDisk| !matches!(context.live.volume(other.volume_name()), Lookup::Absent);
    let beside_volume = at_its_place(disk, here.iter().map(|disk| &***disk)).any(may_have_volume);
    plan(disk, &DiskFacts { volume: &volume, class: &class, node: &node, rule: &rule, neighbour, beside_volume })
}

async fn with_volume(
    context: &Context,
    memory: &Memory,
    disk: &LocalDisk,
    volume: &Volume,
    step: DiskStep,
) -> Result<Option<Duration>, ApiError> {
    match step {
        DiskStep::Hold => write_finalizer(context, volume, true).await,
        DiskStep::Let => {
            context.metrics.disk("let");
            write_finalizer(context, volume, false).await
        }
        DiskStep::Change(change) => write_change(context, volume, &change).await,
        DiskStep::Withdraw => withdraw(context, disk).await,
        DiskStep::Release => release(context, memory, disk, volume).await,
        _ => Ok(None),
    }
}

/// Says why nothing happens, where a person looks: at the volume, or at the disk.
fn tell(context: &Context, memory: &Memory, disk: &LocalDisk, volume: &Lookup<Arc<Volume>>, why: &str) -> Duration {
    if memory.is_news(&format!("disk {}", disk.name()), why) {
        match volume {
            Lookup::Found(volume) if is_of(volume, disk) => {
                context.events.warning(reference(&**volume), "VolumeFailedDelete", why);
            }
            _ => context.events.warning(disk.object_ref(&()), NOT_OFFERED, why),
        }
    }
    LONG
}

/// Says that the API server would not write what a disk needs.
pub(super) fn tell_refusal(context: &Context, disk: &LocalDisk, note: &str) {
    context.events.warning(disk.object_ref(&()), NOT_OFFERED, note);
}

/// Writes down what the API server says of the volume at this moment, not what a cache said.
async fn write_record(context: &Context, disk: &LocalDisk, wanted: &DiskRecord) -> Result<Option<Duration>, ApiError> {
    let Some(live) = live_volume(context, disk).await? else { return Ok(None) };
    let record = record_of(disk, &live);
    if record.volume.uid != wanted.volume.uid {
        return Ok(None);
    }
    let mut spec = json!({ "persistentVolume": record.volume, "unclean": record.unclean });
    if let Some(claim) = record.claim {
        spec["claim"] = json!(claim);
    }
    write_spec(context, disk, spec).await.map(|()| None)
}

async fn live_volume(context: &Context, disk: &LocalDisk) -> Result<Option<Volume>, ApiError> {
    let live = if_found(context.volumes().get(disk.volume_name())).await?.map(|volume| volume.object);
    Ok(live.filter(|volume| is_of(volume, disk)))
}

/// Makes the volume. The disk is read anew: a cache that lags could show one as free that a claim has had since.
async fn publish(context: &Context, memory: &Memory, disk: &LocalDisk) -> Result<Option<Duration>, ApiError> {
    // Before anybody is asked: it costs nothing.
    if memory.is_made(disk.name()) || !is_reported_now(context, disk) {
        return Ok(Some(RECHECK));
    }
    let Some(live) = if_found(context.disks().get(disk.name())).await? else { return Ok(None) };
    let volumes = context.live_volumes.now(&context.client).await?;
    let node = context.node(&live.spec.node_name);
    let Some(alike) = alike(context, &live) else { return Ok(Some(RECHECK)) };
    let alike: Vec<&LocalDisk> = alike.iter().map(|disk| &***disk).collect();
    let facts = LiveFacts { volumes: &volumes, owner: &Lookup::Unknown, node: node.as_deref(), alike: &alike };
    if live.is_deleting() || volumes.get(live.volume_name()).is_some() {
        return Ok(Some(RECHECK));
    }
    let made = permits_publication(&live, &facts).map_err(|Stays(why)| why).and_then(|()| {
        let class = context.class(&live.spec.storage_class_name).ok_or("its class is not known")?;
        disk_volume(&live, &class, node.as_deref().ok_or("its Node is not known")?)
    });
    let volume: PersistentVolume = match made {
        Ok(volume) => volume,
        Err(why) => {
            if let Some(name) = newly_adopted(context, &live) {
                return write_spec(context, &live, json!({ "adoptedVolume": name })).await.map(|()| None);
            }
            if live.spec.not_offered.as_ref() != Some(&why) {
                write_spec(context, &live, json!({ "notOffered": why })).await?;
            }
            let why = format!("{}: {why}", live.spec.path);
            return Ok(Some(tell(context, memory, &live, &Lookup::Absent, &why)));
        }
    };
    match in_time(context.new_volumes().create(&PostParams::default(), &volume)).await {
        Err(error) if error.is_conflict() => Ok(Some(RECHECK)),
        made => made.map(|_| {
            memory.made(live.name());
            context.metrics.disk("published");
            None
        }),
    }
}

/// A released volume is deleted, and stays until its disk is clean: from here on no claim can get it.
async fn release(
    context: &Context,
    memory: &Memory,
    disk: &LocalDisk,
    cached: &Volume,
) -> Result<Option<Duration>, ApiError> {
    let Some(live) = live_volume(context, disk).await? else { return Ok(None) };
    let owner = live_owner(context, live.spec.claim_ref.as_ref()).await?;
    match permits_release(disk, &live, &owner) {
        Err(why) => {
            tracing::debug!(disk = disk.name(), %why, "a volume is not released");
            if memory.is_news(&format!("disk {}", disk.name()), &why.to_string()) && cached.status.phase == "Released" {
                context.events.warning(
                    reference(&live),
                    "VolumeFailedDelete",
                    &format!("the disk is not cleaned: {why}"),
                );
            }
            Ok(Some(RECHECK))
        }
        Ok(seen) => delete_exactly(context, &seen.name, &seen.uid, &seen.resource_version).await,
    }
}

async fn withdraw(context: &Context, disk: &LocalDisk) -> Result<Option<Duration>, ApiError> {
    let Some(live) = live_volume(context, disk).await? else { return Ok(None) };
    let spec = &disk.spec;
    let rule = rule_of(context, &spec.node_name, &spec.pool, &spec.storage_class_name, &spec.path);
    let unwanted = disk.is_deleting()
        || match rule {
            Lookup::Absent => true,
            Lookup::Found(rule) => !is_by(disk, &rule),
            Lookup::Unknown => false,
        };
    match permits_withdrawal(disk, &live, unwanted) {
        Err(why) => {
            tracing::debug!(disk = disk.name(), %why, "a volume is not taken back");
            Ok(Some(RECHECK))
        }
        Ok(seen) => {
            context.metrics.disk("withdrawn");
            delete_exactly(context, &seen.name, &seen.uid, &seen.resource_version).await
        }
    }
}

/// Deletes the volume in the very version that was decided about.
async fn delete_exactly(context: &Context, name: &str, uid: &str, version: &str) -> Result<Option<Duration>, ApiError> {
    let exactly = Preconditions { uid: Some(uid.to_owned()), resource_version: Some(version.to_owned()) };
    let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match in_time(context.volumes().delete(name, &parameters)).await {
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Some(RECHECK)),
        deleted => deleted.map(|_| None),
    }
}

/// Confirms an attempt to clean a disk, if everything that permits it is so at this moment.
async fn confirm(
    context: &Context,
    memory: &Memory,
    disk: &LocalDisk,
    volume: &Lookup<Arc<Volume>>,
    attempt: &str,
) -> Result<Option<Duration>, ApiError> {
    let Some(live) = if_found(context.disks().get(disk.name())).await? else { return Ok(None) };
    if live.uid() != disk.uid() || live.status.as_ref().and_then(|status| status.attempt.as_deref()) != Some(attempt) {
        return Ok(None);
    }
    let volumes = context.live_volumes.now(&context.client).await?;
    let of_disk = volumes.get(live.volume_name());
    let owner = match of_disk {
        Some(volume) => live_owner(context, volume.spec.claim_ref.as_ref()).await?,
        None => Lookup::Unknown,
    };
    let node = context.node(&live.spec.node_name);
    let Some(alike) = alike(context, &live) else { return Ok(Some(RECHECK)) };
    let alike: Vec<&LocalDisk> = alike.iter().map(|disk| &***disk).collect();
    let facts = LiveFacts { volumes: &volumes, owner: &owner, node: node.as_deref(), alike: &alike };
    match permits_cleaning(&live, &facts) {
        Err(why) => Ok(Some(tell(context, memory, &live, volume, &format!("the disk is not cleaned: {why}")))),
        Ok(permit) => write_spec(context, &live, confirmed(attempt, &permit)).await.map(|()| None),
    }
}

/// The confirmation of one attempt, spent by its only write.
fn confirmed(attempt: &str, permit: &CleanPermit) -> Value {
    let mut spec = json!({ "confirmedAttempt": attempt });
    if let Some(seen) = permit.volume() {
        spec["persistentVolume"] = json!(seen);
    }
    spec
}

/// The disk is free: it was cleaned, or never used, or a person said that it may be offered with what is on it.
async fn settle(context: &Context, disk: &LocalDisk) -> Result<Option<Duration>, ApiError> {
    // A cache that lags would free a disk whose volume is there.
    if if_found(context.volumes().get(disk.volume_name())).await?.is_some() {
        return Ok(Some(RECHECK));
    }
    context.metrics.disk("settled");
    let (said, claim) = (disk.spec.release, &disk.spec.claim);
    let spec = json!({
        "kept": said == Some(DiskRelease::Keep) || (disk.spec.kept && !disk.is_cleaned()),
        "clearedOf": claim.as_ref().map(|claim| &claim.uid).or(disk.spec.cleared_of.as_ref()),
        "unclean": false, "claim": null, "notOffered": null, "persistentVolume": null, "clean": null, "confirmedAttempt": null, "release": null, "adoptedVolume": null,
    });
    write_spec(context, disk, spec).await.map(|()| None)
}

/// Deletes a LocalDisk that stands for nothing.
pub(super) async fn forget(context: &Context, disk: &LocalDisk) -> Result<Option<Duration>, ApiError> {
    let here = context.stores.disks.find(&disk_of_node(&disk.spec.node_name));
    let mut volumes = vec![disk.volume_name().to_owned()];
    if disk.spec.release != Some(DiskRelease::Forget) {
        let others = at_its_place(disk, here.iter().map(|disk| &***disk));
        volumes.extend(others.map(|other| other.volume_name().to_owned()));
    }
    for volume in volumes {
        if if_found(context.volumes().get(&volume)).await?.is_some() {
            return Ok(Some(RECHECK));
        }
    }
    let exactly =
        Preconditions { uid: disk.metadata.uid.clone(), resource_version: disk.metadata.resource_version.clone() };
    let parameters = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    match in_time(context.disks().delete(disk.name(), &parameters)).await {
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Some(RECHECK)),
        deleted => deleted.map(|_| None),
    }
}

async fn let_go(context: &Context, disk: &LocalDisk) -> Result<Option<Duration>, ApiError> {
    let others = disk.metadata.finalizers.iter().flatten().filter(|finalizer| *finalizer != DISK_FINALIZER);
    let others: Vec<&String> = others.collect();
    if others.len() == disk.metadata.finalizers.iter().flatten().count() {
        return Ok(None);
    }
    let patch = json!({ "metadata": {
        "uid": disk.uid(), "resourceVersion": disk.metadata.resource_version, "finalizers": others,
    } });
    written(in_time(context.disks().patch(disk.name(), &PatchParams::default(), &Patch::Merge(&patch))).await)
}

async fn write_finalizer(context: &Context, volume: &Volume, held: bool) -> Result<Option<Duration>, ApiError> {
    let others = volume.metadata.finalizers.iter().flatten().map(Text::as_str).filter(|it| *it != DISK_FINALIZER);
    let finalizers: Vec<&str> = others.chain(held.then_some(DISK_FINALIZER)).collect();
    let patch = json!({ "metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version, "finalizers": finalizers,
    } });
    written(in_time(context.volumes().patch(volume.name(), &PatchParams::default(), &Patch::Merge(&patch))).await)
}

async fn write_change(context: &Context, volume: &Volume, change: &VolumeChange) -> Result<Option<Duration>, ApiError> {
    let mut patch = json!({ "metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version, "labels": change.labels,
    } });
    if let Some(bytes) = change.bytes {
        patch["spec"] = json!({ "capacity": { "storage": quantity(bytes) } });
    }
    written(in_time(context.volumes().patch(volume.name(), &PatchParams::default(), &Patch::Merge(&patch))).await)
}

pub(super) async fn write_spec(context: &Context, disk: &LocalDisk, spec: Value) -> Result<(), ApiError> {
    let patch = json!({
        "metadata": { "uid": disk.uid(), "resourceVersion": disk.metadata.resource_version },
        "spec": spec,
    });
    written(in_time(context.disks().patch(disk.name(), &PatchParams::default(), &Patch::Merge(&patch))).await).map(drop)
}

/// Whoever was faster has made a change that brings it here again.
fn written<T>(patched: Result<T, ApiError>) -> Result<Option<Duration>, ApiError> {
    match patched {
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(Some(RECHECK)),
        patched => patched.map(|_| None),
    }
}

/// The disks that a change of a volume has to be looked at for.
pub(super) fn keys_of(context: &Context, volume: &Volume) -> Vec<Key> {
    let own = volume.metadata.annotation(LOCAL_DISK).map(str::to_owned);
    let adopted = context.stores.disks.find(&disk_of_volume(volume.name()));
    own.into_iter().chain(adopted.iter().map(|disk| disk.name().to_owned())).map(Key::Disk).collect()
}

impl Context {
    pub(super) fn disks(&self) -> Api<LocalDisk> {
        Api::all(self.client.clone())
    }
}
