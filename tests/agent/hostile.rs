//! Tenants that change their tree while it is deleted.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Ground, dispose, order, sweep_all};
use latebind::agent::StuckEntries;
use latebind_test_support::tenant::swap;

const ROUNDS: usize = 1_000;

#[test]
fn a_thousand_deletions_under_attack_touch_nothing_outside() {
    let ground = Ground::in_memory();
    let base = ground.open();
    let victim = ground.directory.path().join("victim");
    fs::create_dir_all(victim.join("sub")).unwrap();
    fs::write(victim.join("sub/precious"), "precious").unwrap();
    base.make(&order("neighbour"), false).unwrap();
    fs::write(ground.at("pvc-neighbour/x"), "theirs").unwrap();
    let targets = [
        victim.clone(),
        victim.join("sub"),
        ground.at("pvc-neighbour"),
        PathBuf::from(".."),
        PathBuf::from("../.."),
        PathBuf::from("../../.."),
        PathBuf::from(&ground.base),
    ];
    let swaps = AtomicUsize::new(0);
    for round in 0..ROUNDS {
        let claim = format!("c{round}");
        base.make(&order(&claim), false).unwrap();
        // The tenant reaches its directory by what the kernel calls it, wherever it is moved.
        let handle = fs::File::open(ground.at(&format!("pvc-{claim}"))).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let attack = scope.spawn(|| {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    swaps.fetch_add(usize::from(swap(&handle, &targets, turn)), Ordering::Relaxed);
                }
            });
            while swaps.load(Ordering::Relaxed) < round && !attack.is_finished() {
                std::thread::yield_now();
            }
            dispose(&base, &order(&claim)).unwrap();
            for _ in 0..8 {
                base.sweep(16, &mut StuckEntries::default()).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(handle);
    }
    sweep_all(&base);
    assert!(swaps.load(Ordering::Relaxed) >= ROUNDS, "the tenant hardly moved");
    assert_eq!(fs::read_to_string(victim.join("sub/precious")).unwrap(), "precious");
    assert_eq!(fs::read_to_string(ground.at("pvc-neighbour/x")).unwrap(), "theirs");
    assert_eq!(ground.volumes(), ["pvc-neighbour"]);
    assert_eq!((ground.count(".trash"), ground.count(".latebind/volumes")), (0, 1));
    assert_eq!(fs::read_dir(ground.directory.path()).unwrap().count(), 2);
}

#[test]
fn a_tree_deeper_than_any_path_and_wider_than_any_budget_is_emptied() {
    let ground = Ground::in_memory();
    let base = ground.open();
    base.make(&order("deep"), false).unwrap();
    // Built from the bottom, since no path could name the deepest of them.
    let (workshop, volume) = (ground.at("workshop"), ground.at("pvc-deep"));
    fs::create_dir(&workshop).unwrap();
    for level in 0..3_000 {
        let next = ground.at("next");
        fs::create_dir(&next).unwrap();
        fs::write(next.join(format!("f{level}")), "").unwrap();
        fs::rename(&workshop, next.join("a-directory-with-a-long-name")).unwrap();
        fs::rename(&next, &workshop).unwrap();
    }
    fs::rename(&workshop, volume.join("deep")).unwrap();
    for number in 0..2_000 {
        fs::write(volume.join(format!("wide{number}")), "").unwrap();
    }
    dispose(&base, &order("deep")).unwrap();
    let swept = base.sweep(100, &mut StuckEntries::default()).unwrap();
    assert!(swept.steps <= 103 && swept.left > 0, "one round is bounded: {swept:?}");
    sweep_all(&base);
    assert_eq!(ground.count(".trash"), 0);
    assert!(ground.volumes().is_empty());
}
