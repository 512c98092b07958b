//! A small disk, which fills and which hangs: ext4 on a loop device.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Room for more volumes than ever live, and little more.
const SIZE: u64 = 64 << 20;
/// A mark on the disk for each volume, and its directory, and what it holds.
const INODES: &str = "8192";
/// How often a full disk is filled up again.
const REFILL: Duration = Duration::from_millis(100);

/// It is unmounted when dropped.
pub struct Disk {
    /// Where it is mounted.
    pub mounted: PathBuf,
}

impl Disk {
    /// `None` where it cannot be mounted, which is said.
    pub fn mount(within: &Path) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            ensure!(std::env::var("CI").as_deref() != Ok("true"), "it may not be skipped in CI");
            eprintln!("SKIPPED: a disk that fills and hangs needs root");
            return Ok(None);
        }
        let (image, mounted) = (within.join("image"), within.join("disk"));
        fs::create_dir(&mounted)?;
        fs::File::create(&image)?.set_len(SIZE)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-N", INODES]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted))?;
        Ok(Some(Self { mounted }))
    }

    /// Leaves no room on it for so long.
    pub async fn fill(&self, time: Duration) -> Result<()> {
        let (path, end) = (self.mounted.join("ballast"), Instant::now() + time);
        while Instant::now() < end {
            // What is removed meanwhile makes room.
            let ballast = path.clone();
            tokio::task::spawn_blocking(move || fill_up(&ballast)).await??;
            tokio::time::sleep(REFILL).await;
        }
        Ok(fs::remove_file(&path)?)
    }

    /// Lets it hang for so many seconds: nothing that writes to it returns. It answers again even if this process is killed.
    pub async fn hang(&self, seconds: u64) -> Result<()> {
        let script = r#"fsfreeze -f "$0" && sleep "$1"; fsfreeze -u "$0""#;
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", script]).arg(&self.mounted).arg(seconds.to_string());
        ensure!(shell.status().await?.success(), "the disk could not be held");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("fsfreeze").arg("-u").arg(&self.mounted).stderr(std::process::Stdio::null()).status().ok();
        Command::new("umount").arg("-l").arg(&self.mounted).status().ok();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Appends until nothing fits any more, in ever smaller pieces.
fn fill_up(path: &Path) -> Result<()> {
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    for size in [1 << 20, 64 << 10, 4 << 10] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
    Ok(())
}
