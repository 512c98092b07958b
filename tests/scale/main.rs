//! What a claim costs the provisioner does not grow with the number of nodes, volumes and claims: counted, not timed.
//!
//! Requests to the API server are counted, and the memory that is allocated: to look at all nodes or volumes, a list of them is
//! made first. What they cost in time: `cargo bench --bench scale`.

#![allow(clippy::unwrap_used, reason = "tests panic where the premise of a test fails")]

#[path = "../../benches/scale/cluster.rs"]
mod cluster;
#[path = "../../benches/scale/running.rs"]
mod running;

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use cluster::{Mode, Simulated};
use running::{idle, run_provisioner};

/// Claims by which the caches and orders that are made on demand are there.
const WARM_UP: usize = 20;
const CLAIMS: usize = 40;
/// The least of so many rounds counts: a table that grows doubles now and then.
const ROUNDS: usize = 3;
/// Bytes that a claim may take more where there are more objects: numbers in names are longer, trees deeper. A list of all nodes
/// or volumes would take eight for each of them.
const MORE: u64 = 4_000;
const FEW: (usize, usize) = (10, 100);
const MANY_NODES: (usize, usize) = (1_500, 100);
const MANY_VOLUMES: (usize, usize) = (10, 2_000);

/// What claims take together.
#[derive(Debug)]
struct Work {
    bytes_a_claim: u64,
    requests: BTreeMap<String, usize>,
}

fn work(mode: Mode, (nodes, volumes): (usize, usize)) -> Work {
    // Time passes only while nothing is left to do, so that nothing happens for having taken long.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (simulated, stop) = (Simulated::new(mode, nodes, volumes), CancellationToken::new());
    runtime.block_on(async {
        run_provisioner(simulated.client(), &stop);
        idle().await;
        nothing_is_asked_about_what_is_served(&simulated.take_requests(), volumes);
        simulated.claims(WARM_UP).await;
    });
    let mut least = Work { bytes_a_claim: u64::MAX, requests: BTreeMap::new() };
    for _ in 0..ROUNDS {
        runtime.block_on(idle());
        simulated.take_requests();
        let counted = allocation_counter::measure(|| runtime.block_on(simulated.claims(CLAIMS)));
        let bytes_a_claim = counted.bytes_total / CLAIMS as u64;
        if bytes_a_claim < least.bytes_a_claim {
            least = Work { bytes_a_claim, requests: simulated.take_requests() };
        }
    }
    stop.cancel();
    println!("{} {nodes} nodes, {volumes} volumes: {least:?}", mode.name());
    least
}

/// A controller that has started has listed everything once, and leaves alone what is as it should be.
fn nothing_is_asked_about_what_is_served(requests: &BTreeMap<String, usize>, volumes: usize) {
    /// What a watch lists at once.
    const PAGE: usize = 500;
    assert_eq!(requests.get("GET persistentvolumeclaims"), None, "{requests:?}");
    // The pages of one list, an empty one at its end, and two attempts to watch.
    assert!(requests["GET all persistentvolumes"] <= volumes.div_ceil(PAGE) + 3, "{requests:?}");
}

fn a_claim_costs_the_same(mode: Mode) {
    let few = work(mode, FEW);
    assert!(few.requests.values().sum::<usize>() <= 4 * CLAIMS, "{few:?}");
    assert!(!few.requests.keys().any(|request| request.contains(" all ")), "{few:?}");
    for many in [MANY_NODES, MANY_VOLUMES] {
        let many = work(mode, many);
        assert_eq!(many.requests, few.requests);
        assert!(many.bytes_a_claim <= few.bytes_a_claim + MORE, "{many:?}, and where there are few {few:?}");
    }
}

#[test]
fn a_claim_costs_the_same_however_many_nodes_and_volumes_there_are() {
    a_claim_costs_the_same(Mode::Immediate);
}

#[test]
fn a_claim_with_a_selected_node_costs_the_same_however_many_there_are() {
    a_claim_costs_the_same(Mode::Delayed);
}
