//! The base of a pool on this node, and what an agent keeps in it beside the volumes.
//!
//! ```text
//! <base>/.latebind/id               identity of the base; moves with the disk
//! <base>/.latebind/volumes/<claim>  marker: who owns which directory
//! <base>/.latebind/new/<claim>      a directory that is being made
//! <base>/.latebind/gone/<volume>    marker of a directory that was taken away, while its LocalVolume is there
//! <base>/.latebind/ages              for how long each orphan was seen
//! <base>/.latebind/store             how far the API server's store had come
//! <base>/.trash/                    directories of deleted volumes, to be emptied
//! <base>/.archive/<claim>           directories of deleted volumes of classes with `onDelete: archive`
//! ```
//! Nothing is kept open between two operations: a disk that is mounted later is seen at once.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat};
use rustix::io::Errno;

use super::changes::{make_directory, renames_without_replacing, sync, sync_all, write_whole};
use super::error::{DirectoryError, as_errno, failed, io_failed};
use super::mounts::{self, Mount, SeenByNode};
use crate::crd::checked_base;

/// A file system's inode number of the root of a btrfs subvolume.
const BTRFS_ROOT_INODE: u64 = 256;
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const OWN: &str = ".latebind";

/// The directories that an agent may work beneath. Whoever may write a pool cannot leave them.
#[derive(Clone, Debug)]
pub struct AllowedBases {
    bases: Vec<PathBuf>,
    /// Directories that it only looks at: other volumes of the node lie there.
    looked_at: Vec<PathBuf>,
    /// The node's own root, where the agent's mounts are a copy.
    node_root: Option<PathBuf>,
}

impl AllowedBases {
    /// Checks the paths.
    ///
    /// # Errors
    /// When one is not absolute and plain, or there is none.
    pub fn new<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> Result<Self, DirectoryError> {
        let bases = checked(paths)?;
        if bases.is_empty() {
            return Err(DirectoryError::Order("the agent was given no base path".to_owned()));
        }
        Ok(Self { bases, looked_at: Vec::new(), node_root: None })
    }

    /// The same, with directories that are only looked at.
    ///
    /// # Errors
    /// When one is not absolute and plain.
    pub fn looking_at<P: AsRef<str>>(self, paths: impl IntoIterator<Item = P>) -> Result<Self, DirectoryError> {
        Ok(Self { looked_at: checked(paths)?, ..self })
    }

    /// The same, where a base that must be a mount must be what the node has at its path, seen from the node's root, such as
    /// `/proc/1/root`: the mounts of a container may be a copy that was made when it began.
    #[must_use]
    pub fn with_node_root(self, root: Option<PathBuf>) -> Self {
        Self { node_root: root, ..self }
    }

    /// The allowed path that holds `path`, and the rest of it.
    pub(crate) fn holding<'a>(&self, path: &'a Path) -> Option<(&Path, &'a Path)> {
        self.bases.iter().find_map(|allowed| Some((allowed.as_path(), path.strip_prefix(allowed).ok()?)))
    }

    /// The node's own root, where it was given.
    pub(crate) fn node_root(&self) -> Option<&Path> {
        self.node_root.as_deref()
    }

    fn visible(&self) -> impl Iterator<Item = &PathBuf> {
        self.bases.iter().chain(&self.looked_at)
    }

    /// True for a path that was given.
    pub(super) fn is_given(&self, path: &Path) -> bool {
        self.visible().any(|given| given == path)
    }

    /// True for a path that was given, and for what lies beneath.
    pub(super) fn shows(&self, path: &Path) -> bool {
        self.visible().any(|given| path.starts_with(given))
    }

    /// True for what lies above a path that was given.
    pub(super) fn leads_to(&self, path: &Path) -> bool {
        self.visible().any(|given| given.starts_with(path))
    }

    fn list(&self) -> String {
        self.bases.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

fn checked<P: AsRef<str>>(paths: impl IntoIterator<Item = P>) -> Result<Vec<PathBuf>, DirectoryError> {
    let checked = paths.into_iter().map(|path| checked_base(path.as_ref()));
    checked.collect::<Result<_, _>>().map_err(|error| DirectoryError::Order(error.to_string()))
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
    ///
    /// # Errors
    /// As above, and when it is not there.
    pub fn open_existing(allowed: &AllowedBases, path: &str, require_mount: bool) -> Result<Self, DirectoryError> {
        Self::open_or(allowed, path, require_mount, false)
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
                Err(Errno::LOOP) => return Err(link(root.as_fd(), name, path)),
                opened => opened.map_err(failed("open", path))?,
            };
        }
        let real = mounts::real_path(&root).map_err(failed("look up", path))?;
        let all = mounts::all().map_err(|error| io_failed("read", mounts::MOUNT_INFO, &error))?;
        let inode = fstat(&root).map_err(failed("look at", path))?.st_ino;
        let own = mounts::at(&all, &real).filter(|mount| is_whole(mount, inode));
        let is_mount_point = own.is_some();
        if require_mount {
            if let Some(node) = &allowed.node_root {
                agrees_with_node(node, path, root.as_fd())?;
            }
            if !is_mount_point {
                return Err(DirectoryError::NotMounted { path: path.to_owned() });
            }
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
        self.gone()?;
        self.trash()?;
        let own = self.subdirectory(&[OWN])?;
        // Where there is an identity, the base and all that leads to it are on the disk.
        sync_all(self.root()).map_err(failed("save", &self.path))?;
        let fresh = random_uuid().map_err(|error| io_failed("read", RANDOM, &error))?;
        // Whoever comes second keeps the first one's.
        match write_whole(own.as_fd(), "id", fresh.as_bytes(), false) {
            Ok(()) => Ok(fresh),
            Err(Errno::EXIST) => Ok(self.known_id()?.unwrap_or(fresh)),
            Err(errno) => Err(failed("write", &self.inside(".latebind/id"))(errno)),
        }
    }

    /// What the file system cannot give. It is looked for once in the life of the process.
    pub(crate) fn limits(&self) -> Result<Vec<String>, DirectoryError> {
        /// By device: as many as there are file systems with a base.
        static KNOWN: Mutex<BTreeMap<u64, bool>> = Mutex::new(BTreeMap::new());
        let device = fstat(self.root()).map_err(failed("look at", &self.path))?.st_dev;
        let known = KNOWN.lock().get(&device).copied();
        let renames = if let Some(known) = known {
            known
        } else {
            let own = self.subdirectory(&[OWN])?;
            let found = renames_without_replacing(&own).map_err(failed("write to", &self.inside(OWN)))?;
            KNOWN.lock().insert(device, found);
            found
        };
        let limit = "a rename cannot refuse to replace what is there (renameat2 answers EINVAL): the agent looks first, \
                     under a lock of its own";
        Ok(if renames { Vec::new() } else { vec![limit.to_owned()] })
    }

    /// A directory of the agent's own, made if it is missing.
    pub(crate) fn subdirectory(&self, names: &[&str]) -> Result<OwnedFd, DirectoryError> {
        let mut path = self.path.clone();
        let mut at: Option<OwnedFd> = None;
        for name in names {
            path = format!("{path}/{name}");
            let parent = at.as_ref().map_or(self.root(), |fd| fd.as_fd());
            if make_directory(parent, *name).map_err(failed("make", &path))? {
                sync(parent).map_err(failed("save", &path))?;
            }
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

    pub(crate) fn gone(&self) -> Result<OwnedFd, DirectoryError> {
        self.subdirectory(&[OWN, "gone"])
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

/// What is mounted here must be what the node has there: the kubelet gives that to Pods.
fn agrees_with_node(node: &Path, path: &str, here: BorrowedFd<'_>) -> Result<(), DirectoryError> {
    let there = format!("{}{path}", node.display());
    match mounts::seen_by_node(node, Path::new(path), here).map_err(failed("look at", &there))? {
        SeenByNode::Same => Ok(()),
        SeenByNode::Another => Err(DirectoryError::MountNotSeen { path: path.to_owned() }),
        SeenByNode::Nothing => Err(DirectoryError::NotMounted { path: path.to_owned() }),
    }
}

/// The link that stands in the way of a base, and where it leads.
fn link(parent: BorrowedFd<'_>, name: &std::ffi::OsStr, path: &str) -> DirectoryError {
    let target = readlinkat(parent, name, Vec::new()).map(|target| target.to_string_lossy().into_owned());
    DirectoryError::Link {
        path: path.to_owned(),
        link: name.to_string_lossy().into_owned(),
        target: target.unwrap_or_else(|_| "elsewhere".to_owned()),
    }
}

/// A file system of its own: all of it is mounted, or a btrfs subvolume.
fn is_whole(mount: &Mount, inode: u64) -> bool {
    mount.root == Path::new("/") || (mount.file_system == "btrfs" && inode == BTRFS_ROOT_INODE)
}

/// Opens one step down: no link of any kind is followed, no mount point crossed.
pub(crate) fn open_within(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    open_beneath(parent, name, flags, ResolveFlags::NO_XDEV)
}

/// The same, with what else is to be refused in place of crossing a mount point.
pub(crate) fn open_beneath(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: OFlags,
    more: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
    let name = name.into_c_str()?;
    mounts::retry(|| openat2(parent, &*name, flags, Mode::empty(), resolve))
}

/// Opens a directory for reading, one step down.
pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    open_within(parent, name, DIRECTORY)
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

const RANDOM: &str = "/proc/sys/kernel/random/uuid";

fn random_uuid() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(RANDOM)?.trim().to_owned())
}
