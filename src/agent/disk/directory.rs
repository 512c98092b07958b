//! One volume's directory: made, and found again. Nothing here knows of Kubernetes.
//!
//! Made in this order, so that a crash or a power cut at any point leaves a state from which the same call goes on: a
//! directory under `.latebind/new`, then the marker, then the rename to its place, which refuses to replace anything. Each
//! is on the disk before the next begins, and all of it before the call returns. With a marker and without the new
//! directory, what stands in the place is ours; in every other case it is not.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Uid, statat};
use rustix::io::Errno;

use super::base::{Base, open_directory};
use super::changes::{make_directory, remove, rename_new, set_mode, set_owner, sync};
use super::error::{DirectoryError, failed};
use super::marker::{ClaimName, Marker, Recorded, revision};
use crate::crd::{SameClaim, SeenVolume, VolumePath};

/// What is to be made or removed, and for whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// UID of the namespace `kube-system`.
    pub cluster: String,
    /// UID of the LocalVolume.
    pub volume: String,
    /// UID of the claim.
    pub claim: String,
    /// Its namespace and name, where the directory stays for a later claim of the same ones.
    pub owner: Option<ClaimName>,
    /// What an earlier claim of the same name has left is taken back.
    pub same_claim: Option<SameClaim>,
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
    /// The PersistentVolume as it was last seen live, if it was.
    pub persistent_volume: Option<SeenVolume>,
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
    /// It was left by an earlier claim of the same name, and is ours now.
    TakenBack,
}

impl Order {
    /// # Errors
    /// When a UID could not be a file name, or a number is out of range.
    pub(super) fn check(&self) -> Result<(), DirectoryError> {
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

    pub(super) fn marker(&self) -> Marker {
        let recorded = |seen: &SeenVolume| Recorded { seen: seen.clone(), ..Recorded::default() };
        Marker {
            version: 1,
            cluster: self.cluster.clone(),
            volume: self.volume.clone(),
            claim: self.claim.clone(),
            path: self.path.to_string(),
            persistent_volume: self.persistent_volume.as_ref().map(recorded),
            owner: self.owner.clone(),
            ..Marker::default()
        }
    }

    /// True for a directory that is taken back and not made.
    pub(super) fn takes_back(&self) -> bool {
        self.same_claim.as_ref().is_some_and(|same| same.take_back.is_some())
    }
}

impl Base {
    /// Makes the directory of a volume, or finds that it is there and ours. May be called again after any failure. What it
    /// answers outlives a power cut.
    ///
    /// `served` tells that the volume was ready before: then a missing directory is not replaced by an empty one.
    ///
    /// # Errors
    /// When the directory belongs to somebody else or to nobody, has gone, or a system call fails.
    pub fn make(&self, order: &Order, served: bool) -> Result<Outcome, DirectoryError> {
        order.check()?;
        self.expect_id(order)?;
        let shown = self.inside(order.path.as_str());
        let known = self.known_marker(order)?;
        match (&order.same_claim, &known) {
            (Some(same), Some(_)) => self.forget_taken(order, same)?,
            (Some(same), None) if !served && self.take_back(order, same)? => return Ok(Outcome::TakenBack),
            _ => {}
        }
        let standing = self.find(order, known.as_ref())?;
        match (standing, known) {
            (DirectoryState::Ours, Some(marker)) => {
                if let Some(next) = marker.brought_up_to(&order.marker()) {
                    self.write_marker(self.markers()?.as_fd(), &order.claim, &next)?;
                }
                Ok(Outcome::Found)
            }
            (DirectoryState::Nothing, _) if served => Err(DirectoryError::Gone { path: shown }),
            (DirectoryState::Begun, known) if served => {
                // A power cut put it back there. What is in it is the volume's.
                self.place(order, known.unwrap_or_else(|| order.marker()), served, &shown)?;
                Ok(Outcome::Found)
            }
            (_, known) => {
                self.id()?;
                self.begin(order, &shown)?;
                self.place(order, known.unwrap_or_else(|| order.marker()), served, &shown)?;
                Ok(Outcome::Made)
            }
        }
    }

    /// Makes the directory where nobody looks for it, or goes on with one that is there.
    fn begin(&self, order: &Order, shown: &str) -> Result<(), DirectoryError> {
        let staging = self.staging()?;
        make_directory(&staging, &order.claim).map_err(failed("make", shown))?;
        let fresh = open_directory(staging.as_fd(), &order.claim).map_err(failed("open", shown))?;
        let (uid, gid) = (order.uid.map(Uid::from_raw), order.gid.map(Gid::from_raw));
        if uid.is_some() || gid.is_some() {
            set_owner(&fresh, uid, gid).map_err(failed("change the owner of", shown))?;
        }
        set_mode(&fresh, order.mode).map_err(failed("change the mode of", shown))?;
        sync(&fresh).and_then(|()| sync(&staging)).map_err(failed("save", shown))
    }

    /// Puts what was begun in its place.
    pub(super) fn place(&self, order: &Order, marker: Marker, served: bool, shown: &str) -> Result<(), DirectoryError> {
        let (markers, staging) = (self.markers()?, self.staging()?);
        let marker = marker.brought_up_to(&order.marker()).unwrap_or(marker);
        self.write_marker(markers.as_fd(), &order.claim, &marker)?;
        let parents = self.parents(order, true)?;
        let parent = parents.last().map_or(self.root(), AsFd::as_fd);
        match rename_new(&staging, &order.claim, parent, order.path.name()) {
            Err(Errno::EXIST) => {
                // Not ours: what is ours is in the staging directory still.
                if !served {
                    unbegin(order, &markers, &staging).map_err(failed("remove the marker of", shown))?;
                }
                return Err(DirectoryError::NotOurs {
                    path: shown.to_owned(),
                    owner: "it was there before".to_owned(),
                });
            }
            placed => placed.map_err(failed("make", shown))?,
        }
        let saved = parents.iter().rev().try_for_each(sync);
        saved.and_then(|()| sync(self.root())).and_then(|()| sync(&staging)).map_err(failed("save", shown))
    }

    /// Nothing is done on another disk than the one that the volume was made on.
    pub(super) fn expect_id(&self, order: &Order) -> Result<(), DirectoryError> {
        let Some(expected) = &order.base_id else { return Ok(()) };
        let found = self.known_id()?;
        if found.as_ref() == Some(expected) {
            return Ok(());
        }
        let found = found.unwrap_or_else(|| "none".to_owned());
        Err(DirectoryError::BaseChanged { path: self.path().to_owned(), found, expected: expected.clone() })
    }

    /// The marker of a claim. Nothing is made.
    pub(super) fn known_marker(&self, order: &Order) -> Result<Option<Marker>, DirectoryError> {
        match self.existing(&[".latebind", "volumes"])? {
            Some(markers) => self.marker(markers.as_fd(), &order.claim),
            None => Ok(None),
        }
    }

    /// The version of the volume that its marker names.
    pub(in crate::agent) fn recorded_version(&self, order: &Order) -> Result<Option<u128>, DirectoryError> {
        order.check()?;
        let seen = self.known_marker(order)?.and_then(|marker| marker.persistent_volume);
        Ok(seen.and_then(|recorded| revision(&recorded.seen.resource_version)))
    }

    /// What stands where the directory belongs.
    fn find(&self, order: &Order, marker: Option<&Marker>) -> Result<DirectoryState, DirectoryError> {
        let not_ours = |owner: String| DirectoryError::NotOurs { path: self.inside(order.path.as_str()), owner };
        let there = self.stands(order)?;
        let begun = self.begun(order)?;
        match marker {
            Some(marker) if !marker.same_owner(&order.marker()) => Err(not_ours(marker.owner())),
            None if there => Err(not_ours("it has no marker".to_owned())),
            Some(_) if begun && there => Err(not_ours("it was there before".to_owned())),
            _ if begun => Ok(DirectoryState::Begun),
            Some(_) if there => Ok(DirectoryState::Ours),
            _ => Ok(DirectoryState::Nothing),
        }
    }

    /// True when a directory of this claim was begun and did not come to its place.
    pub(super) fn begun(&self, order: &Order) -> Result<bool, DirectoryError> {
        let Some(staging) = self.existing(&[".latebind", "new"])? else { return Ok(false) };
        match statat(staging, &order.claim, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("look at", &self.inside(&format!(".latebind/new/{}", order.claim)))(errno)),
        }
    }

    /// True when a directory is in the place. Something else there is an error.
    pub(super) fn stands(&self, order: &Order) -> Result<bool, DirectoryError> {
        let shown = self.inside(order.path.as_str());
        let parents = match self.parents(order, false) {
            Err(DirectoryError::Io { errno: Errno::NOENT, .. }) => return Ok(false),
            opened => opened?,
        };
        let parent = parents.last().map_or(self.root(), AsFd::as_fd);
        match statat(parent, order.path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
            Ok(_) => Err(DirectoryError::NotADirectory { path: shown }),
            Err(errno) => Err(failed("look at", &shown)(errno)),
        }
    }

    /// The directories between the base and the volume's, outermost first. They are made if asked for, and never removed.
    pub(super) fn parents(&self, order: &Order, make: bool) -> Result<Vec<OwnedFd>, DirectoryError> {
        let mut shown = self.path().to_owned();
        let mut parents: Vec<OwnedFd> = Vec::new();
        for name in order.path.parents() {
            shown = format!("{shown}/{name}");
            let above = parents.last().map_or(self.root(), AsFd::as_fd);
            if make {
                make_directory(above, name).map_err(failed("make", &shown))?;
            }
            parents.push(open_directory(above, name).map_err(failed("open", &shown))?);
        }
        Ok(parents)
    }
}

/// Takes back what was begun and given to nobody. The marker goes first: without the new directory it would claim what
/// stands in the place.
pub(super) fn unbegin(order: &Order, markers: impl AsFd, staging: impl AsFd) -> rustix::io::Result<()> {
    remove(&markers, &order.claim, AtFlags::empty())?;
    sync(markers)?;
    remove(&staging, &order.claim, AtFlags::REMOVEDIR)?;
    sync(staging)
}

/// What stands where a directory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectoryState {
    /// Nothing, and nothing was begun.
    Nothing,
    /// It was being made when something came between.
    Begun,
    /// The directory, and it is ours.
    Ours,
}
