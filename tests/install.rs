//! Installing latebind: the chart, the rendered manifest, certificates, and the whole on real nodes.

#[path = "install/certificates.rs"]
mod certificates;
#[path = "install/chart.rs"]
mod chart;
#[path = "install/manifest.rs"]
mod manifest;
#[path = "install/nodes.rs"]
mod nodes;
#[path = "install/provisioner.rs"]
mod provisioner;
#[path = "install/quickstart.rs"]
mod quickstart;
#[path = "install/stage.rs"]
mod stage;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

fn main() -> ExitCode {
    let mut suite = Suite::new("install");
    tests!(
        suite,
        Needs::ControlPlane,
        [
            chart::the_rendered_manifest_is_current,
            chart::the_page_for_cert_manager_is_current,
            chart::the_controller_may_do_what_it_was_tested_with,
            chart::values_are_checked,
            chart::every_variant_renders_and_is_accepted,
        ]
    );
    suite.alone(
        Needs::ControlPlane,
        "certificates::replicas_share_one_authority_and_never_fight",
        certificates::replicas_share_one_authority_and_never_fight,
    );
    suite.alone(
        Needs::ControlPlane,
        "certificates::the_controller_can_change_nothing_but_cabundle",
        certificates::the_controller_can_change_nothing_but_cabundle,
    );
    suite.alone(
        Needs::ControlPlane,
        "certificates::an_end_that_cannot_be_prevented_is_told",
        certificates::an_end_that_cannot_be_prevented_is_told,
    );
    suite.alone(
        Needs::Nodes,
        "nodes::pinned_pods_run_and_nothing_is_left_behind",
        nodes::pinned_pods_run_and_nothing_is_left_behind,
    );
    suite.alone(
        Needs::Nodes,
        "nodes::deleting_the_namespace_first_locks_nothing",
        nodes::deleting_the_namespace_first_locks_nothing,
    );
    suite.alone(Needs::Nodes, "nodes::own_pods_are_never_blocked", nodes::own_pods_are_never_blocked);
    suite.alone(Needs::Nodes, "quickstart::works_as_it_stands_in_readme", quickstart::works_as_it_stands_in_readme);
    suite.alone(
        Needs::Nodes,
        "quickstart::local_volumes_work_as_they_stand_in_readme",
        quickstart::local_volumes_work_as_they_stand_in_readme,
    );
    suite.run()
}
