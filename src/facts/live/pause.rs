//! How long a watch waits before it begins again after a failure.

use std::time::Duration;

/// Pause after a first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause: a dozen watches of a process then ask an API server that is away two or three times a second.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after so many failures in a row, between half and all of its nominal length, so that many processes that
/// lost one API server do not come back to it together.
pub(super) fn pause(failures: u32) -> Duration {
    let nominal = nominal(failures);
    let noise = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), failures) % 1000;
    // The remainder fits into 32 bits.
    let noise = u32::try_from(noise).unwrap_or_default();
    nominal / 2 + nominal / 2 * noise / 1000
}

/// The nominal length of that pause.
pub(super) fn nominal(failures: u32) -> Duration {
    let nominal = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(10)));
    nominal.min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::{FIRST_PAUSE, LONGEST_PAUSE, pause};

    #[test]
    fn pauses_grow_to_a_bound() {
        assert!(pause(1) <= FIRST_PAUSE);
        assert!(pause(1) >= FIRST_PAUSE / 2);
        assert!(pause(60) <= LONGEST_PAUSE && pause(60) >= LONGEST_PAUSE / 2);
        assert!(pause(u32::MAX) <= LONGEST_PAUSE);
    }
}
