//! The base of a pool on this node, and what an agent keeps in it beside the volumes.
//!
//! ```text
//! <base>/.latebind/id               identity of the base; moves with the disk
//! <base>/.latebind/volumes/<claim>  marker: who owns which directory
//! <base>/.latebind/new/<claim>      a directory that is being made
//! <base>/.trash/                    directories of deleted volumes, to be emptied
//! <base>/.archive/<claim>           directories of deleted volumes of classes with `onDelete: archive`
//! ```
//! Nothing is kept open between two operations: a disk that is mounted later is seen at once.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat2, renameat, unlinkat};
use rustix::io::Errno;

use super::error::{DirectoryError, failed};
use super::mounts::{self, Mount};
use crate::crd::checked_base;

/// A file system's inode number of the root of a btrfs subvolume.
const BTRFS_ROOT_INODE: u64 = 256;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const OWN: &str = ".latebind";
const PRIVATE: Mode = Mode::RWXU;

/// The directories that an agent may work beneath. Whoever may write a pool cannot leave them.
#[derive(Clone, Debug)]
pub struct AllowedBases(Vec<PathBuf>);

impl AllowedBases {
    /// Checks the paths.
    ///
    /// # Errors
    /// When one is not absolute and plain, or there is none.
    pub fn new<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> Result<Self, DirectoryError> {
        let checked: Result<Vec<_>, _> = paths.into_iter().map(|path| checked_base(path.as_ref())).collect();
        let checked = checked.map_err(|error| DirectoryError::Order(error.to_string()))?;
        if checked.is_empty() {
            return Err(DirectoryError::Order("the agent was given no base path".to_owned()));
        }
        Ok(Self(checked))
    }

    /// The allowed path that holds `path`, and the rest of it.
    fn holding<'a>(&self, path: &'a Path) -> Option<(&Path, &'a Path)> {
        self.0.iter().find_map(|allowed| Some((allowed.as_path(), path.strip_prefix(allowed).ok()?)))
    }

    fn list(&self) -> String {
        self.0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl std::fmt::Display for AllowedBases {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.list())
    }
}

/// An open base.
pub struct Base {
    path: String,
    real: PathBuf,
    root: OwnedFd,
    mount: Option<Mount>,
    is_mount_point: bool,
}

impl Base {
    /// Opens the base. It is made, with mode 0700, if it is missing and need not be a mount.
    ///
    /// # Errors
    /// When the path is not allowed, cannot be opened without following a link, or lacks its mount.
    pub fn open(allowed: &AllowedBases, path: &str, require_mount: bool) -> Result<Self, DirectoryError> {
        Self::open_or(allowed, path, require_mount, !require_mount)
    }

    /// The same for a base that is not to be made.
    pub(crate) fn open_existing(allowed: &AllowedBases, path: &str) -> Result<Self, DirectoryError> {
        Self::open_or(allowed, path, false, false)
    }

    fn open_or(allowed: &AllowedBases, path: &str, require_mount: bool, make: bool) -> Result<Self, DirectoryError> {
        let checked = checked_base(path).map_err(|error| DirectoryError::Order(error.to_string()))?;
        let not_allowed = || DirectoryError::NotAllowed { path: path.to_owned(), allowed: allowed.list() };
        let (top, rest) = allowed.holding(&checked).ok_or_else(not_allowed)?;
        // The administrator named this one to the agent itself: its own links are followed.
        let mut root =
            rustix::fs::open(top, DIRECTORY, Mode::empty()).map_err(failed("open", &top.to_string_lossy()))?;
        for component in rest.components() {
            let name = component.as_os_str();
            if make {
                make_directory(root.as_fd(), name).map_err(failed("make", path))?;
            }
            // Mount points may be crossed here: disks are mounted beneath what the agent was given.
            let opened = open_beneath(root.as_fd(), name, DIRECTORY, ResolveFlags::empty());
            root = match opened {
                Err(Errno::NOENT) if require_mount => return Err(DirectoryError::NotMounted { path: path.to_owned() }),
                opened => opened.map_err(failed("open", path))?,
            };
        }
        let real = mounts::real_path(&root).map_err(failed("look up", path))?;
        let all = mounts::all().map_err(|error| io_failed("read", mounts::MOUNT_INFO, &error))?;
        let inode = fstat(&root).map_err(failed("look at", path))?.st_ino;
        let is_mount_point = mounts::at(&all, &real).is_some_and(|mount| is_whole(mount, inode));
        if require_mount && !is_mount_point {
            return Err(DirectoryError::NotMounted { path: path.to_owned() });
        }
        let mount = mounts::holding(&all, &real).cloned();
        Ok(Self { path: path.to_owned(), real, root, mount, is_mount_point })
    }

    /// The path that the pool gave.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path that the kernel has for it, with every link above it followed.
    #[must_use]
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// The mount that holds it.
    #[must_use]
    pub fn mount(&self) -> Option<&Mount> {
        self.mount.as_ref()
    }

    /// True when a whole file system is mounted at the path. A bind mount of a directory is none.
    #[must_use]
    pub fn is_mount_point(&self) -> bool {
        self.is_mount_point
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The identity of the base, if it has one already.
    pub(crate) fn known_id(&self) -> Result<Option<String>, DirectoryError> {
        let own = match open_within(self.root(), OWN, DIRECTORY) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(failed("open", &self.inside(OWN)))?,
        };
        let found = read_small(own.as_fd(), "id", 64).map_err(failed("read", &self.inside(".latebind/id")))?;
        Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|id| !id.is_empty()))
    }

    /// The identity of the base; it gets one if it has none.
    pub(crate) fn id(&self) -> Result<String, DirectoryError> {
        if let Some(id) = self.known_id()? {
            return Ok(id);
        }
        // All that a removal needs is made while there is room: directories must be removable from a full disk.
        self.markers()?;
        self.staging()?;
        self.trash()?;
        let own = self.subdirectory(&[OWN])?;
        let fresh = random_uuid().map_err(|error| io_failed("read", RANDOM, &error))?;
        // Whoever comes second keeps the first one's.
        match write_new(own.as_fd(), "id", fresh.as_bytes(), false) {
            Ok(()) => Ok(fresh),
            Err(Errno::EXIST) => Ok(self.known_id()?.unwrap_or(fresh)),
            Err(errno) => Err(failed("write", &self.inside(".latebind/id"))(errno)),
        }
    }

    /// A directory of the agent's own, made if it is missing.
    pub(crate) fn subdirectory(&self, names: &[&str]) -> Result<OwnedFd, DirectoryError> {
        let mut path = self.path.clone();
        let mut at: Option<OwnedFd> = None;
        for name in names {
            path = format!("{path}/{name}");
            let parent = at.as_ref().map_or(self.root(), |fd| fd.as_fd());
            make_directory(parent, *name).map_err(failed("make", &path))?;
            at = Some(open_within(parent, *name, DIRECTORY).map_err(failed("open", &path))?);
        }
        at.ok_or_else(|| DirectoryError::Order("a directory without a name".to_owned()))
    }

    /// A directory of the agent's own, if it is there.
    pub(crate) fn existing(&self, names: &[&str]) -> Result<Option<OwnedFd>, DirectoryError> {
        let mut at = None;
        for name in names {
            let parent = at.as_ref().map_or(self.root(), OwnedFd::as_fd);
            at = match open_within(parent, *name, DIRECTORY) {
                Err(Errno::NOENT) => return Ok(None),
                opened => Some(opened.map_err(failed("open", &self.inside(name)))?),
            };
        }
        Ok(at)
    }

    pub(crate) fn markers(&self) -> Result<OwnedFd, DirectoryError> {
        self.subdirectory(&[OWN, "volumes"])
    }

    pub(crate) fn staging(&self) -> Result<OwnedFd, DirectoryError> {
        self.subdirectory(&[OWN, "new"])
    }

    pub(crate) fn trash(&self) -> Result<OwnedFd, DirectoryError> {
        self.subdirectory(&[".trash"])
    }

    pub(crate) fn archive(&self) -> Result<OwnedFd, DirectoryError> {
        self.subdirectory(&[".archive"])
    }

    /// A path beneath the base, for messages.
    pub(crate) fn inside(&self, path: &str) -> String {
        format!("{}/{path}", self.path)
    }
}

/// A file system of its own: all of it is mounted, or a btrfs subvolume.
fn is_whole(mount: &Mount, inode: u64) -> bool {
    mount.root == Path::new("/") || (mount.file_system == "btrfs" && inode == BTRFS_ROOT_INODE)
}

/// Makes a directory that only root can enter; one that is there already stays as it is.
pub(crate) fn make_directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<()> {
    match mkdirat(parent, name, PRIVATE) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Opens one step down: no link of any kind is followed, no mount point crossed.
pub(crate) fn open_within(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    open_beneath(parent, name, flags, ResolveFlags::NO_XDEV)
}

fn open_beneath(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: OFlags,
    more: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
    let name = name.into_c_str()?;
    // The kernel answers EAGAIN when something above was renamed meanwhile; it says to try again.
    for _ in 0..16 {
        match openat2(parent, &*name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a directory for reading, one step down.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    open_within(parent, name, DIRECTORY)
}

/// Sets the mode of an open directory.
pub(crate) fn set_mode(directory: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<()> {
    fchmod(directory, Mode::from_raw_mode(mode))
}

/// Reads a file of at most `limit` bytes; `None` when there is none. More than that is cut off, which makes it invalid.
pub(crate) fn read_small(parent: BorrowedFd<'_>, name: &str, limit: u64) -> rustix::io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match open_within(parent, name, flags) {
        Err(Errno::NOENT) => return Ok(None),
        opened => std::fs::File::from(opened?),
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|error| as_errno(&error))?;
    Ok(Some(bytes))
}

/// Writes a whole file so that, whatever happens, it is there with all its bytes or not at all.
pub(crate) fn write_new(parent: BorrowedFd<'_>, name: &str, bytes: &[u8], replace: bool) -> rustix::io::Result<()> {
    let part = format!(".{name}.part");
    match unlinkat(parent, &part, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, &part, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(fd);
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let placed = written.map_err(|error| as_errno(&error)).and_then(|()| {
        if replace {
            renameat(parent, &part, parent, name)
        } else {
            rustix::fs::renameat_with(parent, &part, parent, name, rustix::fs::RenameFlags::NOREPLACE)
        }
    });
    if placed.is_err() {
        // Best effort: the next writer removes it too.
        unlinkat(parent, &part, AtFlags::empty()).ok();
    }
    placed
}

pub(crate) fn as_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

pub(crate) fn io_failed(operation: &'static str, path: &str, error: &std::io::Error) -> DirectoryError {
    failed(operation, path)(as_errno(error))
}

const RANDOM: &str = "/proc/sys/kernel/random/uuid";

fn random_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(RANDOM)?.trim().to_owned())
}
