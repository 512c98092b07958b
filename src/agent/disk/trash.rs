//! Empties the trash of a base, a bounded number of steps at a time.
//!
//! There is no walk down a tree that a tenant may still be changing. A directory found inside a directory of the trash
//! is moved up into the trash itself, under a new name, and has its turn later. So every step acts on one name in one
//! open directory; nothing is ever resolved, neither depth nor number of directories needs memory, and a restart
//! finds all that is left by listing the trash.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::base::{Base, open_directory};
use super::changes::rename_new;
use super::error::{DirectoryError, errno_name, failed};

/// An entry that could not be removed is tried again after this time, and after twice as long each time that follows.
const STUCK: Duration = Duration::from_secs(15);
/// The longest of these times.
const STUCK_LONGEST: Duration = Duration::from_secs(3600);
/// So many are remembered: 64 KiB of names. More cost their steps in every round.
const MOST_STUCK: usize = 1024;

/// Entries of one trash that could not be removed, such as one with a mount or an immutable file in it. They are passed
/// over until they are due, so that they slow nothing else.
#[derive(Clone, Debug, Default)]
pub struct StuckEntries(BTreeMap<CString, (Instant, Duration)>);

impl StuckEntries {
    fn is_waiting(&self, name: &CStr, now: Instant) -> bool {
        self.0.get(name).is_some_and(|(due, _)| now < *due)
    }

    /// How soon the first of them is due.
    #[must_use]
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        self.0.values().map(|(due, _)| due.saturating_duration_since(now)).min()
    }

    fn failed(&mut self, name: &CStr, now: Instant) {
        let pause = self.0.get(name).map_or(STUCK, |(_, pause)| STUCK_LONGEST.min(*pause * 2));
        if self.0.len() < MOST_STUCK || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), (now + pause, pause));
        }
    }
}

/// What one round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// System calls that removed or moved something.
    pub steps: usize,
    /// Directories that were moved up, to have their turn later.
    moved: usize,
    /// What went or was moved: steps that were not in vain.
    progress: usize,
    /// Directories and files still in the trash that the next round can go on with.
    pub left: usize,
    /// Those that could not be removed, now or before.
    pub waiting: usize,
    /// What could not be removed just now, and why; at most one entry is kept.
    pub stuck: Option<String>,
}

impl Base {
    /// Removes from the trash, in at most `budget` steps. What was stuck before is passed over until it is due. A trash that is
    /// not there is empty, and is not made.
    ///
    /// # Errors
    /// When the trash itself cannot be read.
    pub fn sweep(&self, budget: usize, stuck: &mut StuckEntries) -> Result<Swept, DirectoryError> {
        if self.trash_entries()? == 0 {
            // What was stuck is gone, whoever took it away.
            *stuck = StuckEntries::default();
            return Ok(Swept::default());
        }
        let (trash, now) = (self.trash()?, Instant::now());
        let mut seen = BTreeSet::new();
        let shown = self.inside(".trash");
        let mut swept = Swept::default();
        for entry in Dir::read_from(&trash).map_err(failed("read", &shown))? {
            let entry = entry.map_err(failed("read", &shown))?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            if stuck.0.contains_key(name) {
                seen.insert(name.to_owned());
            }
            if stuck.is_waiting(name, now) {
                swept.waiting += 1;
                continue;
            }
            if swept.steps >= budget {
                swept.left += 1;
                continue;
            }
            if let Err((what, errno)) = empty(trash.as_fd(), name, budget, &mut swept) {
                swept.waiting += 1;
                stuck.failed(name, now);
                seen.insert(name.to_owned());
                swept.stuck = Some(format!("{shown}/{what}: {}", errno_name(errno)));
            } else if swept.steps >= budget {
                // It may or may not be gone; the next round knows.
                swept.left += 1;
            }
        }
        stuck.0.retain(|name, _| seen.contains(name));
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
    let (mut first_stuck, before) = (None, swept.progress);
    for entry in Dir::read_from(&directory).map_err(stuck)? {
        let entry = entry.map_err(stuck)?;
        let child = entry.file_name();
        if is_dots(child) {
            continue;
        }
        if swept.steps >= budget {
            // Where all steps were in vain, so would be those of the next round.
            return first_stuck.filter(|_| swept.progress == before).map_or(Ok(()), Err);
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
        Ok(()) | Err(Errno::NOENT) => {
            swept.progress += 1;
            return Ok(true);
        }
        // POSIX allows EPERM for a directory; Linux says EISDIR.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {
            swept.progress += 1;
            Ok(true)
        }
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
        match rename_new(directory, child, trash, &fresh) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            moved => {
                moved?;
                swept.moved += 1;
                swept.progress += 1;
                return Ok(());
            }
        }
    }
    Err(Errno::EXIST)
}
