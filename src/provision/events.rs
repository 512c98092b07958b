//! Events on claims and volumes, written in the background so that nobody waits for them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc;

use super::api::in_time;

/// More than a burst of 1,000 claims has to say. What does not fit is left out: events are a courtesy.
const CAPACITY: usize = 2_048;

/// Takes events down.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// The sender, and the future that writes.
    pub(crate) fn start(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel::<(Event, ObjectReference)>(CAPACITY);
        let recorder = Recorder::new(client, Reporter { controller: "latebind".to_owned(), instance: None });
        let writing = async move {
            while let Some((event, about)) = receiver.recv().await {
                if let Err(error) = in_time(recorder.publish(&event, &about)).await {
                    tracing::debug!(%error, "an event was not written");
                }
            }
        };
        (Self(sender), writing)
    }

    /// A normal event.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        self.send(about, EventType::Normal, reason, note);
    }

    /// A warning.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        tracing::info!(kind = %K::kind(&()), name = about.name_any(), reason, note, "warning");
        self.send(about, EventType::Warning, reason, note);
    }

    fn send<K: Resource<DynamicType = ()>>(&self, about: &K, type_: EventType, reason: &str, note: &str) {
        // The API's own limit is 1,024 bytes.
        let note = note.chars().take(900).collect();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Provisioning".to_owned(),
            secondary: None,
        };
        if self.0.try_send((event, about.object_ref(&()))).is_err() {
            tracing::debug!(reason, "too many events at once, this one is left out");
        }
    }
}
