//! Removes all that is in a mounted file system, slice by slice. Each slice looks anew whether it is the right one and nobody
//! uses it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;

use super::entry::{Found, MountFound};
use super::fault::{DiskFault, failed};
use super::reset_root::reset_root;
use super::same::same_disk;
use super::scope::{Directory, DiskScope};
use crate::agent::disk::base::{DIRECTORY, open_beneath};
use crate::agent::disk::emptying::{Emptying, is_dots};
use crate::agent::disk::mounts::{self, Mount};
use crate::crd::{DiskIdentity, DiskKind, RootOwner};

/// A disk that is to be cleaned.
#[derive(Clone, Debug)]
pub struct DiskToClean<'a> {
    /// Where it is.
    pub path: &'a str,
    /// What is there.
    pub kind: DiskKind,
    /// What tells it from other disks.
    pub identity: &'a DiskIdentity,
    /// Owner and mode that the root of its file system gets back.
    pub root: Option<RootOwner>,
}

/// What one slice did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Entries that were removed, or moved up to be removed later.
    pub removed: u64,
    /// Something is left. Once nothing is, the file system was seen to be empty, and is as it was when it was made.
    pub left: bool,
}

/// Removes what is in the file system, in at most `budget` steps and not after `until`.
///
/// # Errors
/// When another disk is there, or it cannot be told; when it is mounted elsewhere too, or something is mounted in it; and when
/// something cannot be removed.
pub fn clean_files(
    scope: &DiskScope,
    disk: &DiskToClean<'_>,
    budget: usize,
    until: Instant,
) -> Result<Slice, DiskFault> {
    let root = verified(scope, disk)?;
    let mut round = Emptying::of(budget, Some(until));
    loop {
        let moved = round.moved;
        if !empty_once(&root, disk.path, &mut round)? {
            return Ok(Slice { removed: round.progress as u64, left: true });
        }
        // What was moved up may have come behind the end of the listing.
        if round.moved == moved {
            break;
        }
    }
    if !is_empty(&root, disk.path)? {
        return Err(DiskFault::NotEmpty { path: disk.path.to_owned() });
    }
    reset_root(&root, disk.path, disk.root)?;
    Ok(Slice { removed: round.progress as u64, left: false })
}

/// Removes each entry that is listed. False when the round ended before.
fn empty_once(root: &OwnedFd, path: &str, round: &mut Emptying) -> Result<bool, DiskFault> {
    let mut stuck = None;
    for entry in Dir::read_from(root).map_err(failed("read", path))? {
        let entry = entry.map_err(failed("read", path))?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        if round.is_spent() {
            return told(stuck).map(|()| false);
        }
        if let Err((what, errno)) = round.empty(root.as_fd(), name) {
            stuck.get_or_insert((format!("{path}/{what}"), errno));
        }
    }
    told(stuck).map(|()| !round.is_spent())
}

/// Without that entry the file system never is empty. The rest was removed as far as the round went.
fn told(stuck: Option<(String, Errno)>) -> Result<(), DiskFault> {
    stuck.map_or(Ok(()), |(what, errno)| Err(failed("remove", &what)(errno)))
}

fn is_empty(root: &OwnedFd, path: &str) -> Result<bool, DiskFault> {
    for entry in Dir::read_from(root).map_err(failed("read", path))? {
        if !is_dots(entry.map_err(failed("read", path))?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The root of the file system, open, after everything that may forbid to empty it was looked at.
fn verified(scope: &DiskScope, disk: &DiskToClean<'_>) -> Result<OwnedFd, DiskFault> {
    let path = disk.path;
    let (directory, name) = Directory::of_entry(scope, path)?;
    let root = match open_beneath(directory.fd.as_fd(), name, DIRECTORY, ResolveFlags::empty()) {
        Err(Errno::NOENT) => return Err(DiskFault::PathMissing { path: path.to_owned() }),
        Err(Errno::NOTDIR) => return Err(DiskFault::NotMounted { path: path.to_owned() }),
        opened => opened.map_err(failed("open", path))?,
    };
    let handle = root.try_clone().map_err(|error| super::fault::io_failed("open", path, &error))?;
    let real = directory.real.join(name);
    // Of the very directory that is emptied, not of what has its name meanwhile.
    let found = Found::mount(scope, path, &real, handle)?;
    same_disk(path, disk.identity, &found.marks)?;
    let Some(MountFound { mount, .. }) = &found.mount else {
        return Err(DiskFault::NotMounted { path: path.to_owned() });
    };
    if found.read_only != Some(false) {
        return Err(DiskFault::ReadOnlyFileSystem { path: path.to_owned() });
    }
    let own = DiskScope::own_mounts()?;
    refuse_inside(path, &own, &real)?;
    // Without a table of the node's own, this one is the node's.
    let of_node = if scope.node_mountinfo.is_some() { scope.node_mounts()? } else { own };
    let place = OnNode::of(scope, path, &real)?;
    for point in &place.points {
        refuse_inside(path, &of_node, point)?;
    }
    let is_own = |it: &Mount| it.id == mount.id || Some(it.id) == place.id || place.points.contains(&it.point);
    match of_node.iter().find(|it| shares(it, mount) && !is_own(it)) {
        Some(other) => Err(DiskFault::StillMounted { path: path.to_owned(), point: other.point.display().to_string() }),
        None => Ok(root),
    }
}

/// Where the node has the mount.
struct OnNode {
    /// The paths by which it may go in the node's table: as the pool has it, and with links followed.
    points: Vec<PathBuf>,
    /// Its number there.
    id: Option<u64>,
}

impl OnNode {
    fn of(scope: &DiskScope, path: &str, real: &Path) -> Result<Self, DiskFault> {
        let mut points = vec![PathBuf::from(path), real.to_owned()];
        let Some(node) = scope.allowed.node_root() else { return Ok(Self { points, id: None }) };
        let shown = format!("{}{path}", node.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let open = || {
            let root = rustix::fs::open(node, flags, Mode::empty())?;
            mounts::retry(|| openat2(&root, path, flags, Mode::empty(), inside))
        };
        let there = open().map_err(failed("open", &shown))?;
        points.push(mounts::real_path(&there).map_err(failed("look up", &shown))?);
        let found = statx(&there, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed("look at", &shown))?;
        Ok(Self { points, id: Some(found.stx_mnt_id) })
    }
}

/// True for a mount of the same directory of the same file system, or of one beneath. One of a directory above is how disks
/// come about that are directories of a larger file system.
fn shares(other: &Mount, ours: &Mount) -> bool {
    other.device == ours.device && other.root.starts_with(&ours.root)
}

/// What is mounted inside is another file system. It would be left alone, but removing the directory beneath it would unmount it
/// from whoever has it in a namespace of his own.
fn refuse_inside(path: &str, table: &[Mount], point: &Path) -> Result<(), DiskFault> {
    match table.iter().find(|it| it.point != point && it.point.starts_with(point)) {
        Some(inside) => {
            Err(DiskFault::MountInside { path: path.to_owned(), mount: inside.point.display().to_string() })
        }
        None => Ok(()),
    }
}
