//! Provisioning on a real control plane: claims, volumes, directories, and what happens when any of them is taken away.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

mod bound;
mod costs;
mod ends;
mod ground;
mod hook;
mod hostile;
mod hung;
mod kept;
mod losses;
mod made;
mod nodes;
mod orphans;
mod refused;
mod restored;

fn main() -> ExitCode {
    let mut suite = Suite::new("provision").control_plane(latebind_cluster::Options::audit);
    tests!(
        suite,
        Needs::ControlPlane,
        [
            made::a_claim_with_a_selected_node_is_bound_to_a_directory_and_both_go_with_it,
            made::a_pod_that_the_scheduler_places_gets_its_volume,
            made::claims_that_come_at_once_take_a_path_each,
            made::an_immediate_claim_gets_a_node_of_the_pool,
            made::an_immediate_claim_of_a_pinned_pod_goes_to_its_node,
            made::a_volume_is_tied_by_the_label_and_not_by_the_name_of_the_node,
            made::the_class_says_how_the_directory_looks,
            made::a_class_that_shares_on_one_node_grants_access_by_many_and_ties_the_volume_all_the_same,
            refused::what_cannot_be_served_is_refused_by_name,
            refused::a_full_or_missing_disk_is_told_and_another_node_is_asked_for,
            refused::a_read_only_disk_is_named,
            refused::a_dying_disk_is_named,
            refused::a_pinned_claim_keeps_its_node,
            refused::a_missing_pool_is_told_and_a_late_one_serves,
            refused::a_config_map_that_is_gone_or_may_not_be_read_holds_every_adopted_class_back,
            refused::a_pool_outside_of_what_the_agents_were_given_gets_nothing,
            costs::claims_that_cannot_be_served_cost_no_list_and_one_event_each,
            costs::volumes_that_a_policy_refuses_are_tried_ever_more_rarely_and_told_of,
            costs::a_claim_with_the_longest_name_is_served_like_any_other,
            costs::an_immediate_claim_goes_to_an_untainted_node_and_to_a_control_plane_by_name_only,
            nodes::a_node_without_an_agent_is_given_up,
            nodes::a_node_that_is_gone_is_given_up,
            nodes::a_shared_label_is_refused,
            nodes::an_agent_on_a_dead_node_stops_nobody_else,
            hung::a_disk_that_hangs_stops_no_claim_on_another,
            nodes::a_node_made_anew_keeps_its_disks_and_gets_nothing_new_before_they_are_seen,
            nodes::a_node_made_anew_is_accepted_as_it_is_when_its_report_is_deleted,
            orphans::an_orphan_stays_unless_its_removal_was_asked_for_and_it_is_old,
            orphans::an_orphan_that_a_volume_names_stays,
            orphans::an_orphan_whose_claim_is_there_stays,
            orphans::an_orphan_whose_marker_says_retain_stays,
            orphans::a_store_that_knows_less_than_the_disk_removes_no_orphan_until_a_person_says_so,
            orphans::invented_orphans_are_ordered_away_within_the_bound_only,
            orphans::an_orphan_is_removed_through_the_trash_and_no_more_than_the_bound,
            nodes::a_cordoned_node_serves,
            nodes::a_node_with_a_no_schedule_taint_serves,
            nodes::a_node_with_a_no_execute_taint_serves,
            nodes::a_node_under_disk_pressure_serves,
            nodes::a_node_with_room_for_no_pod_serves,
            nodes::a_node_without_the_label_is_given_up,
            nodes::a_node_whose_entry_has_no_paths_is_given_up,
            nodes::a_base_that_cannot_be_made_is_a_condition_and_no_crash,
            nodes::a_selected_node_deleted_before_anything_was_made_is_given_up,
            nodes::a_released_volume_of_a_deleted_node_waits_and_says_so,
            nodes::a_bound_claim_of_a_deleted_node_keeps_all_it_has,
            hostile::a_pattern_that_climbs_inside_the_base_is_refused,
            hostile::annotations_of_a_claim_choose_no_path,
            hostile::released_volumes_of_microk8s_are_cleaned_where_label_and_name_differ,
            hostile::adopted_paths_that_lead_elsewhere_are_left_alone,
            hostile::an_adopted_class_means_what_its_annotations_say,
            hostile::a_volume_is_never_made_inside_another,
        ]
    );
    what_lasts(&mut suite);
    suite.alone(
        Needs::ControlPlane,
        "hook::new_claims_are_told_who_makes_their_volume",
        hook::new_claims_are_told_who_makes_their_volume,
    );
    suite.alone(
        Needs::ControlPlane,
        "made::three_writes_make_a_volume_and_seven_remove_it",
        made::three_writes_make_a_volume_and_seven_remove_it,
    );
    suite.alone(
        Needs::ControlPlane,
        "bound::phases_are_written_while_the_controller_manager_is_behind",
        bound::phases_are_written_while_the_controller_manager_is_behind,
    );
    suite.alone(
        Needs::ControlPlane,
        "ends::data_outlives_the_definitions_and_a_new_installation_adopts_it",
        ends::data_outlives_the_definitions_and_a_new_installation_adopts_it,
    );
    suite.run()
}

/// What becomes of data when something is taken away.
fn what_lasts(suite: &mut Suite) {
    tests!(
        suite,
        Needs::ControlPlane,
        [
            losses::the_claim_is_deleted_by_mistake_and_the_volume_is_set_to_retain_while_the_order_waits,
            losses::the_volume_is_bound_to_a_new_claim_while_the_order_waits,
            losses::a_retained_volume_is_deleted_and_another_is_made_by_hand_for_its_path,
            losses::the_volume_comes_back_from_its_yaml_and_is_released_later,
            losses::volume_and_claim_vanish_with_their_finalizers_torn_off,
            losses::a_volume_is_handed_on_to_another_claim_and_released,
            losses::a_removal_that_the_agent_refuses_is_told_on_the_volume,
            losses::an_adopted_pattern_leads_into_the_directory_of_an_existing_volume,
            restored::a_store_restored_from_a_snapshot_takes_no_data_with_it,
            restored::a_store_restored_with_raised_revisions_takes_no_data_with_it,
            kept::a_directory_that_stays_is_taken_back_by_a_claim_of_the_same_name,
            kept::what_is_in_doubt_is_not_taken_back_and_said,
            kept::a_cluster_made_anew_takes_back_what_an_earlier_one_had_when_it_is_named,
            ends::a_deleted_local_volume_takes_no_data_with_it,
            ends::a_local_volume_whose_finalizer_was_torn_off_is_made_again,
            ends::a_retained_volume_keeps_its_directory_whatever_is_deleted,
            ends::a_policy_that_changes_to_retain_keeps_the_data,
            ends::a_volume_deleted_by_hand_before_its_claim_still_cleans_up,
            ends::a_claim_deleted_while_it_is_provisioned_leaves_nothing,
            ends::a_retained_claim_deleted_while_it_is_provisioned_leaves_nothing,
            ends::a_deleted_class_does_not_stop_the_removal,
            ends::an_edited_pool_does_not_move_or_lose_anything,
            ends::a_directory_that_another_volume_names_is_left_alone,
            ends::a_released_volume_of_rancher_is_cleaned_where_label_and_name_differ,
        ]
    );
}
