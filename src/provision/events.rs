//! Events on claims and volumes, written in the background so that nobody waits for them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::mpsc;

use crate::runtime::api::in_time;
use crate::runtime::events::{Recorder, Said};

/// More than a burst of 1,000 claims has to say. What does not fit is left out: events are a courtesy.
const CAPACITY: usize = 2_048;

/// Takes events down.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Said>);

impl Events {
    /// The sender, and the future that writes.
    pub(crate) fn start(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel(CAPACITY);
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
        let instance = if instance.is_empty() { "latebind".to_owned() } else { instance };
        let recorder = Recorder::new(client, "latebind.dev/provisioner", "Provisioning", instance);
        let writing = async move {
            while let Some(said) = receiver.recv().await {
                if let Err(error) = in_time(recorder.publish(said)).await {
                    tracing::debug!(%error, "an event was not written");
                }
            }
        };
        (Self(sender), writing)
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
        let said = Said { warning, reason, note, regarding: about, related: None };
        if self.0.try_send(said).is_err() {
            tracing::debug!("too many events at once, this one is left out");
        }
    }
}
