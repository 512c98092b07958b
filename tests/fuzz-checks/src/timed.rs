//! How long the processor works on an input. What the checks do around its calls does not count.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// No call with an input of a fuzzer, which is 4 KiB long at most, may take longer.
pub const LONGEST: Duration = Duration::from_millis(50);
/// A call that took too long is made so many times more: the shortest time counts, since whatever else the machine does to
/// caches and clocks can only make one longer.
const AGAIN: usize = 2;
/// Below this a new slowest call is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(1);

thread_local! {
    /// The slowest call of this thread so far, while calls are timed.
    static SLOWEST: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Runs a check, and panics when a call of latebind in it takes longer than [`LONGEST`], again and again. Tells of each call
/// that is slower than all before it, so that the last line is the slowest of a run.
pub fn in_time(check: fn(&[u8]), input: &[u8]) {
    SLOWEST.set(SLOWEST.get().or(Some(WORTH_A_LINE)));
    check(input);
}

/// Makes a call of latebind, and times it if calls are timed. It may be made more than once.
pub fn timed<T>(what: &str, call: impl Fn() -> T) -> T {
    let Some(slowest) = SLOWEST.get() else { return call() };
    let clock = || {
        let begun = worked();
        (call(), worked().saturating_sub(begun))
    };
    let (made, first) = clock();
    if first > slowest {
        let shortest = (0..AGAIN).map(|_| clock().1).fold(first, Duration::min);
        assert!(shortest <= LONGEST, "{what} takes {shortest:?}, {} times in a row", AGAIN + 1);
        if shortest > slowest {
            eprintln!("slowest: {what}, {shortest:?}");
            SLOWEST.set(Some(shortest));
        }
    }
    made
}

/// For how long the processor has worked on this thread: on a busy machine most of a call is waiting for it.
#[must_use]
pub fn worked() -> Duration {
    // It cannot be out of range: it is no date, and begins at zero.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
