//! What the scheduler knows and `nodeName` ignores, aspect by aspect, on a real control plane: a Pod that would have run
//! without latebind runs with it.

mod installed;
mod known;
mod neighbours;
mod policies;
mod table;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new("aspects");
    suite.alone(Needs::ControlPlane, "table::no_pod_is_worse_off", table::no_pod_is_worse_off);
    suite.alone(Needs::ControlPlane, "neighbours::other_webhooks", neighbours::other_webhooks);
    suite.alone(
        Needs::ControlPlane,
        "neighbours::a_policy_that_forbids_node_names",
        neighbours::a_policy_that_forbids_node_names,
    );
    suite.alone(Needs::ControlPlane, "neighbours::pod_node_selector", neighbours::pod_node_selector);
    suite.alone(
        Needs::ControlPlane,
        "known::a_pod_that_keeps_others_away_is_known",
        known::a_pod_that_keeps_others_away_is_known,
    );
    suite.alone(
        Needs::ControlPlane,
        "known::devices_are_allocated_to_pods_that_are_rewritten",
        known::devices_are_allocated_to_pods_that_are_rewritten,
    );
    suite.test(
        Needs::Api,
        "policies::the_api_server_refuses_what_no_policy_can_mean",
        policies::the_api_server_refuses_what_no_policy_can_mean,
    );
    suite.alone(
        Needs::ControlPlane,
        "policies::follow_an_administrator_and_bind_a_tenant",
        policies::follow_an_administrator_and_bind_a_tenant,
    );
    suite.run()
}
