//! Whether a fault is on, or was a moment ago: then nobody expects claims to be bound at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a fault is felt after it has ended: what waited is served first, and a Lease may have to run out.
pub const FELT: Duration = Duration::from_secs(20);

/// When there were faults: shared by what does them and what measures.
#[derive(Default)]
pub struct FaultTimes(Mutex<State>);

#[derive(Default)]
struct State {
    on: bool,
    faults: u64,
    ended: Option<Instant>,
}

impl FaultTimes {
    /// A fault begins.
    pub fn begin(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.on = true;
        state.faults += 1;
    }

    /// It ends.
    pub fn end(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.on, state.ended) = (false, Some(Instant::now()));
    }

    /// How many faults there were, if none is felt. Two equal answers mean that none was in between.
    pub fn calm(&self) -> Option<u64> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let felt = state.on || state.ended.is_some_and(|ended| ended.elapsed() < FELT);
        (!felt).then_some(state.faults)
    }
}
