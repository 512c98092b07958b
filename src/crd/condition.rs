//! Conditions in the sense of the API conventions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Sets or replaces the condition of this type. The time of transition changes only with the status.
/// Answers whether anything but that time is new.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    wanted: (&str, bool, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let (kind, holds, reason, message) = wanted;
    let status = if holds { "True" } else { "False" };
    let mut next = Condition {
        last_transition_time: Time(now),
        // The API allows at most 32 KiB; what a person reads fits in far less.
        message: message.chars().take(1024).collect(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    };
    let Some(found) = conditions.iter_mut().find(|condition| condition.type_ == kind) else {
        conditions.push(next);
        return true;
    };
    if found.status == next.status {
        next.last_transition_time = found.last_transition_time.clone();
    }
    let changed = *found != next;
    *found = next;
    changed
}

/// The condition of this type.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// True when the condition of this type is there and holds.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}
