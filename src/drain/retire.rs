//! How a node is retired: the Pods of StatefulSets whose claims are on it alone go one after another. Each volume is kept, then its
//! Pod is evicted, then its claim is let go, so that the StatefulSet makes both anew, elsewhere and empty.
//!
//! No data is deleted. A Pod is evicted, and a claim deleted, only while the API server shows each of its volumes with reclaim
//! policy `Retain` and our mark. Every step is decided from what it shows at that moment, so that a retirement that was cut short is
//! gone on with by whoever runs it again.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::binding::{Lookup, unfit};
use crate::model::selector::volume_reachable;
use crate::model::{Claim, NO_PROVISIONER, Node, Pod, RETIRED, RETIRED_CLAIM, RETIRED_CLAIM_UID, RETIRED_FROM};

use super::{DrainFacts, HeldClaim, Outcome, Storage, replacement};

/// A claim of a Pod that is retired, with its volume, as the API server shows them now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldNow {
    /// What became of the claim that was bound to the volume.
    pub claim: ClaimNow,
    /// The volume has reclaim policy `Retain`, names that claim, and our mark does too.
    pub is_kept: bool,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimNow {
    /// It is there.
    There,
    /// It is being deleted.
    Leaving,
    /// It is gone, or another one of its name is there.
    Gone,
}

/// What became of a Pod that is retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNow {
    /// It is on the node.
    Here,
    /// It is on the node, and being deleted.
    Leaving,
    /// It is not there, or what was made in its place is not ready.
    Awaited,
    /// What was made in its place is ready, on another node.
    Ready,
}

/// What is written to a volume before its claim is let go: it is kept, and marked for this claim. The caller adds of which version.
#[must_use]
pub fn mark(node: &str, (namespace, claim): (&str, &str), claim_uid: &str) -> Value {
    json!({
        "metadata": {
            "labels": { RETIRED: "" },
            "annotations": {
                RETIRED_FROM: node, RETIRED_CLAIM: format!("{namespace}/{claim}"), RETIRED_CLAIM_UID: claim_uid,
            },
        },
        "spec": { "persistentVolumeReclaimPolicy": "Retain" },
    })
}

/// The next step for a Pod. The numbers are those of its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The volume of this claim is set to `Retain` and marked.
    Keep(usize),
    /// The Pod is evicted.
    Evict,
    /// This claim is deleted, if it is still the one that was looked at.
    Release(usize),
    /// Something is under way.
    Wait,
    /// It runs elsewhere.
    Done,
}

/// Decides the next step.
#[must_use]
pub fn next(pod: PodNow, held: &[HeldNow]) -> Step {
    let there = |it: &HeldNow| it.claim == ClaimNow::There;
    if let Some(place) = held.iter().position(|it| it.claim != ClaimNow::Gone && !it.is_kept) {
        return Step::Keep(place);
    }
    match pod {
        PodNow::Here => Step::Evict,
        PodNow::Leaving | PodNow::Awaited => held.iter().position(there).map_or(Step::Wait, Step::Release),
        PodNow::Ready if held.iter().all(|it| it.claim == ClaimNow::Gone) => Step::Done,
        // One of that name that runs elsewhere cannot use these claims.
        PodNow::Ready => Step::Wait,
    }
}

/// The claims of a Pod that may be let go so that another starts elsewhere, each with the name of its volume; or why they may not.
/// `held` are those of the Pod that are on the node alone. All Pods of the node must be known.
///
/// # Errors
/// When nothing would make a claim anew, somebody else uses it, or what is made anew would start nowhere.
pub fn retirable(pod: &Pod, held: &[HeldClaim], facts: &DrainFacts<'_>) -> Result<Vec<(Arc<Claim>, String)>, String> {
    if let Some(held) = held.iter().find(|held| !held.made_anew) {
        return Err(format!(
            "claim {} is not one that a StatefulSet makes from a template, so that nothing would make it anew: move its data first",
            held.claim
        ));
    }
    let (outcome, why) = without_held_claims(pod, facts);
    if outcome != Outcome::StartsElsewhere {
        return Err(format!("it would start nowhere else even without its claims: {why}"));
    }
    let mut claims = Vec::with_capacity(held.len());
    for held in held {
        if let Some(other) = other_user(pod, &held.claim, facts) {
            let other = other.display_name();
            return Err(format!(
                "claim {} is used by pod {other} too, for which it would stay and hold both up",
                held.claim
            ));
        }
        let found = facts.view.claim(pod.namespace(), &held.claim).found();
        let claim = found.ok_or_else(|| format!("claim {} is not known", held.claim))?;
        if let Some(why) = no_volume_elsewhere(&claim, facts) {
            return Err(why);
        }
        claims.push((claim, held.volume.clone()));
    }
    Ok(claims)
}

/// Another Pod of the node that uses the claim. On other nodes there is none: its volume is on this one alone.
fn other_user<'a>(pod: &Pod, claim: &str, facts: &DrainFacts<'a>) -> Option<&'a Pod> {
    facts
        .pods
        .iter()
        .copied()
        .filter(|other| other.is_live() && other.namespace() == pod.namespace())
        .find(|other| other.display_name() != pod.display_name() && other.claim_names().any(|name| name == claim))
}

/// What would become of a Pod if its claims on the node alone were let go, and why.
fn without_held_claims(pod: &Pod, facts: &DrainFacts<'_>) -> (Outcome, String) {
    let mut storage = Storage::of(pod, facts.view);
    storage.bound.retain(|it| !replacement::is_on_this_node_alone(&it.volume, facts));
    replacement::outcome(pod, &storage, facts)
}

/// Why a claim like this one, made anew, would get no volume on another node; nothing where that is not seen beforehand.
fn no_volume_elsewhere(claim: &Claim, facts: &DrainFacts<'_>) -> Option<String> {
    let name = claim.class_name().unwrap_or_default();
    let class = match facts.view.class(name) {
        Lookup::Found(class) => class,
        Lookup::Absent => return Some(format!("class {name:?} of claim {} does not exist", claim.name())),
        Lookup::Unknown => return Some(format!("class {name:?} of claim {} is not known", claim.name())),
    };
    if class.provisioner != NO_PROVISIONER {
        return None;
    }
    let is_open = |node: &&&Node| !node.spec.unschedulable && node.is_ready();
    let free = facts.view.free_volumes_of_class(name).found().unwrap_or_default();
    let fits = free.iter().filter(|volume| volume.is_available() && unfit(volume, claim, Some(name)).is_none());
    let mut reached =
        fits.filter(|volume| facts.others.iter().filter(is_open).any(|node| volume_reachable(volume, node)));
    let why = || format!("class {name} has no free volume on another node that fits claim {}", claim.name());
    if reached.next().is_some() { None } else { Some(why()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: HeldNow = HeldNow { claim: ClaimNow::There, is_kept: false };
    const KEPT: HeldNow = HeldNow { claim: ClaimNow::There, is_kept: true };
    const LEAVING: HeldNow = HeldNow { claim: ClaimNow::Leaving, is_kept: true };
    const GONE: HeldNow = HeldNow { claim: ClaimNow::Gone, is_kept: true };

    #[test]
    fn volumes_are_kept_before_anything_else_and_claims_go_once_their_pod_does() {
        assert_eq!(next(PodNow::Here, &[THERE, THERE]), Step::Keep(0));
        assert_eq!(next(PodNow::Here, &[KEPT, THERE]), Step::Keep(1));
        assert_eq!(next(PodNow::Here, &[KEPT, KEPT]), Step::Evict);
        assert_eq!(next(PodNow::Leaving, &[KEPT, KEPT]), Step::Release(0));
        assert_eq!(next(PodNow::Leaving, &[LEAVING, KEPT]), Step::Release(1));
        assert_eq!(next(PodNow::Leaving, &[LEAVING, LEAVING]), Step::Wait);
        assert_eq!(next(PodNow::Awaited, &[GONE, GONE]), Step::Wait);
        assert_eq!(next(PodNow::Ready, &[GONE, GONE]), Step::Done);
    }

    #[test]
    fn a_retirement_that_was_cut_short_is_gone_on_with() {
        assert_eq!(next(PodNow::Awaited, &[KEPT]), Step::Release(0), "its Pod waits for the node");
        assert_eq!(next(PodNow::Awaited, &[THERE]), Step::Keep(0), "somebody has set the policy back");
        assert_eq!(next(PodNow::Awaited, &[LEAVING]), Step::Wait);
        assert_eq!(next(PodNow::Ready, &[KEPT]), Step::Wait);
    }

    /// Whatever is seen, in whatever order: no Pod is evicted and no claim let go whose volumes are not all kept.
    #[test]
    fn nothing_is_taken_away_whose_volume_is_not_kept() {
        let claims = [ClaimNow::There, ClaimNow::Leaving, ClaimNow::Gone];
        let all: Vec<HeldNow> =
            claims.iter().flat_map(|claim| [true, false].map(|is_kept| HeldNow { claim: *claim, is_kept })).collect();
        for pod in [PodNow::Here, PodNow::Leaving, PodNow::Awaited, PodNow::Ready] {
            for one in &all {
                for other in &all {
                    let held = [*one, *other];
                    let safe = held.iter().all(|it| it.is_kept || it.claim == ClaimNow::Gone);
                    match next(pod, &held) {
                        Step::Evict => assert!(safe && pod == PodNow::Here, "{held:?}"),
                        Step::Release(place) => {
                            assert!(safe && held[place].claim == ClaimNow::There && pod != PodNow::Here, "{held:?}");
                        }
                        Step::Keep(place) => assert!(!held[place].is_kept),
                        Step::Wait => {}
                        Step::Done => assert!(held.iter().all(|it| it.claim == ClaimNow::Gone)),
                    }
                }
            }
        }
    }
}
