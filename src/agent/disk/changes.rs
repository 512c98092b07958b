//! The system calls that change a disk, each acting on one name in one open directory.
//!
//! What they changed is on the disk only after [`sync`] of every directory that was changed. All of them go through here,
//! so that tests can stop before any of them.

use std::ffi::CStr;
use std::io::Write;

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, flock, fsync, mkdirat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::error::as_errno;

const PRIVATE: Mode = Mode::RWXU;

/// Waits until a directory is on the disk, with every name in it.
pub(super) fn sync(directory: impl AsFd) -> rustix::io::Result<()> {
    step();
    fsync(directory)
}

/// Waits until all of a file system is on the disk, with what leads to it.
pub(crate) fn sync_all(directory: impl AsFd) -> rustix::io::Result<()> {
    step();
    rustix::fs::syncfs(directory)
}

/// Makes a directory that only root can enter. False when there is something of that name already, which stays as it is.
pub(super) fn make_directory(parent: impl AsFd, name: impl Arg) -> rustix::io::Result<bool> {
    step();
    match mkdirat(parent, name, PRIVATE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Sets the mode of an open directory.
pub(crate) fn set_mode(directory: impl AsFd, mode: u32) -> rustix::io::Result<()> {
    step();
    fchmod(directory, Mode::from_raw_mode(mode))
}

/// Sets the owner of an open directory.
pub(crate) fn set_owner(directory: impl AsFd, uid: Option<Uid>, gid: Option<Gid>) -> rustix::io::Result<()> {
    step();
    fchown(directory, uid, gid)
}

/// Renames a file or a directory to a name that nothing has. `EXIST` when something has it.
pub(super) fn rename_new(from: impl AsFd, name: impl Arg, to: impl AsFd, new_name: impl Arg) -> rustix::io::Result<()> {
    step();
    let (name, new_name) = (name.into_c_str()?, new_name.into_c_str()?);
    match renameat_with(&from, &*name, &to, &*new_name, RenameFlags::NOREPLACE) {
        // FUSE file systems without `rename2`, NFS, and ZFS before 2.2 cannot.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_checked(&from, &name, &to, &new_name),
        renamed => renamed,
    }
}

/// The same in two steps. The base belongs to root, and of those who make names in it only agents know this one: the lock
/// keeps them from each other, within this process and, where the file system locks directories, between two.
fn rename_checked(from: impl AsFd, name: &CStr, to: impl AsFd, new_name: &CStr) -> rustix::io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _only = ONE_AT_A_TIME.lock();
    let locked = flock(&to, FlockOperation::LockExclusive).is_ok();
    let renamed = match statat(&to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => renameat(from, name, &to, new_name),
        Err(errno) => Err(errno),
    };
    if locked {
        flock(&to, FlockOperation::Unlock).ok();
    }
    renamed
}

/// True when the file system of a directory can rename without replacing.
pub(super) fn renames_without_replacing(directory: impl AsFd) -> rustix::io::Result<bool> {
    let (file, name) = (".probe", ".probed");
    for left in [file, name] {
        remove(&directory, left, AtFlags::empty())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(openat(&directory, file, flags, Mode::RUSR | Mode::WUSR)?);
    let renamed = renameat_with(&directory, file, &directory, name, RenameFlags::NOREPLACE);
    for left in [file, name] {
        remove(&directory, left, AtFlags::empty())?;
    }
    match renamed {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Renames a file in one step. What has the new name is replaced.
pub(super) fn rename_over(
    from: impl AsFd,
    name: impl Arg,
    to: impl AsFd,
    new_name: impl Arg,
) -> rustix::io::Result<()> {
    step();
    renameat(from, name, to, new_name)
}

/// Removes a name: of a file, or, with `REMOVEDIR`, of an empty directory. False when there is none.
pub(super) fn remove(parent: impl AsFd, name: impl Arg, flags: AtFlags) -> rustix::io::Result<bool> {
    step();
    match unlinkat(parent, name, flags) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The name of a file while it is being written.
fn part_of(name: &str) -> String {
    format!(".{name}.part")
}

/// Removes what is left of a file that was not written to its end.
pub(super) fn remove_part(parent: impl AsFd, name: &str) -> rustix::io::Result<bool> {
    remove(parent, part_of(name), AtFlags::empty())
}

/// Writes a whole file so that, whatever happens, it is there with all its bytes or not at all. It is on the disk when
/// this returns.
pub(super) fn write_whole(parent: BorrowedFd<'_>, name: &str, bytes: &[u8], replace: bool) -> rustix::io::Result<()> {
    let part = part_of(name);
    remove_part(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    step();
    let mut file = std::fs::File::from(openat(parent, &part, flags, Mode::RUSR | Mode::WUSR)?);
    step();
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let placed = written.map_err(|error| as_errno(&error)).and_then(|()| {
        if replace { rename_over(parent, &part, parent, name) } else { rename_new(parent, &part, parent, name) }
    });
    if placed.is_err() {
        // Best effort: the next writer removes it too.
        unlinkat(parent, &*part, AtFlags::empty()).ok();
    }
    placed?;
    sync(parent)
}

#[cfg(not(test))]
fn step() {}

#[cfg(test)]
fn step() {
    // Taken out meanwhile: what it does itself is not among the changes.
    let Some(mut before) = BEFORE_EACH.take() else { return };
    before();
    BEFORE_EACH.set(Some(before));
}

#[cfg(test)]
thread_local! {
    static BEFORE_EACH: std::cell::RefCell<Option<Box<dyn FnMut()>>> = const { std::cell::RefCell::new(None) };
}

/// Calls this before each change that this thread makes.
#[cfg(test)]
pub(super) fn before_each(before: impl FnMut() + 'static) {
    BEFORE_EACH.set(Some(Box::new(before)));
}

/// Ends that.
#[cfg(test)]
pub(super) fn undisturbed() {
    BEFORE_EACH.set(None);
}
