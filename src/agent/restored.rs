//! Whether the API server's store knows all that the disks know. One that was restored from a backup does not: volumes
//! that were made since are on the disks alone, and look like directories that nobody names.
//!
//! Two things tell. Each report counts up a number, in the store and then on the disk: where the store's is smaller, or
//! gone, the store is older than the disk. And a marker names the version of the volume that was seen: no store can be
//! before that version and know it.
//!
//! A report that is gone may have been deleted by itself: directories that no volume names stay then. Where a number or a version is
//! smaller the store went back, and no order of removal that it has is followed either: it may have been taken back since.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::disk::marker::revision;
use super::disk::records::StoreMark;
use crate::crd::LocalNode;

/// Annotation of a LocalNode: a person has looked, and accepts that the store knows less than the disk. Its value is the
/// number that the condition names.
pub(super) const ACCEPTED: &str = "latebind.dev/accept-restored-store";

/// What one disk says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DiskSays {
    pub mark: StoreMark,
    /// The newest version of a volume that a marker names.
    pub newest: u128,
}

/// What the store says, at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreSays {
    /// The number of the last report, by the identity of the base.
    pub epochs: BTreeMap<String, u64>,
    /// The version of the store, if it was asked for.
    pub revision: Option<u128>,
    /// What a person has accepted.
    pub accepted: Option<u64>,
}

impl StoreSays {
    /// What a report in the store says.
    pub(super) fn of(node: Option<&LocalNode>) -> Self {
        let paths =
            node.and_then(|node| node.status.as_ref()).map(|status| status.paths.as_slice()).unwrap_or_default();
        let known = paths.iter().filter(|path| !path.base_id.is_empty());
        let epochs = known.map(|path| (path.base_id.clone(), u64::try_from(path.epoch).unwrap_or(0))).collect();
        let accepted = node.and_then(|node| node.annotations().get(ACCEPTED)?.parse().ok());
        Self { epochs, revision: None, accepted }
    }
}

/// What the disk is to say from now on.
pub(super) fn judge(base_id: &str, disk: &DiskSays, store: &StoreSays) -> StoreMark {
    let mut mark = disk.mark.clone();
    if mark.behind.is_some() && store.accepted == Some(mark.epoch) {
        // What is accepted is the store as it is now.
        return StoreMark { behind: None, went_back: false, accepted: disk.newest.to_string(), ..mark };
    }
    if store.accepted == Some(mark.epoch) {
        return mark;
    }
    let known = store.epochs.get(base_id).copied();
    let older_version = store.revision.filter(|revision| {
        let newest = disk.newest;
        *revision < newest && revision_of(&mark.accepted) < newest
    });
    let older_version = older_version
        .map(|revision| format!("the store is at version {revision}, and a marker names version {}", disk.newest));
    // A report that was lost is written anew with a number that tells nothing.
    let older_report = known.filter(|known| *known < mark.epoch && mark.behind.is_none());
    let older_report =
        older_report.map(|known| format!("the store knows report {known} of it, and {} were written", mark.epoch));
    let lost_report = || (known.is_none() && mark.epoch > 0).then(|| "the store does not know this disk".to_owned());
    mark.went_back |= older_report.is_some() || older_version.is_some();
    let behind = older_report.or(older_version).or_else(lost_report);
    mark.behind = mark.behind.or(behind);
    mark
}

/// Why no order of removal is followed: what the disk says of itself, of one volume and of the store is held against what the
/// store says. `marked` is the version of the volume that its marker names, and `ordered` the one that the order knows.
pub(super) fn stops_removal(
    base_id: &str,
    mark: &StoreMark,
    (marked, ordered): (Option<u128>, Option<u128>),
    store: &StoreSays,
) -> Option<String> {
    let disk = DiskSays { mark: mark.clone(), newest: marked.unwrap_or(0) };
    let judged = judge(base_id, &disk, &StoreSays { revision: ordered, ..store.clone() });
    judged.went_back.then_some(judged.behind).flatten()
}

/// The mark of a disk for an answer that the store was asked for after `before` was read, and before `now` was: reports that the
/// store took meanwhile counted the disk's number up, and the answer cannot know them.
pub(super) fn as_of(before: &StoreMark, now: StoreMark) -> StoreMark {
    StoreMark { epoch: now.epoch.min(before.epoch), ..now }
}

fn revision_of(text: &str) -> u128 {
    revision(text).unwrap_or(0)
}

/// The next number for a base.
pub(super) fn next_epoch(mark: &StoreMark, store: &StoreSays, base_id: &str) -> u64 {
    mark.epoch.max(store.epochs.get(base_id).copied().unwrap_or(0)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(epoch: u64, newest: u128) -> DiskSays {
        DiskSays { mark: StoreMark { epoch, ..StoreMark::default() }, newest }
    }

    fn store(epoch: Option<u64>, revision: Option<u128>) -> StoreSays {
        let epochs = epoch.map(|epoch| ("disk".to_owned(), epoch)).into_iter().collect();
        StoreSays { epochs, revision, accepted: None }
    }

    /// A report may be written while the store is asked, and its number reach the disk before the answer is held against it.
    #[test]
    fn reports_that_the_store_took_since_it_was_asked_do_not_make_it_look_older() {
        let (before, answer) = (disk(1, 0).mark, store(Some(1), None));
        let now = StoreMark { epoch: 3, ..StoreMark::default() };
        assert!(stops_removal("disk", &now, (None, None), &answer).is_some(), "as it looks when nobody knows of them");
        assert_eq!(stops_removal("disk", &as_of(&before, now.clone()), (None, None), &answer), None);
        // What was found since holds all the same, and so does an answer that is older than what the disk said before.
        let found = StoreMark { behind: Some("older".to_owned()), went_back: true, ..now.clone() };
        assert!(stops_removal("disk", &as_of(&before, found), (None, None), &answer).is_some());
        assert!(stops_removal("disk", &as_of(&before, now), (None, None), &store(Some(0), None)).is_some());
    }

    fn is_behind(disk: &DiskSays, store: &StoreSays) -> bool {
        judge("disk", disk, store).behind.is_some()
    }

    #[test]
    fn a_store_that_is_older_than_the_disk_is_told() {
        assert!(!is_behind(&disk(0, 0), &store(None, None)), "a new disk");
        assert!(!is_behind(&disk(7, 50), &store(Some(7), Some(50))));
        assert!(!is_behind(&disk(7, 50), &store(Some(8), Some(90))), "cut short between store and disk");
        assert!(is_behind(&disk(7, 50), &store(Some(6), Some(90))), "the report is older");
        assert!(is_behind(&disk(7, 50), &store(None, Some(90))), "absence is not evidence");
        assert!(is_behind(&disk(7, 50), &store(Some(7), Some(49))), "the store is before a volume that was seen");
    }

    #[test]
    fn only_a_store_that_went_back_stops_every_removal() {
        let stops = |disk: &DiskSays, marked, ordered, store: &StoreSays| {
            stops_removal("disk", &disk.mark, (marked, ordered), store).is_some()
        };
        assert!(!stops(&disk(7, 0), Some(50), Some(50), &store(Some(7), None)));
        assert!(!stops(&disk(7, 0), None, None, &store(Some(8), None)), "a volume that nobody saw");
        assert!(
            !stops(&disk(7, 0), Some(50), Some(50), &store(None, None)),
            "a report that is gone says nothing of the store"
        );
        assert!(stops(&disk(7, 0), Some(50), Some(50), &store(Some(6), None)), "the report is older");
        assert!(stops(&disk(7, 0), Some(51), Some(50), &store(Some(7), None)), "the volume is older than its marker");
        assert!(
            stops(&disk(7, 0), Some(51), Some(50), &store(None, None)),
            "that it is, whatever became of the report"
        );
        // A report that was lost is written again with the number 0.
        let lost = DiskSays { mark: judge("disk", &disk(7, 0), &store(None, None)), newest: 0 };
        assert!(is_behind(&lost, &store(Some(0), None)) && !stops(&lost, None, None, &store(Some(0), None)));
        // What was seen once stands when the store has gone on, until a person accepts it.
        let old = DiskSays { mark: judge("disk", &disk(7, 0), &store(Some(3), None)), newest: 0 };
        assert!(stops(&old, Some(50), Some(60), &store(Some(9), None)));
        let accepted = StoreSays { accepted: Some(7), ..store(Some(9), None) };
        assert!(!stops(&old, Some(50), Some(60), &accepted));
        assert!(!judge("disk", &old, &accepted).went_back);
    }

    #[test]
    fn it_stands_until_a_person_accepts_this_very_state() {
        let mut said = DiskSays { mark: judge("disk", &disk(7, 0), &store(Some(3), None)), newest: 0 };
        // The store has gone on since.
        assert!(is_behind(&said, &store(Some(9), Some(1000))));
        let accepted = |epoch| StoreSays { accepted: Some(epoch), ..store(Some(9), None) };
        assert!(is_behind(&said, &accepted(6)));
        said.mark = judge("disk", &said, &accepted(7));
        assert_eq!((said.mark.epoch, said.mark.behind.as_ref()), (7, None));
        let next = StoreMark { epoch: next_epoch(&said.mark, &store(Some(9), None), "disk"), ..said.mark };
        assert_eq!(next.epoch, 10);
        let again = DiskSays { mark: next, newest: 0 };
        assert!(is_behind(&again, &StoreSays { accepted: Some(7), ..store(Some(4), None) }), "accepted once only");
        // Markers that were there then do not tell it again, later ones do.
        let old = DiskSays { mark: judge("disk", &disk(7, 90), &store(Some(7), Some(50))), newest: 90 };
        let accepted = judge("disk", &old, &StoreSays { accepted: Some(7), ..store(Some(7), Some(51)) });
        let later = |newest| DiskSays { mark: StoreMark { epoch: 8, ..accepted.clone() }, newest };
        assert!(!is_behind(&later(90), &store(Some(8), Some(52))) && is_behind(&later(91), &store(Some(8), Some(52))));
    }
}
