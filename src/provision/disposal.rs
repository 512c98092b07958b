//! When a directory may go: the one decision that can destroy data.
//!
//! It is made from what the API server answers at this moment, never from a cache, and a missing answer keeps.

use super::volume::{reclaim, serves};
use crate::crd::{Disposal, LocalVolume, Reclaim};
use crate::model::{Claim, Class, Volume};

/// What the API server says about the claim's volume, now.
#[derive(Clone, Copy, Debug)]
pub enum VolumeFact<'a> {
    /// There is none.
    Absent,
    /// This one.
    Present(&'a Volume),
}

/// What the API server says about the claim, now.
#[derive(Clone, Copy, Debug)]
pub enum ClaimFact<'a> {
    /// There is none with this UID.
    Gone,
    /// It is there. The class tells who chooses the node; `None` when there is no such class any more.
    Present(&'a Claim, Option<&'a Class>),
}

/// What is to become of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go, in this way.
    Dispose(Disposal),
    /// It stays, for this reason.
    Keep(&'static str),
}

/// Decides about one directory.
#[must_use]
pub fn disposal(local: &LocalVolume, volume: VolumeFact<'_>, claim: ClaimFact<'_>) -> Verdict {
    match volume {
        VolumeFact::Present(volume) if serves(volume, local) => released(local, volume),
        // The claim's volume is on another node. Nothing was ever mounted from here.
        VolumeFact::Present(_) => Verdict::Dispose(Disposal::DeleteIfEmpty),
        VolumeFact::Absent => match claim {
            ClaimFact::Gone if local.spec.reclaim == Reclaim::Delete => Verdict::Dispose(Disposal::Delete),
            // It may have been retained, and its volume deleted by hand. If it never served, it is empty.
            ClaimFact::Gone => Verdict::Dispose(Disposal::DeleteIfEmpty),
            ClaimFact::Present(claim, class) => unpublished(local, claim, class),
        },
    }
}

fn released(local: &LocalVolume, volume: &Volume) -> Verdict {
    let owner = volume.spec.claim_ref.as_ref().and_then(|reference| reference.uid.as_deref());
    if volume.status.phase != "Released" {
        Verdict::Keep("its volume is not released")
    } else if reclaim(volume) != Reclaim::Delete {
        Verdict::Keep("its volume is retained")
    } else if owner != Some(local.spec.claim.uid.as_str()) {
        Verdict::Keep("its volume was given to another claim")
    } else {
        Verdict::Dispose(Disposal::Delete)
    }
}

/// A directory without a volume, for a claim that is there.
fn unpublished(local: &LocalVolume, claim: &Claim, class: Option<&Class>) -> Verdict {
    if claim.volume_name().is_some() {
        return Verdict::Keep("its claim is bound and its volume has vanished");
    }
    match (claim.selected_node(), class) {
        (Some(node), _) if node == local.spec.node_name => Verdict::Keep("it is being provisioned"),
        (None, Some(class)) if !class.is_delayed() => Verdict::Keep("it is being provisioned"),
        (None, None) => Verdict::Keep("its class is gone and nobody knows who chooses the node"),
        _ => Verdict::Dispose(Disposal::DeleteIfEmpty),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::{ClaimIdentity, LocalVolumeSpec};
    use crate::provision::volume::local_volume;

    fn local(retain: bool) -> LocalVolume {
        local_volume(LocalVolumeSpec {
            node_name: "n-1".to_owned(),
            base: "/base".to_owned(),
            path: "p".to_owned(),
            claim: ClaimIdentity { namespace: "ns".to_owned(), name: "c".to_owned(), uid: "u-1".to_owned() },
            reclaim: if retain { Reclaim::Retain } else { Reclaim::Delete },
            ..LocalVolumeSpec::default()
        })
    }

    fn volume(phase: &str, policy: &str, uid: &Value, annotation: &Value, path: &str) -> Volume {
        serde_json::from_value(json!({
            "metadata": { "name": "pvc-u-1", "annotations": annotation },
            "spec": { "persistentVolumeReclaimPolicy": policy, "local": { "path": path },
                "claimRef": { "namespace": "ns", "name": "c", "uid": uid } },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn a_released_volume_with_policy_delete_goes() {
        let ours = json!({ "latebind.dev/local-volume": local(false).name() });
        let volume = volume("Released", "Delete", &json!("u-1"), &ours, "/base/p");
        let verdict = disposal(&local(true), VolumeFact::Present(&volume), ClaimFact::Gone);
        assert_eq!(verdict, Verdict::Dispose(Disposal::Delete));
    }

    proptest! {
        /// The rule, said once more in other words: with all that is in it a directory goes only by these two ways.
        #[test]
        fn nothing_else_orders_data_to_be_deleted(
            phase in select(vec!["", "Pending", "Available", "Bound", "Released", "Failed"]),
            policy in select(vec!["", "Delete", "Retain", "Recycle"]),
            owner in select(vec![Value::Null, json!(""), json!("u-1"), json!("u-2")]),
            annotated in select(vec!["ours", "other", "none"]),
            path in select(vec!["/base/p", "/base/q", "/base/p/x"]),
            there in any::<bool>(), retain in any::<bool>(),
            claim in select(vec!["gone", "bound", "here", "elsewhere", "unselected"]),
            class in select(vec!["gone", "delayed", "immediate"]),
        ) {
            let local = local(retain);
            let annotation = match annotated {
                "ours" => json!({ "latebind.dev/local-volume": local.name() }),
                "other" => json!({ "latebind.dev/local-volume": "u-1-other" }),
                _ => Value::Null,
            };
            let volume = volume(phase, policy, &owner, &annotation, path);
            let volume_fact = if there { VolumeFact::Present(&volume) } else { VolumeFact::Absent };
            let node = match claim { "here" => json!("n-1"), "elsewhere" => json!("n-2"), _ => Value::Null };
            let object: Claim = serde_json::from_value(json!({
                "metadata": { "name": "c", "namespace": "ns", "uid": "u-1",
                    "annotations": { "volume.kubernetes.io/selected-node": node.as_str().unwrap_or_default() } },
                "spec": { "volumeName": (claim == "bound").then_some("pvc-u-1") },
            })).unwrap();
            let mode = if class == "delayed" { "WaitForFirstConsumer" } else { "Immediate" };
            let class_object: Class =
                serde_json::from_value(json!({ "metadata": { "name": "s" }, "volumeBindingMode": mode })).unwrap();
            let claim_fact = if claim == "gone" {
                ClaimFact::Gone
            } else {
                ClaimFact::Present(&object, (class != "gone").then_some(&class_object))
            };
            let verdict = disposal(&local, volume_fact, claim_fact);

            let by_volume = there && phase == "Released" && policy == "Delete" && owner == json!("u-1")
                && (annotated == "ours" || (annotated == "none" && path == "/base/p"));
            let by_claim = !there && claim == "gone" && !retain;
            prop_assert_eq!(verdict == Verdict::Dispose(Disposal::Delete), by_volume || by_claim);
            let in_use = (there && (annotated == "ours" || (annotated == "none" && path == "/base/p")) && !by_volume)
                || (!there && (claim == "bound" || claim == "here"));
            if in_use {
                prop_assert!(matches!(verdict, Verdict::Keep(_)), "{:?}", verdict);
            }
        }
    }
}
