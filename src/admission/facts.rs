//! Which facts answer a review.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::guard;
use super::review::{Request, Reviewed};
use super::subject::{Admission, Subject, subject};
use crate::binding::ClusterView;
use crate::facts::live::{Fetcher, LiveCluster, Wanted};

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
        /// Looks at what a Pod names and the caches lack; where absent, such objects count as the caches say.
        fetcher: Option<Fetcher>,
    },
}

/// What is to be looked at for a Pod of one namespace.
pub(super) struct Missing {
    namespace: String,
    objects: Vec<Wanted>,
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
    /// What is known now.
    pub(super) fn view(&self) -> Arc<View> {
        match self {
            Self::Fixed(view) => Arc::clone(&view.0.load()),
            Self::Live { cluster, .. } => Arc::clone(cluster) as Arc<View>,
        }
    }

    /// What a request needs that is not known yet: what a pinned Pod names and the watch caches do not hold, since a StatefulSet's
    /// claim is milliseconds older than its Pod; and how a Pod does whose eviction hangs on it.
    pub(super) fn missing(&self, request: &Request<'_>, admission: &Admission<'_>) -> Option<Missing> {
        let Self::Live { fetcher: Some(fetcher), .. } = self else { return None };
        let objects = match (subject(request), &request.object) {
            (Subject::Pod, Reviewed::Pod(pod)) => {
                let is_looked_at = &*request.operation == "CREATE" && !admission.exemptions.cover(request);
                if !is_looked_at || pod.pinned_node().is_none() {
                    return None;
                }
                fetcher.missing(pod)
            }
            (Subject::Eviction, _) if guard::asks_for_pod(request, admission) => {
                vec![Wanted::Evicted(request.name.to_string())]
            }
            _ => return None,
        };
        let namespace = match &request.object {
            Reviewed::Pod(pod) => pod.namespace().to_owned(),
            _ => request.namespace.to_string(),
        };
        (!objects.is_empty()).then_some(Missing { namespace, objects })
    }

    /// What is known once that has been looked at.
    pub(super) async fn view_with(&self, missing: Missing) -> Arc<View> {
        match self {
            Self::Live { fetcher: Some(fetcher), .. } => {
                Arc::new(fetcher.fetch(&missing.namespace, missing.objects).await)
            }
            _ => self.view(),
        }
    }
}
