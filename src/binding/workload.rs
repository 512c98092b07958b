//! Entry point for a workload.

use super::{ClusterView, PodVerdict, Rules};
use crate::model::{Pod, Workload};

/// What was decided about a workload: one entry a Pod of it that differs from the others.
#[derive(Clone, Debug, Default)]
pub struct WorkloadVerdict {
    /// Pods as the workload's controller would make them, with what was decided about each. A StatefulSet has one entry
    /// an ordinal whose claims are in the view and one for all the others; every other kind has at most one.
    ///
    /// Paths of findings start at the top of the workload.
    pub pods: Vec<(Pod, PodVerdict)>,
}

/// Decides about the Pods that a workload's controller would make.
#[must_use]
pub fn decide_workload(workload: &Workload, view: &dyn ClusterView, rules: &Rules) -> WorkloadVerdict {
    let _ = (workload, view, rules);
    WorkloadVerdict::default()
}
