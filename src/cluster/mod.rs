//! Where facts come from.

mod facts;

pub use facts::{Fact, Facts, Unlisted};
