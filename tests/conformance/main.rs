//! Kubernetes' own tests of storage drivers, against a class of latebind's on real nodes. `make conformance` runs them, and only it:
//! they take minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

use std::env;
use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};

mod page;
mod report;
mod specs;

/// The controller manager has its default limits elsewhere; here they would only make the specs wait for each other.
const FAST: [&str; 2] = ["--kube-api-qps=500", "--kube-api-burst=500"];

fn main() -> ExitCode {
    let mut suite = Suite::new("conformance")
        .nodes(|options| FAST.into_iter().fold(options, latebind_cluster::Options::controller_manager_flag));
    if env::var_os("LATEBIND_CONFORMANCE").is_none() {
        eprintln!("NOT RUN conformance: `make conformance` builds Kubernetes' storage suite and runs it");
        return ExitCode::SUCCESS;
    }
    suite.alone(
        Needs::Nodes,
        "specs::all_that_apply_pass_but_those_that_cannot",
        specs::all_that_apply_pass_but_those_that_cannot,
    );
    suite.run()
}
