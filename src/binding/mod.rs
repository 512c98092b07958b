//! The decision: is a Pod stuck, why, what mends it, and is the mend safe.
//!
//! Everything here is a pure function of a [`ClusterView`] and an object. The webhook, the rescue loop and the offline
//! commands call the same entry points and differ in the view that they hand in and in what they do with the verdict.

mod claim;
mod claim_state;
mod declared;
pub mod finding;
mod obstacle;
mod pod;
mod rules;
pub mod selector;
pub mod storage_findings;
mod verdict;
mod view;
mod volume_choice;
mod workload;

pub use claim::decide_claim;
pub use finding::{Code, FieldPath, Finding, ParseCodeError, Severity};
pub use pod::decide_pod;
pub use rules::{ParsePinStyleError, PinStyle, Rules};
pub use verdict::{ClaimRemedy, ClaimVerdict, Pin, PodVerdict, Remedy, VolumeVerdict};
pub use view::{ClusterView, Lookup, default_class};
pub use workload::{WorkloadVerdict, decide_workload};
