//! The process ends before any of its changes: the same call goes on.

use std::fs;
use std::path::{Path, PathBuf};

use super::{allowed, entries, killed_at, open, order, removal};
use crate::agent::disk::directory::{Order, Outcome};
use crate::agent::disk::error::DirectoryError;
use crate::agent::disk::marker::ClaimName;
use crate::agent::disk::removal::{Proof, Removal};
use crate::crd::{Disposal, OnDelete, Origin, SameClaim, TakeBack};

const PATH: &str = "ns/name/pvc-a";

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join("made/base").join(path)
    }

    fn left(&self) -> (usize, usize) {
        (entries(&self.at(".latebind/new")).len(), entries(&self.at(".latebind/volumes")).len())
    }
}

/// Every state that a kill leaves while a directory is made.
fn begun(mut check: impl FnMut(&Fixture)) {
    for number in 0.. {
        let fixture = Fixture::new();
        let killed = killed_at(number, || {
            open(fixture.path()).make(&order("a", PATH), false).unwrap();
        });
        if !killed {
            assert!(number > 20, "only {number} changes were seen");
            return;
        }
        check(&fixture);
    }
}

#[test]
fn what_was_begun_is_completed() {
    begun(|fixture| {
        open(fixture.path()).make(&order("a", PATH), false).unwrap();
        assert!(fixture.at(PATH).is_dir());
        assert_eq!(fixture.left(), (0, 1));
        assert_eq!(open(fixture.path()).make(&order("a", PATH), true).unwrap(), Outcome::Found);
    });
}

#[test]
fn what_was_begun_is_taken_back() {
    begun(|fixture| {
        let allowed = allowed(fixture.path());
        open(fixture.path()).dispose(&order("a", PATH), &Removal { served: false, ..removal(&allowed) }).unwrap();
        assert!(!fixture.at(PATH).exists());
        assert_eq!(fixture.left(), (0, 0));
    });
}

#[test]
fn what_somebody_puts_there_meanwhile_stays_theirs() {
    begun(|fixture| {
        if fixture.at(PATH).exists() {
            return;
        }
        fs::create_dir_all(fixture.at(PATH)).unwrap();
        fs::write(fixture.at(PATH).join("file"), "theirs").unwrap();
        let base = open(fixture.path());
        let refused = base.make(&order("a", PATH), false);
        assert!(matches!(refused, Err(DirectoryError::NotOurs { .. })), "{refused:?}");
        let allowed = allowed(fixture.path());
        let taken = base.dispose(&order("a", PATH), &Removal { served: false, ..removal(&allowed) });
        assert!(matches!(taken, Ok(_) | Err(DirectoryError::NotOurs { .. })), "{taken:?}");
        assert_eq!(fs::read_to_string(fixture.at(PATH).join("file")).unwrap(), "theirs");
        assert_eq!(fixture.left().1, 0, "a marker would claim it");
    });
}

#[test]
fn a_removal_that_was_begun_is_finished_and_says_so() {
    let kinds =
        [(Origin::Made, OnDelete::Delete), (Origin::Recovered, OnDelete::Archive), (Origin::Adopted, OnDelete::Delete)];
    for (origin, on_delete) in kinds {
        for number in 0.. {
            let fixture = Fixture::new();
            let (allowed, base) = (allowed(fixture.path()), open(fixture.path()));
            base.id().unwrap();
            if origin == Origin::Adopted {
                fs::create_dir_all(fixture.at(PATH)).unwrap();
            } else {
                base.make(&order("a", PATH), false).unwrap();
            }
            fs::write(fixture.at(PATH).join("file"), "data").unwrap();
            let wanted = Removal { origin, on_delete, ..removal(&allowed) };
            let killed = killed_at(number, || {
                base.dispose(&order("a", PATH), &wanted).unwrap();
            });
            let again = open(fixture.path()).dispose(&order("a", PATH), &wanted).unwrap();
            assert!(killed || again == Proof::MovedBefore, "{again:?}");
            assert!(!fixture.at(PATH).exists());
            assert_eq!(fixture.left(), (0, 0));
            let target = if on_delete == OnDelete::Archive { ".archive" } else { ".trash" };
            let moved = entries(&fixture.at(target));
            assert_eq!(moved.len(), 1);
            assert!(fixture.at(target).join(&moved[0]).join("file").exists());
            if !killed {
                assert!(number >= 4, "only {number} changes were seen");
                break;
            }
        }
    }
}

#[test]
fn one_that_may_only_go_empty_is_finished_too() {
    for number in 0.. {
        let fixture = Fixture::new();
        let (allowed, base) = (allowed(fixture.path()), open(fixture.path()));
        base.make(&order("a", PATH), false).unwrap();
        let wanted = Removal { disposal: Disposal::DeleteIfEmpty, ..removal(&allowed) };
        let killed = killed_at(number, || {
            base.dispose(&order("a", PATH), &wanted).unwrap();
        });
        open(fixture.path()).dispose(&order("a", PATH), &wanted).unwrap();
        assert!(!fixture.at(PATH).exists());
        assert_eq!(fixture.left(), (0, 0));
        if !killed {
            return;
        }
    }
}

/// As an agent that saved nothing has left it: the volume was served, and the disk knows the beginning only.
#[test]
fn a_served_volume_that_a_power_cut_put_back_is_completed_with_what_is_in_it() {
    let fixture = Fixture::new();
    let (allowed, base) = (allowed(fixture.path()), open(fixture.path()));
    for with_marker in [true, false] {
        base.make(&order("a", PATH), false).unwrap();
        fs::write(fixture.at(PATH).join("file"), "data").unwrap();
        fs::rename(fixture.at(PATH), fixture.at(".latebind/new/a")).unwrap();
        if !with_marker {
            fs::remove_file(fixture.at(".latebind/volumes/a")).unwrap();
        }
        assert_eq!(base.make(&order("a", PATH), true).unwrap(), Outcome::Found);
        assert_eq!(fs::read_to_string(fixture.at(PATH).join("file")).unwrap(), "data");
        // And one that is ordered to go in that state goes with all that is in it.
        fs::rename(fixture.at(PATH), fixture.at(".latebind/new/a")).unwrap();
        assert_eq!(base.dispose(&order("a", PATH), &removal(&allowed)).unwrap(), Proof::Moved);
        assert_eq!(fixture.left(), (0, 0));
    }
}

/// The order of a claim `n/c` of this UID, whose directory stays in its place.
fn named(uid: &str, from: Option<&str>) -> Order {
    let take_back = from.map(|claim| TakeBack { claim: claim.to_owned(), cluster: String::new() });
    let owner = Some(ClaimName { namespace: "n".to_owned(), name: "c".to_owned() });
    Order { owner, same_claim: Some(SameClaim { take_back, ..SameClaim::default() }), ..order(uid, PATH) }
}

#[test]
fn a_directory_that_stays_and_is_taken_back_is_somebodys_at_every_moment() {
    for number in 0.. {
        let fixture = Fixture::new();
        let (allowed, base) = (allowed(fixture.path()), open(fixture.path()));
        base.make(&named("a", None), false).unwrap();
        fs::write(fixture.at(PATH).join("file"), "data").unwrap();
        let stays = Removal { on_delete: OnDelete::KeepPath, ..removal(&allowed) };
        let killed = killed_at(number, || {
            assert_eq!(base.dispose(&named("a", None), &stays).unwrap(), Proof::Kept);
            assert_eq!(base.make(&named("b", Some("a")), false).unwrap(), Outcome::TakenBack);
        });
        // Whatever came between, both calls go on, and nobody else gets it.
        let base = open(fixture.path());
        if !fixture.at(".latebind/volumes/b").exists() {
            assert_eq!(base.dispose(&named("a", None), &stays).unwrap(), Proof::Kept);
        }
        let again = base.make(&named("b", Some("a")), false).unwrap();
        assert!(matches!(again, Outcome::TakenBack | Outcome::Found), "{again:?}");
        assert_eq!(fs::read_to_string(fixture.at(PATH).join("file")).unwrap(), "data");
        assert_eq!(entries(&fixture.at(".latebind/volumes")), ["b"]);
        assert!(entries(&fixture.at(".trash")).is_empty() && entries(&fixture.at(".archive")).is_empty());
        let refused = base.make(&named("d", Some("a")), false);
        assert!(matches!(refused, Err(DirectoryError::NotTakenBack { .. })), "{refused:?}");
        if !killed {
            assert!(number >= 6, "only {number} changes were seen");
            return;
        }
    }
}

#[test]
fn one_that_a_power_cut_put_back_comes_to_its_place_and_stays() {
    for with_marker in [true, false] {
        let fixture = Fixture::new();
        let (allowed, base) = (allowed(fixture.path()), open(fixture.path()));
        base.make(&named("a", None), false).unwrap();
        fs::write(fixture.at(PATH).join("file"), "data").unwrap();
        fs::rename(fixture.at(PATH), fixture.at(".latebind/new/a")).unwrap();
        if !with_marker {
            fs::remove_file(fixture.at(".latebind/volumes/a")).unwrap();
        }
        let stays = Removal { on_delete: OnDelete::KeepPath, ..removal(&allowed) };
        assert_eq!(base.dispose(&named("a", None), &stays).unwrap(), Proof::Kept);
        assert_eq!(fs::read_to_string(fixture.at(PATH).join("file")).unwrap(), "data");
        assert_eq!(fixture.left(), (0, 1));
    }
}
