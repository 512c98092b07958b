//! Why a Pod that the webhook rewrites was not rewritten.

use std::collections::BTreeMap;

use kube::Client;

use super::material::Material;
use crate::binding::{Lookup, Remedy, decide_pod};
use crate::cli::check::why::Evidence;
use crate::diagnosis::{Cause, Diagnosis, Line};

/// Namespaces of which the webhook's configuration is looked at: each takes a handful of requests.
const MOST_NAMESPACES: usize = 8;

/// Adds to each deadlock that admission would have prevented why it did not.
pub(super) async fn explain(diagnoses: &mut [Diagnosis], client: &Client, material: &Material) {
    let mut evidence: BTreeMap<String, Evidence> = BTreeMap::new();
    for diagnosis in diagnoses.iter_mut().filter(|it| it.cause == Cause::Deadlock) {
        let namespace = diagnosis.subject.namespace.clone();
        if !evidence.contains_key(&namespace) {
            if evidence.len() == MOST_NAMESPACES {
                continue;
            }
            evidence.insert(namespace.clone(), Evidence::gather(client, &namespace).await);
        }
        if let Some(evidence) = evidence.get(&namespace) {
            add(diagnosis, evidence, material);
        }
    }
}

fn add(diagnosis: &mut Diagnosis, evidence: &Evidence, material: &Material) {
    let known = material.known();
    let pod = known.record.pod(&diagnosis.subject.namespace, &diagnosis.subject.name);
    let would_rewrite = pod.is_some_and(|pod| {
        matches!(
            decide_pod(pod, known.view, known.rules).remedy,
            Remedy::Rewrite { .. } | Remedy::SelectInTemplate { .. }
        )
    });
    let line = |says: String| Line { from: "the webhook".to_owned(), says, at: None };
    match &evidence.configuration {
        Lookup::Absent => diagnosis.evidence.push(line("is not installed".to_owned())),
        Lookup::Unknown => {}
        Lookup::Found(_) if pod.is_some() && !would_rewrite => {}
        Lookup::Found(configuration) => {
            let reasons = evidence.reasons();
            let is_newer = pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref()).is_some_and(|created| {
                configuration.metadata.creation_timestamp.as_ref().is_some_and(|installed| installed.0 > created.0)
            });
            if is_newer {
                diagnosis.evidence.push(line("was installed after the Pod was created".to_owned()));
            } else if reasons.is_empty() {
                let says =
                    "is there, and nothing that can be seen from here is in its way; it may not have answered in time";
                diagnosis.evidence.push(line(says.to_owned()));
            }
            diagnosis.evidence.extend(reasons.iter().map(|reason| line(format!("did not rewrite the Pod: {reason}"))));
        }
    }
    diagnosis.not_known.extend(evidence.unknown.iter().cloned());
}
