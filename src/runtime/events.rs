//! Events, stored so that what is said again makes an old one count, and what is new is seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Different texts that are remembered, by 48 bytes each.
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

/// An event that was stored.
#[derive(Clone, Copy)]
struct Told {
    /// When, in nanoseconds: a part of its name.
    at: i128,
    count: i32,
}

/// Stores events.
pub struct Recorder {
    client: Client,
    controller: &'static str,
    action: &'static str,
    instance: String,
    /// By a hash of what was said. Another note is another event: the last cause must not hide behind the first.
    told: Mutex<HashMap<u64, Told>>,
    hashes: RandomState,
}

impl Recorder {
    /// For a controller of this name, one of whose processes is the instance.
    #[must_use]
    pub fn new(client: Client, controller: &'static str, action: &'static str, instance: String) -> Self {
        Self { client, controller, action, instance, told: Mutex::default(), hashes: RandomState::new() }
    }

    /// Stores one. The caller sets the deadline.
    ///
    /// # Errors
    /// When the API server does not take it, as in a namespace that is ending.
    pub async fn publish(&self, said: Said) -> kube::Result<()> {
        let note = fit(&said.note).to_owned();
        let key = self.hashes.hash_one((said.warning, &said.reason, &note, &said.regarding.uid));
        let namespace = said.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = MicroTime(Timestamp::now());
        let again = self.lock().get(&key).copied();
        let Some(Told { at, count }) = again else {
            let at = now.0.as_nanosecond();
            events.create(&PostParams::default(), &self.first(said, note, namespace, now)).await?;
            self.remember(key, Told { at, count: 1 });
            return Ok(());
        };
        let (name, count) = (name_of(&said.regarding, at), count.saturating_add(1));
        let patch = json!({"series": EventSeries { count, last_observed_time: now }});
        let stored = events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if stored.is_ok() {
            self.remember(key, Told { at, count });
        } else {
            // It has expired, most likely; the next time makes a new one.
            self.lock().remove(&key);
        }
        stored.map(drop)
    }

    fn remember(&self, key: u64, stored: Told) {
        let mut told = self.lock();
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(key, stored);
    }

    fn first(&self, said: Said, note: String, namespace: String, now: MicroTime) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name_of(&said.regarding, now.0.as_nanosecond())),
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Told>> {
        // No code that holds the lock can leave an entry half-written.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As client-go names them: unique by the time.
fn name_of(regarding: &ObjectReference, at: i128) -> String {
    format!("{}.{at:x}", regarding.name.as_deref().unwrap_or_default())
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
