//! Metrics of a server, in Prometheus' text format.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Which bound turned a client away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Bound {
    /// The number of connections.
    connections,
    /// The bytes of request bodies held at one time.
    bodies,
    /// Scrapes at one time.
    scrapes,
}

/// Why a handshake did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum HandshakeFailure {
    /// It took too long.
    timeout,
    /// The client broke off or spoke something else.
    error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabel {
    bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    reason: HandshakeFailure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabel {
    what: &'static str,
    result: &'static str,
}

/// What a server counts about its connections and its reloads. Cloning gives another handle to the same counts.
#[derive(Clone, Debug, Default)]
pub struct ServerMetrics {
    connections: Gauge,
    sheds: Family<BoundLabel, Counter>,
    evictions: Counter,
    handshake_failures: Family<HandshakeLabel, Counter>,
    accept_errors: Counter,
    panics: Counter,
    reloads: Family<ReloadLabel, Counter>,
    certificate_expiry: Gauge<f64, AtomicU64>,
}

impl ServerMetrics {
    /// Puts the counts, and which build this is, into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "Which build this is",
            Info::new(vec![
                ("version", env!("CARGO_PKG_VERSION")),
                ("os", std::env::consts::OS),
                ("arch", std::env::consts::ARCH),
            ]),
        );
        registry.register("connections", "TLS connections that are open", self.connections.clone());
        registry.register("sheds", "Clients turned away because a bound was reached", self.sheds.clone());
        registry.register(
            "connection_evictions",
            "Connections closed to make room for new ones",
            self.evictions.clone(),
        );
        registry.register("tls_handshake_failures", "TLS handshakes that failed", self.handshake_failures.clone());
        registry.register("accept_errors", "Connections that could not be accepted", self.accept_errors.clone());
        registry.register("panics", "Requests that ended in a panic", self.panics.clone());
        registry.register("reloads", "Changes of files that were read", self.reloads.clone());
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the server certificate ends, since 1970",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        // Alerts on a rate need the series from the beginning.
        for bound in [Bound::connections, Bound::bodies, Bound::scrapes] {
            drop(self.sheds.get_or_create(&BoundLabel { bound }));
        }
        for reason in [HandshakeFailure::timeout, HandshakeFailure::error] {
            drop(self.handshake_failures.get_or_create(&HandshakeLabel { reason }));
        }
    }

    /// Counts a client that was turned away.
    pub fn shed(&self, bound: Bound) {
        self.sheds.get_or_create(&BoundLabel { bound }).inc();
    }

    /// Counts a connection that was closed to make room for a new one.
    pub fn evicted(&self) {
        self.evictions.inc();
    }

    /// How many clients a bound has turned away.
    #[must_use]
    pub fn shed_count(&self, bound: Bound) -> u64 {
        self.sheds.get_or_create(&BoundLabel { bound }).get()
    }

    /// Counts a failed handshake.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshake_failures.get_or_create(&HandshakeLabel { reason }).inc();
    }

    /// Counts a connection that could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// Counts a request that ended in a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts a change that was read, or could not be.
    pub fn reloaded(&self, what: &'static str, ok: bool) {
        self.reloads.get_or_create(&reload_label(what, ok)).inc();
    }

    /// How many changes were read, or could not be.
    #[must_use]
    pub fn reload_count(&self, what: &'static str, ok: bool) -> u64 {
        self.reloads.get_or_create(&reload_label(what, ok)).get()
    }

    /// Tells when the certificate ends, in seconds since 1970.
    pub fn certificate_expires(&self, timestamp: i64) {
        // Seconds since 1970 stay exact in a double for the next 285 million years.
        #[allow(clippy::cast_precision_loss)]
        self.certificate_expiry.set(timestamp as f64);
    }

    /// Counts a connection as open until the value is dropped.
    #[must_use = "the connection counts as closed when this is dropped"]
    pub fn connection(&self) -> Open {
        self.connections.inc();
        Open(self.connections.clone())
    }
}

const fn reload_label(what: &'static str, ok: bool) -> ReloadLabel {
    ReloadLabel { what, result: if ok { "ok" } else { "failed" } }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
