//! What every long-running role needs: a bounded server, readiness, shutdown in two stages, reloading, metrics, logs.

pub mod api;
pub mod client;
pub mod events;
pub mod lease;
pub mod logs;
pub mod metrics;
pub mod probes;
pub mod queue;
pub mod readiness;
pub mod reload;
pub mod serve;
pub mod shutdown;
