//! Directories that stay in their place when their volume goes, and that a claim of the same namespace and name takes back.
//!
//! Nothing but markers changes: a directory is kept once its marker says so, and is another claim's once there is a marker of
//! that claim. The new marker is on the disk before the old one goes. Where it is in doubt whose a directory is, nothing is made
//! and nothing is taken.

use rustix::fd::AsFd;
use rustix::fs::AtFlags;

use super::base::Base;
use super::changes::{remove, sync};
use super::directory::Order;
use super::error::{DirectoryError, failed};
use super::marker::{ClaimName, Marker, Markers, Unreadable};
use crate::crd::{KeptDirectory, SameClaim, TakeBack};

impl Markers {
    /// What a report lists of a base: directories of this cluster whose volume is gone, and all of other clusters that carry the
    /// name of a claim.
    pub(in crate::agent) fn kept(&self, base: &str, cluster: &str) -> Vec<KeptDirectory> {
        let listed = self.known.iter().filter(|marker| is_left(marker, cluster) && !self.is_taken(marker, cluster));
        let directory = |marker: &Marker| {
            let owner = marker.owner.clone()?;
            let cluster = if marker.cluster == cluster { String::new() } else { marker.cluster.clone() };
            Some(KeptDirectory {
                namespace: owner.namespace,
                name: owner.name,
                claim: marker.claim.clone(),
                cluster,
                base: base.to_owned(),
                path: marker.path.clone(),
            })
        };
        listed.filter_map(directory).collect()
    }

    /// What earlier claims of this name have left, or have still.
    fn earlier<'a>(&'a self, owner: &'a ClaimName, order: &'a Order) -> impl Iterator<Item = &'a Marker> {
        let same = move |marker: &&Marker| marker.owner.as_ref() == Some(owner) && marker.claim != order.claim;
        self.known.iter().filter(same).filter(|marker| !self.is_taken(marker, &order.cluster))
    }

    /// It was taken back, and the old marker is still there: something came between.
    fn is_taken(&self, marker: &Marker, cluster: &str) -> bool {
        let takes =
            |other: &Marker| other.path == marker.path && other.claim != marker.claim && !is_left(other, cluster);
        is_left(marker, cluster) && self.known.iter().any(takes)
    }
}

/// True for a directory that no volume of this cluster has.
fn is_left(marker: &Marker, cluster: &str) -> bool {
    marker.kept || marker.cluster != cluster
}

impl Unreadable {
    /// It may be the marker of an earlier claim of this name.
    fn may_be_of(&self, owner: &ClaimName) -> bool {
        self.owner.as_ref().is_none_or(|named| named == owner)
    }
}

impl Base {
    /// Takes the directory back that an order names. False where it names none and there is none.
    ///
    /// # Errors
    /// When there is one and the order names none, or another one; when it cannot be told; when it is not there any more.
    pub(super) fn take_back(&self, order: &Order, same: &SameClaim) -> Result<bool, DirectoryError> {
        let Some(owner) = &order.owner else {
            return Err(DirectoryError::Order("nothing is taken back for a claim without a name".to_owned()));
        };
        let markers = self.owned()?;
        if let Some(doubtful) = markers.unreadable.iter().find(|it| it.may_be_of(owner)) {
            let path = self.inside(&format!(".latebind/volumes/{}", doubtful.name));
            return Err(DirectoryError::Marker { path, problem: doubtful.problem.clone() });
        }
        let earlier: Vec<&Marker> = markers.earlier(owner, order).collect();
        let Some(wanted) = &same.take_back else {
            return match earlier.first() {
                None => Ok(false),
                Some(marker) => Err(self.refused_for(marker, owner, is_left(marker, &order.cluster))),
            };
        };
        let shown = self.inside(order.path.as_str());
        let refused = |why: &str| DirectoryError::NotTakenBack { path: shown.clone(), why: why.to_owned() };
        let marker = match earlier.as_slice() {
            [] => return Err(refused("no marker says that an earlier claim of this name has left it")),
            [marker] => *marker,
            _ => return Err(refused("earlier claims of this name have left more than one directory here")),
        };
        if !is_wanted(marker, wanted, order) {
            return Err(refused(&format!("{}, and not that of the order", marker.owner())));
        }
        // Of another cluster counts what is named, of this one what was left.
        let is_left =
            if marker.cluster == order.cluster { marker.kept } else { same.clusters.contains(&marker.cluster) };
        if !is_left {
            return Err(refused(&format!("{}, and does not say that it was left", marker.owner())));
        }
        if !self.stands(order)? {
            return Err(DirectoryError::Gone { path: shown });
        }
        self.write_marker(self.markers()?.as_fd(), &order.claim, &order.marker())?;
        self.forget_taken(order, same)?;
        Ok(true)
    }

    /// Removes the marker of the claim that had the directory before. Only once the new one is there.
    pub(super) fn forget_taken(&self, order: &Order, same: &SameClaim) -> Result<(), DirectoryError> {
        let (Some(taken), Some(markers)) = (&same.take_back, self.existing(&[".latebind", "volumes"])?) else {
            return Ok(());
        };
        let shown = self.inside(&format!(".latebind/volumes/{}", taken.claim));
        let old = self.marker(markers.as_fd(), &taken.claim)?;
        if !old.is_some_and(|old| is_wanted(&old, taken, order)) {
            return Ok(());
        }
        remove(&markers, &taken.claim, AtFlags::empty())
            .and_then(|_| sync(&markers))
            .map_err(failed("remove the marker", &shown))
    }

    /// Says in its marker that a directory stays.
    pub(super) fn keep(&self, order: &Order, marker: &Marker) -> Result<(), DirectoryError> {
        let next = marker.brought_up_to(&order.marker()).unwrap_or_else(|| marker.clone()).kept();
        if next == *marker {
            return Ok(());
        }
        self.write_marker(self.markers()?.as_fd(), &order.claim, &next)
    }

    fn refused_for(&self, marker: &Marker, owner: &ClaimName, left: bool) -> DirectoryError {
        DirectoryError::Existing {
            path: self.inside(&marker.path),
            owner: owner.to_string(),
            claim: marker.claim.clone(),
            left,
        }
    }
}

/// True for the very directory that is to be taken back.
fn is_wanted(marker: &Marker, wanted: &TakeBack, order: &Order) -> bool {
    let cluster = if wanted.cluster.is_empty() { &order.cluster } else { &wanted.cluster };
    marker.claim == wanted.claim && marker.cluster == *cluster && marker.path == order.path.as_str()
}
