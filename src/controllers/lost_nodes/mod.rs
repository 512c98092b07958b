//! Claims whose node is gone: told, and by policy let go so that their Pods start elsewhere. `crate::drain::lost` decides, the rest
//! reads, keeps the time, and writes.

mod controller;
#[cfg(test)]
mod histories;
mod live;
mod metrics;
mod remake;
mod timers;
mod writer;

pub use controller::{LostNodes, LostNodesOptions};
