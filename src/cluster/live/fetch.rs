//! A live look at claims that the caches do not hold yet.
//!
//! A StatefulSet's controller creates a claim milliseconds before its Pod, so the Pod is often reviewed before the
//! watch has brought the claim. The look has its own deadline, is shared by all who ask for the same claim, and is
//! rationed, so that reviews of Pods with claims that do not exist cannot load the API server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use kube::{Api, Client};

use super::LiveCluster;
use super::store::Key;
use crate::binding::{ClusterView, Lookup};
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, Namespace, Node, Pod, StorageCapacity, Volume, Wire, is_object_name,
};

/// How long one look may take. The API server waits for a review for 3 s, and for every webhook in turn.
const DEADLINE: Duration = Duration::from_millis(500);
/// For how long it stays known that a claim does not exist.
const NEGATIVE_FOR: Duration = Duration::from_secs(1);
/// Looks a second, and at once after a rest.
const RATE: f64 = 20.0;
/// Looks for one Pod: more claims than this that are not cached are the sign of something else.
const PER_POD: usize = 8;

type Look = Shared<BoxFuture<'static, Lookup<Arc<Claim>>>>;

/// Looks at claims that are not cached. Cloning gives another handle to the same ration.
#[derive(Clone)]
pub struct ClaimFetcher {
    client: Client,
    live: LiveCluster,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for ClaimFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimFetcher").finish_non_exhaustive()
    }
}

struct State {
    /// Looks under way; at most rate times deadline.
    flights: HashMap<Key, Look>,
    /// Claims that did not exist a moment ago; at most rate times the time that they are kept.
    negatives: HashMap<Key, Instant>,
    tokens: f64,
    counted: Instant,
}

impl State {
    /// Takes one look out of the ration, if there is one left.
    fn admit(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.counted).as_secs_f64() * RATE;
        self.tokens = (self.tokens + earned).min(RATE);
        self.counted = now;
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

/// A live view, and beside it the claims of one Pod that had to be looked at.
#[derive(Clone, Debug)]
pub struct FetchedClaims {
    live: LiveCluster,
    fetched: HashMap<Key, Lookup<Arc<Claim>>>,
}

impl ClaimFetcher {
    /// A fetcher that asks only for what the live view does not hold.
    #[must_use]
    pub fn new(client: Client, live: LiveCluster) -> Self {
        let state = State { flights: HashMap::new(), negatives: HashMap::new(), tokens: RATE, counted: Instant::now() };
        Self { client, live, state: Arc::new(Mutex::new(state)) }
    }

    /// The view in which to decide about the Pod: claims that it names and that are not cached have been looked at.
    ///
    /// Takes at most half a second. A claim that could not be looked at is unknown.
    pub async fn prefetch(&self, pod: &Pod) -> FetchedClaims {
        let namespace = pod.namespace();
        let named = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let missing: Vec<String> = named
            .map(|source| source.claim_name.as_str())
            .filter(|name| is_object_name(name) && self.live.claim(namespace, name).found().is_none())
            .take(PER_POD)
            .map(str::to_owned)
            .collect();
        let looks = missing.into_iter().map(|name| {
            let key = Key::new(namespace, &name);
            let look = self.look(namespace, &name, &key);
            async move { (key, look.await) }
        });
        let fetched = join_all(looks).await.into_iter().collect();
        FetchedClaims { live: self.live.clone(), fetched }
    }

    /// The look at one claim: one under way, one that is remembered, a new one, or none when the ration is used up.
    fn look(&self, namespace: &str, name: &str, key: &Key) -> Look {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(flight) = state.flights.get(key) {
            return flight.clone();
        }
        state.negatives.retain(|_, seen| now.saturating_duration_since(*seen) < NEGATIVE_FOR);
        if state.negatives.contains_key(key) {
            return answered(Lookup::Absent);
        }
        if !state.admit(now) {
            return answered(Lookup::Unknown);
        }
        let flight = self.clone().fly(namespace.to_owned(), name.to_owned(), key.clone()).boxed().shared();
        state.flights.insert(key.clone(), flight.clone());
        // A task of its own: those who wait may be gone before the answer, and it must leave the map all the same.
        tokio::spawn(flight.clone());
        flight
    }

    async fn fly(self, namespace: String, name: String, key: Key) -> Lookup<Arc<Claim>> {
        let api: Api<Wire<Claim>> = Api::namespaced(self.client.clone(), &namespace);
        let answer = match tokio::time::timeout(DEADLINE, api.get_opt(&name)).await {
            Ok(Ok(Some(claim))) => Lookup::Found(Arc::new(claim.object)),
            Ok(Ok(None)) => Lookup::Absent,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a claim could not be looked at");
                Lookup::Unknown
            }
            Err(_) => Lookup::Unknown,
        };
        let mut state = self.lock();
        state.flights.remove(&key);
        if matches!(answer, Lookup::Absent) {
            state.negatives.insert(key, Instant::now());
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answered(answer: Lookup<Arc<Claim>>) -> Look {
    std::future::ready(answer).boxed().shared()
}

impl ClusterView for FetchedClaims {
    fn claim(&self, namespace: &str, name: &str) -> Lookup<Arc<Claim>> {
        match self.live.claim(namespace, name) {
            Lookup::Found(claim) => Lookup::Found(claim),
            cached => self.fetched.get(&Key::new(namespace, name)).cloned().unwrap_or(cached),
        }
    }

    fn class(&self, name: &str) -> Lookup<Arc<Class>> {
        self.live.class(name)
    }

    fn default_class(&self) -> Lookup<Arc<Class>> {
        self.live.default_class()
    }

    fn node(&self, name: &str) -> Lookup<Arc<Node>> {
        self.live.node(name)
    }

    fn nodes_with_hostname(&self, value: &str) -> Lookup<Vec<Arc<Node>>> {
        self.live.nodes_with_hostname(value)
    }

    fn volume(&self, name: &str) -> Lookup<Arc<Volume>> {
        self.live.volume(name)
    }

    fn free_volumes_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.live.free_volumes_of_class(class_name)
    }

    fn volumes_claimed_by(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Volume>>> {
        self.live.volumes_claimed_by(namespace, claim_name)
    }

    fn namespace(&self, name: &str) -> Lookup<Arc<Namespace>> {
        self.live.namespace(name)
    }

    fn csi_driver(&self, name: &str) -> Lookup<Arc<CsiDriver>> {
        self.live.csi_driver(name)
    }

    fn csi_node(&self, node_name: &str) -> Lookup<Arc<CsiNode>> {
        self.live.csi_node(node_name)
    }

    fn capacities_of_class(&self, class_name: &str) -> Lookup<Vec<Arc<StorageCapacity>>> {
        self.live.capacities_of_class(class_name)
    }

    fn consumers(&self, namespace: &str, claim_name: &str) -> Lookup<Vec<Arc<Pod>>> {
        self.live.consumers(namespace, claim_name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use axum::http::{Request, Response, StatusCode};
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;

    use super::{ClaimFetcher, RATE, State};
    use crate::binding::{ClusterView, Lookup};
    use crate::cluster::live::{LiveCluster, WatchedPods};
    use crate::model::Pod;

    #[test]
    fn the_ration_is_a_burst_and_then_a_rate() {
        let begin = Instant::now();
        let mut state = State { flights: HashMap::new(), negatives: HashMap::new(), tokens: RATE, counted: begin };
        let burst = (0..100).filter(|_| state.admit(begin)).count();
        assert_eq!(burst, 20);
        assert!(!state.admit(begin + Duration::from_millis(10)));
        assert!(state.admit(begin + Duration::from_millis(60)));
        let after_a_rest = (0..100).filter(|_| state.admit(begin + Duration::from_secs(60))).count();
        assert_eq!(after_a_rest, 20);
    }

    /// An API server that knows the claim `there`, never answers for `slow`, and counts requests.
    fn fetcher(requests: &Arc<AtomicUsize>) -> ClaimFetcher {
        let requests = Arc::clone(requests);
        let service = tower::service_fn(move |request: Request<Body>| {
            let requests = Arc::clone(&requests);
            async move {
                requests.fetch_add(1, Ordering::SeqCst);
                let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                if name == "slow" {
                    std::future::pending::<()>().await;
                }
                // Long enough for others to ask for the same claim.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let (status, body) = if name == "there" {
                    (StatusCode::OK, json!({"metadata": {"name": "there", "namespace": "default", "uid": "1"}}))
                } else {
                    let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
                    (StatusCode::NOT_FOUND, status)
                };
                let response = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                response.map_err(std::io::Error::other)
            }
        });
        ClaimFetcher::new(Client::new(service, "default"), LiveCluster::new(WatchedPods::None))
    }

    fn pod(claims: &[&str]) -> Pod {
        let volumes: Vec<_> =
            claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"volumes": volumes}})).unwrap()
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_look() {
        let requests = Arc::new(AtomicUsize::new(0));
        let fetcher = fetcher(&requests);
        let pod = pod(&["there"]);
        let views = futures::future::join_all((0..50).map(|_| fetcher.prefetch(&pod))).await;
        assert!(views.iter().all(|view| matches!(view.claim("default", "there"), Lookup::Found(_))));
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn that_a_claim_does_not_exist_is_remembered_for_a_while() {
        let requests = Arc::new(AtomicUsize::new(0));
        let fetcher = fetcher(&requests);
        let pod = pod(&["missing"]);
        for _ in 0..5 {
            let view = fetcher.prefetch(&pod).await;
            assert!(matches!(view.claim("default", "missing"), Lookup::Absent));
        }
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        fetcher.lock().negatives.values_mut().for_each(|seen| *seen -= super::NEGATIVE_FOR);
        fetcher.prefetch(&pod).await;
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_name_that_could_lead_to_another_object_is_not_asked_for() {
        let requests = Arc::new(AtomicUsize::new(0));
        let names =
            ["..", "../../other/persistentvolumeclaims/there", "there?watch=true", "a/there", "", "UPPER", "a b"];
        let view = fetcher(&requests).prefetch(&pod(&names)).await;
        assert_eq!(requests.load(Ordering::SeqCst), 0);
        assert!(names.iter().all(|name| !matches!(view.claim("default", name), Lookup::Found(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_makes_the_claim_unknown() {
        let requests = Arc::new(AtomicUsize::new(0));
        let fetcher = fetcher(&requests);
        let view = fetcher.prefetch(&pod(&["slow", "there"])).await;
        assert!(matches!(view.claim("default", "slow"), Lookup::Unknown));
        assert!(matches!(view.claim("default", "there"), Lookup::Found(_)));
        assert!(fetcher.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn beyond_the_ration_claims_are_unknown() {
        let requests = Arc::new(AtomicUsize::new(0));
        let fetcher = fetcher(&requests);
        let mut unknown = 0;
        for round in 0..8 {
            let names: Vec<String> = (0..8).map(|number| format!("claim-{round}-{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let view = fetcher.prefetch(&pod(&names)).await;
            unknown += names.iter().filter(|name| matches!(view.claim("default", name), Lookup::Unknown)).count();
        }
        // 64 claims in about 60 ms: the burst, and what was earned meanwhile.
        assert!(unknown >= 64 - 40, "{unknown}");
        assert_eq!(requests.load(Ordering::SeqCst) + unknown, 64);
    }
}
