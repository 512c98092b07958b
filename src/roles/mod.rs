//! The roles of latebind in a cluster: what each is made of, and one life cycle for all of them.

#[cfg(target_os = "linux")]
mod agent;
mod controller;
pub mod process;
pub mod webhook;

#[cfg(target_os = "linux")]
pub use agent::{AgentOptions, run_agent};
pub use controller::{CertificateOptions, ControllerOptions, LostNodesTerms, run_controller};
pub use process::RoleError;
