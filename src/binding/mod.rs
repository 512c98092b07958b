//! The decision: is a Pod stuck, why, what fixes it, and is the fix safe.
//!
//! Everything here is a pure function of a [`ClusterView`] and an object. The webhook, the rescue loop and the offline
//! commands call the same entry points and differ in the view that they hand in and in what they do with the verdict.

mod anywhere;
mod asked;
pub mod assume;
mod claim;
mod claim_state;
mod declared;
mod device;
pub mod finding;
mod migrated;
mod neighbours;
mod obstacle;
mod place;
mod pod;
mod risks;
mod row;
mod rules;
mod shipped;
pub mod storage_findings;
mod unfit;
mod verdict;
mod view;
mod volume_choice;
mod workload;

pub use anywhere::{Away, MOST_POLICY_CLAIMS, binds_anywhere, keeps_away_from, open_node, waits_anywhere};
pub use assume::{AssumedBinding, AssumedNode, AssumedStorage, Assumption, Assumptions};
pub use claim::{decide_claim, poisoned_claim};
pub use finding::{Code, FieldPath, Finding, ParseCodeError, Severity};
pub use neighbours::{AntiAffinityIndex, anti_affinity_around, anti_affinity_of};
pub use obstacle::node_obstacles;
pub use pod::{MOST_CLAIMS, MOST_TERMS, decide_pod};
pub use risks::{Risks, first_of, listed};
pub use row::Row;
pub use rules::{ParsePinStyleError, PinStyle, Rules};
pub use shipped::Cluster;
pub use unfit::{Unfit, unfit};
pub use verdict::{ClaimRemedy, ClaimVerdict, DeviceVerdict, Pin, PodVerdict, Remedy, VolumeVerdict};
pub use view::{ClusterView, Kind, LayeredView, Lookup, default_class};
pub use workload::{WorkloadVerdict, decide_workload};
