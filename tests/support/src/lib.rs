//! What several of latebind's test suites and benchmarks share.
//!
//! What one suite needs alone stays in its folder. What starts Kubernetes and knows nothing of latebind is in
//! `latebind-cluster`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "tests panic where the premise of a test fails"
)]

pub mod cases;
pub mod chart;
pub mod devices;
pub mod diagnosed;
pub mod installed;
pub mod load;
pub mod local;
pub mod machine;
pub mod numbers;
pub mod objects;
pub mod policies;
pub mod process;
pub mod provisioner;
pub mod rancher;
pub mod release;
pub mod tenant;
pub mod webhook;
pub mod worst;
