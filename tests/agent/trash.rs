//! What cannot be removed from the trash slows nothing else.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use latebind::agent::{StuckEntries, Swept};

use super::mounted::{Mounted, run};
use super::{Ground, dispose, order};

/// Ends every mount beneath a directory.
struct EndsMounts<'a>(&'a Path);

impl Drop for EndsMounts<'_> {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for at in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(self.0))
        {
            run("umount", &["-l", at]);
        }
    }
}

#[test]
fn an_entry_that_is_stuck_takes_no_step_from_the_others() {
    if !Mounted::possible() {
        return;
    }
    let ground = Ground::new();
    let base = ground.open();
    let mounts: Vec<_> = (0..20).map(|number| format!("sub/mnt{number}")).collect();
    base.make(&order("stuck"), false).unwrap();
    dispose(&base, &order("stuck")).unwrap();
    let ends = EndsMounts(ground.directory.path());
    for at in mounts {
        // What holds them is moved, and so another path ends them.
        std::mem::forget(Mounted::tmpfs(&ground.at(&format!(".trash/v-stuck/{at}")), "size=64k"));
    }
    // Once what is in the way is known, no round has a step for it.
    let mut known = StuckEntries::default();
    for round in 0.. {
        assert!(round < 100, "it is never seen that nothing can be done");
        if base.sweep(10, &mut known).unwrap().left == 0 {
            break;
        }
    }
    let due = known.due_in(Instant::now()).expect("an entry that waits");
    assert!(due <= Duration::from_secs(15), "what is in the way may be gone soon: {due:?}");
    for number in 0..5 {
        let claim = format!("c{number}");
        base.make(&order(&claim), false).unwrap();
        fs::write(ground.at(&format!("pvc-{claim}/file")), "").unwrap();
        dispose(&base, &order(&claim)).unwrap();
    }
    let swept = base.sweep(1_000, &mut known).unwrap();
    assert_eq!((swept.left, swept.stuck), (0, None), "only what was removed took steps");
    assert!(swept.waiting >= 1 && swept.steps <= 5 * 5, "{} steps", swept.steps);
    assert!((0..5).all(|number| !ground.at(&format!(".trash/v-c{number}")).exists()));
    // A person puts it right by hand: then there is nothing to look at again soon.
    drop(ends);
    fs::remove_dir_all(ground.at(".trash")).unwrap();
    assert_eq!(base.sweep(1_000, &mut known).unwrap(), Swept::default());
    assert!(known.due_in(Instant::now()).is_none() && !ground.at(".trash").exists());
}
