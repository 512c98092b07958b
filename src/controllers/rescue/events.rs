//! Events on the Pod and on its claim, each naming the other.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

use super::metrics::RescueMetrics;
use super::plan::Report;
use crate::kubernetes::events::{EventQueue, EventResult, NewEvent, Recorder};
use crate::model::{Claim, Pod, reference};

/// Events that wait: two for each of a thousand Pods that are stuck at the start, twice over. More are dropped, since an
/// event that comes a minute late is of little use, and a claim's state says the same.
const WAITING: usize = 4096;
/// How many are sent at a time: half as many as writes, which matter more.
const SENDERS: usize = 4;

/// Where events are handed in.
#[derive(Clone)]
pub(super) struct Events(EventQueue);

impl Events {
    /// A place to hand events in, and what sends them.
    pub fn new(client: Client, instance: String, metrics: RescueMetrics) -> (Self, impl Future<Output = ()> + Send) {
        let recorder = Recorder::new(client, "latebind.dev/rescue", "Rescue", instance);
        let (queue, senders) = recorder.queue(WAITING, SENDERS, move |result| {
            metrics.event(match result {
                EventResult::Sent => "sent",
                EventResult::Failed => "failed",
                EventResult::Dropped => "dropped",
            });
        });
        (Self(queue), senders)
    }

    /// Reports to people at the claim, and at the Pod if there is one.
    pub fn report(&self, claim: &Claim, pod: Option<&Pod>, report: &Report) {
        let claim = reference(claim);
        let pod = pod.map(reference);
        if let Some(pod) = &pod {
            self.push(report, pod.clone(), Some(claim.clone()));
        }
        self.push(report, claim, pod);
    }

    fn push(&self, report: &Report, regarding: ObjectReference, related: Option<ObjectReference>) {
        let (warning, reason, note) = (report.warning, report.reason.clone(), report.note.clone());
        self.0.push(NewEvent { warning, reason, note, regarding, related });
    }
}
