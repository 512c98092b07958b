//! The status of PinPolicies: what they say of the Pods that wait now. `tally` counts, `controller` reads and writes.
//!
//! Only Pods that wait for a claim are counted: the scheduler gives Pods their node by the same field, and of a Pod that
//! exists nothing but such a claim tells that it came with its node.

mod controller;
mod tally;

pub use controller::{Policies, PoliciesOptions};
