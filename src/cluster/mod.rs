//! Where facts come from.

pub mod assume;
mod facts;
pub mod live;
pub mod located;
pub mod manifests;
pub mod server;

pub use facts::{Fact, Facts, Unlisted};
