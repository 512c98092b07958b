//! A volume's directory taken away. Success is reported with proof only: the directory was seen and moved, or its marker
//! was seen and removed. What is missing may be on a disk that is not mounted.
//!
//! Each step is on the disk before the next begins: the directory moves to the trash, then its marker to
//! `.latebind/gone`, where it tells until the LocalVolume is gone that the work was done.

use std::collections::BTreeSet;
use std::time::Instant;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;

use super::base::{AllowedBases, Base};
use super::changes::{remove, remove_part, rename_new, rename_over, sync};
use super::directory::{Order, unbegin};
use super::error::{DirectoryError, failed, io_failed};
use super::marker::Marker;
use super::mounts;
use super::others::OtherPaths;
use crate::crd::{Disposal, OnDelete, Origin, Reclaim};
use crate::model::Relation;

/// How a directory is to go.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    /// Where it comes from.
    pub origin: Origin,
    /// With what is in it, or only if it is empty.
    pub disposal: Disposal,
    /// To the trash, to the archive, or not at all.
    pub on_delete: OnDelete,
    /// The volume was ready at some time: then the directory is somewhere.
    pub served: bool,
    /// Paths that other volumes name.
    pub others: OtherPaths<'a>,
    /// What permits it holds until then: a disk may have hung in between.
    pub not_after: Option<Instant>,
}

impl<'a> Removal<'a> {
    /// Of a directory that was made here and never served: only if it is empty, whatever other volumes name.
    #[must_use]
    pub fn of_unserved(visible: &'a AllowedBases) -> Self {
        Self {
            origin: Origin::Made,
            disposal: Disposal::DeleteIfEmpty,
            on_delete: OnDelete::Delete,
            served: false,
            others: OtherPaths { paths: &[], visible },
            not_after: None,
        }
    }

    fn still_permitted(&self, shown: &str) -> Result<(), DirectoryError> {
        match self.not_after {
            Some(end) if Instant::now() >= end => Err(DirectoryError::Expired { path: shown.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// What tells that a directory is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It was seen and moved away just now.
    Moved,
    /// Its marker was seen on this disk, and it was not.
    MarkerRemoved,
    /// It was moved away by an attempt before this one.
    MovedBefore,
    /// It was never reported as ready, and nothing was begun here.
    NeverMade,
    /// It is in its place, and its marker says that it stays there.
    Kept,
}

impl Base {
    /// Takes the directory of a volume away, as the order of disposal says. Done already counts as done.
    ///
    /// # Errors
    /// When the directory is not ours, is not there and nothing tells why, holds a mount point, is the directory of
    /// another volume too, must be empty and is not, or a system call fails.
    pub fn dispose(&self, order: &Order, removal: &Removal<'_>) -> Result<Proof, DirectoryError> {
        order.check()?;
        self.expect_id(order)?;
        let proof = match removal.origin {
            Origin::Made | Origin::Recovered | Origin::Orphan => self.dispose_marked(order, removal)?,
            Origin::Adopted => self.dispose_adopted(order, removal)?,
        };
        Ok(proof)
    }

    fn dispose_marked(&self, order: &Order, removal: &Removal<'_>) -> Result<Proof, DirectoryError> {
        let shown = self.inside(order.path.as_str());
        let not_ours = |owner: String| DirectoryError::NotOurs { path: shown.clone(), owner };
        let (there, begun) = (self.stands(order)?, self.begun(order)?);
        let Some(marker) = self.known_marker(order)? else {
            if let Some(markers) = self.existing(&[".latebind", "volumes"])? {
                remove_part(markers, &order.claim).map_err(failed("remove the marker of", &shown))?;
            }
            return match (there, begun) {
                // It is still that of the claim before.
                (true, _) if order.takes_back() && !removal.served => Ok(Proof::NeverMade),
                (true, _) => Err(not_ours("it has no marker".to_owned())),
                (false, true) if stays(order, removal) => self.keep_in_place(order, &order.marker(), removal, false),
                (false, true) => self.take_begun(order, removal).map(|()| Proof::Moved),
                (false, false) if self.was_taken(order)? => Ok(Proof::MovedBefore),
                (false, false) if !removal.served => Ok(Proof::NeverMade),
                (false, false) => Err(DirectoryError::Missing { path: shown }),
            };
        };
        if !marker.same_owner(&order.marker()) {
            return Err(not_ours(marker.owner()));
        }
        let removal = &Removal { disposal: allowed(&marker, removal, &shown)?, ..*removal };
        if stays(order, removal) && (there || begun) && !(there && begun) {
            return self.keep_in_place(order, &marker, removal, there);
        }
        match (there, begun) {
            (true, true) if removal.served => return Err(not_ours("it was there before".to_owned())),
            (true, true) => {
                // Somebody put another one there while ours was being made.
                let undone = unbegin(order, self.markers()?, self.staging()?);
                return undone.map(|()| Proof::Moved).map_err(failed("remove the marker of", &shown));
            }
            (false, true) => self.take_begun(order, removal)?,
            (true, false) => self.take_placed(order, removal)?,
            (false, false) => {}
        }
        self.marker_is_gone(order, &shown)?;
        Ok(if there || begun { Proof::Moved } else { Proof::MarkerRemoved })
    }

    /// Nothing is moved; one that a power cut put back where it was made comes to its place again.
    fn keep_in_place(
        &self,
        order: &Order,
        marker: &Marker,
        removal: &Removal<'_>,
        there: bool,
    ) -> Result<Proof, DirectoryError> {
        let shown = self.inside(order.path.as_str());
        removal.still_permitted(&shown)?;
        if !there {
            self.place(order, marker.clone(), true, &shown)?;
        }
        self.keep(order, marker)?;
        Ok(Proof::Kept)
    }

    /// A directory of another provisioner has no marker. It must be seen, and be none of ours.
    fn dispose_adopted(&self, order: &Order, removal: &Removal<'_>) -> Result<Proof, DirectoryError> {
        let shown = self.inside(order.path.as_str());
        self.refuse_overlap(order, &shown)?;
        if !self.stands(order)? {
            let before = self.was_taken(order)?;
            return if before { Ok(Proof::MovedBefore) } else { Err(DirectoryError::Missing { path: shown }) };
        }
        // Written first: should this be cut short after the move, it tells that the directory was seen.
        let gone = self.gone()?;
        match self.write_marker(gone.as_fd(), &order.volume, &order.marker()) {
            // What frees room must not need any. Only a cut at this very moment would miss the note.
            Err(DirectoryError::Io { errno: Errno::NOSPC | Errno::DQUOT, .. }) => {}
            written => written?,
        }
        self.take_placed(order, removal)?;
        Ok(Proof::Moved)
    }

    fn refuse_overlap(&self, order: &Order, shown: &str) -> Result<(), DirectoryError> {
        let overlaps = |path: &str| Relation::of(path, order.path.as_str()).overlaps();
        let markers = self.owned()?;
        if let Some(marker) = markers.known.iter().find(|marker| overlaps(&marker.path)) {
            return Err(DirectoryError::NotOurs { path: shown.to_owned(), owner: marker.owner() });
        }
        // One that does not say where its directory is may own this one.
        match markers.unreadable.into_iter().find(|it| it.path.as_deref().is_none_or(overlaps)) {
            None => Ok(()),
            Some(unreadable) => {
                let path = self.inside(&format!(".latebind/volumes/{}", unreadable.name));
                Err(DirectoryError::Marker { path, problem: unreadable.problem })
            }
        }
    }

    /// Refuses a directory that the path of another volume leads to, above or below it, or that may be so.
    pub(crate) fn is_apart(&self, order: &Order, others: &OtherPaths<'_>) -> Result<(), DirectoryError> {
        let parents = self.parents(order, false)?;
        let parent = parents.last().map_or(self.root(), AsFd::as_fd);
        others.refuse_shared(parent, order.path.name(), &self.inside(order.path.as_str()))
    }

    fn take_placed(&self, order: &Order, removal: &Removal<'_>) -> Result<(), DirectoryError> {
        let parents = self.parents(order, false)?;
        let parent = parents.last().map_or(self.root(), AsFd::as_fd);
        self.take_away(order, removal, parent, order.path.name())
    }

    /// One that did not come to its place, or that a power cut put back.
    fn take_begun(&self, order: &Order, removal: &Removal<'_>) -> Result<(), DirectoryError> {
        self.take_away(order, removal, self.staging()?.as_fd(), &order.claim)
    }

    /// Moves a directory out of its place in one step; what is in it is unlinked later.
    fn take_away(
        &self,
        order: &Order,
        removal: &Removal<'_>,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), DirectoryError> {
        let shown = &self.inside(order.path.as_str());
        refuse_mounts(parent, name, shown)?;
        removal.others.refuse_shared(parent, name, shown)?;
        if removal.disposal == Disposal::DeleteIfEmpty {
            removal.still_permitted(shown)?;
            return match remove(parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => Err(DirectoryError::NotEmpty { path: shown.clone() }),
                removed => removed.and_then(|_| sync(parent)).map_err(failed("remove", shown)),
            };
        }
        let (target, label) = match removal.on_delete {
            OnDelete::Delete => (self.trash()?, &order.volume),
            OnDelete::Archive => (self.archive()?, &order.claim),
            OnDelete::KeepPath => {
                return Err(DirectoryError::Order(format!("{shown} is to stay in its place, and nothing moves it")));
            }
        };
        for attempt in 0..64 {
            removal.still_permitted(shown)?;
            let into = if attempt == 0 { label.clone() } else { format!("{label}.{attempt}") };
            match rename_new(parent, name, &target, &into) {
                Err(Errno::EXIST) => {}
                moved => {
                    let saved = moved.and_then(|()| sync(&target)).and_then(|()| sync(parent));
                    return saved.map_err(failed("move away", shown));
                }
            }
        }
        Err(failed("move away", shown)(Errno::EXIST))
    }

    fn marker_is_gone(&self, order: &Order, shown: &str) -> Result<(), DirectoryError> {
        let (markers, gone) = (self.markers()?, self.gone()?);
        let moved = rename_over(&markers, &order.claim, &gone, &order.volume);
        let saved = moved.and_then(|()| sync(&gone)).and_then(|()| sync(&markers));
        saved.map_err(failed("remove the marker of", shown))
    }

    /// True when an earlier attempt for this LocalVolume saw the directory and took it away.
    fn was_taken(&self, order: &Order) -> Result<bool, DirectoryError> {
        let Some(gone) = self.existing(&[".latebind", "gone"])? else { return Ok(false) };
        let noted = self.marker(gone.as_fd(), &order.volume)?;
        Ok(noted.is_some_and(|marker| marker.same_owner(&order.marker())))
    }

    /// Forgets what was taken away for LocalVolumes that are not there any more: nobody asks for it again.
    ///
    /// # Errors
    /// When the notes cannot be read or removed.
    pub fn forget_gone(&self, cluster: &str, volumes: &BTreeSet<String>) -> Result<(), DirectoryError> {
        let Some(gone) = self.existing(&[".latebind", "gone"])? else { return Ok(()) };
        let shown = self.inside(".latebind/gone");
        for entry in Dir::read_from(&gone).map_err(failed("read", &shown))? {
            let entry = entry.map_err(failed("read", &shown))?;
            let name = entry.file_name().to_string_lossy();
            if name.starts_with('.') || volumes.contains(&*name) {
                continue;
            }
            // A base may be shared with another cluster, which has LocalVolumes of its own.
            if self.marker(gone.as_fd(), &name).is_ok_and(|noted| noted.is_some_and(|it| it.cluster == cluster)) {
                remove(&gone, &*name, AtFlags::empty()).map_err(failed("remove", &shown))?;
            }
        }
        Ok(())
    }
}

/// True for one that is to stay in its place: it was given to a claim, or had been left by one before.
fn stays(order: &Order, removal: &Removal<'_>) -> bool {
    removal.on_delete == OnDelete::KeepPath && (removal.disposal == Disposal::Delete || order.takes_back())
}

/// What may become of a directory that no volume names is said by its marker: what was retained stays, and of what was
/// never seen with a volume only an empty directory goes.
fn allowed(marker: &Marker, removal: &Removal<'_>, shown: &str) -> Result<Disposal, DirectoryError> {
    if removal.origin != Origin::Orphan {
        return Ok(removal.disposal);
    }
    if marker.kept {
        let why = "its marker says that it stays in its place".to_owned();
        return Err(DirectoryError::OrphanKept { path: shown.to_owned(), why });
    }
    match marker.persistent_volume.as_ref().map(|recorded| recorded.seen.reclaim_policy) {
        Some(Reclaim::Delete) => Ok(removal.disposal),
        Some(Reclaim::Retain) => {
            let why = "its marker says that its volume was retained".to_owned();
            Err(DirectoryError::OrphanKept { path: shown.to_owned(), why })
        }
        None => Ok(Disposal::DeleteIfEmpty),
    }
}

/// A mount point in the directory belongs to somebody who still uses it.
fn refuse_mounts(parent: BorrowedFd<'_>, name: &str, shown: &str) -> Result<(), DirectoryError> {
    let real = mounts::real_path(parent).map_err(failed("look up", shown))?.join(name);
    let all = mounts::all().map_err(|error| io_failed("read", mounts::MOUNT_INFO, &error))?;
    match mounts::at_or_beneath(&all, &real) {
        Some(mount) => {
            let mount = mount.point.display().to_string();
            Err(DirectoryError::MountInside { path: shown.to_owned(), mount })
        }
        None => Ok(()),
    }
}
