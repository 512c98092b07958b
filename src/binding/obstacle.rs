//! What would keep the scheduler from placing a rewritten Pod on the node that it names.
//!
//! A Pod is rewritten only when nothing does: it must never be worse off than without latebind.

use std::sync::Arc;

use super::claim_state::{ClaimState, Reach, Selected};
use super::declared::{Declared, choose_among};
use super::finding::{Code, FieldPath, Finding};
use super::selector::{label_selector_matches, labels, topology_allows, untolerated};
use super::{ClusterView, Lookup, Rules};
use crate::model::{Claim, Node, Pod, Quantity};

use k8s_openapi::api::core::v1::Taint;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints that say in what condition the node is, not who may use it.
const CONDITION_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

fn at(code: Code, path: &[&str], message: String) -> Finding {
    code.at(FieldPath::new(path), message)
}

/// Why the kubelet itself would reject the Pod, with or without a rewrite.
pub(super) fn rejection(pod: &Pod, node: &Node) -> Option<Finding> {
    // The API server gives every Pod a toleration for these two unless it brings its own.
    // Source: `plugin/pkg/admission/defaulttolerationseconds`.
    let evicting: Vec<Taint> =
        node.spec.taints.iter().filter(|taint| !CONDITION_TAINTS.contains(&taint.key.as_str())).cloned().collect();
    if let Some(taint) = untolerated(&pod.spec, &evicting, "NoExecute") {
        let message =
            format!("node {:?} has the taint {}:NoExecute, which the Pod does not tolerate", node.name(), taint.key);
        return Some(at(Code::Evicted, &["spec", "nodeName"], message));
    }
    if !super::selector::pod_accepts(&pod.spec, node) {
        let field = if pod.spec.node_selector.is_some() { "nodeSelector" } else { "affinity" };
        let message = format!("the Pod's own node selector or affinity excludes node {:?}", node.name());
        return Some(at(Code::SelectorContradicts, &["spec", field], message));
    }
    None
}

/// Everything that speaks against a rewrite; empty when it is safe.
pub(super) fn obstacles(
    pod: &Pod,
    node: &Node,
    declared: &[Declared],
    view: &dyn ClusterView,
    rules: &Rules,
) -> Vec<Finding> {
    let mut found = node_obstacles(pod, node);
    found.extend(pod_obstacles(pod, node, rules));
    found.extend(claim_obstacles(pod, node, declared, view));
    found.extend(driver_obstacles(node, declared, view));
    found
}

fn node_obstacles(pod: &Pod, node: &Node) -> Vec<Finding> {
    let name = node.name();
    let mut found = Vec::new();
    let cordon = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if node.spec.unschedulable && untolerated(&pod.spec, std::slice::from_ref(&cordon), "NoSchedule").is_some() {
        found.push(at(Code::Cordoned, &["spec", "nodeName"], format!("node {name:?} is cordoned")));
    }
    if !node.is_ready() {
        found.push(at(Code::NodeNotReady, &["spec", "nodeName"], format!("node {name:?} is not ready")));
    }
    let others: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|taint| {
            // Already said, in the condition's or the cordon's own words.
            let said = (node.spec.unschedulable && taint.key == UNSCHEDULABLE)
                || (!node.is_ready() && CONDITION_TAINTS.contains(&taint.key.as_str()));
            !said
        })
        .cloned()
        .collect();
    if let Some(taint) = untolerated(&pod.spec, &others, "NoSchedule") {
        let message = format!("node {name:?} has the taint {}:NoSchedule, which the Pod does not tolerate", taint.key);
        found.push(at(Code::UntoleratedTaint, &["spec", "nodeName"], message));
    }
    found
}

fn pod_obstacles(pod: &Pod, node: &Node, rules: &Rules) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(resource) = missing_extended_resource(pod, node) {
        let message = format!("node {:?} does not offer {resource}, which a container asks for", node.name());
        found.push(at(Code::ExtendedResource, &["spec", "nodeName"], message));
    }
    if let Some(affinity) = &pod.spec.affinity {
        for (terms, field) in
            [(&affinity.pod_affinity, "podAffinity"), (&affinity.pod_anti_affinity, "podAntiAffinity")]
        {
            if terms.as_ref().is_some_and(|terms| !terms.required.is_empty()) {
                let message = format!("the Pod requires {field}, which nodeName ignores and the scheduler does not");
                found.push(at(Code::PodAffinityRequired, &["spec", "affinity", field], message));
            }
        }
    }
    if let Some(finding) = spread_obstacle(pod, node) {
        found.push(finding);
    }
    let scheduler = pod.spec.scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default-scheduler");
    if !rules.schedulers.iter().any(|known| known == scheduler) {
        let message = format!("scheduler {scheduler:?} is not known to bind volumes");
        found.push(at(Code::OtherScheduler, &["spec", "schedulerName"], message));
    }
    found
}

/// An extended resource that a container asks for and the node does not advertise. The kubelet drops such a request.
/// Source: `pkg/kubelet/lifecycle/predicate.go`, `removeMissingExtendedResources`.
fn missing_extended_resource<'a>(pod: &'a Pod, node: &Node) -> Option<&'a str> {
    let asked = pod.spec.init_containers.iter().chain(&pod.spec.containers).flat_map(|container| {
        // A limit without a request is also the request.
        container.resources.requests.iter().chain(&container.resources.limits)
    });
    let extended = asked.filter(|(name, amount)| {
        let native = !name.contains('/') || name.contains("kubernetes.io/");
        !native && **amount > Quantity::ZERO
    });
    extended.map(|(name, _)| name.as_str()).find(|name| !node.status.allocatable.contains_key(name))
}

/// A hard topology spread constraint that could exclude the node. With the defaults the pin leaves the node's domain as
/// the only one, and the constraint holds.
/// Source: `pkg/scheduler/framework/plugins/podtopologyspread/common.go`.
fn spread_obstacle(pod: &Pod, node: &Node) -> Option<Finding> {
    let tainted = ["NoSchedule", "NoExecute"];
    let tainted = tainted.iter().any(|effect| untolerated(&pod.spec, &node.spec.taints, effect).is_some());
    let hard = pod.spec.topology_spread_constraints.iter().enumerate();
    let mut hard = hard.filter(|(_, constraint)| constraint.when_unsatisfiable != "ScheduleAnyway");
    let (place, why) = hard.find_map(|(place, constraint)| {
        let why = if constraint.min_domains.is_some_and(|least| least > 1) {
            "wants more than one domain"
        } else if constraint.node_affinity_policy.as_deref() == Some("Ignore") {
            "looks at nodes that the Pod cannot run on"
        } else if node.label(&constraint.topology_key).is_none() {
            "uses a topology key that the node lacks"
        } else if constraint.node_taints_policy.as_deref() == Some("Honor") && tainted {
            "leaves out tainted nodes"
        } else {
            return None;
        };
        Some((place, why))
    })?;
    let place = place.to_string();
    let message = format!("a topology spread constraint {why}");
    Some(at(Code::SpreadConstraint, &["spec", "topologySpreadConstraints", &place], message))
}

fn claim_obstacles(pod: &Pod, node: &Node, declared: &[Declared], view: &dyn ClusterView) -> Vec<Finding> {
    let chosen = choose_among(declared, node, view, |_, delayed| delayed.selected == Selected::Nobody);
    let mut found = Vec::new();
    for (place, claim) in declared.iter().enumerate() {
        let choice = chosen.iter().find(|(chosen, _)| *chosen == place).map(|(_, volume)| volume);
        let again = declared[..place].iter().any(|earlier| earlier.is_same_claim(claim));
        if again && matches!(choice, Some(Lookup::Found(_))) {
            // The scheduler does not notice that both are one claim, and looks for a second volume.
            // Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `findMatchingVolumes`.
            found.push(blocks(claim));
        } else {
            found.extend(claim_obstacle(claim, node, choice, view));
        }
        found.extend(exclusive_obstacle(pod, claim, view));
    }
    found
}

fn blocks(claim: &Declared) -> Finding {
    let message = format!("{} would keep the scheduler waiting", claim.label());
    Code::DeclaredClaimBlocks.at(claim.path(), message)
}

/// Why the scheduler would wait for one declared claim, mounted or not, on this node.
fn claim_obstacle(
    claim: &Declared,
    node: &Node,
    choice: Option<&Lookup<Arc<crate::model::Volume>>>,
    view: &dyn ClusterView,
) -> Option<Finding> {
    let blocks = || Some(blocks(claim));
    let unknown = || {
        let message = format!("volumes or capacities that {} could use are not known", claim.label());
        Some(Code::FactsNotKnown.at(claim.path(), message))
    };
    let delayed = match &claim.state {
        ClaimState::Bound { reach: Reach::Yes, .. } => return None,
        ClaimState::Delayed(delayed) => delayed,
        _ => return blocks(),
    };
    match (&delayed.selected, delayed.class.is_dynamic(), choice) {
        (Selected::ThisNode, true, _) | (Selected::Nobody, _, Some(Lookup::Found(_))) => None,
        (Selected::Nobody, _, Some(Lookup::Unknown)) => unknown(),
        (Selected::Nobody, true, _) => {
            if !topology_allows(&delayed.class.allowed_topologies, node) {
                return blocks();
            }
            match has_room(&delayed.claim, delayed.class.name(), &delayed.class.provisioner, node, view) {
                Lookup::Found(true) => None,
                Lookup::Found(false) | Lookup::Absent => {
                    let message =
                        format!("no published capacity has room for {} on node {:?}", claim.label(), node.name());
                    Some(Code::CapacityShort.at(claim.path(), message))
                }
                Lookup::Unknown => unknown(),
            }
        }
        _ => blocks(),
    }
}

/// Whether the capacity that the driver publishes suffices; always where it publishes none.
/// Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `hasEnoughCapacity`.
fn has_room(claim: &Claim, class_name: &str, driver_name: &str, node: &Node, view: &dyn ClusterView) -> Lookup<bool> {
    match view.csi_driver(driver_name) {
        Lookup::Unknown => return Lookup::Unknown,
        Lookup::Found(driver) if driver.spec.storage_capacity => {}
        Lookup::Found(_) | Lookup::Absent => return Lookup::Found(true),
    }
    let node_labels = labels(node.metadata.labels.as_ref());
    view.capacities_of_class(class_name).map(|capacities| {
        capacities.iter().any(|capacity| {
            let covers = |topology| label_selector_matches(topology, node_labels);
            let room = capacity.maximum_volume_size.or(capacity.capacity);
            capacity.node_topology.as_ref().is_some_and(covers) && room.is_some_and(|room| room >= claim.request())
        })
    })
}

/// Another live Pod uses a `ReadWriteOncePod` claim of this one.
fn exclusive_obstacle(pod: &Pod, claim: &Declared, view: &dyn ClusterView) -> Option<Finding> {
    // What a template makes is used by the Pod alone.
    let name = claim.claim_name.as_deref().filter(|_| !claim.from_template)?;
    let stored = view.claim(pod.namespace(), name).found()?;
    if !stored.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        return None;
    }
    let others = match view.consumers(pod.namespace(), name) {
        Lookup::Found(others) => others,
        Lookup::Absent => return None,
        Lookup::Unknown => {
            let message = format!("which Pods use {} is not known, and it allows one Pod only", claim.label());
            return Some(Code::FactsNotKnown.at(claim.path(), message));
        }
    };
    let other = others.iter().find(|other| other.is_live() && !super::pod::is_same(other, pod))?;
    let message = format!("Pod {:?} uses {}, which allows one Pod only", other.display_name(), claim.label());
    Some(Code::Exclusive.at(claim.path(), message))
}

/// Drivers that the node lacks, or of which it can hold too few volumes.
fn driver_obstacles(node: &Node, declared: &[Declared], view: &dyn ClusterView) -> Vec<Finding> {
    let mut wanted: std::collections::BTreeMap<String, (usize, FieldPath)> = std::collections::BTreeMap::new();
    for (place, claim) in declared.iter().enumerate() {
        if declared[..place].iter().any(|earlier| earlier.is_same_claim(claim)) {
            continue;
        }
        let driver = match &claim.state {
            ClaimState::Bound { volume, .. } => view
                .volume(volume)
                .found()
                .and_then(|volume| volume.spec.csi.as_ref().map(|csi| csi.driver.to_string())),
            ClaimState::Delayed(delayed) if delayed.class.is_dynamic() => Some(delayed.class.provisioner.clone()),
            _ => None,
        };
        if let Some(driver) = driver {
            wanted.entry(driver).or_insert_with(|| (0, claim.path())).0 += 1;
        }
    }
    let drivers = wanted.into_iter().filter_map(|(driver, (volumes, path))| {
        driver_obstacle(node, &driver, volumes, view).map(|(code, message)| code.at(path, message))
    });
    drivers.collect()
}

/// What keeps the scheduler from bringing that many more volumes of one driver to the node.
fn driver_obstacle(node: &Node, driver: &str, volumes: usize, view: &dyn ClusterView) -> Option<(Code, String)> {
    let name = node.name();
    let unknown =
        || Some((Code::FactsNotKnown, format!("whether driver {driver:?} runs on node {name:?} is not known")));
    let registered = match view.csi_node(name) {
        Lookup::Found(csi_node) => csi_node.spec.drivers.iter().find(|entry| entry.name == driver).cloned(),
        Lookup::Absent => None,
        Lookup::Unknown => return unknown(),
    };
    let Some(registered) = registered else {
        return match view.csi_driver(driver) {
            Lookup::Found(driver) if !driver.spec.prevent_pod_scheduling_if_missing => None,
            Lookup::Found(_) => {
                Some((Code::DriverMissing, format!("driver {driver:?} is not registered on node {name:?}")))
            }
            Lookup::Absent => None,
            Lookup::Unknown => unknown(),
        };
    };
    let most = usize::try_from(registered.allocatable?.count?).unwrap_or(usize::MAX);
    let message = format!("node {name:?} holds at most {most} volumes of driver {driver:?}");
    (volumes > most).then_some((Code::AttachLimit, message))
}
