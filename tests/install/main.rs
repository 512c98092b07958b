//! Installing latebind: the chart, the rendered manifest, certificates, and the whole on real nodes.

mod certificates;
mod chart;
mod check;
mod drains;
mod nodes;
mod quickstart;
mod release;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

fn main() -> ExitCode {
    let mut suite = Suite::new("install").clusters_with_nodes(2);
    tests!(
        suite,
        Needs::ControlPlane,
        [
            chart::the_rendered_manifest_is_current,
            chart::the_binary_prints_what_the_chart_renders,
            chart::the_chart_can_be_packed,
            chart::the_page_for_cert_manager_is_current,
            chart::the_controller_may_do_what_it_was_tested_with,
            chart::values_are_checked,
            chart::the_policy_fail_covers_pods_only,
            chart::every_part_has_a_network_policy,
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
    suite.alone(
        Needs::Nodes,
        "quickstart::a_stuck_pod_starts_as_it_stands_in_readme",
        quickstart::a_stuck_pod_starts_as_it_stands_in_readme,
    );
    suite.alone(
        Needs::ControlPlane,
        "check::says_why_the_webhook_does_not_answer",
        check::says_why_the_webhook_does_not_answer,
    );
    suite.alone(Needs::Nodes, "quickstart::works_as_it_stands_in_readme", quickstart::works_as_it_stands_in_readme);
    suite.alone(
        Needs::Nodes,
        "quickstart::local_volumes_work_as_they_stand_in_readme",
        quickstart::local_volumes_work_as_they_stand_in_readme,
    );
    suite.alone(
        Needs::Nodes,
        "release::every_part_of_a_release_works_on_a_cluster",
        release::every_part_of_a_release_works_on_a_cluster,
    );
    suite.run()
}
