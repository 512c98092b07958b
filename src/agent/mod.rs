//! What runs on each node: it makes the directories of local volumes, and takes them away when it is ordered to.
//!
//! The file-system part ([`Base`]) knows nothing of Kubernetes. Every step is relative to an open directory and follows
//! no link: tenants own what is inside a volume and may change it at any moment.

mod base;
mod directory;
mod error;
mod facts;
mod marker;
mod metrics;
mod mounts;
mod orders;
mod orphans;
mod replaced;
mod reports;
mod run;
mod trash;

pub use base::{AllowedBases, Base};
pub use directory::{Order, Outcome};
pub use error::{DirectoryError, errno_name};
pub use facts::report;
pub use marker::Marker;
pub use metrics::AgentMetrics;
pub use mounts::Mount;
pub use run::{BLOCKING_THREADS, Caches, Options, run};
pub use trash::Swept;
