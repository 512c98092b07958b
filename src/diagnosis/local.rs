//! latebind's own provisioner: what an agent reports of its node, its disks and one directory.

use super::cause::Cause;
use super::command::{Step, show};
use super::found::{Found, Line};
use super::known::Known;
use super::record::Kind;
use crate::crd::{DISK_HUNG, LocalNode, LocalVolume, NODE_REPLACED, READY, condition};
use crate::model::{LOCAL_VOLUME, LOST_NODE_POLICY, LOST_SECONDS, Volume};

/// An agent writes its report at least every ten minutes; this is one report missed, and half of the next.
const REPORT_OVERDUE_SECONDS: i64 = 900;

/// What is wrong with a node whose agent makes or serves volumes, and with one base directory there.
pub(super) fn node_trouble(node: &str, base: Option<&str>, known: &Known<'_>) -> Option<Found> {
    let Some(report) = known.record.local_node(node) else {
        if !known.record.knows(Kind::LocalNodes, "") {
            return None;
        }
        let summary = format!(
            "latebind makes volumes on a node through an agent that runs there, and node {node:?} has no LocalNode: no agent \
             has ever reported from it."
        );
        return Some(Found::new(Cause::AgentAway, summary).then(agents()));
    };
    let found = conditions(node, report)
        .or_else(|| overdue(node, report, known))
        .or_else(|| unusable_path(node, report, |path| base.is_none_or(|base| path == base)))?;
    Some(found.then(show_node(node)))
}

/// What is wrong with the path of the node that these words of the provisioner name both.
pub(super) fn named_trouble(words: &str, known: &Known<'_>) -> Option<Found> {
    let named = |name: &str| {
        words.split(|letter: char| letter.is_whitespace() || "\",;:()".contains(letter)).any(|word| word == name)
    };
    known.record.local_nodes().find_map(|report| {
        let node = report.metadata.name.as_deref().filter(|node| named(node))?;
        Some(unusable_path(node, report, named)?.then(show_node(node)))
    })
}

/// A path of the node that its agent cannot use.
fn unusable_path(node: &str, report: &LocalNode, is_wanted: impl Fn(&str) -> bool) -> Option<Found> {
    let paths = report.status.iter().flat_map(|status| &status.paths);
    let path = paths.filter(|path| !path.usable).find(|path| is_wanted(&path.path))?;
    let summary = format!("The agent of node {node:?} cannot use {}: {}.", path.path, path.message);
    let line = Line::new(format!("localnode/{node}"), format!("{}: {}", path.path, path.message));
    Some(Found::new(Cause::DiskNotReady, summary).with([line]))
}

/// Conditions that hold everything on the node back.
fn conditions(node: &str, report: &LocalNode) -> Option<Found> {
    let conditions = report.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let of = |kind: &str, wanted: &str| condition(conditions, kind).filter(|condition| condition.status == wanted);
    let (cause, said, what) = of(NODE_REPLACED, "True")
        .map(|said| (Cause::NodeReplaced, said, "Nothing new is made there until its disks are found."))
        .or_else(|| Some((Cause::DiskHung, of(DISK_HUNG, "True")?, "What waits for that disk waits on.")))
        .or_else(|| Some((Cause::DiskNotReady, of(READY, "False")?, "")))?;
    let summary = format!("{}. {what}", said.message.trim_end_matches('.'));
    let line = Line::new(
        format!("condition {} of localnode/{node}", said.type_),
        format!("{}: {}", said.reason, said.message),
    )
    .at(Some(said.last_transition_time.0));
    Some(Found::new(cause, summary.trim_end()).with([line]))
}

fn overdue(node: &str, report: &LocalNode, known: &Known<'_>) -> Option<Found> {
    let at = report.status.as_ref()?.observed_at.as_ref()?.0;
    let age = known.record.seconds_since(at).filter(|age| *age >= REPORT_OVERDUE_SECONDS)?;
    let summary = format!(
        "The agent of node {node:?} has not reported for {} minutes, and it does so every ten: it is not running, or cannot \
         reach the API server.",
        age / 60
    );
    let line = Line::new(format!("localnode/{node}"), "the last report").at(Some(at));
    Some(Found::new(Cause::AgentAway, summary).with([line]).then(agents()))
}

/// What is wrong with one directory.
pub(super) fn directory_trouble(local: &LocalVolume) -> Option<Found> {
    let conditions = local.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let said = condition(conditions, READY).filter(|said| said.status == "False")?;
    let cause = match said.reason.as_str() {
        "NodeReplaced" => Cause::NodeReplaced,
        "DiskHung" => Cause::DiskHung,
        _ => Cause::DiskNotReady,
    };
    let (name, node) = (local.name(), &local.spec.node_name);
    let summary = format!(
        "The volume is the directory {} of node {node:?}, and the node's agent says of it: {}.",
        local.directory(),
        said.message.trim_end_matches('.')
    );
    let line =
        Line::new(format!("condition Ready of localvolume/{name}"), format!("{}: {}", said.reason, said.message))
            .at(Some(said.last_transition_time.0));
    let steps = show(&[name], format!("kubectl get localvolume {name} -o yaml"), "Shows the directory's conditions.");
    Some(Found::new(cause, summary).with([line]).then(steps).then(show_node(node)))
}

/// What is wrong where a bound volume of latebind's is; nothing of a volume that somebody else made.
pub(super) fn volume_trouble(volume: &Volume, known: &Known<'_>) -> Option<Found> {
    let local = known.record.local_volume(volume.metadata.annotation(LOCAL_VOLUME)?)?;
    let node = &local.spec.node_name;
    node_trouble(node, Some(&local.spec.base), known).or_else(|| directory_trouble(local))
}

fn show_node(node: &str) -> Option<Step> {
    show(&[node], format!("kubectl get localnode {node} -o yaml"), "Shows what the node's agent reports.")
}

fn agents() -> Option<Step> {
    let labels = "app.kubernetes.io/name=latebind,app.kubernetes.io/component=agent";
    show(&[], format!("kubectl get pods -A -l {labels} -o wide"), "Shows the agents, and on which nodes they run.")
}

/// What latebind's controller has written down about a volume whose node is gone and whose claim is to be let go for that.
pub(super) fn observed_as_lost(volume: &Volume) -> Option<Line> {
    let seconds = volume.metadata.annotation(LOST_SECONDS)?;
    let says = format!(
        "latebind has seen its node gone for {seconds} s; by {LOST_NODE_POLICY} it lets the claim go after its time of grace, and keeps \
         the volume"
    );
    Some(Line::new(format!("annotation {LOST_SECONDS} of pv/{}", volume.name()), says))
}
