//! What the eviction of a Pod does that leaves a volume behind: what an administrator chose, and who has approved.

use k8s_openapi::jiff::Timestamp;

use crate::binding::ClusterView;
use crate::crd::DrainPolicy;
use crate::model::{Claim, DRAIN_APPROVED_BY, DRAIN_APPROVED_UNTIL, DRAIN_POLICY, Metadata, Volume};

/// The policy for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPolicy {
    /// The policy.
    pub policy: DrainPolicy,
    /// What says so, such as `class fast`; nothing where nothing does.
    pub by: Option<String>,
    /// What says something that is no policy, and counts as if it said nothing.
    pub unread: Vec<String>,
}

/// What the annotation of an object says; nothing where it has none, or one that is no policy.
fn said(
    metadata: &Metadata,
    object: impl FnOnce() -> String,
    unread: &mut Vec<String>,
) -> Option<(DrainPolicy, String)> {
    let word = metadata.annotation(DRAIN_POLICY)?;
    let object = object();
    let Ok(policy) = word.parse() else {
        unread.push(format!("{DRAIN_POLICY} of {object} is none of Allow, Warn, Wait, Deny"));
        return None;
    };
    Some((policy, object))
}

/// The policy for a bound claim.
///
/// The claim's own annotation comes first, then that of its namespace, of its volume, of its class. The first two count only where
/// one of the last two says something, which administrators write: nobody else makes a drain wait.
#[must_use]
pub fn policy_of(claim: &Claim, volume: &Volume, view: &dyn ClusterView) -> ChosenPolicy {
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
    let (policy, by) = chosen.map_or((DrainPolicy::default(), None), |(policy, by)| (policy, Some(by)));
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
