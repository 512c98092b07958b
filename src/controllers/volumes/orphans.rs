//! Directories that no volume names any more. An agent cannot see volumes, and so asks by its report; an order to remove
//! one is given only when the API server, asked at that moment, knows no volume and no claim that it belongs to.

use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};

use super::context::Context;
use super::memory::{Memory, ORPHAN_CHECK};
use crate::crd::{DISK_HUNG, Kept, LocalNode, LocalVolume, NODE_REPLACED, ORPHANS_HELD, Orphan, condition};
use crate::kubernetes::api::{ApiError, in_time, list_all};
use crate::model::{Claim, Wire};
use crate::volumes::{OrphanFacts, orphan_kept, orphan_order};

/// Looks at what a node reports: tells of what needs a person, and orders the removal of what may go.
pub(super) async fn reconcile(
    context: &Context,
    memory: &Memory,
    report: Arc<Kept<LocalNode>>,
) -> Result<Option<Duration>, ApiError> {
    tell(context, memory, &report);
    let Some(status) = &report.status else { return Ok(None) };
    let node_name = report.name_any();
    let due: Vec<&Orphan> = status
        .orphans
        .iter()
        .filter(|orphan| orphan.removable && !orphan.retained)
        .filter(|orphan| context.local(&LocalVolume::name_for(&orphan.claim, &node_name)).is_none())
        .collect();
    if due.is_empty() {
        return Ok(None);
    }
    let left = memory.placement.lock().orphans_left(&node_name);
    if left == 0 {
        let text =
            "directories are reported as removable while as many as may go are on their way out; those come first";
        once((context, memory), &report, "OrphanKept", text);
        return Ok(Some(ORPHAN_CHECK));
    }
    // The queue gives a report to one worker at a time.
    if let Err(left) = memory.check_orphans_now(&node_name) {
        return Ok(Some(left));
    }
    // No cache: what may destroy is decided by what the API server says now.
    let volumes = context.live_volumes.now(&context.client).await?;
    let claims = list_all(&Api::<Wire<Claim>>::all(context.client.clone())).await?;
    let claims: Vec<Claim> = claims.into_iter().map(|read| read.object).collect();
    let node = context.node(&node_name);
    let facts = OrphanFacts { volumes: &volumes, claims: &claims, node: node.as_deref() };
    let (mut kept, mut ordered) = (false, 0);
    for orphan in due {
        match orphan_kept(orphan, &facts) {
            None if ordered >= left => kept = true,
            Some(why) => {
                kept = true;
                context.metrics.orphan(false);
                let text = format!("{} is not removed: {why}", orphan.directory());
                once((context, memory), &report, "OrphanKept", &text);
            }
            None => {
                order(context, &report, orphan).await?;
                ordered += 1;
            }
        }
    }
    Ok(kept.then_some(ORPHAN_CHECK))
}

/// Makes the order. A LocalVolume of that name, whatever it is, stands in the way: then it is no orphan.
async fn order(context: &Context, report: &LocalNode, orphan: &Orphan) -> Result<(), ApiError> {
    let order = orphan_order(orphan, &report.name_any(), &report.spec.node_uid);
    match in_time(context.locals().create(&PostParams::default(), &order)).await {
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            context.metrics.orphan(true);
            let note = format!("no volume names {}: its removal is ordered", orphan.directory());
            context.events.normal(report.object_ref(&()), "OrphanRemovalOrdered", &note);
            Ok(())
        }
    }
}

/// What the agent, which writes no events, has to say.
fn tell(context: &Context, memory: &Memory, report: &LocalNode) {
    let conditions = report.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for kind in [NODE_REPLACED, ORPHANS_HELD, DISK_HUNG] {
        if let Some(said) = condition(conditions, kind).filter(|said| said.status == "True") {
            once((context, memory), report, kind, &said.message);
        }
    }
}

fn once((context, memory): (&Context, &Memory), report: &LocalNode, reason: &'static str, note: &str) {
    if memory.is_news(&format!("{reason} {}", report.name_any()), note) {
        context.events.warning(report.object_ref(&()), reason, note);
    }
}
