//! What one claim costs the provisioner, by how many nodes and volumes there are: `cargo bench --bench scale`.
//!
//! API server, agents and controller manager are simulated in this process, on the thread that the provisioner runs on, so
//! that the time that the processor spends on it is all there is to count. What counts is the ratio between sizes: the
//! simulation costs the same at each. With `LATEBIND_UPDATE` set the figures become docs/results/scale.md.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot run has failed")]

mod cluster;
mod running;

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use latebind_test_support::machine::{machine, today};
use tokio_util::sync::CancellationToken;

use cluster::{Mode, Simulated};
use running::{idle, processor_time, run_provisioner};

/// Claims by which the caches and orders that are made on demand are there.
const WARM_UP: usize = 20;
/// The best of so many rounds counts: what else the machine does can only make one slower.
const ROUNDS: usize = 5;
const CLAIMS: usize = 100;
/// The cost at the largest size, by that at the smallest.
const TO_REACH: f64 = 1.5;
const NODES: [usize; 4] = [10, 100, 1_000, 5_000];
const VOLUMES: [usize; 4] = [100, 1_000, 10_000, 50_000];
/// By so much both are divided with `LATEBIND_BENCH_SMALL` set, to see that it works.
const SMALL: usize = 10;
/// What grows, of which kinds of class, and what the rows of the table are.
const HEAD: &str = "| class | nodes | volumes | processor time a claim | by the smallest | requests a claim |\n\
                    | --- | --: | --: | --: | --: | --: |\n";
/// What the other one is while one grows.
const FEW_NODES: usize = 100;

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let small = std::env::var_os("LATEBIND_BENCH_SMALL").is_some();
    let divide = if small { SMALL } else { 1 };
    let (mut most, mut table) = (1.0_f64, String::from(HEAD));
    print!("{HEAD}");
    for mode in [Mode::Immediate, Mode::Delayed] {
        let by_nodes = NODES.map(|nodes| ((nodes / divide).max(2), VOLUMES[0]));
        let by_volumes = VOLUMES.map(|volumes| (FEW_NODES, volumes / divide));
        for sizes in [by_nodes, by_volumes] {
            let mut smallest = None;
            for (nodes, volumes) in sizes {
                let (cost, requests) = measure(mode, nodes, volumes);
                let ratio = cost / *smallest.get_or_insert(cost);
                most = most.max(ratio);
                let row =
                    format!("| {} | {nodes} | {volumes} | {cost:.0} µs | {ratio:.2} | {requests:.2} |\n", mode.name());
                print!("{row}");
                table.push_str(&row);
            }
        }
    }
    println!("to reach: no more than {TO_REACH} times the smallest; {most:.2} at most");
    if std::env::var_os("LATEBIND_UPDATE").is_some() && !small {
        fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results/scale.md"), page(&table, most)).unwrap();
    }
    if most <= TO_REACH { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn page(table: &str, most: f64) -> String {
    let mut page = String::from("# What a claim costs the provisioner, by nodes and volumes\n\n");
    let _written = write!(
        page,
        "{}, {}, {} build. `LATEBIND_UPDATE=1 cargo bench --bench scale` writes this page anew.\n\n\
         The provisioner runs on one thread, together with a simulated API server, an agent on each node that makes every \
         directory at once and reports what is left, and a controller manager that binds. Processor time of that thread from the creation of a claim \
         until it is bound, the best of {ROUNDS} rounds of {CLAIMS} claims; the simulation's part is the same at each size, \
         so that ratios count. For `WaitForFirstConsumer` the node is selected when the claim is made; for `Immediate` the \
         provisioner chooses among all of them.\n\n{table}\n\
         | what | measured | wanted |\n| --- | --- | --- |\n\
         | a claim at the largest size, of one at the smallest | {most:.2} times at most | ≤ {TO_REACH} |\n",
        today(),
        machine(),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    );
    page
}

/// Microseconds of processor time that one claim takes, from its creation until it is bound, and requests of the provisioner.
#[allow(clippy::cast_precision_loss, reason = "some hundreds")]
fn measure(mode: Mode, nodes: usize, volumes: usize) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let simulated = Simulated::new(mode, nodes, volumes);
        let (client, stop) = (simulated.client(), CancellationToken::new());
        run_provisioner(client, &stop);
        idle().await;
        simulated.claims(WARM_UP).await;
        simulated.take_requests();
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            idle().await;
            let before = processor_time();
            simulated.claims(CLAIMS).await;
            let took = processor_time().saturating_sub(before);
            let each = took.as_secs_f64() * 1e6 / CLAIMS as f64;
            best = best.min(each);
        }
        let requests: usize = simulated.take_requests().values().sum();
        stop.cancel();
        (best, requests as f64 / (ROUNDS * CLAIMS) as f64)
    })
}
