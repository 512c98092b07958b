//! What an entry of a directory is: a mount, a device, or no disk. Nothing is opened for reading to tell that.

use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, fstat, fstatvfs,
    openat2, statx,
};
use rustix::io::Errno;

use super::fault::{DiskFault, failed, io_failed};
use super::scope::{Directory, DiskScope, link_target};
use super::sysfs::{BlockDevice, Marks, Sysfs, number};
use crate::agent::disk::base::open_beneath;
use crate::agent::disk::mounts::{self, Mount, SeenByNode};
use crate::crd::{DiskKind, DiskReport, RootOwner};

/// An entry is opened as a handle: that reads nothing, and triggers nothing.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// File systems whose `statfs` tells one from another. That of XFS is the number of its device.
const TELLING_FSID: [&str; 5] = ["ext2", "ext3", "ext4", "btrfs", "tmpfs"];

/// What was found at an entry.
#[derive(Debug)]
pub(super) struct Found {
    pub path: String,
    pub kind: DiskKind,
    /// The block device, where there is one.
    pub device: Option<BlockDevice>,
    /// Its number; that of the file system where there is none.
    pub number: String,
    pub marks: Marks,
    /// `None` when it could not be read.
    pub bytes: Option<u64>,
    /// A file system that is mounted, or a device, that takes no writes. `None` when it could not be read.
    pub read_only: Option<bool>,
    pub mount: Option<MountFound>,
    /// A handle on the root of the mount, or on the file of the device.
    pub handle: OwnedFd,
}

/// What a mount has and a device has not.
#[derive(Debug)]
pub(super) struct MountFound {
    pub mount: Mount,
    pub root: RootOwner,
}

impl Found {
    /// Looks at one entry.
    pub(super) fn look(scope: &DiskScope, directory: &Directory, name: &str) -> Result<Self, DiskFault> {
        let path = directory.entry(name);
        let handle = match open_beneath(directory.fd.as_fd(), name, HANDLE, ResolveFlags::empty()) {
            Err(Errno::NOENT) => return Err(DiskFault::PathMissing { path }),
            opened => opened.map_err(failed("open", &path))?,
        };
        let stat = fstat(&handle).map_err(failed("look at", &path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::mount(scope, &path, &directory.real.join(name), handle),
            FileType::BlockDevice => Self::device(scope, path, handle),
            FileType::Symlink => Self::device(scope, path.clone(), follow(directory, name, &path)?),
            FileType::RegularFile => Err(DiskFault::NotADisk { path, what: "a file" }),
            FileType::CharacterDevice => Err(DiskFault::NotADisk { path, what: "a character device" }),
            FileType::Socket => Err(DiskFault::NotADisk { path, what: "a socket" }),
            FileType::Fifo => Err(DiskFault::NotADisk { path, what: "a pipe" }),
            FileType::Unknown => Err(DiskFault::NotADisk { path, what: "something unknown" }),
        }
    }

    /// What is mounted at an open directory whose real path this is.
    pub(super) fn mount(scope: &DiskScope, path: &str, real: &Path, handle: OwnedFd) -> Result<Self, DiskFault> {
        let mount = mount_of(&handle, path, real)?;
        if let Some(node) = scope.allowed.node_root() {
            let seen = mounts::seen_by_node(node, Path::new(path), &handle);
            match seen.map_err(failed("look at", &format!("{}{path}", node.display())))? {
                SeenByNode::Same => {}
                SeenByNode::Another => return Err(DiskFault::MountNotSeen { path: path.to_owned() }),
                SeenByNode::Nothing => return Err(DiskFault::NotMounted { path: path.to_owned() }),
            }
        }
        let size = fstatvfs(&handle).map_err(failed("measure", path))?;
        let stat = fstat(&handle).map_err(failed("look at", path))?;
        let root = RootOwner { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 };
        let number = device_of(&mount).map_err(|error| io_failed("look up the device of", path, &error))?;
        let device = scope.sysfs.device(&number);
        let device = device.map_err(|error| DiskFault::cannot_read(path, "the device", &error))?;
        let mut marks = device.as_ref().map(BlockDevice::marks).unwrap_or_default();
        if let Some(device) = &device {
            match device.file_system_uuid() {
                Ok(Some(uuid)) => drop(marks.identity.0.insert("fs".to_owned(), uuid)),
                Ok(None) => {}
                Err(error) => marks.unread.push(format!("disk/by-uuid: {error}")),
            }
        }
        if TELLING_FSID.contains(&mount.file_system.as_str()) && size.f_fsid != 0 {
            marks.identity.0.insert("fsid".to_owned(), format!("{:016x}", size.f_fsid));
        }
        if mount.root != Path::new("/") {
            // Another directory of the same disk is another volume.
            marks.identity.0.values_mut().for_each(|mark| *mark = format!("{mark}:{}", mount.root.display()));
        }
        Ok(Self {
            path: path.to_owned(),
            kind: DiskKind::Mount,
            device,
            number,
            marks,
            bytes: Some(size.f_blocks.saturating_mul(size.f_frsize)),
            read_only: Some(mount.read_only || size.f_flag.contains(StatVfsMountFlags::RDONLY)),
            mount: Some(MountFound { mount, root }),
            handle,
        })
    }

    fn device(scope: &DiskScope, path: String, handle: OwnedFd) -> Result<Self, DiskFault> {
        let cannot_read = |what, error: &std::io::Error| DiskFault::cannot_read(&path, what, error);
        let number = number(fstat(&handle).map_err(failed("look at", &path))?.st_rdev);
        let known = scope.sysfs.device(&number).map_err(|error| cannot_read("the device", &error))?;
        let Some(device) = known else {
            // The file is there, and the kernel has no such device any more.
            return Err(cannot_read("the device", &Errno::NXIO.into()));
        };
        let bytes = device.bytes().map_err(|error| cannot_read("the size", &error))?;
        let read_only = device.is_read_only().map_err(|error| cannot_read("whether writes are taken", &error))?;
        let marks = device.marks();
        let device = Some(device);
        Ok(Self { path, kind: DiskKind::Device, device, number, marks, bytes, read_only, mount: None, handle })
    }

    /// The report of it, as usable.
    pub(super) fn report(&self) -> DiskReport {
        let property = |read: fn(&BlockDevice) -> std::io::Result<Option<String>>| {
            self.device.as_ref().and_then(|device| read(device).ok().flatten())
        };
        let mount = self.mount.as_ref();
        let whole = Path::new("/");
        let mount_root = mount.map(|it| it.mount.root.as_path()).filter(|root| *root != whole);
        DiskReport {
            path: self.path.clone(),
            usable: true,
            kind: self.kind,
            device: self.number.clone(),
            mount_root: mount_root.map(|root| root.to_string_lossy().into_owned()).unwrap_or_default(),
            identity: self.marks.identity.clone(),
            capacity_bytes: i64::try_from(self.bytes.unwrap_or(0)).unwrap_or(i64::MAX),
            file_system: mount.map(|it| it.mount.file_system.clone()).unwrap_or_default(),
            model: property(BlockDevice::model).unwrap_or_default(),
            rotational: self.device.as_ref().and_then(|device| device.rotates().ok().flatten()),
            root: mount.map(|it| it.root),
            ..DiskReport::default()
        }
    }
}

/// The mount whose root is open. Number and path must agree: something may have been mounted since it was opened.
fn mount_of(handle: &OwnedFd, path: &str, real: &Path) -> Result<Mount, DiskFault> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found = statx(handle, "", AtFlags::EMPTY_PATH, flags).map_err(failed("look at", path))?;
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        || found.stx_mask & StatxFlags::MNT_ID.bits() == 0
    {
        return Err(failed("find the mount of", path)(Errno::OPNOTSUPP));
    }
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(DiskFault::NotMounted { path: path.to_owned() });
    }
    let listed = DiskScope::own_mounts()?.into_iter().find(|mount| mount.id == found.stx_mnt_id);
    listed.filter(|mount| mount.point == real).ok_or_else(|| DiskFault::Changed { path: path.to_owned() })
}

/// Number of the block device of a mount. File systems over several devices have numbers of their own, and name one device.
fn device_of(mount: &Mount) -> std::io::Result<String> {
    if mount.device.starts_with("0:") && mount.source.starts_with("/dev/") {
        return Ok(Sysfs::number_of(Path::new(&mount.source))?.unwrap_or_else(|| mount.device.clone()));
    }
    Ok(mount.device.clone())
}

/// A handle on the device that a link leads to.
fn follow(directory: &Directory, name: &str, path: &str) -> Result<OwnedFd, DiskFault> {
    let target = || link_target(&directory.fd, name);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = || openat2(&directory.fd, name, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
    let handle = match mounts::retry(open) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(DiskFault::LinkBroken { path: path.to_owned(), target: target() });
        }
        opened => opened.map_err(failed("follow the link", path))?,
    };
    let mode = fstat(&handle).map_err(failed("look at", path))?.st_mode;
    if FileType::from_raw_mode(mode) == FileType::BlockDevice {
        Ok(handle)
    } else {
        Err(DiskFault::Link { path: path.to_owned(), target: target() })
    }
}

/// Where the file of an open handle can be opened again, for reading or writing: the same file, whatever has its name now.
pub(super) fn again(handle: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}
