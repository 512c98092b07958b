//! An agent that is killed before each of its steps, and a power cut there.

mod killed;
mod power;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::base::{AllowedBases, Base};
use super::changes::{before_each, undisturbed};
use super::directory::Order;
use super::removal::Removal;
use crate::crd::{Disposal, VolumePath};

fn order(claim: &str, path: &str) -> Order {
    Order {
        cluster: "cluster-1".to_owned(),
        volume: format!("v-{claim}"),
        claim: claim.to_owned(),
        owner: None,
        same_claim: None,
        path: VolumePath::parse(path).unwrap(),
        mode: 0o2750,
        uid: None,
        gid: None,
        base_id: None,
        persistent_volume: None,
    }
}

fn allowed(directory: &Path) -> AllowedBases {
    AllowedBases::new([directory.to_str().unwrap()]).unwrap()
}

fn open(directory: &Path) -> Base {
    Base::open(&allowed(directory), directory.join("made/base").to_str().unwrap(), false).unwrap()
}

/// The ordinary removal of a volume that was served.
fn removal(allowed: &AllowedBases) -> Removal<'_> {
    Removal { disposal: Disposal::Delete, served: true, ..Removal::of_unserved(allowed) }
}

/// Runs it up to the change of this number, and ends it there as a kill does: nothing is tidied up. False when it has
/// fewer changes, and ran to its end.
fn killed_at(number: usize, work: impl FnOnce()) -> bool {
    let mut left = number;
    before_each(move || {
        if left == 0 {
            // Says nothing, unlike a panic.
            std::panic::resume_unwind(Box::new("killed"));
        }
        left -= 1;
    });
    let outcome = catch_unwind(AssertUnwindSafe(work));
    undisturbed();
    match outcome {
        Ok(()) => false,
        Err(reason) if reason.downcast_ref::<&str>() == Some(&"killed") => true,
        Err(reason) => std::panic::resume_unwind(reason),
    }
}

fn entries(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map(|all| all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}
