//! What an agent may look at, and how it opens a directory of disks: no link beneath what it was given is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, ResolveFlags, readlinkat};
use rustix::io::Errno;

use super::fault::{DiskFault, failed, io_failed};
use super::sysfs::Sysfs;
use crate::agent::disk::base::{AllowedBases, DIRECTORY, open_beneath};
use crate::agent::disk::mounts::{self, Mount};
use crate::crd::{DiskIdentity, checked_base};

/// Where disks may be, and what tells of them.
#[derive(Clone, Debug)]
pub struct DiskScope {
    /// The directories that the agent was given for disks, and the node's root where its mounts are a copy.
    pub allowed: AllowedBases,
    /// What the kernel says of devices.
    pub sysfs: Sysfs,
    /// The node's mount table, such as `/proc/1/mountinfo`, where the agent has mounts of its own.
    pub node_mountinfo: Option<PathBuf>,
    /// Paths of devices that are volumes already. While the same disk is there it is not opened: what a claim has written is no
    /// fault, and the kubelet could not mount a device that is open for this process alone.
    pub known: BTreeMap<String, DiskIdentity>,
    /// Those of them that a claim has, or had: somebody uses them by right.
    pub claimed: BTreeSet<String>,
}

impl DiskScope {
    /// For the directories that an agent was given, on this machine.
    #[must_use]
    pub fn new(allowed: AllowedBases) -> Self {
        Self {
            allowed,
            sysfs: Sysfs::of_host(),
            node_mountinfo: None,
            known: BTreeMap::new(),
            claimed: BTreeSet::new(),
        }
    }

    /// The mounts that this process sees.
    pub(super) fn own_mounts() -> Result<Vec<Mount>, DiskFault> {
        mounts::all().map_err(|error| io_failed("read", mounts::MOUNT_INFO, &error))
    }

    /// The mounts of the node, where it has a table of its own.
    pub(super) fn node_mounts(&self) -> Result<Vec<Mount>, DiskFault> {
        let Some(table) = &self.node_mountinfo else { return Ok(Vec::new()) };
        let listed = mounts::listed_in(table).map_err(|error| io_failed("read", &table.to_string_lossy(), &error))?;
        // Every process has a root: an empty table was not read.
        if listed.is_empty() { Err(failed("read", &table.to_string_lossy())(Errno::NODATA)) } else { Ok(listed) }
    }
}

/// An open directory whose entries are disks.
#[derive(Debug)]
pub(super) struct Directory {
    /// As the pool gave it.
    pub path: PathBuf,
    /// As the kernel has it.
    pub real: PathBuf,
    pub fd: OwnedFd,
}

impl Directory {
    /// Opens a directory that the agent was given, or one beneath.
    pub(super) fn open(scope: &DiskScope, path: &str) -> Result<Self, DiskFault> {
        let checked = checked_base(path).map_err(|error| DiskFault::BadPath(error.to_string()))?;
        let not_allowed = || DiskFault::NotAllowed { path: path.to_owned(), allowed: scope.allowed.to_string() };
        let (top, rest) = scope.allowed.holding(&checked).ok_or_else(not_allowed)?;
        // The administrator named this one to the agent itself: its own links are followed.
        let mut fd = rustix::fs::open(top, DIRECTORY, Mode::empty()).map_err(failed("open", &top.to_string_lossy()))?;
        for component in rest.components() {
            let name = component.as_os_str();
            // Mount points may be crossed here: disks are mounted beneath what the agent was given.
            fd = match open_beneath(fd.as_fd(), name, DIRECTORY, ResolveFlags::empty()) {
                Err(Errno::NOENT) => return Err(DiskFault::PathMissing { path: path.to_owned() }),
                Err(Errno::LOOP) => return Err(link(&fd, name, path)),
                opened => opened.map_err(failed("open", path))?,
            };
        }
        let real = mounts::real_path(&fd).map_err(failed("look up", path))?;
        Ok(Self { path: checked, real, fd })
    }

    /// Opens the directory that holds an entry, and gives its name.
    pub(super) fn of_entry<'a>(scope: &DiskScope, path: &'a str) -> Result<(Self, &'a str), DiskFault> {
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        // The name is not a part of the path that is opened, and is checked with it here.
        checked_base(path).map_err(|error| DiskFault::BadPath(error.to_string()))?;
        Ok((Self::open(scope, parent)?, name))
    }

    /// The path of an entry, as the pool would give it.
    pub(super) fn entry(&self, name: &str) -> String {
        self.path.join(name).to_string_lossy().into_owned()
    }
}

/// Where a link leads that stands in the way, or that is an entry.
pub(super) fn link_target(parent: impl AsFd, name: impl rustix::path::Arg) -> String {
    let target = readlinkat(parent, name, Vec::new()).map(|target| target.to_string_lossy().into_owned());
    target.unwrap_or_else(|_| "elsewhere".to_owned())
}

fn link(parent: &OwnedFd, name: &OsStr, path: &str) -> DiskFault {
    DiskFault::Link { path: path.to_owned(), target: link_target(parent, Path::new(name)) }
}
