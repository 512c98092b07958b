//! Local volumes as they are installed: the chart's part, the rights, and the whole on real nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

#[path = "local/chart.rs"]
mod chart;
#[path = "provision/ground.rs"]
#[allow(dead_code, reason = "shared with the suite provision")]
mod ground;
#[path = "install/manifest.rs"]
#[allow(dead_code, reason = "shared with the suite install")]
mod manifest;
#[path = "local/rights.rs"]
mod rights;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

fn main() -> ExitCode {
    let mut suite = Suite::new("local");
    tests!(
        suite,
        Needs::ControlPlane,
        [
            chart::the_rendered_manifest_is_current,
            chart::values_are_checked,
            chart::every_variant_renders_and_is_accepted,
            chart::a_second_default_class_is_refused,
        ]
    );
    suite.alone(
        Needs::ControlPlane,
        "rights::are_enough_and_an_agent_reaches_its_node_only",
        rights::are_enough_and_an_agent_reaches_its_node_only,
    );
    suite.run()
}
