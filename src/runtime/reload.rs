//! Content that changes while it is used: the last good version stays until a better one is there.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::metrics::ServerMetrics;
use super::readiness::Part;

/// Why content could not be loaded. Its text is shown to the operator.
pub type LoadError = Box<dyn Error + Send + Sync>;

/// Content that can be read again.
pub trait Source: Send + Sync + 'static {
    /// What reading it gives.
    type Loaded: Send + 'static;

    /// A number that differs when the content differs.
    ///
    /// # Errors
    /// When the content cannot be looked at.
    fn fingerprint(&self) -> Result<u64, LoadError>;

    /// Reads the content.
    ///
    /// # Errors
    /// When it is missing or broken.
    fn load(&self) -> Result<Self::Loaded, LoadError>;
}

/// What was tried last, so that each content is tried, and each failure told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tried {
    Content { fingerprint: u64, failure: Option<String> },
    Unseen { failure: String },
}

impl Tried {
    const fn failure(&self) -> Option<&String> {
        match self {
            Self::Content { failure, .. } => failure.as_ref(),
            Self::Unseen { failure } => Some(failure),
        }
    }
}

/// A source that was read once and is now looked at again and again.
pub struct Follower<S: Source> {
    what: &'static str,
    source: Arc<S>,
    tried: Tried,
}

impl<S: Source> Follower<S> {
    /// Reads a source for the first time. `what` names it in logs, metrics and the readiness report.
    ///
    /// # Errors
    /// When it cannot be read: there is no last good version yet.
    pub fn start(what: &'static str, source: S) -> Result<(Self, S::Loaded), LoadError> {
        // The fingerprint first: content that changes in between is then read once more, not missed.
        let fingerprint = source.fingerprint()?;
        let loaded = source.load()?;
        let tried = Tried::Content { fingerprint, failure: None };
        Ok((Self { what, source: Arc::new(source), tried }, loaded))
    }

    /// Looks at the source until `stop`, and hands every good version to `put`. `part` tells whether the version in use
    /// is the newest.
    pub async fn follow(
        mut self,
        every: Duration,
        part: Part,
        metrics: Arc<ServerMetrics>,
        stop: CancellationToken,
        put: impl Fn(S::Loaded),
    ) {
        part.ready();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let (source, tried) = (Arc::clone(&self.source), self.tried.clone());
            let Ok((next, loaded)) = tokio::task::spawn_blocking(move || look(&*source, tried)).await else {
                tracing::error!(what = self.what, "reading panicked; the last good version stays in use");
                continue;
            };
            if let Some(loaded) = loaded {
                put(loaded);
                part.ready();
                metrics.reloaded(self.what, true);
                tracing::info!(what = self.what, "reloaded");
            } else if next != self.tried
                && let Some(failure) = next.failure()
            {
                part.ready_but(format!("the last reload failed, an older version is in use: {failure}"));
                metrics.reloaded(self.what, false);
                tracing::warn!(what = self.what, error = %failure, "not reloaded; the last good version stays in use");
            }
            self.tried = next;
        }
    }
}

fn look<S: Source>(source: &S, tried: Tried) -> (Tried, Option<S::Loaded>) {
    let fingerprint = match source.fingerprint() {
        Ok(fingerprint) => fingerprint,
        Err(error) => return (Tried::Unseen { failure: error.to_string() }, None),
    };
    if matches!(tried, Tried::Content { fingerprint: last, .. } if last == fingerprint) {
        return (tried, None);
    }
    match source.load() {
        Ok(loaded) => (Tried::Content { fingerprint, failure: None }, Some(loaded)),
        Err(error) => (Tried::Content { fingerprint, failure: Some(error.to_string()) }, None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::runtime::readiness::Readiness;

    /// A number in a cell: negative is broken, zero cannot be looked at.
    struct Cell(Arc<Mutex<i64>>);

    impl Source for Cell {
        type Loaded = i64;

        fn fingerprint(&self) -> Result<u64, LoadError> {
            match *self.0.lock().unwrap() {
                0 => Err("cannot look".into()),
                content => Ok(content.unsigned_abs()),
            }
        }

        fn load(&self) -> Result<i64, LoadError> {
            match *self.0.lock().unwrap() {
                content if content > 0 => Ok(content),
                content => Err(format!("{content} is broken").into()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_version_stays_until_a_better_one_is_there() {
        let cell = Arc::new(Mutex::new(1));
        let (follower, first) = Follower::start("number", Cell(Arc::clone(&cell))).unwrap();
        assert_eq!(first, 1);
        let current = Arc::new(Mutex::new(first));
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let metrics = Arc::new(ServerMetrics::default());
        let put = {
            let current = Arc::clone(&current);
            move |loaded| *current.lock().unwrap() = loaded
        };
        let second = Duration::from_secs(1);
        let part = readiness.part("number");
        let task = tokio::spawn(follower.follow(second, part, Arc::clone(&metrics), stop.clone(), put));
        let reloads = |ok| metrics.reload_count("number", ok);
        for (content, expected, good, bad) in [
            (1, 1, 0, 0),
            (2, 2, 1, 0),
            (-3, 2, 1, 1),
            (-3, 2, 1, 1),
            (0, 2, 1, 2),
            (0, 2, 1, 2),
            (2, 2, 2, 2),
            (4, 4, 3, 2),
        ] {
            *cell.lock().unwrap() = content;
            let wanted = (expected, good, bad);
            // Each second one look; a look is a blocking task, so time is given until it is seen or three looks passed.
            for _ in 0..3 {
                tokio::time::sleep(second).await;
            }
            assert_eq!((*current.lock().unwrap(), reloads(true), reloads(false)), wanted, "content {content}");
            assert!(readiness.report().ready);
            assert_eq!(readiness.report().text.contains("older version"), content <= 0, "content {content}");
        }
        stop.cancel();
        task.await.unwrap();
        assert!(!readiness.report().ready, "nobody follows the source any more");
    }
}
