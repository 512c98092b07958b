//! Live looks: what they ask for, and what bounds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::json;

use super::{Admitted, Fetcher, State};
use crate::binding::{ClusterView, Lookup};
use crate::facts::live::{LiveCluster, WatchedPods};
use crate::model::Pod;

#[test]
fn whose_ration_is_spent_is_told() {
    let now = Instant::now();
    let mut state = State::new(now);
    for _ in 0..5 {
        assert_eq!(state.admit("greedy", now), Admitted::Yes);
    }
    assert_eq!(state.admit("greedy", now), Admitted::NamespaceSpent);
    for number in 0..15 {
        assert_eq!(state.admit(&format!("team-{}", number % 5), now), Admitted::Yes);
    }
    assert_eq!(state.admit("new", now), Admitted::AllSpent);
}

#[test]
fn the_ration_is_a_burst_and_then_a_rate() {
    let begin = Instant::now();
    let mut state = State::new(begin);
    let namespace = |place: usize| format!("team-{}", place % 20);
    let mut burst = |at: Instant| (0..100).filter(|place| state.admit(&namespace(*place), at) == Admitted::Yes).count();
    assert_eq!(burst(begin), 20);
    assert_eq!(burst(begin + Duration::from_millis(10)), 0);
    assert_eq!(burst(begin + Duration::from_millis(60)), 1);
    assert_eq!(burst(begin + Duration::from_secs(60)), 20);
}

#[test]
fn one_namespace_leaves_the_others_their_looks() {
    let begin = Instant::now();
    let mut state = State::new(begin);
    let taken = (0..100).filter(|_| state.admit("greedy", begin) == Admitted::Yes).count();
    assert_eq!(taken, 5);
    // For as long as the one goes on asking, everybody else finds what it needs.
    for millisecond in (0..5_000).step_by(10) {
        let now = begin + Duration::from_millis(millisecond);
        state.admit("greedy", now);
        if millisecond % 500 == 0 {
            assert!(
                (0..3).all(|team| state.admit(&format!("team-{team}"), now) == Admitted::Yes),
                "after {millisecond} ms"
            );
        }
    }
    state.admit("other", begin + Duration::from_secs(60));
    assert_eq!(state.by_namespace.len(), 1, "who has earned all of it back costs nothing");
}

/// An API server that knows what is called `there`, never answers for `slow`, and counts requests, but for those of the
/// namespace, which every Pod needs.
fn fetcher(requests: &Arc<AtomicUsize>) -> Fetcher {
    let requests = Arc::clone(requests);
    let service = tower::service_fn(move |request: Request<Body>| {
        let requests = Arc::clone(&requests);
        async move {
            if request.uri().path() != "/api/v1/namespaces/default" {
                requests.fetch_add(1, Ordering::SeqCst);
            }
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
    Fetcher::new(Client::new(service, "default"), LiveCluster::new(WatchedPods::None))
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
async fn the_node_and_the_namespace_are_looked_at_too() {
    let requests = Arc::new(AtomicUsize::new(0));
    let fetcher = fetcher(&requests);
    let on = |node: &str, namespace: &str| {
        let pod = json!({"metadata": {"name": "p", "namespace": namespace}, "spec": {"nodeName": node}});
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    let view = fetcher.prefetch(&on("there", "there")).await;
    assert!(view.node("there").found().is_some() && view.namespace("there").found().is_some());
    let view = fetcher.prefetch(&on("gone", "gone")).await;
    assert!(matches!(view.node("gone"), Lookup::Absent) && matches!(view.namespace("gone"), Lookup::Absent));
    let view = fetcher.prefetch(&on("slow", "there")).await;
    assert!(matches!(view.node("slow"), Lookup::Unknown));
    assert!(matches!(view.claim("other", "there"), Lookup::Unknown), "nobody has looked into another namespace");
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
    fetcher.state.lock().negatives.values_mut().for_each(|seen| *seen -= super::NEGATIVE_FOR);
    fetcher.prefetch(&pod).await;
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_name_that_could_lead_to_another_object_is_not_asked_for() {
    let requests = Arc::new(AtomicUsize::new(0));
    let names = ["..", "../../other/persistentvolumeclaims/there", "there?watch=true", "a/there", "", "UPPER", "a b"];
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
    assert!(fetcher.state.lock().flights.is_empty());
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
    // 64 claims of one namespace in about 60 ms: its burst, and what was earned meanwhile.
    assert!(unknown >= 64 - 20, "{unknown}");
    assert_eq!(requests.load(Ordering::SeqCst) + unknown, 64);
}
