//! Why a volume is as it is.

use super::cause::Cause;
use super::command::{describe, show};
use super::found::{Found, Line, lines_of};
use super::known::{Known, wants};
use super::record::Kind;
use super::{claim, consumers, local};
use crate::binding::Lookup;
use crate::crd::condition;
use crate::model::{LOCAL_VOLUME, PROVISIONED_BY, PROVISIONER, Text, Volume};

/// Why a volume is as it is.
pub(super) fn of_volume(volume: &Volume, known: &Known<'_>) -> Found {
    let name = volume.name();
    match volume.status.phase.as_str() {
        _ if volume.metadata.deletion_timestamp.is_some() => kept(volume, "is being deleted", known),
        "Released" if volume.is_deleted_on_release() => {
            kept(volume, "is Released, and its reclaim policy is Delete", known)
        }
        "Failed" => kept(volume, "is Failed", known),
        "Released" => released(volume, known),
        "Bound" => bound(volume, known),
        "Available" => {
            let summary =
                format!("Volume {name:?} is Available: it waits for a claim of class {:?}.", volume.class_name());
            Found::new(Cause::Healthy, summary)
        }
        phase => {
            let summary = format!("Volume {name:?} has phase {phase:?}, which says nothing yet.");
            Found::new(Cause::Healthy, summary)
        }
    }
}

/// A volume that nobody may have, and that nobody cleans.
fn released(volume: &Volume, known: &Known<'_>) -> Found {
    let name = volume.name();
    let details = known.record.details("PersistentVolume", "", name);
    let since = details.and_then(super::details::Details::phase_since);
    let summary = format!(
        "Volume {name:?} belonged to claim {}, which was deleted, and its reclaim policy is Retain: Kubernetes keeps the volume and its \
         data, cleans nothing, and gives it to no other claim. That lasts until somebody decides what becomes of the data.",
        owner(volume)
    );
    let line = Line::new(format!("pv/{name}"), "status.phase is Released").at(since);
    let look = show(&[name], format!("kubectl get pv {name} -o yaml"), "Shows where the data is.");
    Found::new(Cause::VolumeReleased, summary).with([line]).then(look).then(claim::give_back(volume))
}

fn owner(volume: &Volume) -> String {
    let part = |text: &Option<Text>| text.as_deref().unwrap_or("?").to_owned();
    let reference = volume.spec.claim_ref.as_ref();
    reference.map_or_else(|| "?".to_owned(), |it| format!("{}/{}", part(&it.namespace), part(&it.name)))
}

/// A volume that is to go, and what keeps it.
fn kept(volume: &Volume, state: &str, known: &Known<'_>) -> Found {
    let name = volume.name();
    let look = describe("pv", "", name, "Shows the volume, its finalizers and its events.");
    let object = format!("pv/{name}");
    let events = known.volume_events(volume);
    let lines = lines_of(&object, &events, |event| event.reason == "VolumeFailedDelete");
    let (_, message) =
        known.record.details("PersistentVolume", "", name).map(super::details::Details::reason).unwrap_or_default();
    let local = volume.metadata.annotation(LOCAL_VOLUME).and_then(|local| known.record.local_volume(local));
    let holds = |finalizer: &&Text| !finalizer.is_empty();
    let finalizers: Vec<&str> = volume.metadata.finalizers.iter().flatten().filter(holds).map(Text::as_str).collect();
    let say = |why: &str| format!("Volume {name:?} {state}, and it is still there: {}.", why.trim_end_matches('.'));
    let trouble = local::volume_trouble(volume, known);
    let found = if let Some(trouble) = trouble {
        // What is wrong with the node or its disk is what keeps the volume.
        let summary = format!("Volume {name:?} {state}, and it is still there. {}", trouble.summary);
        Found { summary, cause: Cause::VolumeKept, ..trouble }
    } else if let Some(event) = events.iter().rev().find(|event| event.reason == "VolumeFailedDelete") {
        Found::new(Cause::VolumeKept, say(&event.message))
    } else if !message.is_empty() {
        let line = Line::new(format!("status of {object}"), message);
        Found::new(Cause::VolumeKept, say(message)).with([line])
    } else if known.is_in_use(volume) {
        Found::new(Cause::VolumeKept, say("its claim is bound to it still, and a volume goes after its claim"))
    } else {
        unknown_keeper(volume, &say, known)
    };
    let conditions = local.and_then(|local| local.status.as_ref()).map(|status| status.conditions.as_slice());
    let disposed = condition(conditions.unwrap_or_default(), crate::crd::DISPOSED);
    let disposed = disposed.map(|said| {
        let from = format!("condition {} of its LocalVolume", said.type_);
        Line::new(from, format!("{}: {}", said.reason, said.message)).at(Some(said.last_transition_time.0))
    });
    let finalizers =
        (!finalizers.is_empty()).then(|| Line::new(object, format!("finalizers: {}", finalizers.join(", "))));
    found.with(lines).with(disposed).with(finalizers).then(look)
}

/// Nothing says what keeps it: who is to delete it is named.
fn unknown_keeper(volume: &Volume, say: &dyn Fn(&str) -> String, known: &Known<'_>) -> Found {
    let by = volume.metadata.annotation(PROVISIONED_BY);
    let missing = known.missing_events("");
    if let Some(missing) = missing {
        let who = by.map_or_else(|| "what keeps it is not known".to_owned(), |by| format!("{by:?} is to delete it"));
        return Found::new(Cause::NotKnown, say(&format!("{who}; {missing}"))).not_knowing([missing]);
    }
    match by {
        Some(PROVISIONER) => {
            let summary =
                say("latebind's controller is to delete it, and has reported nothing about it; its log says more");
            let look = show(
                &[],
                "kubectl get pods -A -l app.kubernetes.io/name=latebind -o wide".to_owned(),
                "Shows whether latebind runs.",
            );
            Found::new(Cause::VolumeKept, summary).then(look)
        }
        Some(by) => {
            let why =
                format!("the provisioner {by:?} is to delete it, and has reported nothing about it: it may not run");
            Found::new(Cause::VolumeKept, say(&why))
        }
        None => Found::new(
            Cause::VolumeKept,
            say("no provisioner made it, and Kubernetes deletes no volume that was made by hand"),
        ),
    }
}

fn bound(volume: &Volume, known: &Known<'_>) -> Found {
    let name = volume.name();
    if known.reached_from(volume).is_some_and(|nodes| nodes.is_empty()) {
        let wanted = wants(volume).unwrap_or_default();
        let summary = format!(
            "Volume {name:?} belongs to claim {}, and no node of the cluster reaches it: it wants {wanted}. If that node is gone for \
             good, so is the data of a local volume.",
            owner(volume)
        );
        let look = show(&[name], format!("kubectl get pv {name} -o yaml"), "Shows the volume.");
        return Found::new(Cause::VolumeNodeGone, summary).with(local::observed_as_lost(volume)).then(look);
    }
    if let Some(found) = local::volume_trouble(volume, known) {
        return found;
    }
    let reference = volume.spec.claim_ref.clone().unwrap_or_default();
    let (namespace, claim_name) =
        (Text::or_empty(reference.namespace.as_ref()), Text::or_empty(reference.name.as_ref()));
    match known.claim(&namespace, &claim_name) {
        Lookup::Found(claim) => consumers::of_claim(&claim, known),
        Lookup::Absent => {
            let summary = format!(
                "Volume {name:?} is Bound to claim {}, which no longer exists: it is about to be Released.",
                owner(volume)
            );
            Found::new(Cause::BindingInProgress, summary)
        }
        Lookup::Unknown => {
            let missing = known.missing(Kind::Claims, &namespace).unwrap_or_else(|| owner(volume));
            let summary =
                format!("Volume {name:?} is Bound to claim {}, and that claim is not known: {missing}.", owner(volume));
            let look = describe("pvc", &namespace, &claim_name, "Shows the claim.");
            Found::new(Cause::NotKnown, summary).not_knowing([missing]).then(look)
        }
    }
}
