//! A plan for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::binding::Severity;
use crate::crd::DrainPolicy;
use crate::drain::{DrainPlan, GuardedPod, HeldBack, HeldClaim, Outcome, PodPlan};
use crate::report::style::{Style, clean, columns, wrap};

/// Width of paragraphs; longer lines are hard to read.
const WIDTH: usize = 96;

/// A line that says how it ends, a row for each Pod, what lies on the node alone, and what to type: kubectl's commands as the
/// cluster takes them that was looked at.
pub fn whole(plan: &DrainPlan, style: Style, for_cluster: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    let name = plan.node.as_str();
    line(&format!("{}: {}", style.strong(&format!("node/{}", clean(name))), summary(plan)));
    if !plan.pods.is_empty() {
        line("");
        for row in table(&plan.pods, style) {
            line(row.trim_end());
        }
    }
    let evicted = plan.pods.iter().filter(|pod| pod.outcome != Outcome::Stays);
    let deleted: BTreeSet<String> = evicted
        .flat_map(|pod| pod.deleted_claims.iter().map(|claim| format!("claim {claim} -n {}", pod.namespace)))
        .collect();
    let sections = [
        ("Conditions that whoever maintains the node has set:", plan.conditions.clone()),
        ("On this node alone:", held(&plan.pods)),
        ("Deleted once its Pod is gone, with its data:", deleted.into_iter().collect()),
        (
            "Held back by PodDisruptionBudgets, for which kubectl drain waits:",
            plan.held_back.iter().map(held_back).collect(),
        ),
        ("Held up by drain policies, where the webhook keeps to them:", plan.guarded.iter().map(guarded).collect()),
        ("Not known:", plan.not_known.clone()),
    ];
    for (title, lines) in sections.iter().filter(|(_, lines)| !lines.is_empty()) {
        line("");
        line(&style.strong(title));
        for one in lines {
            line(&format!("  {}", clean(one)));
        }
    }
    line("");
    for part in wrap(&format!("Not looked at: {}.", plan.not_looked_at.join(", ")), WIDTH) {
        line(&style.faint(&part));
    }
    let steps = next(plan);
    if !steps.is_empty() {
        line("");
        line(&style.strong("Next:"));
    }
    for (why, command) in steps {
        line(&format!("  {}", style.faint(&format!("# {why}"))));
        line(&format!("  {}", clean(&for_cluster(&command))));
    }
    text
}

fn summary(plan: &DrainPlan) -> String {
    let evicted = plan.count(|it| it != Outcome::Stays);
    let (down, unknown) = (plan.count(Outcome::is_outage), plan.count(|it| it == Outcome::NotKnown));
    let cordoned = if plan.cordoned { ", and is cordoned" } else { "" };
    let mut text = match (evicted, down) {
        (0, _) => "a drain evicts no Pod".to_owned(),
        (1, 0) if unknown == 0 => "a drain evicts 1 Pod, which can start elsewhere".to_owned(),
        (all, 0) if unknown == 0 => format!("a drain evicts {all} Pods, which can all start elsewhere"),
        (1, _) => "a drain evicts 1 Pod".to_owned(),
        (all, _) => format!("a drain evicts {all} Pods"),
    };
    // Writing to a String cannot fail.
    let _infallible = match down {
        0 => Ok(()),
        1 if evicted == 1 => write!(text, ", and nothing runs in its place"),
        down => write!(text, "; nothing runs in place of {down} of them"),
    };
    let _infallible = match unknown {
        0 => Ok(()),
        1 if evicted == 1 => write!(text, "; what becomes of it is not known"),
        unknown => write!(text, "; what becomes of {unknown} of them is not known"),
    };
    let known = if plan.not_known.is_empty() { "" } else { "of what is known, " };
    format!("{known}{text}{cordoned}")
}

fn table(pods: &[PodPlan], style: Style) -> Vec<String> {
    let header = ["NAMESPACE", "POD", "OF", "OUTCOME", ""].map(str::to_owned).to_vec();
    let row = |pod: &PodPlan| {
        vec![
            clean(&pod.namespace).into_owned(),
            clean(&pod.pod).into_owned(),
            clean(pod.controller.as_deref().unwrap_or("-")).into_owned(),
            pod.outcome.as_str().to_owned(),
            clean(&pod.why).into_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(pods.iter().map(row)).collect();
    let paint = |row: usize, column: usize, cell: &str| match (row.checked_sub(1), column) {
        (None, _) => style.strong(cell),
        (Some(row), 3) => match pods[row].outcome {
            outcome if outcome.is_outage() => style.severity(Severity::Error, cell),
            Outcome::NotKnown => style.severity(Severity::Warning, cell),
            _ => cell.to_owned(),
        },
        _ => cell.to_owned(),
    };
    columns(&rows, paint)
}

/// Each claim that is on the node alone, once, and what becomes of its data when it is deleted.
fn held(pods: &[PodPlan]) -> Vec<String> {
    let of_pod = |pod: &PodPlan| -> Vec<String> {
        let one = |it: &HeldClaim| {
            let at = it.path.as_ref().map(|path| format!(" ({path})")).unwrap_or_default();
            let then = if it.deleted_with_claim { "deletes the data too" } else { "leaves the data there" };
            format!("claim {} -n {}, volume {}{at}: deleting the claim {then}", it.claim, pod.namespace, it.volume)
        };
        pod.held.iter().map(one).collect()
    };
    let all: BTreeSet<String> = pods.iter().flat_map(of_pod).collect();
    all.into_iter().collect()
}

fn held_back(held: &HeldBack) -> String {
    let HeldBack { namespace, budgets, pods, allowed, ends_by_itself } = held;
    match (budgets.as_slice(), allowed) {
        ([one], 0) if *pods == 1 => format!("{one} -n {namespace} does not let its Pod here go now"),
        ([one], 0) => format!("{one} -n {namespace} lets none of its {pods} Pods here go now"),
        ([one], allowed) => {
            let then = match ends_by_itself {
                Some(true) => "and each next one once a replacement is ready",
                Some(false) => "and the others never while the node is drained: too few replacements can start",
                None => "whether the others can follow is not known",
            };
            format!("{one} -n {namespace} lets {allowed} of its {pods} Pods here go now, {then}")
        }
        (several, _) => {
            let several = several.join(" and ");
            format!("{several} -n {namespace} select the same Pods, {pods} here: Kubernetes evicts none of them")
        }
    }
}

fn guarded(pod: &GuardedPod) -> String {
    let GuardedPod { namespace, pod, claim: _, policy, of, approved_by } = pod;
    let until = match (approved_by, policy) {
        (Some(by), _) => format!("goes, since {by} has approved"),
        (None, DrainPolicy::Deny) => "goes once somebody approves".to_owned(),
        (None, _) => "goes once all other replicas of its StatefulSet are ready".to_owned(),
    };
    format!("pod/{pod} -n {namespace} {until} (drain policy {policy} of {of})")
}

/// What to type next, and why.
fn next(plan: &DrainPlan) -> Vec<(&'static str, String)> {
    let name = plan.node.as_str();
    let mut steps = Vec::new();
    let stays = |pod: &PodPlan| pod.outcome == Outcome::Stays || pod.held.is_empty();
    if !plan.pods.iter().all(stays) {
        let why = "for a reboot: what waits starts on it again after latebind uncordon";
        let approve = if plan.needs_approval() { " --approve" } else { "" };
        steps.push((why, format!("latebind drain {name} --for=reboot{approve}")));
        let why = "for good: says which claims are let go, so that their Pods start elsewhere, with empty volumes";
        steps.push((why, format!("latebind drain {name} --for=retire --dry-run{approve}")));
        return steps;
    }
    if plan.count(|it| it == Outcome::NotMadeAgain) > 0 {
        let why = "drains it, and deletes Pods for good that have no controller";
        steps.push((why, format!("kubectl drain {name} --ignore-daemonsets --force")));
    } else if plan.count(|it| it != Outcome::Stays) > 0 {
        steps.push(("drains it", format!("kubectl drain {name} --ignore-daemonsets")));
    }
    if plan.count(|it| matches!(it, Outcome::WaitsForThisNode | Outcome::WaitsForOtherNodes)) > 0 {
        steps.push(("afterwards lets what waits start on it again", format!("kubectl uncordon {name}")));
    }
    steps
}
