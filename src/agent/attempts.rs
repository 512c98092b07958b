//! Attempts to take a directory away: each one is confirmed by the controller, for this attempt alone.
//!
//! An attempt has a random name that nobody knew before, so that its confirmation cannot be older than itself. It counts for
//! a while by a clock that nobody sets, and once: after it was acted upon, or was too long in coming, another one is begun.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For how long an attempt may be acted upon after it was begun: what was true of the volume when the controller looked is
/// never older than this.
pub const ATTEMPT_LASTS: Duration = Duration::from_secs(10);
/// The longest time between two questions that nobody answers: the controller may be away for long.
const LONGEST_WAIT: Duration = Duration::from_secs(160);
/// More attempts than this are not remembered: whoever is forgotten asks again. One is some 150 bytes.
const REMEMBERED: usize = 65_536;

#[derive(Debug)]
struct Attempt {
    name: String,
    begun: Instant,
    /// How long nobody is asked again.
    wait: Duration,
    /// It was acted upon.
    spent: bool,
}

/// What to do next about an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The controller is asked, by this name.
    Ask(String),
    /// Its answer is waited for, for so long.
    Wait(Duration),
    /// The attempt is confirmed. It was begun then, and is spent.
    Act(Instant),
}

/// The attempts in progress, by the UID of the LocalVolume.
#[derive(Debug, Default)]
pub struct Attempts(HashMap<String, Attempt>);

impl Attempts {
    /// What to do next, where `confirmed` is the attempt that the controller has confirmed last.
    #[must_use]
    pub fn next(&mut self, volume: &str, confirmed: Option<&str>, now: Instant) -> Next {
        let known = self.0.get_mut(volume);
        let mut wait = ATTEMPT_LASTS;
        if let Some(attempt) = known {
            let age = now.saturating_duration_since(attempt.begun);
            let is_answered = confirmed == Some(attempt.name.as_str());
            if is_answered && !attempt.spent && age < ATTEMPT_LASTS {
                attempt.spent = true;
                return Next::Act(attempt.begun);
            }
            let rest = if attempt.spent { ATTEMPT_LASTS } else { attempt.wait };
            if (attempt.spent || !is_answered) && age < rest {
                return Next::Wait(rest.saturating_sub(age));
            }
            if !is_answered {
                wait = (attempt.wait * 2).min(LONGEST_WAIT);
            }
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let name = random_name();
        self.0.insert(volume.to_owned(), Attempt { name: name.clone(), begun: now, wait, spent: false });
        Next::Ask(name)
    }

    /// There is no order any more.
    pub fn forget(&mut self, volume: &str) {
        self.0.remove(volume);
    }
}

/// 128 random bits from the kernel.
fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Never seen since Linux 3.17. The clock is no secret, and it need not be one: it only has to be new.
            Err(_) => {
                return format!("t{:?}", std::time::SystemTime::now())
                    .chars()
                    .filter(char::is_ascii_alphanumeric)
                    .collect();
            }
        }
    }
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(next: Next) -> String {
        let Next::Ask(name) = next else { panic!("{next:?}") };
        name
    }

    #[test]
    fn an_attempt_is_acted_upon_once_and_only_while_it_is_young() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let first = asked(attempts.next("v", None, start));
        assert_eq!(attempts.next("v", Some("another"), after(1)), Next::Wait(Duration::from_secs(9)));
        assert_eq!(attempts.next("v", Some(&first), after(2)), Next::Act(start));
        assert_eq!(attempts.next("v", Some(&first), after(3)), Next::Wait(Duration::from_secs(7)));
        let second = asked(attempts.next("v", Some(&first), after(11)));
        assert_ne!(first, second, "what failed is not tried again on the same word");
        let third = asked(attempts.next("v", Some(&second), after(22)));
        assert_ne!(second, third, "the answer came too late");
        assert_eq!(attempts.next("v", Some(&third), after(23)), Next::Act(after(22)));
    }

    #[test]
    fn a_restart_voids_what_was_confirmed() {
        let (mut before, now) = (Attempts::default(), Instant::now());
        let name = asked(before.next("v", None, now));
        let mut after = Attempts::default();
        assert_ne!(asked(after.next("v", Some(&name), now)), name);
    }

    #[test]
    fn whoever_is_not_answered_asks_less_and_less_often() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            asked(attempts.next("v", None, now));
            let Next::Wait(wait) = attempts.next("v", None, now) else { panic!("asked at once") };
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 160, 160]);
    }

    proptest! {
        #[test]
        fn nothing_but_the_attempt_in_progress_permits_anything(steps in proptest::collection::vec((0_u64..15, 0_usize..4), 1..40)) {
            let mut attempts = Attempts::default();
            let mut now = Instant::now();
            let mut names: Vec<(String, Instant)> = Vec::new();
            let mut acted = Vec::new();
            for (pause, which) in steps {
                now += Duration::from_secs(pause);
                let confirmed = names.iter().rev().nth(which).map(|(name, _)| name.clone());
                match attempts.next("v", confirmed.as_deref(), now) {
                    Next::Ask(name) => names.push((name, now)),
                    Next::Wait(left) => prop_assert!(left <= LONGEST_WAIT),
                    Next::Act(begun) => {
                        let (name, asked) = names.last().unwrap().clone();
                        prop_assert_eq!(confirmed.as_deref(), Some(name.as_str()));
                        prop_assert_eq!(begun, asked);
                        prop_assert!(now - asked < ATTEMPT_LASTS && !acted.contains(&name));
                        acted.push(name);
                    }
                }
            }
        }
    }
}
