//! One disk at two places is offered at one of them.

use std::path::{Path, PathBuf};

use super::fault::DiskFault;
use crate::crd::{DiskKind, DiskReport};

/// Makes all but one of the reports of the same disk unusable: the first by path stays. Two reports are about the same disk when their
/// paths are equal, or one lies in the other; when they have the same device; or when they mount the same directory of it, or
/// one above. Reports that are unusable already change nothing.
pub fn mark_duplicates(reports: &mut [DiskReport]) {
    let mut order: Vec<usize> = (0..reports.len()).filter(|index| reports[*index].usable).collect();
    // By components, so that what lies in a path comes behind it. Equal paths stay in the order of their rules.
    order.sort_by(|one, two| Path::new(&reports[*one].path).cmp(Path::new(&reports[*two].path)));
    let mut offered: Vec<usize> = Vec::new();
    for index in order {
        let fault = offered.iter().find_map(|other| clash(&reports[index], &reports[*other]));
        match fault {
            None => offered.push(index),
            Some(fault) => {
                let report = &mut reports[index];
                report.usable = false;
                fault.reason().clone_into(&mut report.reason);
                report.message = fault.to_string();
            }
        }
    }
}

fn clash(report: &DiskReport, first: &DiskReport) -> Option<DiskFault> {
    let path = report.path.clone();
    if contain(Path::new(&report.path), Path::new(&first.path)) {
        let other = format!("{} (pool {}, class {})", first.path, first.pool, first.storage_class_name);
        return Some(DiskFault::Overlap { path, other });
    }
    is_same_disk(report, first).then(|| DiskFault::Duplicate { path, other: first.path.clone() })
}

fn is_same_disk(one: &DiskReport, two: &DiskReport) -> bool {
    if one.device.is_empty() || one.device != two.device {
        return false;
    }
    // A device holds every directory of its file system.
    one.kind == DiskKind::Device || two.kind == DiskKind::Device || contain(&mount_root(one), &mount_root(two))
}

fn mount_root(report: &DiskReport) -> PathBuf {
    Path::new("/").join(&report.mount_root)
}

fn contain(one: &Path, two: &Path) -> bool {
    one.starts_with(two) || two.starts_with(one)
}
