//! A Node that was deleted and made anew under the same name. It may be the same machine, which keeps its disks, or another
//! one. Volumes that are there are served as before, since markers tell whose they are; nothing new begins until every disk
//! that holds a volume of the old Node has been found.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::state::Agent;
use crate::crd::{NODE_REPLACED, Origin, is_true, set_condition};

/// The bases that hold volumes of this node and were not found when they were looked at last, each with the reason.
/// Nothing unless the Node is another object than before.
pub(super) fn missing(agent: &Agent) -> Vec<String> {
    if !agent.is_replaced() {
        return Vec::new();
    }
    let locals = agent.caches.locals.all();
    let made = locals.iter().filter(|local| matches!(local.spec.origin, Origin::Made | Origin::Recovered));
    let expected: BTreeSet<(String, String)> =
        made.filter_map(|local| Some((local.spec.base.clone(), local.status.as_ref()?.base_id.clone()?))).collect();
    let looks = agent.looks();
    let missing = expected.into_iter().filter_map(|(path, id)| match looks.get(&path).map(|look| &look.identity) {
        Some(Ok(Some(found))) if *found == id => None,
        Some(Ok(Some(found))) => Some(format!("{path} is another disk (base {found}, expected {id})")),
        Some(Ok(None)) => Some(format!("{path} is empty (expected base {id})")),
        Some(Err(error)) => Some(error.clone()),
        None => Some(format!("{path} has not been looked at")),
    });
    missing.collect()
}

/// Says so in a condition, which is there only after a Node was replaced.
pub(super) fn tell(agent: &Agent, missing: &[String], conditions: &mut Vec<Condition>, now: Timestamp) {
    let name = &agent.options.node_name;
    if !missing.is_empty() {
        let message = format!(
            "Node {name} was made anew under the same name, and the disks of its volumes were not found: {}; bring them \
             back, or delete LocalNode {name} to accept the Node as it is",
            missing.join("; ")
        );
        set_condition(conditions, (NODE_REPLACED, true, "DisksMissing", &message), None, now);
    } else if agent.is_replaced() {
        let message = "the disks of all volumes of the earlier Node are there";
        set_condition(conditions, (NODE_REPLACED, false, "DisksFound", message), None, now);
    } else if is_true(conditions, NODE_REPLACED) {
        // What was missing is confirmed without having been found: only a new LocalNode does that.
        let message = "the Node was accepted as it is, without the disks of the earlier one";
        set_condition(conditions, (NODE_REPLACED, false, "Accepted", message), None, now);
    }
}
