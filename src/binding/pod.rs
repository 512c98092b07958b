//! Entry point for a Pod.

use super::{ClusterView, PodVerdict, Rules};
use crate::model::Pod;

/// Decides about a Pod that is about to be created, or exists.
#[must_use]
pub fn decide_pod(pod: &Pod, view: &dyn ClusterView, rules: &Rules) -> PodVerdict {
    let _ = (pod, view, rules);
    PodVerdict::not_pinned()
}
