//! The authority and the server certificate in two Secrets, and the authority in `caBundle` of our own configurations.
//!
//! Any number of replicas may run this: every write names the version of what it was decided on, so that of two only one
//! succeeds, and the other reads again. Configurations are read before the Secret, and written with the version that was
//! read then: what a slower replica would publish from an older Secret meets a newer configuration and is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, ResourceExt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::keep::{CERTIFICATE_KEY, PRIVATE_KEY};
use super::renewal::{Lifetimes, Material, Step};
use super::{AuthorityError, PemPair};
use crate::kubernetes::api::{ApiError, Failure, within};
use crate::kubernetes::controller::{Controller, Follower, ReconcileError, Reconciler, Turn};
use crate::kubernetes::lease::Leadership;
use crate::runtime::queue::Queue;

/// One call of the API server may take this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a turn is taken whatever the last one asked for.
const RESYNC: Duration = Duration::from_secs(300);
/// Steps and conflicts of one turn: a whole rotation has six steps, and a conflict means that another replica is at it.
const STEPS: usize = 16;
/// Annotation of the authority's Secret: since when the next authority is published.
const NEXT_PUBLISHED: &str = "latebind.dev/next-published-at";
/// Annotation of the authority's Secret: since when the current authority signs.
const PROMOTED: &str = "latebind.dev/promoted-at";
/// Annotation of the authority's Secret: with value `authority`, an order to change it.
pub const ROTATE: &str = "latebind.dev/rotate";
const FIELD_MANAGER: &str = "latebind-certificates";

/// Where things are stored.
#[derive(Clone, Debug)]
pub struct CertificateObjects {
    /// Namespace of the Secrets.
    pub namespace: String,
    /// Secret of the authority and its key, which the webhook cannot read.
    pub authority: String,
    /// Secret of the server certificate, which it can.
    pub serving: String,
    /// Name of both webhook configurations.
    pub configuration: String,
}

/// Why a turn did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// A Secret does not exist: who may write one by name may not create it.
    #[error("Secret {0:?} does not exist; apply the install manifest again")]
    Missing(String),
    /// The API server did not do what it was asked.
    #[error("{what}: {source}")]
    Api {
        /// What it was asked.
        what: String,
        /// Its answer.
        source: ApiError,
    },
    /// The turn lasted longer than this process leads.
    #[error(transparent)]
    Turn(#[from] ApiError),
    /// Nothing could be signed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Others changed the same objects again and again.
    #[error("the Secrets change faster than they can be read; does another controller write them?")]
    Unsettled,
}

/// What is counted about renewal. Cloning gives another handle to the same counts.
#[derive(Clone, Debug, Default)]
pub struct RenewalMetrics {
    authority_expiry: Gauge<f64, AtomicU64>,
    leaf_expiry: Gauge<f64, AtomicU64>,
    steps: Family<[(&'static str, &'static str); 1], Counter>,
    failures: Counter,
}

impl RenewalMetrics {
    /// Puts the counts into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "certificate_authority_expiry_timestamp",
            "When the stored authority ends, since 1970",
            seconds(),
            self.authority_expiry.clone(),
        );
        registry.register_with_unit(
            "stored_certificate_expiry_timestamp",
            "When the stored server certificate ends, since 1970",
            seconds(),
            self.leaf_expiry.clone(),
        );
        registry.register("certificate_steps", "Changes of stored certificates and caBundles", self.steps.clone());
        registry.register("certificate_failures", "Turns in which that failed", self.failures.clone());
    }

    fn stepped(&self, step: &'static str) {
        self.steps.get_or_create(&[("step", step)]).inc();
    }

    /// Seconds since 1970 stay exact in a double.
    #[allow(clippy::cast_precision_loss)]
    fn expire(&self, material: &Material) {
        if let Some(expires) = material.authority_expires() {
            self.authority_expiry.set(expires as f64);
        }
        if let Some((_, expires)) = material.leaf_life() {
            self.leaf_expiry.set(expires as f64);
        }
    }
}

/// Keeps the certificates current, and every `caBundle` with them.
pub struct Renewal {
    secrets: Api<Secret>,
    configurations: [Api<DynamicObject>; 2],
    recorder: Recorder,
    places: CertificateObjects,
    terms: Lifetimes,
    metrics: RenewalMetrics,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("places", &self.places).finish_non_exhaustive()
    }
}

/// What a turn read.
struct Read {
    material: Material,
    authority_version: String,
    serving_version: String,
    configurations: Vec<(usize, DynamicObject)>,
}

impl Renewal {
    /// Nothing happens before [`Self::run`]. `instance` names this process in events.
    #[must_use]
    pub fn new(
        client: Client,
        places: CertificateObjects,
        terms: Lifetimes,
        instance: &str,
        metrics: RenewalMetrics,
    ) -> Self {
        let kind = |kind: &str, plural: &str| ApiResource {
            group: "admissionregistration.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "admissionregistration.k8s.io/v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        let mutating = kind("MutatingWebhookConfiguration", "mutatingwebhookconfigurations");
        let validating = kind("ValidatingWebhookConfiguration", "validatingwebhookconfigurations");
        let reporter = Reporter { controller: "latebind".to_owned(), instance: Some(instance.to_owned()) };
        Self {
            secrets: Api::namespaced(client.clone(), &places.namespace),
            configurations: [Api::all_with(client.clone(), &mutating), Api::all_with(client.clone(), &validating)],
            recorder: Recorder::new(client, reporter),
            places,
            terms,
            metrics,
        }
    }

    /// Takes a turn every so often until `stop`; with a leadership, only while it lasts. Two leaders at one time would
    /// still not fight.
    pub async fn run(self, every: Duration, leadership: Option<Leadership>, stop: CancellationToken) {
        let queue = Arc::<Queue<()>>::default();
        let reconciler = Arc::new(Turns { renewal: self, every, queue: Arc::clone(&queue) });
        let controller = Controller {
            name: "certificates",
            reconciler,
            queue,
            workers: 1,
            leadership,
            follower: Follower::Waits,
            // Each turn asks for the next one.
            resync: RESYNC,
        };
        controller.run(stop).await;
    }

    /// Does all that is due now.
    ///
    /// # Errors
    /// When something could not be read or written. What was done stays done; the next turn goes on from there.
    pub async fn turn(&self) -> Result<(), RenewalError> {
        for _ in 0..STEPS {
            let now = OffsetDateTime::now_utc();
            let read = self.read().await?;
            self.metrics.expire(&read.material);
            let done = self.step(&read, now).await;
            if done.as_ref().is_err() || matches!(done, Ok(None)) {
                self.warn_of_the_end(&read.material, now).await;
            }
            match done {
                Ok(None) => return Ok(()),
                Ok(Some(step)) => self.metrics.stepped(step),
                // Another replica was faster: what it wrote is read in the next round.
                Err(RenewalError::Api { source, .. }) if source.is_conflict() => {
                    tracing::debug!("another replica was faster");
                }
                Err(error) => return Err(error),
            }
        }
        Err(RenewalError::Unsettled)
    }

    /// Does one thing, and says what; nothing where nothing is due.
    async fn step(&self, read: &Read, now: OffsetDateTime) -> Result<Option<&'static str>, RenewalError> {
        let bundle = read.material.bundle(now);
        let stale = read.configurations.iter().find(|(_, object)| !holds(object, &bundle));
        if !bundle.is_empty()
            && let Some((index, object)) = stale
        {
            self.publish(*index, object, &bundle).await?;
            tracing::info!(kind = ["mutating", "validating"][*index], "published the authority");
            return Ok(Some("publish"));
        }
        let Some(step) = read.material.next_step(true, &self.terms, now) else { return Ok(None) };
        let next = read.material.clone().after(step, &self.terms, now)?;
        if step == Step::Issue {
            self.write_leaf(&next, &read.serving_version).await?;
        } else {
            self.write_authority(&next, &read.authority_version).await?;
        }
        let word = match step {
            Step::Found => "found",
            Step::Announce => "announce",
            Step::Published => "published",
            Step::Promote => "promote",
            Step::Retire => "retire",
            Step::Issue => "issue",
        };
        tracing::info!(step = word, "certificates");
        Ok(Some(word))
    }

    async fn read(&self) -> Result<Read, RenewalError> {
        // The order matters, see the top of this file.
        let mut configurations = Vec::new();
        for (index, api) in self.configurations.iter().enumerate() {
            let found = call("reading a webhook configuration", api.get_opt(&self.places.configuration)).await?;
            configurations.extend(found.map(|object| (index, object)));
        }
        let authority = self.secret(&self.places.authority).await?;
        let serving = self.secret(&self.places.serving).await?;
        let text = |secret: &Secret, key: &str| {
            let bytes = secret.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
        };
        let pair = |secret: &Secret, chain: &str, key: &str| {
            Some(PemPair { chain: text(secret, chain)?, key: text(secret, key)? })
        };
        let noted = |name: &str| authority.annotations().get(name).and_then(|text| text.parse().ok());
        let material = Material {
            current: pair(&authority, "ca.crt", "ca.key"),
            next: pair(&authority, "next.crt", "next.key"),
            next_published: noted(NEXT_PUBLISHED),
            previous: text(&authority, "previous.crt"),
            promoted: noted(PROMOTED),
            leaf: pair(&serving, CERTIFICATE_KEY, PRIVATE_KEY),
            ordered: authority.annotations().get(ROTATE).is_some_and(|order| order == "authority"),
        };
        Ok(Read {
            material,
            authority_version: authority.resource_version().unwrap_or_default(),
            serving_version: serving.resource_version().unwrap_or_default(),
            configurations,
        })
    }

    async fn secret(&self, name: &str) -> Result<Secret, RenewalError> {
        let found = call(&format!("reading Secret {name:?}"), self.secrets.get_opt(name)).await?;
        found.ok_or_else(|| RenewalError::Missing(name.to_owned()))
    }

    async fn write_authority(&self, material: &Material, version: &str) -> Result<(), RenewalError> {
        let (current, next) = (material.current.as_ref(), material.next.as_ref());
        let entries = [
            ("ca.crt", current.map(|pair| &pair.chain)),
            ("ca.key", current.map(|pair| &pair.key)),
            ("next.crt", next.map(|pair| &pair.chain)),
            ("next.key", next.map(|pair| &pair.key)),
            ("previous.crt", material.previous.as_ref()),
        ];
        let entries: BTreeMap<&str, Option<String>> =
            entries.into_iter().map(|(key, text)| (key, text.map(|text| STANDARD.encode(text)))).collect();
        let noted = |at: Option<i64>| at.map(|at| at.to_string());
        let annotations = json!({
            NEXT_PUBLISHED: noted(material.next_published),
            PROMOTED: noted(material.promoted),
            ROTATE: material.ordered.then_some("authority"),
        });
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}, "data": entries});
        self.patch_secret(&self.places.authority, &patch).await
    }

    async fn write_leaf(&self, material: &Material, version: &str) -> Result<(), RenewalError> {
        let Some(leaf) = &material.leaf else { return Ok(()) };
        let entries = json!({
            CERTIFICATE_KEY: STANDARD.encode(&leaf.chain),
            PRIVATE_KEY: STANDARD.encode(&leaf.key),
        });
        let patch = json!({"metadata": {"resourceVersion": version}, "data": entries});
        self.patch_secret(&self.places.serving, &patch).await
    }

    async fn patch_secret(&self, name: &str, patch: &Value) -> Result<(), RenewalError> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        let written = self.secrets.patch_metadata(name, &params, &patch);
        call(&format!("writing Secret {name:?}"), written).await?;
        Ok(())
    }

    /// Writes `caBundle` of every webhook of a configuration, and nothing else of it.
    async fn publish(&self, index: usize, object: &DynamicObject, bundle: &str) -> Result<(), RenewalError> {
        let webhooks = object.data["webhooks"].as_array().into_iter().flatten();
        let webhooks: Vec<Value> = webhooks
            .map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": STANDARD.encode(bundle)}}))
            .collect();
        let patch = json!({"metadata": {"resourceVersion": object.resource_version()}, "webhooks": webhooks});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = &self.configurations[index];
        // Webhooks are merged by name, so whatever else somebody has changed in them stays.
        let patch = Patch::Strategic(&patch);
        let written = api.patch(&self.places.configuration, &params, &patch);
        call("writing a webhook configuration", written).await?;
        Ok(())
    }

    /// An event for those who do not read logs: the server certificate ends, and nobody could renew it.
    async fn warn_of_the_end(&self, material: &Material, now: OffsetDateTime) {
        let Some((begins, expires)) = material.leaf_life() else { return };
        let left = expires - now.unix_timestamp();
        let (reason, note) = match left {
            ..=0 => {
                ("CertificateExpired", "The webhook's certificate has expired, so Pods are not rewritten".to_owned())
            }
            _ if left < (expires - begins) / 6 => {
                ("CertificateExpires", format!("The webhook's certificate ends in {left} s and could not be renewed"))
            }
            _ => return,
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Renew".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(self.places.namespace.clone()),
            name: Some(self.places.serving.clone()),
            ..ObjectReference::default()
        };
        match timeout(CALL_TIMEOUT, self.recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no event"),
            Err(_) => tracing::debug!("no event: no answer"),
        }
    }
}

/// Whether every webhook of a configuration trusts the bundle.
fn holds(object: &DynamicObject, bundle: &str) -> bool {
    let wanted = STANDARD.encode(bundle);
    let mut webhooks = object.data["webhooks"].as_array().into_iter().flatten();
    webhooks.all(|webhook| webhook["clientConfig"]["caBundle"].as_str() == Some(&wanted))
}

async fn call<T>(what: &str, future: impl Future<Output = kube::Result<T>>) -> Result<T, RenewalError> {
    within(CALL_TIMEOUT, future).await.map_err(|source| RenewalError::Api { what: what.to_owned(), source })
}

impl ReconcileError for RenewalError {
    fn failure(&self) -> Failure {
        match self {
            Self::Api { source, .. } | Self::Turn(source) => source.failure(),
            Self::Missing(_) => Failure::NotFound,
            Self::Authority(_) => Failure::Refused,
            Self::Unsettled => Failure::Conflict,
        }
    }

    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Api { source, .. } | Self::Turn(source) if source.is_unavailable())
    }
}

/// The only key: everything that is kept of certificates.
struct Turns {
    renewal: Renewal,
    every: Duration,
    queue: Arc<Queue<()>>,
}

impl Reconciler for Turns {
    type Key = ();
    type Error = RenewalError;

    async fn reconcile(&self, (): &(), _: Turn) -> Result<Option<Duration>, RenewalError> {
        self.renewal.turn().await?;
        Ok(Some(self.every))
    }

    fn enqueue_all(&self) {
        self.queue.now(());
    }

    /// A certificate ends whether its renewal fails or not, and somebody has to hear of it.
    fn longest_pause(&self) -> Duration {
        self.every
    }

    fn will_retry(&self) {
        self.renewal.metrics.failures.inc();
    }
}
