//! latebind on real nodes while things break and Pods that name their node are created all the time.

mod faults;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new("faults");
    suite.alone(Needs::Nodes, "faults::replicas_come_and_go", faults::replicas_come_and_go);
    suite.alone(Needs::Nodes, "faults::certificates_change", faults::certificates_change);
    suite.alone(Needs::Nodes, "faults::the_api_server_restarts", faults::the_api_server_restarts);
    suite.alone(Needs::Nodes, "faults::watches_are_broken", faults::watches_are_broken);
    suite.alone(Needs::Nodes, "faults::no_replica_is_left", faults::no_replica_is_left);
    suite.alone(Needs::Nodes, "faults::certificates_live_for_seconds", faults::certificates_live_for_seconds);
    suite.run()
}
