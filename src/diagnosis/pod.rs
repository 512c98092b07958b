//! Why a Pod does not run.

use super::cause::Cause;
use super::command::{describe, fix, for_claim, show};
use super::found::{Found, Line, lines_of};
use super::known::Known;
use super::record::Kind;
use super::{claim, local, provisioner, unplaced};
use crate::binding::{Code, Lookup, PodVerdict, Remedy, Row, Severity, VolumeVerdict};
use crate::model::{Claim, Event, Pod};
use crate::policy::judge;

/// Why a Pod is as it is.
pub(super) fn of_pod(pod: &Pod, known: &Known<'_>) -> Found {
    let name = pod.display_name();
    match pod.status.phase.as_str() {
        "Succeeded" => return Found::new(Cause::Healthy, format!("Pod {name:?} has ended as it should.")),
        "Failed" => return failed(pod, known),
        _ if pod.metadata.deletion_timestamp.is_some() => {
            return Found::new(
                Cause::Healthy,
                format!("Pod {name:?} is being deleted, and uses its claims until it is gone."),
            );
        }
        _ => {}
    }
    match pod.pinned_node() {
        Some(node) => placed(pod, node, known),
        None => unplaced::of_pod(pod, known),
    }
}

/// A Pod that will not run any more.
fn failed(pod: &Pod, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let (reason, message) =
        known.record.details("Pod", namespace, name).map(super::details::Details::reason).unwrap_or_default();
    let look = describe("pod", namespace, name, "Shows the Pod as it ended.");
    // What containers end with has no reason in the status of the Pod.
    if reason.is_empty() {
        return Found::new(
            Cause::Healthy,
            format!("Pod {name:?} has failed: its containers have ended with an error, and the kubelet gives no reason of its own."),
        )
        .then(look);
    }
    let node = pod.pinned_node().unwrap_or_default();
    let message = if message.is_empty() { String::new() } else { format!(" ({message})") };
    let summary = format!(
        "Pod {name:?} has failed: the kubelet of node {node:?} gives the reason {reason}{message}. It does not start again; whoever \
         made it makes another."
    );
    Found::new(Cause::Rejected, summary).then(look)
}

/// A Pod that has a node: one that it names, or one that the scheduler found.
fn placed(pod: &Pod, node: &str, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    if matches!(known.node(node), Lookup::Absent) {
        let summary = format!(
            "Pod {name:?} names node {node:?}, and there is no such node. Kubernetes deletes such a Pod after a short while."
        );
        let look = show(&[], "kubectl get nodes".to_owned(), "Lists the nodes there are.");
        return Found::new(Cause::NodeGone, summary).with(known.named_by(pod)).then(look);
    }
    let verdict = judge(pod, known.view, known.rules, &known.policies_on(pod));
    if let Some(found) = stuck(pod, node, &verdict, known) {
        // Facts that only a rewrite would need speak neither for nor against the cause.
        let lines = verdict.findings.iter().filter(|finding| finding.code != Code::FactsNotKnown);
        let lines = lines.filter(|finding| finding.severity > Severity::Info);
        let lines = lines.map(|finding| Line::new(format!("finding {}", finding.code), finding.message.as_str()));
        return found.with(lines).with(known.named_by(pod)).not_knowing(known.missing_events(namespace));
    }
    if pod.status.phase == "Running" {
        return Found::new(Cause::Healthy, format!("Pod {name:?} runs on node {node:?}."));
    }
    let mounted: Vec<&VolumeVerdict> = verdict.volumes.iter().filter(|volume| volume.row != Row::NotMounted).collect();
    let waiting = mounted.iter().filter_map(|volume| unbound(pod, node, volume, known));
    if let Some(found) = waiting.max_by_key(|found| (found.cause.severity(), found.cause != Cause::NotKnown)) {
        return found.not_knowing(known.missing_events(namespace));
    }
    bound(pod, node, known)
}

/// The worst of what keeps the Pod waiting forever.
fn stuck(pod: &Pod, node: &str, verdict: &PodVerdict, known: &Known<'_>) -> Option<Found> {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let finding = |codes: &[Code]| verdict.findings.iter().find(|finding| codes.contains(&finding.code));
    let look = || describe("pod", namespace, name, "Shows the Pod.");
    if let Some(found) = finding(&[Code::Evicted, Code::SelectorContradicts]) {
        let summary = format!("Pod {name:?} names node {node:?}, and the kubelet there rejects it: {}.", found.message);
        return Some(Found::new(Cause::Rejected, summary).then(look()));
    }
    if let Some(found) = finding(&[Code::Gated]) {
        return Some(Found::new(Cause::Gated, format!("{}.", found.message)).then(look()));
    }
    let volumes = verdict.volumes.iter().filter(|volume| volume.stuck);
    if let Some(volume) = volumes.min_by_key(|volume| rank(volume)) {
        return Some(of_volume(pod, node, volume, verdict, known));
    }
    let device = verdict.devices.iter().find(|device| device.stuck)?;
    let whose =
        device.claim.as_deref().map_or_else(|| format!("entry {:?}", device.name), |claim| format!("{claim:?}"));
    let summary = format!(
        "Pod {name:?} names node {node:?}, so that the scheduler never sees it, and only the scheduler allocates devices. \
         ResourceClaim {whose} {}. Create the Pod anew with a node selector in place of nodeName.",
        device.says
    );
    Some(Found::new(Cause::DevicesNotAllocated, summary).then(unplaced::devices(namespace)))
}

/// Of several claims the one first for which nothing is made by waiting for the others.
fn rank(volume: &VolumeVerdict) -> u8 {
    match volume.row {
        Row::BoundElsewhere | Row::Lost | Row::Foreign | Row::Deleting => 0,
        Row::SelectedStatic | Row::SelectedNodeGone => 1,
        Row::StaticNoVolume | Row::EphemeralStatic => 2,
        _ => 3,
    }
}

/// Why a claim keeps the Pod waiting forever.
fn of_volume(pod: &Pod, node: &str, volume: &VolumeVerdict, verdict: &PodVerdict, known: &Known<'_>) -> Found {
    let namespace = pod.namespace();
    let claim_name = volume.claim.as_deref().unwrap_or_default();
    let known_claim = known.claim(namespace, claim_name).found();
    let steps = for_claim(volume, namespace).and_then(|command| {
        fix(&[], command, "Does for the claim what the scheduler would have done: the Pod starts.")
    });
    let by_itself = || claim::by_itself(known_claim.as_deref()?, Some(node), known);
    match volume.row {
        Row::BoundElsewhere => {
            let found = known_claim.as_deref().map(|claim| unplaced::bound_elsewhere(pod, claim, Some(node), known));
            found.unwrap_or_else(|| Found::new(Cause::BoundElsewhere, sentence(pod, volume)))
        }
        Row::Foreign => {
            let look = describe("pvc", namespace, claim_name, "Shows the claim and its owner.");
            Found::new(Cause::ForeignClaim, sentence(pod, volume)).then(look)
        }
        Row::SelectedStatic | Row::SelectedNodeGone => {
            let found = by_itself().unwrap_or_else(|| deadlock(pod, node, volume, verdict, known));
            // The Pod names the node, so there is more to do than to take the annotation away.
            match steps {
                Some(step) => Found { next: vec![step], ..found },
                None => found,
            }
        }
        Row::Lost | Row::Deleting => by_itself().unwrap_or_else(|| Found::new(Cause::ClaimLost, sentence(pod, volume))),
        Row::StaticNoVolume | Row::EphemeralStatic => no_volume(pod, node, known_claim.as_deref(), volume, known),
        _ if verdict.findings.iter().any(|finding| finding.code == Code::TopologyExcluded) => {
            let class = known_claim.as_deref().and_then(Claim::class_name).unwrap_or_default();
            let command = format!("kubectl get storageclass {class} -o jsonpath='{{.allowedTopologies}}'");
            Found::new(Cause::TopologyExcluded, sentence(pod, volume)).then(show(
                &[class],
                command,
                "Shows what the class allows.",
            ))
        }
        _ => {
            if let Some(found) = known_claim.as_deref().and_then(|claim| provisioner::given_back(claim, pod, known)) {
                let caption = "Orders the volume again: do so once what keeps it from being made is put right.";
                return found.then(for_claim(volume, namespace).and_then(|command| fix(&[], command, caption)));
            }
            let found = deadlock(pod, node, volume, verdict, known);
            forbidden(pod, node, verdict, &found, known).unwrap_or_else(|| found.then(steps))
        }
    }
}

/// The verdict's words as a sentence.
fn sentence(pod: &Pod, volume: &VolumeVerdict) -> String {
    let claim = volume.claim.as_deref().unwrap_or(&volume.volume);
    format!("Pod {:?} waits for claim {claim:?}, which {}.", pod.display_name(), volume.says)
}

/// No volume of a class without a provisioner fits on the node.
fn no_volume(pod: &Pod, node: &str, claim: Option<&Claim>, volume: &VolumeVerdict, known: &Known<'_>) -> Found {
    let place = known.node(node).found();
    match claim {
        Some(claim) => {
            let class = claim.class_name().unwrap_or_default();
            claim::static_volumes(claim, class, place.as_deref(), known)
        }
        None => Found::new(Cause::NoVolume, sentence(pod, volume)).then(claim::volumes()),
    }
}

/// The Pod waits for the claim, the claim for the scheduler, and that never sees the Pod.
fn deadlock(pod: &Pod, node: &str, volume: &VolumeVerdict, verdict: &PodVerdict, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let claim_name = volume.claim.as_deref().unwrap_or(&volume.volume);
    let claim = known.claim(namespace, claim_name).found();
    let class = claim.as_deref().and_then(Claim::class_name).map(|class| format!(" {class:?}")).unwrap_or_default();
    let rewritten = match &verdict.remedy {
        Remedy::Rewrite { .. } => " latebind's webhook rewrites such a Pod when it is created; this one came past it.",
        Remedy::Hopeless { .. } => "",
        // What is not known is no reason.
        _ if verdict.findings.iter().any(|it| matches!(it.code, Code::FactsNotKnown | Code::NodeNotKnown)) => "",
        _ => " latebind's webhook would have left it its node name: the findings below say why.",
    };
    let summary = format!(
        "Pod {name:?} names its node (spec.nodeName: {node}), and so the scheduler never sees it. Its claim {claim_name:?} is of \
         class{class}, whose volumes are bound only once the scheduler has chosen a node (WaitForFirstConsumer). The Pod waits for \
         the claim, the claim waits for the scheduler, and neither ever moves.{rewritten}"
    );
    let events = claim.as_deref().map(|claim| known.claim_events(claim)).unwrap_or_default();
    let waits = lines_of(&format!("pvc/{claim_name}"), &events, |event| event.reason == "WaitForFirstConsumer");
    let mounts = lines_of(&format!("pod/{name}"), &known.pod_events(pod), |event| event.reason == "FailedMount");
    let found = Found::new(Cause::Deadlock, summary).with(waits).with(mounts);
    match for_claim(volume, namespace) {
        Some(_) => found,
        // What the right command is hangs on facts that are not there.
        None => found
            .not_knowing(known.missing(Kind::Nodes, ""))
            .not_knowing(known.missing(Kind::Volumes, ""))
            .then(show(
                &[node],
                format!("kubectl get node {node} -o yaml"),
                "Shows the node, on which the remedy depends.",
            ))
            .then(claim::volumes()),
    }
}

/// The same where a PinPolicy does not allow the Pod's node: then nothing is to be ordered for it there.
fn forbidden(pod: &Pod, node: &str, verdict: &PodVerdict, found: &Found, known: &Known<'_>) -> Option<Found> {
    verdict.findings.iter().find(|finding| finding.code == Code::NodeNotAllowed)?;
    let policy = known.policies_on(pod).not_allowed.first()?.policy.clone();
    let summary = format!(
        "{} PinPolicy {policy:?} does not allow Pods to name node {node:?}: create the Pod anew without nodeName, or for a node that \
         the policy allows.",
        found.summary
    );
    let command = format!("kubectl get pinpolicy {policy} -o yaml");
    let look = show(&[&policy], command, "Shows the policy, and which nodes it allows.");
    Some(Found { summary, next: Vec::new(), ..found.clone() }.then(look))
}

/// A claim of the Pod that is not bound yet, and need not wait forever.
fn unbound(pod: &Pod, node: &str, volume: &VolumeVerdict, known: &Known<'_>) -> Option<Found> {
    let name = volume.claim.as_deref()?;
    match known.claim(pod.namespace(), name) {
        Lookup::Found(claim) if claim.is_bound() && volume.undecided => {
            let summary = format!("Claim {name:?} of Pod {:?} {}.", pod.display_name(), volume.says);
            let missing = [Kind::Volumes, Kind::Nodes].into_iter().find_map(|kind| known.missing(kind, ""));
            Some(Found::new(Cause::NotKnown, summary).not_knowing(missing).then(claim::volumes()))
        }
        Lookup::Found(claim) if claim.is_bound() => None,
        Lookup::Found(claim) => claim::by_itself(&claim, Some(node), known),
        Lookup::Absent => Some(unplaced::claim_missing(pod, name, known)),
        Lookup::Unknown => Some(unplaced::claim_not_known(pod, name, known)),
    }
}

/// The kubelet cannot use a volume. That a claim is not bound it says in the same way, and that is over by now.
fn cannot_mount(event: &Event) -> bool {
    matches!(event.reason.as_str(), "FailedMount" | "FailedAttachVolume" | "FailedMapVolume")
        && !event.message.contains("is not bound")
}

/// All claims of the Pod are bound, and it does not run yet.
fn bound(pod: &Pod, node: &str, known: &Known<'_>) -> Found {
    let (namespace, name) = (pod.namespace(), pod.display_name());
    let events = known.pod_events(pod);
    let lines = lines_of(&format!("pod/{name}"), &events, cannot_mount);
    let look = describe("pod", namespace, name, "Shows the Pod and its events.");
    let volumes = pod.claim_names().filter_map(|claim| {
        let claim = known.claim(namespace, &claim).found()?;
        known.volume(claim.volume_name()?).found()
    });
    let place = known.node(node).found();
    if let Some(place) = place.as_deref().filter(|place| !place.is_ready()) {
        let summary = format!(
            "The claims of Pod {name:?} are bound, and node {node:?} is not ready: its kubelet does not report, or says so itself. \
             Nothing is mounted there meanwhile."
        );
        let look = describe("node", "", place.name(), "Shows the node's conditions.");
        return Found::new(Cause::NodeNotReady, summary).with(lines).then(look);
    }
    let mut troubles = volumes.filter_map(|volume| local::volume_trouble(&volume, known));
    if let Some(found) = troubles.next() {
        return found.with(lines);
    }
    if let Some(last) = events.iter().rev().find(|event| cannot_mount(event)) {
        let summary = format!(
            "The claims of Pod {name:?} are bound, and the kubelet of node {node:?} cannot mount a volume. Its own words: {}",
            last.message
        );
        return Found::new(Cause::MountFails, summary).with(lines).then(look);
    }
    if let Some(missing) = known.missing_events(namespace) {
        let summary = format!(
            "The claims of Pod {name:?} are bound, and it does not run yet. Whether the kubelet of node {node:?} can mount its volumes \
             is not known: {missing}."
        );
        return Found::new(Cause::NotKnown, summary).not_knowing([missing]).then(look);
    }
    let summary = format!("The claims of Pod {name:?} are bound. What it waits for on node {node:?} is not a volume.");
    Found::new(Cause::Starting, summary).then(look)
}
