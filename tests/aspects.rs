//! What the scheduler knows and `nodeName` ignores, aspect by aspect, on a real control plane: a Pod that would have run
//! without latebind runs with it.

#[path = "aspects/installed.rs"]
mod installed;
#[path = "aspects/neighbours.rs"]
mod neighbours;
#[path = "install/provisioner.rs"]
mod provisioner;
#[path = "install/served.rs"]
mod served;
#[path = "aspects/table.rs"]
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
    suite.run()
}
