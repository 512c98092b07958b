//! Which existing volume the scheduler would give to a claim.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::migrated::scheduler_affinity;
use super::place::Place;
use super::unfit::{is_selected, serves, unfit};
use super::{ClusterView, Kind, Lookup};
use crate::model::selector::unmet;
use crate::model::{Claim, Class, Volume};

/// Volumes that a message names.
const MOST_NAMED: usize = 4;

/// Why the claim does not get the volume on the node; nothing when all seems well.
fn why_not(volume: &Volume, claim: &Claim, class_name: &str, place: &Place) -> Option<String> {
    if let Some(unfit) = unfit(volume, claim, Some(class_name)) {
        return Some(unfit.to_string());
    }
    if !volume.is_available() {
        return Some(format!("is {}", volume.status.phase));
    }
    let affinity = volume.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref())?;
    (!place.could_reach(Some(affinity))).then(|| unmet(affinity, place.node()))
}

/// Why none of the volumes that can be named fits, in words; nothing when there is none to name.
pub(super) fn why_none_fits(claim: &Claim, class: &Class, place: &Place, view: &dyn ClusterView) -> Option<String> {
    let mut near: Vec<Arc<Volume>> = view.volumes_to_name();
    // Those of the class first: that one of another class would fit is worth knowing only beside them.
    near.sort_by_key(|volume| (volume.class_name() != class.name(), volume.name().to_owned()));
    let reasons = near.iter().map(|volume| {
        let why = why_not(volume, claim, class.name(), place);
        format!("{} {}", volume.name(), why.as_deref().unwrap_or("is taken by another claim of the same Pods"))
    });
    let told: Vec<String> = reasons.take(MOST_NAMED).collect();
    let more = near.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!("; {more} more") } else { String::new() };
    (!told.is_empty()).then(|| told.join("; ") + &more)
}

/// The volume that is reserved for the claim and that the volume controller would therefore bind without the scheduler.
pub(super) fn reserved_for(claim: &Claim, view: &dyn ClusterView) -> Lookup<Arc<Volume>> {
    match view.volumes_claimed_by(claim.namespace(), claim.name()) {
        Lookup::Found(candidates) => {
            let reserved = candidates.into_iter().find(|volume| volume.is_claimed_by(claim) && serves(volume, claim));
            Lookup::found_or(reserved, Lookup::Absent)
        }
        Lookup::Absent => Lookup::Absent,
        Lookup::Unknown => Lookup::Unknown,
    }
}

/// What the scheduler would find for one claim.
enum Match {
    Volume(Arc<Volume>),
    /// A volume is reserved for the claim, but the node cannot reach it: no other one is looked at.
    Blocked,
    None,
}

fn reachable(volume: &Volume, place: &Place, view: &dyn ClusterView) -> bool {
    place.could_reach(scheduler_affinity(volume, place.name(), view).as_deref())
}

/// The volumes of one class that nobody has and that the node can reach, smallest first. Among equals the scheduler takes
/// whichever comes first; the name makes our choice repeatable.
fn free_on_node(class_name: &str, place: &Place, view: &dyn ClusterView) -> Lookup<Vec<Arc<Volume>>> {
    view.free_volumes_of_class(class_name).map(|mut volumes| {
        // A view may show a volume that has been promised since with the claim that it is promised to.
        let is_free = |volume: &Arc<Volume>| volume.spec.claim_ref.is_none() && volume.is_available();
        volumes.retain(|volume| is_free(volume) && reachable(volume, place, view));
        volumes.sort_by(|left, right| (left.capacity(), left.name()).cmp(&(right.capacity(), right.name())));
        volumes
    })
}

fn matching(
    claim: &Claim,
    class_name: &str,
    free: &[Arc<Volume>],
    place: &Place,
    view: &dyn ClusterView,
    taken: &HashSet<String>,
) -> Match {
    let own = view.volumes_claimed_by(claim.namespace(), claim.name()).found().unwrap_or_default();
    let is_reserved = |volume: &&Arc<Volume>| {
        volume.class_name() == class_name
            && volume.is_claimed_by(claim)
            && !taken.contains(volume.name())
            && serves(volume, claim)
    };
    if let Some(reserved) = own.iter().find(is_reserved) {
        return if reachable(reserved, place, view) { Match::Volume(Arc::clone(reserved)) } else { Match::Blocked };
    }
    // Whatever is too small stands before the first that is not.
    let large_enough = free.partition_point(|volume| volume.capacity() < claim.request());
    let fits = |volume: &&Arc<Volume>| {
        !taken.contains(volume.name())
            && serves(volume, claim)
            && is_selected(volume, claim)
            // What a Node that is assumed agreed to for one claim binds it for the next.
            && (!place.is_assumed() || reachable(volume, place, view))
    };
    free[large_enough..].iter().find(fits).map_or(Match::None, |volume| Match::Volume(Arc::clone(volume)))
}

/// What is to be had on the node for each of a Pod's delayed claims: a volume, nothing, or `Unknown` where volumes of a
/// class are not known. Of a class with a provisioner it does not matter that there may be more: a rewrite is right either
/// way, and nobody acts on what manifests say of a claim. Claims are served by size, smallest first, and no volume is given
/// twice.
/// Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `findMatchingVolumes`.
pub(super) fn choose(claims: &[(&Claim, &Class)], place: &Place, view: &dyn ClusterView) -> Vec<Lookup<Arc<Volume>>> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|at| claims[*at].0.request());
    let mut taken = HashSet::new();
    let mut free: HashMap<&str, Lookup<Vec<Arc<Volume>>>> = HashMap::new();
    let mut chosen: Vec<Lookup<Arc<Volume>>> = claims.iter().map(|_| Lookup::Absent).collect();
    for at in order {
        let (claim, class) = claims[at];
        let free = free.entry(class.name()).or_insert_with(|| free_on_node(class.name(), place, view));
        chosen[at] = match free {
            Lookup::Unknown => Lookup::Unknown,
            Lookup::Absent => Lookup::Absent,
            Lookup::Found(free) => match matching(claim, class.name(), free, place, view, &taken) {
                Match::Volume(volume) => {
                    taken.insert(volume.name().to_owned());
                    place.agree_to_reach(scheduler_affinity(&volume, place.name(), view).as_deref());
                    Lookup::Found(volume)
                }
                Match::None if !class.is_dynamic() && !view.knows_all(Kind::Volumes) => Lookup::Unknown,
                Match::Blocked | Match::None => Lookup::Absent,
            },
        };
    }
    chosen
}
