//! Where facts come from.

pub mod files;
mod listed;
pub mod live;
pub mod server;

pub use listed::{Fact, Facts, Unlisted};
