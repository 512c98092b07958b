//! Keeps Pods that name their node from waiting for ever with `WaitForFirstConsumer` claims.

pub mod admission;
pub mod binding;
pub mod cli;
pub mod cluster;
pub mod model;
pub mod policy;
pub mod rescue;
pub mod runtime;
pub mod tls;
