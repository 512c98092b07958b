//! Entry points: one object, or everything that does not move.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::cause::Cause;
use super::found::{Diagnosis, Found, Line, Link, Subject};
use super::known::{Known, created};
use super::record::Kind;
use super::{chain, consumers, node, pod, unplaced, volume};
use crate::binding::Lookup;
use crate::model::{Claim, Node, Pod, Volume};

/// Why a Pod is as it is.
#[must_use]
pub fn diagnose_pod(subject: &Pod, known: &Known<'_>) -> Diagnosis {
    let about = Subject::new("Pod", subject.namespace(), subject.display_name());
    complete(about, pod::of_pod(subject, known), chain::of_pod(subject, known), created(&subject.metadata), known)
}

/// Why a claim is as it is.
#[must_use]
pub fn diagnose_claim(subject: &Claim, known: &Known<'_>) -> Diagnosis {
    let about = Subject::new("PersistentVolumeClaim", subject.namespace(), subject.name());
    // The chain begins with the Pod that waits, if there is one.
    let consumers = known.consumers(subject);
    let waiting = consumers.iter().find(|pod| pod.status.phase != "Running").or(consumers.first());
    let links = waiting.map_or_else(|| chain::of_claim(subject, known), |pod| chain::of_pod(pod, known));
    complete(about, consumers::of_claim(subject, known), links, created(&subject.metadata), known)
}

/// Why a volume is as it is.
#[must_use]
pub fn diagnose_volume(subject: &Volume, known: &Known<'_>) -> Diagnosis {
    let about = Subject::new("PersistentVolume", "", subject.name());
    let reference = subject.spec.claim_ref.clone().unwrap_or_default();
    let name = |text: &Option<crate::model::Text>| text.as_deref().unwrap_or_default().to_owned();
    let claim = known.record.claim(&name(&reference.namespace), &name(&reference.name));
    let mut links = vec![chain::of_volume(subject)];
    if let Some(claim) = claim.filter(|claim| subject.is_claimed_by(claim)) {
        links.extend(
            chain::of_claim(claim, known).into_iter().filter(|link| link.object != links[0].object).collect::<Vec<_>>(),
        );
    }
    let details = known.record.details("PersistentVolume", "", subject.name());
    let since = details.and_then(super::details::Details::phase_since).or_else(|| created(&subject.metadata));
    complete(about, volume::of_volume(subject, known), links, since, known)
}

/// Why a node is as it is.
#[must_use]
pub fn diagnose_node(name: &str, known: &Known<'_>) -> Diagnosis {
    let since = known.record.node(name).and_then(|node| created(&node.metadata));
    complete(
        Subject::new("Node", "", name),
        node::of_node(name, known),
        vec![chain::of_node(name, known)],
        since,
        known,
    )
}

/// A subject that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// It is known not to exist.
    Absent,
    /// It is not among what was read, for this reason.
    Unknown(String),
}

/// Why the object of this kind and name is as it is.
///
/// # Errors
/// When there is no such object, or it is not known.
pub fn diagnose(subject: &Subject, known: &Known<'_>) -> Result<Diagnosis, NotFound> {
    let (namespace, name) = (subject.namespace.as_str(), subject.name.as_str());
    let missing = |kind, namespace: &str| match known.missing(kind, namespace) {
        None => NotFound::Absent,
        Some(why) => NotFound::Unknown(why),
    };
    match subject.kind.as_str() {
        "Pod" => {
            let found = known.record.pod(namespace, name).ok_or_else(|| missing(Kind::Pods, namespace))?;
            Ok(diagnose_pod(found, known))
        }
        "PersistentVolumeClaim" => match known.claim(namespace, name) {
            Lookup::Found(claim) => Ok(diagnose_claim(&claim, known)),
            Lookup::Absent | Lookup::Unknown => Err(missing(Kind::Claims, namespace)),
        },
        "PersistentVolume" => {
            let found = known.record.volume(name).ok_or_else(|| missing(Kind::Volumes, ""))?;
            Ok(diagnose_volume(found, known))
        }
        _ => Ok(diagnose_node(name, known)),
    }
}

/// Everything that does not move, or of which that is not known: Pods first, then claims that no such Pod uses, volumes and
/// nodes; the oldest first.
#[must_use]
pub fn survey(known: &Known<'_>, namespace: Option<&str>) -> Vec<Diagnosis> {
    let is_in = |found: &str| namespace.is_none_or(|namespace| namespace == found);
    let (mut told, mut spoken_for) = (Vec::new(), BTreeSet::new());
    for pod in known.record.pods().filter(|pod| is_in(pod.namespace()) && is_waiting(pod)) {
        let diagnosis = diagnose_pod(pod, known);
        if is_told(diagnosis.cause) {
            spoken_for.extend(pod.claim_names().map(|claim| (pod.namespace().to_owned(), claim.to_string())));
            told.push(diagnosis);
        }
    }
    let unbound = known.record.claims().filter(|claim| is_in(claim.namespace()) && !claim.is_bound());
    for claim in unbound {
        if !spoken_for.contains(&(claim.namespace().to_owned(), claim.name().to_owned())) {
            told.push(diagnose_claim(claim, known));
        }
    }
    told.extend(refused_claims(known, namespace, &spoken_for));
    if namespace.is_none() {
        told.extend(
            known.record.volumes().filter(|volume| is_to_go(volume)).map(|volume| diagnose_volume(volume, known)),
        );
        let reported = known.record.nodes().filter(|node| is_troubled(node, known));
        told.extend(reported.map(|node| diagnose_node(node.name(), known)).filter(|it| it.cause.blocks()));
    }
    told.retain(|diagnosis| is_told(diagnosis.cause));
    told.sort_by(|left, right| right.age_seconds.cmp(&left.age_seconds).then_with(|| left.subject.cmp(&right.subject)));
    told
}

/// Of which kinds that a survey goes through not everything is known, in words.
#[must_use]
pub fn not_surveyed(known: &Known<'_>, namespace: Option<&str>) -> Vec<String> {
    let of_all: &[Kind] = if namespace.is_none() { &[Kind::Volumes, Kind::Nodes] } else { &[] };
    let place = namespace.unwrap_or_default();
    let namespaced = [Kind::Pods, Kind::Claims].into_iter().filter_map(|kind| known.missing(kind, place));
    namespaced.chain(of_all.iter().filter_map(|kind| known.missing(*kind, ""))).collect()
}

/// A row for a Healthy object would be noise.
fn is_told(cause: Cause) -> bool {
    !matches!(cause, Cause::Healthy | Cause::Starting)
}

fn is_waiting(pod: &Arc<Pod>) -> bool {
    !matches!(pod.status.phase.as_str(), "Running" | "Succeeded") && pod.metadata.deletion_timestamp.is_none()
}

fn is_to_go(volume: &Volume) -> bool {
    matches!(volume.status.phase.as_str(), "Released" | "Failed") || volume.metadata.deletion_timestamp.is_some()
}

fn is_troubled(node: &Node, known: &Known<'_>) -> bool {
    !node.is_ready() || known.record.local_node(node.name()).is_some()
}

/// Claims that a quota keeps from being created, for whoever wants to create them: a StatefulSet has no Pod then.
fn refused_claims(
    known: &Known<'_>,
    namespace: Option<&str>,
    spoken_for: &BTreeSet<(String, String)>,
) -> Vec<Diagnosis> {
    let namespaces: BTreeSet<&str> = known
        .record
        .events_namespaces()
        .filter(|found| namespace.is_none_or(|namespace| namespace == *found))
        .collect();
    let mut found: Vec<Diagnosis> = Vec::new();
    for namespace in namespaces {
        let refusals = known.record.events_in(namespace).filter(|event| {
            event.message.contains("exceeded quota") && event.message.contains("persistentvolumeclaims ")
        });
        for event in refusals {
            let about = &event.involved_object;
            let Some(claim) = claim_in(&event.message) else { continue };
            let exists = known.record.claim(namespace, &claim).is_some();
            let subject = Subject::new(&about.kind, namespace, &about.name);
            let is_told = spoken_for.contains(&(namespace.to_owned(), claim.clone()))
                || found.iter().any(|diagnosis| diagnosis.subject == subject);
            if !exists && !is_told {
                let since = event.span().map(|(first, _)| first);
                found.push(complete(subject, unplaced::quota(namespace, &claim, event), Vec::new(), since, known));
            }
        }
    }
    found
}

/// The claim's name in the API server's refusal: `persistentvolumeclaims "data-web-0" is forbidden: exceeded quota`.
fn claim_in(message: &str) -> Option<String> {
    let (_, after) = message.split_once("persistentvolumeclaims \"")?;
    after.split_once('"').map(|(name, _)| name.to_owned())
}

fn complete(
    subject: Subject,
    found: Found,
    chain: Vec<Link>,
    since: Option<Timestamp>,
    known: &Known<'_>,
) -> Diagnosis {
    let Found { cause, summary, evidence, next, not_known } = found;
    let evidence: Vec<Line> = evidence;
    Diagnosis {
        subject,
        cause,
        severity: cause.severity(),
        summary,
        chain,
        evidence,
        next,
        not_known,
        since: since.map(|since| since.to_string()),
        age_seconds: since.and_then(|since| known.record.seconds_since(since)),
    }
}
