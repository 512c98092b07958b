//! Events, as both API groups write them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::metadata::{Metadata, metadata};
use super::{Text, null_as_default};

/// An Event: what was reported about which object, by whom, when. The fields of `events.k8s.io` are read too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Name and namespace.
    #[serde(deserialize_with = "metadata")]
    pub metadata: Metadata,
    /// The object that it is about.
    #[serde(default, alias = "regarding", deserialize_with = "null_as_default")]
    pub involved_object: EventObject,
    /// A word for what happened.
    #[serde(default, deserialize_with = "null_as_default")]
    pub reason: Text,
    /// The same in a sentence.
    #[serde(default, alias = "note", deserialize_with = "null_as_default")]
    pub message: Text,
    /// How often it happened.
    #[serde(default, alias = "deprecatedCount", deserialize_with = "null_as_default")]
    pub count: u32,
    /// When it happened first.
    #[serde(default, alias = "deprecatedFirstTimestamp")]
    pub first_timestamp: Option<Time>,
    /// When it happened last.
    #[serde(default, alias = "deprecatedLastTimestamp")]
    pub last_timestamp: Option<Time>,
    /// When it happened, where no series of it is counted.
    #[serde(default)]
    pub event_time: Option<Time>,
    /// Its repetitions.
    #[serde(default)]
    pub series: Option<EventSeries>,
    /// Who reported it.
    #[serde(default, alias = "reportingController", deserialize_with = "null_as_default")]
    pub reporting_component: Text,
    /// The same in older events.
    #[serde(default, alias = "deprecatedSource", deserialize_with = "null_as_default")]
    pub source: EventSource,
}

/// The object that an event is about.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventObject {
    /// Its kind.
    #[serde(default, deserialize_with = "null_as_default")]
    pub kind: Text,
    /// Its namespace; empty for objects of the whole cluster.
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespace: Text,
    /// Its name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: Text,
    /// Its UID.
    #[serde(default, deserialize_with = "null_as_default")]
    pub uid: Text,
}

/// Repetitions of an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSeries {
    /// How often.
    #[serde(default, deserialize_with = "null_as_default")]
    pub count: u32,
    /// When it happened last.
    #[serde(default)]
    pub last_observed_time: Option<Time>,
}

/// Who reported an older event.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventSource {
    /// The program.
    #[serde(default, deserialize_with = "null_as_default")]
    pub component: Text,
}

impl Event {
    /// When it was first and last seen.
    #[must_use]
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let at = self.event_time.as_ref().map(|time| time.0);
        let told = self.last_timestamp.as_ref().map(|time| time.0);
        let first = self.first_timestamp.as_ref().map(|time| time.0).or(at).or(told)?;
        let series = self.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        let last = series.or(told).or(at).unwrap_or(first);
        Some((first, last))
    }

    /// When it was last seen.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.span().map(|(_, last)| last)
    }

    /// How often it was seen.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.series.as_ref().map_or(self.count, |series| series.count).max(1)
    }

    /// Who reported it; empty where nobody is named.
    #[must_use]
    pub fn reporter(&self) -> &str {
        let newer = self.reporting_component.as_str();
        if newer.is_empty() { self.source.component.as_str() } else { newer }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Event;

    #[test]
    fn both_groups_are_read_alike() {
        let core: Event = serde_json::from_value(json!({
            "metadata": {"name": "a.1", "namespace": "n"}, "reason": "FailedMount", "message": "no", "count": 3,
            "involvedObject": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "u"},
            "firstTimestamp": "2026-01-01T10:00:00Z", "lastTimestamp": "2026-01-01T10:05:00Z", "eventTime": null,
            "source": {"component": "kubelet", "host": "node-a"}, "reportingComponent": "kubelet"}))
        .unwrap();
        let newer: Event = serde_json::from_value(json!({
            "metadata": {"name": "a.1", "namespace": "n"}, "reason": "FailedMount", "note": "no", "deprecatedCount": 3,
            "regarding": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "u"}, "eventTime": null,
            "deprecatedFirstTimestamp": "2026-01-01T10:00:00Z", "deprecatedLastTimestamp": "2026-01-01T10:05:00Z",
            "deprecatedSource": {"component": "kubelet"}, "reportingController": "kubelet"}))
        .unwrap();
        for event in [&core, &newer] {
            assert_eq!((event.involved_object.name.as_str(), event.message.as_str(), event.times()), ("a", "no", 3));
            assert_eq!((event.reporter(), event.span().is_some()), ("kubelet", true));
        }
        let single: Event = serde_json::from_value(json!({
            "metadata": {"name": "b"}, "regarding": {}, "eventTime": "2026-01-01T10:00:00.123456Z",
            "series": {"count": 4, "lastObservedTime": "2026-01-01T10:09:00.000001Z"}}))
        .unwrap();
        assert_eq!((single.times(), single.last().unwrap().to_string()), (4, "2026-01-01T10:09:00.000001Z".to_owned()));
    }
}
