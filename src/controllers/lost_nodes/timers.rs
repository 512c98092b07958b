//! For how long nodes were observed to be gone. It counts time in which somebody looked, by a clock that nobody sets.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// How often a volume is looked at whose node is gone, and how often its time is written down.
pub(super) const TICK: Duration = Duration::from_secs(30);
/// Of a longer gap between two looks no more counts: nobody looked meanwhile.
const MOST_GAP: Duration = Duration::from_secs(60);

/// Volumes that no node reaches: as many as there are, so few.
#[derive(Default)]
pub(super) struct Timers(HashMap<String, Timer>);

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
    /// Takes note of a look that found the node gone. `noted` is what is written down at the volume.
    pub fn observe(
        &mut self,
        volume: &str,
        place: &[(String, String)],
        noted: Option<Duration>,
        now: Instant,
    ) -> Observed {
        let timer = self.0.entry(volume.to_owned()).or_insert_with(|| Timer {
            place: place.to_vec(),
            observed: noted.unwrap_or_default(),
            last: now,
            known_since: now,
            written: noted,
        });
        if timer.place != place {
            place.clone_into(&mut timer.place);
        }
        timer.observed += now.saturating_duration_since(timer.last).min(MOST_GAP);
        timer.last = now;
        let is_due = timer.written.is_none_or(|written| timer.observed >= written + TICK);
        let by_this_process = now.saturating_duration_since(timer.known_since);
        Observed { total: timer.observed, by_this_process, is_due }
    }

    /// It is not known now whether the node is gone: no time counts.
    pub fn pause(&mut self, volume: &str, now: Instant) {
        if let Some(timer) = self.0.get_mut(volume) {
            timer.last = now;
        }
    }

    /// Takes note of what was written down.
    pub fn wrote(&mut self, volume: &str, total: Duration) {
        if let Some(timer) = self.0.get_mut(volume) {
            timer.written = Some(total);
        }
    }

    /// The node is back, or the volume is not bound any more: what was counted counts no more. True where something was.
    pub fn forget(&mut self, volume: &str) -> bool {
        self.0.remove(volume).is_some()
    }

    /// How many places are gone.
    pub fn places(&self) -> usize {
        self.0.values().map(|timer| &timer.place).collect::<BTreeSet<_>>().len()
    }

    /// The volumes that no node reaches.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// How many volumes no node reaches.
    pub fn volumes(&self) -> usize {
        self.0.len()
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
        assert_eq!(total(timers.observe("v", &place("n"), None, at(45))), 45);
        assert_eq!(total(timers.observe("v", &place("n"), None, at(10_000))), 45 + 60, "nobody looked meanwhile");
        timers.pause("v", at(10_020));
        assert_eq!(
            total(timers.observe("v", &place("n"), None, at(10_021))),
            45 + 60 + 1,
            "it was not known meanwhile"
        );
        timers.forget("v");
        assert_eq!(
            total(timers.observe("v", &place("n"), None, at(10_030))),
            0,
            "the whole grace, from the last loss on"
        );
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
        assert_eq!((timers.places(), timers.volumes()), (2, 3));
    }
}
