//! From the real rancher local-path provisioner to latebind, by the commands of `docs/migrate-from-rancher.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

#[path = "local/image.rs"]
mod image;
#[path = "migrate/old.rs"]
mod old;
#[path = "migrate/way.rs"]
mod way;

use std::process::ExitCode;

use latebind_cluster::suite::{Needs, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new("migrate");
    suite.alone(
        Needs::Nodes,
        "way::three_commands_replace_the_real_rancher_provisioner",
        way::three_commands_replace_the_real_rancher_provisioner,
    );
    suite.run()
}
