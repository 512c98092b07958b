//! Where facts come from.

mod facts;
pub mod live;

pub use facts::{Fact, Facts, Unlisted};
