//! The rescue loop: claims of Pods that name their node and are stuck already.
//!
//! A webhook can be absent, late or bypassed. The Pod cannot be changed any more, its claim can: once the claim is bound,
//! the Pod starts. What to do is decided by [`crate::binding`] and [`plan`], which are pure; what is around them watches,
//! waits, writes and reports.

mod controller;
mod events;
mod metrics;
pub mod plan;
mod reservations;
mod tracking;
mod triggers;
mod writer;

pub use controller::{Rescue, RescueOptions};
pub(crate) use writer::Writer;

pub use crate::diagnosis::ProvisionerReport;
pub use crate::model::{GAVE_UP, SELECTED_BY, SELECTIONS};
