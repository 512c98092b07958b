//! Where things are on disk.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository that this crate belongs to.
#[must_use]
pub fn project_root() -> PathBuf {
    // tests/cluster is two levels below the root; `ancestors` starts with the directory itself.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `target` in the repository.
#[must_use]
pub fn target_directory() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => project_root().join(directory),
        None => project_root().join("target"),
    }
}

/// Where cargo puts the binaries of the `dev` profile. `.cargo/config.toml` names a target, so that they are static.
pub(crate) fn binary_directory() -> PathBuf {
    target_directory().join(format!("{}-unknown-linux-gnu", env::consts::ARCH)).join("debug")
}

/// Where this crate keeps its Go modules.
pub(crate) fn go_modules() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory that holds one directory for each running cluster.
pub(crate) fn clusters() -> PathBuf {
    target_directory().join("cluster")
}

/// Where the logs of clusters that are gone stay, by cluster name.
pub(crate) fn kept_logs() -> PathBuf {
    target_directory().join("cluster-logs")
}
