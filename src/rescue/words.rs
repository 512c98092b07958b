//! What a provisioner last said about a claim, read from its events.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

const FAILED: &str = "ProvisioningFailed";
const SUCCEEDED: &str = "ProvisioningSucceeded";
const BEGAN: &str = "Provisioning";

/// What a provisioner last said about a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Its last word, if that is that it failed.
    pub failure: Option<String>,
    /// For how long it has failed without success in between; zero where it has not.
    pub failing_for: Duration,
}

impl Words {
    /// Reads the events of one claim.
    #[must_use]
    pub fn read(events: &[Event], now: Timestamp) -> Self {
        let mut said: Vec<(&str, Timestamp, Timestamp, &Event)> = events
            .iter()
            .filter_map(|event| {
                let reason = event.reason.as_deref().filter(|reason| [FAILED, SUCCEEDED, BEGAN].contains(reason))?;
                let (first, last) = span(event)?;
                Some((reason, first, last, event))
            })
            .collect();
        said.sort_by_key(|(_, _, last, _)| *last);
        let Some((FAILED, _, _, last)) = said.last() else { return Self::default() };
        let success = said.iter().rev().find(|(reason, ..)| *reason == SUCCEEDED).map(|(_, _, last, _)| *last);
        let failures = said.iter().filter(|(reason, ..)| *reason == FAILED);
        let first =
            failures.map(|(_, first, ..)| *first).filter(|first| success.is_none_or(|success| *first > success));
        let failing_for = first.min().map_or(Duration::ZERO, |first| {
            // Clocks may disagree; a failure in the future has not lasted.
            Duration::try_from(now.duration_since(first)).unwrap_or_default()
        });
        Self { failure: Some(last.message.clone().unwrap_or_default()), failing_for }
    }
}

/// When an event was first and last seen.
fn span(event: &Event) -> Option<(Timestamp, Timestamp)> {
    let at = event.event_time.as_ref().map(|time| time.0);
    let first = event.first_timestamp.as_ref().map(|time| time.0).or(at)?;
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = series.or(event.last_timestamp.as_ref().map(|time| time.0)).or(at).unwrap_or(first);
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Event;
    use serde_json::json;

    use super::Words;

    fn event(reason: &str, first: &str, last: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {}, "reason": reason, "message": format!("{reason} at {last}"),
            "firstTimestamp": format!("2026-01-01T{first}Z"), "lastTimestamp": format!("2026-01-01T{last}Z"),
        }))
        .unwrap()
    }

    fn read(events: &[Event]) -> Words {
        Words::read(events, "2026-01-01T12:00:00Z".parse().unwrap())
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
    }

    #[test]
    fn an_attempt_under_way_is_not_a_failure() {
        let failed = event("ProvisioningFailed", "11:00:00", "11:58:00");
        assert_eq!(read(&[failed, event("Provisioning", "11:00:00", "11:59:00")]), Words::default());
        assert_eq!(read(&[]), Words::default());
    }
}
