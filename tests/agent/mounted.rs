//! Disks: missing, full, read-only, swapped, or mounted inside a volume. These need root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use latebind::agent::{Base, DirectoryError, StuckEntries, report};
use latebind::crd::PoolPath;

use super::{Ground, dispose, order};

/// Says that a test cannot run here. In CI none may be skipped.
pub fn skip(reason: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "it may not be skipped in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// A mount that ends with the test.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// False without the right to mount.
    pub fn possible() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            skip("mounting needs root");
        }
        root
    }

    /// `None` without the right to mount.
    pub fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        if !Self::possible() {
            return None;
        }
        fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]);
        Some(Self(at.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn pool_path(ground: &Ground) -> PoolPath {
    PoolPath { path: ground.base.clone(), require_mount: true }
}

#[test]
fn a_disk_that_is_not_mounted_gets_no_volume_and_the_report_says_so() {
    let ground = Ground::new();
    let refused = || Base::open(&ground.allowed(), &ground.base, true).err().unwrap();
    assert!(matches!(refused(), DirectoryError::NotMounted { .. }));
    fs::create_dir(&ground.base).unwrap();
    assert!(matches!(refused(), DirectoryError::NotMounted { .. }));
    let seen = report(&ground.allowed(), &pool_path(&ground), "cluster-1", &BTreeSet::new());
    assert!(!seen.usable && seen.message.contains("nothing is mounted"), "{seen:?}");

    let Some(_disk) = Mounted::tmpfs(Path::new(&ground.base), "size=1m,mode=0755") else { return };
    let base = Base::open(&ground.allowed(), &ground.base, true).unwrap();
    base.make(&order("a"), false).unwrap();
    let seen = report(&ground.allowed(), &pool_path(&ground), "cluster-1", &BTreeSet::new());
    assert!(seen.usable && seen.mount_point && seen.open_to_others, "{seen:?}");
    assert_eq!((seen.file_system.as_str(), seen.total_bytes, seen.orphans), ("tmpfs", 1 << 20, 1));
    let known = report(&ground.allowed(), &pool_path(&ground), "cluster-1", &BTreeSet::from(["a".to_owned()]));
    assert_eq!(known.orphans, 0);
    assert_eq!(known.base_id, seen.base_id);
}

/// As in a container whose mounts are a copy, made when it began.
#[test]
fn a_mount_that_the_node_does_not_have_is_none() {
    let ground = Ground::new();
    let (root, base) = (ground.directory.path().join("node"), &ground.base);
    let allowed = ground.allowed().with_node_root(Some(root.clone()));
    let open = || Base::open(&allowed, base, true).map(drop);
    let reason = |outcome: Result<(), DirectoryError>| outcome.err().map_or("usable", |error| error.reason());
    fs::create_dir(base).unwrap();
    let Some(disk) = Mounted::tmpfs(Path::new(base), "size=1m") else { return };
    assert_eq!(reason(open()), "PathMissing", "a root that cannot be looked at tells nothing");
    let on_node = root.join(base.trim_start_matches('/'));
    fs::create_dir_all(on_node.parent().unwrap()).unwrap();
    fs::create_dir(root.join("media")).unwrap();
    // The node has a link there, and the disk where it leads.
    std::os::unix::fs::symlink("/media", &on_node).unwrap();
    run("mount", &["--bind", base, root.join("media").to_str().unwrap()]);
    let same = Mounted(root.join("media"));
    assert_eq!(reason(open()), "usable");
    // It was unmounted on the node, and the copy holds it still; that the node has the disk elsewhere is not enough.
    fs::remove_file(&on_node).unwrap();
    assert_eq!(reason(open()), "NotMounted");
    fs::create_dir(&on_node).unwrap();
    assert_eq!(reason(open()), "NotMounted");
    drop(same);
    assert!(Base::open(&ground.allowed(), base, true).is_ok(), "without the node's root nobody notices");
    assert!(Base::open(&allowed, base, false).is_ok(), "nobody asked for a mount");
    // It was mounted on the node after the copy was made.
    drop(disk);
    let Some(_later) = Mounted::tmpfs(&on_node, "size=1m") else { return };
    assert_eq!(reason(open()), "MountNotSeen");
    let told = report(&allowed, &pool_path(&ground), "cluster-1", &BTreeSet::new());
    assert!(told.reason == "MountNotSeen" && told.message.contains("restart the agent's Pod"), "{told:?}");
}

#[test]
fn a_bind_mount_of_a_directory_is_not_a_disk() {
    let ground = Ground::new();
    fs::create_dir(&ground.base).unwrap();
    let source = ground.directory.path().join("source");
    // What a container's view of a host directory looks like.
    let Some(mounted) = Mounted::tmpfs(&source, "size=1m") else { return };
    fs::create_dir(source.join("directory")).unwrap();
    run("mount", &["--bind", source.join("directory").to_str().unwrap(), &ground.base]);
    let _bound = Mounted(PathBuf::from(&ground.base));
    assert!(matches!(Base::open(&ground.allowed(), &ground.base, true), Err(DirectoryError::NotMounted { .. })));
    drop(mounted);
}

#[test]
fn a_volume_is_not_looked_for_on_another_disk() {
    let ground = Ground::new();
    let Some(disk) = Mounted::tmpfs(Path::new(&ground.base), "size=1m") else { return };
    let base = Base::open(&ground.allowed(), &ground.base, true).unwrap();
    base.make(&order("a"), false).unwrap();
    let mut ours = order("a");
    ours.base_id = Some(report(&ground.allowed(), &pool_path(&ground), "cluster-1", &BTreeSet::new()).base_id);
    assert!(!ours.base_id.as_ref().unwrap().is_empty());
    base.make(&ours, true).unwrap();
    drop(base);
    drop(disk);
    // The same path without the disk must not count as "removed already".
    for _ in 0..2 {
        let without = ground.open();
        assert!(matches!(dispose(&without, &ours), Err(DirectoryError::BaseChanged { .. })));
        assert!(matches!(without.make(&ours, true), Err(DirectoryError::BaseChanged { .. })));
    }
    assert!(ground.volumes().is_empty());
}

#[test]
fn a_mount_inside_a_volume_stops_its_removal() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    {
        let Some(_inside) = Mounted::tmpfs(&ground.at("pvc-a/sub/mnt"), "size=1m") else { return };
        fs::write(ground.at("pvc-a/sub/mnt/x"), "elsewhere").unwrap();
        let refused = dispose(&base, &order("a")).unwrap_err();
        assert!(
            matches!(&refused, DirectoryError::MountInside { mount, .. } if mount.ends_with("/sub/mnt")),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(ground.at("pvc-a/sub/mnt/x")).unwrap(), "elsewhere");
    }
    dispose(&base, &order("a")).unwrap();
}

#[test]
fn a_mount_in_the_trash_is_not_crossed() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    fs::create_dir_all(ground.at("pvc-a/sub/mnt")).unwrap();
    fs::write(ground.at("pvc-a/other"), "").unwrap();
    dispose(&base, &order("a")).unwrap();
    {
        let Some(_late) = Mounted::tmpfs(&ground.at(".trash/v-a/sub/mnt"), "size=1m") else { return };
        fs::write(ground.at(".trash/v-a/sub/mnt/x"), "elsewhere").unwrap();
        for _ in 0..10 {
            base.sweep(100, &mut StuckEntries::default()).unwrap();
        }
        let swept = base.sweep(100, &mut StuckEntries::default()).unwrap();
        assert!(
            swept.stuck.as_ref().is_some_and(|stuck| stuck.contains("EBUSY") || stuck.contains("EXDEV")),
            "{swept:?}"
        );
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let now =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).find(|at| at.starts_with(&ground.base)).unwrap();
        assert_eq!(fs::read_to_string(Path::new(now).join("x")).unwrap(), "elsewhere");
        run("umount", &["-l", now]);
        // What `Mounted` ends is another mount of the same kind, so that its own end succeeds.
        fs::create_dir_all(ground.at(".trash/v-a/sub/mnt")).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", ground.at(".trash/v-a/sub/mnt").to_str().unwrap()]);
    }
    super::sweep_all(&base);
}

#[test]
fn a_full_disk_and_a_read_only_one_are_named() {
    let ground = Ground::new();
    let Some(_disk) = Mounted::tmpfs(Path::new(&ground.base), "size=64k,nr_inodes=20") else { return };
    let base = Base::open(&ground.allowed(), &ground.base, true).unwrap();
    base.make(&order("first"), false).unwrap();
    fs::write(ground.at("pvc-first/fill"), vec![0; 40 * 1024]).unwrap();
    for number in 0.. {
        if fs::write(ground.at(&format!("pvc-first/{number}")), "").is_err() {
            break;
        }
    }
    let full = base.make(&order("second"), false).unwrap_err();
    assert_eq!(full.reason(), "DiskFull");
    assert!(full.to_string().contains("ENOSPC") && full.to_string().contains(&ground.base), "{full}");
    fs::remove_file(ground.at("pvc-first/fill")).unwrap();
    fs::remove_file(ground.at("pvc-first/0")).unwrap();
    fs::remove_file(ground.at("pvc-first/1")).unwrap();
    fs::remove_file(ground.at("pvc-first/2")).unwrap();
    base.make(&order("second"), false).unwrap();

    run("mount", &["-o", "remount,ro", &ground.base]);
    let read_only = base.make(&order("third"), false).unwrap_err();
    assert_eq!(read_only.reason(), "ReadOnlyFileSystem");
    assert_eq!(dispose(&base, &order("second")).unwrap_err().reason(), "ReadOnlyFileSystem");
    let seen = report(&ground.allowed(), &pool_path(&ground), "cluster-1", &BTreeSet::new());
    assert!(!seen.usable && seen.message.contains("EROFS"), "{seen:?}");
    run("mount", &["-o", "remount,rw", &ground.base]);
    assert!(ground.at("pvc-second").is_dir());
    dispose(&base, &order("second")).unwrap();
}
