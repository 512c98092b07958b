//! The program that this test was built with, as an image: no second build, and none that takes minutes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::image::{self, Image};
use latebind_cluster::target_directory;

/// Writes the archive. What a release ships is another, static binary; it is what the suite `install` runs.
pub fn of_this_build(name: &str) -> Result<PathBuf> {
    let binary = env!("CARGO_BIN_EXE_latebind");
    let listed = Command::new("ldd").arg(binary).output().context("ldd")?;
    ensure!(listed.status.success(), "ldd: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout)?;
    // Each line names a library and where it was found; the loader's own line has the path only.
    let libraries = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let image = Image::new(name).file("/latebind", binary).entrypoint(&["/latebind"]).user(65532);
    let image = libraries.fold(image, |image, library| image.file(library, library));
    let archive = target_directory().join(format!("{}-image.tar", env!("CARGO_CRATE_NAME")));
    image::archive(&[image], &archive)?;
    Ok(archive)
}
