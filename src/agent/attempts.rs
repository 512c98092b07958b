//! Attempts to take a directory away: each one is confirmed by the controller, for this attempt alone.
//!
//! An attempt has a random name that nobody knew before, so that its confirmation cannot be older than itself. It counts for
//! a while by a clock that nobody sets, and once: after it was acted upon, or was too long in coming, another one is begun.
//!
//! Few are in progress at a time. If all orders of a node asked at once, and API server and controller were too slow to answer
//! them all while they count, each would be answered too late, and nothing would ever be removed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// For how long an attempt may be acted upon after it was begun: what was true of the volume when the controller looked is
/// never older than this.
pub const ATTEMPT_LASTS: Duration = Duration::from_secs(10);
/// The longest time between two questions that nobody answers: the controller may be away for long.
const LONGEST_WAIT: Duration = Duration::from_secs(160);
/// The least and the most questions that wait for an answer at a time: as many as orders are followed at once beneath one base;
/// and 256, which is enough for fifty removals a second where an answer takes five, and has one entry of 60 bytes each.
const ASKED_AT_ONCE: (usize, usize) = (8, 256);
/// While answers come within this time, more may be asked at once.
const PROMPT: Duration = Duration::from_secs(5);
/// All orders that wait for their turn look for it so often, together.
const LOOK: Duration = Duration::from_millis(10);
/// The shortest and the longest time between two looks of one of them.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
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
    /// How many before it, one after the other, were answered too late.
    late: u32,
}

impl Attempt {
    /// For how long it stands, when it was answered or was not, before another one is begun.
    fn stands(&self, is_answered: bool) -> Duration {
        match (self.spent, is_answered) {
            (true, _) => ATTEMPT_LASTS,
            (false, false) => self.wait,
            // The controller may have been away, and is asked again at once; or it is too slow for all that is asked of it, and
            // then asking again would keep it so.
            (false, true) => match self.late.checked_sub(1) {
                None => ATTEMPT_LASTS,
                Some(before) => ATTEMPT_LASTS + (ATTEMPT_LASTS * (1 << before.min(8))).min(LONGEST_WAIT),
            },
        }
    }
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
#[derive(Debug)]
pub struct Attempts {
    all: HashMap<String, Attempt>,
    /// The questions that wait for an answer, and until when they do.
    asked: Vec<(String, Instant)>,
    /// How many of them there may be: one more with each prompt answer while others wait for their turn, half of it with each
    /// that is late.
    at_once: usize,
    /// Orders that wait for their turn to ask.
    waiting: HashSet<String>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { all: HashMap::new(), asked: Vec::new(), at_once: ASKED_AT_ONCE.0, waiting: HashSet::new() }
    }
}

impl Attempts {
    /// What to do next, where `confirmed` is the attempt that the controller has confirmed last.
    #[must_use]
    pub fn next(&mut self, volume: &str, confirmed: Option<&str>, now: Instant) -> Next {
        let (mut wait, mut late) = (ATTEMPT_LASTS, 0);
        if let Some(attempt) = self.all.get_mut(volume) {
            let age = now.saturating_duration_since(attempt.begun);
            let is_answered = confirmed == Some(attempt.name.as_str());
            if is_answered {
                self.asked.retain(|(asked, _)| asked != volume);
            }
            if is_answered && !attempt.spent && age < ATTEMPT_LASTS {
                attempt.spent = true;
                if age <= PROMPT && !self.waiting.is_empty() {
                    self.at_once = (self.at_once + 1).min(ASKED_AT_ONCE.1);
                }
                return Next::Act(attempt.begun);
            }
            let rest = attempt.stands(is_answered);
            if age < rest {
                return Next::Wait(rest.saturating_sub(age));
            }
            if !is_answered {
                (wait, late) = ((attempt.wait * 2).min(LONGEST_WAIT), attempt.late);
            } else if !attempt.spent {
                late = attempt.late + 1;
                self.at_once = (self.at_once / 2).max(ASKED_AT_ONCE.0);
            }
        }
        if !self.may_ask(volume, now) {
            return Next::Wait(self.wait_for_turn(volume));
        }
        self.waiting.remove(volume);
        self.asked.push((volume.to_owned(), now + wait));
        if self.all.len() >= REMEMBERED {
            self.all.clear();
        }
        let name = random_name();
        self.all.insert(volume.to_owned(), Attempt { name: name.clone(), begun: now, wait, spent: false, late });
        Next::Ask(name)
    }

    /// How much longer an order waits that has waited for its turn. Nothing when it may ask now, or has asked.
    #[must_use]
    pub fn wait(&mut self, volume: &str, now: Instant) -> Option<Duration> {
        (self.waiting.contains(volume) && !self.may_ask(volume, now)).then(|| self.wait_for_turn(volume))
    }

    /// There is no order any more.
    pub fn forget(&mut self, volume: &str) {
        self.all.remove(volume);
        self.waiting.remove(volume);
        self.asked.retain(|(asked, _)| asked != volume);
    }

    /// Whether a question may be asked. One of the same order is none any more, whose time is over.
    fn may_ask(&mut self, volume: &str, now: Instant) -> bool {
        self.asked.retain(|(asked, until)| asked != volume && now < *until);
        self.asked.len() < self.at_once
    }

    fn wait_for_turn(&mut self, volume: &str) -> Duration {
        if self.waiting.len() >= REMEMBERED {
            self.waiting.clear();
        }
        self.waiting.insert(volume.to_owned());
        let all = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        LOOK.saturating_mul(all).clamp(LOOKS.0, LOOKS.1)
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

    /// A controller that answers so many questions a second, in the order in which they came and no sooner than so many seconds
    /// after each; how many seconds it takes until so many volumes are removed, if it takes no more than an hour.
    fn removed_after(volumes: usize, a_second: usize, takes: u64) -> Option<u64> {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let names: Vec<String> = (0..volumes).map(|number| number.to_string()).collect();
        let mut confirmed: HashMap<usize, String> = HashMap::new();
        let mut line: Vec<(u64, usize, String)> = Vec::new();
        let mut due: Vec<Option<Instant>> = vec![Some(start); volumes];
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let answered = line.iter().take(a_second).take_while(|(asked, ..)| asked + takes <= second).count();
            for (_, number, name) in line.drain(..answered) {
                due[number] = due[number].map(|_| now);
                confirmed.insert(number, name);
            }
            for number in 0..volumes {
                if due[number].is_none_or(|due| due > now) {
                    continue;
                }
                let confirmed = confirmed.get(&number).map(String::as_str);
                due[number] = match attempts.next(&names[number], confirmed, now) {
                    Next::Ask(name) => {
                        // A newer question stands for the one before.
                        match line.iter_mut().find(|(_, asked, _)| *asked == number) {
                            Some(asked) => asked.2 = name,
                            None => line.push((second, number, name)),
                        }
                        Some(now + ATTEMPT_LASTS)
                    }
                    Next::Wait(left) => Some(now + left),
                    Next::Act(_) => {
                        attempts.forget(&names[number]);
                        None
                    }
                };
            }
            if due.iter().all(Option::is_none) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_controller_that_is_too_slow_for_all_at_once_gets_through_them() {
        let took = removed_after(300, 2, 0).expect("they are removed within the hour");
        assert!(took <= 300, "{took} s, where answering alone takes 150 s");
    }

    #[test]
    fn as_many_are_asked_at_once_as_are_answered_promptly() {
        let took = removed_after(300, 1000, 4).expect("they are removed within the hour");
        assert!(took <= 60, "{took} s, where eight at a time take 150 s");
        let took = removed_after(300, 20, 4).expect("they are removed within the hour");
        assert!(took <= 80, "{took} s, where answering alone takes 15 s");
        let took = removed_after(300, 1000, 8).expect("they are removed within the hour");
        assert!(took <= 400, "{took} s, where eight at a time take 300 s");
    }

    #[test]
    fn answers_that_are_late_again_and_again_are_asked_for_less_and_less_often() {
        let (mut attempts, mut now, mut last) = (Attempts::default(), Instant::now(), None::<String>);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let asked_at = now;
            let name = loop {
                match attempts.next("v", last.as_deref(), now) {
                    Next::Ask(name) => break name,
                    Next::Wait(left) => now += left,
                    Next::Act(_) => panic!("it was too late"),
                }
            };
            pauses.push((now - asked_at).as_secs());
            // The answer comes after eleven seconds.
            (last, now) = (Some(name), now + Duration::from_secs(11));
        }
        assert_eq!(pauses, [0, 0, 9, 19, 39, 79, 159]);
    }

    #[test]
    fn those_who_wait_for_their_turn_look_no_more_often_the_more_they_are() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let mut waits = Vec::new();
        for number in 0..2000 {
            if let Next::Wait(wait) = attempts.next(&number.to_string(), None, now) {
                waits.push(wait);
            }
        }
        assert_eq!(waits.len(), 2000 - ASKED_AT_ONCE.0);
        assert_eq!((waits[0], *waits.last().unwrap()), (LOOKS.0, LOOKS.1));
        assert_eq!(attempts.wait("1000", now), Some(LOOKS.1));
        attempts.forget("0");
        assert_eq!(attempts.wait("1000", now), None, "there is a place");
        asked(attempts.next("1000", None, now));
        assert_eq!(attempts.wait("1000", now), None, "it has asked");
        // Nobody holds a place for longer than it waits.
        assert_eq!(attempts.wait("1001", now + ATTEMPT_LASTS), None);
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
