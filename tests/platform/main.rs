//! What latebind assumes of Kubernetes, checked against the real one without latebind.
//!
//! When one of these fails on a new version, a decision of `binding` rests on something that is no longer so.

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};
use latebind_cluster::tests;

mod claims;
mod devices;
mod engines;
mod kubelet;
mod newer;
mod objects;
mod policies;
mod remedies;
mod scheduler;
mod webhooks;

fn main() -> ExitCode {
    let mut suite = Suite::new("platform");
    tests!(
        suite,
        Needs::Api,
        [
            claims::a_pod_that_names_its_node_leaves_a_delayed_claim_waiting_even_with_a_perfect_volume,
            claims::an_immediate_claim_binds_without_a_scheduler,
            claims::a_claim_without_class_binds_to_a_static_volume_without_a_scheduler,
            claims::a_delayed_claim_that_names_its_volume_binds_at_once,
            claims::a_deleted_unbound_claim_stays_while_a_pod_that_names_its_node_uses_it,
            claims::a_deleted_unbound_claim_goes_when_only_an_unscheduled_pod_uses_it,
            claims::a_lost_claim_stays_lost_beside_an_available_volume,
            claims::a_generic_ephemeral_volume_of_a_delayed_class_deadlocks,
            claims::a_template_annotation_reaches_the_ephemeral_claim_and_starts_provisioning,
            remedies::selected_node_on_a_stuck_claim_asks_the_provisioner_at_once,
            remedies::selected_node_on_a_claim_without_provisioner_fails_forever,
            remedies::a_poisoned_claim_still_binds_to_a_volume_reserved_for_it,
            remedies::selected_node_ignores_a_static_volume_that_would_fit,
            remedies::a_volume_reserved_with_uid_binds_at_once,
            remedies::a_volume_reserved_without_uid_binds_within_a_resync,
            remedies::a_reserved_volume_of_another_class_binds,
            remedies::a_reserved_volume_that_is_too_small_does_not_bind,
            scheduler::a_pin_by_field_schedules_to_that_node,
            scheduler::an_unbound_immediate_claim_keeps_a_pod_unscheduled,
            scheduler::a_poisoned_claim_keeps_a_pod_unscheduled,
            scheduler::a_claim_promised_to_another_node_keeps_a_pinned_pod_unscheduled,
            scheduler::a_claim_promised_to_a_node_that_is_gone_keeps_a_pod_unscheduled,
            scheduler::capacity_objects_steer_a_provisioner_that_is_no_csi_driver,
            newer::a_bound_claim_says_since_1_37_whether_a_pod_uses_it,
            newer::a_claim_that_is_not_bound_never_says_whether_a_pod_uses_it,
            newer::a_drained_node_is_unschedulable_and_has_no_condition_that_says_so,
            newer::a_scheduling_group_is_dropped,
            engines::the_example_for_kyverno_rewrites_a_pinned_pod_with_a_claim,
            engines::the_example_for_gatekeeper_refuses_a_pinned_pod_with_a_claim,
            policies::a_policy_takes_a_pod_its_node_name_since_1_36,
            policies::a_policys_patch_that_does_not_apply_is_ignored_under_failure_policy_ignore,
            policies::a_policys_patch_with_a_test_that_fails_changes_nothing,
            policies::a_policys_patch_that_leaves_no_pod_rejects_despite_failure_policy_ignore,
            policies::a_policy_sees_no_generated_name_and_a_validating_one_does,
            policies::a_policy_sees_the_namespace_in_its_patch_and_not_in_its_conditions,
            policies::a_policy_that_costs_too_much_leaves_the_pod_alone,
            policies::a_policy_looks_a_key_up_in_a_large_parameter,
            policies::a_policy_follows_its_parameter_and_does_nothing_without_it,
            policies::a_policy_may_have_the_claims_of_the_namespace_as_parameters,
            policies::a_stateful_sets_pod_is_created_whether_its_claim_is_seen_or_not,
        ]
    );
    tests!(
        suite,
        Needs::ControlPlane,
        [
            webhooks::a_patch_that_does_not_apply_rejects_the_pod_despite_failure_policy_ignore,
            webhooks::a_patch_that_is_no_base64_is_ignored_under_failure_policy_ignore,
            webhooks::an_undecodable_patch_is_ignored_under_failure_policy_ignore,
            webhooks::a_hook_whose_condition_becomes_true_only_through_a_later_hook_is_never_called,
            webhooks::a_hook_that_sorts_last_sees_what_others_set_and_is_invoked_again,
            webhooks::an_eviction_denied_with_429_makes_drain_retry_until_its_timeout,
            webhooks::an_eviction_denied_with_403_ends_drain_at_once_with_the_message,
            webhooks::warnings_of_a_node_hook_are_printed_by_cordon_drain_and_uncordon,
            policies::a_policy_whose_condition_becomes_true_only_through_a_webhook_does_nothing,
            policies::a_policy_without_condition_is_invoked_again_after_a_webhook,
        ]
    );
    tests!(
        suite,
        Needs::Nodes,
        [
            kubelet::a_pod_that_names_its_node_waits_forever_for_a_delayed_claim,
            kubelet::a_pod_whose_delayed_claim_no_container_mounts_runs,
            kubelet::a_stuck_pod_runs_once_a_provisioner_answers_selected_node,
            kubelet::a_stuck_pod_runs_once_a_static_volume_is_reserved_for_its_claim,
            kubelet::a_pod_runs_with_a_claim_bound_to_its_node_whatever_selected_node_says,
            kubelet::a_claim_bound_to_another_node_stops_a_pod_forever,
            kubelet::of_two_pods_that_share_a_local_claim_only_the_one_on_its_node_runs,
            newer::calls_of_a_webhook_service_are_spread_over_its_endpoints_since_1_37,
            newer::a_pod_that_names_its_node_waits_forever_for_a_device,
            devices::only_a_pod_that_the_scheduler_places_is_given_a_device,
            kubelet::a_waiting_pod_is_pending_and_a_refused_one_failed_and_both_have_a_start_time,
        ]
    );
    suite.run()
}
