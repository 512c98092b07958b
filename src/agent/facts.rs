//! What is known of a pool's path on this node.

use std::collections::BTreeSet;

use rustix::fs::{fstat, fstatvfs};

use super::disk::base::{AllowedBases, Base};
use super::disk::error::{DirectoryError, failed};
use super::disk::marker::{Marker, Markers, Unreadable, revision};
use super::disk::records::Ages;
use super::restored::DiskSays;
use crate::crd::{KeptDirectory, PathReport, PoolPath};

/// Looks at a path. What is wrong with it stands in the report.
///
/// `claims` are the UIDs of the claims whose LocalVolumes are on this node: a marker of any other is an orphan.
#[must_use]
pub fn report(allowed: &AllowedBases, path: &PoolPath, cluster: &str, claims: &BTreeSet<String>) -> PathReport {
    look_at(allowed, path, cluster, claims).0
}

/// What a base was like when it was looked at.
#[derive(Clone, Debug)]
pub(super) struct BaseLook {
    /// UID of the Node before the look: what is found for one Node confirms no other.
    pub node_uid: String,
    /// The report, where a pool offers it.
    pub offered: Option<PathReport>,
    /// Markers of this cluster whose claims have no LocalVolume.
    pub orphans: Vec<Marker>,
    /// Directories that stay for a claim of the same name. Absent where the markers were not read: then what was known before
    /// stands, since a directory that is not seen is not gone.
    pub kept: Option<Vec<KeptDirectory>>,
    /// For how long each was seen.
    pub ages: Ages,
    /// The identity of the base, and what it says of the store. Absent where it could not be read.
    pub mark: Option<(String, DiskSays)>,
    /// The identity of what is there; or why it is not known.
    pub identity: Result<Option<String>, String>,
    /// Entries of its trash.
    pub trash: i64,
    /// The disk hangs, and the rest is what was found before.
    pub hangs: bool,
}

impl BaseLook {
    /// Looks at a base, which is made where a pool offers it.
    pub(super) fn of(
        allowed: &AllowedBases,
        path: &str,
        offered: Option<&PoolPath>,
        cluster: &str,
        claims: &BTreeSet<String>,
    ) -> Self {
        let (report, disk) = match offered {
            Some(offered) => {
                let (report, disk) = look_at(allowed, offered, cluster, claims);
                (Some(report), disk)
            }
            None => (None, DiskLook::default()),
        };
        let base = Base::open_existing(allowed, path, false);
        let trash = match (&report, &base) {
            (Some(report), _) => report.trash,
            (None, Ok(base)) => base.trash_entries().map_or(0, |count| i64::try_from(count).unwrap_or(i64::MAX)),
            (None, Err(_)) => 0,
        };
        let seen = report.as_ref().filter(|report| !report.base_id.is_empty());
        Self {
            node_uid: String::new(),
            mark: seen.map(|report| (report.base_id.clone(), disk.store)),
            offered: report,
            orphans: disk.orphans,
            kept: disk.kept,
            ages: disk.ages,
            identity: base.and_then(|base| base.known_id()).map_err(|error| error.to_string()),
            trash,
            hangs: false,
        }
    }

    /// The same base, of which nothing can be learnt now. What was found before, or else reported, is kept where it is no
    /// permission.
    pub(super) fn unanswered(
        before: Option<Self>,
        reported: Option<PathReport>,
        path: &str,
        offered: bool,
        error: &DirectoryError,
    ) -> Self {
        let known = before.as_ref().and_then(|look| look.offered.clone()).or(reported);
        let known = known.unwrap_or_else(|| PathReport { path: path.to_owned(), ..PathReport::default() });
        let (reason, message) = (error.reason().to_owned(), error.to_string());
        let report = PathReport { usable: false, reason, message, ..known };
        Self {
            node_uid: String::new(),
            offered: offered.then_some(report),
            orphans: Vec::new(),
            kept: before.as_ref().and_then(|look| look.kept.clone()),
            ages: Ages::default(),
            trash: before.as_ref().map_or(0, |look| look.trash),
            mark: before.and_then(|look| look.mark),
            identity: Err(error.to_string()),
            hangs: true,
        }
    }
}

/// What the disk itself says.
#[derive(Debug, Default)]
struct DiskLook {
    /// Markers of this cluster whose claims have no LocalVolume.
    pub orphans: Vec<Marker>,
    /// Directories that stay for a claim of the same name, once the markers are read.
    pub kept: Option<Vec<KeptDirectory>>,
    /// For how long each was seen.
    pub ages: Ages,
    /// How far the store had come.
    pub store: DiskSays,
}

/// The same, and what the disk says beside it.
fn look_at(
    allowed: &AllowedBases,
    path: &PoolPath,
    cluster: &str,
    claims: &BTreeSet<String>,
) -> (PathReport, DiskLook) {
    let mut disk = DiskLook::default();
    let mut found = PathReport { path: path.path.clone(), ..PathReport::default() };
    let looked = Base::open(allowed, &path.path, path.require_mount).and_then(|base| {
        look(&base, &mut found)?;
        found.base_id = base.id()?;
        found.limits = base.limits()?;
        let markers = base.owned()?;
        found.message = about_unreadable(&markers, &path.path);
        let kept = markers.kept(&path.path, cluster);
        found.kept = i64::try_from(kept.len()).unwrap_or(i64::MAX);
        disk = DiskLook { kept: Some(kept), ..disk_look(&base, markers, cluster, claims)? };
        found.epoch = i64::try_from(disk.store.mark.epoch).unwrap_or(i64::MAX);
        found.orphans = i64::try_from(disk.orphans.len()).unwrap_or(i64::MAX);
        found.trash = i64::try_from(base.trash_entries()?).unwrap_or(i64::MAX);
        Ok(())
    });
    match looked {
        Ok(()) => found.usable = true,
        Err(error) => {
            error.reason().clone_into(&mut found.reason);
            found.message = error.to_string();
        }
    }
    (found, disk)
}

/// Each of them keeps its own directory from being touched, and nothing else.
fn about_unreadable(markers: &Markers, path: &str) -> String {
    let Some(Unreadable { name, problem, .. }) = markers.unreadable.first() else { return String::new() };
    let count = markers.unreadable.len();
    format!(
        "{count} markers of {path}/.latebind/volumes cannot be read, and their directories are left alone; {name}: {problem}"
    )
}

fn disk_look(
    base: &Base,
    markers: Markers,
    cluster: &str,
    claims: &BTreeSet<String>,
) -> Result<DiskLook, DirectoryError> {
    let mut ours = markers.known;
    ours.retain(|marker| marker.cluster == cluster);
    let versions = ours.iter().filter_map(|marker| revision(&marker.persistent_volume.as_ref()?.seen.resource_version));
    let store = DiskSays { newest: versions.max().unwrap_or(0), mark: base.store_mark()? };
    // One that stays in its place is where it should be.
    ours.retain(|marker| !claims.contains(&marker.claim) && !marker.kept);
    let ages = if ours.is_empty() { Ages::default() } else { base.ages()? };
    Ok(DiskLook { orphans: ours, kept: None, ages, store })
}

fn look(base: &Base, found: &mut PathReport) -> Result<(), DirectoryError> {
    let path = base.path();
    if let Some(mount) = base.mount() {
        found.file_system.clone_from(&mount.file_system);
        found.device.clone_from(&mount.source);
    }
    found.mount_point = base.is_mount_point();
    let figures = fstatvfs(base.root()).map_err(failed("measure", path))?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(figures.f_frsize)).unwrap_or(i64::MAX);
    found.total_bytes = bytes(figures.f_blocks);
    found.free_bytes = bytes(figures.f_bavail);
    found.free_inodes = i64::try_from(figures.f_favail).unwrap_or(i64::MAX);
    found.open_to_others = fstat(base.root()).map_err(failed("look at", path))?.st_mode & 0o007 != 0;
    if figures.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(failed("write to", path)(rustix::io::Errno::ROFS));
    }
    Ok(())
}
