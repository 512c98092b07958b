use std::os::unix::fs::FileExt;

use super::*;

fn write_at(device: &str, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// A child process that another test starts holds every open file until it runs its program: a device that was open for one alone
/// a moment ago may still be.
fn patiently<T>(attempt: impl Fn() -> Result<T, DiskFault>) -> Result<T, DiskFault> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Err(DiskFault::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
}

fn is_zero(device: &str) -> bool {
    fs::read(device).unwrap().iter().all(|byte| *byte == 0)
}

#[test]
fn a_device_is_zeroed_slice_by_slice_and_read_back() {
    let Some(mut lab) = Lab::new() else { return };
    let device = lab.device(160);
    lab.link(&device, "a");
    write_at(&device, 0, &vec![0xa5; 160 << 20]);
    let (path, identity) = (lab.text("a"), lab.one("a").identity);
    let (scope, disk) = (lab.scope(), to_clean(&path, DiskKind::Device, &identity));
    assert_eq!(patiently(|| verify_device(&scope, &disk)).unwrap_err().reason(), "NotZero");
    let mut done = Vec::new();
    while done.last() != Some(&(160 << 20)) {
        // The time is over before it begins: one chunk each.
        let from = done.last().copied().unwrap_or(0);
        let slice = patiently(|| clean_device(&scope, &disk, from, Instant::now())).unwrap();
        assert_eq!(slice.total, 160 << 20);
        done.push(slice.done);
    }
    assert_eq!(done, [64 << 20, 128 << 20, 160 << 20]);
    patiently(|| verify_device(&scope, &disk)).unwrap();
    assert!(is_zero(&device));
    // Something at the end of what is told to be done already.
    write_at(&device, (160 << 20) - 1, &[1]);
    let fault = patiently(|| verify_device(&scope, &disk)).unwrap_err();
    assert_eq!(fault, DiskFault::NotZero { path: path.clone(), offset: (160 << 20) - 1 });
    write_at(&device, 5, &[1]);
    let fault = patiently(|| clean_device(&scope, &disk, 160 << 20, soon())).unwrap_err();
    assert_eq!(fault, DiskFault::NotZero { path: path.clone(), offset: 5 });
}

#[test]
fn another_device_and_one_in_use_stay_as_they_are() {
    let Some(mut lab) = Lab::new() else { return };
    let (device, other) = (lab.formatted("ext4", 16), lab.device(16));
    lab.link(&device, "a");
    lab.link(&other, "b");
    let (scope, path) = (lab.scope(), lab.text("a"));
    let refused = |path: &str, kind, identity: &DiskIdentity| {
        let disk = to_clean(path, kind, identity);
        clean_device(&scope, &disk, 0, soon()).map_or_else(|fault| fault.reason(), |_| "cleaned")
    };
    let (ours, theirs) = (lab.one("a").identity, lab.one("b").identity);
    assert_eq!(refused(&path, DiskKind::Device, &theirs), "AnotherDisk");
    assert_eq!(refused(&path, DiskKind::Device, &DiskIdentity::default()), "IdentityUnknown");
    assert_eq!(refused(&path, DiskKind::Mount, &ours), "NotADisk");
    let point = lab.directory.path().join("mounted");
    fs::create_dir(&point).unwrap();
    run(Command::new("mount").arg(&device).arg(&point));
    lab.mounts.push(point.clone());
    assert_eq!(refused(&path, DiskKind::Device, &ours), "InUse");
    run(Command::new("umount").arg(&point));
    let behind = run(Command::new("losetup").args(["-f", "--show", &device]));
    lab.loops.insert(0, behind.clone());
    assert_eq!(refused(&path, DiskKind::Device, &ours), "InUse");
    // Its number may be that of another test's a moment later.
    lab.loops.remove(0);
    run(Command::new("losetup").args(["-d", &behind]));
    let held = rustix::fs::open(
        device.as_str(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::empty(),
    );
    assert_eq!(refused(&path, DiskKind::Device, &ours), "InUse", "a mount in another namespace looks like this");
    drop(held.unwrap());
    assert!(!is_zero(&device), "nothing was written");
    fs::remove_file(lab.path("a")).unwrap();
    assert_eq!(refused(&path, DiskKind::Device, &ours), "PathMissing");
    lab.link(&device, "a");
    let disk = to_clean(&path, DiskKind::Device, &ours);
    patiently(|| clean_device(&scope, &disk, 0, soon())).unwrap();
    assert!(is_zero(&device));
}

#[test]
fn a_device_that_takes_no_writes_is_neither_offered_nor_cleaned() {
    let Some(mut lab) = Lab::new() else { return };
    let image = lab.directory.path().join("read-only");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let device = run(Command::new("losetup").args(["-r", "-f", "--show"]).arg(&image));
    lab.loops.push(device.clone());
    lab.link(&device, "a");
    let report = lab.one("a");
    assert_eq!(reason(&report), "ReadOnlyDevice");
    let path = lab.text("a");
    let fault = clean_device(&lab.scope(), &to_clean(&path, DiskKind::Device, &report.identity), 0, soon());
    assert!(fault.is_err(), "{fault:?}");
}
