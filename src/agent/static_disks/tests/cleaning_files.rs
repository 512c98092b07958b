use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;
use crate::crd::RootOwner;

/// Cleans until nothing is left; the number of slices.
fn clean(lab: &Lab, disk: &DiskToClean<'_>, budget: usize) -> Result<usize, DiskFault> {
    let scope = lab.scope();
    for slices in 1.. {
        if !clean_files(&scope, disk, budget, soon())?.left {
            return Ok(slices);
        }
        assert!(slices < 10_000);
    }
    unreachable!()
}

fn refused(lab: &Lab, disk: &DiskToClean<'_>) -> &'static str {
    clean_files(&lab.scope(), disk, 1000, soon()).unwrap_err().reason()
}

#[test]
fn everything_goes_whatever_it_is_and_nothing_outside() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.formatted("ext4", 64);
    let root = lab.mount(&[&device], "a");
    let outside = lab.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let mut deep = root.clone();
    for level in 0..60 {
        deep.push(format!("level-{level}"));
        fs::create_dir(&deep).unwrap();
        symlink("../../../..", deep.join("up")).unwrap();
    }
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..3000 {
        fs::write(root.join(format!("many/file-{number}")), "x").unwrap();
    }
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let slices = clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 500).unwrap();
    assert!(slices > 5, "{slices}");
    assert_eq!((entries(&root), entries(&outside)), (0, 1));
    // Done already is done.
    assert_eq!(clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 500).unwrap(), 1);
}

#[test]
fn the_root_gets_its_owner_and_mode_back_and_loses_its_attributes() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.formatted("ext4", 16);
    let root = lab.mount(&["-o", "acl,user_xattr", &device], "a");
    chown(&root, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o2777)).unwrap();
    // Version 2: owner, user 1000, group, mask, others.
    let acl: Vec<u8> = [
        &2_u32.to_le_bytes()[..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 7, 0, 232, 3, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 5, 0, 255, 255, 255, 255],
    ]
    .concat();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&root, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("system.posix_acl_default", &acl);
    set("system.posix_acl_access", &acl);
    set("user.note", b"of a claim");
    set("trusted.note", b"of a claim");
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let disk = to_clean(&path, DiskKind::Mount, &identity);
    let before = RootOwner { uid: 7, gid: 8, mode: 0o3770 };
    clean(&lab, &DiskToClean { root: Some(before), ..disk.clone() }, 1000).unwrap();
    let found = fs::metadata(&root).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (7, 8, 0o3770));
    let mut names = [0_u8; 256];
    let length = rustix::fs::listxattr(&root, &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(names.is_empty() || names == "security.selinux\0", "{names}");
    clean(&lab, &disk, 1000).unwrap();
    let found = fs::metadata(&root).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o755));
}

#[test]
fn what_lies_beneath_a_mount_that_is_gone_stays() {
    let Some(mut lab) = Lab::new() else { return };
    let beneath = lab.path("a");
    fs::create_dir(&beneath).unwrap();
    fs::write(beneath.join("kept"), "").unwrap();
    let (first, second) = (lab.formatted("ext4", 16), lab.formatted("ext4", 16));
    lab.mount(&[&first], "a");
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let disk = to_clean(&path, DiskKind::Mount, &identity);
    lab.unmount("a");
    assert_eq!(refused(&lab, &disk), "NotMounted");
    assert!(beneath.join("kept").exists());
    let there = lab.mount(&[&second], "a");
    fs::write(there.join("other"), "").unwrap();
    assert_eq!(refused(&lab, &disk), "AnotherDisk");
    assert_eq!(refused(&lab, &to_clean(&path, DiskKind::Mount, &DiskIdentity::default())), "IdentityUnknown");
    assert!(there.join("other").exists());
    for (path, reason) in [(lab.text("missing"), "PathMissing"), ("/elsewhere/a".to_owned(), "PathNotAllowed")] {
        assert_eq!(refused(&lab, &to_clean(&path, DiskKind::Mount, &identity)), reason);
    }
    lab.link(&there, "link");
    assert_eq!(refused(&lab, &to_clean(&lab.text("link"), DiskKind::Mount, &identity)), "UnsafePath");
}

#[test]
fn what_is_mounted_inside_or_elsewhere_too_is_not_cleaned() {
    let Some(mut lab) = Lab::new() else { return };
    let root = lab.tmpfs("a");
    fs::create_dir_all(root.join("x/y")).unwrap();
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let disk = to_clean(&path, DiskKind::Mount, &identity);
    let inside = lab.tmpfs("a/x/y");
    fs::write(inside.join("kept"), "").unwrap();
    assert_eq!(refused(&lab, &disk), "MountInside");
    assert!(inside.join("kept").exists());
    lab.unmount("a/x/y");
    // As the kubelet mounts a part of it for a container.
    lab.bind(&root.join("x"), "b");
    let fault = clean_files(&lab.scope(), &disk, 1000, soon()).unwrap_err();
    assert_eq!(fault.reason(), "StillMounted");
    assert!(fault.to_string().contains(&lab.text("b")), "{fault}");
    assert!(root.join("x/y").exists());
    lab.unmount("b");
    clean(&lab, &disk, 1000).unwrap();
    assert_eq!(entries(&root), 0);
}

#[test]
fn the_table_of_the_node_counts_where_it_has_one() {
    let Some(mut lab) = Lab::new() else { return };
    let root = lab.tmpfs("a");
    fs::write(root.join("kept"), "").unwrap();
    let report = lab.one("a");
    let path = lab.text("a");
    let disk = to_clean(&path, DiskKind::Mount, &report.identity);
    let table = lab.directory.path().join("mountinfo");
    let scope = DiskScope { node_mountinfo: Some(table.clone()), ..lab.scope() };
    let node = format!("1 1 8:1 / / rw - ext4 /dev/sda1 rw\n900001 1 {} / {path} rw - tmpfs none rw\n", report.device);
    let refused = |more: String| {
        fs::write(&table, format!("{node}{more}")).unwrap();
        clean_files(&scope, &disk, 0, soon()).err().map(|fault| fault.reason())
    };
    assert_eq!(refused(String::new()), None);
    let device = &report.device;
    assert_eq!(refused(format!("9 1 {device} / /pods/x rw - tmpfs none rw\n")), Some("StillMounted"));
    assert_eq!(refused(format!("9 1 {device} /deep /pods/x rw - tmpfs none rw\n")), Some("StillMounted"));
    assert_eq!(refused(format!("9 1 8:1 / {path}/inside rw - ext4 none rw\n")), Some("MountInside"));
    assert_eq!(refused(format!("9 1 8:1 / {path}-2 rw - ext4 none rw\n")), None);
    fs::write(&table, "").unwrap();
    assert!(clean_files(&scope, &disk, 1000, soon()).is_err(), "an empty table tells nothing");
    fs::remove_file(&table).unwrap();
    assert_eq!(clean_files(&scope, &disk, 1000, soon()).unwrap_err().reason(), "PathMissing");
    assert!(root.join("kept").exists());
}

#[test]
fn a_directory_that_was_bound_onto_itself_is_cleaned_and_its_neighbour_not() {
    let Some(mut lab) = Lab::new() else { return };
    for name in ["a", "ab"] {
        fs::create_dir(lab.path(name)).unwrap();
        fs::write(lab.path(name).join("file"), "").unwrap();
        lab.bind(&lab.path(name), name);
    }
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 1000).unwrap();
    assert_eq!((entries(&lab.path("a")), entries(&lab.path("ab"))), (0, 1));
    let other = to_clean(&lab.text("ab"), DiskKind::Mount, &identity).identity.clone();
    let moved = lab.text("ab");
    assert_eq!(refused(&lab, &to_clean(&moved, DiskKind::Mount, &other)), "AnotherDisk");
}

#[test]
fn directories_of_subvolumes_are_emptied_where_they_are() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.formatted("btrfs", 128);
    let root = lab.mount(&[&device], "a");
    for subvolume in ["s", "s/plain/t"] {
        fs::create_dir_all(root.join(subvolume).parent().unwrap()).unwrap();
        run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(root.join(subvolume)));
        fs::create_dir_all(root.join(subvolume).join("plain/deeper/deepest")).unwrap();
        fs::write(root.join(subvolume).join("plain/deeper/deepest/file"), "x").unwrap();
    }
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 7).unwrap();
    assert_eq!(entries(&root), 0);
}

#[test]
fn what_cannot_be_removed_is_named() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.formatted("ext4", 16);
    let root = lab.mount(&[&device], "a");
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/immutable"), "").unwrap();
    run(Command::new("chattr").arg("+i").arg(root.join("d/immutable")));
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let fault = clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 1000).unwrap_err();
    assert!(fault.to_string().contains("a/d/immutable: EPERM"), "{fault}");
    run(Command::new("chattr").arg("-i").arg(root.join("d/immutable")));
    clean(&lab, &to_clean(&path, DiskKind::Mount, &identity), 1000).unwrap();
}

#[test]
fn the_node_must_have_the_same_mount() {
    let Some(mut lab) = Lab::new() else { return };
    let root = lab.tmpfs("a");
    fs::create_dir(root.join("kept")).unwrap();
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let disk = to_clean(&path, DiskKind::Mount, &identity);
    let scope = |node: &Path| DiskScope {
        allowed: lab.scope().allowed.with_node_root(Some(node.to_owned())),
        node_mountinfo: Some("/proc/1/mountinfo".into()),
        ..lab.scope()
    };
    let (same, none) = (scope(Path::new("/proc/self/root")), scope(&lab.directory.path().join("base")));
    assert_eq!(clean_files(&none, &disk, 1000, soon()).unwrap_err().reason(), "NotMounted");
    assert_eq!(presence(&none, &path, DiskKind::Mount, &identity).0, crate::crd::Presence::Absent);
    let missing = scope(Path::new("/missing"));
    assert!(clean_files(&missing, &disk, 1000, soon()).is_err());
    assert_eq!(presence(&missing, &path, DiskKind::Mount, &identity).0, crate::crd::Presence::Unknown);
    assert!(root.join("kept").exists());
    // Process 1 may have another table where the tests run in a container.
    let own = DiskScope { node_mountinfo: Some("/proc/self/mountinfo".into()), ..same };
    assert!(!clean_files(&own, &disk, 1000, soon()).unwrap().left);
    assert_eq!(entries(&root), 0);
}
