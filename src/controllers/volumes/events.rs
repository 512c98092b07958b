//! Events on claims and volumes, written in the background so that nobody waits for them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use crate::kubernetes::events::{EventQueue, EventResult, NewEvent, Recorder};

/// More than a burst of 1,000 claims has to say. What does not fit is left out: events are a courtesy.
const CAPACITY: usize = 2_048;

/// Takes events down.
#[derive(Clone)]
pub(crate) struct Events(EventQueue);

impl Events {
    /// The sender, and the future that writes.
    pub(crate) fn start(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
        let instance = if instance.is_empty() { "latebind".to_owned() } else { instance };
        let recorder = Recorder::new(client, "latebind.dev/provisioner", "Provisioning", instance);
        let (queue, writing) = recorder.queue(CAPACITY, 1, |result| {
            if result == EventResult::Dropped {
                tracing::debug!("too many events at once, this one is left out");
            }
        });
        (Self(queue), writing)
    }

    /// A normal event.
    pub(crate) fn normal(&self, about: ObjectReference, reason: &str, note: &str) {
        self.send(about, false, reason, note);
    }

    /// A warning.
    pub(crate) fn warning(&self, about: ObjectReference, reason: &str, note: &str) {
        tracing::info!(kind = about.kind, name = about.name, reason, note, "warning");
        self.send(about, true, reason, note);
    }

    fn send(&self, about: ObjectReference, warning: bool, reason: &str, note: &str) {
        let (reason, note) = (reason.to_owned(), note.to_owned());
        self.0.push(NewEvent { warning, reason, note, regarding: about, related: None });
    }
}
