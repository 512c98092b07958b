use std::os::unix::ffi::OsStrExt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::crd::Presence;

fn pairs(found: &[(String, String)]) -> Vec<(&str, &str)> {
    found.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect()
}

#[test]
fn each_entry_is_what_it_is_and_a_stray_one_harms_only_itself() {
    let Some(mut lab) = Lab::new() else { return };
    lab.tmpfs("tmpfs");
    let own = lab.path("bound");
    fs::create_dir(&own).unwrap();
    lab.bind(&own, "bound");
    fs::create_dir(lab.path("plain")).unwrap();
    fs::write(lab.path("file"), "").unwrap();
    lab.link(lab.path("tmpfs"), "link-to-mount");
    lab.link("/dev/missing-disk", "link-to-nothing");
    lab.link("/dev/null", "link-to-null");
    let device = lab.device(8);
    lab.link(&device, "link-to-device");
    run(Command::new("mkfifo").arg(lab.path("pipe")));
    fs::write(lab.base().join(std::ffi::OsStr::from_bytes(b"zz\xff")), "").unwrap();
    let expected = [
        ("bound", "usable"),
        ("file", "NotADisk"),
        ("link-to-device", "usable"),
        ("link-to-mount", "Link"),
        ("link-to-nothing", "LinkBroken"),
        ("link-to-null", "Link"),
        ("pipe", "NotADisk"),
        ("plain", "NotMounted"),
        ("tmpfs", "usable"),
        ("zz\u{fffd}", "BadName"),
    ];
    assert_eq!(pairs(&lab.reasons(&rule())), expected);
    let linked = lab.one("link-to-device");
    assert_eq!((linked.kind, linked.capacity_bytes), (DiskKind::Device, 8 << 20));
    assert!(linked.identity.0["loop"].ends_with("image-0"), "{linked:?}");
    let tmpfs = lab.one("tmpfs");
    assert_eq!((tmpfs.file_system.as_str(), tmpfs.capacity_bytes), ("tmpfs", 8 << 20));
    assert_eq!(tmpfs.root.unwrap().mode, 0o1777);
    assert!(tmpfs.identity.0.contains_key("fsid"), "{tmpfs:?}");
    let bound = lab.one("bound");
    assert!(bound.mount_root.ends_with("/base/disks/bound"), "{bound:?}");
    assert!(bound.identity.0.values().all(|mark| mark.ends_with("/base/disks/bound")), "{bound:?}");
    assert_eq!(pairs(&lab.reasons(&block()))[0], ("bound", "ModeMismatch"));
}

#[test]
fn directories_that_were_not_given_are_refused_and_what_is_missing_is_told() {
    let Some(lab) = Lab::new() else { return };
    let other = format!("{}-other", lab.base().display());
    fs::create_dir(&other).unwrap();
    lab.link(&other, "linked");
    let one_rule = rule();
    let rules = [Rule { pool: "pool", rule: &one_rule }];
    for (directory, expected) in [
        (other.as_str(), "PathNotAllowed"),
        ("/", "BadPath"),
        (&format!("{}/../disks-other", lab.base().display()), "BadPath"),
        (&lab.text("missing"), "PathMissing"),
        (&lab.text("linked"), "Link"),
    ] {
        let found = look(&lab.scope(), directory, &rules);
        assert_eq!((found.len(), reason(&found[0]).as_str()), (1, expected), "{directory}");
        assert_eq!((found[0].path.as_str(), found[0].pool.as_str()), (directory, "pool"));
    }
}

#[test]
fn a_rule_that_cannot_be_read_offers_nothing_and_harms_no_other() {
    let Some(mut lab) = Lab::new() else { return };
    lab.tmpfs("a");
    let bad_names = DiskRule { names: vec!["a".to_owned(), "[".to_owned()], ..rule() };
    let bad_size = DiskRule { min_size: Some(Quantity("1 Gi".to_owned())), ..rule() };
    let good = rule();
    let rules = [&bad_names, &bad_size, &good].map(|rule| Rule { pool: "pool", rule });
    let found = look(&lab.scope(), lab.base().to_str().unwrap(), &rules);
    assert_eq!(found.iter().map(reason).collect::<Vec<_>>(), ["BadPattern", "BadSize", "usable"]);
    assert!(found[0].message.contains("`[`"), "{}", found[0].message);
}

#[test]
fn disks_of_other_sizes_and_kinds_are_passed_over_and_unknown_ones_told() {
    let Some(mut lab) = Lab::new() else { return };
    lab.tmpfs("a");
    let (mib, quantity) = (1_i64 << 20, |text: &str| Some(Quantity(text.to_owned())));
    for (least, most, shown) in [("8Mi", "8388608", true), ("8388609", "1Gi", false), ("1", "8388607", false)] {
        let sized = DiskRule { min_size: quantity(least), max_size: quantity(most), ..rule() };
        assert_eq!(lab.look(&sized).len(), usize::from(shown), "{least} {most} {mib}");
    }
    assert_eq!(lab.reasons(&DiskRule { names: vec!["b*".to_owned()], ..rule() }), []);
    let asked = DiskRule { models: vec!["*".to_owned()], ..rule() };
    assert_eq!(pairs(&lab.reasons(&asked)), [("a", "ModelUnknown")]);
    let asked = DiskRule { rotational: Some(false), ..rule() };
    assert_eq!(pairs(&lab.reasons(&asked)), [("a", "RotationalUnknown")]);
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(lab.path("a")));
    assert_eq!(pairs(&lab.reasons(&rule())), [("a", "ReadOnlyFileSystem")]);
}

#[test]
fn a_device_that_is_used_or_holds_something_is_not_offered() {
    let Some(mut lab) = Lab::new() else { return };
    let (empty, formatted) = (lab.device(8), lab.formatted("ext4", 16));
    lab.link(&empty, "empty");
    lab.link(&formatted, "formatted");
    assert_eq!(pairs(&lab.reasons(&block())), [("empty", "usable"), ("formatted", "HasData")]);
    let with_data = DiskRule { allow_data: true, ..block() };
    assert_eq!(pairs(&lab.reasons(&with_data)), [("empty", "usable"), ("formatted", "usable")]);
    // A volume already: what a claim has written is no fault.
    let mut scope = lab.scope();
    scope.known.insert(lab.text("formatted"), lab.one("formatted").identity);
    let only = DiskRule { names: vec!["formatted".to_owned()], ..block() };
    let base = lab.base().to_str().unwrap().to_owned();
    let looked = |scope: &DiskScope| look(scope, &base, &[Rule { pool: "p", rule: &only }]);
    assert_eq!(reason(&looked(&scope)[0]), "usable");
    scope.known.insert(lab.text("formatted"), DiskIdentity::default());
    assert_eq!(reason(&looked(&scope)[0]), "HasData");
    // Mounted outside of what the agent was given.
    let outside = lab.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    run(Command::new("mount").arg(&formatted).arg(&outside));
    lab.mounts.push(outside);
    scope.known.insert(lab.text("formatted"), lab.one("formatted").identity);
    assert_eq!(reason(&looked(&scope)[0]), "InUse");
    scope.claimed.insert(lab.text("formatted"));
    assert_eq!(reason(&looked(&scope)[0]), "usable", "a claim has it: it is mounted by right");
    // By another name it is the same disk, and is not opened.
    lab.link(&formatted, "again");
    let again = DiskRule { names: vec!["again".to_owned()], ..block() };
    let found = look(&scope, &base, &[Rule { pool: "p", rule: &again }]);
    assert_eq!(reason(&found[0]), "Duplicate");
    fs::remove_file(lab.path("again")).unwrap();
    // The only sign of a loop device on a device is in its own directory.
    let behind = run(Command::new("losetup").args(["-f", "--show", &empty]));
    lab.loops.insert(0, behind);
    let found = lab.look(&with_data);
    assert_eq!(found.iter().map(reason).collect::<Vec<_>>(), ["InUse", "InUse"]);
    assert!(found[0].message.contains("behind loop"), "{}", found[0].message);
    assert!(found[1].message.contains("/outside"), "{}", found[1].message);
}

#[test]
fn one_disk_at_two_entries_is_offered_once() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.device(8);
    lab.link(&device, "b");
    lab.link(&device, "a");
    let mounted = lab.tmpfs("m");
    fs::create_dir(mounted.join("inside")).unwrap();
    lab.bind(&mounted.join("inside"), "n");
    let found = lab.look(&rule());
    assert_eq!(found.iter().map(reason).collect::<Vec<_>>(), ["usable", "Duplicate", "usable", "Duplicate"]);
    assert!(found[1].message.contains(&lab.text("a")) && found[3].message.contains(&lab.text("m")), "{found:?}");
    let one = rule();
    let twice = look(
        &lab.scope(),
        lab.base().to_str().unwrap(),
        &[Rule { pool: "first", rule: &one }, Rule { pool: "second", rule: &one }],
    );
    let usable: Vec<&str> = twice.iter().filter(|it| it.usable).map(|it| it.pool.as_str()).collect();
    assert_eq!(usable, ["first", "first"]);
    assert!(twice.iter().any(|it| it.pool == "second" && it.reason == "Overlap"), "{twice:?}");
}

#[test]
fn reports_of_all_directories_are_compared() {
    let report = |path: &str, device: &str, mount_root: &str| DiskReport {
        path: path.to_owned(),
        usable: true,
        device: device.to_owned(),
        mount_root: mount_root.to_owned(),
        ..DiskReport::default()
    };
    let mut reports = [
        report("/z/b", "8:1", "/x/y"),
        report("/a/b/c", "8:2", ""),
        report("/a/b", "8:1", "/x"),
        report("/a/b-2", "8:1", "/xy"),
        report("/c", "0:50", ""),
        report("/d", "8:3", "/x"),
        DiskReport { kind: DiskKind::Device, ..report("/e", "8:3", "") },
    ];
    mark_duplicates(&mut reports);
    let reasons: Vec<&str> = reports.iter().map(|it| it.reason.as_str()).collect();
    assert_eq!(reasons, ["Duplicate", "Overlap", "", "", "", "", "Duplicate"]);
}

#[test]
fn a_disk_is_present_absent_another_or_unknown() {
    let Some(mut lab) = Lab::new() else { return };
    let (first, second) = (lab.formatted("ext4", 16), lab.formatted("ext4", 16));
    lab.mount(&[&first], "a");
    let (scope, path, identity) = (lab.scope(), lab.text("a"), lab.one("a").identity);
    let seen = |identity: &DiskIdentity| presence(&scope, &path, DiskKind::Mount, identity);
    let (state, said, report) = seen(&identity);
    assert_eq!((state, report.unwrap().file_system.as_str()), (Presence::Present, "ext4"), "{said}");
    assert_eq!(seen(&DiskIdentity::default()).0, Presence::Unknown, "it has marks, and had none");
    assert_eq!(presence(&scope, &path, DiskKind::Device, &identity).0, Presence::Another);
    lab.unmount("a");
    assert_eq!(seen(&identity).0, Presence::Absent);
    lab.mount(&[&second], "a");
    assert_eq!(seen(&identity).0, Presence::Another);
    assert_eq!(presence(&scope, &lab.text("missing"), DiskKind::Mount, &identity).0, Presence::Absent);
    assert_eq!(presence(&scope, "/elsewhere/a", DiskKind::Mount, &identity).0, Presence::Unknown);
    fs::remove_dir(lab.directory.path().join("probe")).ok();
    let gone = DiskScope::new(AllowedBases::new(["/missing/disks"]).unwrap());
    let (state, said, _) = presence(&gone, "/missing/disks/a", DiskKind::Mount, &identity);
    assert_eq!(state, Presence::Unknown, "what the agent was given is not there: {said}");
}

#[test]
fn file_systems_are_told_apart_and_a_new_one_on_the_same_device_is_another() {
    let Some(mut lab) = Lab::new() else { return };
    for (kind, mib) in [("ext4", 16), ("btrfs", 128), ("xfs", 320)] {
        let device = lab.formatted(kind, mib);
        lab.mount(&[&device], kind);
        let found = lab.one(kind);
        assert!(found.usable && found.file_system == kind, "{found:?}");
        assert!(found.identity.0.contains_key("loop"), "the device of {kind} is known: {found:?}");
        assert_eq!(found.identity.0.contains_key("fsid"), kind != "xfs", "{found:?}");
        lab.unmount(kind);
        let again: &[&str] = if kind == "ext4" { &["-q", "-F"] } else { &["-q", "-f"] };
        run(Command::new(format!("mkfs.{kind}")).args(again).arg(&device));
        lab.mount(&[&device], kind);
        let (state, said, _) = presence(&lab.scope(), &lab.text(kind), DiskKind::Mount, &found.identity);
        // Of XFS only a link of udev would tell.
        let expected = if kind == "xfs" { Presence::Present } else { Presence::Another };
        assert_eq!(state, expected, "{said}");
    }
}
