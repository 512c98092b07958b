//! Looks at every base, and empties its trash. A base whose disk hangs delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::disk::base::Base;
use super::disk::error::DirectoryError;
use super::disk::records::Ages;
use super::disk::trash::StuckEntries;
use super::facts::BaseLook;
use super::state::{Agent, DiskTask};
use crate::kubernetes::api::ApiError;
use crate::kubernetes::controller::{Reconciler, Turn};

/// How often a disk is looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// How often it is written down for how long orphans were seen. So much is lost at most when the agent is killed.
const KEEP_AGES: Duration = Duration::from_secs(600);
/// The trash is looked at this often even if nobody said that there is something in it.
const TRASH: Duration = Duration::from_secs(60);
/// The same after a disk that did not let itself be read.
const TRASH_AGAIN: Duration = Duration::from_secs(10);
/// One round of emptying.
const ROUND: Duration = Duration::from_millis(100);

/// What is done about bases.
pub(super) struct Bases {
    pub agent: Arc<Agent>,
    /// What is kept between two looks, by base; of those alone that are known.
    kept: Mutex<BTreeMap<String, Between>>,
}

struct Between {
    ages_kept: Instant,
    stuck: StuckEntries,
}

impl Bases {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, kept: Mutex::default() }
    }
}

impl Reconciler for Bases {
    type Key = DiskTask;
    type Error = ApiError;

    async fn reconcile(&self, key: &DiskTask, _: Turn) -> Result<Option<Duration>, ApiError> {
        let (DiskTask::Look(path) | DiskTask::Sweep(path)) = key;
        match self.is_known(path) {
            None => return Ok(Some(LOOK)),
            Some(false) => return Ok(None),
            Some(true) => {}
        }
        Ok(Some(match key {
            DiskTask::Look(path) => self.look(path).await,
            DiskTask::Sweep(path) => self.sweep(path).await,
        }))
    }

    fn enqueue_all(&self) {
        self.agent.look_everywhere();
    }

    /// There are as many as there are bases.
    fn group(&self, key: &DiskTask) -> Option<Arc<str>> {
        let (DiskTask::Look(path) | DiskTask::Sweep(path)) = key;
        Some(path.as_str().into())
    }
}

impl Bases {
    /// Whether there is still something to do with a base; one without is forgotten. `None` while that is not known.
    fn is_known(&self, path: &str) -> Option<bool> {
        // Locked before the question: whoever hears of a volume there sees from this whether the base is looked at, and one
        // that comes in between would never be.
        let mut looks = self.agent.looks();
        let known = self.agent.known_bases()?.contains(path);
        if !known {
            looks.remove(path);
            drop(looks);
            self.kept.lock().remove(path);
        }
        Some(known)
    }

    async fn look(&self, path: &str) -> Duration {
        let agent = &self.agent;
        let node_uid = agent.node_uid();
        let offered = agent.caches.offered(&agent.options.node_name).unwrap_or_default().remove(path);
        let (claims, _) = agent.claims();
        let (looking, base, wanted) = (Arc::clone(agent), path.to_owned(), offered.clone());
        let seen = agent.calls.run(path, move || {
            Ok(BaseLook::of(&looking.options.bases, &base, wanted.as_ref(), &looking.cluster, &claims))
        });
        let look = match seen.await {
            Ok(look) => look,
            Err(error) => {
                let before = agent.looks().get(path).cloned();
                let reported = agent.reported().get(path).cloned();
                BaseLook::unanswered(before, reported, path, offered.is_some(), &error)
            }
        };
        // What is not seen now, since a disk is away, may come back.
        let kept = look.kept.clone().or_else(|| agent.looks().get(path).and_then(|before| before.kept.clone()));
        let look = BaseLook { kept, ..look };
        let id = look.mark.as_ref().filter(|_| !look.hangs).map(|(id, _)| id.clone());
        agent.looks().insert(path.to_owned(), BaseLook { node_uid, ..look });
        agent.report_soon();
        if let Some(id) = id
            && self.ages_are_due(path)
        {
            self.keep_ages(path, id).await;
        }
        LOOK
    }

    fn ages_are_due(&self, path: &str) -> bool {
        let mut kept = self.kept.lock();
        let between = kept.entry(path.to_owned()).or_insert_with(Between::new);
        let due = between.ages_kept.elapsed() >= KEEP_AGES;
        if due {
            between.ages_kept = Instant::now();
        }
        due
    }

    /// Writes down for how long orphans were seen.
    async fn keep_ages(&self, path: &str, id: String) {
        let agent = &self.agent;
        let ages = agent.orphans().ages(path, agent.now());
        if ages == Ages::default() {
            return;
        }
        let (bases, opened) = (agent.options.bases.clone(), path.to_owned());
        let written = agent.calls.run(path, move || {
            let base = Base::open_existing(&bases, &opened, false)?;
            if base.known_id()? == Some(id) { base.keep_ages(&ages) } else { Ok(()) }
        });
        if let Err(error) = written.await {
            tracing::warn!(path, %error, "the ages of orphans are not written down, and are counted anew after a restart");
        }
    }

    /// Empties the trash, no faster than allowed.
    async fn sweep(&self, path: &str) -> Duration {
        // Ten rounds a second. The first step of a round finds out that a directory is not empty; one must be left for
        // what is in it, or nothing would ever be removed.
        let budget = (self.agent.options.unlinks_per_second / 10).max(2);
        let mut stuck = self.kept.lock().get_mut(path).map(|it| std::mem::take(&mut it.stuck)).unwrap_or_default();
        let (sweeping, opened) = (Arc::clone(&self.agent), path.to_owned());
        let swept = self.agent.calls.run(path, move || {
            // Without its mount there is nothing to be emptied, and nothing is made.
            let base = Base::open_existing(&sweeping.options.bases, &opened, false)?;
            base.forget_gone(&sweeping.cluster, &sweeping.caches.volume_uids())?;
            Ok((base.sweep(budget, &mut stuck)?, stuck))
        });
        match swept.await {
            Ok((swept, stuck)) => {
                let due = stuck.due_in(Instant::now()).map_or(TRASH, |due| due.clamp(ROUND, TRASH));
                self.kept.lock().entry(path.to_owned()).or_insert_with(Between::new).stuck = stuck;
                if let Some(stuck) = &swept.stuck {
                    tracing::warn!(stuck, "something in the trash cannot be removed");
                }
                if swept.left > 0 { ROUND } else { due }
            }
            Err(error @ (DirectoryError::Hung { .. } | DirectoryError::OthersHang { .. })) => {
                tracing::debug!(path, %error, "a trash cannot be emptied now");
                LOOK
            }
            Err(error) => {
                tracing::debug!(path, %error, "a trash cannot be emptied now");
                TRASH_AGAIN
            }
        }
    }
}

impl Between {
    fn new() -> Self {
        Self { ages_kept: Instant::now(), stuck: StuckEntries::default() }
    }
}
