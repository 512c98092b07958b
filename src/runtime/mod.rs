//! What every long-running role needs: a bounded server, readiness, shutdown in two stages, reloading, metrics, logs.

mod connections;
pub mod logs;
pub mod metrics;
pub mod probes;
pub mod queue;
pub mod readiness;
pub mod reload;
pub mod serve;
pub mod shutdown;
