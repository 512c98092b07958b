//! What is known of a pool's path on this node.

use std::collections::BTreeSet;

use rustix::fs::{fstat, fstatvfs};

use super::base::{AllowedBases, Base};
use super::error::{DirectoryError, failed};
use super::marker::Marker;
use crate::crd::{PathReport, PoolPath};

/// Looks at a path. What is wrong with it stands in the report.
///
/// `claims` are the UIDs of the claims whose LocalVolumes are on this node: a marker of any other is an orphan.
#[must_use]
pub fn report(allowed: &AllowedBases, path: &PoolPath, cluster: &str, claims: &BTreeSet<String>) -> PathReport {
    report_and_orphans(allowed, path, cluster, claims).0
}

/// The same, and the markers of the orphans.
pub(super) fn report_and_orphans(
    allowed: &AllowedBases,
    path: &PoolPath,
    cluster: &str,
    claims: &BTreeSet<String>,
) -> (PathReport, Vec<Marker>) {
    let mut orphans = Vec::new();
    let mut found = PathReport { path: path.path.clone(), ..PathReport::default() };
    let looked = Base::open(allowed, &path.path, path.require_mount).and_then(|base| {
        look(&base, &mut found)?;
        found.base_id = base.id()?;
        orphans = base.owned()?;
        orphans.retain(|it| it.cluster == cluster && !claims.contains(&it.claim));
        found.orphans = i64::try_from(orphans.len()).unwrap_or(i64::MAX);
        found.trash = i64::try_from(base.trash_entries()?).unwrap_or(i64::MAX);
        Ok(())
    });
    match looked {
        Ok(()) => found.usable = true,
        Err(error) => found.message = error.to_string(),
    }
    (found, orphans)
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
