//! The program that this test was built with, as an image: no second build, and none that takes minutes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::image::{self, Image};
use latebind_cluster::target_directory;

/// Writes the archive. What a release ships is another, static binary; it is what the suite `install` runs.
#[allow(dead_code, reason = "benchmarks choose their binary")]
pub fn of_this_build(name: &str) -> Result<PathBuf> {
    of(name, Path::new(env!("CARGO_BIN_EXE_latebind")))
}

/// The same of any binary, with the libraries that it needs.
pub fn of(name: &str, binary: &Path) -> Result<PathBuf> {
    let output = Command::new("ldd").arg(binary).output().context("ldd")?;
    let (listed, said) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    let is_static = said.contains("not a dynamic executable") || listed.contains("statically linked");
    ensure!(output.status.success() || is_static, "ldd: {said}");
    // Each line names a library and where it was found; the loader's own line has the path only.
    let libraries = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let image = Image::new(name).file("/latebind", binary.to_path_buf()).entrypoint(&["/latebind"]).user(65532);
    let image = libraries.fold(image, |image, library| image.file(library, library));
    let archive = target_directory().join(format!("{}-image.tar", env!("CARGO_CRATE_NAME")));
    image::archive(&[image], &archive)?;
    Ok(archive)
}
