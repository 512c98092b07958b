//! One volume's directory: made, found, and taken away. Nothing here knows of Kubernetes.
//!
//! Made in this order, so that a crash at any point leaves a state from which the same call goes on: a directory under
//! `.latebind/new`, then the marker, then the rename to its place, which refuses to replace anything. With a marker and
//! without the new directory, what stands in the place is ours; in every other case it is not.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, RenameFlags, Uid, fchown, fsync, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::base::{Base, make_directory, open_directory, read_small, set_mode, write_new};
use super::error::{DirectoryError, failed};
use super::marker::{MAX_BYTES, Marker};
use super::mounts;
use crate::crd::{Disposal, OnDelete, Origin, VolumePath};

/// What is to be made or removed, and for whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// UID of the namespace `kube-system`.
    pub cluster: String,
    /// UID of the LocalVolume.
    pub volume: String,
    /// UID of the claim.
    pub claim: String,
    /// The directory beneath the base.
    pub path: VolumePath,
    /// Mode of the directory.
    pub mode: u32,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The base on which it was made, if it was.
    pub base_id: Option<String>,
}

/// Largest mode: the permissions with set-user-ID, set-group-ID and sticky bit.
const MODE_BITS: u32 = 0o7777;

/// What became of an order to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The directory is new.
    Made,
    /// It was there and it is ours.
    Found,
}

impl Order {
    /// # Errors
    /// When a UID could not be a file name, or a number is out of range.
    fn check(&self) -> Result<(), DirectoryError> {
        for uid in [&self.claim, &self.volume] {
            let plain = (1..=64).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !plain {
                return Err(DirectoryError::Order(format!("`{}` is not a UID", uid.escape_default())));
            }
        }
        if self.mode > MODE_BITS {
            return Err(DirectoryError::Order(format!("mode {:o} is not one", self.mode)));
        }
        Ok(())
    }

    fn marker(&self) -> Marker {
        Marker {
            version: 1,
            cluster: self.cluster.clone(),
            volume: self.volume.clone(),
            claim: self.claim.clone(),
            path: self.path.to_string(),
        }
    }
}

impl Base {
    /// Makes the directory of a volume, or finds that it is there and ours. May be called again after any failure.
    ///
    /// `served` tells that the volume was ready before: then a missing directory is not replaced by an empty one.
    ///
    /// # Errors
    /// When the directory belongs to somebody else or to nobody, has gone, or a system call fails.
    pub fn make(&self, order: &Order, served: bool) -> Result<Outcome, DirectoryError> {
        order.check()?;
        self.expect_id(order)?;
        let shown = self.inside(order.path.as_str());
        let markers = self.markers()?;
        let found = self.read_marker(markers.as_fd(), order)?;
        if served || found.is_some() {
            match self.find(order, found.as_ref(), &shown)? {
                Standing::Ours => {
                    if found.is_some_and(|marker| marker.volume != order.volume) {
                        self.write_marker(markers.as_fd(), order)?;
                    }
                    return Ok(Outcome::Found);
                }
                Standing::Nothing if served => return Err(DirectoryError::Gone { path: shown }),
                Standing::Nothing | Standing::Begun => {}
            }
        }
        self.id()?;
        let staging = self.staging()?;
        make_directory(staging.as_fd(), &order.claim).map_err(failed("make", &shown))?;
        let fresh = open_directory(staging.as_fd(), &order.claim).map_err(failed("open", &shown))?;
        let (uid, gid) = (order.uid.map(Uid::from_raw), order.gid.map(Gid::from_raw));
        if uid.is_some() || gid.is_some() {
            fchown(&fresh, uid, gid).map_err(failed("change the owner of", &shown))?;
        }
        set_mode(fresh.as_fd(), order.mode).map_err(failed("change the mode of", &shown))?;
        self.write_marker(markers.as_fd(), order)?;
        let parent = self.parent(order, true)?;
        let placed = renameat_with(&staging, &order.claim, &parent, order.path.name(), RenameFlags::NOREPLACE);
        match placed {
            Err(Errno::EXIST) => {
                // Not ours: what is ours has left the staging directory by now. The marker would claim it.
                unlinkat(&markers, &order.claim, AtFlags::empty()).map_err(failed("remove the marker of", &shown))?;
                unlinkat(&staging, &order.claim, AtFlags::REMOVEDIR).map_err(failed("remove", &shown))?;
                Err(DirectoryError::NotOurs { path: shown, owner: "it was there before".to_owned() })
            }
            placed => {
                // After a power cut the directory may be back in `.latebind/new`; then it is put here once more.
                placed.map_err(failed("make", &shown))?;
                Ok(Outcome::Made)
            }
        }
    }

    /// Takes the directory of a volume away, as the order of disposal says. Done already counts as done.
    ///
    /// # Errors
    /// When the directory is not ours, holds a mount point, must be empty and is not, or a system call fails.
    pub fn dispose(
        &self,
        order: &Order,
        origin: Origin,
        disposal: Disposal,
        on_delete: OnDelete,
    ) -> Result<(), DirectoryError> {
        order.check()?;
        self.expect_id(order)?;
        let shown = self.inside(order.path.as_str());
        let Some(markers) = self.existing(&[".latebind", "volumes"])? else {
            return self.dispose_unmarked(order, origin, disposal, on_delete, &shown);
        };
        let found = self.read_marker(markers.as_fd(), order)?;
        let standing = match origin {
            Origin::Made | Origin::Recovered | Origin::Orphan => self.find(order, found.as_ref(), &shown)?,
            Origin::Adopted => self.find_adopted(order, markers.as_fd(), &shown)?,
        };
        if standing == Standing::Ours {
            self.take_away(order, disposal, on_delete, &shown)?;
        }
        // Left by a crash while it was being made: empty, and never given to anybody.
        let staging = self.existing(&[".latebind", "new"])?;
        for (parent, flags) in [(staging.as_ref(), AtFlags::REMOVEDIR), (Some(&markers), AtFlags::empty())] {
            let Some(parent) = parent else { continue };
            match unlinkat(parent, &order.claim, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("remove the marker of", &shown)(errno)),
            }
        }
        fsync(&markers).map_err(failed("save", &shown))
    }

    /// The same in a base in which nothing of ours was ever made.
    fn dispose_unmarked(
        &self,
        order: &Order,
        origin: Origin,
        disposal: Disposal,
        on_delete: OnDelete,
        shown: &str,
    ) -> Result<(), DirectoryError> {
        if !self.stands(order, shown)? {
            return Ok(());
        }
        match origin {
            Origin::Adopted => self.take_away(order, disposal, on_delete, shown),
            Origin::Made | Origin::Recovered | Origin::Orphan => {
                Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: "it has no marker".to_owned() })
            }
        }
    }

    /// Moves the directory out of its place in one step; what is in it is unlinked later.
    fn take_away(
        &self,
        order: &Order,
        disposal: Disposal,
        on_delete: OnDelete,
        shown: &str,
    ) -> Result<(), DirectoryError> {
        let parent = self.parent(order, false)?;
        let name = order.path.name();
        refuse_mounts(&parent, name, shown)?;
        if disposal == Disposal::DeleteIfEmpty {
            return match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => Err(DirectoryError::NotEmpty { path: shown.to_owned() }),
                removed => removed.map_err(failed("remove", shown)),
            };
        }
        let (target, label) = match on_delete {
            OnDelete::Delete => (self.trash()?, &order.volume),
            OnDelete::Archive => (self.archive()?, &order.claim),
        };
        for attempt in 0..64 {
            let into = if attempt == 0 { label.clone() } else { format!("{label}.{attempt}") };
            match renameat_with(&parent, name, &target, &into, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                moved => return moved.map_err(failed("move away", shown)),
            }
        }
        Err(failed("move away", shown)(Errno::EXIST))
    }

    fn expect_id(&self, order: &Order) -> Result<(), DirectoryError> {
        let Some(expected) = &order.base_id else { return Ok(()) };
        let found = self.known_id()?;
        if found.as_ref() == Some(expected) {
            return Ok(());
        }
        let found = found.unwrap_or_else(|| "none".to_owned());
        Err(DirectoryError::BaseChanged { path: self.path().to_owned(), found, expected: expected.clone() })
    }

    /// What stands where the directory belongs.
    fn find(&self, order: &Order, marker: Option<&Marker>, shown: &str) -> Result<Standing, DirectoryError> {
        let there = self.stands(order, shown)?;
        let Some(marker) = marker else {
            let owner = || "it has no marker".to_owned();
            return if there {
                Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: owner() })
            } else {
                Ok(Standing::Nothing)
            };
        };
        if !marker.same_owner(&order.marker()) {
            return Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: marker.owner() });
        }
        let staging = self.existing(&[".latebind", "new"])?;
        let begun = match staging {
            Some(staging) => statat(staging, &order.claim, AtFlags::SYMLINK_NOFOLLOW),
            None => Err(Errno::NOENT),
        };
        match (begun, there) {
            (Ok(_), true) => {
                Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: "it was there before".to_owned() })
            }
            (Ok(_), false) => Ok(Standing::Begun),
            (Err(Errno::NOENT), true) => Ok(Standing::Ours),
            (Err(Errno::NOENT), false) => Ok(Standing::Nothing),
            (Err(errno), _) => Err(failed("look at", shown)(errno)),
        }
    }

    /// A directory of another provisioner has no marker: it must not be one of ours either.
    fn find_adopted(&self, order: &Order, markers: BorrowedFd<'_>, shown: &str) -> Result<Standing, DirectoryError> {
        for marker in self.all_markers(markers)? {
            let ours = format!("{}/", marker.path);
            let theirs = format!("{}/", order.path);
            if ours.starts_with(&theirs) || theirs.starts_with(&ours) {
                return Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: marker.owner() });
            }
        }
        Ok(if self.stands(order, shown)? { Standing::Ours } else { Standing::Nothing })
    }

    fn stands(&self, order: &Order, shown: &str) -> Result<bool, DirectoryError> {
        let parent = match self.parent(order, false) {
            Err(DirectoryError::Io { errno: Errno::NOENT, .. }) => return Ok(false),
            opened => opened?,
        };
        match statat(&parent, order.path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
            Ok(_) => Err(DirectoryError::NotADirectory { path: shown.to_owned() }),
            Err(errno) => Err(failed("look at", shown)(errno)),
        }
    }

    /// The directory that holds the volume's. Those above it are made if asked for, and never removed.
    fn parent(&self, order: &Order, make: bool) -> Result<OwnedFd, DirectoryError> {
        let mut shown = self.path().to_owned();
        let mut at = open_directory(self.root(), ".").map_err(failed("open", &shown))?;
        for name in order.path.parents() {
            shown = format!("{shown}/{name}");
            if make {
                make_directory(at.as_fd(), name).map_err(failed("make", &shown))?;
            }
            at = open_directory(at.as_fd(), name).map_err(failed("open", &shown))?;
        }
        Ok(at)
    }

    fn read_marker(&self, markers: BorrowedFd<'_>, order: &Order) -> Result<Option<Marker>, DirectoryError> {
        self.read_marker_of(markers, &order.claim)
    }

    fn read_marker_of(&self, markers: BorrowedFd<'_>, claim: &str) -> Result<Option<Marker>, DirectoryError> {
        let path = self.inside(&format!(".latebind/volumes/{claim}"));
        let bytes = read_small(markers, claim, MAX_BYTES).map_err(failed("read", &path))?;
        let parsed = bytes.map(|bytes| Marker::parse(&bytes)).transpose();
        parsed.map_err(|problem| DirectoryError::Marker { path, problem })
    }

    fn write_marker(&self, markers: BorrowedFd<'_>, order: &Order) -> Result<(), DirectoryError> {
        let path = self.inside(&format!(".latebind/volumes/{}", order.claim));
        let bytes = serde_json::to_vec(&order.marker()).map_err(|error| DirectoryError::Order(error.to_string()))?;
        write_new(markers, &order.claim, &bytes, true).map_err(failed("write", &path))
    }

    /// Every marker of the base. One that cannot be read is an error: it may own anything.
    pub(crate) fn all_markers(&self, markers: BorrowedFd<'_>) -> Result<Vec<Marker>, DirectoryError> {
        let path = self.inside(".latebind/volumes");
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(markers).map_err(failed("read", &path))? {
            let entry = entry.map_err(failed("read", &path))?;
            let name = entry.file_name().to_string_lossy();
            if !name.starts_with('.') {
                found.extend(self.read_marker_of(markers, &name)?);
            }
        }
        Ok(found)
    }

    /// Every marker of the base.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn owned(&self) -> Result<Vec<Marker>, DirectoryError> {
        self.all_markers(self.markers()?.as_fd())
    }
}

/// A mount point in the directory belongs to somebody who still uses it.
fn refuse_mounts(parent: &OwnedFd, name: &str, shown: &str) -> Result<(), DirectoryError> {
    let real = mounts::real_path(parent).map_err(failed("look up", shown))?.join(name);
    let all = mounts::all().map_err(|error| super::base::io_failed("read", mounts::MOUNT_INFO, &error))?;
    match mounts::at_or_beneath(&all, &real) {
        Some(mount) => {
            let mount = mount.point.display().to_string();
            Err(DirectoryError::MountInside { path: shown.to_owned(), mount })
        }
        None => Ok(()),
    }
}

/// What stands where a directory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing, and nothing was begun.
    Nothing,
    /// It was being made when something came between.
    Begun,
    /// The directory, and it is ours.
    Ours,
}
