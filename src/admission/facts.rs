//! Which facts answer a review, and how strict the namespace wants to be.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::review::{Request, Reviewed};
use super::{Exemptions, Matter, matter};
use crate::binding::{ClusterView, Lookup};
use crate::cluster::live::{ClaimFetcher, LiveCluster};
use crate::policy::Mode;

/// Namespace label that makes admission stricter there than elsewhere.
pub const MODE_LABEL: &str = "latebind.dev/mode";

/// Facts that several threads may ask.
pub type View = dyn ClusterView + Send + Sync;

/// The facts in use, and their replacement while requests are answered. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct CurrentView(Arc<ArcSwap<Arc<View>>>);

impl CurrentView {
    /// Starts with some facts.
    #[must_use]
    pub fn new(first: Arc<View>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// Puts others in their place. A review that is under way ends with those that it began with.
    pub fn replace(&self, next: Arc<View>) {
        self.0.store(Arc::new(next));
    }
}

impl fmt::Debug for CurrentView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentView")
    }
}

/// Where reviews take their facts from.
#[derive(Clone)]
pub enum AdmissionFacts {
    /// Facts that are replaced as a whole.
    Fixed(CurrentView),
    /// Watch caches.
    Live {
        /// The caches.
        cluster: Arc<LiveCluster>,
        /// Looks at claims that the caches lack; where absent, such claims count as the caches say.
        fetcher: Option<ClaimFetcher>,
    },
}

impl fmt::Debug for AdmissionFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(_) => "AdmissionFacts::Fixed",
            Self::Live { .. } => "AdmissionFacts::Live",
        })
    }
}

impl AdmissionFacts {
    /// The facts for one request. With watch caches, claims of a pinned Pod that they do not hold yet are looked at: a
    /// StatefulSet's claim is milliseconds older than its Pod.
    pub(super) async fn view_for(&self, request: &Request<'_>, exemptions: &Exemptions) -> Arc<View> {
        match self {
            Self::Fixed(view) => Arc::clone(&view.0.load()),
            Self::Live { cluster, fetcher: None } => Arc::clone(cluster) as Arc<View>,
            Self::Live { cluster, fetcher: Some(fetcher) } => {
                let is_looked_at = matches!(matter(request), Matter::Pod)
                    && &*request.operation == "CREATE"
                    && !exemptions.cover(request);
                match &request.object {
                    Reviewed::Pod(pod) if is_looked_at && pod.pinned_node().is_some() => {
                        Arc::new(fetcher.prefetch(pod).await)
                    }
                    _ => Arc::clone(cluster) as Arc<View>,
                }
            }
        }
    }
}

/// The mode for a namespace: what its label asks for, if that is stricter than the mode for all.
///
/// Who may label a namespace may thereby not get around what the administrator chose.
#[must_use]
pub fn mode_of(view: &dyn ClusterView, namespace: &str, for_all: Mode) -> Mode {
    let Lookup::Found(object) = view.namespace(namespace) else { return for_all };
    let Some(asked) = object.metadata.labels.as_ref().and_then(|labels| labels.get(MODE_LABEL)) else { return for_all };
    match asked.parse::<Mode>() {
        Ok(asked) => asked.max(for_all),
        Err(error) => {
            tracing::debug!(%error, "the label {MODE_LABEL} of a namespace is no mode, and is ignored");
            for_all
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::{Fact, Facts, Unlisted};

    #[test]
    fn a_namespace_can_only_be_stricter() {
        let mut facts = Facts::new(Unlisted::Absent);
        for (name, mode) in [("strict", "deny"), ("lax", "audit"), ("odd", "sometimes")] {
            let object = json!({"metadata": {"name": name, "labels": {MODE_LABEL: mode}}});
            facts.add(Fact::read("", "Namespace", &object).unwrap().unwrap());
        }
        for (namespace, expected) in
            [("strict", Mode::Deny), ("lax", Mode::Rewrite), ("odd", Mode::Rewrite), ("unknown", Mode::Rewrite)]
        {
            assert_eq!(mode_of(&facts, namespace, Mode::Rewrite), expected, "{namespace}");
        }
        assert_eq!(mode_of(&facts, "lax", Mode::Deny), Mode::Deny);
    }
}
