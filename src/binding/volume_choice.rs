//! Which existing volume the scheduler would give to a claim.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::selector::{label_selector_matches, labels, volume_reachable};
use super::{ClusterView, Lookup};
use crate::model::{Claim, Node, Text, Volume};

const FILESYSTEM: &str = "Filesystem";

/// True when size, volume mode, attributes class and access modes of the volume serve the claim, and it is not being
/// deleted. The class is not compared: a volume that is reserved for the claim need not have the same one.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `FindMatchingVolume`.
fn serves(volume: &Volume, claim: &Claim) -> bool {
    fn mode(given: Option<&Text>) -> &str {
        given.map(Text::as_str).filter(|mode| !mode.is_empty()).unwrap_or(FILESYSTEM)
    }
    fn attributes(class: Option<&Text>) -> &str {
        class.map(Text::as_str).unwrap_or_default()
    }
    let (offered, asked) = (&volume.spec, &claim.spec);
    volume.capacity() >= claim.request()
        && mode(offered.volume_mode.as_ref()) == mode(asked.volume_mode.as_ref())
        && attributes(offered.volume_attributes_class_name.as_ref())
            == attributes(asked.volume_attributes_class_name.as_ref())
        && volume.metadata.deletion_timestamp.is_none()
        && asked.access_modes.iter().all(|mode| offered.access_modes.contains(mode))
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

fn matching(claim: &Claim, candidates: &[Arc<Volume>], node: &Node, taken: &BTreeSet<String>) -> Match {
    let mut smallest: Option<&Arc<Volume>> = None;
    for volume in candidates {
        let reserved = volume.is_claimed_by(claim);
        if taken.contains(volume.name()) || (volume.spec.claim_ref.is_some() && !reserved) || !serves(volume, claim) {
            continue;
        }
        if reserved {
            return if volume_reachable(volume, node) { Match::Volume(Arc::clone(volume)) } else { Match::Blocked };
        }
        let selected = claim
            .spec
            .selector
            .as_ref()
            .is_none_or(|selector| label_selector_matches(selector, labels(volume.metadata.labels.as_ref())));
        if volume.status.phase != "Available" || !selected || !volume_reachable(volume, node) {
            continue;
        }
        // Among equals the scheduler takes whichever comes first; the name makes our choice repeatable.
        let smaller = |than: &Arc<Volume>| (volume.capacity(), volume.name()) < (than.capacity(), than.name());
        if smallest.is_none_or(smaller) {
            smallest = Some(volume);
        }
    }
    smallest.map_or(Match::None, |volume| Match::Volume(Arc::clone(volume)))
}

/// The volumes of the class that the claim might get: those that nobody has, and those that name it.
fn candidates(claim: &Claim, class_name: &str, view: &dyn ClusterView) -> Lookup<Vec<Arc<Volume>>> {
    view.free_volumes_of_class(class_name).map(|mut volumes| {
        let own = view.volumes_claimed_by(claim.namespace(), claim.name()).found().unwrap_or_default();
        volumes.extend(own.into_iter().filter(|volume| volume.class_name() == class_name));
        volumes
    })
}

/// What is to be had on the node for each of a Pod's delayed claims: a volume, nothing, or `None` where volumes of a
/// class are not known. Claims are served by size, smallest first, and no volume is given twice.
/// Source: `pkg/scheduler/framework/plugins/volumebinding/binder.go`, `findMatchingVolumes`.
pub(super) fn choose(claims: &[(&Claim, &str)], node: &Node, view: &dyn ClusterView) -> Vec<Lookup<Arc<Volume>>> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|place| claims[*place].0.request());
    let mut taken = BTreeSet::new();
    let mut chosen: Vec<Lookup<Arc<Volume>>> = claims.iter().map(|_| Lookup::Absent).collect();
    for place in order {
        let (claim, class_name) = claims[place];
        chosen[place] = match candidates(claim, class_name, view) {
            Lookup::Unknown => Lookup::Unknown,
            Lookup::Absent => Lookup::Absent,
            Lookup::Found(candidates) => match matching(claim, &candidates, node, &taken) {
                Match::Volume(volume) => {
                    taken.insert(volume.name().to_owned());
                    Lookup::Found(volume)
                }
                Match::Blocked | Match::None => Lookup::Absent,
            },
        };
    }
    chosen
}
