//! Whether a directory is the directory of another volume too. Paths that differ may lead to one directory, by links,
//! by `//` and `..`, or by bind mounts: what counts is device and inode. What cannot be told counts as the same.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::base::AllowedBases;
use super::error::{DirectoryError, errno_name, failed, io_failed};
use super::mounts::{self, Mount};
use crate::model::Relation;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Paths that other volumes name on this node.
#[derive(Clone, Copy, Debug)]
pub struct OtherPaths<'a> {
    /// The paths.
    pub paths: &'a [String],
    /// What of the host this program sees. It sees the same there as the kubelet does.
    pub visible: &'a AllowedBases,
}

/// Device and inode: what tells one file from another.
type Identity = (u64, u64);

/// Why it cannot be told where a path leads.
type Undecided = String;

impl OtherPaths<'_> {
    /// Refuses when one of them is the directory `name` in `parent`, holds it, or lies in it; or may do so.
    pub(super) fn refuse_shared(&self, parent: BorrowedFd<'_>, name: &str, shown: &str) -> Result<(), DirectoryError> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let ours = Ours::of(parent, name, shown)?;
        for other in self.paths {
            match resolve(other, self.visible).and_then(|place| ours.shares(&place)) {
                Ok(false) => {}
                Ok(true) => {
                    return Err(DirectoryError::Shared { path: shown.to_owned(), other: other.clone() });
                }
                Err(why) => {
                    return Err(DirectoryError::Undecided { path: shown.to_owned(), other: other.clone(), why });
                }
            }
        }
        Ok(())
    }
}

/// The directory in question.
struct Ours {
    itself: Identity,
    /// The directories above it, up to the root.
    above: Vec<Identity>,
    on_disk: Option<OnDisk>,
    real: PathBuf,
    mounts: Vec<Mount>,
}

impl Ours {
    fn of(parent: BorrowedFd<'_>, name: &str, shown: &str) -> Result<Self, DirectoryError> {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", shown))?;
        let real = mounts::real_path(parent).map_err(failed("look up", shown))?.join(name);
        let mounts = mounts::all().map_err(|error| io_failed("read", mounts::MOUNT_INFO, &error))?;
        let above = above(parent).map_err(failed("look at", shown))?;
        let on_disk = OnDisk::of(&mounts, &real);
        Ok(Self { itself: (stat.st_dev, stat.st_ino), above, on_disk, real, mounts })
    }

    fn shares(&self, place: &Place) -> Result<bool, Undecided> {
        let (fd, path) = match place {
            Place::Nothing => return Ok(false),
            // A directory that leads to what is visible holds all of it.
            Place::Above => return Ok(true),
            Place::Found(fd, path) => (fd, path),
        };
        let told = |errno| format!("{}: {}", path.display(), errno_name(errno));
        let stat = fstat(fd).map_err(told)?;
        let itself = (stat.st_dev, stat.st_ino);
        if itself == self.itself || self.above.contains(&itself) || path.starts_with(&self.real) {
            return Ok(true);
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && above(fd.as_fd()).map_err(told)?.contains(&self.itself)
        {
            return Ok(true);
        }
        // A part of a directory that is mounted elsewhere has nothing of the directory above it.
        let theirs = OnDisk::of(&self.mounts, path);
        Ok(match (&self.on_disk, &theirs) {
            (Some(ours), Some(theirs)) => ours.overlaps(theirs),
            _ => false,
        })
    }
}

/// Where something lies in its file system, whatever part of it is mounted where.
struct OnDisk {
    device: String,
    path: PathBuf,
}

impl OnDisk {
    fn of(mounts: &[Mount], real: &Path) -> Option<Self> {
        let mount = mounts::holding(mounts, real)?;
        let rest = real.strip_prefix(&mount.point).ok()?;
        Some(Self { device: mount.device.clone(), path: mount.root.join(rest) })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.device == other.device && Relation::of(&self.path, &other.path).overlaps()
    }
}

/// The directories above an open one and itself, up to the root.
fn above(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<Identity>> {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let mut found = vec![identity(fstat(directory)?)];
    let mut at = openat(directory, "..", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
    loop {
        let next = identity(fstat(&at)?);
        if found.last() == Some(&next) {
            return Ok(found);
        }
        found.push(next);
        at = openat(&at, "..", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
    }
}

/// Where a path leads.
enum Place {
    /// Nowhere: the kubelet would not find anything there either.
    Nothing,
    /// To a directory above one that is visible.
    Above,
    /// There; and the path without links.
    Found(OwnedFd, PathBuf),
}

/// Follows a path as the kernel does, as far as this program sees the same as the kernel of the host.
fn resolve(path: &str, visible: &AllowedBases) -> Result<Place, Undecided> {
    let absolute = |text: &Path| text.is_absolute().then(|| parts(text));
    let mut ahead = absolute(Path::new(path)).ok_or("it is not absolute")?;
    let mut at = PathBuf::from("/");
    let mut opened: Option<OwnedFd> = None;
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            // Above what is visible, the text does not tell what a directory lies in.
            if opened.is_none() && at != Path::new("/") {
                return Err(format!("{}/.. is not seen by the agent", at.display()));
            }
            at.pop();
            opened = if visible.shows(&at) { Some(open_visible(&at)?) } else { None };
            if opened.is_none() && at != Path::new("/") {
                return Err(format!("{} is not seen by the agent", at.display()));
            }
            continue;
        }
        let next = at.join(&name);
        let told = |errno| format!("{}: {}", next.display(), errno_name(errno));
        if visible.is_given(&next) {
            // The administrator named this one to the agent itself: the kubelet mounted what it leads to.
            opened = Some(open_visible(&next)?);
            at = next;
            continue;
        }
        let Some(parent) = &opened else {
            if !visible.leads_to(&next) {
                return Err(format!("{} is not seen by the agent; name it with --other-path", next.display()));
            }
            at = next;
            continue;
        };
        let handle = match openat(parent, &*name, HANDLE, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Place::Nothing),
            handle => handle.map_err(told)?,
        };
        let kind = FileType::from_raw_mode(fstat(&handle).map_err(told)?.st_mode);
        if kind != FileType::Symlink {
            (at, opened) = (next, Some(handle));
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Ok(Place::Nothing);
        }
        let target =
            PathBuf::from(OsString::from_vec(readlinkat(parent, &*name, Vec::new()).map_err(told)?.into_bytes()));
        for part in parts(&target).into_iter().rev() {
            ahead.push_front(part);
        }
        if target.is_absolute() {
            (at, opened) = (PathBuf::from("/"), None);
        }
    }
    Ok(match opened {
        Some(opened) => Place::Found(opened, at),
        None => Place::Above,
    })
}

fn open_visible(path: &Path) -> Result<OwnedFd, Undecided> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| format!("{}: {}", path.display(), errno_name(errno)))
}

/// The names of a path, without those that do nothing.
fn parts(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    });
    named.map(OsStr::to_owned).collect()
}
