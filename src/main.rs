//! The `latebind` command.

fn main() {}
