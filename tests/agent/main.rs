//! The agent's part on real directories: made, found, refused, taken away, while tenants and power cuts interfere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic where the premise of a test fails")]

mod crash;
mod fuse;
mod hostile;
mod kept;
mod life;
mod missing;
mod mounted;
mod others;
mod selinux;
mod trash;

use std::fs;
use std::path::{Path, PathBuf};

use latebind::agent::{AllowedBases, Base, DirectoryError, Order, Proof, Removal, StuckEntries};
use latebind::crd::{Disposal, VolumePath};

/// A base in a directory of its own.
struct Ground {
    directory: tempfile::TempDir,
    base: String,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base").to_str().unwrap().to_owned();
        Self { directory, base }
    }

    /// In memory: for tests that make thousands of directories, each saved to disk.
    fn in_memory() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let base = directory.path().join("base").to_str().unwrap().to_owned();
        Self { directory, base }
    }

    fn allowed(&self) -> AllowedBases {
        AllowedBases::new([self.directory.path().to_str().unwrap()]).unwrap()
    }

    fn open(&self) -> Base {
        Base::open(&self.allowed(), &self.base, false).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        Path::new(&self.base).join(path)
    }

    /// What the base holds besides the agent's own.
    fn volumes(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.base)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    fn count(&self, path: &str) -> usize {
        fs::read_dir(self.at(path)).map_or(0, Iterator::count)
    }
}

fn order(claim: &str) -> Order {
    order_at(claim, &format!("pvc-{claim}"))
}

fn order_at(claim: &str, path: &str) -> Order {
    Order {
        cluster: "cluster-1".to_owned(),
        volume: format!("v-{claim}"),
        claim: claim.to_owned(),
        owner: None,
        same_claim: None,
        path: VolumePath::parse(path).unwrap(),
        mode: 0o777,
        uid: None,
        gid: None,
        base_id: None,
        persistent_volume: None,
    }
}

/// The ordinary removal of a volume that was served.
fn removal(allowed: &AllowedBases) -> Removal<'_> {
    Removal { disposal: Disposal::Delete, served: true, ..Removal::of_unserved(allowed) }
}

fn dispose(base: &Base, order: &Order) -> Result<Proof, DirectoryError> {
    base.dispose(order, &removal(&AllowedBases::new(["/tmp"]).unwrap()))
}

fn sweep_all(base: &Base) {
    for _ in 0..100_000 {
        let swept = base.sweep(512, &mut StuckEntries::default()).unwrap();
        if swept.left + swept.waiting == 0 {
            return;
        }
        assert!(swept.steps > 0, "the trash stands still: {swept:?}");
    }
    panic!("the trash is never empty");
}
