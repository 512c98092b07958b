//! The loop: looks at volumes whose node has come or gone, and at those that no node reaches while their time runs. It decides
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::LostNodesMetrics;
use super::timers::{Observed, TICK, Timers};
use super::writer::{Unbound, Writer};
use crate::binding::{ClusterView, Lookup};
use crate::crd::LostNodePolicy;
use crate::drain::lost::{LostClaim, LostStep, Patience, Reachability, Remake, decide, reachability};
use crate::drain::policy::{ChosenPolicy, policy_of};
use crate::facts::live::{Change, LiveCluster, Observer, replicas_beside};
use crate::kubernetes::api::ApiError;
use crate::kubernetes::controller::{Controller, Follower, Reconciler, Turn};
use crate::kubernetes::events::{EventQueue, EventResult, NewEvent, Recorder};
use crate::kubernetes::lease::Leadership;
use crate::model::selector::place_labels;
use crate::model::{
    Claim, LOST_SECONDS, Labels, Node, OtherReplicas, Pod, REMAKE_CLAIM, Text, Volume, ordinal, reference,
};
use crate::policy::{Reach, RescuePolicy};
use crate::runtime::queue::Queue;

/// Volumes that are looked at at a time: letting claims go is no hurry.
const WORKERS: usize = 2;
/// How often everything is looked at again, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(300);
/// When a volume is looked at again of which something is not known, or for which another Pod is waited.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest time that one step may take.
const STEP: Duration = Duration::from_secs(15);
/// Volumes of one node that are looked at when it comes or goes; the resync sees to the others.
const MOST_VOLUMES: usize = 5000;
/// Events that wait to be stored. More are dropped: the state of claim and volume says the same.
const WAITING: usize = 1024;

/// How the loop is set up.
pub struct LostNodesOptions {
    /// The API server.
    pub client: Client,
    /// What is known of the cluster; Pods must be watched.
    pub live: LiveCluster,
    /// Claims may be let go, where a policy says so.
    pub may_unbind: bool,
    /// How patient it is.
    pub patience: Patience,
    /// How far it goes where: as the rescue loop does, by modes, exemptions and labels.
    pub policy: RescuePolicy,
    /// Leave to write; absent: write nothing.
    pub leadership: Option<Leadership>,
    /// Which process this is, in events.
    pub instance: String,
}

/// The loop that sees to claims whose node is gone.
pub struct LostNodes {
    loop_: Arc<Loop>,
    senders: futures::future::BoxFuture<'static, ()>,
}

struct Loop {
    options: LostNodesOptions,
    queue: Arc<Queue<String>>,
    writer: Writer,
    timers: Mutex<Timers>,
    /// What was told about each claim last, by volume: as many as no node reaches.
    told: Mutex<HashMap<String, String>>,
    events: EventQueue,
    metrics: LostNodesMetrics,
}

impl LostNodes {
    /// A loop that does nothing until [`Self::run`].
    #[must_use]
    pub fn new(options: LostNodesOptions, registry: &mut Registry) -> Self {
        let metrics = LostNodesMetrics::new();
        metrics.register(registry);
        let recorder = Recorder::new(
            options.client.clone(),
            "latebind.dev/lost-nodes",
            "HandleLostNode",
            options.instance.clone(),
        );
        let dropped = metrics.events_dropped.clone();
        let (events, senders) = recorder.queue(WAITING, 1, move |result| {
            if result != EventResult::Sent {
                dropped.inc();
            }
        });
        let writer = Writer::new(options.client.clone());
        let loop_ = Loop {
            options,
            queue: Arc::default(),
            writer,
            timers: Mutex::default(),
            told: Mutex::default(),
            events,
            metrics,
        };
        Self { loop_: Arc::new(loop_), senders: Box::pin(senders) }
    }

    /// Who is to hear of what the watches bring.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let observer: Arc<Loop> = Arc::clone(&self.loop_);
        observer
    }

    /// Works until cancelled; a step under way is finished. The watches must run beside it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { loop_, senders } = self;
        if stop.run_until_cancelled(loop_.options.live.synced()).await.is_none() {
            return;
        }
        let controller = Controller {
            name: "lost nodes",
            leadership: loop_.options.leadership.clone(),
            queue: Arc::clone(&loop_.queue),
            reconciler: loop_,
            workers: WORKERS,
            // Whoever begins to lead has looked for as long as the one before it.
            follower: Follower::Looks,
            resync: RESYNC,
        };
        tokio::select! {
            () = controller.run(stop) => {}
            () = senders => {}
        }
    }
}

impl Observer for Loop {
    fn changed(&self, change: Change) {
        match change {
            Change::Node(change) => {
                fn labels(node: Option<&Arc<Node>>) -> Option<&Labels> {
                    node?.metadata.labels.as_ref()
                }
                let (before, after) = (labels(change.before.as_ref()), labels(change.after.as_ref()));
                if before == after {
                    return;
                }
                for (key, value) in before.into_iter().chain(after).flat_map(Labels::iter) {
                    let found = self.options.live.volumes_asking_for(key, value, MOST_VOLUMES).found();
                    for volume in found.iter().flatten() {
                        // By the next look it may be gone again.
                        if after.is_some() {
                            self.timers.lock().restart(volume.name(), Instant::now());
                        }
                        self.queue.now(volume.name().to_owned());
                    }
                }
            }
            Change::Volume(change) => {
                let volume = change.after.as_ref().or(change.before.as_ref());
                if let Some(volume) = volume.filter(|volume| !place_labels(volume).is_empty()) {
                    self.queue.now(volume.name().to_owned());
                }
            }
            // A Pod that waits is what a claim is let go for.
            Change::Pod(change) if change.after.is_some() => {
                if let Some(pod) = &change.after {
                    self.looked_at_for(pod);
                }
            }
            _ => {}
        }
    }
}

impl Reconciler for Loop {
    type Key = String;
    type Error = ApiError;

    async fn reconcile(&self, name: &String, turn: Turn) -> Result<Option<Duration>, ApiError> {
        let volume = match self.options.live.volume(name) {
            Lookup::Found(volume) => volume,
            Lookup::Absent => return Ok(self.forget(name)),
            Lookup::Unknown => return Ok(Some(AGAIN)),
        };
        let deadline = Instant::now() + STEP;
        let deadline = turn.permit.map_or(deadline, |permit| permit.end_before.min(deadline));
        let may_write = turn.permit.is_some();
        if !volume.is_bound() {
            self.forget(name);
            if volume.metadata.annotation(REMAKE_CLAIM).is_some() && may_write {
                return self.remake(&volume, deadline).await;
            }
            return Ok(None);
        }
        match reachability(&volume, &self.options.live) {
            Reachability::Reached => {
                self.forget(name);
                let is_noted = [LOST_SECONDS, REMAKE_CLAIM].iter().any(|key| volume.metadata.annotation(key).is_some());
                if is_noted && may_write {
                    tracing::info!(volume = %name, "its node is back");
                    self.writer.clear(&volume, true, deadline).await?;
                }
                Ok(None)
            }
            Reachability::NotKnown => {
                self.timers.lock().pause(name, Instant::now());
                Ok(Some(AGAIN))
            }
            Reachability::Lost(place) => Box::pin(self.lost(&volume, &place, may_write, deadline)).await,
        }
    }

    fn enqueue_all(&self) {
        for volume in self.options.live.volumes().found().into_iter().flatten() {
            if !place_labels(&volume).is_empty() {
                self.queue.now(volume.name().to_owned());
            }
        }
    }
}

impl Loop {
    fn looked_at_for(&self, pod: &Pod) {
        for claim in pod.claim_names() {
            let Lookup::Found(claim) = self.options.live.claim(pod.namespace(), &claim) else { continue };
            let Some(volume) = claim.volume_name() else { continue };
            // Few Pods wait for a volume that no node reaches; of the others nothing is to be done.
            if self.timers.lock().has(volume) {
                self.queue.now(volume.to_owned());
            }
        }
    }

    fn forget(&self, volume: &str) -> Option<Duration> {
        self.told.lock().remove(volume);
        // Of nearly all volumes nothing was counted.
        if !self.timers.lock().forget(volume) {
            return None;
        }
        let were_too_many = self.metrics.held.get() > 0;
        let are_too_many = self.count();
        // What was held back goes on as soon as it may.
        if were_too_many && !are_too_many {
            for waiting in self.timers.lock().names() {
                self.queue.now(waiting);
            }
        }
        None
    }

    /// Counts what is gone; true where that is too much.
    fn count(&self) -> bool {
        let (places, volumes) = {
            let timers = self.timers.lock();
            (timers.places(), timers.volumes())
        };
        let nodes = self.options.live.node_count();
        let too_many = self.options.patience.is_too_many(places, nodes);
        let as_gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.places.set(as_gauge(places));
        self.metrics.claims.set(as_gauge(volumes));
        self.metrics.held.set(i64::from(too_many));
        too_many
    }

    async fn remake(&self, volume: &Volume, deadline: Instant) -> Result<Option<Duration>, ApiError> {
        if !self.writer.remake(volume, deadline).await? {
            return Ok(Some(Duration::from_secs(1)));
        }
        self.writer.clear(volume, false, deadline).await?;
        Ok(None)
    }

    async fn lost(
        &self,
        volume: &Arc<Volume>,
        place: &[(String, String)],
        may_write: bool,
        deadline: Instant,
    ) -> Result<Option<Duration>, ApiError> {
        let LostNodesOptions { live, patience, policy, .. } = &self.options;
        let text = |text: Option<&Option<Text>>| Text::or_empty(text.and_then(Option::as_ref));
        let reference = volume.spec.claim_ref.as_ref();
        let (namespace, name) = (text(reference.map(|it| &it.namespace)), text(reference.map(|it| &it.name)));
        let Lookup::Found(claim) = live.claim(&namespace, &name) else { return Ok(Some(AGAIN)) };
        if !volume.is_claimed_by(&claim) || claim.volume_name() != Some(volume.name()) {
            return Ok(Some(AGAIN));
        }
        // It is going, as it was ordered, by us or by somebody else.
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(Some(AGAIN));
        }
        let noted =
            volume.metadata.annotation(LOST_SECONDS).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let observed = self.timers.lock().observe(volume.name(), place, noted, Instant::now());
        let too_many = self.count();
        let chosen: ChosenPolicy<LostNodePolicy> = policy_of(&claim, volume, live);
        let in_namespace = live.namespace(&namespace);
        let Some(reach) = policy.reach(&namespace, &in_namespace) else { return Ok(Some(AGAIN)) };
        let is_ending = in_namespace.found().is_some_and(|it| it.metadata.deletion_timestamp.is_some());
        if reach < Reach::Tell || is_ending {
            return Ok(Some(TICK));
        }
        let Lookup::Found(waiting) = live.consumers(&namespace, &name) else { return Ok(Some(AGAIN)) };
        let facts = LostClaim {
            claim: &claim,
            chosen: &chosen,
            forbidden: self.forbidden(reach),
            observed: observed.total,
            patience: *patience,
            too_many,
            waiting: &waiting,
        };
        let step = decide(&facts);
        // Once the time is over there is nothing to be kept; and the volume is to stay as it was decided about.
        let is_running = self.forbidden(reach).is_none() && chosen.policy == LostNodePolicy::Unbind;
        if may_write && is_running && observed.is_due && !matches!(step, LostStep::Unbind { .. }) {
            self.writer.note(volume, observed.total, deadline).await?;
            self.timers.lock().wrote(volume.name(), observed.total);
        }
        // What comes of letting it go is told then.
        if may_write && !matches!(step, LostStep::Unbind { .. }) {
            self.tell(&claim, volume, place, &step, &chosen);
        }
        // What was written for a step that is not taken any more.
        let is_marked = volume.metadata.annotation(REMAKE_CLAIM).is_some();
        if is_marked && may_write && !matches!(step, LostStep::Unbind { .. }) {
            self.writer.clear(volume, true, deadline).await?;
        }
        match step {
            LostStep::Explain(_) => Ok(Some(TICK)),
            LostStep::Wait(left) => Ok(Some(left.min(TICK))),
            LostStep::Unbind { remake, pod } if may_write => {
                Box::pin(self.unbind((&claim, volume), place, (remake, &pod), observed, deadline)).await
            }
            LostStep::Unbind { .. } => Ok(Some(AGAIN)),
        }
    }

    /// Why no claim is let go where the loop may go so far.
    fn forbidden(&self, reach: Reach) -> Option<&'static str> {
        match () {
            () if !self.options.may_unbind => Some("the controller was not started with --lost-nodes=unbind"),
            () if reach < Reach::Write => Some("mode warn only tells"),
            () => None,
        }
    }

    async fn unbind(
        &self,
        (claim, volume): (&Claim, &Arc<Volume>),
        place: &[(String, String)],
        (remake, pod): (Remake, &str),
        observed: Observed,
        deadline: Instant,
    ) -> Result<Option<Duration>, ApiError> {
        // How many nodes are gone is known once everything has been looked at.
        let settled = TICK.min(self.options.patience.grace);
        if let Some(left) = settled.checked_sub(observed.by_this_process).filter(|left| !left.is_zero()) {
            return Ok(Some(left));
        }
        if remake == Remake::StatefulSet && !self.is_its_turn(claim.namespace(), pod, deadline).await {
            let why = "another replica of its StatefulSet comes first, is starting, or is not known";
            self.say(claim, volume, format!("its node is gone, and it is not let go yet: {why}"));
            return Ok(Some(AGAIN));
        }
        let unbound = Box::pin(self.writer.unbind((claim, volume), place, deadline)).await;
        let result = match &unbound {
            Ok(Unbound::Done) => "done",
            Ok(Unbound::Disagreed | Unbound::Kept(_)) => "disagreed",
            Err(_) => "failed",
        };
        self.metrics.unbound(result);
        match unbound? {
            Unbound::Done => {
                self.metrics.delay.observe(observed.total.as_secs_f64());
                tracing::info!(volume = %volume.name(), namespace = %claim.namespace(), claim = %claim.name(),
                    "a claim was let go, since its node is gone; its volume is kept");
                let note = format!(
                    "let go, since no node reaches volume {} any more: it is made anew, and Pods start with an empty volume. The volume \
                     is kept (Retain)",
                    volume.name()
                );
                self.push(claim, volume, "ClaimUnbound", note);
                Ok(Some(Duration::from_secs(1)))
            }
            Unbound::Disagreed => Ok(Some(TICK)),
            Unbound::Kept(why) => {
                self.say(claim, volume, format!("its node is gone, and it is not let go: {why}"));
                Ok(Some(TICK))
            }
        }
    }

    /// True where no other replica of the Pod's StatefulSet is starting just now, and none before it waits for the same.
    async fn is_its_turn(&self, namespace: &str, name: &str, deadline: Instant) -> bool {
        let live = &self.options.live;
        let beside = replicas_beside(&self.options.client, namespace, name, deadline).await;
        let OtherReplicas::Awaited { awaited, templates, .. } = beside else {
            return matches!(beside, OtherReplicas::Ready { .. });
        };
        let is_lost = |other: &str| {
            let of_template = |template: &String| {
                let claim = live.claim(namespace, &format!("{template}-{other}")).found()?;
                let volume = live.volume(claim.volume_name()?).found()?;
                Some(matches!(reachability(&volume, live), Reachability::Lost(_)))
            };
            templates.iter().any(|template| of_template(template) == Some(true))
        };
        // They go in the order of their names, so that two are never let go at one time.
        awaited.iter().all(|other| is_lost(other) && ordinal(other) > ordinal(name))
    }

    /// Tells people at the claim what is done, once.
    fn tell(
        &self,
        claim: &Claim,
        volume: &Volume,
        place: &[(String, String)],
        step: &LostStep,
        chosen: &ChosenPolicy<LostNodePolicy>,
    ) {
        let node = place.first().map(|(_, value)| value.as_str()).unwrap_or_default();
        let then = match step {
            LostStep::Explain(why) => format!("Nothing is done, since {why}"),
            LostStep::Wait(_) | LostStep::Unbind { .. } => {
                let by = chosen.by.as_deref().unwrap_or_default();
                let grace = self.options.patience.grace.as_secs();
                format!("By the policy of {by} it is let go once that has been so for {grace} s, and its volume kept")
            }
        };
        let wrong = chosen.unread.first().map(|wrong| format!(". {wrong}")).unwrap_or_default();
        let text = format!("no node reaches its volume {}: {node} does not exist. {then}{wrong}", volume.name());
        self.say(claim, volume, text);
    }

    fn say(&self, claim: &Claim, volume: &Volume, note: String) {
        let before = self.told.lock().insert(volume.name().to_owned(), note.clone());
        if before.as_ref() != Some(&note) {
            self.push(claim, volume, "NodeLost", note);
        }
    }

    fn push(&self, claim: &Claim, volume: &Volume, reason: &str, note: String) {
        if self.options.leadership.is_none() {
            return tracing::info!(volume = %volume.name(), reason, note, "would tell");
        }
        let (regarding, related) = (reference(claim), Some(reference(volume)));
        self.events.push(NewEvent { warning: true, reason: reason.to_owned(), note, regarding, related });
    }
}
