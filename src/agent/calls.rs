//! Calls to disks, each on a thread of its own. A disk that hangs keeps the threads that have called it, and nothing else:
//! whoever waited goes on without an answer, and nobody calls that disk again before it has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::disk::error::DirectoryError;
use super::metrics::AgentMetrics;

/// A call that takes longer has met a disk that hangs. A disk has 30 s for a command before the kernel resets it.
/// Source: Linux, `SD_TIMEOUT` in drivers/scsi/sd.h, and `io_timeout` of drivers/nvme/host/core.c.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(30);
/// Orders that are followed at once beneath one base. More would only wait for the same disk.
pub(super) const ORDER_WORKERS: usize = 8;
/// The look at a base, and what empties its trash.
pub(super) const DISK_WORKERS: usize = 2;
/// Calls under way to one base: those, and one that notes how far the store has come.
const CALLS_OF_ONE: usize = ORDER_WORKERS + DISK_WORKERS + 1;
/// Calls under way to all bases: so many disks may hang and keep all the threads that they can.
const CALLS: usize = 32 * CALLS_OF_ONE;

/// Threads for what waits for disks, and two for the process around it, such as for names to be resolved while disks hang.
/// They are started when they are needed.
pub const BLOCKING_THREADS: usize = CALLS + 2;

/// The calls under way. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct DiskCalls {
    timeout: Duration,
    metrics: AgentMetrics,
    /// By base, when each was begun, in the order of their beginning. A base without calls has no entry.
    running: Arc<Mutex<BTreeMap<String, BTreeMap<u64, Instant>>>>,
}

/// Ends a call, however it ends.
struct Running {
    calls: DiskCalls,
    base: String,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.calls.running.lock();
        if let Some(of_base) = running.get_mut(&self.base) {
            of_base.remove(&self.number);
            if of_base.is_empty() {
                running.remove(&self.base);
            }
        }
        drop(running);
        self.calls.count();
    }
}

impl DiskCalls {
    pub(super) fn new(timeout: Duration, metrics: AgentMetrics) -> Self {
        Self { timeout, metrics, running: Arc::default() }
    }

    /// Has something done beneath a base that may hang, and waits for it no longer than a disk may take. What is not
    /// waited for any more goes on by itself.
    ///
    /// # Errors
    /// When the disk hangs, or what was to be done failed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        base: &str,
        work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let running = self.begin(base)?;
        let call = tokio::task::spawn_blocking(move || {
            let _running = running;
            work()
        });
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(DirectoryError::Order(format!("the work broke off: {error}"))),
            Err(_) => {
                tracing::error!(base, "a call to the disk does not return");
                self.count();
                Err(DirectoryError::Hung { path: base.to_owned() })
            }
        }
    }

    fn begin(&self, base: &str) -> Result<Running, DirectoryError> {
        if self.hangs(base) {
            return Err(DirectoryError::Hung { path: base.to_owned() });
        }
        let mut running = self.running.lock();
        let all: usize = running.values().map(BTreeMap::len).sum();
        if all >= CALLS {
            return Err(DirectoryError::OthersHang { path: base.to_owned() });
        }
        let of_base = running.entry(base.to_owned()).or_default();
        let number = of_base.last_key_value().map_or(0, |(last, _)| last + 1);
        of_base.insert(number, Instant::now());
        Ok(Running { calls: self.clone(), base: base.to_owned(), number })
    }

    /// True while a call to it has not returned that should have long ago.
    pub(super) fn hangs(&self, base: &str) -> bool {
        self.waits_for(base) >= self.timeout
    }

    /// For how long the oldest call to it has been under way.
    pub(super) fn waits_for(&self, base: &str) -> Duration {
        let running = self.running.lock();
        running.get(base).map_or(Duration::ZERO, oldest)
    }

    fn count(&self) {
        let hung = self.running.lock().values().filter(|of_base| oldest(of_base) >= self.timeout).count();
        self.metrics.hung(hung);
    }
}

fn oldest(of_base: &BTreeMap<u64, Instant>) -> Duration {
    of_base.values().map(Instant::elapsed).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Long enough for a thread to be started on a busy machine.
    const SHORT: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_called_again_until_it_has_answered() {
        let calls = DiskCalls::new(SHORT, AgentMetrics::default());
        let (answer, hangs) = mpsc::channel::<()>();
        let hung = calls.run("/hung", move || {
            hangs.recv().ok();
            Ok(())
        });
        assert!(matches!(hung.await, Err(DirectoryError::Hung { .. })));
        let refused = calls.run("/hung", || -> Result<(), _> { panic!("it is not called") });
        assert!(matches!(refused.await, Err(DirectoryError::Hung { .. })));
        assert!(calls.run("/good", || Ok(7)).await.unwrap() == 7 && calls.metrics.disks_hung() == 1);
        answer.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(20), async {
            while calls.hangs("/hung") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!(calls.run("/hung", || Ok(7)).await.unwrap(), 7);
        assert!(calls.running.lock().is_empty() && calls.metrics.disks_hung() == 0);
    }

    #[tokio::test]
    async fn what_breaks_off_does_not_count_as_hung() {
        let calls = DiskCalls::new(SHORT, AgentMetrics::default());
        let broken = calls.run("/base", || -> Result<(), _> { std::panic::resume_unwind(Box::new("broken")) });
        assert!(broken.await.is_err());
        assert!(calls.running.lock().is_empty());
    }
}
