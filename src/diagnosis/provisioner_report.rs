//! What a provisioner last reported about a claim, read from its events.

use std::borrow::Borrow;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::model::Event;

const FAILED: &str = "ProvisioningFailed";
const SUCCEEDED: &str = "ProvisioningSucceeded";
const BEGAN: &str = "Provisioning";

/// What a provisioner last reported about a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvisionerReport {
    /// Its last word, if that is that it failed.
    pub failure: Option<String>,
    /// When it said so; nothing where its last word is another.
    pub failed_at: Option<Timestamp>,
    /// For how long it has failed without success in between; zero where it has not.
    pub failing_for: Duration,
    /// It has reported something.
    pub is_there: bool,
}

impl ProvisionerReport {
    /// Reads the events of one claim.
    #[must_use]
    pub fn read(events: &[impl Borrow<Event>], now: Timestamp) -> Self {
        let mut reported: Vec<(&str, Timestamp, Timestamp, &Event)> = events
            .iter()
            .map(Borrow::borrow)
            .filter_map(|event| {
                let reason =
                    Some(event.reason.as_str()).filter(|reason| [FAILED, SUCCEEDED, BEGAN].contains(reason))?;
                let (first, last) = event.span()?;
                Some((reason, first, last, event))
            })
            .collect();
        reported.sort_by_key(|(_, _, last, _)| *last);
        let is_there = !reported.is_empty();
        let Some((FAILED, _, failed_at, last)) = reported.last() else { return Self { is_there, ..Self::default() } };
        let success = reported.iter().rev().find(|(reason, ..)| *reason == SUCCEEDED).map(|(_, _, last, _)| *last);
        let failures = reported.iter().filter(|(reason, ..)| *reason == FAILED);
        let first =
            failures.map(|(_, first, ..)| *first).filter(|first| success.is_none_or(|success| *first > success));
        let failing_for = first.min().map_or(Duration::ZERO, |first| {
            // Clocks may disagree; a failure in the future has not lasted.
            Duration::try_from(now.duration_since(first)).unwrap_or_default()
        });
        Self { failure: Some(last.message.to_string()), failed_at: Some(*failed_at), failing_for, is_there }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::ProvisionerReport;
    use crate::model::Event;

    fn event(reason: &str, first: &str, last: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e"}, "involvedObject": {}, "reason": reason, "message": format!("{reason} at {last}"),
            "firstTimestamp": format!("2026-01-01T{first}Z"), "lastTimestamp": format!("2026-01-01T{last}Z"),
        }))
        .unwrap()
    }

    fn read(events: &[Event]) -> ProvisionerReport {
        ProvisionerReport::read(events, "2026-01-01T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_failure_counts_from_its_first_time_since_the_last_success() {
        let events = [
            event("ProvisioningFailed", "10:00:00", "10:30:00"),
            event("ProvisioningSucceeded", "11:00:00", "11:00:00"),
            event("ProvisioningFailed", "11:45:00", "11:59:00"),
            event("Provisioning", "11:45:00", "11:58:59"),
            event("ExternalProvisioning", "11:45:00", "11:59:59"),
        ];
        let words = read(&events);
        assert_eq!(words.failing_for, Duration::from_secs(900));
        assert_eq!(words.failure.as_deref(), Some("ProvisioningFailed at 11:59:00"));
        assert_eq!(words.failed_at, "2026-01-01T11:59:00Z".parse().ok());
    }

    #[test]
    fn an_attempt_under_way_is_not_a_failure() {
        let failed = event("ProvisioningFailed", "11:00:00", "11:58:00");
        let under_way = read(&[failed, event("Provisioning", "11:00:00", "11:59:00")]);
        assert_eq!(under_way, ProvisionerReport { is_there: true, ..ProvisionerReport::default() });
        assert_eq!(read(&[]), ProvisionerReport::default());
    }
}
