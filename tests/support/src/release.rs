//! What a release holds, packed from the tests' own binary: what is tested is the packing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use latebind_cluster::project_root;
use tempfile::TempDir;

/// The folder that `packaging/pack.py` writes.
pub struct Packed {
    folder: TempDir,
}

impl Packed {
    /// Packs one binary for the machine that this is, without symbols: with them it is three times as large.
    pub fn from(binary: &Path) -> Result<Self> {
        let (folder, work) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let stripped = work.path().join("latebind");
        fs::copy(binary, &stripped)?;
        // Where there is no strip the binary is only larger.
        Command::new("strip").arg(&stripped).status().ok();
        let target = format!("{}-unknown-linux-gnu={}", std::env::consts::ARCH, stripped.display());
        let mut pack = Command::new("python3");
        pack.arg("packaging/pack.py").arg("--out").arg(folder.path()).arg(target).current_dir(project_root());
        let output = pack.output().context("python3")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file whose name begins and ends like this.
    pub fn file(&self, begin: &str, end: &str) -> Result<PathBuf> {
        for entry in fs::read_dir(self.folder())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(begin) && name.ends_with(end) {
                return Ok(path);
            }
        }
        anyhow::bail!("no {begin}*{end}")
    }
}
