//! Missing is not gone: a removal is reported as done with proof only, and what a marker says is heeded.

use std::fs;
use std::path::Path;

use latebind::agent::{Base, DirectoryError, Proof, Removal, report};
use latebind::crd::{Disposal, Origin, PoolPath, Reclaim, SeenVolume};

use super::mounted::Mounted;
use super::{Ground, dispose, order, order_at, removal};

#[test]
fn a_volume_whose_disk_is_not_mounted_is_not_reported_as_removed() {
    let ground = Ground::new();
    let allowed = ground.allowed();
    let wanted = |origin| Removal { origin, ..removal(&allowed) };
    let disk = Mounted::tmpfs(Path::new(&ground.base), "size=1m");
    if disk.is_none() {
        return;
    }
    let base = ground.open();
    base.make(&order("ours"), false).unwrap();
    fs::create_dir(ground.at("theirs")).unwrap();
    drop(base);
    drop(disk);
    // The directory beneath is there, and there is nothing in it. No pool requires a mount.
    for _ in 0..2 {
        for (order, origin) in [
            (order("ours"), Origin::Recovered),
            (order("ours"), Origin::Made),
            (order_at("x", "theirs"), Origin::Adopted),
        ] {
            let outcome = ground.open().dispose(&order, &wanted(origin));
            assert!(matches!(outcome, Err(DirectoryError::Missing { .. })), "{origin:?}: {outcome:?}");
        }
        // With or without what the agent itself keeps in a base.
        ground.open().make(&order("another"), false).unwrap();
    }
}

#[test]
fn one_that_was_never_ready_and_never_begun_is_no_loss() {
    let ground = Ground::new();
    let allowed = ground.allowed();
    let never_served = Removal { served: false, disposal: Disposal::DeleteIfEmpty, ..removal(&allowed) };
    assert_eq!(ground.open().dispose(&order("a"), &never_served).unwrap(), Proof::NeverMade);
    assert!(matches!(dispose(&ground.open(), &order("a")), Err(DirectoryError::Missing { .. })));
}

#[test]
fn a_marker_without_its_directory_is_proof_on_the_disk_that_it_lies_on() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    fs::remove_dir(ground.at("pvc-a")).unwrap();
    assert_eq!(dispose(&base, &order("a")).unwrap(), Proof::MarkerRemoved);
    assert_eq!(dispose(&base, &order("a")).unwrap(), Proof::MovedBefore);
    // The note of it is for its LocalVolume, and goes with that.
    base.forget_gone("another-cluster", &[].into()).unwrap();
    base.forget_gone("cluster-1", &["v-a".to_owned()].into()).unwrap();
    assert_eq!(dispose(&base, &order("a")).unwrap(), Proof::MovedBefore);
    base.forget_gone("cluster-1", &[].into()).unwrap();
    assert_eq!(ground.count(".latebind/gone"), 0);
    assert!(matches!(dispose(&base, &order("a")), Err(DirectoryError::Missing { .. })));
}

fn seen(resource_version: &str, reclaim_policy: Reclaim) -> SeenVolume {
    SeenVolume {
        name: "pvc-a".to_owned(),
        uid: "pv-1".to_owned(),
        resource_version: resource_version.to_owned(),
        reclaim_policy,
        claim_uid: "a".to_owned(),
    }
}

#[test]
fn an_orphan_goes_only_if_its_marker_says_delete_or_it_is_empty() {
    let ground = Ground::new();
    let (allowed, base) = (ground.allowed(), ground.open());
    let orphan = Removal { origin: Origin::Orphan, ..removal(&allowed) };
    let mut order = order("a");
    base.make(&order, false).unwrap();
    fs::write(ground.at("pvc-a/file"), "data").unwrap();
    assert!(matches!(base.dispose(&order, &orphan), Err(DirectoryError::NotEmpty { .. })), "nothing is known");
    order.persistent_volume = Some(seen("10", Reclaim::Retain));
    base.make(&order, true).unwrap();
    order.persistent_volume = None;
    assert!(matches!(base.dispose(&order, &orphan), Err(DirectoryError::OrphanKept { .. })));
    // What is older than what the disk knows does not take the protection away.
    order.persistent_volume = Some(seen("9", Reclaim::Delete));
    base.make(&order, true).unwrap();
    assert!(matches!(base.dispose(&order, &orphan), Err(DirectoryError::OrphanKept { .. })));
    assert_eq!(fs::read_to_string(ground.at("pvc-a/file")).unwrap(), "data");
    order.persistent_volume = Some(seen("11", Reclaim::Delete));
    base.make(&order, true).unwrap();
    assert_eq!(base.owned().unwrap().known[0].persistent_volume.as_ref().unwrap().seen, seen("11", Reclaim::Delete));
    base.dispose(&order, &orphan).unwrap();
    assert!(ground.volumes().is_empty());
}

#[test]
fn a_marker_of_a_later_version_keeps_its_own_directory_only() {
    let ground = Ground::new();
    let base = ground.open();
    for claim in ["later", "broken", "ours"] {
        base.make(&order(claim), false).unwrap();
    }
    let later = r#"{"version":2,"cluster":"cluster-1","volume":"v-later","claim":"later","path":"pvc-later","new":{}}"#;
    fs::write(ground.at(".latebind/volumes/later"), later).unwrap();
    let path = PoolPath { path: ground.base.clone(), require_mount: false };
    let known = ["later", "broken", "ours"].map(str::to_owned).into();
    let looked = report(&ground.allowed(), &path, "cluster-1", &known);
    assert!(looked.usable && looked.message.contains("later: it has the unknown version 2"), "{looked:?}");

    base.make(&order("another"), false).unwrap();
    dispose(&base, &order("ours")).unwrap();
    for outcome in [base.make(&order("later"), true).map(drop), dispose(&base, &order("later")).map(drop)] {
        assert!(matches!(outcome, Err(DirectoryError::Marker { .. })), "{outcome:?}");
    }
    // A directory without a marker may be the one of a marker that says nothing.
    let allowed = ground.allowed();
    let adopted = Removal { origin: Origin::Adopted, ..removal(&allowed) };
    fs::create_dir(ground.at("old")).unwrap();
    let refused = |outcome: Result<Proof, DirectoryError>| matches!(outcome, Err(DirectoryError::Marker { .. }));
    assert!(refused(base.dispose(&order_at("x", "pvc-later"), &adopted)));
    base.dispose(&order_at("x", "old"), &adopted).unwrap();
    fs::write(ground.at(".latebind/volumes/broken"), "{").unwrap();
    fs::create_dir(ground.at("old")).unwrap();
    assert!(refused(base.dispose(&order_at("y", "old"), &adopted)));
    assert_eq!(fs::read_to_string(ground.at(".latebind/volumes/later")).unwrap(), later);
    assert_eq!(ground.volumes(), ["old", "pvc-another", "pvc-broken", "pvc-later"]);
}

#[test]
fn what_a_later_version_added_to_a_marker_stays_in_it() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    let text = fs::read_to_string(ground.at(".latebind/volumes/a")).unwrap();
    fs::write(ground.at(".latebind/volumes/a"), text.replacen('{', r#"{"quota":{"id":7},"#, 1)).unwrap();
    let mut again = order("a");
    again.volume = "second".to_owned();
    again.persistent_volume = Some(seen("10", Reclaim::Retain));
    base.make(&again, true).unwrap();
    let text = fs::read_to_string(ground.at(".latebind/volumes/a")).unwrap();
    assert!(text.contains(r#""quota":{"id":7}"#) && text.contains("second") && text.contains("Retain"), "{text}");
}

#[test]
fn advice_does_no_harm_where_the_directory_is_in_use() {
    // A cluster that was built anew over disks that were kept.
    let ground = Ground::new();
    ground.open().make(&order("a"), false).unwrap();
    let mut of_the_new_cluster = order("a");
    of_the_new_cluster.cluster = "cluster-2".to_owned();
    let told = [
        ground.open().make(&of_the_new_cluster, true).unwrap_err().to_string(),
        dispose(&ground.open(), &of_the_new_cluster).unwrap_err().to_string(),
    ];
    for text in told {
        assert!(text.contains("nothing is done there, and a volume that uses it goes on as it is"), "{text}");
        for harm in ["move it", "remove it", "delete", "unmount"] {
            assert!(!text.contains(harm), "{text}");
        }
    }
    assert!(Base::open_existing(&ground.allowed(), &ground.base, false).is_ok());
}
