//! A Node that was deleted and made anew under the same name. It may be the same machine, which keeps its disks, or another
//! one. Volumes that are there are served as before, since markers tell whose they are; nothing new begins until every disk
//! that holds a volume of the old Node has been found.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::base::Base;
use super::run::Agent;
use crate::crd::{NODE_REPLACED, Origin, is_true, set_condition};

impl Agent {
    /// True while the Node is another object than the one whose disks were confirmed.
    pub(super) fn is_replaced(&self) -> bool {
        let confirmed = self.confirmed().clone();
        !confirmed.is_empty() && confirmed != self.node_uid()
    }
}

/// The bases that hold volumes of this node and were not found, each with the reason. Nothing unless the Node is another
/// object than before.
pub(super) fn missing(agent: &Agent) -> Vec<String> {
    if !agent.is_replaced() {
        return Vec::new();
    }
    let locals = agent.locals();
    let made = locals.iter().filter(|local| matches!(local.spec.origin, Origin::Made | Origin::Recovered));
    let expected: BTreeSet<(String, String)> =
        made.filter_map(|local| Some((local.spec.base.clone(), local.status.as_ref()?.base_id.clone()?))).collect();
    let looked = expected.into_iter().filter_map(|(path, id)| {
        let found = Base::open_existing(&agent.options.bases, &path).and_then(|base| base.known_id());
        match found {
            Ok(Some(found)) if found == id => None,
            Ok(Some(found)) => Some(format!("{path} is another disk (base {found}, expected {id})")),
            Ok(None) => Some(format!("{path} is empty (expected base {id})")),
            Err(error) => Some(error.to_string()),
        }
    });
    looked.collect()
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
