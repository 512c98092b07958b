//! The `latebind` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first thing: rustls panics where it finds no provider and nothing has chosen one.
    latebind::tls::crypto::install();
    latebind::cli::run(std::env::args_os())
}
