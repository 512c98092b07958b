//! Empties a directory, one step at a time, without a walk down a tree that somebody may still be changing.
//!
//! A directory that is found inside an entry of the top directory is moved up into the top directory, under a new name, and has
//! its turn later. So every step acts on one name in one open directory; nothing is ever resolved, neither depth nor number
//! of directories needs memory, and a restart finds all that is left by listing the top directory.

use std::ffi::CStr;
use std::time::Instant;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::base::open_directory;
use super::changes::rename_new;

/// What could not be removed, beneath the top directory, and why.
pub(crate) type Stuck = (String, Errno);

/// The steps of one round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Emptying {
    /// As many are made at most.
    pub budget: usize,
    /// None is made after that.
    pub until: Option<Instant>,
    /// System calls that removed or moved something, or tried to.
    pub steps: usize,
    /// Directories that were moved up, to have their turn later.
    pub moved: usize,
    /// What went or was moved: steps that were not in vain.
    pub progress: usize,
}

pub(crate) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

impl Emptying {
    /// One round of at most so many steps.
    pub(crate) fn of(budget: usize, until: Option<Instant>) -> Self {
        Self { budget, until, ..Self::default() }
    }

    /// True when no further step may be made.
    pub(crate) fn is_spent(&self) -> bool {
        self.steps >= self.budget || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Removes one entry of the top directory, or as much of it as may be done now.
    pub(crate) fn empty(&mut self, top: BorrowedFd<'_>, name: &CStr) -> Result<(), Stuck> {
        self.empty_in(top, name, true)
    }

    fn empty_in(&mut self, top: BorrowedFd<'_>, name: &CStr, may_descend: bool) -> Result<(), Stuck> {
        let stuck = |errno| (name.to_string_lossy().into_owned(), errno);
        if self.remove(top, name).map_err(stuck)? {
            return Ok(());
        }
        let directory = open_directory(top, name).map_err(stuck)?;
        let (mut first_stuck, before) = (None, self.progress);
        for entry in Dir::read_from(&directory).map_err(stuck)? {
            let entry = entry.map_err(stuck)?;
            let child = entry.file_name();
            if is_dots(child) {
                continue;
            }
            if self.is_spent() {
                // Where all steps were in vain, so would be those of the next round.
                return first_stuck.filter(|_| self.progress == before).map_or(Ok(()), Err);
            }
            let outcome = match self.remove(directory.as_fd(), child) {
                Ok(true) => Ok(()),
                Ok(false) => self.move_up(top, directory.as_fd(), child, entry.ino()),
                Err(errno) => Err(errno),
            };
            let below = |(path, errno): Stuck| (format!("{}/{path}", name.to_string_lossy()), errno);
            let outcome = match outcome {
                // A subvolume, or a tree with a quota of its own, lets nothing out. What lies deeper is moved up within it.
                Err(Errno::XDEV) if may_descend => self.empty_in(directory.as_fd(), child, false).map_err(below),
                outcome => outcome.map_err(|errno| below((child.to_string_lossy().into_owned(), errno))),
            };
            if let Err(found) = outcome {
                first_stuck.get_or_insert(found);
            }
        }
        match first_stuck {
            Some(found) => Err(found),
            None => self.remove(top, name).map(drop).map_err(stuck),
        }
    }

    /// Unlinks what can be unlinked: a file, a link, an empty directory. False for a directory with something in it.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<bool> {
        self.steps += 1;
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                self.progress += 1;
                return Ok(true);
            }
            // POSIX allows EPERM for a directory; Linux says EISDIR.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.progress += 1;
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            // It was swapped for something else since: the next round takes it.
            Err(Errno::NOTDIR) => Err(Errno::PERM),
            Err(errno) => Err(errno),
        }
    }

    fn move_up(
        &mut self,
        top: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        child: &CStr,
        inode: u64,
    ) -> rustix::io::Result<()> {
        self.steps += 1;
        for attempt in 0_u32..1024 {
            let fresh = format!("d{inode:x}.{attempt}");
            match rename_new(directory, child, top, &fresh) {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                moved => {
                    moved?;
                    self.moved += 1;
                    self.progress += 1;
                    return Ok(());
                }
            }
        }
        Err(Errno::EXIST)
    }
}
