//! What became of a volume that was ordered from a provisioner.

use k8s_openapi::jiff::Timestamp;

use super::cause::Cause;
use super::command::{Step, show};
use super::details::{Field, Lease};
use super::found::{Found, Line, lines_of};
use super::known::{ClassOf, Known, PATIENCE_SECONDS, created};
use super::local;
use super::provisioner_report::ProvisionerReport;
use crate::model::{Claim, Class, PROVISIONER, Pod};

/// Reasons of events that are about the making of a volume.
const REASONS: [&str; 4] = ["ProvisioningFailed", "Provisioning", "ProvisioningSucceeded", "ExternalProvisioning"];
/// A Lease that was not renewed for so many times its length is nobody's any more. Clocks and slow API servers are allowed
/// for.
const LEASE_LENGTHS: i64 = 4;

/// What became of the order for a claim; `node` is the selected node, if any.
pub(super) fn of_order(claim: &Claim, class: &Class, node: Option<&str>, known: &Known<'_>) -> Found {
    let found = decide(claim, class, node, known);
    let events = known.claim_events(claim);
    let object = format!("pvc/{}", claim.name());
    let lines = lines_of(&object, &events, |event| REASONS.contains(&event.reason.as_str()));
    found.with(known.selected_by(claim)).with(lines).then(show_events(claim))
}

/// A claim of which no node is selected any more, since its last order failed: a provisioner that cannot make a volume gives
/// the node back, so that another may be selected. Nothing where that was before this Pod was created, or is not so.
pub(super) fn given_back(claim: &Claim, pod: &Pod, known: &Known<'_>) -> Option<Found> {
    let ClassOf::Found(class) = known.class_of(claim) else { return None };
    if !class.is_dynamic() || !class.is_delayed() || claim.is_bound() || claim.selected_node().is_some() {
        return None;
    }
    let events = known.claim_events(claim);
    let report = ProvisionerReport::read(&events, known.record.as_of().unwrap_or(Timestamp::UNIX_EPOCH));
    let failure = report.failure?;
    // Times of objects and of events are in whole seconds.
    if report.failed_at? < created(&pod.metadata)? {
        return None;
    }
    let (name, provisioner) = (claim.name(), class.provisioner.as_str());
    let ordered = format!(
        "The volume of claim {name:?} was ordered from {provisioner:?}, which could not make it and gave the node back, so that \
         another may be selected. Its own words: {}.",
        failure.trim_end_matches('.')
    );
    let trouble = if class.provisioner == PROVISIONER { local::named_trouble(&failure, known) } else { None };
    let found = match trouble {
        Some(found) => Found { summary: ordered, ..found },
        None => Found::new(Cause::ProvisionerFails, ordered),
    };
    let lines = lines_of(&format!("pvc/{name}"), &events, |event| REASONS.contains(&event.reason.as_str()));
    Some(found.with(lines).then(show_events(claim)))
}

fn decide(claim: &Claim, class: &Class, node: Option<&str>, known: &Known<'_>) -> Found {
    let (name, provisioner) = (claim.name(), class.provisioner.as_str());
    let ordered = match node {
        Some(node) => format!("The volume of claim {name:?} was ordered from {provisioner:?}, for node {node:?}"),
        None => format!("The volume of claim {name:?} was ordered from {provisioner:?}"),
    };
    if let Some(found) = ours(claim, class, node, known) {
        return Found { summary: format!("{ordered}. {}", found.summary), ..found };
    }
    let events = known.claim_events(claim);
    let report = ProvisionerReport::read(&events, known.record.as_of().unwrap_or(Timestamp::UNIX_EPOCH));
    match &report.failure {
        Some(message) if message.contains("no volume plugin matched") => {
            let summary = format!(
                "{ordered}, and Kubernetes has no plugin of that name: {message}. Install what makes volumes for class {:?}, \
                 or use another class.",
                class.name()
            );
            return Found::new(Cause::ProvisionerMissing, summary);
        }
        Some(message) => {
            let summary = format!("{ordered}, and it fails. Its own words: {message}");
            return Found::new(Cause::ProvisionerFails, summary);
        }
        None => {}
    }
    if let Some((lease, age)) = dead_lease(provisioner, known) {
        let (namespace, lease_name) = (lease.metadata.namespace(), lease.metadata.name());
        let summary = format!(
            "{ordered}, and the provisioner does not run: its Lease {namespace}/{lease_name} was last renewed {} minutes ago.",
            age / 60
        );
        let line = Line::new(format!("lease {namespace}/{lease_name}"), format!("held by {:?}", lease.holder()));
        return Found::new(Cause::ProvisionerMissing, summary)
            .with([line.at(lease.renewed())])
            .then(look_for(provisioner));
    }
    if report.is_there {
        return Found::new(Cause::OnOrder, format!("{ordered}, and the provisioner has begun."));
    }
    if let Some(missing) = known.missing_events(claim.namespace()) {
        let summary = format!("{ordered}. What it has reported since is not known: {missing}.");
        return Found::new(Cause::NotKnown, summary).not_knowing([missing]);
    }
    silent(claim, provisioner, &ordered, known)
}

/// No event of the provisioner is there, and all events are known.
fn silent(claim: &Claim, provisioner: &str, ordered: &str, known: &Known<'_>) -> Found {
    match ordered_for(claim, known) {
        Some(age) if age >= PATIENCE_SECONDS => {
            let summary = format!(
                "{ordered} {age} seconds ago or more, and nobody answers: no event of a provisioner is kept about the claim. \
                 Either no provisioner of the name {provisioner:?} runs, or it does not look at this class."
            );
            Found::new(Cause::ProvisionerSilent, summary).then(look_for(provisioner))
        }
        Some(_) => Found::new(Cause::OnOrder, format!("{ordered} less than a minute ago.")),
        None => {
            let summary = format!("{ordered}; for how long it has been waiting is not known.");
            Found::new(Cause::NotKnown, summary).not_knowing(["when the objects were read".to_owned()])
        }
    }
}

/// For how many seconds the order has stood, at least.
fn ordered_for(claim: &Claim, known: &Known<'_>) -> Option<i64> {
    let details = known.record.details("PersistentVolumeClaim", claim.namespace(), claim.name());
    let written = details.and_then(|details| details.writer(Field::SelectedNode)).and_then(|writer| writer.at);
    match written {
        Some(at) => known.record.seconds_since(at),
        None => known.age(&claim.metadata),
    }
}

/// latebind's own provisioner: its agent and its orders say more than events do.
fn ours(claim: &Claim, class: &Class, node: Option<&str>, known: &Known<'_>) -> Option<Found> {
    if class.provisioner != PROVISIONER {
        return None;
    }
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let local = known.record.local_volumes_of(uid).find(|local| node.is_none_or(|node| local.spec.node_name == node));
    let base = local.map(|local| local.spec.base.as_str());
    let node = node.or_else(|| local.map(|local| local.spec.node_name.as_str()));
    node.and_then(|node| local::node_trouble(node, base, known)).or_else(|| local::directory_trouble(local?))
}

/// The Lease by which replicas of a provisioner choose a leader, if it ran out long ago. Provisioners call it by their
/// name, with dashes for slashes.
fn dead_lease<'a>(provisioner: &str, known: &Known<'a>) -> Option<(&'a Lease, i64)> {
    let name = provisioner.replace('/', "-");
    let is_its = |lease: &&Lease| {
        let found = lease.metadata.name();
        found == name || found == format!("external-provisioner-leader-{name}")
    };
    let mut leases = known.record.leases().iter().filter(is_its).map(|lease| {
        let age = lease.renewed().and_then(|at| known.record.seconds_since(at));
        (lease, age)
    });
    // One of several that lives is enough.
    let dead = |(lease, age): (&'a Lease, Option<i64>)| {
        Some((lease, age.filter(|age| *age > PATIENCE_SECONDS.max(LEASE_LENGTHS * lease.lasts()))?))
    };
    let first = dead(leases.next()?)?;
    leases.all(|other| dead(other).is_some()).then_some(first)
}

fn show_events(claim: &Claim) -> Option<Step> {
    let (name, namespace) = (claim.name(), claim.namespace());
    show(
        &[name, namespace],
        format!("kubectl get events -n {namespace} --field-selector involvedObject.name={name}"),
        "Shows what was reported about the claim.",
    )
}

/// Who may be the provisioner.
fn look_for(provisioner: &str) -> Option<Step> {
    let word = provisioner.rsplit('/').next().unwrap_or_default();
    show(
        &[word],
        format!("kubectl get deployments,statefulsets,daemonsets -A -o wide | grep -i {word}"),
        "Looks for who should make the volume.",
    )
}
