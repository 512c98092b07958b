//! Why a claim is not bound.

use std::sync::Arc;

use super::cause::Cause;
use super::command::{Step, describe, fix, show, unselect};
use super::found::{Found, Line, lines_of};
use super::known::{ClassOf, Known};
use super::provisioner;
use super::record::Kind;
use crate::binding::{Lookup, Unfit, unfit};
use crate::model::selector::{unmet, volume_reachable};
use crate::model::{Claim, Class, GAVE_UP, Node, Volume};

/// Volumes that are named in one diagnosis.
const MOST_VOLUMES: usize = 8;

/// What keeps an unbound claim from being bound whatever its Pods are; nothing where they alone can tell. `node` is the one
/// that a Pod names.
pub(super) fn by_itself(claim: &Claim, node: Option<&str>, known: &Known<'_>) -> Option<Found> {
    let (name, namespace) = (claim.name(), claim.namespace());
    let look = || describe("pvc", namespace, name, "Shows the claim and what uses it.");
    if claim.status.phase == "Lost" {
        let summary = format!(
            "Claim {name:?} was bound to volume {:?}, which no longer exists. Its data is gone with it. Create the claim anew, or \
             restore the volume under its old name.",
            claim.volume_name().unwrap_or_default()
        );
        return Some(Found::new(Cause::ClaimLost, summary).then(look()));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        let summary = format!(
            "Claim {name:?} is being deleted and was never bound. It goes when no Pod uses it any more; until then it is in the \
             way of a new one."
        );
        return Some(Found::new(Cause::ClaimDeleting, summary).then(look()));
    }
    if let Some(volume) = claim.volume_name() {
        return Some(named_volume(claim, volume, known));
    }
    if let Some(found) = reserved(claim, known) {
        return Some(found);
    }
    match known.class_of(claim) {
        ClassOf::Found(class) if class.is_delayed() => delayed(claim, &class, node, known),
        ClassOf::Found(class) if class.is_dynamic() => Some(provisioner::of_order(claim, &class, None, known)),
        ClassOf::Found(class) => Some(static_volumes(claim, class.name(), None, known)),
        ClassOf::Empty => Some(static_volumes(claim, "", None, known)),
        ClassOf::None => Some(without_class(claim, known)),
        ClassOf::Absent(class) => {
            let summary = format!("Claim {name:?} names class {class:?}, and there is no StorageClass of that name.");
            Some(Found::new(Cause::ClassMissing, summary).then(classes()))
        }
        ClassOf::Unknown(class) => {
            let summary = format!("Claim {name:?} is of class {class:?}, and what that class says is not known.");
            let missing = known.missing(Kind::Classes, "").unwrap_or_else(|| format!("StorageClass {class:?}"));
            Some(Found::new(Cause::NotKnown, summary).not_knowing([missing]).then(classes()))
        }
    }
}

fn without_class(claim: &Claim, known: &Known<'_>) -> Found {
    let name = claim.name();
    match known.view.default_class() {
        Lookup::Absent => {
            let summary = format!(
                "Claim {name:?} names no class, and the cluster has no default class. It waits until there is one, or until it is \
                 made anew with a class."
            );
            Found::new(Cause::ClassMissing, summary).then(classes())
        }
        Lookup::Found(class) => {
            let summary = format!(
                "Claim {name:?} names no class. The default class {:?} is filled in by the controller manager.",
                class.name()
            );
            Found::new(Cause::BindingInProgress, summary)
        }
        Lookup::Unknown => {
            let summary = format!("Claim {name:?} names no class, and which class is the default is not known.");
            Found::new(Cause::NotKnown, summary).not_knowing(known.missing(Kind::Classes, "")).then(classes())
        }
    }
}

/// A claim of a class that waits for its first consumer.
fn delayed(claim: &Claim, class: &Class, node: Option<&str>, known: &Known<'_>) -> Option<Found> {
    let (name, namespace) = (claim.name(), claim.namespace());
    let selected = claim.selected_node()?;
    let mark = claim.annotation(GAVE_UP).map(|mark| Line::new(format!("annotation {GAVE_UP} of pvc/{name}"), mark));
    if !class.is_dynamic() {
        let summary = format!(
            "Claim {name:?} carries the annotation volume.kubernetes.io/selected-node={selected}, which asks a provisioner for a \
             volume, and its class {:?} has none: its volumes are made by hand. While the annotation stands, nobody looks for \
             a volume that exists.",
            class.name()
        );
        let steps = unselect(namespace, name).and_then(|command| fix(&[], command, "Removes the annotation."));
        let events = known.claim_events(claim);
        let lines = lines_of(&format!("pvc/{name}"), &events, |event| event.reason == "ProvisioningFailed");
        let found = Found::new(Cause::PoisonedClaim, summary).with(known.selected_by(claim)).with(lines);
        return Some(found.with(mark).then(steps));
    }
    let found = match known.node(selected) {
        Lookup::Absent => {
            let summary = format!(
                "The volume of claim {name:?} was ordered for node {selected:?}, and there is no such node any more. No \
                 provisioner acts on the order, and the scheduler accepts no other node while it stands."
            );
            let steps = unselect(namespace, name)
                .and_then(|command| fix(&[], command, "Takes the order back, so that a node can be selected anew."));
            Found::new(Cause::SelectedNodeGone, summary).with(known.selected_by(claim)).then(steps)
        }
        _ if node.is_some_and(|node| node != selected) => {
            let node = node.unwrap_or_default();
            let summary = format!(
                "The volume of claim {name:?} is ordered for node {selected:?}, and the Pod names node {node:?}. If the volume is \
                 local to {selected:?}, the Pod can never mount it."
            );
            let look = describe("pvc", namespace, name, "Shows the order, and what became of it.");
            Found::new(Cause::SelectedElsewhere, summary).with(known.selected_by(claim)).then(look)
        }
        Lookup::Found(_) => provisioner::of_order(claim, class, Some(selected), known),
        Lookup::Unknown => provisioner::of_order(claim, class, Some(selected), known)
            .not_knowing([format!("whether node {selected:?} exists ({})", known.record.why_not(Kind::Nodes))]),
    };
    Some(found.with(mark))
}

/// The claim asks for a volume by name.
fn named_volume(claim: &Claim, volume_name: &str, known: &Known<'_>) -> Found {
    let name = claim.name();
    let look = show(&[volume_name], format!("kubectl get pv {volume_name} -o yaml"), "Shows the volume.");
    let events = known.claim_events(claim);
    let lines = lines_of(&format!("pvc/{name}"), &events, |event| {
        matches!(event.reason.as_str(), "VolumeMismatch" | "FailedBinding")
    });
    let found = match known.volume(volume_name) {
        Lookup::Absent => {
            let summary =
                format!("Claim {name:?} asks for volume {volume_name:?} by name (spec.volumeName), and there is none.");
            Found::new(Cause::NoVolume, summary).then(volumes())
        }
        Lookup::Unknown => {
            let summary =
                format!("Claim {name:?} asks for volume {volume_name:?} by name, and that volume is not known.");
            Found::new(Cause::NotKnown, summary).not_knowing(known.missing(Kind::Volumes, "")).then(look)
        }
        Lookup::Found(volume) => {
            let of_pair = format!("Claim {name:?} asks for volume {volume_name:?} by name");
            fits_or_not(&of_pair, unfit(&volume, claim, claim.class_name()).as_ref()).then(look)
        }
    };
    found.with(lines)
}

/// A volume names the claim already.
fn reserved(claim: &Claim, known: &Known<'_>) -> Option<Found> {
    let volume = known.record.volumes().find(|volume| volume.is_claimed_by(claim))?;
    let (name, volume_name) = (claim.name(), volume.name());
    let look = show(&[volume_name], format!("kubectl get pv {volume_name} -o yaml"), "Shows the volume.");
    let of_pair = format!("Volume {volume_name:?} is reserved for claim {name:?} (spec.claimRef)");
    Some(fits_or_not(&of_pair, unfit(volume, claim, None).as_ref()).then(look))
}

/// A claim and a volume that name each other.
fn fits_or_not(of_pair: &str, unfit: Option<&Unfit>) -> Found {
    let Some(Unfit { field, wanted, found, .. }) = unfit else {
        return Found::new(
            Cause::BindingInProgress,
            format!("{of_pair}, and they are about to be bound to each other."),
        );
    };
    let summary = format!("{of_pair}, and they do not fit: {field} should be {wanted}, and is {found}.");
    Found::new(Cause::VolumeMismatch, summary)
}

/// Which volumes of a class without a provisioner there are, and why none of them is the claim's.
pub(super) fn static_volumes(claim: &Claim, class: &str, node: Option<&Node>, known: &Known<'_>) -> Found {
    let name = claim.name();
    let of_class: Vec<&Arc<Volume>> = known.record.volumes().filter(|volume| volume.class_name() == class).collect();
    let whose = if class.is_empty() { "without a class".to_owned() } else { format!("of class {class:?}") };
    let missing = known.missing(Kind::Volumes, "");
    if let Some(volume) = of_class.iter().find(|volume| is_left_over(volume, claim)) {
        return left_over(claim, volume);
    }
    if of_class.is_empty() {
        let summary = format!("Claim {name:?} needs a volume {whose} that somebody makes by hand");
        return match missing {
            None => Found::new(Cause::NoVolume, format!("{summary}, and there is none.")).then(volumes()),
            Some(missing) => {
                Found::new(Cause::NotKnown, format!("{summary}. Which there are is not known: {missing}."))
                    .not_knowing([missing])
                    .then(volumes())
            }
        };
    }
    let (mut lines, mut reasons) = (Vec::new(), Vec::new());
    for volume in &of_class {
        let volume_name = volume.name();
        let says = match unfit(volume, claim, Some(class)) {
            Some(unfit) => format!("{} should be {}, and is {}", unfit.field, unfit.wanted, unfit.found),
            None => match node.filter(|node| !volume_reachable(volume, node)).zip(affinity(volume)) {
                Some((node, affinity)) => format!("spec.nodeAffinity {}", unmet(affinity, node)),
                None => "fits".to_owned(),
            },
        };
        lines.push(Line::new(format!("pv/{volume_name}"), says.clone()));
        reasons.push(format!("{volume_name}: {says}"));
    }
    let told = reasons.iter().take(MOST_VOLUMES).cloned().collect::<Vec<_>>().join("; ");
    let more = reasons.len().saturating_sub(MOST_VOLUMES);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    lines.truncate(MOST_VOLUMES);
    match missing {
        None => {
            let summary = format!(
                "Claim {name:?} needs a volume {whose} that somebody makes by hand, and none that exists is for it. {told}{more}."
            );
            Found::new(Cause::VolumeMismatch, summary).with(lines).then(volumes())
        }
        Some(missing) => {
            let summary = format!(
                "Claim {name:?} needs a volume {whose} that somebody makes by hand, and none that is known is for it: {told}{more}. \
                 Whether there are others is not known: {missing}."
            );
            Found::new(Cause::NotKnown, summary).with(lines).not_knowing([missing]).then(volumes())
        }
    }
}

fn affinity(volume: &Volume) -> Option<&k8s_openapi::api::core::v1::NodeSelector> {
    volume.spec.node_affinity.as_ref()?.required.as_ref()
}

/// A volume that would fit, but for an earlier claim that it belongs to still.
fn is_left_over(volume: &Volume, claim: &Claim) -> bool {
    // One whose data is to be deleted is somebody's work.
    if volume.status.phase != "Released" || volume.is_claimed_by(claim) || volume.is_deleted_on_release() {
        return false;
    }
    let mut freed = volume.clone();
    freed.spec.claim_ref = None;
    freed.status.phase = "Available".into();
    unfit(&freed, claim, Some(volume.class_name())).is_none()
}

fn left_over(claim: &Claim, volume: &Volume) -> Found {
    let (name, volume_name) = (claim.name(), volume.name());
    let summary = format!(
        "Claim {name:?} would get volume {volume_name:?}, but that belongs to an earlier claim still. It is Released under the \
         reclaim policy {}: nobody cleans it, and Kubernetes gives it to no other claim before its claimRef is removed. The \
         data of the earlier claim is on it.",
        volume.spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain")
    );
    let line = Line::new(format!("pv/{volume_name}"), format!("status.phase is {}", volume.status.phase));
    Found::new(Cause::VolumeReleased, summary).with([line]).then(give_back(volume))
}

/// What gives a released volume back.
pub(super) fn give_back(volume: &Volume) -> Option<Step> {
    let name = volume.name();
    // Refused where the volume is a claim's again by then.
    let patch = r#"[{"op":"test","path":"/status/phase","value":"Released"},{"op":"remove","path":"/spec/claimRef"}]"#;
    fix(
        &[name],
        format!("kubectl patch pv {name} --type=json -p '{patch}'"),
        "Gives the volume to the next claim, with the data of the earlier one on it: look at that first.",
    )
}

fn classes() -> Option<Step> {
    show(&[], "kubectl get storageclass".to_owned(), "Lists the classes, and which is the default.")
}

/// Lists the volumes with the fields that decide.
pub(super) fn volumes() -> Option<Step> {
    let columns = "NAME:.metadata.name,CLASS:.spec.storageClassName,SIZE:.spec.capacity.storage,MODES:.spec.accessModes,\
                   PHASE:.status.phase,CLAIM:.spec.claimRef.name";
    show(&[], format!("kubectl get pv -o custom-columns={columns}"), "Lists the volumes with the fields that decide.")
}
