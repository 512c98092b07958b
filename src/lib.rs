//! Keeps Pods that name their node from waiting for ever with `WaitForFirstConsumer` claims.

pub mod admission;
pub mod agent;
pub mod binding;
pub mod cluster;
pub mod crd;
pub mod model;
pub mod provision;
pub mod rancher;
