//! The decision: is a Pod stuck, why, what mends it, and is the mend safe.
//!
//! Everything here is a pure function of a [`ClusterView`] and an object. The webhook, the rescue loop and the offline
//! commands call the same entry points and differ in the view that they hand in and in what they do with the verdict.

pub mod finding;
mod pod;
mod rules;
mod verdict;
mod view;
mod workload;

pub use finding::{Code, FieldPath, Finding, ParseCodeError, Severity};
pub use pod::decide_pod;
pub use rules::{ParsePinStyleError, PinStyle, Rules};
pub use verdict::{ClaimRemedy, ClaimVerdict, Pin, PodVerdict, Remedy, VolumeVerdict};
pub use view::{ClusterView, Lookup, default_class};
pub use workload::{WorkloadVerdict, decide_workload};
