//! Why a claim is as it is, with the Pods that use it.

use super::cause::Cause;
use super::command::show;
use super::found::{Found, lines_of};
use super::known::Known;
use super::record::Kind;
use super::{claim, pod};
use crate::model::Claim;

/// Why a claim is as it is.
pub(super) fn of_claim(subject: &Claim, known: &Known<'_>) -> Found {
    let consumers = known.consumers(subject);
    let waiting: Vec<Found> = consumers.iter().map(|pod| pod::of_pod(pod, known)).collect();
    let blocked = waiting.into_iter().find(|found| found.cause.blocks() || found.cause == Cause::NotKnown);
    if subject.is_bound() {
        let volume = subject.volume_name().unwrap_or_default();
        let fine = || Found::new(Cause::Healthy, format!("Claim {:?} is bound to volume {volume:?}.", subject.name()));
        return blocked.unwrap_or_else(fine);
    }
    let node = consumers.iter().find_map(|pod| pod.pinned_node());
    match (claim::by_itself(subject, node, known), blocked) {
        // The Pod's node decides what is to be done.
        (Some(found), Some(blocked)) if found.cause == blocked.cause => blocked,
        // What is wrong with the claim itself would be so for any Pod.
        (Some(found), _) if found.cause.blocks() => found,
        (_, Some(blocked)) => blocked,
        (Some(found), None) => found,
        (None, None) => without_consumer(subject, consumers.len(), known),
    }
}

/// A claim of a delayed class that nobody has selected a node for, and no Pod that is blocked.
fn without_consumer(claim: &Claim, consumers: usize, known: &Known<'_>) -> Found {
    let (name, namespace) = (claim.name(), claim.namespace());
    let events = known.claim_events(claim);
    let lines = lines_of(&format!("pvc/{name}"), &events, |event| event.reason == "WaitForFirstConsumer");
    if consumers > 0 {
        let summary = format!("A Pod uses claim {name:?}, and the scheduler has yet to place it.");
        return Found::new(Cause::OnOrder, summary).with(lines);
    }
    match known.missing(Kind::Pods, namespace) {
        None => {
            let summary = format!(
                "Nothing is wrong. Claim {name:?} is of a class that waits for its first consumer (WaitForFirstConsumer), and no \
                 Pod of namespace {namespace:?} uses it. A volume is chosen or made when there is one."
            );
            Found::new(Cause::NoConsumer, summary).with(lines)
        }
        Some(missing) => {
            let summary = format!(
                "Claim {name:?} waits for its first consumer (WaitForFirstConsumer). Whether a Pod uses it is not known: {missing}."
            );
            let look = show(&[namespace], format!("kubectl get pods -n {namespace} -o yaml"), "Shows the Pods.");
            Found::new(Cause::NotKnown, summary).with(lines).not_knowing([missing]).then(look)
        }
    }
}
