//! The rescue loop: claims of Pods that name their node and are stuck already.
//!
//! A webhook can be absent, late or bypassed. The Pod cannot be changed any more, its claim can: once the claim is bound,
//! the Pod starts. What to do is decided by [`crate::binding`] and [`plan`], which are pure; what is around them watches,
//! waits, writes and tells.

mod controller;
mod events;
mod feed;
mod metrics;
pub mod plan;
mod reservations;
mod tracking;
mod words;
mod writer;

pub use controller::{Controller, Setup};
pub use words::Words;

/// Annotation of a claim: UID of the Pod for whose sake latebind selected its node.
pub const SELECTED_BY: &str = "latebind.dev/selected-node-by";
/// Annotation of a claim: how often latebind has selected a node for that Pod, from the second time on.
pub const SELECTIONS: &str = "latebind.dev/selected-node-count";
/// Annotation of a claim: UID of the Pod for whose sake latebind selects no node any more, and why.
pub const GAVE_UP: &str = "latebind.dev/gave-up";
