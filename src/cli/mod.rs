//! The command line.

pub mod fix;
