//! What runs on each node: it makes the directories of local volumes, and takes them away when it is ordered to.

mod attempts;
mod bases;
mod caches;
mod calls;
mod disk;
mod disk_changes;
mod facts;
mod metrics;
mod orders;
mod orphans;
mod replaced;
mod reports;
mod restored;
mod run;
mod state;
pub mod static_disks;
mod store;
mod whole_disks;

pub use attempts::{ATTEMPT_LASTS, Attempts, Next};
pub use caches::Caches;
pub use calls::{BLOCKING_THREADS, DISK_TIMEOUT};
pub use disk::base::{AllowedBases, Base};
pub use disk::directory::{Order, Outcome};
pub use disk::error::{DirectoryError, errno_name};
pub use disk::marker::{ClaimName, Marker, Markers, Recorded, Unreadable};
pub use disk::mounts::Mount;
pub use disk::others::OtherPaths;
pub use disk::removal::{Proof, Removal};
pub use disk::trash::{StuckEntries, Swept};
pub use facts::report;
pub use metrics::AgentMetrics;
pub use run::run;
pub use state::Options;
