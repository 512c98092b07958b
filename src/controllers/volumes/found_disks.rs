//! What agents have found of whole disks, held against the rules of pools: each disk that can be a volume gets a LocalDisk.

use std::sync::Arc;

use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::context::Context;
use super::disk_rules::{adopted_volume, rule_of};
use super::disks::{NOT_OFFERED, forget, write_spec};
use super::memory::Memory;
use crate::crd::{DiskReport, DiskRule, Kept, LocalDisk, LocalNode};
use crate::facts::live::{disk_of_node, disk_with_mark};
use crate::kubernetes::api::{ApiError, in_time};
use crate::volumes::disks::{Offer, new_disk, offer};

/// Takes up what an agent has found: each disk that can be a volume gets a LocalDisk, or it is said why not.
pub(super) async fn reconcile_report(context: &Context, memory: &Memory, report: &LocalNode) -> Result<(), ApiError> {
    let Some(status) = &report.status else { return Ok(()) };
    let node_name = report.name_any();
    let Some(node) = context.node(&node_name) else { return Ok(()) };
    // It is about the Node that there is.
    if node.metadata.uid.as_deref() != Some(report.spec.node_uid.as_str()) {
        return Ok(());
    }
    for found in &status.disks {
        if !found.usable {
            tell_of_node(context, memory, report, &found.message);
            continue;
        }
        let Some(rule) = rule_of(context, &node_name, &found.pool, &found.storage_class_name, &found.path).found()
        else {
            continue;
        };
        take_up(context, memory, report, found, &rule).await?;
    }
    Ok(())
}

async fn take_up(
    context: &Context,
    memory: &Memory,
    report: &LocalNode,
    found: &DiskReport,
    rule: &DiskRule,
) -> Result<(), ApiError> {
    let (disks, node_name) = (&context.stores.disks, report.name_any());
    let here = disks.find(&disk_of_node(&node_name));
    let alike: Vec<Arc<Kept<LocalDisk>>> =
        found.identity.marks().flat_map(|mark| disks.find(&disk_with_mark(&mark))).collect();
    let uid = report.spec.node_uid.as_str().into();
    let new = || {
        let mut disk = new_disk(found, rule, (&node_name, Some(&uid)));
        disk.spec.adopted_volume = adopted_volume(context, rule, &found.path, &node_name);
        disk
    };
    let decided = offer(found, &node_name, new, here.iter().map(|disk| &***disk), alike.iter().map(|disk| &***disk));
    match decided {
        Offer::Known => Ok(()),
        Offer::Refuse(why) => {
            tell_of_node(context, memory, report, &why);
            Ok(())
        }
        Offer::Create(disk) => match in_time(context.disks().create(&PostParams::default(), &disk)).await {
            // The cache has not shown it yet.
            Err(error) if error.is_conflict() => Ok(()),
            made => made.map(|made| {
                context.metrics.disk("found");
                tracing::info!(disk = made.name(), node = node_name, path = made.spec.path, "a disk was found");
            }),
        },
        Offer::Learn { name, identity } => match disks.get(&name) {
            Some(disk) => write_spec(context, &disk, json!({ "identity": identity })).await,
            None => Ok(()),
        },
        Offer::Replace(name) => match disks.get(&name) {
            Some(disk) => forget(context, &disk).await.map(drop),
            None => Ok(()),
        },
    }
}

/// The same of what is found and not offered.
fn tell_of_node(context: &Context, memory: &Memory, report: &LocalNode, why: &str) {
    if memory.is_news(&format!("{NOT_OFFERED} {}", report.name_any()), why) {
        context.events.warning(report.object_ref(&()), NOT_OFFERED, why);
    }
}
