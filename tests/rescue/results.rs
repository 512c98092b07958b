//! What the long run saw, for people: `docs/results/rescue.md`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use latebind_cluster::suite::long;
use latebind_test_support::machine::{machine, today};

static SEEN: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());

/// Notes what a test saw.
pub fn note(what: &'static str, seen: String) {
    eprintln!("{what}: {seen}");
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).push((what, seen));
}

/// Writes the page if this was a long run that is to be kept, and all went well.
pub fn publish(code: ExitCode) -> ExitCode {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // The cluster's own processes come by here too.
    if !long() || std::env::var_os("LATEBIND_UPDATE").is_none() || code != ExitCode::SUCCESS || seen.is_empty() {
        return code;
    }
    let version = latebind_cluster::Version::from_env().unwrap_or(latebind_cluster::Version::DEFAULT);
    let mut page = format!(
        "# Rescue: what the long run saw on Kubernetes {version}\n\n{}, {}. `make soak` writes this page anew.\n\n\
         | what was done | what was seen |\n| --- | --- |\n",
        today(),
        machine(),
    );
    seen.sort();
    for (what, seen) in seen {
        let _written = writeln!(page, "| {what} | {seen} |");
    }
    let name = version.suffix();
    let path = format!("{}/docs/results/rescue{name}.md", env!("CARGO_MANIFEST_DIR"));
    match std::fs::write(&path, page) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("cannot write {path}: {error}");
            ExitCode::FAILURE
        }
    }
}
