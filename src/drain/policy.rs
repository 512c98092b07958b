//! What an administrator chose about claims that are on one node alone: when it is drained, and when it is gone; and who has approved.

use std::str::FromStr;

use k8s_openapi::jiff::Timestamp;

use crate::binding::ClusterView;
use crate::crd::{DrainPolicy, LostNodePolicy};
use crate::model::{Claim, DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_POLICY, LOST_NODE_POLICY, Metadata, Volume};

/// What an annotation of claims and of what they belong to says.
pub trait Policy: FromStr + Default {
    /// The annotation.
    const ANNOTATION: &'static str;
    /// The words that it may hold, for people.
    const WORDS: &'static str;
}

impl Policy for DrainPolicy {
    const ANNOTATION: &'static str = DRAIN_POLICY;
    const WORDS: &'static str = "Allow, Warn, Wait, Deny";
}

impl Policy for LostNodePolicy {
    const ANNOTATION: &'static str = LOST_NODE_POLICY;
    const WORDS: &'static str = "Explain, Unbind";
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
/// one of the last two says something, which administrators write: nobody else makes a drain wait.
#[must_use]
pub fn policy_of<P: Policy>(claim: &Claim, volume: &Volume, view: &dyn ClusterView) -> ChosenPolicy<P> {
    let mut unread = Vec::new();
    let of_volume = said(&volume.metadata, || format!("volume {}", volume.name()), &mut unread);
    let by_administrator = of_volume.or_else(|| {
        let class = view.class(volume.class_name()).found()?;
        said(&class.metadata, || format!("class {}", class.name()), &mut unread)
    });
    let chosen = by_administrator.map(|by_administrator| {
        let of_claim = said(&claim.metadata, || format!("claim {}", claim.name()), &mut unread);
        let of_tenant = of_claim.or_else(|| {
            let namespace = view.namespace(claim.namespace()).found()?;
            said(&namespace.metadata, || format!("namespace {}", claim.namespace()), &mut unread)
        });
        of_tenant.unwrap_or(by_administrator)
    });
    let (policy, by) = chosen.map_or((P::default(), None), |(policy, by)| (policy, Some(by)));
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
