//! Events, stored so that what is said again makes an old one count, and what is new is seen.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Different texts that are remembered. At most 1 KiB each, so 4 MiB.
const REMEMBERED: usize = 4_096;
/// The API server takes a note of 1,024 bytes.
const NOTE: usize = 1_000;

/// What is said, and about what.
#[derive(Clone, Debug)]
pub struct Said {
    /// It needs a person.
    pub warning: bool,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people; cut to what an event holds.
    pub note: String,
    /// The object that it is about.
    pub regarding: ObjectReference,
    /// Another object that has to do with it.
    pub related: Option<ObjectReference>,
}

/// Another note is another event: the last cause must not hide behind the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    warning: bool,
    reason: String,
    note: String,
    uid: String,
}

/// Stores events.
pub struct Recorder {
    client: Client,
    controller: &'static str,
    action: &'static str,
    instance: String,
    told: Mutex<HashMap<Key, (String, i32)>>,
}

impl Recorder {
    /// For a controller of this name, one of whose processes is the instance.
    #[must_use]
    pub fn new(client: Client, controller: &'static str, action: &'static str, instance: String) -> Self {
        Self { client, controller, action, instance, told: Mutex::default() }
    }

    /// Stores one. The caller sets the deadline.
    ///
    /// # Errors
    /// When the API server does not take it, as in a namespace that is ending.
    pub async fn publish(&self, said: Said) -> kube::Result<()> {
        let note = fit(&said.note).to_owned();
        let uid = said.regarding.uid.clone().unwrap_or_default();
        let key = Key { warning: said.warning, reason: said.reason.clone(), note: note.clone(), uid };
        let namespace = said.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = MicroTime(Timestamp::now());
        let again = self.lock().get(&key).map(|(name, count)| (name.clone(), count.saturating_add(1)));
        let Some((name, count)) = again else {
            let event = self.first(said, note, namespace, now);
            let name = event.metadata.name.clone().unwrap_or_default();
            events.create(&PostParams::default(), &event).await?;
            self.remember(key, name, 1);
            return Ok(());
        };
        let patch = json!({"series": EventSeries { count, last_observed_time: now }});
        let stored = events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if stored.is_ok() {
            self.remember(key, name, count);
        } else {
            // It has expired, most likely; the next time makes a new one.
            self.lock().remove(&key);
        }
        stored.map(drop)
    }

    fn remember(&self, key: Key, name: String, count: i32) {
        let mut told = self.lock();
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(key, (name, count));
    }

    fn first(&self, said: Said, note: String, namespace: String, now: MicroTime) -> Event {
        let name = said.regarding.name.clone().unwrap_or_default();
        Event {
            // As client-go names them: unique by the time.
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            action: Some(self.action.to_owned()),
            event_time: Some(now),
            note: Some(note),
            reason: Some(said.reason),
            regarding: Some(said.regarding),
            related: said.related,
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if said.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (String, i32)>> {
        // No code that holds the lock can leave an entry half-written.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of the text as an event holds.
fn fit(text: &str) -> &str {
    let end = (0..=NOTE.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_letters() {
        assert_eq!(fit("short"), "short");
        let long = "ä".repeat(700);
        assert_eq!((fit(&long).len(), fit(&long).chars().count()), (1000, 500));
        let odd = format!("a{long}");
        assert_eq!(fit(&odd).len(), 999);
    }
}
