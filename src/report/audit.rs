//! What an audit of a cluster found, for people: what is stuck first, then what will be, and how many of each.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::{Object, Report, Reported};
use crate::binding::{Code, Severity};
use crate::report::style::{Style, clean};

/// What a finding means for who runs the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    StuckPods,
    WorkloadsAtRisk,
    ClaimsWithoutNode,
    StatefulSetsIncomplete,
    ClaimsLeftByDrain,
    Other,
}

impl Group {
    const ALL: [Self; 6] = [
        Self::StuckPods,
        Self::WorkloadsAtRisk,
        Self::ClaimsWithoutNode,
        Self::StatefulSetsIncomplete,
        Self::ClaimsLeftByDrain,
        Self::Other,
    ];

    fn of(finding: &Reported) -> Self {
        match (finding.code, finding.object.kind.as_str()) {
            (Code::LeftPendingByDrain, _) => Self::ClaimsLeftByDrain,
            (Code::VolumeNodeGone, _) | (Code::ClaimLost, "PersistentVolumeClaim") => Self::ClaimsWithoutNode,
            (Code::OrdinalWithoutVolume, _) => Self::StatefulSetsIncomplete,
            _ if finding.severity < Severity::Error => Self::Other,
            (_, "Pod") => Self::StuckPods,
            (_, "StorageClass" | "PersistentVolume" | "PersistentVolumeClaim" | "ConfigMap") => Self::Other,
            _ => Self::WorkloadsAtRisk,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::StuckPods => "Stuck now",
            Self::WorkloadsAtRisk => "Stuck at the next roll-out",
            Self::ClaimsWithoutNode => "Claims whose volume or node is gone",
            Self::StatefulSetsIncomplete => "StatefulSets of which a Pod has no volume",
            Self::ClaimsLeftByDrain => "Left Pending by a drain of their node",
            Self::Other => "Worth a look",
        }
    }
}

/// How many objects an audit found something about, each counted once for a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditCounts {
    /// Pods that do not start.
    pub stuck_pods: usize,
    /// Workloads whose next Pod would not start.
    pub workloads_at_risk: usize,
    /// Claims whose volume no Node reaches, or whose volume is gone.
    pub claims_without_node: usize,
    /// StatefulSets of which a Pod has no volume while others have.
    pub stateful_sets_incomplete: usize,
    /// Claims whose Pods would stay Pending after a drain of their node.
    pub claims_left_by_drain: usize,
}

impl AuditCounts {
    /// Counts what stands.
    #[must_use]
    pub fn of(findings: &[Reported]) -> Self {
        let count = |group: Group| {
            let of_group = findings.iter().filter(|finding| finding.is_open() && Group::of(finding) == group);
            of_group.map(|finding| Arc::as_ptr(&finding.object)).collect::<HashSet<*const Object>>().len()
        };
        Self {
            stuck_pods: count(Group::StuckPods),
            workloads_at_risk: count(Group::WorkloadsAtRisk),
            claims_without_node: count(Group::ClaimsWithoutNode),
            stateful_sets_incomplete: count(Group::StatefulSetsIncomplete),
            claims_left_by_drain: count(Group::ClaimsLeftByDrain),
        }
    }

    fn lines(self) -> impl Iterator<Item = String> {
        [
            (self.stuck_pods, "Pod is stuck", "Pods are stuck"),
            (
                self.workloads_at_risk,
                "workload would be stuck at its next roll-out",
                "workloads would be stuck at their next roll-out",
            ),
            (self.claims_without_node, "claim lost its volume or node", "claims lost their volume or node"),
            (
                self.stateful_sets_incomplete,
                "StatefulSet has a Pod without a volume",
                "StatefulSets have a Pod without a volume",
            ),
            (
                self.claims_left_by_drain,
                "claim would keep its Pods Pending after a drain",
                "claims would keep their Pods Pending after a drain",
            ),
        ]
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
    }
}

/// Writes it.
pub(super) fn render(report: &Report, counts: AuditCounts, style: Style, out: &mut dyn Write) -> io::Result<()> {
    for group in Group::ALL {
        let mut findings = report.open().filter(|finding| Group::of(finding) == group).peekable();
        if findings.peek().is_none() {
            continue;
        }
        writeln!(out, "{}", style.strong(group.title()))?;
        for finding in findings {
            let code = style.severity(finding.severity, finding.code.as_str());
            writeln!(out, "  {code}  {}", clean(&finding.object.reference()))?;
            writeln!(out, "         {}", clean(&finding.message))?;
            if let Some(not_fixed) = &finding.not_fixed {
                writeln!(out, "         {}", style.warning(&clean(not_fixed)))?;
            }
        }
        writeln!(out)?;
    }
    let whole = report.counts();
    let mut lines: Vec<String> = counts.lines().collect();
    let other = report.open().filter(|finding| Group::of(finding) == Group::Other).count();
    if other > 0 {
        lines.push(format!("{other} more {} worth a look", if other == 1 { "is" } else { "are" }));
    }
    if whole.ignored > 0 {
        lines.push(format!("{} ignored by an annotation", whole.ignored));
    }
    if whole.not_judged > 0 {
        lines.push(style.warning(&format!("{} with a nodeName could not be judged", whole.not_judged)));
    }
    if !report.unread.is_empty() {
        lines.push(style.error(&format!("{} could not be read", report.unread.len())));
    }
    if lines.is_empty() {
        lines.push(style.good("nothing is stuck or at risk"));
    }
    let objects = whole.objects;
    writeln!(out, "{} ({objects} object{} looked at)", lines.join("; "), if objects == 1 { "" } else { "s" })?;
    if report.open().next().is_some() {
        writeln!(out, "`latebind explain CODE` says more; `latebind diagnose KIND/NAME` says why and what to type")?;
    }
    Ok(())
}
