//! What can go wrong with a directory, said so that a person knows what, where and why.

use rustix::io::Errno;

use crate::crd::EXISTING_DIRECTORY;

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
    /// The store may have lost what keeps the directory.
    #[error(
        "{path} stays: {why}. The API server's store was restored from a backup, and the order to remove may have been taken back since; \
         condition OrphansHeld of the LocalNode says how it goes on"
    )]
    StoreRestored {
        /// The directory.
        path: String,
        /// What tells.
        why: String,
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
    /// The node has another file system there than the agent.
    #[error(
        "the node has mounted a file system at {path} that the agent does not see, since its mounts are a copy (agent.mountPropagation: \
         None): restart the agent's Pod on this node"
    )]
    MountNotSeen {
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
    #[error(
        "{path} exists and is not ours ({owner}): nothing is done there, and a volume that uses it goes on as it is; for a new claim choose another path, by the pathPattern of its class or the paths of the pool"
    )]
    NotOurs {
        /// The directory.
        path: String,
        /// What is known of its owner.
        owner: String,
    },
    /// A claim of the same name has left a directory, or has it still, and nothing new is made in its place.
    #[error(
        "{path} is that of an earlier claim {owner} (marker .latebind/volumes/{claim}), {}",
        if *.left { "which has left it: it is taken back when the controller orders it" }
        else { "and is not left yet: it is taken back when its volume is gone" }
    )]
    Existing {
        /// The directory.
        path: String,
        /// Namespace and name of both claims.
        owner: String,
        /// UID of the earlier claim.
        claim: String,
        /// Its volume is gone, and the report lists it.
        left: bool,
    },
    /// A directory that was to be taken back, and whose it is is in doubt.
    #[error("{path} is not taken back: {why}")]
    NotTakenBack {
        /// The directory.
        path: String,
        /// What is in doubt.
        why: String,
    },
    /// The directory would lie inside that of another volume.
    #[error(
        "{path} would lie inside the directory of another volume, {owner}: change the pathPattern of the class, or the name of the claim"
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
    /// The directory is to be removed, is not there, and nothing tells why.
    #[error(
        "{path} is not there, nor any note of its removal: what is missing may be on a disk that is not mounted, so its volume stays; bring the disk back, or, if you know that the data is gone, remove the finalizer of the LocalVolume"
    )]
    Missing {
        /// The directory.
        path: String,
    },
    /// Another volume has the same directory, one above or one below.
    #[error("{path} is not removed: volume path {other} leads to the same directory, to one above or to one below it")]
    Shared {
        /// The directory.
        path: String,
        /// The path that the other volume names.
        other: String,
    },
    /// It cannot be told whether another volume has the same directory.
    #[error("{path} is not removed: it cannot be told whether volume path {other} leads to the same directory ({why})")]
    Undecided {
        /// The directory.
        path: String,
        /// The path that the other volume names.
        other: String,
        /// What is not known.
        why: String,
    },
    /// A part of the base's path is a symbolic link.
    #[error(
        "{path} leads over a symbolic link, `{link}`, to {target}: links are not followed, so name the directory that it leads to in the LocalPool, and have it among the agents' base paths"
    )]
    Link {
        /// The base.
        path: String,
        /// The component that is a link.
        link: String,
        /// Where it leads.
        target: String,
    },
    /// Something is mounted in the directory.
    #[error(
        "{mount} is a mount point inside {path}, whose user still needs it: the volume is removed when it is unmounted"
    )]
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
    /// It was served, and its volume is gone without having been released under `Delete`.
    #[error("{path} is kept: its volume was retained, or deleted before it was released")]
    Retained {
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
    /// The disk does not answer.
    #[error(
        "calls to the disk at {path} do not return: nothing is made or removed there until they do; look at the disk, and at the kernel's log of the node"
    )]
    Hung {
        /// The base.
        path: String,
    },
    /// So many disks do not answer that no thread is left for another.
    #[error("{path} is not touched: too many calls to other disks of this node do not return")]
    OthersHang {
        /// The base.
        path: String,
    },
    /// What permits a removal has been true, and may not be any more.
    #[error("{path} is not removed yet: the attempt has taken too long, and the controller is asked again")]
    Expired {
        /// The directory.
        path: String,
    },
    /// A marker that cannot be read.
    #[error(
        "the marker {path} cannot be read: {problem}; nothing is done to a directory whose owner is not known. If a later version of latebind wrote it, run that version again"
    )]
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
            Self::Link { .. } => "UnsafePath",
            Self::NotAllowed { .. } => "PathNotAllowed",
            Self::NotMounted { .. } => "NotMounted",
            Self::MountNotSeen { .. } => "MountNotSeen",
            Self::BaseChanged { .. } => "BaseChanged",
            Self::NotOurs { .. } | Self::Inside { .. } => "NotOurs",
            Self::Gone { .. } => "DirectoryGone",
            Self::Existing { left: true, .. } => EXISTING_DIRECTORY,
            Self::Existing { left: false, .. } | Self::NotTakenBack { .. } => "NotTakenBack",
            Self::Missing { .. } => "DirectoryMissing",
            Self::Shared { .. } => "PathShared",
            Self::Undecided { .. } => "PathUndecided",
            Self::MountInside { .. } => "MountInside",
            Self::NotADirectory { .. } => "NotADirectory",
            Self::NotEmpty { .. } | Self::Retained { .. } => "Retained",
            Self::OrphanKept { .. } => "OrphanKept",
            Self::StoreRestored { .. } => "StoreRestored",
            Self::Replaced { .. } => "NodeReplaced",
            Self::Hung { .. } | Self::OthersHang { .. } => "DiskHung",
            Self::Expired { .. } => "AttemptExpired",
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

pub(crate) fn as_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

pub(crate) fn io_failed(operation: &'static str, path: &str, error: &std::io::Error) -> DirectoryError {
    failed(operation, path)(as_errno(error))
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
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::NXIO => "ENXIO",
        Errno::NODEV => "ENODEV",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.to_owned()
}

/// The system's text without its number, which says less than the name.
pub(crate) fn plain_text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
