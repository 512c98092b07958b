//! Why a volume is not for a claim, whatever the node: the field, what is wanted of it, and what is there.

use std::fmt;

use crate::model::selector::{label_selector_matches, labels};
use crate::model::{Claim, Text, Volume};

const FILESYSTEM: &str = "Filesystem";

/// True when size, volume mode, attributes class and access modes of the volume serve the claim, and it is not being
/// deleted. The class is not compared: a volume that is reserved for the claim need not have the same one.
/// Source: `component-helpers/storage/volume/pv_helpers.go`, `FindMatchingVolume`.
pub(super) fn serves(volume: &Volume, claim: &Claim) -> bool {
    volume.capacity() >= claim.request()
        && mode(volume.spec.volume_mode.as_ref()) == mode(claim.spec.volume_mode.as_ref())
        && attributes(volume.spec.volume_attributes_class_name.as_ref())
            == attributes(claim.spec.volume_attributes_class_name.as_ref())
        && volume.metadata.deletion_timestamp.is_none()
        && claim.spec.access_modes.iter().all(|mode| volume.spec.access_modes.contains(mode))
}

fn mode(given: Option<&Text>) -> &str {
    given.map(Text::as_str).filter(|mode| !mode.is_empty()).unwrap_or(FILESYSTEM)
}

fn attributes(class: Option<&Text>) -> &str {
    class.map(Text::as_str).unwrap_or_default()
}

pub(super) fn is_selected(volume: &Volume, claim: &Claim) -> bool {
    let selector = claim.spec.selector.as_ref();
    selector.is_none_or(|selector| label_selector_matches(selector, labels(volume.metadata.labels.as_ref())))
}

/// The first thing that speaks against a volume for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The volume's field.
    pub field: &'static str,
    /// What the claim wants there.
    pub wanted: String,
    /// What is there.
    pub found: String,
    says: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

/// Why the claim does not get the volume on any node; nothing when all seems well. Without a name of a class the classes
/// are not compared: a claim that names its volume, or has one reserved, need not be of the same.
#[must_use]
pub fn unfit(volume: &Volume, claim: &Claim, class_name: Option<&str>) -> Option<Unfit> {
    let found = |field, wanted: String, found: String, says: String| Some(Unfit { field, wanted, found, says });
    if let Some(reference) = volume.spec.claim_ref.as_ref().filter(|_| !volume.is_claimed_by(claim)) {
        let part = |text: &Option<Text>| text.as_deref().unwrap_or_default().to_owned();
        let (namespace, name) = (part(&reference.namespace), part(&reference.name));
        let is_namesake = namespace == claim.namespace() && name == claim.name();
        let whose = if is_namesake { "an earlier claim of the name" } else { "claim" };
        let says = format!("belongs to {whose} {namespace}/{name}");
        return found("spec.claimRef", "none".to_owned(), format!("{whose} {namespace}/{name}"), says);
    }
    if let Some(class) = class_name.filter(|class| *class != volume.class_name()) {
        let says = format!("is of class {:?}", volume.class_name());
        return found("spec.storageClassName", format!("{class:?}"), format!("{:?}", volume.class_name()), says);
    }
    if volume.capacity() < claim.request() {
        let says = format!("has {}, {} are asked for", volume.capacity(), claim.request());
        let wanted = format!("{} or more", claim.request());
        return found("spec.capacity.storage", wanted, volume.capacity().to_string(), says);
    }
    let (offered, asked) = (mode(volume.spec.volume_mode.as_ref()), mode(claim.spec.volume_mode.as_ref()));
    if offered != asked {
        let says = format!("is of volume mode {offered}, not {asked}");
        return found("spec.volumeMode", asked.to_owned(), offered.to_owned(), says);
    }
    if let Some(missing) = claim.spec.access_modes.iter().find(|mode| !volume.spec.access_modes.contains(mode)) {
        let modes: Vec<&str> = volume.spec.access_modes.iter().map(Text::as_str).collect();
        return found("spec.accessModes", missing.to_string(), modes.join(", "), format!("does not offer {missing}"));
    }
    if volume.metadata.deletion_timestamp.is_some() {
        let says = "is being deleted".to_owned();
        return found("metadata.deletionTimestamp", "none".to_owned(), says.clone(), says);
    }
    if !serves(volume, claim) {
        let of = |class: Option<&Text>| format!("{:?}", attributes(class));
        let wanted = of(claim.spec.volume_attributes_class_name.as_ref());
        let there = of(volume.spec.volume_attributes_class_name.as_ref());
        return found("spec.volumeAttributesClassName", wanted, there, "is of another attributes class".to_owned());
    }
    if class_name.is_some() && !is_selected(volume, claim) {
        let says = "lacks labels that the claim selects".to_owned();
        return found("metadata.labels", "those of the claim's selector".to_owned(), "others".to_owned(), says);
    }
    if !volume.is_available() && volume.spec.claim_ref.is_none() {
        let phase = volume.status.phase.to_string();
        return found("status.phase", "Available".to_owned(), phase.clone(), format!("is {phase}"));
    }
    None
}
