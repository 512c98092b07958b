//! Empties the trash of a base, a bounded number of steps at a time.
//!
//! There is no walk down a tree that a tenant may still be changing. A directory found inside a directory of the trash
//! is moved up into the trash itself, under a new name, and has its turn later. So every step acts on one name in one
//! open directory; nothing is ever resolved, neither depth nor number of directories needs memory, and a restart
//! finds all that is left by listing the trash.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::base::{Base, open_directory};
use super::error::{DirectoryError, errno_name, failed};

/// What one round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// System calls that removed or moved something.
    pub steps: usize,
    /// Directories that were moved up, to have their turn later.
    moved: usize,
    /// Directories and files still in the trash.
    pub left: usize,
    /// What could not be removed, and why; at most one entry is kept.
    pub stuck: Option<String>,
}

impl Base {
    /// Removes from the trash, in at most `budget` steps.
    ///
    /// # Errors
    /// When the trash itself cannot be read.
    pub fn sweep(&self, budget: usize) -> Result<Swept, DirectoryError> {
        let trash = self.trash()?;
        let shown = self.inside(".trash");
        let mut swept = Swept::default();
        for entry in Dir::read_from(&trash).map_err(failed("read", &shown))? {
            let entry = entry.map_err(failed("read", &shown))?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            if swept.steps >= budget {
                swept.left += 1;
                continue;
            }
            if let Err((name, errno)) = empty(trash.as_fd(), name, budget, &mut swept) {
                swept.left += 1;
                swept.stuck = Some(format!("{shown}/{name}: {}", errno_name(errno)));
            } else if swept.steps >= budget {
                // It may or may not be gone; the next round knows.
                swept.left += 1;
            }
        }
        // The listing may have been taken before they arrived in it.
        swept.left += swept.moved;
        Ok(swept)
    }

    /// How many entries the trash has. Nothing is made.
    pub(crate) fn trash_entries(&self) -> Result<usize, DirectoryError> {
        let shown = self.inside(".trash");
        let trash = match open_directory(self.root(), ".trash") {
            Err(Errno::NOENT) => return Ok(0),
            opened => opened.map_err(failed("open", &shown))?,
        };
        let entries = Dir::read_from(&trash).map_err(failed("read", &shown))?;
        Ok(entries.filter(|entry| entry.as_ref().is_ok_and(|entry| !is_dots(entry.file_name()))).count())
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

type Stuck = (String, Errno);

/// Removes one entry of the trash, or as much of it as the budget allows.
fn empty(trash: BorrowedFd<'_>, name: &CStr, budget: usize, swept: &mut Swept) -> Result<(), Stuck> {
    let stuck = |errno| (name.to_string_lossy().into_owned(), errno);
    if remove(trash, name, swept).map_err(stuck)? {
        return Ok(());
    }
    let directory = open_directory(trash, name).map_err(stuck)?;
    let mut first_stuck = None;
    for entry in Dir::read_from(&directory).map_err(stuck)? {
        let entry = entry.map_err(stuck)?;
        let child = entry.file_name();
        if is_dots(child) {
            continue;
        }
        if swept.steps >= budget {
            return Ok(());
        }
        let outcome = match remove(directory.as_fd(), child, swept) {
            Ok(true) => Ok(()),
            Ok(false) => move_up(trash, directory.as_fd(), child, entry.ino(), swept),
            Err(errno) => Err(errno),
        };
        if let Err(errno) = outcome {
            first_stuck.get_or_insert((format!("{}/{}", name.to_string_lossy(), child.to_string_lossy()), errno));
        }
    }
    match first_stuck {
        Some(found) => Err(found),
        None => remove(trash, name, swept).map(drop).map_err(stuck),
    }
}

/// Unlinks what can be unlinked: a file, a link, an empty directory. False for a directory with something in it.
fn remove(parent: BorrowedFd<'_>, name: &CStr, swept: &mut Swept) -> rustix::io::Result<bool> {
    swept.steps += 1;
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // POSIX allows EPERM for a directory; Linux says EISDIR.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        // It was swapped for something else since: the next round takes it.
        Err(Errno::NOTDIR) => Err(Errno::PERM),
        Err(errno) => Err(errno),
    }
}

fn move_up(
    trash: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    child: &CStr,
    inode: u64,
    swept: &mut Swept,
) -> rustix::io::Result<()> {
    swept.steps += 1;
    for attempt in 0_u32..1024 {
        let fresh = format!("d{inode:x}.{attempt}");
        match renameat_with(directory, child, trash, &fresh, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            moved => {
                swept.moved += 1;
                return moved;
            }
        }
    }
    Err(Errno::EXIST)
}
