//! The parameter of the admission policies: what they know of claims, classes and nodes.
//!
//! A policy of the API server sees the Pod and one object. [`listing`] holds what is to be in it, from facts that
//! [`crate::binding`] decides about one object at a time; what is around it watches and writes.

mod controller;
pub mod listing;
mod metrics;
mod policies;
mod triggers;

pub use controller::{Parameter, ParameterOptions};
