//! Profile `policy`: what the API server's own policies make of Pods, with the parameter that the controller keeps.

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

mod cases;
mod installed;
mod latency;
mod parameter;
mod policies;

fn main() -> ExitCode {
    // Nodes here are simulated or only named, so nobody may look for heartbeats or remove Pods of nodes that are not there.
    let mut suite = Suite::new("profile").control_plane(|options| {
        options.controller_manager_flag("--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller")
    });
    tests!(suite, Needs::ControlPlane, [installed::what_the_chart_renders_is_accepted]);
    suite.alone(
        Needs::ControlPlane,
        "cases::policy_and_webhook_make_the_same_of_every_case",
        cases::policy_and_webhook_make_the_same_of_every_case,
    );
    suite.alone(
        Needs::ControlPlane,
        "cases::modes_go_as_far_as_the_stricter_of_cluster_and_namespace",
        cases::modes_go_as_far_as_the_stricter_of_cluster_and_namespace,
    );
    suite.alone(
        Needs::ControlPlane,
        "policies::policy_and_webhook_say_the_same_of_pin_policies",
        policies::policy_and_webhook_say_the_same_of_pin_policies,
    );
    suite.alone(
        Needs::ControlPlane,
        "parameter::the_controller_lists_what_policies_may_know",
        parameter::the_controller_lists_what_policies_may_know,
    );
    suite.alone(Needs::Nodes, "latency::creating_a_pod_costs", latency::creating_a_pod_costs);
    suite.run()
}
