//! Makes volumes for claims: chooses the node where that is ours to choose, orders the directory from the node's
//! agent, makes the PersistentVolume, and takes everything back when the volume is released.
//!
//! What is to be done is decided in [`crate::volumes`]; here facts are gathered, and what was decided is written.

mod claims;
mod context;
mod directories;
mod disk_rules;
mod disks;
mod events;
mod found_disks;
mod held_back;
mod live_volumes;
mod memory;
mod metrics;
mod orphans;
mod persistent_volumes;
mod placement;
mod recent;
mod reconciler;
mod refusals;
mod remembered;
mod rivals;
mod run;
mod triggers;
mod warnings;

pub use context::Options;
pub use held_back::{HeldBack, held_back};
pub use rivals::running_provisioners;
pub use run::Provisioner;
