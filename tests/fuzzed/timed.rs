//! That the fuzz targets find an input that takes too long, and nothing else.

use std::cell::Cell;

use latebind_fuzz_checks::{LONGEST, in_time, timed, worked};

/// Takes longer than any call may.
fn take_long() {
    let begun = worked();
    while worked().saturating_sub(begun) < LONGEST * 2 {
        std::hint::spin_loop();
    }
}

fn slow(_: &[u8]) {
    timed("a slow call", take_long);
}

#[test]
#[should_panic(expected = "a slow call takes")]
fn an_input_that_takes_too_long_is_found() {
    in_time(slow, b"");
}

/// As where another process has the processor for a while.
fn waits(_: &[u8]) {
    timed("a call that waits", || std::thread::park_timeout(LONGEST * 2));
}

#[test]
fn a_call_that_waits_for_the_processor_is_no_finding() {
    in_time(waits, b"");
}

/// As where the caches have to be filled.
fn slow_once(_: &[u8]) {
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    timed("a call", || {
        if CALLS.replace(CALLS.get() + 1) == 0 {
            take_long();
        }
    });
    assert_eq!(CALLS.get(), 3, "it was made again");
}

#[test]
fn a_call_that_was_slow_once_is_no_finding() {
    in_time(slow_once, b"");
}

#[test]
fn nothing_is_timed_that_was_not_asked_for() {
    slow(b"");
}
