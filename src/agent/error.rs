//! What can go wrong with a directory, said so that a person knows what, where and why.

use rustix::io::Errno;

/// Why a directory could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A system call failed.
    #[error("cannot {operation} {path}: {} ({})", errno_name(*.errno), plain_text(*.errno))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A pool names a path that this agent was not given.
    #[error(
        "{path} is not beneath a base path of the agents ({allowed}): add it to `agent.basePaths` or change the pool"
    )]
    NotAllowed {
        /// The pool's path.
        path: String,
        /// What the agent was given.
        allowed: String,
    },
    /// The path needs a mount and there is none.
    #[error("nothing is mounted at {path}: the pool requires a file system of its own there, mount the disk")]
    NotMounted {
        /// The pool's path.
        path: String,
    },
    /// A file system other than the one that holds the volume is there.
    #[error(
        "{path} is not the file system that holds this volume (found base {found}, expected {expected}): is another disk mounted?"
    )]
    BaseChanged {
        /// The pool's path.
        path: String,
        /// The identity that is there.
        found: String,
        /// The identity that the volume was made on.
        expected: String,
    },
    /// The directory is there and carries the marker of somebody else, or none.
    #[error("{path} exists and is not ours ({owner}): it is left alone, move it away or choose another path")]
    NotOurs {
        /// The directory.
        path: String,
        /// What is known of its owner.
        owner: String,
    },
    /// The directory would lie inside that of another volume.
    #[error(
        "{path} would lie inside the directory of another volume, that of claim {owner}: change the pathPattern of the class, or the name of the claim"
    )]
    Inside {
        /// The directory.
        path: String,
        /// The other volume's claim.
        owner: String,
    },
    /// The directory of a finished volume is gone.
    #[error(
        "{path} is gone: it was made for this volume and somebody removed or unmounted it; restore it, an empty one is not put in its place"
    )]
    Gone {
        /// The directory.
        path: String,
    },
    /// Something is mounted in the directory.
    #[error("{mount} is a mount point inside {path}: unmount it, then the volume is removed")]
    MountInside {
        /// The directory.
        path: String,
        /// The mount point.
        mount: String,
    },
    /// Something that is not a directory stands where the volume's directory should be.
    #[error("{path} is not a directory: it is left alone, look who put it there")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The directory may only go when it is empty, and it is not.
    #[error("{path} is not empty and its volume was retained: it is kept")]
    NotEmpty {
        /// The directory.
        path: String,
    },
    /// No volume names it, and it must stay all the same.
    #[error("{path} belongs to no volume and is kept for now: {why}")]
    OrphanKept {
        /// The directory.
        path: String,
        /// Why it stays.
        why: String,
    },
    /// The Node is another object than before, and its disks are not confirmed.
    #[error("node {node} was made anew under the same name: {why}")]
    Replaced {
        /// The node.
        node: String,
        /// What is missing.
        why: String,
    },
    /// A marker that cannot be read.
    #[error("the marker {path} cannot be read: {problem}; nothing is done without knowing the owner")]
    Marker {
        /// The marker.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An order that no controller of ours gives.
    #[error("the order cannot be followed: {0}")]
    Order(String),
}

impl DirectoryError {
    /// The reason for a condition: one word, stable.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { errno, .. } => match *errno {
                Errno::NOSPC | Errno::DQUOT => "DiskFull",
                Errno::ROFS => "ReadOnlyFileSystem",
                Errno::IO => "InputOutputError",
                Errno::NOENT => "PathMissing",
                Errno::LOOP | Errno::XDEV => "UnsafePath",
                _ => "SystemCallFailed",
            },
            Self::NotAllowed { .. } => "PathNotAllowed",
            Self::NotMounted { .. } => "NotMounted",
            Self::BaseChanged { .. } => "BaseChanged",
            Self::NotOurs { .. } | Self::Inside { .. } => "NotOurs",
            Self::Gone { .. } => "DirectoryGone",
            Self::MountInside { .. } => "MountInside",
            Self::NotADirectory { .. } => "NotADirectory",
            Self::NotEmpty { .. } => "Retained",
            Self::OrphanKept { .. } => "OrphanKept",
            Self::Replaced { .. } => "NodeReplaced",
            Self::Marker { .. } => "MarkerUnreadable",
            Self::Order(_) => "OrderRefused",
        }
    }

    /// True when trying again without a change by a person is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NotAllowed { .. } | Self::Order(_) | Self::NotOurs { .. } | Self::Inside { .. })
    }
}

/// Puts operation and path to an error number.
pub(crate) fn failed<'a>(operation: &'static str, path: &'a str) -> impl FnOnce(Errno) -> DirectoryError + 'a {
    move |errno| DirectoryError::Io { operation, path: path.to_owned(), errno }
}

/// The name of an error number as manual pages have it.
#[must_use]
pub fn errno_name(errno: Errno) -> String {
    let name = match errno {
        Errno::PERM => "EPERM",
        Errno::NOENT => "ENOENT",
        Errno::IO => "EIO",
        Errno::ACCESS => "EACCES",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        Errno::XDEV => "EXDEV",
        Errno::NOTDIR => "ENOTDIR",
        Errno::ISDIR => "EISDIR",
        Errno::INVAL => "EINVAL",
        Errno::NFILE => "ENFILE",
        Errno::MFILE => "EMFILE",
        Errno::NOSPC => "ENOSPC",
        Errno::ROFS => "EROFS",
        Errno::MLINK => "EMLINK",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NOTEMPTY => "ENOTEMPTY",
        Errno::LOOP => "ELOOP",
        Errno::DQUOT => "EDQUOT",
        Errno::STALE => "ESTALE",
        Errno::NOSYS => "ENOSYS",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.to_owned()
}

/// The system's text without its number, which says less than the name.
fn plain_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
