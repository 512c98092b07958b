//! What the processes have in memory, and whether it grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use latebind_test_support::process::Memory;
use tokio::task::JoinHandle;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Until then a life fills its caches and its heap, and is not compared. It is the longest that a controller remembers anything
/// by age: what it has said of an object is not said again for ten minutes.
pub const WARM: Duration = Duration::from_secs(10 * 60);
/// A life that was shorter tells nothing of growth.
pub const LONG_LIFE: Duration = Duration::from_secs(30 * 60);

/// One look at a process.
#[derive(Clone, Copy)]
struct Look {
    /// Since its life began.
    age: Duration,
    memory: Memory,
}

/// One life of a process, from its start to its end or that of the run.
struct Life {
    pid: u32,
    began: Instant,
    looks: Vec<Look>,
}

/// The lives of one process.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<Vec<Life>>>);

/// What a life shows about growth.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// How long it was.
    pub age: Duration,
    /// The medians of its first quarter, once it was warm, and of its last.
    pub first: Memory,
    /// Of its last.
    pub last: Memory,
}

impl Growth {
    /// Both kinds of memory, last to first.
    pub fn ratios(&self) -> [f64; 2] {
        [self.last.resident / self.first.resident, self.last.anonymous / self.first.anonymous]
    }
}

impl Lives {
    /// Another life begins.
    pub fn begin(&self, pid: u32) {
        self.all().push(Life { pid, began: Instant::now(), looks: Vec::new() });
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// The most that was seen, in any life.
    pub fn most(&self) -> Memory {
        let all = self.all();
        let looks = || all.iter().flat_map(|life| &life.looks).map(|look| look.memory);
        let most = |of: fn(&Memory) -> f64| looks().map(|memory| of(&memory)).fold(0.0, f64::max);
        Memory { resident: most(|it| it.resident), anonymous: most(|it| it.anonymous) }
    }

    /// Growth within each life that was long enough to show any.
    pub fn growth(&self) -> Vec<Growth> {
        self.all().iter().filter_map(Life::growth).collect()
    }

    /// The latest look.
    pub fn now(&self) -> Option<Memory> {
        self.all().last()?.looks.last().map(|look| look.memory)
    }

    fn look(&self) {
        if let Some(life) = self.all().last_mut()
            && let Some(memory) = Memory::of(life.pid)
        {
            life.looks.push(Look { age: life.began.elapsed(), memory });
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Life>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    fn growth(&self) -> Option<Growth> {
        let age = self.looks.last()?.age;
        if age < LONG_LIFE {
            return None;
        }
        let warm: Vec<Memory> = self.looks.iter().filter(|look| look.age >= WARM).map(|look| look.memory).collect();
        let quarter = warm.len() / 4;
        Some(Growth { age, first: median(&warm[..quarter])?, last: median(&warm[warm.len() - quarter..])? })
    }
}

fn median(looks: &[Memory]) -> Option<Memory> {
    let middle = |of: fn(&Memory) -> f64| {
        let mut values: Vec<f64> = looks.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Memory { resident: middle(|it| it.resident)?, anonymous: middle(|it| it.anonymous)? })
}

/// Looks at all of them until dropped.
pub struct Watch(JoinHandle<()>);

impl Watch {
    /// Begins to look.
    pub fn start(of: [Lives; 2]) -> Self {
        Self(tokio::spawn(async move {
            let mut turn = tokio::time::interval(LOOK);
            loop {
                turn.tick().await;
                of.iter().for_each(Lives::look);
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
