//! What holds whichever Pod names a node: what a policy of the API server can be told before the Pod is there.
//!
//! A policy sees the Pod and one parameter. A claim, a class or a node is told to it only where [`super::decide_pod`] would
//! find nothing against a rewrite on its account, whatever else the Pod declares. What depends on the pair of claim and node,
//! such as static volumes, allowed topologies or published capacity, is not told, and left to the rescue loop.

use std::sync::Arc;

use super::asked::Asked;
use super::assume::Assumptions;
use super::claim_state::{ClaimState, Selected, claim_state};
use super::obstacle::may_be_csi;
use super::place::Place;
use super::pod::own_hostname;
use super::{ClusterView, Lookup};
use crate::model::{Claim, Class, HOSTNAME_LABEL, Node, PodOnNode, Text};

/// Claims of one Pod up to which a policy decides. A node that can hold fewer volumes of some driver is not told to it.
pub const MOST_POLICY_CLAIMS: usize = 8;

/// Where a Pod's required anti-affinity may keep others away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Away {
    /// From its node, Pods of every namespace.
    FromNode(Text),
    /// From its node, Pods of one namespace: namespace, node.
    FromNodeIn(Text, Text),
    /// From an unknown number of nodes, Pods of one namespace.
    In(Text),
    /// From an unknown number of nodes, Pods of every namespace.
    Everywhere,
}

/// True when the claims of the class wait for the scheduler, and it could have each of them bound on any node: a provisioner
/// makes their volumes, wherever it is asked to.
#[must_use]
pub fn binds_anywhere(class: &Class, view: &dyn ClusterView) -> bool {
    let driver = || match view.csi_driver(&class.provisioner) {
        Lookup::Absent => true,
        Lookup::Found(driver) => !driver.spec.storage_capacity && !driver.spec.prevent_pod_scheduling_if_missing,
        Lookup::Unknown => false,
    };
    class.is_delayed()
        && class.is_dynamic()
        && class.allowed_topologies.is_empty()
        && (!may_be_csi(&class.provisioner) || driver())
}

/// True when the claim waits for the scheduler, which could have it bound on any node, for any Pod.
#[must_use]
pub fn waits_anywhere(claim: &Arc<Claim>, view: &dyn ClusterView) -> bool {
    let asked = Asked::new(view, Assumptions::default());
    let ClaimState::Delayed(delayed) = claim_state(claim, "", &Lookup::Unknown, &asked) else { return false };
    let exclusive = claim.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod");
    delayed.selected == Selected::Nobody && !exclusive && binds_anywhere(&delayed.class, view)
}

/// The value of the node's hostname label, where it leads to this node alone and the scheduler could place a Pod on it that
/// tolerates nothing.
#[must_use]
pub fn open_node(node: &Arc<Node>, view: &dyn ClusterView) -> Option<String> {
    let keeps_off = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let holds_enough = match view.csi_node(node.name()) {
        Lookup::Absent => true,
        Lookup::Unknown => false,
        Lookup::Found(csi_node) => {
            let counts = csi_node.spec.drivers.iter().filter_map(|driver| driver.allocatable.as_ref()?.count);
            counts.into_iter().all(|count| usize::try_from(count).is_ok_and(|count| count >= MOST_POLICY_CLAIMS))
        }
    };
    let is_open = node.is_ready()
        && !node.spec.unschedulable
        && !node.spec.taints.iter().any(|taint| keeps_off(&taint.effect))
        && holds_enough;
    if !is_open {
        return None;
    }
    own_hostname(&Place::known(Arc::clone(node), false), &Asked::new(view, Assumptions::default()))
}

/// From where a Pod keeps others away; nothing for a Pod that does not. Whom its label selectors mean is not looked at: any
/// Pod of the namespaces may be meant.
#[must_use]
pub fn keeps_away_from(pod: &PodOnNode) -> Vec<Away> {
    let Some(node) = pod.node().filter(|_| pod.keeps_others_away()) else { return Vec::new() };
    let mut found = Vec::new();
    for term in pod.terms() {
        let on_its_node = term.topology_key == HOSTNAME_LABEL;
        // Of terms that were too large to be kept it is not known whom they mean.
        let of_all = term.namespace_selector.is_some() || pod.is_cut;
        let mut namespaces: Vec<Text> = term.namespaces.clone();
        if namespaces.is_empty() {
            namespaces.push(pod.namespace().into());
        }
        match (on_its_node, of_all) {
            (true, true) => found.push(Away::FromNode(node.into())),
            (false, true) => found.push(Away::Everywhere),
            (true, false) => found.extend(namespaces.into_iter().map(|name| Away::FromNodeIn(name, node.into()))),
            (false, false) => found.extend(namespaces.into_iter().map(Away::In)),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
