//! What would keep the scheduler from placing a rewritten Pod on the node that it names.
//!
//! A Pod is rewritten only when nothing does: it must never be worse off than without latebind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::asked::Asked;
use super::assume::Assumption;
use super::claim_state::{ClaimState, Delayed, Reach, Selected};
use super::declared::{Declared, choose_among, repeated};
use super::finding::{Code, FieldPath, Finding};
use super::migrated::{SEVERAL, ZONE_LABELS, scheduler_affinity};
use super::neighbours::repels;
use super::place::{Place, among, without};
use super::{Kind, Lookup, Rules};
use crate::model::selector::untolerated;
use crate::model::{Node, Pod, Quantity, Volume};

use k8s_openapi::api::core::v1::Taint;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints that say in what condition the node is, not who may use it.
const CONDITION_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

fn at(code: Code, path: &[&str], message: String) -> Finding {
    code.at(FieldPath::new(path), message)
}

/// Why the kubelet itself would reject the Pod, with or without a rewrite.
pub(super) fn rejection(pod: &Pod, place: &Place) -> Option<Finding> {
    let node = place.node();
    // The API server gives every Pod a toleration for these two unless it brings its own.
    // Source: `plugin/pkg/admission/defaulttolerationseconds`.
    let evicting: Vec<Taint> =
        node.spec.taints.iter().filter(|taint| !CONDITION_TAINTS.contains(&taint.key.as_str())).cloned().collect();
    if let Some(taint) = untolerated(&pod.spec, &evicting, "NoExecute") {
        let message =
            format!("node {:?} has the taint {}:NoExecute, which the Pod does not tolerate", node.name(), taint.key);
        return Some(at(Code::Evicted, &["spec", "nodeName"], message));
    }
    if !place.is_accepted_by(&pod.spec) {
        let field = if pod.spec.node_selector.is_some() { "nodeSelector" } else { "affinity" };
        let message = if place.is_assumed() {
            format!("the Pod's own node selector and affinity exclude node {:?} whatever its labels are", node.name())
        } else {
            format!("the Pod's own node selector or affinity excludes node {:?}", node.name())
        };
        return Some(at(Code::SelectorContradicts, &["spec", field], message));
    }
    None
}

/// Everything that speaks against a rewrite; empty when it is safe.
pub(super) fn obstacles(
    pod: &Pod,
    place: &Place,
    declared: &[Declared],
    asked: &Asked<'_>,
    rules: &Rules,
) -> Vec<Finding> {
    let mut found = node_obstacles(pod, place.node());
    found.extend(pod_obstacles(pod, place, rules));
    found.extend(neighbour_obstacle(pod, place, asked));
    found.extend(claim_obstacles(pod, place, declared, asked));
    found.extend(driver_obstacles(place, declared, asked));
    found
}

/// Why the scheduler places no such Pod on a node now, whatever the Pod's volumes: it is cordoned, not ready, or has a taint
/// that the Pod does not tolerate.
#[must_use]
pub fn node_obstacles(pod: &Pod, node: &Node) -> Vec<Finding> {
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

fn pod_obstacles(pod: &Pod, place: &Place, rules: &Rules) -> Vec<Finding> {
    let mut found = Vec::new();
    for (group, field) in [(&pod.spec.scheduling_group, "schedulingGroup"), (&pod.spec.workload_ref, "workloadRef")] {
        if group.is_some() {
            let message = "the scheduler would hold the Pod back until its group has come".to_owned();
            found.push(at(Code::InGroup, &["spec", field], message));
        }
    }
    if let Some(resource) = missing_extended_resource(pod, place) {
        let message = format!("node {:?} does not offer {resource}, which a container asks for", place.name());
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
    if let Some(finding) = spread_obstacle(pod, place) {
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
fn missing_extended_resource<'a>(pod: &'a Pod, place: &Place) -> Option<&'a str> {
    let asked = pod.spec.init_containers.iter().chain(&pod.spec.containers).flat_map(|container| {
        // A limit without a request is also the request.
        container.resources.requests.iter().chain(&container.resources.limits)
    });
    let extended = asked.filter(|(name, amount)| {
        let native = !name.contains('/') || name.contains("kubernetes.io/");
        !native && **amount > Quantity::ZERO
    });
    extended.map(|(name, _)| name.as_str()).find(|name| !place.offers(name))
}

/// A hard topology spread constraint that could exclude the node. With the defaults the pin leaves the node's domain as
/// the only one, and the constraint holds.
/// Source: `pkg/scheduler/framework/plugins/podtopologyspread/common.go`.
fn spread_obstacle(pod: &Pod, place: &Place) -> Option<Finding> {
    let node = place.node();
    let tainted = ["NoSchedule", "NoExecute"];
    let tainted = tainted.iter().any(|effect| untolerated(&pod.spec, &node.spec.taints, effect).is_some());
    let hard = pod.spec.topology_spread_constraints.iter().enumerate();
    let mut hard = hard.filter(|(_, constraint)| constraint.when_unsatisfiable != "ScheduleAnyway");
    let (index, why) = hard.find_map(|(index, constraint)| {
        let why = if constraint.min_domains.is_some_and(|least| least > 1) {
            "wants more than one domain"
        } else if constraint.node_affinity_policy.as_deref() == Some("Ignore") {
            "looks at nodes that the Pod cannot run on"
        } else if !place.has_label(&constraint.topology_key) {
            "uses a topology key that the node lacks"
        } else if constraint.node_taints_policy.as_deref() == Some("Honor") && tainted {
            "leaves out tainted nodes"
        } else {
            return None;
        };
        Some((index, why))
    })?;
    let index = index.to_string();
    let message = format!("a topology spread constraint {why}");
    Some(at(Code::SpreadConstraint, &["spec", "topologySpreadConstraints", &index], message))
}

/// A Pod that is there already and wants this one away. Where it is not known which Pods there are, the Pod keeps its node
/// name: rewritten it could wait for a neighbour that it runs beside today.
fn neighbour_obstacle(pod: &Pod, place: &Place, asked: &Asked<'_>) -> Option<Finding> {
    let node = place.name();
    let (answer, other) = repels(pod, place, &**asked);
    let named = other.map(|other| {
        let name = other.metadata.name.as_ref().or(other.metadata.generate_name.as_ref()).map_or("", |name| name);
        format!("Pod {name:?} of namespace {:?}", other.namespace())
    });
    match (answer, named) {
        (Lookup::Found(()), named) => {
            let message = format!(
                "{} requires to be away from this one, which nodeName ignores and the scheduler does not",
                named.unwrap_or_default()
            );
            Some(at(Code::RepelledByPod, &["spec", "nodeName"], message))
        }
        (Lookup::Absent, _) if asked.knows_all(Kind::AntiAffinityPods) => None,
        (_, named) => {
            // Who takes the Node as one that takes the Pod takes its Pods so too.
            let no_other = || Assumption::NoRepellingPod { node: node.to_owned() };
            let granted = place.is_assumed() || asked.grant_node(no_other);
            let message = match named {
                Some(named) => format!("whether {named} requires to be away from this one is not known"),
                None => {
                    format!("whether a Pod on or near node {node:?} requires to be away from this one is not known")
                }
            };
            (!granted).then(|| at(Code::FactsNotKnown, &["spec", "nodeName"], message))
        }
    }
}

fn claim_obstacles(pod: &Pod, place: &Place, declared: &[Declared], asked: &Asked<'_>) -> Vec<Finding> {
    let chosen = choose_among(declared, place, &**asked, |_, delayed| delayed.selected == Selected::Nobody);
    let chosen: HashMap<usize, Lookup<Arc<Volume>>> = chosen.into_iter().collect();
    let mut found = Vec::new();
    for (at, (claim, again)) in declared.iter().zip(repeated(declared)).enumerate() {
        let choice = chosen.get(&at);
        if again && matches!(choice, Some(Lookup::Found(_))) {
            // The scheduler does not notice that both are one claim, and looks for a second volume.
            // Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `findMatchingVolumes`.
            found.push(blocks(claim));
        } else {
            found.extend(claim_obstacle(claim, place, choice, asked));
        }
        found.extend(exclusive_obstacle(pod, claim, asked));
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
    place: &Place,
    choice: Option<&Lookup<Arc<Volume>>>,
    asked: &Asked<'_>,
) -> Option<Finding> {
    match &claim.state {
        ClaimState::Bound { volume, known: None, .. } => {
            let granted = asked.grant_storage(|| Assumption::ReachableVolume { volume: volume.clone() });
            (!granted).then(|| blocks(claim))
        }
        ClaimState::Bound { reach: Reach::No, .. } => Some(blocks(claim)),
        ClaimState::Bound { known: Some(volume), .. } => bound_obstacle(claim, volume, place, asked),
        ClaimState::Delayed(delayed) => delayed_obstacle(claim, delayed, place, choice, asked),
        ClaimState::Immediate { .. } | ClaimState::NamesVolume { .. } | ClaimState::NoClass
            if claim.is_new && !asked.knows_all(Kind::Volumes) =>
        {
            let granted = asked.grant_storage(|| Assumption::BoundByThen {
                claim: claim.claim_name.clone().unwrap_or_else(|| claim.volume.clone()),
            });
            (!granted).then(|| blocks(claim))
        }
        _ => Some(blocks(claim)),
    }
}

fn bound_obstacle(claim: &Declared, volume: &Volume, place: &Place, asked: &Asked<'_>) -> Option<Finding> {
    let affinity = scheduler_affinity(volume, place.name(), &**asked);
    if !place.agree_to_reach(affinity.as_deref()) {
        return Some(blocks(claim));
    }
    let label = zone_conflict(volume, place)?;
    let value = volume.metadata.label(label).unwrap_or_default();
    let found = place.node().label(label).map_or_else(|| "no such label".to_owned(), |value| format!("{value:?}"));
    let message = format!(
        "{} is bound to volume {:?} with label {label} {value:?}, node {:?} has {found}",
        claim.label(),
        volume.name(),
        place.name()
    );
    Some(Code::ZoneConflict.at(claim.path(), message))
}

/// The label of a volume by which the scheduler keeps its Pods off the node. A node without any such label suits all.
/// Source: `pkg/scheduler/framework/plugins/volumezone/volume_zone.go`.
fn zone_conflict<'v>(volume: &'v Volume, place: &Place) -> Option<&'v str> {
    let labels = volume.metadata.labels.as_ref()?;
    let [today, before] = &ZONE_LABELS;
    let all = || before.iter().chain(today).copied();
    let conflicts = |key: &&str| {
        let Some(value) = labels.get(key) else { return false };
        let zones = || value.split(SEVERAL).map(str::trim);
        let now = before.iter().position(|label| *label == *key).map_or(*key, |place| today[place]);
        let mut suits = vec![vec![among(key, zones())], all().map(without).collect()];
        if now != *key {
            suits.push(vec![without(key), among(now, zones())]);
        }
        !place.satisfies(suits)
    };
    let found = all().find(|key| conflicts(key))?;
    labels.iter().map(|(key, _)| key.as_str()).find(|key| *key == found)
}

fn delayed_obstacle(
    claim: &Declared,
    delayed: &Delayed,
    place: &Place,
    choice: Option<&Lookup<Arc<Volume>>>,
    asked: &Asked<'_>,
) -> Option<Finding> {
    let class = delayed.class.name();
    match (&delayed.selected, delayed.class.is_dynamic(), choice) {
        (Selected::ThisNode, true, _) | (Selected::Nobody, _, Some(Lookup::Found(_))) => None,
        (Selected::Nobody, is_dynamic, Some(Lookup::Unknown)) => {
            let may = !is_dynamic && !asked.knows_all(Kind::Volumes);
            let granted = may && asked.grant_storage(|| Assumption::FittingVolume { class: class.to_owned() });
            (!granted).then(|| not_known(claim))
        }
        (Selected::Nobody, true, _) => {
            if !place.is_allowed_by(&delayed.class.allowed_topologies) {
                return Some(blocks(claim));
            }
            match has_room(delayed, place, asked) {
                Lookup::Found(true) => None,
                Lookup::Found(false) | Lookup::Absent => {
                    let message =
                        format!("no published capacity has room for {} on node {:?}", claim.label(), place.name());
                    Some(Code::CapacityShort.at(claim.path(), message))
                }
                Lookup::Unknown => {
                    let room =
                        || Assumption::Room { class: class.to_owned(), driver: delayed.class.provisioner.clone() };
                    let granted = !asked.knows_all(Kind::Capacities) && asked.grant_storage(room);
                    (!granted).then(|| not_known(claim))
                }
            }
        }
        _ => Some(blocks(claim)),
    }
}

fn not_known(claim: &Declared) -> Finding {
    let message = format!("volumes or capacities that {} could use are not known", claim.label());
    Code::FactsNotKnown.at(claim.path(), message)
}

/// A name with a slash is that of no CSI driver, and so of nobody who publishes capacity.
/// Source: `pkg/apis/storage/validation/validation.go`, `ValidateCSIDriverName`.
pub(super) fn may_be_csi(driver: &str) -> bool {
    !driver.contains('/')
}

/// Whether the capacity that the driver publishes suffices; always where it publishes none.
/// Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `hasEnoughCapacity`.
fn has_room(delayed: &Delayed, place: &Place, asked: &Asked<'_>) -> Lookup<bool> {
    if !may_be_csi(&delayed.class.provisioner) {
        return Lookup::Found(true);
    }
    match asked.csi_driver(&delayed.class.provisioner) {
        Lookup::Unknown => return Lookup::Unknown,
        Lookup::Found(driver) if driver.spec.storage_capacity => {}
        Lookup::Found(_) | Lookup::Absent => return Lookup::Found(true),
    }
    let capacities = match asked.capacities_of_class(delayed.class.name()) {
        Lookup::Found(capacities) => capacities,
        Lookup::Absent => return Lookup::Absent,
        Lookup::Unknown => return Lookup::Unknown,
    };
    let large_enough = |room: Option<Quantity>| room.is_some_and(|room| room >= delayed.claim.request());
    let (enough, short): (Vec<_>, Vec<_>) =
        capacities.iter().partition(|capacity| large_enough(capacity.maximum_volume_size.or(capacity.capacity)));
    let covers = |capacity: &&Arc<crate::model::StorageCapacity>| {
        capacity.node_topology.as_ref().is_some_and(|topology| place.is_selected_by(topology))
    };
    if enough.iter().any(covers) {
        Lookup::Found(true)
    } else if asked.knows_all(Kind::Capacities) || (!place.is_assumed() && short.iter().any(covers)) {
        Lookup::Found(false)
    } else {
        Lookup::Unknown
    }
}

/// Another live Pod uses a `ReadWriteOncePod` claim of this one.
fn exclusive_obstacle(pod: &Pod, claim: &Declared, asked: &Asked<'_>) -> Option<Finding> {
    // What a template makes is used by the Pod alone.
    let name = claim.claim_name.as_deref().filter(|_| !claim.from_template)?;
    let stored = asked.claim(pod.namespace(), name).found()?;
    if !stored.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        return None;
    }
    let others = match asked.consumers(pod.namespace(), name) {
        Lookup::Found(others) => others,
        Lookup::Absent => return None,
        Lookup::Unknown => {
            let message = format!("which Pods use {} is not known, and it allows one Pod only", claim.label());
            return Some(Code::FactsNotKnown.at(claim.path(), message));
        }
    };
    let other = others.iter().find(|other| other.is_live() && !other.is_same(pod))?;
    let message = format!("Pod {:?} uses {}, which allows one Pod only", other.display_name(), claim.label());
    Some(Code::Exclusive.at(claim.path(), message))
}

/// Drivers that the node lacks, or of which it can hold too few volumes.
fn driver_obstacles(place: &Place, declared: &[Declared], asked: &Asked<'_>) -> Vec<Finding> {
    let mut drivers: BTreeMap<String, (usize, FieldPath)> = BTreeMap::new();
    for (claim, again) in declared.iter().zip(repeated(declared)) {
        if again {
            continue;
        }
        let driver = match &claim.state {
            ClaimState::Bound { known: Some(volume), .. } => volume.spec.csi.as_ref().map(|csi| csi.driver.to_string()),
            ClaimState::Delayed(delayed) if delayed.class.is_dynamic() => Some(delayed.class.provisioner.clone()),
            _ => None,
        };
        if let Some(driver) = driver {
            drivers.entry(driver).or_insert_with(|| (0, claim.path())).0 += 1;
        }
    }
    let found = drivers.into_iter().filter_map(|(driver, (volumes, path))| {
        driver_obstacle(place, &driver, volumes, asked).map(|(code, message)| code.at(path, message))
    });
    found.collect()
}

/// What keeps the scheduler from bringing that many more volumes of one driver to the node.
fn driver_obstacle(place: &Place, driver: &str, volumes: usize, asked: &Asked<'_>) -> Option<(Code, String)> {
    if !may_be_csi(driver) {
        return None;
    }
    let name = place.name();
    let unknown = || {
        let on_node = || Assumption::DriverOnNode { driver: driver.to_owned(), node: name.to_owned() };
        if !asked.knows_all(Kind::DriverNodes) && asked.grant_storage(on_node) {
            return None;
        }
        Some((Code::FactsNotKnown, format!("whether driver {driver:?} runs on node {name:?} is not known")))
    };
    let csi_node = asked.csi_node(name);
    let registered = match &csi_node {
        Lookup::Found(csi_node) => csi_node.spec.drivers.iter().find(|entry| entry.name == driver).cloned(),
        Lookup::Absent | Lookup::Unknown => None,
    };
    if let Some(registered) = registered {
        let most = usize::try_from(registered.allocatable?.count?).unwrap_or(usize::MAX);
        let message = format!("node {name:?} holds at most {most} volumes of driver {driver:?}");
        return (volumes > most).then_some((Code::AttachLimit, message));
    }
    let must_be_there = match asked.csi_driver(driver) {
        Lookup::Found(object) => object.spec.prevent_pod_scheduling_if_missing,
        Lookup::Absent => false,
        Lookup::Unknown => return unknown(),
    };
    match csi_node {
        // Where Nodes are watched, one without a CSINode may get it any moment.
        Lookup::Unknown if must_be_there || asked.knows_all(Kind::DriverNodes) => unknown(),
        _ if must_be_there => {
            Some((Code::DriverMissing, format!("driver {driver:?} is not registered on node {name:?}")))
        }
        _ => None,
    }
}
