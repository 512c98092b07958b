//! Events on the Pod and on its claim, each naming the other.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::metrics::RescueMetrics;
use super::plan::Report;
use crate::model::{Claim, Pod, reference};
use crate::runtime::events::{Recorder, Said};

/// Events that wait: two for each of a thousand Pods that are stuck at the start, twice over. More are dropped, since an
/// event that comes a minute late is of little use, and a claim's state says the same.
const WAITING: usize = 4096;
/// How many are sent at a time: half as many as writes, which matter more.
const SENDERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// Where events are handed in.
#[derive(Clone)]
pub(super) struct Events {
    letters: mpsc::Sender<Said>,
    metrics: RescueMetrics,
}

/// What sends them.
pub(super) struct Senders {
    letters: mpsc::Receiver<Said>,
    recorder: Arc<Recorder>,
    metrics: RescueMetrics,
}

/// A place to hand events in, and what sends them.
pub(super) fn events(client: Client, instance: String, metrics: RescueMetrics) -> (Events, Senders) {
    let (sender, letters) = mpsc::channel(WAITING);
    let recorder = Arc::new(Recorder::new(client, "latebind.dev/rescue", "Rescue", instance));
    (Events { letters: sender, metrics: metrics.clone() }, Senders { letters, recorder, metrics })
}

impl Events {
    /// Tells people at the claim, and at the Pod if there is one.
    pub fn tell(&self, claim: &Claim, pod: Option<&Pod>, report: &Report) {
        let claim = reference(claim);
        let pod = pod.map(reference);
        if let Some(pod) = &pod {
            self.hand_in(report, pod.clone(), Some(claim.clone()));
        }
        self.hand_in(report, claim, pod);
    }

    fn hand_in(&self, report: &Report, regarding: ObjectReference, related: Option<ObjectReference>) {
        let (warning, reason, note) = (report.warning, report.reason.clone(), report.note.clone());
        if self.letters.try_send(Said { warning, reason, note, regarding, related }).is_err() {
            self.metrics.event("dropped");
        }
    }
}

impl Senders {
    /// Sends until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let Self { letters, recorder, metrics } = self;
        let letters = Arc::new(Mutex::new(letters));
        let senders = (0..SENDERS).map(|_| {
            let (letters, recorder, metrics) = (Arc::clone(&letters), Arc::clone(&recorder), metrics.clone());
            async move {
                loop {
                    let letter = letters.lock().await.recv().await;
                    let Some(said) = letter else { return };
                    let reason = said.reason.clone();
                    match tokio::time::timeout(PATIENCE, recorder.publish(said)).await {
                        Ok(Ok(())) => metrics.event("sent"),
                        Ok(Err(error)) => {
                            // A namespace that is ending takes no events.
                            tracing::debug!(%error, reason, "an event was not stored");
                            metrics.event("failed");
                        }
                        Err(_) => metrics.event("failed"),
                    }
                }
            }
        });
        stop.run_until_cancelled(futures::future::join_all(senders)).await;
    }
}
