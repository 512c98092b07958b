//! Power cuts: what a disk holds at that moment is looked at on a copy of it, which the file system repairs from its
//! journal. Nothing is written back for the test's sake: only what the agent saved itself may be counted on.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use super::{allowed, before_each, entries, open, order, removal, undisturbed};
use crate::agent::disk::directory::Outcome;
use crate::agent::disk::removal::{Proof, Removal};
use crate::crd::OnDelete;

/// Says that a test cannot run here. In CI none may be skipped.
fn skip(reason: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "it may not be skipped in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// A file system in a file, mounted while this lives.
struct Disk {
    directory: tempfile::TempDir,
    mounted: PathBuf,
}

impl Disk {
    /// `None` where the file system cannot be made or mounted here.
    fn new(system: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("mounting needs root");
            return None;
        }
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let image = directory.path().join("image");
        // As small as each of them can be.
        let mebibytes = if system == "xfs" { 300 } else { 128 };
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let made = Command::new(format!("mkfs.{system}")).arg("-q").arg(&image).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            skip(&format!("mkfs.{system} does not work here: {made:?}"));
            return None;
        }
        Some(Self::mount(directory))
    }

    fn mount(directory: tempfile::TempDir) -> Self {
        let mounted = directory.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        let mount = |options: &str| {
            let arguments = ["-o", options, "image", "mounted"];
            Command::new("mount").current_dir(&directory).args(arguments).output().unwrap()
        };
        // A minute, so that the passing of time saves nothing. XFS has no such option, and looks for copies of itself.
        let long = mount("loop,commit=60");
        let output = if long.status.success() { long } else { mount("loop,nouuid") };
        assert!(output.status.success(), "{output:?}");
        Self { directory, mounted }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.mounted.join("made/base").join(path)
    }

    /// The disk as it is at this moment, after a power cut.
    fn cut(&self) -> Self {
        cut(self.directory.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.mounted).status().unwrap();
    }
}

fn cut(disk: &Path) -> Disk {
    let directory = tempfile::tempdir_in(disk.parent().unwrap()).unwrap();
    let status = Command::new("cp").arg(disk.join("image")).arg(directory.path().join("image")).status();
    assert!(status.unwrap().success());
    Disk::mount(directory)
}

/// Calls `check` with the disk as a cut before each change of `work` leaves it; how many there were.
fn cut_at_each(disk: &Disk, work: impl FnOnce(), check: impl Fn(&Disk) + 'static) -> usize {
    let (directory, count) = (disk.directory.path().to_owned(), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&count);
    before_each(move || {
        counted.set(counted.get() + 1);
        let after = cut(&directory);
        check(&after);
    });
    work();
    undisturbed();
    count.get()
}

/// What was reported as ready is there after a power cut, with its marker, and is served as before.
fn ready_outlives(system: &str) {
    let Some(disk) = Disk::new(system) else { return };
    let base = open(&disk.mounted);
    for (claim, path) in [("a", "pvc-a"), ("b", "ns/name/pvc-b"), ("c", "ns/name/pvc-c")] {
        assert_eq!(base.make(&order(claim, path), false).unwrap(), Outcome::Made);
        let after = disk.cut();
        assert!(after.at(path).is_dir(), "{system}: {path} is lost");
        assert!(after.at(&format!(".latebind/volumes/{claim}")).is_file(), "{system}: the marker of {path} is lost");
        assert_eq!(open(&after.mounted).make(&order(claim, path), true).unwrap(), Outcome::Found, "{system}");
        assert_eq!(fs::metadata(after.at(path)).unwrap().mode() & 0o7777, 0o2750, "{system}");
    }
}

/// What was reported as removed does not come back.
fn removal_outlives(system: &str) {
    let Some(disk) = Disk::new(system) else { return };
    let (allowed, base) = (allowed(&disk.mounted), open(&disk.mounted));
    for (claim, path, on_delete) in
        [("a", "pvc-a", OnDelete::Delete), ("b", "ns/pvc-b", OnDelete::Delete), ("c", "pvc-c", OnDelete::Archive)]
    {
        base.make(&order(claim, path), false).unwrap();
        fs::write(disk.at(path).join("file"), claim).unwrap();
        fs::File::open(disk.at(path).join("file")).unwrap().sync_all().unwrap();
        let wanted = Removal { on_delete, ..removal(&allowed) };
        assert_eq!(base.dispose(&order(claim, path), &wanted).unwrap(), Proof::Moved);
        let after = disk.cut();
        assert!(!after.at(path).exists(), "{system}: {path} is back");
        let kept = if on_delete == OnDelete::Archive { ".archive/c/file" } else { ".trash" };
        assert!(after.at(kept).exists(), "{system}: {kept} is lost");
        assert!(!entries(&after.at(".latebind/volumes")).contains(&claim.to_owned()), "{system}");
        let again = open(&after.mounted).dispose(&order(claim, path), &wanted);
        assert_eq!(again.unwrap(), Proof::MovedBefore, "{system}");
    }
}

/// A cut at any moment leaves a state from which the same call goes on.
fn begun_goes_on(system: &str) {
    let Some(disk) = Disk::new(system) else { return };
    let (base, order) = (open(&disk.mounted), order("a", "ns/pvc-a"));
    base.id().unwrap();
    let wanted = order.clone();
    let making = cut_at_each(
        &disk,
        || assert_eq!(base.make(&order, false).unwrap(), Outcome::Made),
        move |after| {
            open(&after.mounted).make(&wanted, false).unwrap();
            assert!(after.at("ns/pvc-a").is_dir());
            assert_eq!(entries(&after.at(".latebind/volumes")), ["a"]);
            assert!(entries(&after.at(".latebind/new")).is_empty());
        },
    );
    fs::write(disk.at("ns/pvc-a/file"), "data").unwrap();
    fs::File::open(disk.at("ns/pvc-a/file")).unwrap().sync_all().unwrap();
    let (allowed, wanted) = (allowed(&disk.mounted), order.clone());
    let visible = allowed.clone();
    let removing = cut_at_each(
        &disk,
        || assert_eq!(base.dispose(&order, &removal(&allowed)).unwrap(), Proof::Moved),
        move |after| {
            open(&after.mounted).dispose(&wanted, &removal(&visible)).unwrap();
            assert!(!after.at("ns/pvc-a").exists());
            let trash = entries(&after.at(".trash"));
            assert!(trash.len() == 1 && after.at(".trash").join(&trash[0]).join("file").exists(), "{trash:?}");
            assert!(entries(&after.at(".latebind/volumes")).is_empty());
        },
    );
    assert!(making >= 12 && removing >= 6, "only {making} and {removing} changes were seen");
}

macro_rules! on_each {
    ($($system:ident),+) => {
        $(mod $system {
            #[test]
            fn what_was_reported_as_ready_outlives_a_power_cut() {
                super::ready_outlives(stringify!($system));
            }

            #[test]
            fn what_was_reported_as_removed_outlives_a_power_cut() {
                super::removal_outlives(stringify!($system));
            }

            #[test]
            fn what_a_power_cut_ends_at_any_step_goes_on() {
                super::begun_goes_on(stringify!($system));
            }
        })+
    };
}

on_each!(ext4, xfs, btrfs);
