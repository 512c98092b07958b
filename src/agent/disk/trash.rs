//! Empties the trash of a base, a bounded number of steps at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::fs::Dir;
use rustix::io::Errno;

use super::base::{Base, open_directory};
use super::emptying::{Emptying, is_dots};
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
        let (mut swept, mut round) = (Swept::default(), Emptying::of(budget, None));
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
            if round.is_spent() {
                swept.left += 1;
                continue;
            }
            if let Err((what, errno)) = round.empty(trash.as_fd(), name) {
                swept.waiting += 1;
                stuck.failed(name, now);
                seen.insert(name.to_owned());
                swept.stuck = Some(format!("{shown}/{what}: {}", errno_name(errno)));
            } else if round.is_spent() {
                // It may or may not be gone; the next round knows.
                swept.left += 1;
            }
        }
        stuck.0.retain(|name, _| seen.contains(name));
        // The listing may have been taken before they arrived in it.
        swept.left += round.moved;
        swept.steps = round.steps;
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
