//! Warnings on claims and volumes, each once for as long as it stays the same.

use super::context::Context;
use super::memory::Memory;
use crate::model::{Claim, Volume, reference};

/// Warns about a claim, once for each thing that there is to say.
pub(super) fn refuse(context: &Context, memory: &Memory, claim: &Claim, note: &str) {
    if memory.is_new_warning(claim, note) {
        context.metrics.refused();
        context.events.warning(reference(claim), "ProvisioningFailed", note);
    }
}

/// Says on a volume why it stays, once for each thing that there is to say.
pub(super) fn volume_stays(context: &Context, memory: &Memory, volume: &Volume, note: &str) {
    if memory.is_news(&format!("volume {}", volume.name()), note) {
        context.events.warning(reference(volume), "VolumeFailedDelete", note);
    }
}
