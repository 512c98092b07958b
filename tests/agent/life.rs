//! A directory's ordinary life, and whom it is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Instant;

use latebind::agent::{AllowedBases, Base, DirectoryError, Outcome, Proof, Removal};
use latebind::crd::{Disposal, OnDelete, Origin};

use super::{Ground, dispose, order, order_at, removal, sweep_all};

#[test]
fn a_directory_is_made_found_and_taken_away() {
    let ground = Ground::new();
    let base = ground.open();
    assert_eq!(base.make(&order("a"), false).unwrap(), Outcome::Made);
    assert_eq!(fs::metadata(ground.at("pvc-a")).unwrap().permissions().mode() & 0o7777, 0o777);
    assert_eq!(fs::metadata(&ground.base).unwrap().permissions().mode() & 0o7777, 0o700);
    fs::write(ground.at("pvc-a/x"), "data").unwrap();
    assert_eq!(base.make(&order("a"), false).unwrap(), Outcome::Found);
    assert_eq!(base.make(&order("a"), true).unwrap(), Outcome::Found);
    assert_eq!(fs::read_to_string(ground.at("pvc-a/x")).unwrap(), "data");

    dispose(&base, &order("a")).unwrap();
    assert!(ground.volumes().is_empty());
    assert_eq!((ground.count(".trash"), ground.count(".latebind/volumes"), ground.count(".latebind/new")), (1, 0, 0));
    dispose(&base, &order("a")).unwrap();
    sweep_all(&base);
    assert_eq!(ground.count(".trash"), 0);
}

#[test]
fn mode_owner_and_parents_are_as_ordered() {
    let ground = Ground::new();
    let base = ground.open();
    let mut wanted = order_at("a", "ns/name/pvc-a");
    wanted.mode = 0o2750;
    // A test without root can only give a directory to itself.
    let own = fs::metadata(&ground.base).unwrap();
    let (uid, gid) = if own.uid() == 0 { (1000, 2000) } else { (own.uid(), own.gid()) };
    (wanted.uid, wanted.gid) = (Some(uid), Some(gid));
    base.make(&wanted, false).unwrap();
    let made = fs::metadata(ground.at("ns/name/pvc-a")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o2750, uid, gid));
    assert_eq!(fs::metadata(ground.at("ns/name")).unwrap().mode() & 0o7777, 0o700);
    dispose(&base, &wanted).unwrap();
    assert!(ground.at("ns/name").is_dir(), "nothing above the volume is touched, empty or not");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let ground = Ground::new();
    let base = ground.open();
    fs::create_dir(ground.at("pvc-a")).unwrap();
    fs::write(ground.at("pvc-a/x"), "theirs").unwrap();
    for outcome in [base.make(&order("a"), false).map(drop), dispose(&base, &order("a")).map(drop)] {
        assert!(matches!(outcome, Err(DirectoryError::NotOurs { .. })), "{outcome:?}");
    }
    // A refusal leaves no claim of ownership behind.
    assert_eq!((ground.count(".latebind/volumes"), ground.count(".latebind/new")), (0, 0));

    base.make(&order("b"), false).unwrap();
    let mut of_another_cluster = order("b");
    of_another_cluster.cluster = "cluster-2".to_owned();
    let elsewhere = order_at("b", "other");
    for wrong in [&of_another_cluster, &elsewhere] {
        assert!(matches!(dispose(&base, wrong), Err(DirectoryError::NotOurs { .. })));
        assert!(matches!(base.make(wrong, false), Err(DirectoryError::NotOurs { .. })));
    }
    fs::write(ground.at(".latebind/volumes/b"), "{").unwrap();
    assert!(matches!(dispose(&base, &order("b")), Err(DirectoryError::Marker { .. })));
    assert_eq!(ground.volumes(), ["pvc-a", "pvc-b"]);
    assert_eq!(fs::read_to_string(ground.at("pvc-a/x")).unwrap(), "theirs");
}

#[test]
fn two_claims_never_share_a_directory() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order_at("a", "same"), false).unwrap();
    assert!(matches!(base.make(&order_at("b", "same"), false), Err(DirectoryError::NotOurs { .. })));
    assert!(matches!(dispose(&base, &order_at("b", "same")), Err(DirectoryError::NotOurs { .. })));
    assert_eq!(base.make(&order_at("a", "same"), true).unwrap(), Outcome::Found);
}

#[test]
fn a_directory_that_served_is_not_replaced_by_an_empty_one() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    fs::remove_dir(ground.at("pvc-a")).unwrap();
    assert!(matches!(base.make(&order("a"), true), Err(DirectoryError::Gone { .. })));
    assert!(ground.volumes().is_empty());
    dispose(&base, &order("a")).unwrap();
    assert_eq!(ground.count(".latebind/volumes"), 0);
}

#[test]
fn an_object_that_was_made_again_owns_the_directory_of_its_claim() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    let mut again = order("a");
    again.volume = "v-second".to_owned();
    assert_eq!(base.make(&again, true).unwrap(), Outcome::Found);
    assert_eq!(base.owned().unwrap().known[0].volume, "v-second");
    dispose(&base, &again).unwrap();
    assert!(ground.at(".trash/v-second").is_dir());
}

#[test]
fn links_are_never_followed() {
    let ground = Ground::new();
    let base = ground.open();
    let outside = ground.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "precious").unwrap();

    symlink(&outside, ground.at("ns")).unwrap();
    assert_eq!(base.make(&order_at("a", "ns/pvc-a"), false).unwrap_err().reason(), "UnsafePath");
    base.make(&order("b"), false).unwrap();
    fs::remove_dir(ground.at("pvc-b")).unwrap();
    symlink(&outside, ground.at("pvc-b")).unwrap();
    assert!(matches!(dispose(&base, &order("b")), Err(DirectoryError::NotADirectory { .. })));
    assert!(matches!(base.make(&order("b"), true), Err(DirectoryError::NotADirectory { .. })));

    symlink(&outside, ground.directory.path().join("linked")).unwrap();
    let through = ground.directory.path().join("linked/base");
    assert!(Base::open(&ground.allowed(), through.to_str().unwrap(), false).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_pool_path_that_is_a_link_is_told_with_its_target() {
    let ground = Ground::new();
    let top = ground.directory.path();
    fs::create_dir_all(top.join("disk/data")).unwrap();
    symlink(top.join("disk"), top.join("by-name")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    for (path, link, target) in [
        ("by-name", "by-name", top.join("disk").display().to_string()),
        ("by-name/data", "by-name", top.join("disk").display().to_string()),
        ("dangling", "dangling", "nowhere".to_owned()),
    ] {
        let path = top.join(path);
        for require_mount in [false, true] {
            let Err(error) = Base::open(&ground.allowed(), path.to_str().unwrap(), require_mount) else {
                panic!("followed")
            };
            let said = error.to_string();
            assert_eq!(error.reason(), "UnsafePath", "{said}");
            assert!(said.contains(&format!("`{link}`")) && said.contains(&target), "{said}");
        }
    }
}

#[test]
fn a_pool_cannot_leave_what_the_agent_was_given() {
    let ground = Ground::new();
    let inside = AllowedBases::new([ground.base.as_str()]).unwrap();
    for path in ["/etc", "/", "", "relative", &format!("{}/../x", ground.base), &format!("{}x", ground.base)] {
        assert!(Base::open(&inside, path, false).is_err(), "{path}");
    }
    assert!(AllowedBases::new(["/"]).is_err());
    assert!(AllowedBases::new(Vec::<String>::new()).is_err());
    let mut wrong = order("a");
    wrong.claim = "../x".to_owned();
    assert!(matches!(ground.open().make(&wrong, false), Err(DirectoryError::Order(_))));
}

#[test]
fn an_archived_directory_is_kept_and_one_that_may_only_go_empty_is_too() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order("a"), false).unwrap();
    fs::write(ground.at("pvc-a/x"), "data").unwrap();
    let allowed = ground.allowed();
    let if_empty = Removal { disposal: Disposal::DeleteIfEmpty, ..removal(&allowed) };
    let archived = Removal { on_delete: OnDelete::Archive, ..removal(&allowed) };
    let kept = base.dispose(&order("a"), &if_empty);
    assert!(matches!(kept, Err(DirectoryError::NotEmpty { .. })));
    base.dispose(&order("a"), &archived).unwrap();
    sweep_all(&base);
    assert_eq!(fs::read_to_string(ground.at(".archive/a/x")).unwrap(), "data");

    base.make(&order("b"), false).unwrap();
    base.dispose(&order("b"), &if_empty).unwrap();
    assert!(ground.volumes().is_empty());
}

#[test]
fn a_directory_of_another_provisioner_goes_only_by_itself() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&order_at("ours", "ns/pvc-ours"), false).unwrap();
    fs::create_dir(ground.at("pvc-old_ns_name")).unwrap();
    fs::write(ground.at("pvc-old_ns_name/x"), "old").unwrap();
    let allowed = ground.allowed();
    let wanted = Removal { origin: Origin::Adopted, ..removal(&allowed) };
    let adopted = |path: &str| base.dispose(&order_at("old", path), &wanted);
    for overlap in ["ns", "ns/pvc-ours", "ns/pvc-ours/below"] {
        assert!(matches!(adopted(overlap), Err(DirectoryError::NotOurs { .. })), "{overlap}");
    }
    assert_eq!(adopted("pvc-old_ns_name").unwrap(), Proof::Moved);
    assert_eq!(adopted("pvc-old_ns_name").unwrap(), Proof::MovedBefore);
    assert_eq!(ground.volumes(), ["ns"]);
}

#[test]
fn a_removal_whose_permission_has_run_out_does_not_happen() {
    let ground = Ground::new();
    let (base, allowed) = (ground.open(), ground.allowed());
    for (claim, origin, disposal) in [
        ("made", Origin::Made, Disposal::Delete),
        ("empty", Origin::Made, Disposal::DeleteIfEmpty),
        ("adopted", Origin::Adopted, Disposal::Delete),
    ] {
        if origin == Origin::Adopted {
            fs::create_dir(ground.at("pvc-adopted")).unwrap();
        } else {
            base.make(&order(claim), false).unwrap();
        }
        let wanted = Removal { origin, disposal, ..removal(&allowed) };
        // The disk has hung since the controller confirmed it.
        let late = Removal { not_after: Some(Instant::now()), ..wanted };
        let refused = base.dispose(&order(claim), &late);
        assert!(matches!(refused, Err(DirectoryError::Expired { .. })), "{claim}: {refused:?}");
        assert!(ground.at(&format!("pvc-{claim}")).is_dir());
        assert_eq!(base.dispose(&order(claim), &wanted).unwrap(), Proof::Moved);
    }
}
