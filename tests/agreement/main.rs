//! What the engine says of the cases, compared with what a real control plane does with the same objects.
//!
//! Each case is built twice, with names of its own. In the first copy its Pod is created as it stands: a claim that the engine
//! calls stuck must be waiting for a first consumer after a full resync, and nothing else may be. In the second copy the
//! scheduler gets the Pod as the engine would rewrite it, or as it refused to rewrite it: the scheduler must choose the volume
//! and node that the engine said, or refuse the node.

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

mod build;
mod compare;
mod groups;

fn main() -> ExitCode {
    // Nodes here are only what their case says, so nobody may look for their heartbeats, taint them or remove their Pods.
    let mut suite = Suite::new("agreement").control_plane(|options| {
        options
            .controller_manager_flag("--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller")
            .controller_manager_flag("--kube-api-qps=500")
            .controller_manager_flag("--kube-api-burst=1000")
            .scheduler_flag("--kube-api-qps=500")
            .scheduler_flag("--kube-api-burst=1000")
    });
    suite = suite.control_plane(groups::gate);
    tests!(
        suite,
        Needs::ControlPlane,
        [
            compare::the_engine_and_the_platform_agree_on_every_case,
            groups::a_pod_of_a_group_is_held_for_it_where_a_rewrite_would_have_it_placed,
        ]
    );
    suite.run()
}
