//! For how long nodes were observed to be gone. It counts time in which somebody looked, by a clock that nobody sets.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How often a volume is looked at whose node is gone, and how often its time is written down.
pub(super) const TICK: Duration = Duration::from_secs(30);
/// After a longer gap between two looks nobody knows what was meanwhile: what is written down counts.
const MOST_GAP: Duration = Duration::from_secs(60);

/// Volumes that no node reaches: as many as there are, so few.
#[derive(Default)]
pub(super) struct Timers {
    by_volume: HashMap<String, Timer>,
    /// How many of the volumes ask for each place, by the value of the label: by whichever label it is asked for, it is one node.
    by_place: HashMap<String, usize>,
}

struct Timer {
    /// By which labels the node was named.
    place: Vec<(String, String)>,
    observed: Duration,
    last: Instant,
    /// Since when this process has known of it.
    known_since: Instant,
    /// What was written down last.
    written: Option<Duration>,
}

/// What the time of a volume has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// For how long, over all processes.
    pub total: Duration,
    /// For how long by this one.
    pub by_this_process: Duration,
    /// It is to be written down.
    pub is_due: bool,
}

impl Timers {
    /// Takes note of a look that found the node gone. `noted` is what is written down at the volume: where this process has not looked
    /// for a while, that counts.
    pub fn observe(
        &mut self,
        volume: &str,
        place: &[(String, String)],
        noted: Option<Duration>,
        now: Instant,
    ) -> Observed {
        let goes_on = |timer: &Timer| timer.place == place && now.saturating_duration_since(timer.last) <= MOST_GAP;
        if !self.by_volume.get(volume).is_some_and(goes_on) {
            self.forget(volume);
            for (_, value) in place {
                *self.by_place.entry(value.clone()).or_default() += 1;
            }
            let (observed, place) = (noted.unwrap_or_default(), place.to_vec());
            let timer = Timer { place, observed, last: now, known_since: now, written: noted };
            self.by_volume.insert(volume.to_owned(), timer);
        }
        let Some(timer) = self.by_volume.get_mut(volume) else {
            return Observed { total: Duration::ZERO, by_this_process: Duration::ZERO, is_due: false };
        };
        timer.observed += now.saturating_duration_since(timer.last);
        timer.last = now;
        let is_due = timer.written.is_none_or(|written| timer.observed >= written + TICK);
        let by_this_process = now.saturating_duration_since(timer.known_since);
        Observed { total: timer.observed, by_this_process, is_due }
    }

    /// The node was there for a moment, whatever a look found since: the time begins anew, and that is to be written down.
    pub fn restart(&mut self, volume: &str, now: Instant) {
        if let Some(timer) = self.by_volume.get_mut(volume) {
            (timer.observed, timer.written) = (Duration::ZERO, None);
            (timer.last, timer.known_since) = (now, now);
        }
    }

    /// It is not known now whether the node is gone: no time counts.
    pub fn pause(&mut self, volume: &str, now: Instant) {
        if let Some(timer) = self.by_volume.get_mut(volume)
            && now.saturating_duration_since(timer.last) <= MOST_GAP
        {
            timer.last = now;
        }
    }

    /// Takes note of what was written down.
    pub fn wrote(&mut self, volume: &str, total: Duration) {
        if let Some(timer) = self.by_volume.get_mut(volume) {
            timer.written = Some(total);
        }
    }

    /// The node is back, or the volume is not bound any more: what was counted counts no more. True where something was.
    pub fn forget(&mut self, volume: &str) -> bool {
        let Some(timer) = self.by_volume.remove(volume) else { return false };
        for (_, value) in timer.place {
            if let Some(count) = self.by_place.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    self.by_place.remove(&value);
                }
            }
        }
        true
    }

    /// How many places are gone.
    pub fn places(&self) -> usize {
        self.by_place.len()
    }

    /// True for a volume that no node reaches.
    pub fn has(&self, volume: &str) -> bool {
        self.by_volume.contains_key(volume)
    }

    /// The volumes that no node reaches.
    pub fn names(&self) -> Vec<String> {
        self.by_volume.keys().cloned().collect()
    }

    /// How many volumes no node reaches.
    pub fn volumes(&self) -> usize {
        self.by_volume.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str) -> Vec<(String, String)> {
        vec![("kubernetes.io/hostname".to_owned(), node.to_owned())]
    }

    #[test]
    fn time_counts_while_somebody_looks_and_from_the_beginning_after_a_return() {
        let (mut timers, begin) = (Timers::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let total = |observed: Observed| observed.total.as_secs();
        assert_eq!(total(timers.observe("v", &place("n"), None, at(0))), 0);
        assert_eq!(total(timers.observe("v", &place("n"), None, at(30))), 30);
        timers.pause("v", at(60));
        assert_eq!(total(timers.observe("v", &place("n"), None, at(65))), 35, "it was not known meanwhile");
        timers.restart("v", at(66));
        let again = timers.observe("v", &place("n"), Some(Duration::from_secs(35)), at(70));
        assert_eq!((total(again), again.is_due), (4, true), "it was there for a moment");
        timers.forget("v");
        assert_eq!(total(timers.observe("v", &place("n"), None, at(80))), 0, "the whole grace, from the last loss on");
    }

    /// Another process has led meanwhile, and has seen the node come back.
    #[test]
    fn after_a_gap_only_what_is_written_down_counts() {
        let (mut timers, begin) = (Timers::default(), Instant::now());
        for second in (0..=540).step_by(30) {
            timers.observe("v", &place("n"), None, begin + Duration::from_secs(second));
        }
        let later = begin + Duration::from_secs(3600);
        timers.pause("v", later);
        let noted = Some(Duration::from_secs(60));
        let observed = timers.observe("v", &place("n"), noted, later);
        assert_eq!((observed.total.as_secs(), observed.by_this_process), (60, Duration::ZERO));
    }

    #[test]
    fn another_process_goes_on_with_what_is_written_down() {
        let (mut timers, begin) = (Timers::default(), Instant::now());
        let noted = Some(Duration::from_secs(300));
        let first = timers.observe("v", &place("n"), noted, begin);
        assert_eq!((first.total.as_secs(), first.by_this_process.as_secs(), first.is_due), (300, 0, false));
        let next = timers.observe("v", &place("n"), noted, begin + TICK);
        assert_eq!((next.total.as_secs(), next.by_this_process, next.is_due), (330, TICK, true));
        timers.wrote("v", next.total);
        assert!(!timers.observe("v", &place("n"), noted, begin + TICK).is_due);
    }

    #[test]
    fn places_are_counted_once() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        for (volume, node) in [("a", "n"), ("b", "n"), ("c", "m")] {
            timers.observe(volume, &place(node), None, now);
        }
        let by_driver = [("csi/node".to_owned(), "n".to_owned())];
        timers.observe("d", &by_driver, None, now);
        assert_eq!((timers.places(), timers.volumes()), (2, 4));
        timers.forget("c");
        timers.forget("a");
        assert_eq!((timers.places(), timers.volumes()), (1, 2));
    }
}
