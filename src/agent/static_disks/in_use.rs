//! Whether somebody uses a device, and what is on it. A device that is not known to be free is not offered.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::entry::{Found, again};
use super::fault::DiskFault;
use super::scope::DiskScope;
use super::signatures;
use super::sysfs::{BlockDevice, Sysfs, number};
use crate::agent::disk::mounts::Mount;

/// Refuses a device that is mounted, has other devices made of it, or is behind a loop device.
pub(super) fn refuse_used(scope: &DiskScope, found: &Found) -> Result<(), DiskFault> {
    let Some(device) = &found.device else { return Ok(()) };
    let in_use = |by: String| DiskFault::InUse { path: found.path.clone(), by };
    if let Some(by) = made_of_it(&found.path, device)? {
        return Err(in_use(by));
    }
    refuse_mounted(scope, found)
}

/// Refuses a device that is mounted, or is behind a loop device. Partitions are no hindrance for this: a claim may have made them.
pub(super) fn refuse_mounted(scope: &DiskScope, found: &Found) -> Result<(), DiskFault> {
    let Some(device) = &found.device else { return Ok(()) };
    let in_use = |by: String| DiskFault::InUse { path: found.path.clone(), by };
    for mounts in [DiskScope::own_mounts()?, scope.node_mounts()?] {
        if let Some(mount) = mounts.iter().find(|mount| is_mount_of(mount, found, device)) {
            return Err(in_use(format!("it is mounted at {}", mount.point.display())));
        }
    }
    let loops = scope.sysfs.loops();
    for (name, behind) in loops.map_err(|error| DiskFault::cannot_read(&found.path, "the loop devices", &error))? {
        let leads_there = Sysfs::number_of(&behind).ok().flatten().as_deref() == Some(&*found.number);
        if leads_there || behind.file_name().is_some_and(|last| last == device.name().as_str()) {
            return Err(in_use(format!("it is behind {name}")));
        }
    }
    Ok(())
}

/// Devices that were made of it, in words.
fn made_of_it(path: &str, device: &BlockDevice) -> Result<Option<String>, DiskFault> {
    let holders = device.holders().map_err(|error| DiskFault::cannot_read(path, "the holders", &error))?;
    if !holders.is_empty() {
        return Ok(Some(format!("{} was made of it", holders.join(", "))));
    }
    let partitions = device.partitions().map_err(|error| DiskFault::cannot_read(path, "the partitions", &error))?;
    Ok((!partitions.is_empty()).then(|| format!("it has partitions ({})", partitions.join(", "))))
}

/// File systems over several devices name one of them.
fn is_mount_of(mount: &Mount, found: &Found, device: &BlockDevice) -> bool {
    mount.device == found.number
        || (mount.device.starts_with("0:")
            && mount.source.starts_with("/dev/")
            && (Path::new(&mount.source).file_name().is_some_and(|last| last == device.name().as_str())
                || Sysfs::number_of(Path::new(&mount.source)).ok().flatten().as_deref() == Some(&*found.number)))
}

/// Refuses a device with something on it.
pub(super) fn refuse_data(found: &Found) -> Result<(), DiskFault> {
    let cannot_read = |error: &std::io::Error| DiskFault::cannot_read(&found.path, "what is on the device", error);
    let mut file = open_alone(found, OFlags::RDONLY)?;
    let size = found.bytes.unwrap_or(0);
    match signatures::find(&mut file, size).map_err(|error| cannot_read(&error))? {
        Some(what) => Err(DiskFault::HasData { path: found.path.clone(), what: what.to_owned() }),
        None => Ok(()),
    }
}

/// Refuses a device that cannot be opened alone. One that must not be opened at all tells nothing here.
pub(super) fn refuse_busy(found: &Found) -> Result<(), DiskFault> {
    match open_alone(found, OFlags::RDONLY) {
        Err(fault @ DiskFault::InUse { .. }) => Err(fault),
        _ => Ok(()),
    }
}

/// Opens the device for this process alone: the kernel refuses that while it is mounted, or a part of something else, in
/// whatever namespace.
pub(super) fn open_alone(found: &Found, access: OFlags) -> Result<File, DiskFault> {
    let flags = access | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let cannot_read = |error: &std::io::Error| DiskFault::cannot_read(&found.path, "the device", error);
    let file = match rustix::fs::open(again(&found.handle), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::BUSY) => {
            let holders = found.device.as_ref().and_then(|device| made_of_it(&found.path, device).ok().flatten());
            let by = holders.unwrap_or_else(|| "another program, or another mount namespace, has it".to_owned());
            return Err(DiskFault::InUse { path: found.path.clone(), by });
        }
        Err(errno) => return Err(cannot_read(&errno.into())),
    };
    let opened = file.metadata().map_err(|error| cannot_read(&error))?;
    if number(opened.rdev()) == found.number { Ok(file) } else { Err(DiskFault::Changed { path: found.path.clone() }) }
}
