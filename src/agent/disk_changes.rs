//! Hears of what is mounted and unmounted, and of entries that come and go, so that a disk is offered as soon as it is there. Where the
//! kernel does not tell, it is looked at again and again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::disk::mounts::MOUNT_INFO;
use super::state::Agent;

/// How often everything is looked at although the kernel tells of changes: a size may have grown.
const LOOK: Duration = Duration::from_secs(10);
/// The same while it cannot tell of some.
const LOOK_UNTOLD: Duration = Duration::from_secs(2);
/// Changes within this time are one.
const GATHERED: Duration = Duration::from_millis(20);
/// How soon the thread that listens hears that nobody wants to know any more, or that a directory is to be watched too.
const LISTENS: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What passes between the thread that listens and the task that looks.
#[derive(Debug, Default)]
struct Changes {
    changed: Notify,
    /// The directories whose entries are wanted. There are as many as rules of pools name.
    directories: Mutex<BTreeSet<String>>,
    /// The kernel tells of the mounts, and of the entries of each of them.
    told: AtomicBool,
}

/// Has whole disks looked at whenever something may have changed about them. Never ends, unless there are none to look for.
pub(super) async fn follow(agent: &Agent) {
    if agent.options.disks.is_none() {
        return;
    }
    let changes = Arc::<Changes>::default();
    let heard = Arc::downgrade(&changes);
    // A thread of its own: a call that waits for the kernel would keep one of those that wait for disks.
    let listening = std::thread::Builder::new().name("disk changes".to_owned()).spawn(move || listen(&heard));
    if let Err(error) = listening {
        tracing::warn!(%error, "no thread to listen for changes of disks, which are looked for instead");
    }
    loop {
        let rules = agent.caches.disk_rules(&agent.options.node_name).unwrap_or_default();
        *changes.directories.lock() = rules.into_keys().collect();
        let pause = if changes.told.load(Ordering::Relaxed) { LOOK } else { LOOK_UNTOLD };
        tokio::select! {
            () = changes.changed.notified() => tokio::time::sleep(GATHERED).await,
            () = tokio::time::sleep(pause) => {}
        }
        agent.look_at_disks();
    }
}

/// Listens until nobody wants to know any more.
fn listen(changes: &Weak<Changes>) {
    let mounts = told("mounts", File::open(MOUNT_INFO));
    let mut entries = told("entries", Entries::new());
    while let Some(changes) = changes.upgrade() {
        let wanted = changes.directories.lock().clone();
        let all = mounts.is_some() & entries.as_mut().is_some_and(|entries| entries.watch(wanted));
        changes.told.store(all, Ordering::Relaxed);
        // The kernel tells of a change of the mounts as of urgent input. Source: `fs/proc_namespace.c`, `mounts_poll`.
        let of_mounts = mounts.iter().map(|table| PollFd::new(table, PollFlags::PRI));
        let of_entries = entries.iter().map(|entries| PollFd::new(&entries.fd, PollFlags::IN));
        let heard = poll(&mut of_mounts.chain(of_entries).collect::<Vec<PollFd<'_>>>(), Some(&LISTENS));
        match heard {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                if let Some(entries) = &mut entries {
                    entries.drain();
                    // One of them may be another directory now; to watch the same twice is to watch it once.
                    entries.watched.clear();
                }
                changes.changed.notify_one();
            }
            Err(error) => {
                changes.told.store(false, Ordering::Relaxed);
                return tracing::warn!(%error, "the kernel does not tell of changes any more, which are looked for instead");
            }
        }
    }
}

fn told<T>(what: &str, source: io::Result<T>) -> Option<T> {
    source
        .map_err(|error| tracing::warn!(what, %error, "the kernel does not tell of changes, which are looked for"))
        .ok()
}

/// The directories whose entries are watched.
struct Entries {
    fd: OwnedFd,
    watched: BTreeSet<String>,
}

impl Entries {
    fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { fd, watched: BTreeSet::new() })
    }

    /// Watches these directories too. False while one of them cannot be: it may not be there yet.
    fn watch(&mut self, directories: BTreeSet<String>) -> bool {
        self.watched.retain(|directory| directories.contains(directory));
        for directory in directories {
            if self.watched.contains(&directory) {
                continue;
            }
            let flags = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE_SELF
                | WatchFlags::ONLYDIR;
            if inotify::add_watch(&self.fd, &*directory, flags).is_err() {
                return false;
            }
            self.watched.insert(directory);
        }
        true
    }

    /// What has changed is looked for, so that nobody reads of it.
    fn drain(&self) {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|read| read > 0) {}
    }
}
