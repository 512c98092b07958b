//! Why the scheduler has not placed a Pod.

use std::sync::Arc;

use super::cause::Cause;
use super::command::{Step, describe, fix, show};
use super::found::{Found, Line, lines_of};
use super::known::{ClassOf, Known, wants};
use super::record::Kind;
use super::scheduler::{self, Refusal, Refused};
use super::{claim, local, provisioner};
use crate::binding::Lookup;
use crate::model::selector::{pod_accepts, unmet, untolerated};
use crate::model::{Claim, Node, Pod, Volume};

/// Why a Pod without a node has none.
pub(super) fn of_pod(pod: &Pod, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    if !pod.spec.scheduling_gates.is_empty() {
        let summary = format!(
            "Pod {name:?} has scheduling gates: the scheduler does not look at it before whoever put them there removes them."
        );
        let command = format!("kubectl get pod {name} -n {namespace} -o jsonpath='{{.spec.schedulingGates}}'");
        return Found::new(Cause::Gated, summary).then(show(&[name, namespace], command, "Shows the gates."));
    }
    let events = known.pod_events(pod);
    let lines = lines_of(&format!("pod/{name}"), &events, |event| event.reason == "FailedScheduling");
    let message = unschedulable(pod, known);
    let of_claims = claims(pod, known);
    if let Some(found) = of_claims.iter().find(|found| found.cause.blocks()) {
        return found.clone().with(lines);
    }
    let refused = message.as_deref().map(scheduler::read).unwrap_or_default();
    let found = match refused.first() {
        Some(worst) if worst.refusal == Refusal::ProvisioningFailed => {
            given_back(pod, known).unwrap_or_else(|| not_made(pod, &refused))
        }
        Some(worst) => refusal(pod, worst, &refused, known),
        None => match of_claims.into_iter().next().or_else(|| given_back(pod, known)) {
            Some(found) => found,
            None => silent(pod, known),
        },
    };
    let words = message.map(|message| Line::new(format!("condition PodScheduled of pod/{name}"), message));
    found.with(words).with(lines).not_knowing(known.missing_events(namespace))
}

/// The scheduler's message: that of the Pod's condition stays, events go after an hour.
fn unschedulable(pod: &Pod, known: &Known<'_>) -> Option<String> {
    let details = known.record.details("Pod", pod.namespace(), pod.display_name());
    let condition = details.and_then(|details| details.condition("PodScheduled"));
    let condition = condition.filter(|condition| condition.status == "False").and_then(|it| it.message.clone());
    let events = known.pod_events(pod);
    let event = || events.iter().rev().find(|event| event.reason == "FailedScheduling");
    condition.filter(|message| !message.is_empty()).or_else(|| event().map(|event| event.message.to_string()))
}

/// An order for one of the Pod's claims that a provisioner could not carry out, and gave back.
fn given_back(pod: &Pod, known: &Known<'_>) -> Option<Found> {
    let mut claims = pod.claim_names().filter_map(|name| known.claim(pod.namespace(), &name).found());
    claims.find_map(|claim| provisioner::given_back(&claim, pod, known))
}

/// The scheduler says that a provisioner has failed, and no event of that provisioner is known.
fn not_made(pod: &Pod, refused: &[Refused]) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let summary = format!(
        "The scheduler chose a node for Pod {name:?}, and the provisioner could not make a volume there. The scheduler's words: {}. \
         What the provisioner says is in the claim's events.",
        in_words(refused)
    );
    let look = show(
        &[namespace],
        format!("kubectl get events -n {namespace} --field-selector reason=ProvisioningFailed"),
        "Shows what provisioners could not do in the namespace.",
    );
    Found::new(Cause::ProvisionerFails, summary).then(look)
}

/// What is wrong with the Pod's claims themselves; what waits as it should comes last.
fn claims(pod: &Pod, known: &Known<'_>) -> Vec<Found> {
    let mut found: Vec<Found> = pod
        .claim_names()
        .filter_map(|name| match known.claim(pod.namespace(), &name) {
            Lookup::Found(claim) if claim.is_bound() => None,
            Lookup::Found(claim) => claim::by_itself(&claim, None, known),
            Lookup::Absent => Some(claim_missing(pod, &name, known)),
            Lookup::Unknown => Some(claim_not_known(pod, &name, known)),
        })
        .collect();
    found.sort_by_key(|found| std::cmp::Reverse((found.cause.severity(), found.cause != Cause::NotKnown)));
    found
}

/// A claim that the Pod uses does not exist.
pub(super) fn claim_missing(pod: &Pod, claim_name: &str, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    if let Some(found) = over_quota(namespace, claim_name, known) {
        return found;
    }
    let summary = format!(
        "Pod {name:?} uses claim {claim_name:?}, and there is no such claim in namespace {namespace:?}. The Pod waits until somebody \
         creates it."
    );
    let look = show(&[namespace], format!("kubectl get pvc -n {namespace}"), "Lists the claims of the namespace.");
    Found::new(Cause::ClaimMissing, summary).then(look)
}

/// Whether a claim that the Pod uses exists is not known.
pub(super) fn claim_not_known(pod: &Pod, claim_name: &str, known: &Known<'_>) -> Found {
    let namespace = pod.namespace();
    let summary = format!("Pod {:?} uses claim {claim_name:?}, and that claim is not known.", pod.display_name());
    let command = format!("kubectl get pvc {claim_name} -n {namespace} -o yaml");
    let missing = known.missing(Kind::Claims, namespace).unwrap_or_else(|| format!("claim {claim_name:?}"));
    Found::new(Cause::NotKnown, summary).not_knowing([missing]).then(show(
        &[claim_name, namespace],
        command,
        "Shows the claim.",
    ))
}

/// An event says that a quota refuses the claim.
fn over_quota(namespace: &str, claim_name: &str, known: &Known<'_>) -> Option<Found> {
    let refuses =
        |event: &&crate::model::Event| event.message.contains("exceeded quota") && event.message.contains(claim_name);
    let event = known.record.events_in(namespace).filter(refuses).max_by_key(|event| event.last())?;
    Some(quota(namespace, claim_name, event))
}

/// A ResourceQuota refuses a claim.
pub(super) fn quota(namespace: &str, claim_name: &str, event: &crate::model::Event) -> Found {
    let about = &event.involved_object;
    let summary = format!(
        "Claim {claim_name:?} cannot be created: a ResourceQuota of namespace {namespace:?} refuses it. Free some of what the quota \
         counts, ask for less, or have the quota raised. The API server's words: {}",
        event.message
    );
    let line = Line::of_event(&format!("{}/{}", about.kind.to_lowercase(), about.name), event);
    let look = show(
        &[namespace],
        format!("kubectl describe resourcequota -n {namespace}"),
        "Shows the quotas, and what is used.",
    );
    Found::new(Cause::QuotaExceeded, summary).with([line]).then(look)
}

/// What the scheduler's most telling reason means.
fn refusal(pod: &Pod, worst: &Refused, all: &[Refused], known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let told = in_words(all);
    let say = |what: &str| format!("The scheduler finds no node for Pod {name:?}: {told}. {what}");
    let nodes = || {
        let columns = "NAME:.metadata.name,CORDONED:.spec.unschedulable,TAINTS:.spec.taints";
        show(
            &[],
            format!("kubectl get nodes -o custom-columns={columns}"),
            "Shows the nodes, and what keeps Pods away.",
        )
    };
    match worst.refusal {
        Refusal::VolumeElsewhere | Refusal::VolumeLost => volume_elsewhere(pod, &told, known),
        Refusal::NoVolume => no_volume(pod, &told, known),
        Refusal::NoCapacity => {
            let columns = "CLASS:.storageClassName,ROOM:.capacity,LARGEST:.maximumVolumeSize,NODES:.nodeTopology";
            let look = show(
                &[],
                format!("kubectl get csistoragecapacities -A -o custom-columns={columns}"),
                "Shows the room.",
            );
            Found::new(Cause::NoCapacity, say("The driver publishes how much room it has, and none of it is enough."))
                .then(look)
        }
        Refusal::VolumeLimit => {
            let columns = "NODE:.metadata.name,DRIVERS:.spec.drivers[*].name,LIMITS:.spec.drivers[*].allocatable.count";
            let look =
                show(&[], format!("kubectl get csinodes -o custom-columns={columns}"), "Shows each node's limit.");
            Found::new(Cause::VolumeLimit, say("Each node holds as many volumes of the driver as it can.")).then(look)
        }
        Refusal::Devices => Found::new(Cause::DevicesNotAllocated, say("No node has the devices that it asks for."))
            .then(devices(namespace)),
        Refusal::Group => {
            let look = show(
                &[namespace],
                format!("kubectl get pods -n {namespace} -o wide"),
                "Shows the Pods that have come.",
            );
            Found::new(Cause::GroupIncomplete, say("It belongs to a group, whose Pods are placed together.")).then(look)
        }
        Refusal::Cordoned => {
            let cordoned = known.record.nodes().filter(|node| node.spec.unschedulable);
            let steps = cordoned.filter_map(|node| uncordon(node));
            Found::new(Cause::NodesCordoned, say("A cordoned node takes no new Pods.")).then(steps).then(nodes())
        }
        Refusal::Taint => {
            let what = "A node with a taint takes only Pods that tolerate it.";
            Found::new(Cause::NodesTainted, say(what)).then(nodes())
        }
        Refusal::ClaimNotFound | Refusal::UnboundImmediate | Refusal::ProvisioningFailed | Refusal::Other => {
            let found = Found::new(Cause::Unplaced, say("")).then(describe(
                "pod",
                namespace,
                name,
                "Shows the Pod and its events.",
            ));
            Found { summary: found.summary.trim_end().to_owned(), ..found }.then(nodes())
        }
    }
}

/// The scheduler's reasons in its own words, the most telling one first.
fn in_words(all: &[Refused]) -> String {
    let of = |group: &Refused| match group.nodes {
        Some(1) => format!("1 node: {}", group.text.trim_start_matches("node(s) ")),
        Some(nodes) => format!("{nodes} nodes: {}", group.text.trim_start_matches("node(s) ")),
        None => group.text.clone(),
    };
    all.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// No existing volume fits, says the scheduler.
fn no_volume(pod: &Pod, told: &str, known: &Known<'_>) -> Found {
    let unbound =
        pod.claim_names().filter_map(|name| known.claim(pod.namespace(), &name).found()).filter(|it| !it.is_bound());
    let of_static = unbound.filter_map(|claim| match known.class_of(&claim) {
        ClassOf::Found(class) if !class.is_dynamic() => Some((claim, class)),
        _ => None,
    });
    let mut found = of_static.map(|(claim, class)| claim::static_volumes(&claim, class.name(), None, known));
    let found = found.next().unwrap_or_else(|| {
        let summary = format!("No volume that exists fits the claims of Pod {:?}.", pod.display_name());
        Found::new(Cause::NoVolume, summary).then(claim::volumes())
    });
    // That none fits is the scheduler's own word, whether all volumes are known or not.
    let cause = if found.cause == Cause::NotKnown { Cause::NoVolume } else { found.cause };
    Found { summary: format!("{} The scheduler's words: {told}.", found.summary), cause, ..found }
}

/// A bound volume keeps the Pod from the nodes.
fn volume_elsewhere(pod: &Pod, told: &str, known: &Known<'_>) -> Found {
    let bound =
        pod.claim_names().filter_map(|name| known.claim(pod.namespace(), &name).found()).filter(|it| it.is_bound());
    let tied = |claim: &Arc<Claim>| match known.volume(claim.volume_name().unwrap_or_default()) {
        Lookup::Found(volume) => volume.spec.node_affinity.is_some(),
        Lookup::Absent => true,
        Lookup::Unknown => false,
    };
    let found = bound.filter(tied).map(|claim| bound_elsewhere(pod, &claim, None, known)).next();
    let found = found.unwrap_or_else(|| {
        let summary = format!("A volume of Pod {:?} is where the scheduler cannot place it.", pod.display_name());
        Found::new(Cause::BoundElsewhere, summary).not_knowing(known.missing(Kind::Volumes, "")).then(claim::volumes())
    });
    Found { summary: format!("{} The scheduler's words: {told}.", found.summary), ..found }
}

/// The claim is bound, and its volume is not where the Pod is to run: on the node that it names, or wherever the scheduler
/// may place it.
pub(super) fn bound_elsewhere(pod: &Pod, claim: &Claim, node: Option<&str>, known: &Known<'_>) -> Found {
    let (name, claim_name) = (pod.display_name(), claim.name());
    let volume_name = claim.volume_name().unwrap_or_default();
    let volume = match known.volume(volume_name) {
        Lookup::Found(volume) => volume,
        Lookup::Absent => {
            let summary = format!("Claim {claim_name:?} is bound to volume {volume_name:?}, which does not exist.");
            return Found::new(Cause::ClaimLost, summary).then(claim::volumes());
        }
        Lookup::Unknown => {
            let summary = format!(
                "Claim {claim_name:?} is bound to volume {volume_name:?}, which is not where the Pod is to run."
            );
            return Found::new(Cause::BoundElsewhere, summary).not_knowing(known.missing(Kind::Volumes, ""));
        }
    };
    let command = format!("kubectl get pv {volume_name} -o jsonpath='{{.spec.nodeAffinity}}'");
    let look = || show(&[volume_name], command.clone(), "Shows which nodes reach the volume.");
    let wanted = wants(&volume).unwrap_or_default();
    let line = Line::new(format!("pv/{volume_name}"), format!("spec.nodeAffinity wants {wanted}"));
    if let Some(node) = node {
        let place = known.node(node).found();
        let affinity = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        let why = affinity.zip(place).map_or(format!("wants {wanted}"), |(affinity, place)| unmet(affinity, &place));
        let summary = format!(
            "Claim {claim_name:?} is bound to volume {volume_name:?}, and node {node:?}, which Pod {name:?} names, does not reach it: \
             the volume {why}. A bound volume does not move: run the Pod where the volume is, or use another claim."
        );
        return Found::new(elsewhere(claim, known), with_class(summary, claim, known)).with([line]).then(look());
    }
    let reached = known.reached_from(&volume);
    match reached.as_deref() {
        Some([]) => {
            let summary = format!(
                "Claim {claim_name:?} is bound to volume {volume_name:?}, which no node of the cluster reaches any more: it wants \
                 {wanted}. If that node is gone for good, so is the data of a local volume."
            );
            let nodes = show(&[], "kubectl get nodes --show-labels".to_owned(), "Shows the nodes and their labels.");
            let lost = local::observed_as_lost(&volume);
            Found::new(Cause::VolumeNodeGone, summary).with([line]).with(lost).then(look()).then(nodes)
        }
        Some(nodes) => out_of_reach(pod, claim, &volume, nodes, known).with([line]).then(look()),
        None => {
            let summary = format!(
                "Claim {claim_name:?} is bound to volume {volume_name:?}, which only some nodes reach: it wants {wanted}. None of \
                 them takes Pod {name:?}."
            );
            let found = Found::new(elsewhere(claim, known), with_class(summary, claim, known));
            found.with([line]).not_knowing(known.missing(Kind::Nodes, "")).then(look())
        }
    }
}

/// The nodes that reach the volume exist, and none of them takes the Pod.
fn out_of_reach(pod: &Pod, claim: &Claim, volume: &Volume, nodes: &[Arc<Node>], known: &Known<'_>) -> Found {
    let (name, claim_name, volume_name) = (pod.display_name(), claim.name(), volume.name());
    let lines: Vec<Line> =
        nodes.iter().map(|node| Line::new(format!("node/{}", node.name()), state(pod, node))).collect();
    let told: Vec<String> = nodes.iter().map(|node| format!("{} {}", node.name(), state(pod, node))).take(4).collect();
    let told = told.join("; ");
    let summary = format!(
        "Claim {claim_name:?} is bound to volume {volume_name:?}, and Pod {name:?} can run only on nodes that reach it. None of them \
         takes it: {told}."
    );
    let (cause, steps): (Cause, Vec<Step>) = if nodes.iter().all(|node| node.spec.unschedulable && node.is_ready()) {
        (Cause::NodesCordoned, nodes.iter().filter_map(|node| uncordon(node)).collect())
    } else if nodes.iter().all(|node| !node.is_ready()) {
        let look = nodes.iter().filter_map(|node| describe("node", "", node.name(), "Shows the node's conditions."));
        (Cause::NodeNotReady, look.collect())
    } else {
        (elsewhere(claim, known), Vec::new())
    };
    let summary = if cause == Cause::ImmediateElsewhere { with_class(summary, claim, known) } else { summary };
    let trouble = local::volume_trouble(volume, known);
    let found = Found::new(cause, summary).with(lines).then(steps);
    match trouble {
        Some(trouble) => found.with(trouble.evidence),
        None => found,
    }
}

/// Whether the class bound the claim before any Pod was placed.
fn elsewhere(claim: &Claim, known: &Known<'_>) -> Cause {
    match known.class_of(claim) {
        ClassOf::Found(class) if !class.is_delayed() => Cause::ImmediateElsewhere,
        _ => Cause::BoundElsewhere,
    }
}

fn with_class(summary: String, claim: &Claim, known: &Known<'_>) -> String {
    match elsewhere(claim, known) {
        Cause::ImmediateElsewhere => format!(
            "{summary} Class {:?} binds claims at once (Immediate), before any Pod is placed; with WaitForFirstConsumer the volume \
             would be where the Pod can run.",
            claim.class_name().unwrap_or_default()
        ),
        _ => summary,
    }
}

/// What keeps the Pod from a node that reaches its volume.
fn state(pod: &Pod, node: &Node) -> String {
    let taint = untolerated(&pod.spec, &node.spec.taints, "NoSchedule")
        .or_else(|| untolerated(&pod.spec, &node.spec.taints, "NoExecute"));
    if !node.is_ready() {
        "is not ready".to_owned()
    } else if node.spec.unschedulable {
        "is cordoned".to_owned()
    } else if let Some(taint) = taint {
        format!("has the taint {}:{}, which the Pod does not tolerate", taint.key, taint.effect)
    } else if pod_accepts(&pod.spec, node) {
        "has no room, or other Pods keep it away".to_owned()
    } else {
        "is excluded by the Pod's own node selector or affinity".to_owned()
    }
}

fn uncordon(node: &Node) -> Option<Step> {
    let name = node.name();
    fix(&[name], format!("kubectl uncordon {name}"), "Lets the node take Pods again.")
}

/// Shows the ResourceClaims of a namespace.
pub(super) fn devices(namespace: &str) -> Option<Step> {
    show(
        &[namespace],
        format!("kubectl get resourceclaims -n {namespace}"),
        "Shows which ResourceClaims are allocated.",
    )
}

/// Nobody has said anything about the Pod.
fn silent(pod: &Pod, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let scheduler = pod.spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    let command = format!("kubectl get pod {name} -n {namespace} -o jsonpath='{{.spec.schedulerName}}'");
    let look = show(&[name, namespace], command, "Shows which scheduler the Pod waits for.");
    let is_known = known.record.details("Pod", namespace, name).is_some();
    if is_known && known.is_old(&pod.metadata) && pod.spec.is_in_group() {
        let summary = format!(
            "Pod {name:?} belongs to a scheduling group, and the scheduler {scheduler:?} has said nothing of it for more than a minute: \
             it looks at such a Pod once the group's object exists and enough of its Pods have come."
        );
        let command = format!(
            "kubectl get pod {name} -n {namespace} -o jsonpath='{{.spec.schedulingGroup}}{{.spec.workloadRef}}'"
        );
        let group = show(&[name, namespace], command, "Shows which group the Pod waits for.");
        return Found::new(Cause::GroupIncomplete, summary).then(group);
    }
    if is_known && known.is_old(&pod.metadata) {
        let summary = format!(
            "No scheduler has looked at Pod {name:?}, which is more than a minute old: it has no node, and no condition PodScheduled. \
             It waits for the scheduler {scheduler:?}. Either that one does not run, or it is far behind."
        );
        return Found::new(Cause::SchedulerSilent, summary).then(look);
    }
    if known.age(&pod.metadata).is_some() {
        let summary =
            format!("Pod {name:?} was created less than a minute ago, and the scheduler has yet to look at it.");
        return Found::new(Cause::Starting, summary);
    }
    let summary = format!("Pod {name:?} has no node, and what the scheduler says of it is not known.");
    Found::new(Cause::NotKnown, summary).not_knowing(["when the objects were read".to_owned()]).then(look)
}
