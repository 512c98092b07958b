//! A base on a file system whose renames cannot refuse to replace. This needs root, and bindfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use latebind::agent::{Base, DirectoryError, Proof, report};
use latebind::crd::PoolPath;

use super::mounted::{Mounted, run, skip};
use super::{Ground, dispose, order, order_at, sweep_all};

#[test]
fn a_base_on_fuse_serves_as_others_do_and_says_what_it_lacks() {
    let there = Command::new("bindfs").arg("--version").output().is_ok() && Path::new("/dev/fuse").exists();
    if !Mounted::possible() || !there {
        skip("bindfs or /dev/fuse is missing, or the right to mount");
        return;
    }
    let ground = Ground::new();
    let source = ground.directory.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::create_dir(&ground.base).unwrap();
    run("bindfs", &[source.to_str().unwrap(), &ground.base]);
    let _mounted = Mounted(ground.base.clone().into());
    let path = PoolPath { path: ground.base.clone(), require_mount: false };
    let looked = report(&ground.allowed(), &path, "cluster-1", &["a".to_owned()].into());
    assert!(looked.usable && looked.file_system.starts_with("fuse"), "{looked:?}");
    assert!(looked.limits.len() == 1 && looked.limits[0].contains("EINVAL"), "{looked:?}");

    let base: Base = ground.open();
    base.make(&order_at("a", "ns/pvc-a"), false).unwrap();
    fs::create_dir(ground.at("pvc-b")).unwrap();
    let refused = base.make(&order("b"), false);
    assert!(matches!(refused, Err(DirectoryError::NotOurs { .. })), "an empty directory is not replaced: {refused:?}");
    fs::write(ground.at("ns/pvc-a/file"), "data").unwrap();
    assert_eq!(dispose(&base, &order_at("a", "ns/pvc-a")).unwrap(), Proof::Moved);
    assert!(!ground.at("ns/pvc-a").exists());
    sweep_all(&base);
    assert_eq!((ground.count(".trash"), ground.count(".latebind/volumes"), ground.count(".latebind/new")), (0, 0, 0));
}
