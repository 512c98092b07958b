//! Why a disk is not offered, not found or not cleaned, said so that a person knows what, where and why.

use rustix::io::Errno;

use crate::agent::disk::error::{as_errno, errno_name, plain_text};
use crate::crd::DiskIdentity;

/// What is in the way of using or cleaning one disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskFault {
    /// A system call failed.
    #[error("cannot {operation} {path}: {} ({}){}", errno_name(*.errno), plain_text(*.errno), advice(*.errno))]
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
        "{path} is not beneath a directory that the agents were given for disks ({allowed}): add it to `agent.diskPaths` or change the pool"
    )]
    NotAllowed {
        /// The path.
        path: String,
        /// What the agent was given.
        allowed: String,
    },
    /// A path that is not absolute and plain.
    #[error("{0}")]
    BadPath(String),
    /// Nothing has that name.
    #[error("{path} is not there: make it, or change the pool")]
    PathMissing {
        /// The path.
        path: String,
    },
    /// A name that is not UTF-8.
    #[error("the name of {path} is not UTF-8, which a volume cannot have in its path: rename it")]
    BadName {
        /// The path, as well as it can be shown.
        path: String,
    },
    /// A pattern of a rule.
    #[error("`{pattern}` is not a pattern ({problem}), so its rule offers nothing: correct it in the LocalPool")]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A size of a rule.
    #[error("the rule offers nothing: {problem}")]
    BadSize {
        /// What is wrong with it.
        problem: String,
    },
    /// A plain directory.
    #[error("{path} is not a mount point: mount a disk there, or bind-mount the directory onto itself")]
    NotMounted {
        /// The directory.
        path: String,
    },
    /// The node has another file system there than the agent.
    #[error(
        "the node and the agent do not see the same file system at {path}, since the agent's mounts are a copy (agent.mountPropagation: \
         None): restart the agent's Pod on this node"
    )]
    MountNotSeen {
        /// The mount point.
        path: String,
    },
    /// A symbolic link to something other than a device.
    #[error(
        "{path} is a symbolic link to {target}: only links to devices are followed, mount the disk at {path} itself"
    )]
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A symbolic link that leads to nothing.
    #[error(
        "{path} is a symbolic link to {target}, where nothing is: is the device connected, and does the agent see /dev?"
    )]
    LinkBroken {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A file, a socket, or the like.
    #[error("{path} is {what}, not a disk: put a mount, a block device or a link to one there, or remove it")]
    NotADisk {
        /// The path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Something was mounted or unmounted at this very moment.
    #[error("what is mounted at {path} changed while it was looked at: the next look tells")]
    Changed {
        /// The path.
        path: String,
    },
    /// A file system for a rule that offers devices.
    #[error(
        "a file system is mounted at {path}, and the rule offers devices (volumeMode: Block): give each kind a directory or names of its own"
    )]
    ModeMismatch {
        /// The mount point.
        path: String,
    },
    /// Mounted read-only.
    #[error("the file system at {path} is read-only: mount it for writing; look at the node's kernel log if it was")]
    ReadOnlyFileSystem {
        /// The mount point.
        path: String,
    },
    /// The device takes no writes.
    #[error("the device at {path} is read-only: it cannot be a volume")]
    ReadOnlyDevice {
        /// The device.
        path: String,
    },
    /// It has no size.
    #[error("{path} has size 0, so nothing fits there: is the medium in the device?")]
    NoSize {
        /// The disk.
        path: String,
    },
    /// A rule asks for a property that cannot be read.
    #[error(
        "the rule asks for the {property} of {path}, which this node does not tell: leave it out of the rule, or name the disks by `names`"
    )]
    PropertyUnknown {
        /// The disk.
        path: String,
        /// The property; also tells the reason.
        property: Property,
    },
    /// Somebody uses it.
    #[error("{path} is in use: {by}. It is left alone until that ends")]
    InUse {
        /// The device.
        path: String,
        /// By what.
        by: String,
    },
    /// Something is on the device.
    #[error(
        "{path} holds {what}: wipe it (`wipefs --all`) if nobody needs that, or say `allowData: true` in the rule to offer it as it is"
    )]
    HasData {
        /// The device.
        path: String,
        /// What was found.
        what: String,
    },
    /// It cannot be told whether something is on the device, or what it is.
    #[error("{what} of {path} cannot be read, so it is left alone: {why}{advice}")]
    CannotRead {
        /// The disk.
        path: String,
        /// What was to be read.
        what: &'static str,
        /// What the kernel answered.
        why: String,
        /// What may help.
        advice: &'static str,
    },
    /// The same disk is at another entry.
    #[error("{path} is the same disk as {other}, or a part of it: remove one of the two")]
    Duplicate {
        /// The disk.
        path: String,
        /// The one that is offered.
        other: String,
    },
    /// The same path, or one above it, is offered already.
    #[error("{path} is offered already, as {other}: change the rules so that each disk is in one of them")]
    Overlap {
        /// The path.
        path: String,
        /// The one that is offered.
        other: String,
    },
    /// Another disk is there.
    #[error("another disk is at {path}: found {found}, expected {expected}; nothing is done to it")]
    Another {
        /// The path.
        path: String,
        /// What was found.
        found: String,
        /// What was recorded.
        expected: String,
    },
    /// It cannot be told which disk is there.
    #[error(
        "it cannot be told which disk is at {path} ({why}): found {found}, expected {expected}; nothing is done to it"
    )]
    IdentityUnknown {
        /// The path.
        path: String,
        /// What is missing.
        why: String,
        /// What was found.
        found: String,
        /// What was recorded.
        expected: String,
    },
    /// The file system, or a part of it, is mounted elsewhere too.
    #[error(
        "the file system of {path} is mounted at {point} too, whose user may still need it: it is cleaned when that is unmounted"
    )]
    StillMounted {
        /// The disk.
        path: String,
        /// The other mount point.
        point: String,
    },
    /// Something is mounted inside.
    #[error("{mount} is a mount point inside {path}: the disk is cleaned when it is unmounted")]
    MountInside {
        /// The disk.
        path: String,
        /// The mount point.
        mount: String,
    },
    /// Somebody has written meanwhile.
    #[error("{path} is not empty after all was removed from it: somebody still writes there, find out who")]
    NotEmpty {
        /// The disk.
        path: String,
    },
    /// What was written does not read back.
    #[error(
        "{path} was written with zeroes and has other bytes at offset {offset}: the device does not do what it is told, or somebody writes to it; it is not offered"
    )]
    NotZero {
        /// The device.
        path: String,
        /// Where.
        offset: u64,
    },
}

/// A property of a disk that a rule may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// `models`.
    Model,
    /// `rotational`.
    Rotational,
}

impl std::fmt::Display for Property {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Model => "model",
            Self::Rotational => "kind (rotational or not)",
        })
    }
}

impl DiskFault {
    /// The reason for a report or a condition: one word, stable.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { errno, .. } => match *errno {
                Errno::NOSPC | Errno::DQUOT => "DiskFull",
                Errno::ROFS => "ReadOnlyFileSystem",
                Errno::IO => "InputOutputError",
                Errno::NOENT => "PathMissing",
                Errno::LOOP | Errno::XDEV => "UnsafePath",
                Errno::ACCESS | Errno::PERM => "PermissionDenied",
                _ => "SystemCallFailed",
            },
            Self::NotAllowed { .. } => "PathNotAllowed",
            Self::BadPath(_) => "BadPath",
            Self::PathMissing { .. } => "PathMissing",
            Self::BadName { .. } => "BadName",
            Self::BadPattern { .. } => "BadPattern",
            Self::BadSize { .. } => "BadSize",
            Self::NotMounted { .. } => "NotMounted",
            Self::MountNotSeen { .. } => "MountNotSeen",
            Self::Link { .. } => "Link",
            Self::LinkBroken { .. } => "LinkBroken",
            Self::NotADisk { .. } => "NotADisk",
            Self::Changed { .. } => "Changed",
            Self::ModeMismatch { .. } => "ModeMismatch",
            Self::ReadOnlyFileSystem { .. } => "ReadOnlyFileSystem",
            Self::ReadOnlyDevice { .. } => "ReadOnlyDevice",
            Self::NoSize { .. } => "NoSize",
            Self::PropertyUnknown { property: Property::Model, .. } => "ModelUnknown",
            Self::PropertyUnknown { property: Property::Rotational, .. } => "RotationalUnknown",
            Self::InUse { .. } => "InUse",
            Self::HasData { .. } => "HasData",
            Self::CannotRead { .. } => "CannotRead",
            Self::Duplicate { .. } => "Duplicate",
            Self::Overlap { .. } => "Overlap",
            Self::Another { .. } => "AnotherDisk",
            Self::IdentityUnknown { .. } => "IdentityUnknown",
            Self::StillMounted { .. } => "StillMounted",
            Self::MountInside { .. } => "MountInside",
            Self::NotEmpty { .. } => "NotEmpty",
            Self::NotZero { .. } => "NotZero",
        }
    }

    /// True when it says that no disk is at the path, rather than that it could not be looked at.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::PathMissing { .. }
                | Self::NotMounted { .. }
                | Self::Link { .. }
                | Self::LinkBroken { .. }
                | Self::NotADisk { .. }
        )
    }

    pub(super) fn cannot_read(path: &str, what: &'static str, error: &std::io::Error) -> Self {
        let errno = as_errno(error);
        let why = format!("{} ({})", errno_name(errno), plain_text(errno));
        Self::CannotRead { path: path.to_owned(), what, why, advice: device_advice(errno) }
    }

    pub(super) fn not_told(path: &str, what: &'static str, why: &str) -> Self {
        Self::CannotRead { path: path.to_owned(), what, why: why.to_owned(), advice: "" }
    }
}

/// How an identity is named in a message: by all its marks, since another than the strongest may differ.
pub(super) fn named(identity: &DiskIdentity) -> String {
    let marks: Vec<String> = identity.marks().collect();
    if marks.is_empty() { "no mark".to_owned() } else { marks.join(" ") }
}

/// Puts operation and path to an error number.
pub(super) fn failed<'a>(operation: &'static str, path: &'a str) -> impl FnOnce(Errno) -> DiskFault + 'a {
    move |errno| DiskFault::Io { operation, path: path.to_owned(), errno }
}

/// The same for an error of the standard library.
pub(super) fn io_failed(operation: &'static str, path: &str, error: &std::io::Error) -> DiskFault {
    failed(operation, path)(as_errno(error))
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => "; is the file immutable (`chattr -i`), or does the agent lack a capability?",
        Errno::IO => "; look at the disk, and at the kernel's log of the node",
        _ => "",
    }
}

fn device_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NODEV | Errno::NXIO => {
            "; the agent may open devices with `agent.diskDevices: true` in the chart"
        }
        Errno::IO => "; look at the disk, and at the kernel's log of the node",
        _ => "",
    }
}
