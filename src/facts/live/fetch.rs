//! A live look at what a Pod names and the caches do not hold yet: claims, ResourceClaims and their templates, its node and
//! its namespace.
//!
//! A StatefulSet's controller creates a claim milliseconds before its Pod, as `kubectl apply` does, so the Pod is often
//! reviewed before the watch has brought the claim; a node and a namespace may be as young. The look has its own deadline, is
//! shared by all who ask for the same object, and is rationed, so that reviews of Pods that name what does not exist cannot
//! load the API server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, MutexGuard};

use super::{LiveCluster, evicted};
use crate::binding::{ClusterView, LayeredView, Lookup, MOST_CLAIMS};
use crate::kubernetes::api::within;
use crate::model::{
    Claim, EvictedPod, ModelObject, Namespace, Node, Pod, ResourceClaim, ResourceClaimTemplate, Wire, is_object_name,
};

/// How long one look may take. The API server waits for a review for 3 s, and for every webhook in turn.
const DEADLINE: Duration = Duration::from_millis(500);
/// For how long it stays known that an object does not exist.
const NEGATIVE_FOR: Duration = Duration::from_secs(1);
/// Looks a second for all namespaces, and at once after a rest.
const RATE: f64 = 20.0;
/// Looks a second for one namespace, and at once after a rest: enough for a StatefulSet whose Pods come one after another,
/// and a quarter of the whole, so that three others still find theirs while one wastes its own.
const NAMESPACE_RATE: f64 = 5.0;
/// Looks for one Pod: more objects than this that are not cached are the sign of something else.
const PER_POD: usize = 8;

/// An object that is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A claim by name.
    Claim(String),
    /// A ResourceClaim by name.
    ResourceClaim(String),
    /// A ResourceClaimTemplate by name.
    ResourceClaimTemplate(String),
    /// A Node by name.
    Node(String),
    /// The namespace itself.
    Namespace(String),
    /// A Pod that is to be evicted, by name, and its StatefulSet.
    Evicted(String),
}

impl Wanted {
    fn name(&self) -> &str {
        match self {
            Self::Claim(name)
            | Self::ResourceClaim(name)
            | Self::ResourceClaimTemplate(name)
            | Self::Node(name)
            | Self::Namespace(name)
            | Self::Evicted(name) => name,
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
enum Fetched {
    Claim(Arc<Claim>),
    ResourceClaim(Arc<ResourceClaim>),
    ResourceClaimTemplate(Arc<ResourceClaimTemplate>),
    Node(Arc<Node>),
    Namespace(Arc<Namespace>),
    Evicted(Arc<EvictedPod>),
}

/// The Pod's namespace, whose ration pays, and what the Pod wants.
type Target = (String, Wanted);
type PendingGet = Shared<BoxFuture<'static, Lookup<Fetched>>>;

/// Looks at what is not cached. Cloning gives another handle to the same ration.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    live: LiveCluster,
    state: Arc<Mutex<State>>,
    /// Looks at Pods that are to be evicted have a ration of their own: whoever creates Pods holds up no drain.
    evictions: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

struct State {
    /// Looks under way; at most rate times deadline.
    flights: HashMap<Target, PendingGet>,
    /// What did not exist a moment ago; at most rate times the time that they are kept.
    negatives: HashMap<Target, Instant>,
    ration: Ration,
    /// The rations of namespaces that have not earned theirs back in full. Whoever takes one look has earned it back after
    /// a fifth of a second, and all together take at most 20 a second: these are few.
    by_namespace: HashMap<String, Ration>,
}

/// Tokens that are earned at a rate, and of which no more are kept than are earned in a second.
struct Ration {
    rate: f64,
    tokens: f64,
    counted: Instant,
}

impl Ration {
    fn full(rate: f64, now: Instant) -> Self {
        Self { rate, tokens: rate, counted: now }
    }

    /// How much there is now.
    fn count(&mut self, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.counted).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(self.rate);
        self.counted = now;
        self.tokens
    }
}

/// Whether a look may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admitted {
    Yes,
    /// The namespace has had its own.
    NamespaceSpent,
    /// All together have had theirs.
    AllSpent,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            flights: HashMap::new(),
            negatives: HashMap::new(),
            ration: Ration::full(RATE, now),
            by_namespace: HashMap::new(),
        }
    }

    /// Takes one look out of the namespace's ration and that of all, if there is one left in both.
    fn admit(&mut self, namespace: &str, now: Instant) -> Admitted {
        self.by_namespace.retain(|_, ration| ration.count(now) < ration.rate);
        let of_all = self.ration.count(now);
        let own = self.by_namespace.get(namespace).map_or(NAMESPACE_RATE, |ration| ration.tokens);
        if own < 1.0 {
            return Admitted::NamespaceSpent;
        }
        if of_all < 1.0 {
            return Admitted::AllSpent;
        }
        self.ration.tokens -= 1.0;
        let full = || Ration::full(NAMESPACE_RATE, now);
        self.by_namespace.entry(namespace.to_owned()).or_insert_with(full).tokens -= 1.0;
        Admitted::Yes
    }
}

/// A live view, and beside it what one Pod names and had to be looked at.
#[derive(Clone, Debug)]
pub struct FetchedView {
    live: LiveCluster,
    namespace: String,
    fetched: HashMap<Wanted, Lookup<Fetched>>,
}

impl Fetcher {
    /// A fetcher that asks only for what the live view does not hold.
    #[must_use]
    pub fn new(client: Client, live: LiveCluster) -> Self {
        let state = || Arc::new(Mutex::new(State::new(Instant::now())));
        Self { client, live, state: state(), evictions: state() }
    }

    /// The view in which to decide about the Pod: what it names and is not cached has been looked at.
    ///
    /// Takes at most half a second. What could not be looked at is unknown.
    pub async fn prefetch(&self, pod: &Pod) -> FetchedView {
        self.fetch(pod.namespace(), self.missing(pod)).await
    }

    /// What the Pod names and is not cached, as far as it would be looked at. Its node and its namespace come first: what
    /// is allowed there hangs on them.
    #[must_use]
    pub fn missing(&self, pod: &Pod) -> Vec<Wanted> {
        let namespace = pod.namespace();
        let claims = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let claims = claims.map(|source| Wanted::Claim(source.claim_name.to_string()));
        let devices = pod.spec.resource_claims.iter().filter_map(|entry| {
            let claim = entry.resource_claim_name.as_ref().map(|name| Wanted::ResourceClaim(name.to_string()));
            let template = || entry.resource_claim_template_name.as_ref();
            claim.or_else(|| Some(Wanted::ResourceClaimTemplate(template()?.to_string())))
        });
        let place = pod.pinned_node().map(|name| Wanted::Node(name.to_owned()));
        place
            .into_iter()
            .chain([Wanted::Namespace(namespace.to_owned())])
            // A Pod with more claims than that is not decided about.
            .chain(claims.chain(devices).take(MOST_CLAIMS))
            .filter(|wanted| is_object_name(wanted.name()) && !self.is_cached(namespace, wanted))
            .take(PER_POD)
            .collect()
    }

    fn is_cached(&self, namespace: &str, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Claim(name) => self.live.claim(namespace, name).found().is_some(),
            Wanted::ResourceClaim(name) => self.live.resource_claim(namespace, name).found().is_some(),
            Wanted::ResourceClaimTemplate(name) => self.live.resource_claim_template(namespace, name).found().is_some(),
            Wanted::Node(name) => self.live.node(name).found().is_some(),
            Wanted::Namespace(name) => self.live.namespace(name).found().is_some(),
            // What counts is how it is now.
            Wanted::Evicted(_) => false,
        }
    }

    /// The view beside which these objects, which a Pod of a namespace names, have been looked at.
    pub async fn fetch(&self, namespace: &str, missing: Vec<Wanted>) -> FetchedView {
        let looks = missing.into_iter().map(|wanted| {
            let look = self.look(&(namespace.to_owned(), wanted.clone()));
            async move { (wanted, look.await) }
        });
        let fetched = join_all(looks).await.into_iter().collect();
        FetchedView { live: self.live.clone(), namespace: namespace.to_owned(), fetched }
    }

    /// The look at one object: one under way, one that is remembered, a new one, or none when the ration is used up.
    fn look(&self, target: &Target) -> PendingGet {
        let now = Instant::now();
        let mut state = self.lock(&target.1);
        if let Some(flight) = state.flights.get(target) {
            return flight.clone();
        }
        state.negatives.retain(|_, seen| now.saturating_duration_since(*seen) < NEGATIVE_FOR);
        if state.negatives.contains_key(target) {
            return answered(Lookup::Absent);
        }
        match (state.admit(&target.0, now), &target.1) {
            (Admitted::Yes, _) => {}
            // It can be asked for again, which what is refused for good cannot.
            (Admitted::NamespaceSpent, Wanted::Evicted(_)) => {
                return answered(Lookup::Found(Fetched::Evicted(Arc::new(EvictedPod::NotLookedAt))));
            }
            // Others hold up nobody's drain.
            (Admitted::NamespaceSpent | Admitted::AllSpent, _) => return answered(Lookup::Unknown),
        }
        let flight = self.clone().get(target.clone()).boxed().shared();
        state.flights.insert(target.clone(), flight.clone());
        // A task of its own: those who wait may be gone before the answer, and it must leave the map all the same.
        tokio::spawn(flight.clone());
        flight
    }

    async fn get(self, target: Target) -> Lookup<Fetched> {
        let (namespace, wanted) = &target;
        let name = wanted.name();
        let answer = match wanted {
            Wanted::Claim(_) => get_one(self.of_namespace(namespace), name).await.map(Fetched::Claim),
            Wanted::ResourceClaim(_) => get_one(self.of_namespace(namespace), name).await.map(Fetched::ResourceClaim),
            Wanted::ResourceClaimTemplate(_) => {
                get_one(self.of_namespace(namespace), name).await.map(Fetched::ResourceClaimTemplate)
            }
            Wanted::Node(_) => get_one(Api::all(self.client.clone()), name).await.map(Fetched::Node),
            Wanted::Namespace(_) => get_one(Api::all(self.client.clone()), name).await.map(Fetched::Namespace),
            Wanted::Evicted(_) => {
                evicted::look(&self.client, namespace, name, DEADLINE).await.map(Arc::new).map(Fetched::Evicted)
            }
        };
        let mut state = self.lock(wanted);
        state.flights.remove(&target);
        if matches!(answer, Lookup::Absent) {
            state.negatives.insert(target, Instant::now());
        }
        answer
    }

    fn of_namespace<K: ModelObject>(&self, namespace: &str) -> Api<Wire<K>>
    where
        K::Kind: Resource<Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn lock(&self, wanted: &Wanted) -> MutexGuard<'_, State> {
        if matches!(wanted, Wanted::Evicted(_)) { self.evictions.lock() } else { self.state.lock() }
    }
}

async fn get_one<K: ModelObject>(api: Api<Wire<K>>, name: &str) -> Lookup<Arc<K>> {
    match within(DEADLINE, api.get_opt(name)).await {
        Ok(Some(found)) => Lookup::Found(Arc::new(found.object)),
        Ok(None) => Lookup::Absent,
        Err(error) => {
            tracing::debug!(%error, "an object could not be looked at");
            Lookup::Unknown
        }
    }
}

fn answered(answer: Lookup<Fetched>) -> PendingGet {
    std::future::ready(answer).boxed().shared()
}

impl FetchedView {
    /// What was looked at, unless the caches hold it by now.
    fn fetched<K>(
        &self,
        cached: Lookup<Arc<K>>,
        wanted: &Wanted,
        of_kind: fn(&Fetched) -> Option<&Arc<K>>,
    ) -> Lookup<Arc<K>> {
        if let Lookup::Found(_) = cached {
            return cached;
        }
        match self.fetched.get(wanted) {
            Some(Lookup::Found(found)) => Lookup::found_or(of_kind(found).cloned(), cached),
            Some(Lookup::Absent) => Lookup::Absent,
            Some(Lookup::Unknown) => Lookup::Unknown,
            None => cached,
        }
    }

    /// The same for an object of a namespace: only the Pod's own was looked into.
    fn fetched_in<K>(
        &self,
        namespace: &str,
        cached: Lookup<Arc<K>>,
        wanted: &Wanted,
        of_kind: fn(&Fetched) -> Option<&Arc<K>>,
    ) -> Lookup<Arc<K>> {
        if namespace == self.namespace { self.fetched(cached, wanted, of_kind) } else { cached }
    }
}

/// Takes one kind out of what was fetched.
macro_rules! of_kind {
    ($kind:ident) => {
        |found| match found {
            Fetched::$kind(object) => Some(object),
            _ => None,
        }
    };
}

impl LayeredView for FetchedView {
    fn beneath(&self) -> &dyn ClusterView {
        &self.live
    }

    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        let cached = self.live.claim(namespace, name);
        self.fetched_in(namespace, cached, &Wanted::Claim(name.to_owned()), of_kind!(Claim))
    }

    fn resource_claim(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaim>> {
        let cached = self.live.resource_claim(namespace, name);
        self.fetched_in(namespace, cached, &Wanted::ResourceClaim(name.to_owned()), of_kind!(ResourceClaim))
    }

    fn resource_claim_template(&self, namespace: &str, name: &str) -> Lookup<Arc<ResourceClaimTemplate>> {
        let cached = self.live.resource_claim_template(namespace, name);
        let wanted = Wanted::ResourceClaimTemplate(name.to_owned());
        self.fetched_in(namespace, cached, &wanted, of_kind!(ResourceClaimTemplate))
    }

    fn evicted_pod(&self, namespace: &str, name: &str) -> Lookup<Arc<EvictedPod>> {
        let cached = self.live.evicted_pod(namespace, name);
        self.fetched_in(namespace, cached, &Wanted::Evicted(name.to_owned()), of_kind!(Evicted))
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.fetched(self.live.node(name), &Wanted::Node(name.to_owned()), of_kind!(Node))
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.fetched(self.live.namespace(name), &Wanted::Namespace(name.to_owned()), of_kind!(Namespace))
    }
}

#[cfg(test)]
mod tests;
