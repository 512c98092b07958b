//! Directories that stay in their place when their volume goes, and who may take one back.

use std::collections::BTreeSet;
use std::fs;

use latebind::agent::{ClaimName, DirectoryError, Order, Outcome, Proof, Removal, report};
use latebind::crd::{Disposal, OnDelete, Origin, PoolPath, Reclaim, SameClaim, SeenVolume, TakeBack};

use super::{Ground, dispose, order, order_at, removal};

fn name(name: &str) -> ClaimName {
    ClaimName { namespace: "shop".to_owned(), name: name.to_owned() }
}

/// A claim `shop/cart` of this UID, of a class whose directories stay.
fn cart(uid: &str) -> Order {
    Order { owner: Some(name("cart")), same_claim: Some(SameClaim::default()), ..order(uid) }
}

/// The same, which takes the directory of an earlier one back.
fn takes(uid: &str, from: &str) -> Order {
    let take_back = Some(TakeBack { claim: from.to_owned(), cluster: String::new() });
    let same_claim = Some(SameClaim { take_back, ..SameClaim::default() });
    Order { same_claim, ..Order { path: order(from).path, ..cart(uid) } }
}

/// A base in which the claim of this UID has left a directory with data.
fn left(uid: &str) -> Ground {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&cart(uid), false).unwrap();
    fs::write(ground.at(&format!("pvc-{uid}/x")), "data").unwrap();
    keep(&ground, &cart(uid)).unwrap();
    ground
}

fn keep(ground: &Ground, order: &Order) -> Result<Proof, DirectoryError> {
    let allowed = ground.allowed();
    ground.open().dispose(order, &Removal { on_delete: OnDelete::KeepPath, ..removal(&allowed) })
}

fn refused(outcome: &Result<Outcome, DirectoryError>, words: &str) {
    let said = outcome.as_ref().unwrap_err().to_string();
    assert!(said.contains(words), "{said}");
}

#[test]
fn it_stays_in_its_place_and_a_claim_of_the_same_name_takes_it_back() {
    let ground = left("a");
    let base = ground.open();
    assert_eq!(keep(&ground, &cart("a")).unwrap(), Proof::Kept, "done already counts as done");
    let path = PoolPath { path: ground.base.clone(), require_mount: false };
    let looked = report(&ground.allowed(), &path, "cluster-1", &BTreeSet::new());
    assert_eq!((looked.kept, looked.orphans, looked.trash), (1, 0, 0), "{looked:?}");
    // Nothing new is made beside it.
    let beside = base.make(&cart("b"), false).unwrap_err();
    assert_eq!(beside.reason(), "ExistingDirectory");
    assert_eq!(base.make(&takes("b", "a"), false).unwrap(), Outcome::TakenBack);
    assert_eq!(base.make(&takes("b", "a"), true).unwrap(), Outcome::Found);
    assert_eq!(fs::read_to_string(ground.at("pvc-a/x")).unwrap(), "data");
    assert_eq!(ground.count(".latebind/volumes"), 1);
    assert_eq!(report(&ground.allowed(), &path, "cluster-1", &BTreeSet::from(["b".to_owned()])).kept, 0);
    // It is the new claim's now.
    for outcome in [base.make(&cart("a"), true).map(drop), keep(&ground, &cart("a")).map(drop)] {
        assert!(matches!(outcome, Err(DirectoryError::NotOurs { .. })), "{outcome:?}");
    }
    assert_eq!(keep(&ground, &takes("b", "a")).unwrap(), Proof::Kept);
    assert_eq!(base.make(&takes_at("c", "b", "pvc-a"), false).unwrap(), Outcome::TakenBack);
}

fn takes_at(uid: &str, from: &str, path: &str) -> Order {
    Order { path: order_at("x", path).path, ..takes(uid, from) }
}

#[test]
fn one_that_was_taken_back_for_a_claim_that_went_is_left_again() {
    let ground = left("a");
    let base = ground.open();
    base.make(&takes("b", "a"), false).unwrap();
    // No volume was ever made: an ordinary directory would go if it is empty.
    fs::remove_file(ground.at("pvc-a/x")).unwrap();
    let allowed = ground.allowed();
    let unused = Removal { on_delete: OnDelete::KeepPath, disposal: Disposal::DeleteIfEmpty, ..removal(&allowed) };
    assert_eq!(base.dispose(&takes("b", "a"), &unused).unwrap(), Proof::Kept);
    // An order that never came so far leaves it as it is.
    let never = base.dispose(&takes_at("c", "b", "pvc-a"), &Removal { served: false, ..unused }).unwrap();
    assert_eq!(never, Proof::NeverMade);
    assert_eq!(base.make(&takes_at("d", "b", "pvc-a"), false).unwrap(), Outcome::TakenBack);
    // And a new one that nobody was given goes as ever.
    let fresh = Order { owner: Some(name("basket")), ..cart("n") };
    base.make(&fresh, false).unwrap();
    assert_eq!(base.dispose(&fresh, &Removal { served: false, ..unused }).unwrap(), Proof::Moved);
    assert_eq!(ground.volumes(), ["pvc-a"]);
}

#[test]
fn in_doubt_nothing_is_taken_and_nothing_is_made_in_its_place() {
    let ground = left("a");
    let base = ground.open();
    refused(&base.make(&takes("b", "z"), false), "and not that of the order");
    let elsewhere = takes_at("b", "a", "pvc-other");
    refused(&base.make(&elsewhere, false), "and not that of the order");
    let of_another = Order { owner: Some(name("basket")), ..takes("b", "a") };
    refused(&base.make(&of_another, false), "no marker says");
    // A marker that cannot be read may be the one.
    fs::write(ground.at(".latebind/volumes/broken"), "{").unwrap();
    for order in [takes("b", "a"), cart("b")] {
        refused(&base.make(&order, false), "cannot be read");
    }
    let of_basket = r#"{"version":2,"owner":{"namespace":"shop","name":"basket"}}"#;
    fs::write(ground.at(".latebind/volumes/broken"), of_basket).unwrap();
    // A second one, or one that is in use.
    base.make(&order("plain"), false).unwrap();
    let second = Order { same_claim: None, ..cart("e") };
    base.make(&second, false).unwrap();
    refused(&base.make(&takes("b", "a"), false), "more than one directory");
    keep(&ground, &second).unwrap();
    fs::remove_dir_all(ground.at("pvc-e")).unwrap();
    fs::remove_file(ground.at(".latebind/volumes/e")).unwrap();
    // Its directory is away.
    fs::rename(ground.at("pvc-a"), ground.at("away")).unwrap();
    let gone = base.make(&takes("b", "a"), false);
    assert!(matches!(gone, Err(DirectoryError::Gone { .. })), "{gone:?}");
    fs::rename(ground.at("away"), ground.at("pvc-a")).unwrap();
    assert!(!ground.at(".latebind/volumes/b").exists() && !ground.at("pvc-b").exists());
    assert_eq!(base.make(&takes("b", "a"), false).unwrap(), Outcome::TakenBack);
    assert_eq!(fs::read_to_string(ground.at("pvc-a/x")).unwrap(), "data");
}

#[test]
fn what_is_in_use_is_not_taken_back_before_it_is_left() {
    let ground = Ground::new();
    let base = ground.open();
    base.make(&cart("a"), false).unwrap();
    refused(&base.make(&takes("b", "a"), false), "does not say that it was left");
    let beside = base.make(&cart("b"), false).unwrap_err();
    assert_eq!(beside.reason(), "NotTakenBack", "the report does not list it: {beside}");
}

#[test]
fn an_earlier_cluster_counts_only_by_name() {
    let ground = Ground::new();
    let base = ground.open();
    // Destroyed as it was: nobody marked anything as left.
    let old = Order { cluster: "cluster-0".to_owned(), ..cart("a") };
    base.make(&old, false).unwrap();
    fs::write(ground.at("pvc-a/x"), "data").unwrap();
    let path = PoolPath { path: ground.base.clone(), require_mount: false };
    assert_eq!(report(&ground.allowed(), &path, "cluster-1", &BTreeSet::new()).kept, 1);
    let of = |clusters: &[&str]| {
        let take_back = Some(TakeBack { claim: "a".to_owned(), cluster: "cluster-0".to_owned() });
        let clusters = clusters.iter().map(|uid| (*uid).to_owned()).collect();
        Order { same_claim: Some(SameClaim { clusters, take_back }), ..takes("b", "a") }
    };
    for clusters in [&[][..], &["cluster-9"]] {
        refused(&base.make(&of(clusters), false), "of cluster cluster-0");
    }
    assert_eq!(base.make(&of(&["cluster-0"]), false).unwrap(), Outcome::TakenBack);
    assert!(matches!(base.make(&old, true), Err(DirectoryError::NotOurs { .. })), "the earlier cluster has it no more");
    assert_eq!(fs::read_to_string(ground.at("pvc-a/x")).unwrap(), "data");
}

#[test]
fn no_program_takes_it_for_an_orphan() {
    let ground = Ground::new();
    let base = ground.open();
    let seen = SeenVolume {
        name: "pvc-a".to_owned(),
        uid: "v".to_owned(),
        resource_version: "7".to_owned(),
        reclaim_policy: Reclaim::Delete,
        claim_uid: "a".to_owned(),
    };
    let bound = Order { persistent_volume: Some(seen), ..cart("a") };
    base.make(&bound, false).unwrap();
    keep(&ground, &bound).unwrap();
    let allowed = ground.allowed();
    let orphan = Removal { origin: Origin::Orphan, ..removal(&allowed) };
    let refused = base.dispose(&order("a"), &orphan);
    assert!(matches!(refused, Err(DirectoryError::OrphanKept { .. })), "{refused:?}");
    // One that does not know of it reads a retained volume, which no orphan is removed of.
    let text = fs::read_to_string(ground.at(".latebind/volumes/a")).unwrap();
    let marker: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(marker["persistentVolume"]["reclaimPolicy"], "Retain");
    assert!(dispose(&base, &order("b")).is_err(), "nor does the order of another volume remove it");
}

#[test]
fn a_volume_that_was_handed_on_is_taken_back_by_nobody() {
    let ground = Ground::new();
    let base = ground.open();
    let seen = SeenVolume { claim_uid: "populated".to_owned(), ..SeenVolume::default() };
    let handed_on = Order { persistent_volume: Some(seen), ..cart("a") };
    base.make(&handed_on, false).unwrap();
    assert_eq!(keep(&ground, &handed_on).unwrap(), Proof::Kept);
    assert_eq!(base.make(&cart("b"), false).unwrap(), Outcome::Made);
    refused(&base.make(&takes("c", "a"), false), "and not that of the order");
    assert!(ground.at("pvc-a").is_dir());
}
