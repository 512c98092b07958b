//! Power cuts: a process that makes and removes directories is killed again and again.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use latebind::agent::{AllowedBases, Base, StuckEntries};

use super::{Ground, dispose, order, sweep_all};

const CLAIMS: usize = 300;
const KILLS: usize = 40;
const DIRECTORY: &str = "LATEBIND_TEST_CRASH";

/// What each claim is to be in the end, and in which order it gets there: the same in every life of the child.
fn wanted(claim: usize) -> bool {
    !claim.is_multiple_of(3)
}

fn run(base: &Base, mut progress: impl FnMut(usize)) {
    for claim in 0..CLAIMS {
        let order = order(&format!("c{claim}"));
        let name = format!("{}/pvc-c{claim}", base.path());
        let served = std::path::Path::new(&name).join("data").exists();
        base.make(&order, served).unwrap();
        fs::write(format!("{name}/data"), "x").unwrap();
        if !wanted(claim) {
            dispose(base, &order).unwrap();
            base.sweep(3, &mut StuckEntries::default()).unwrap();
        }
        progress(claim);
    }
}

/// Not a test by itself: what the test below kills.
#[test]
#[ignore = "run by the test that kills it"]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let allowed = AllowedBases::new([directory.as_str()]).unwrap();
    let base = Base::open(&allowed, &format!("{directory}/base"), false).unwrap();
    // Until it is killed.
    loop {
        run(&base, |_| {});
    }
}

#[test]
fn a_killed_agent_goes_on_where_it_was_and_neither_loses_nor_leaves_a_directory() {
    let ground = Ground::in_memory();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, ground.directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not a wait for anything: the moment of the cut is to be any.
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        receiver.recv_timeout(Duration::from_millis(3 + 7 * round as u64)).ok();
        drop(sender);
        assert!(child.try_wait().unwrap().is_none(), "it ends by the kill alone");
        child.kill().ok();
        child.wait().unwrap();
    }
    let base = ground.open();
    run(&base, |_| {});
    sweep_all(&base);
    let expected: BTreeSet<String> = (0..CLAIMS).filter(|it| wanted(*it)).map(|it| format!("pvc-c{it}")).collect();
    assert_eq!(ground.volumes().into_iter().collect::<BTreeSet<_>>(), expected);
    let marked: BTreeSet<String> = base.owned().unwrap().known.into_iter().map(|marker| marker.path).collect();
    assert_eq!(marked, expected);
    assert_eq!((ground.count(".latebind/new"), ground.count(".trash")), (0, 0));
    assert_eq!(ground.count(".latebind/volumes"), expected.len(), "no half-written marker stays");
}
