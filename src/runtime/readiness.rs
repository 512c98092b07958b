//! Readiness as a latch: a role is ready while every part that registered says so.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// All parts of one process.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    stopping: bool,
    parts: Vec<State>,
}

#[derive(Debug)]
struct State {
    name: &'static str,
    ready: bool,
    note: Option<String>,
}

/// One part's say. Dropping it, as when its task ends or panics, makes the process unready for good.
#[derive(Debug)]
#[must_use = "a part that is dropped is not ready"]
pub struct Part {
    readiness: Readiness,
    index: usize,
}

/// What a probe is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every part is ready and no shutdown has begun.
    pub ready: bool,
    /// One line a part, in the form that Kubernetes' own components use.
    pub text: String,
}

impl Readiness {
    /// A latch without parts, which is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part that is not ready yet.
    pub fn part(&self, name: &'static str) -> Part {
        let mut parts = self.lock();
        parts.parts.push(State { name, ready: false, note: None });
        Part { readiness: self.clone(), index: parts.parts.len() - 1 }
    }

    /// Makes the process unready because it is about to end.
    pub fn stop(&self) {
        self.lock().stopping = true;
    }

    /// What to answer a probe now.
    #[must_use]
    pub fn report(&self) -> Report {
        let parts = self.lock();
        let lines = parts.parts.iter().map(|State { name, ready, note }| {
            let (sign, word) = if *ready { ('+', "ok") } else { ('-', "not ready") };
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            format!("[{sign}]{name} {word}{note}\n")
        });
        let mut text: String = lines.collect();
        if parts.stopping {
            text.push_str("[-]shutdown begun\n");
        }
        let ready = !parts.stopping && parts.parts.iter().all(|part| part.ready);
        text.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
        Report { ready, text }
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock()
    }
}

impl Part {
    /// Says that the part is ready, without more to tell.
    pub fn ready(&self) {
        self.set(true, None);
    }

    /// Says that the part is ready, but that a person should know something.
    pub fn ready_but(&self, note: String) {
        self.set(true, Some(note));
    }

    /// Says that the part is not ready, or not any more, and why.
    pub fn not_ready(&self, note: String) {
        self.set(false, Some(note));
    }

    fn set(&self, ready: bool, note: Option<String>) {
        let mut parts = self.readiness.lock();
        // Parts are never removed, so the index that was given out stays valid.
        if let Some(state) = parts.parts.get_mut(self.index) {
            state.ready = ready;
            state.note = note;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(false, Some("its task has ended".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn every_part_counts_and_a_dropped_one_is_not_ready() {
        let readiness = Readiness::new();
        let (facts, listener) = (readiness.part("facts"), readiness.part("listener"));
        assert!(!readiness.report().ready);
        facts.ready();
        assert!(!readiness.report().ready);
        listener.ready();
        assert_eq!(readiness.report().text, "[+]facts ok\n[+]listener ok\nreadyz check passed\n");
        facts.ready_but("the last reload failed".to_owned());
        assert!(readiness.report().ready);
        assert!(readiness.report().text.contains("[+]facts ok: the last reload failed\n"));
        drop(listener);
        assert!(!readiness.report().ready);
        assert!(readiness.report().text.contains("[-]listener not ready: its task has ended\n"));
    }

    #[test]
    fn a_process_that_stops_is_not_ready() {
        let readiness = Readiness::new();
        let part = readiness.part("facts");
        part.ready();
        assert!(readiness.report().ready);
        readiness.stop();
        assert!(!readiness.report().ready);
        assert!(readiness.report().text.contains("[-]shutdown begun"));
    }
}
