//! Events, stored so that what is said again makes an old one count, and what is new is seen.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;
use tokio::sync::mpsc;

use super::api::{ApiError, within};

/// Different texts that are remembered, by 48 bytes each.
const REMEMBERED: usize = 4_096;
/// How long storing one may take. An event that comes later is of little use.
const DEADLINE: Duration = Duration::from_secs(5);
/// The API server takes a note of 1,024 bytes.
const NOTE: usize = 1_000;

/// An event to be stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
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
struct StoredEvent {
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
    stored: Mutex<HashMap<u64, StoredEvent>>,
    hashes: RandomState,
}

impl Recorder {
    /// For a controller of this name, one of whose processes is the instance.
    #[must_use]
    pub fn new(client: Client, controller: &'static str, action: &'static str, instance: String) -> Self {
        Self { client, controller, action, instance, stored: Mutex::default(), hashes: RandomState::new() }
    }

    /// Stores one; the API server has a few seconds to do so.
    ///
    /// # Errors
    /// When the API server does not take it, as in a namespace that is ending.
    pub async fn publish(&self, event: NewEvent) -> Result<(), ApiError> {
        let note = fit(&event.note).to_owned();
        let key = self.hashes.hash_one((event.warning, &event.reason, &note, &event.regarding.uid));
        let namespace = event.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let now = MicroTime(Timestamp::now());
        let again = self.lock().get(&key).copied();
        let Some(StoredEvent { at, count }) = again else {
            let at = now.0.as_nanosecond();
            let first = self.first(event, note, namespace, now);
            within(DEADLINE, events.create(&PostParams::default(), &first)).await?;
            self.remember(key, StoredEvent { at, count: 1 });
            return Ok(());
        };
        let (name, count) = (name_of(&event.regarding, at), count.saturating_add(1));
        let patch = json!({"series": EventSeries { count, last_observed_time: now }});
        let stored = within(DEADLINE, events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await;
        if stored.is_ok() {
            self.remember(key, StoredEvent { at, count });
        } else {
            // It has expired, most likely; the next time makes a new one.
            self.lock().remove(&key);
        }
        stored.map(drop)
    }

    fn remember(&self, key: u64, stored: StoredEvent) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, stored);
    }

    fn first(&self, event: NewEvent, note: String, namespace: String, now: MicroTime) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name_of(&event.regarding, now.0.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            action: Some(self.action.to_owned()),
            event_time: Some(now),
            note: Some(note),
            reason: Some(event.reason),
            regarding: Some(event.regarding),
            related: event.related,
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, StoredEvent>> {
        self.stored.lock()
    }
}

/// What became of an event that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// It is stored.
    Sent,
    /// The API server did not take it. A namespace that is ending takes none.
    Failed,
    /// Too many waited.
    Dropped,
}

/// Where events are handed in, so that nobody waits for them to be stored. Cloning gives another handle.
#[derive(Clone)]
pub struct EventQueue {
    outbox: mpsc::Sender<NewEvent>,
    count: Arc<dyn Fn(EventResult) + Send + Sync>,
}

impl EventQueue {
    /// Hands one in. It is dropped when too many wait: the state of objects says the same.
    pub fn push(&self, event: NewEvent) {
        if self.outbox.try_send(event).is_err() {
            (self.count)(EventResult::Dropped);
        }
    }
}

impl Recorder {
    /// A queue of so many events, and what stores them, so many at a time, until the last handle of the queue is gone.
    pub fn queue(
        self,
        waiting: usize,
        senders: usize,
        count: impl Fn(EventResult) + Send + Sync + 'static,
    ) -> (EventQueue, impl Future<Output = ()> + Send) {
        let (outbox, inbox) = mpsc::channel(waiting);
        let queue = EventQueue { outbox, count: Arc::new(count) };
        let (inbox, recorder) = (Arc::new(tokio::sync::Mutex::new(inbox)), Arc::new(self));
        let count = Arc::clone(&queue.count);
        let senders = (0..senders).map(move |_| {
            let (inbox, recorder, count) = (Arc::clone(&inbox), Arc::clone(&recorder), Arc::clone(&count));
            async move {
                loop {
                    let next = inbox.lock().await.recv().await;
                    let Some(event) = next else { return };
                    let reason = event.reason.clone();
                    match recorder.publish(event).await {
                        Ok(()) => count(EventResult::Sent),
                        Err(error) => {
                            tracing::debug!(%error, reason, "an event was not stored");
                            count(EventResult::Failed);
                        }
                    }
                }
            }
        });
        let senders = futures::future::join_all(senders);
        (queue, async move { drop(senders.await) })
    }
}

/// The longest name that an object may have.
const LONGEST_NAME: usize = 253;

/// As client-go names them: unique by the time. A name that would be too long with it is cut and ends in its hash, since the
/// API server would refuse the event, and what it says would never be heard.
fn name_of(regarding: &ObjectReference, at: i128) -> String {
    let (name, mut end) = (regarding.name.as_deref().unwrap_or_default(), format!(".{at:x}"));
    if name.len() + end.len() <= LONGEST_NAME {
        return format!("{name}{end}");
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    end = format!("-{:016x}{end}", hasher.finish());
    let cut: String = name.chars().take(LONGEST_NAME.saturating_sub(end.len())).collect();
    // A part of a name ends in a letter or a digit.
    format!("{}{end}", cut.trim_end_matches(['.', '-']))
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

    #[test]
    fn an_event_of_an_object_with_the_longest_name_has_a_name_that_fits() {
        let named = |name: &str| ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
        assert_eq!(name_of(&named("data"), 0x1234), "data.1234");
        let now = 1_795_000_000_000_000_000;
        for long in ["a".repeat(253), format!("{}-.{}", "a".repeat(234), "b".repeat(17))] {
            let name = name_of(&named(&long), now);
            assert!(name.len() <= 253 && name.ends_with(&format!(".{now:x}")), "{name}");
            assert!(crate::model::is_object_name(&name));
            let other = name_of(&named(&format!("{}z", &long[..252])), now);
            assert_ne!(name, other, "what was cut off tells two objects apart");
        }
    }
}
