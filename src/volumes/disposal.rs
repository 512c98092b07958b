//! When a directory may go: the one decision that can destroy data.
//!
//! It is made from what the API server answers at this moment, never from a cache. The volume that permits it is there,
//! `Released` and under `Delete`; that no volume is there permits at most the removal of an empty directory that nobody was
//! given. What cannot be told keeps.

#![allow(clippy::result_large_err, reason = "a verdict is made and taken apart in one step")]

use std::fmt;

use super::persistent_volume::{reclaim, seen, volume_name};
use super::same_claim::is_superseded;
use super::view::VolumeSet;
use crate::binding::Lookup;
use crate::crd::{Disposal, LocalVolume, Origin, READY, SeenVolume, VolumePath, checked_base, condition};
use crate::model::{Claim, ClaimReference, Class, Node, Volume};

/// The most paths of other volumes that an order carries; the schema allows no more.
const MAX_OTHER_PATHS: usize = 1024;

/// What the API server says at this moment.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryFacts<'a> {
    /// All volumes.
    pub volumes: &'a VolumeSet,
    /// The claim that the volume of this directory names, by its UID.
    pub owner: &'a Lookup<Claim>,
    /// The claim that the directory was made for, by its UID.
    pub maker: &'a Lookup<Claim>,
    /// The class of that claim.
    pub class: Option<&'a Class>,
    /// The Node. Where it is not known, any volume may be on it.
    pub node: Option<&'a Node>,
}

/// Leave to take a directory away. It is made from live facts only, and spent by the write that it permits.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    disposal: Disposal,
    volume: Option<SeenVolume>,
    other_paths: Vec<String>,
}

impl Permit {
    /// In which way it may go.
    #[must_use]
    pub fn disposal(&self) -> Disposal {
        self.disposal
    }

    /// The volume whose release permits it.
    #[must_use]
    pub fn volume(&self) -> Option<&SeenVolume> {
        self.volume.as_ref()
    }

    /// What the agent has to tell the directory apart from.
    #[must_use]
    pub fn other_paths(&self) -> &[String] {
        &self.other_paths
    }
}

/// Why a directory stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// In words.
    pub why: String,
    /// A person should hear of it: nothing will change by itself.
    pub tell: bool,
}

/// An order of disposal as it is to stand in a LocalVolume.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// The directory may go.
    Permitted(Permit),
    /// Nobody may remove it: it was served, and there is no volume any more. The agent says where the data is.
    Retained,
}

/// What is to be done about a directory.
#[derive(Debug, PartialEq, Eq)]
pub enum DirectoryStep {
    /// Nothing.
    Keep(Kept),
    /// The order is given.
    Order(Order),
    /// The order is taken back.
    Withdraw(Kept),
    /// The attempt that the agent asks about is confirmed.
    Confirm {
        /// The attempt.
        attempt: String,
        /// What permits it.
        permit: Permit,
    },
}

/// Why nothing may be removed.
enum Stays {
    /// It was served, and there is no volume any more.
    Retained,
    /// For this reason.
    Kept(Kept),
}

impl Stays {
    fn keep(why: impl fmt::Display) -> Self {
        Self::Kept(Kept { why: why.to_string(), tell: false })
    }

    fn tell(why: impl fmt::Display) -> Self {
        Self::Kept(Kept { why: why.to_string(), tell: true })
    }
}

/// Decides about one directory that has not been disposed of.
#[must_use]
pub fn plan(local: &LocalVolume, facts: &DirectoryFacts<'_>) -> DirectoryStep {
    let Some(ordered) = local.spec.disposal else {
        return match verdict(local, facts) {
            Ok(permit) => DirectoryStep::Order(Order::Permitted(permit)),
            Err(Stays::Retained) => DirectoryStep::Order(Order::Retained),
            Err(Stays::Kept(kept)) => DirectoryStep::Keep(kept),
        };
    };
    let asked = asked(local);
    match verdict(local, facts) {
        // Another order than the one that was given: it is given anew before any attempt.
        Ok(permit) if permit.disposal != ordered || is_of_another(local, &permit) => {
            DirectoryStep::Order(Order::Permitted(permit))
        }
        Ok(permit) => match asked {
            Some(attempt) => DirectoryStep::Confirm { attempt: attempt.clone(), permit },
            None => DirectoryStep::Keep(Kept { why: "the agent has not asked".to_owned(), tell: false }),
        },
        Err(Stays::Retained) if ordered == Disposal::DeleteIfEmpty && local.spec.disposal_of.is_none() => {
            DirectoryStep::Keep(Kept { why: "it is retained".to_owned(), tell: false })
        }
        Err(Stays::Retained) => DirectoryStep::Order(Order::Retained),
        Err(Stays::Kept(kept)) => DirectoryStep::Withdraw(kept),
    }
}

/// The attempt that the agent asks about and that is not confirmed yet.
fn asked(local: &LocalVolume) -> Option<&String> {
    let attempt = local.status.as_ref()?.disposal_attempt.as_ref()?;
    (local.spec.confirmed_attempt.as_ref() != Some(attempt)).then_some(attempt)
}

/// True when a volume names the very claim that a directory was made for, so that one answer tells of both. What a part of
/// either is missing of is not known to be the same.
#[must_use]
pub fn names_maker(reference: &ClaimReference, local: &LocalVolume) -> bool {
    let named = [&reference.namespace, &reference.name, &reference.uid].map(|part| part.as_deref().unwrap_or_default());
    let claim = &local.spec.claim;
    named.iter().all(|part| !part.is_empty())
        && named == [claim.namespace.as_str(), claim.name.as_str(), claim.uid.as_str()]
}

/// True for an order that stands as it should by what a cache says of its volume, while the agent asks for nothing: there is
/// no need to ask the API server. Each attempt is confirmed from live facts, whatever is answered here.
#[must_use]
pub fn awaits_agent(local: &LocalVolume, volume: Option<&Volume>) -> bool {
    let (Some(Disposal::Delete), Some(of), Some(volume)) = (local.spec.disposal, &local.spec.disposal_of, volume)
    else {
        return false;
    };
    asked(local).is_none()
        && volume.metadata.uid.as_deref() == Some(of.as_str())
        && volume.status.phase == "Released"
        && volume.is_deleted_on_release()
        && local.spec.persistent_volume.as_ref().is_some_and(|it| claim_of(it) == claim_of(&seen(volume)))
}

/// The order was given for a volume, and it is another now.
fn is_of_another(local: &LocalVolume, permit: &Permit) -> bool {
    local.spec.disposal_of.as_deref() != permit.volume.as_ref().map(|seen| seen.uid.as_str())
        || (permit.volume.is_some()
            && local.spec.persistent_volume.as_ref().map(claim_of) != permit.volume.as_ref().map(claim_of))
}

fn claim_of(seen: &SeenVolume) -> (&str, &str) {
    (&seen.uid, &seen.claim_uid)
}

fn verdict(local: &LocalVolume, facts: &DirectoryFacts<'_>) -> Result<Permit, Stays> {
    if checked_base(&local.spec.base).is_err() || VolumePath::parse(&local.spec.path).is_err() {
        return Err(Stays::tell("its path is not one of ours"));
    }
    let own = facts.volumes.of(local);
    let volume = match own.as_slice() {
        [] => None,
        [volume] => Some(&***volume),
        [one, other, ..] => {
            return Err(Stays::tell(format!("volumes {} and {} both name this directory", one.name(), other.name())));
        }
    };
    let directory = local.directory();
    let named = facts.volumes.naming(&directory, facts.node);
    let other = named.filter(|it| Some(it.name()) != volume.map(Volume::name)).map(|it| it.name()).min();
    if let Some(other) = other {
        return Err(Stays::tell(format!("volume {other} names this path, or one above or below it")));
    }
    let permitted = match volume {
        Some(volume) => verdict_when_released(volume, facts.owner),
        None => verdict_without_volume(local, facts),
    };
    let (disposal, volume) = permitted?;
    let mut other_paths: Vec<String> = Vec::new();
    for (name, path) in facts.volumes.foreign_paths(facts.node) {
        if volume.as_ref().is_none_or(|volume| volume.name != name) {
            other_paths.push(path.to_owned());
        }
    }
    other_paths.sort_unstable();
    other_paths.dedup();
    if other_paths.len() > MAX_OTHER_PATHS {
        return Err(Stays::tell(format!(
            "more than {MAX_OTHER_PATHS} volumes of other provisioners name paths of its node: the agent cannot look at them all"
        )));
    }
    Ok(Permit { disposal, volume, other_paths })
}

type Permitted = Result<(Disposal, Option<SeenVolume>), Stays>;

/// The volume is there: it alone says whether its data may go.
fn verdict_when_released(volume: &Volume, owner: &Lookup<Claim>) -> Permitted {
    if volume.status.phase != "Released" {
        return Err(Stays::keep("its volume is not released"));
    }
    if !volume.is_deleted_on_release() {
        return Err(Stays::keep("its volume is retained"));
    }
    if volume.claim_uid().is_none() {
        return Err(Stays::tell("its volume is reserved for a claim that may still come"));
    }
    match owner {
        Lookup::Absent => Ok((Disposal::Delete, Some(seen(volume)))),
        Lookup::Found(claim) => {
            Err(Stays::keep(format!("claim {}/{} of its volume is still there", claim.namespace(), claim.name())))
        }
        Lookup::Unknown => Err(Stays::keep("nobody knows whether the claim of its volume is gone")),
    }
}

/// There is no volume of this directory.
fn verdict_without_volume(local: &LocalVolume, facts: &DirectoryFacts<'_>) -> Permitted {
    let by_hand = local.spec.disposal == Some(Disposal::Delete) && local.spec.disposal_of.is_none();
    let was_served =
        local.spec.persistent_volume.is_some() || matches!(local.spec.origin, Origin::Recovered | Origin::Adopted);
    let removed_by_person = |claim: Option<&Claim>| by_hand && claim.is_none_or(|claim| claim.volume_name().is_none());
    match facts.maker {
        Lookup::Unknown => Err(Stays::keep("nobody knows whether its claim is gone")),
        Lookup::Absent if local.spec.origin == Origin::Orphan => match facts.volumes.of_claim(&local.spec.claim.uid) {
            Some(volume) => Err(Stays::tell(format!("volume {} is that of its claim", volume.name()))),
            None => Ok((Disposal::Delete, None)),
        },
        Lookup::Found(_) if local.spec.origin == Origin::Orphan => Err(Stays::tell("its claim is there")),
        Lookup::Absent if removed_by_person(None) => Ok((Disposal::Delete, None)),
        Lookup::Absent if was_served => Err(Stays::Retained),
        Lookup::Absent => Ok((Disposal::DeleteIfEmpty, None)),
        Lookup::Found(claim) if was_served && elsewhere(local, facts.volumes).is_none() => Err(Stays::keep(format!(
            "its volume has vanished, and claim {}/{} has not",
            claim.namespace(),
            claim.name()
        ))),
        Lookup::Found(claim) => verdict_when_never_published(local, claim, facts),
    }
}

/// The claim's volume, which is on another node.
fn elsewhere<'a>(local: &LocalVolume, volumes: &'a VolumeSet) -> Option<&'a Volume> {
    volumes.get(&volume_name(&local.spec.claim.uid)).map(AsRef::as_ref)
}

/// Nothing was ever mounted from here, as far as is known: for a claim that is there.
fn verdict_when_never_published(local: &LocalVolume, claim: &Claim, facts: &DirectoryFacts<'_>) -> Permitted {
    // Begun already: the agent may have removed it. The claim gets a new one when this object is gone.
    let begun = local.status.as_ref().is_some_and(|status| status.disposal_attempt.is_some());
    let empty = Ok((Disposal::DeleteIfEmpty, None));
    if elsewhere(local, facts.volumes).is_some() {
        return empty;
    }
    if claim.volume_name().is_some() {
        return Err(Stays::keep("its claim is bound and its volume has vanished"));
    }
    match (claim.selected_node(), facts.class) {
        // A claim whose volume every node reaches selects one for its Pod, not for the directory.
        (Some(node), _) if node != local.spec.node_name && !local.spec.shared_file_system => empty,
        (None, Some(class)) if class.is_delayed() => empty,
        // Given anew, with the directory that is there.
        _ if is_superseded(local) => empty,
        (None, None) => Err(Stays::keep("its class is gone and nobody knows who chooses the node")),
        _ if begun && local.spec.disposal == Some(Disposal::DeleteIfEmpty) => empty,
        _ => Err(Stays::keep("it is being provisioned")),
    }
}

/// True when the policy that the LocalVolume records is the volume's.
#[must_use]
pub(super) fn records(local: &LocalVolume, volume: &Volume) -> bool {
    let record = local.spec.persistent_volume.as_ref();
    record.is_some_and(|seen| {
        Some(seen.uid.as_str()) == volume.metadata.uid.as_deref() && seen.reclaim_policy == reclaim(volume)
    }) && local.spec.reclaim == reclaim(volume)
}

/// True when a LocalVolume whose directory is gone has nothing left to tell: the volume that it was removed with is gone.
/// `volume` is the volume of the recorded name, asked for at this moment.
#[must_use]
pub fn may_forget(local: &LocalVolume, volume: &Lookup<Volume>) -> bool {
    let Some(uid) = local.spec.disposal_of.as_deref() else { return local.is_disposed() };
    let is_gone = match volume {
        Lookup::Absent => true,
        Lookup::Found(volume) => volume.metadata.uid.as_deref() != Some(uid),
        Lookup::Unknown => false,
    };
    local.is_disposed() && is_gone
}

/// Why a directory that is to go is still there, in words for the event on its volume; nothing while it is under way.
#[must_use]
pub fn complaint(local: &LocalVolume, node: &Lookup<()>) -> Option<String> {
    local.spec.disposal?;
    if local.is_disposed() {
        return None;
    }
    if *node == Lookup::Absent {
        return Some(format!(
            "node {} does not exist, and only its agent can remove the directory: bring the node back, or remove the \
             finalizer of LocalVolume {} to give the directory up",
            local.spec.node_name,
            local.name()
        ));
    }
    let status = local.status.as_ref()?;
    let ready = condition(&status.conditions, READY).filter(|ready| ready.status == "False")?;
    Some(format!("the directory is not removed: {}", ready.message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{ClaimIdentity, LocalVolumeSpec};
    use crate::volumes::local_volume;

    #[test]
    fn what_the_agent_says_is_passed_on_only_while_an_order_stands() {
        let mut local = local_volume(LocalVolumeSpec {
            node_name: "n".to_owned(),
            claim: ClaimIdentity { uid: "u".to_owned(), ..ClaimIdentity::default() },
            ..LocalVolumeSpec::default()
        });
        let status = json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "MountInside",
            "message": "unmount it", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
        local.status = serde_json::from_value(status).unwrap();
        assert_eq!(complaint(&local, &Lookup::Absent), None);
        local.spec.disposal = Some(Disposal::Delete);
        assert!(complaint(&local, &Lookup::Found(())).is_some_and(|why| why.contains("unmount it")));
        assert!(complaint(&local, &Lookup::Absent).is_some_and(|why| why.contains("bring the node back")));
        local.metadata.finalizers = None;
        assert_eq!(complaint(&local, &Lookup::Absent), None, "it is gone, or was given up");
    }

    #[test]
    fn a_record_stays_until_the_volume_is_known_to_be_gone() {
        let mut local = local_volume(LocalVolumeSpec {
            disposal: Some(Disposal::Delete),
            disposal_of: Some("v-1".to_owned()),
            ..LocalVolumeSpec::default()
        });
        let volume = |uid: &str| serde_json::from_value(json!({ "metadata": { "name": "v", "uid": uid } })).unwrap();
        assert!(!may_forget(&local, &Lookup::Absent), "the agent holds it");
        local.metadata.finalizers = None;
        assert!(may_forget(&local, &Lookup::Absent));
        assert!(may_forget(&local, &Lookup::Found(volume("v-2"))));
        assert!(!may_forget(&local, &Lookup::Found(volume("v-1"))));
        assert!(!may_forget(&local, &Lookup::Unknown));
    }

    fn ordered() -> (LocalVolume, serde_json::Value) {
        let volume = json!({ "metadata": { "name": "v", "uid": "v-1" },
            "spec": { "persistentVolumeReclaimPolicy": "Delete", "claimRef": { "namespace": "n", "name": "c", "uid": "u" } },
            "status": { "phase": "Released" } });
        let local = local_volume(LocalVolumeSpec {
            claim: ClaimIdentity { namespace: "n".to_owned(), name: "c".to_owned(), uid: "u".to_owned() },
            disposal: Some(Disposal::Delete),
            disposal_of: Some("v-1".to_owned()),
            persistent_volume: Some(seen(&serde_json::from_value(volume.clone()).unwrap())),
            ..LocalVolumeSpec::default()
        });
        (local, volume)
    }

    #[test]
    fn an_order_is_left_alone_only_while_its_volume_is_as_it_was_and_the_agent_asks_nothing() {
        let (mut local, volume) = ordered();
        let awaits = |local: &LocalVolume, at: &str, value: serde_json::Value| {
            let mut volume = volume.clone();
            *volume.pointer_mut(at).unwrap() = value;
            awaits_agent(local, Some(&serde_json::from_value(volume).unwrap()))
        };
        assert!(awaits(&local, "/metadata/name", json!("v")));
        assert!(!awaits_agent(&local, None), "not in the cache is not known");
        for (at, value) in [
            ("/metadata/uid", "v-2"),
            ("/spec/persistentVolumeReclaimPolicy", "Retain"),
            ("/spec/claimRef/uid", "another"),
            ("/status/phase", "Bound"),
            ("/status/phase", "Available"),
        ] {
            assert!(!awaits(&local, at, json!(value)), "{at}: {value}");
        }
        local.status = serde_json::from_value(json!({ "disposalAttempt": "a" })).unwrap();
        assert!(!awaits(&local, "/metadata/name", json!("v")), "the agent asks");
        local.spec.confirmed_attempt = Some("a".to_owned());
        assert!(awaits(&local, "/metadata/name", json!("v")));
        local.spec.disposal = Some(Disposal::DeleteIfEmpty);
        assert!(!awaits(&local, "/metadata/name", json!("v")));
    }

    #[test]
    fn one_answer_tells_of_two_claims_only_where_every_part_is_there_and_the_same() {
        let (mut local, _) = ordered();
        let names = |local: &LocalVolume, namespace: &str, name: &str, uid: &str| {
            let reference = json!({ "namespace": namespace, "name": name, "uid": uid });
            names_maker(&serde_json::from_value(reference).unwrap(), local)
        };
        assert!(names(&local, "n", "c", "u"));
        assert!(!names(&local, "n", "c", "w") && !names(&local, "n", "d", "u") && !names(&local, "m", "c", "u"));
        local.spec.claim = ClaimIdentity { uid: "u".to_owned(), ..ClaimIdentity::default() };
        assert!(!names(&local, "", "", "u"), "what neither says is not the same");
    }
}
