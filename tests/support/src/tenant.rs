//! A tenant that changes its tree while it is deleted.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::fs::{RenameFlags, renameat_with};

/// Swaps a directory for a link, or back, in one step, through a handle on the volume that survives its removal: as a
/// process in a container does, whose working directory moves with the directory. It follows no link itself, since outside
/// a container it could leave the volume. True where something was swapped; `turn` says what is.
pub fn swap(volume: &File, targets: &[PathBuf], turn: usize) -> bool {
    let inside = PathBuf::from(format!("/proc/self/fd/{}", volume.as_raw_fd()));
    let (directory, link) = (format!("d{}", turn % 7), format!("l{}", turn % 5));
    // Anything may fail here: somebody deletes all this at the same time.
    symlink(&targets[turn % targets.len()], inside.join(&link)).ok();
    // Few names, so that it is the swaps that keep the agent busy and not the number of files.
    let fresh = inside.join(format!("fresh{}", turn % 11));
    fs::create_dir(&fresh).ok();
    for (name, target) in [("deep", None), ("deep/er", None), ("deep/link", Some(&targets[(turn + 1) % targets.len()]))]
    {
        match target {
            None => fs::create_dir(fresh.join(name)).ok(),
            Some(target) => symlink(target, fresh.join(name)).ok(),
        };
    }
    fs::rename(&fresh, inside.join(&directory)).ok();
    renameat_with(volume, directory.as_str(), volume, link.as_str(), RenameFlags::EXCHANGE).is_ok()
}
