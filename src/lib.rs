//! Keeps Pods that name their node from waiting forever with `WaitForFirstConsumer` claims.

pub mod admission;
// It works with directories as only Linux can: openat2, mount identities, renames that replace nothing.
#[cfg(target_os = "linux")]
pub mod agent;
pub mod binding;
pub mod cli;
pub mod controllers;
pub mod crd;
pub mod diagnosis;
pub mod drain;
pub mod facts;
pub mod kubernetes;
pub mod model;
pub mod policy;
pub mod rancher;
pub mod report;
pub mod roles;
pub mod runtime;
pub mod sig_local;
pub mod tls;
pub mod volumes;
pub mod yaml;
