//! What an administrator chose about claims that are on one node alone: when it is drained, and when it is gone; and who has approved.

use std::str::FromStr;

use k8s_openapi::jiff::Timestamp;

use crate::binding::{ClusterView, Lookup};
use crate::crd::{DrainPolicy, LostNodePolicy};
use crate::model::{Claim, DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_POLICY, LOST_NODE_POLICY, Metadata, Volume};

/// What an annotation of claims and of what they belong to says.
pub trait Policy: FromStr + Default + Copy + Ord {
    /// The annotation.
    const ANNOTATION: &'static str;
    /// The words that it may hold, for people.
    const WORDS: &'static str;
    /// What permits a destructive step: a namespace or claim can only lower it, and in any doubt the least counts.
    const IS_DESTRUCTIVE: bool;
}

impl Policy for DrainPolicy {
    const ANNOTATION: &'static str = DRAIN_POLICY;
    const WORDS: &'static str = "Allow, Warn, Wait, Deny";
    const IS_DESTRUCTIVE: bool = false;
}

impl Policy for LostNodePolicy {
    const ANNOTATION: &'static str = LOST_NODE_POLICY;
    const WORDS: &'static str = "Explain, Unbind";
    const IS_DESTRUCTIVE: bool = true;
}

/// The policy for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPolicy<P> {
    /// The policy.
    pub policy: P,
    /// What says so, such as `class fast`; nothing where nothing does.
    pub by: Option<String>,
    /// What says something that is no policy, and counts as if it said nothing.
    pub unread: Vec<String>,
}

/// What the annotation of an object says; nothing where it has none, or one that is no policy.
fn said<P: Policy>(
    metadata: &Metadata,
    object: impl FnOnce() -> String,
    unread: &mut Vec<String>,
) -> Option<(P, String)> {
    let word = metadata.annotation(P::ANNOTATION)?;
    let object = object();
    let Ok(policy) = word.parse() else {
        unread.push(format!("{} of {object} is none of {}", P::ANNOTATION, P::WORDS));
        return None;
    };
    Some((policy, object))
}

/// The policy for a bound claim.
///
/// The claim's own annotation comes first, then that of its namespace, of its volume, of its class. The first two count only where
/// one of the last two says something, which administrators write: nobody else makes a drain wait. Of a policy that permits to let
/// claims go, the first two can only take that back, and what cannot be read or is not known takes it back too.
#[must_use]
pub fn policy_of<P: Policy>(claim: &Claim, volume: &Volume, view: &dyn ClusterView) -> ChosenPolicy<P> {
    let mut unread = Vec::new();
    let of_volume = said(&volume.metadata, || format!("volume {}", volume.name()), &mut unread);
    let by_administrator = of_volume.or_else(|| {
        let class = view.class(volume.class_name()).found()?;
        said(&class.metadata, || format!("class {}", class.name()), &mut unread)
    });
    let namespace = view.namespace(claim.namespace());
    let is_known = !P::IS_DESTRUCTIVE || matches!(namespace, Lookup::Found(_));
    let chosen = by_administrator.and_then(|by_administrator: (P, String)| {
        let of_claim = said(&claim.metadata, || format!("claim {}", claim.name()), &mut unread);
        let of_namespace = || {
            let namespace = namespace.found()?;
            said(&namespace.metadata, || format!("namespace {}", claim.namespace()), &mut unread)
        };
        if P::IS_DESTRUCTIVE {
            let all = [Some(by_administrator), of_claim, of_namespace()];
            return all.into_iter().flatten().min_by_key(|(policy, _)| *policy);
        }
        Some(of_claim.or_else(of_namespace).unwrap_or(by_administrator))
    });
    let (policy, by) = chosen.map_or((P::default(), None), |(policy, by)| (policy, Some(by)));
    if P::IS_DESTRUCTIVE && (!unread.is_empty() || !is_known) {
        return ChosenPolicy { policy: P::default(), by, unread };
    }
    ChosenPolicy { policy, by, unread }
}

/// Whether evictions are approved of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Nobody has.
    None,
    /// Somebody has, and it holds.
    By(String),
    /// It holds no more.
    Expired(String),
    /// Who, or until when, cannot be read.
    Unreadable,
}

/// Whether the annotations of a Node or of a claim approve of evictions at a moment.
#[must_use]
pub fn approval(metadata: &Metadata, now: Timestamp) -> Approval {
    let annotation = |key| metadata.annotation(key).map(str::trim).filter(|text| !text.is_empty());
    match (annotation(DRAIN_APPROVED_BY), annotation(DRAIN_APPROVED_UNTIL)) {
        (None, None) => Approval::None,
        (Some(by), Some(until)) => match until.parse::<Timestamp>() {
            Ok(until) if now < until => Approval::By(by.to_owned()),
            Ok(_) => Approval::Expired(by.to_owned()),
            Err(_) => Approval::Unreadable,
        },
        _ => Approval::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::{Fact, Facts, Unlisted};

    fn chosen(class: Option<&str>, namespace: Option<&str>, claim: Option<&str>) -> LostNodePolicy {
        let metadata = |name: &str, word: Option<&str>| -> Value {
            let annotations = word.map(|word| json!({ LOST_NODE_POLICY: word }));
            json!({ "name": name, "namespace": "db", "annotations": annotations })
        };
        let mut facts = Facts::new(Unlisted::Unknown);
        let class = json!({ "metadata": metadata("fast", class), "provisioner": "p" });
        facts.add(Fact::read("storage.k8s.io", "StorageClass", &class).unwrap().unwrap());
        if namespace != Some("not known") {
            let namespace = json!({ "metadata": metadata("db", namespace) });
            facts.add(Fact::read("", "Namespace", &namespace).unwrap().unwrap());
        }
        let volume: Volume =
            serde_json::from_value(json!({ "metadata": { "name": "pv" }, "spec": { "storageClassName": "fast" } }))
                .unwrap();
        let claim: Claim = serde_json::from_value(json!({ "metadata": metadata("data", claim) })).unwrap();
        policy_of::<LostNodePolicy>(&claim, &volume, &facts).policy
    }

    #[test]
    fn that_claims_are_let_go_can_be_taken_back_by_anybody_and_said_by_administrators_alone() {
        use LostNodePolicy::{Explain, Unbind};
        for (class, namespace, claim, expected) in [
            (Some("Unbind"), None, None, Unbind),
            (Some("Unbind"), Some("Explain"), None, Explain),
            (Some("Unbind"), Some("Explain"), Some("Unbind"), Explain),
            (Some("Unbind"), None, Some("Explain"), Explain),
            (Some("Explain"), None, Some("Unbind"), Explain),
            (None, Some("Unbind"), Some("Unbind"), Explain),
            // In any doubt nothing is let go.
            (Some("Unbind"), None, Some("Explian"), Explain),
            (Some("Unbind"), Some("none"), None, Explain),
            (Some("Unbind"), Some("not known"), None, Explain),
        ] {
            assert_eq!(chosen(class, namespace, claim), expected, "{class:?} {namespace:?} {claim:?}");
        }
    }
}
