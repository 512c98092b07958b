//! What rancher's local-path provisioner and its relatives left behind or are configured with: read, translated, served.

mod adoption;
mod class;
mod config;
mod import;

pub use adoption::{AdoptionError, adoption, rivals};
pub use class::{parameters, translate_pattern};
pub use config::{Config, ConfigError, NodePaths};
pub use import::{Import, import};

/// The name of rancher's provisioner.
pub const RANCHER: &str = "rancher.io/local-path";
/// The name of MicroK8s' provisioner; only its volumes are served, for deletion.
pub const MICROK8S: &str = "microk8s.io/hostpath";
/// What can be adopted.
pub const ADOPTABLE: [&str; 2] = [RANCHER, MICROK8S];
