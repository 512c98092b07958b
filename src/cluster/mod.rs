//! Where facts come from.

pub mod assume;
mod facts;
pub mod located;
pub mod manifests;

pub use facts::{Fact, Facts, Unlisted};
