//! What to type for a Pod that exists: its node name can no longer be changed, its claims can.

use crate::binding::PodVerdict;
use crate::diagnosis::for_claim;
use crate::model::Pod;

/// What helps a stuck Pod that the API server has stored, in words that can be typed.
pub(super) fn by_hand(pod: &Pod, verdict: &PodVerdict) -> String {
    let namespace = pod.namespace();
    let typed = verdict.volumes.iter().filter(|volume| volume.stuck).filter_map(|volume| for_claim(volume, namespace));
    let typed: Vec<String> = typed.collect();
    let anew = match pod.metadata.controller() {
        Some(owner) => format!("change the template of its {} {}", owner.kind, owner.name),
        None => "delete it and create it again without nodeName".to_owned(),
    };
    if typed.is_empty() {
        format!("nodeName of a Pod that exists cannot be changed: {anew}")
    } else {
        format!("nodeName of a Pod that exists cannot be changed: {}; or {anew}", typed.join("; "))
    }
}
