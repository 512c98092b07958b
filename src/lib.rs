//! Keeps Pods that name their node from waiting for ever with `WaitForFirstConsumer` claims.

pub mod admission;
pub mod agent;
pub mod binding;
pub mod cli;
pub mod cluster;
pub mod crd;
pub mod model;
pub mod policy;
pub mod provision;
pub mod rancher;
pub mod rescue;
pub mod runtime;
pub mod tls;
