//! The root of a file system as it was before a claim had it: its owner, mode and attributes say nothing of that claim, and
//! give nobody a right.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Uid, flistxattr, fremovexattr};
use rustix::io::Errno;

use super::fault::{DiskFault, failed};
use crate::agent::disk::changes::{set_mode, set_owner, sync_all};
use crate::crd::RootOwner;

/// The list of all names has at most so many bytes (`XATTR_LIST_MAX`).
const LONGEST_LIST: usize = 65536;
/// What a new file system has.
const NEW: RootOwner = RootOwner { uid: 0, gid: 0, mode: 0o755 };

/// Gives the root its owner and mode, and takes its attributes away. All of it is on the disk when this returns.
pub(super) fn reset_root(root: &OwnedFd, path: &str, owner: Option<RootOwner>) -> Result<(), DiskFault> {
    let owner = owner.unwrap_or(NEW);
    remove_attributes(root, path)?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    set_owner(root, Some(uid), Some(gid)).map_err(failed("set the owner of", path))?;
    // After the owner, whose change takes bits away.
    set_mode(root, owner.mode).map_err(failed("set the mode of", path))?;
    sync_all(root).map_err(failed("save", path))
}

fn remove_attributes(root: &OwnedFd, path: &str) -> Result<(), DiskFault> {
    let mut list = vec![0_u8; LONGEST_LIST];
    let length = match flistxattr(root.as_fd(), list.as_mut_slice()) {
        // The file system has no attributes.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed.map_err(failed("list the attributes of", path))?,
    };
    for name in list[..length].split(|byte| *byte == 0).filter(|name| is_of_a_claim(name)) {
        match fremovexattr(root.as_fd(), name) {
            Err(Errno::NODATA) => {}
            // Those of the system itself: they are no claim's, and some cannot be removed.
            Err(Errno::PERM | Errno::OPNOTSUPP) if name.starts_with(b"trusted.") || name.starts_with(b"security.") => {}
            removed => removed.map_err(failed("remove an attribute of", path))?,
        }
    }
    Ok(())
}

/// True for what a claim's Pods may have set. The label of SELinux is the administrator's.
fn is_of_a_claim(name: &[u8]) -> bool {
    let prefixes: [&[u8]; 4] = [b"system.posix_acl_", b"user.", b"trusted.", b"security."];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && name != b"security.selinux"
}
