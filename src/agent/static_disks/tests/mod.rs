//! With real mounts and loop devices. They need root, and say so when they cannot run.

mod cleaning_devices;
mod cleaning_files;
mod looking;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::agent::AllowedBases;
use crate::crd::{DiskIdentity, DiskKind, DiskReport, DiskRule, VolumeMode};

/// A directory of disks, `base/disks`, whose mounts and loop devices go when the test ends, however it ends.
struct Lab {
    directory: tempfile::TempDir,
    mounts: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for point in self.mounts.iter().rev() {
            Command::new("umount").arg("-l").arg(point).stderr(std::process::Stdio::null()).status().ok();
        }
        for device in &self.loops {
            Command::new("losetup").args(["-d", device]).status().ok();
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Lab {
    /// `None` where nothing may be mounted.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("base/disks")).unwrap();
        let mut lab = Self { directory, mounts: Vec::new(), loops: Vec::new() };
        let probe = lab.directory.path().join("probe");
        fs::create_dir(&probe).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "probe"]).arg(&probe).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("\n*** NOT TESTED: nothing can be mounted here, run the tests of static disks as root ***\n");
            return None;
        }
        lab.mounts.push(probe);
        Some(lab)
    }

    fn base(&self) -> PathBuf {
        self.directory.path().join("base/disks")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn scope(&self) -> DiskScope {
        DiskScope::new(AllowedBases::new([self.base().to_str().unwrap()]).unwrap())
    }

    fn mount(&mut self, arguments: &[&str], name: &str) -> PathBuf {
        let point = self.path(name);
        fs::create_dir_all(&point).unwrap();
        run(Command::new("mount").args(arguments).arg(&point));
        self.mounts.push(point.clone());
        point
    }

    fn tmpfs(&mut self, name: &str) -> PathBuf {
        self.mount(&["-t", "tmpfs", "-o", "size=8m", "none"], name)
    }

    fn bind(&mut self, from: &Path, name: &str) -> PathBuf {
        self.mount(&["--bind", from.to_str().unwrap()], name)
    }

    fn unmount(&mut self, name: &str) {
        run(Command::new("umount").arg(self.path(name)));
    }

    /// A loop device of so many MiB.
    fn device(&mut self, mib: u64) -> String {
        let image = self.directory.path().join(format!("image-{}", self.loops.len()));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&image));
        self.loops.push(device.clone());
        device
    }

    /// A new file system of a type on a device of its own.
    fn formatted(&mut self, kind: &str, mib: u64) -> String {
        let device = self.device(mib);
        let quiet: &[&str] = if kind == "btrfs" || kind == "xfs" { &["-q", "-f"] } else { &["-q", "-F"] };
        run(Command::new(format!("mkfs.{kind}")).args(quiet).arg(&device));
        device
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }

    fn look(&self, rule: &DiskRule) -> Vec<DiskReport> {
        look(&self.scope(), self.base().to_str().unwrap(), &[Rule { pool: "pool", rule }])
    }

    /// Name, and reason or `usable`, of each entry.
    fn reasons(&self, rule: &DiskRule) -> Vec<(String, String)> {
        let name = |report: &DiskReport| report.path.rsplit('/').next().unwrap().to_owned();
        self.look(rule).iter().map(|report| (name(report), reason(report))).collect()
    }

    fn one(&self, name: &str) -> DiskReport {
        let found = self.look(&DiskRule { names: vec![name.to_owned()], allow_data: true, ..rule() });
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }
}

fn rule() -> DiskRule {
    DiskRule { storage_class_name: "fast".to_owned(), ..DiskRule::default() }
}

fn block() -> DiskRule {
    DiskRule { volume_mode: VolumeMode::Block, ..rule() }
}

fn reason(report: &DiskReport) -> String {
    assert_eq!(report.usable, report.reason.is_empty(), "{report:?}");
    if report.usable { "usable".to_owned() } else { report.reason.clone() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn to_clean<'a>(path: &'a str, kind: DiskKind, identity: &'a DiskIdentity) -> DiskToClean<'a> {
    DiskToClean { path, kind, identity, root: None }
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}
