//! Local volumes as they are installed: the chart's part, the rights, and the whole on real nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod chart;
mod crash;
mod disk_rights;
mod disks;
mod drains;
mod full;
mod guard;
mod hostile;
mod lost;
mod nodes;
mod orders;
mod private;
mod rancher;
mod reload;
mod rights;
mod roots;
mod shared;
mod soak;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite, long};
use latebind_cluster::tests;

fn main() -> ExitCode {
    // With its defaults the controller manager binds four claims a second.
    let fast = |options| {
        let flags = ["--kube-api-qps=500", "--kube-api-burst=500"];
        flags.into_iter().fold(options, latebind_cluster::Options::controller_manager_flag)
    };
    // The long forms alone make so many volumes on real nodes that it matters there.
    // Of hours of claims the store keeps a minute: restarts of the API server put its usual five off again and again.
    let control_plane = |options| {
        let options = fast(options);
        if long() { options.api_server_flag("--etcd-compaction-interval=1m") } else { options }
    };
    let mut suite = Suite::new("local")
        .control_plane(control_plane)
        .nodes(|options| if long() { fast(options).audit() } else { options.audit() });
    tests!(
        suite,
        Needs::ControlPlane,
        [
            chart::the_rendered_manifest_is_current,
            chart::values_are_checked,
            chart::every_variant_renders_and_is_accepted,
            chart::what_is_adopted_and_where_agents_run_is_as_the_values_say,
            chart::nodes_with_other_disks_have_agents_of_their_own,
            chart::alerts_are_about_metrics_that_there_are,
            chart::the_page_names_metrics_that_there_are,
            chart::a_second_default_class_is_refused,
        ]
    );
    suite.alone(
        Needs::ControlPlane,
        "rights::are_enough_and_an_agent_reaches_its_node_only",
        rights::are_enough_and_an_agent_reaches_its_node_only,
    );
    suite.alone(
        Needs::ControlPlane,
        "rights::a_stolen_token_of_the_controller_reaches_no_further_than_its_work",
        rights::a_stolen_token_of_the_controller_reaches_no_further_than_its_work,
    );
    suite.alone(
        Needs::ControlPlane,
        "lost::claims_of_lost_nodes_are_let_go_by_policy_alone",
        lost::claims_of_lost_nodes_are_let_go_by_policy_alone,
    );
    suite.alone(
        Needs::ControlPlane,
        "orders::an_order_for_a_pod_that_is_gone_is_taken_back",
        orders::an_order_for_a_pod_that_is_gone_is_taken_back,
    );
    suite.alone(
        Needs::ControlPlane,
        "crash::everything_agrees_after_random_kills",
        crash::everything_agrees_after_random_kills,
    );
    suite.alone_within(
        Needs::ControlPlane,
        "soak::claims_come_and_go_while_everything_fails",
        soak::limit(),
        soak::claims_come_and_go_while_everything_fails,
    );
    suite.alone(
        Needs::ControlPlane,
        "reload::what_is_edited_while_they_run_crashes_nobody",
        reload::what_is_edited_while_they_run_crashes_nobody,
    );
    tests!(
        suite,
        Needs::Nodes,
        [
            nodes::a_pinned_pod_runs_with_the_webhook,
            nodes::a_pinned_pod_runs_without_the_webhook,
            nodes::two_pods_of_one_node_share_a_volume,
            shared::pods_of_every_node_use_a_volume_of_a_shared_file_system,
            nodes::a_stateful_set_of_three_keeps_its_data,
            disks::the_walk_through_of_the_classic_article,
            disks::a_disk_that_is_away_or_another_is_neither_served_nor_cleaned,
            disks::volumes_of_another_static_provisioner_are_taken_over,
            nodes::a_disk_that_is_not_mounted_gets_no_volume_until_it_is,
            nodes::a_pinned_stateful_set_of_three_keeps_its_data_without_the_webhook,
            nodes::no_registry_is_asked_and_no_pod_is_made,
            rancher::every_row_of_its_own_tests_serves_and_cleans_up,
            hostile::a_tenant_who_swaps_directories_for_links_reaches_nothing,
        ]
    );
    disturb_the_nodes(&mut suite);
    suite.run()
}

/// Tests that nobody else's Pods should be near.
fn disturb_the_nodes(suite: &mut Suite) {
    suite.alone(
        Needs::Nodes,
        "nodes::a_cordoned_and_tainted_node_still_makes_and_removes",
        nodes::a_cordoned_and_tainted_node_still_makes_and_removes,
    );
    suite.alone(
        Needs::Nodes,
        "drains::a_stateful_set_leaves_a_node_and_outlives_a_reboot",
        drains::a_stateful_set_leaves_a_node_and_outlives_a_reboot,
    );
    suite.alone(
        Needs::Nodes,
        "guard::drains_wait_and_are_refused_as_the_policy_says",
        guard::drains_wait_and_are_refused_as_the_policy_says,
    );
    suite.alone(
        Needs::Nodes,
        "full::a_node_without_a_place_for_a_pod_still_makes_and_removes",
        full::a_node_without_a_place_for_a_pod_still_makes_and_removes,
    );
    suite.alone(
        Needs::Nodes,
        "hostile::volumes_removed_many_at_a_time_under_attack_take_nothing_with_them",
        hostile::volumes_removed_many_at_a_time_under_attack_take_nothing_with_them,
    );
    suite.alone(
        Needs::Nodes,
        "roots::a_kubelet_that_sees_another_root_runs_pods_of_classes_that_ask_it_for_less",
        roots::a_kubelet_that_sees_another_root_runs_pods_of_classes_that_ask_it_for_less,
    );
    suite.alone(
        Needs::Nodes,
        "private::agents_whose_mounts_are_a_copy_say_what_their_node_has_mounted_since",
        private::agents_whose_mounts_are_a_copy_say_what_their_node_has_mounted_since,
    );
    suite.alone(
        Needs::Nodes,
        "disks::devices_are_zeros_before_they_are_offered_again",
        disks::devices_are_zeros_before_they_are_offered_again,
    );
    suite.alone(
        Needs::Nodes,
        "disks::an_agent_that_is_killed_while_it_cleans_goes_on",
        disks::an_agent_that_is_killed_while_it_cleans_goes_on,
    );
    suite.alone(Needs::Nodes, "nodes::data_outlives_the_definitions", nodes::data_outlives_the_definitions);
}
