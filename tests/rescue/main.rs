//! The rescue loop as a process, against a real control plane. In most tests nodes are simulated, and so is what a
//! kubelet says of a Pod; those in `nodes` use real ones.

#![allow(clippy::wildcard_imports, reason = "every part plays on the same stage")]
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]

mod bystanders;
mod faults;
mod nodes;
mod policy;
mod process;
mod races;
mod results;
mod rights;
mod rows;
mod stage;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::{Options, tests};

fn main() -> ExitCode {
    let mut suite = Suite::new("rescue").control_plane(Options::audit).nodes(Options::audit);
    tests!(
        suite,
        Needs::ControlPlane,
        [
            rows::a_dynamic_claim_gets_its_node,
            rows::a_static_claim_gets_the_smallest_volume_that_fits,
            rows::a_volume_that_exists_is_preferred_to_a_new_one,
            rows::two_claims_of_a_pod_get_a_volume_each,
            rows::a_claim_without_a_volume_waits_for_one,
            rows::nothing_is_bound_for_a_pod_that_lacks_another_volume,
            rows::a_poisoned_claim_is_bound_or_cured,
            rows::a_node_that_is_gone_is_replaced,
            rows::an_order_for_another_node_stands,
            rows::a_claim_bound_elsewhere_is_told_of,
            rows::ephemeral_volumes_are_served,
            rows::an_unmounted_claim_and_an_immediate_one_are_left_alone,
            rows::a_claim_that_is_ending_or_foreign_is_left_alone,
            bystanders::a_claim_without_a_class_is_left_to_the_controller_manager,
            bystanders::the_class_annotation_wins,
            bystanders::an_order_for_the_same_node_stands,
            bystanders::a_volume_that_names_the_claim_is_enough,
            bystanders::a_claim_that_names_its_volume_is_left_alone,
            bystanders::a_claim_that_lost_its_volume_is_told_of,
            bystanders::a_claim_for_one_pod_is_served,
            bystanders::other_volumes_are_of_no_interest,
            bystanders::a_claim_of_two_nodes_is_bound_for_one_of_them,
            races::a_pod_that_its_kubelet_has_not_seen_or_has_rejected_pins_nothing,
            races::a_pod_that_its_kubelet_would_reject_pins_nothing,
            races::the_scheduler_comes_first,
            races::a_claim_or_class_may_come_after_the_pod,
            races::the_older_of_two_nodes_wins,
            races::two_claims_and_one_volume,
            races::an_order_for_a_vanished_pod_is_taken_back,
            races::what_the_scheduler_selects_after_us_stays,
            races::a_node_given_back_is_ordered_again_later,
            races::a_pod_that_was_created_again_is_another_pod,
            races::writes_are_bound_to_what_was_decided_on,
            races::a_namespace_that_is_ending_is_left_alone,
            races::scheduler_and_rescue_never_choose_two_nodes,
        ]
    );
    suite.alone(Needs::ControlPlane, "faults::a_dry_run_writes_nothing", faults::a_dry_run_writes_nothing);
    suite.alone(
        Needs::ControlPlane,
        "faults::what_was_stuck_before_the_start",
        faults::what_was_stuck_before_the_start,
    );
    suite.alone(
        Needs::ControlPlane,
        "faults::a_lease_that_is_deleted_is_made_anew",
        faults::a_lease_that_is_deleted_is_made_anew,
    );
    suite.alone(Needs::ControlPlane, "faults::leaders_that_are_killed", faults::leaders_that_are_killed);
    suite.alone(Needs::ControlPlane, "faults::an_api_server_that_restarts", faults::an_api_server_that_restarts);
    suite.alone(Needs::ControlPlane, "faults::an_api_server_that_refuses", faults::an_api_server_that_refuses);
    suite.alone(Needs::ControlPlane, "faults::a_leader_that_is_frozen", faults::a_leader_that_is_frozen);
    suite.alone(
        Needs::ControlPlane,
        "policy::a_pod_that_names_a_node_of_another_team_does_not_get_its_disk",
        policy::a_pod_that_names_a_node_of_another_team_does_not_get_its_disk,
    );
    suite.alone(
        Needs::ControlPlane,
        "policy::where_admission_does_nothing_the_rescue_loop_writes_nothing",
        policy::where_admission_does_nothing_the_rescue_loop_writes_nothing,
    );
    suite.alone(
        Needs::ControlPlane,
        "policy::what_a_pin_policy_forbids_is_not_done_and_its_status_says_so",
        policy::what_a_pin_policy_forbids_is_not_done_and_its_status_says_so,
    );
    suite.alone(Needs::ControlPlane, "rights::are_enough_and_all_used", rights::are_enough_and_all_used);
    suite.alone(Needs::Nodes, "nodes::existing_pods_start", nodes::existing_pods_start);
    suite.alone(
        Needs::Nodes,
        "nodes::pods_that_a_kubelet_rejects_pin_nothing",
        nodes::pods_that_a_kubelet_rejects_pin_nothing,
    );
    let code = suite.run();
    results::publish(code)
}
