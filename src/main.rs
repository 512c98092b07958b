//! The `latebind` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first thing: rustls panics where it finds no provider and nothing has chosen one.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    latebind::cli::run(std::env::args_os())
}
