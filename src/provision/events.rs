//! Events on claims and volumes, written in the background so that nobody waits for them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use super::api::{ApiError, in_time};

/// More than a burst of 1,000 claims has to say. What does not fit is left out: events are a courtesy.
const CAPACITY: usize = 2_048;
/// Different texts that are remembered, so that saying one again makes no new object.
const REMEMBERED: usize = 4_096;
/// The API's own limit of a note is 1,024 bytes; a letter may take four.
const NOTE: usize = 1_000;
const CONTROLLER: &str = "latebind.dev/provisioner";

/// What is said, and about what. Another note is another event: the last cause must not hide behind the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Said {
    warning: bool,
    reason: String,
    note: String,
    uid: String,
}

/// Takes events down.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<(Said, ObjectReference)>);

impl Events {
    /// The sender, and the future that writes.
    pub(crate) fn start(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel(CAPACITY);
        let instance = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
        let instance = if instance.is_empty() { "latebind".to_owned() } else { instance };
        let writing = async move {
            let mut told: HashMap<Said, (String, i32)> = HashMap::new();
            while let Some((said, about)) = receiver.recv().await {
                if told.len() >= REMEMBERED {
                    told.clear();
                }
                if let Err(error) = write(&client, &instance, &mut told, said, about).await {
                    tracing::debug!(%error, "an event was not written");
                }
            }
        };
        (Self(sender), writing)
    }

    /// A normal event.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        self.send(about, false, reason, note);
    }

    /// A warning.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, note: &str) {
        tracing::info!(kind = %K::kind(&()), name = about.name_any(), reason, note, "warning");
        self.send(about, true, reason, note);
    }

    fn send<K: Resource<DynamicType = ()>>(&self, about: &K, warning: bool, reason: &str, note: &str) {
        let end = (0..=NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
        let uid = about.meta().uid.clone().unwrap_or_default();
        let said = Said { warning, reason: reason.to_owned(), note: note[..end].to_owned(), uid };
        if self.0.try_send((said, about.object_ref(&()))).is_err() {
            tracing::debug!(reason, "too many events at once, this one is left out");
        }
    }
}

async fn write(
    client: &Client,
    instance: &str,
    told: &mut HashMap<Said, (String, i32)>,
    said: Said,
    about: ObjectReference,
) -> Result<(), ApiError> {
    let now = MicroTime(Timestamp::now());
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let mut entry = match told.entry(said) {
        Entry::Occupied(entry) => entry,
        Entry::Vacant(entry) => {
            let event = first(entry.key(), instance, namespace, about, now);
            let name = event.name_any();
            in_time(events.create(&PostParams::default(), &event)).await?;
            entry.insert((name, 1));
            return Ok(());
        }
    };
    let (name, count) = entry.get_mut();
    *count = count.saturating_add(1);
    let series = EventSeries { count: *count, last_observed_time: now };
    let patch = json!({ "series": series });
    let written = in_time(events.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await;
    if written.is_err() {
        // It has expired, most likely; the next time makes a new one.
        entry.remove();
    }
    written.map(drop)
}

fn first(said: &Said, instance: &str, namespace: String, about: ObjectReference, now: MicroTime) -> Event {
    let name = about.name.clone().unwrap_or_default();
    Event {
        // As client-go names them: unique by the time.
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        action: Some("Provisioning".to_owned()),
        event_time: Some(now),
        note: Some(said.note.clone()),
        reason: Some(said.reason.clone()),
        regarding: Some(about),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}
